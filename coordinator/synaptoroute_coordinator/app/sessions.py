"""Sessions of the dashboard: a key is shown once, a cookie stands for it afterwards.

The cookie is random, kept in memory alone and gone with the process.  Whoever guesses
keys is slowed down by address.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Final

from synaptoroute.web.keys import ApiKey

COOKIE: Final = "sr_session"
SESSIONS_MAX: Final = 10_000
TRIES_MAX: Final = 10
TRIES_SECONDS: Final = 60.0
ADDRESSES_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Session:
    """One session.

    Attributes:
        key: The key that opened it.
        ends_at: End, on the monotonic clock.
    """

    key: ApiKey
    ends_at: float


class Sessions:
    """The sessions of one process.  Used on one event loop."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._sessions: dict[str, Session] = {}
        self._tries: dict[str, tuple[int, float]] = {}

    def open(self, key: ApiKey) -> str:
        """Begin a session; give the value of its cookie."""
        now = time.monotonic()
        if len(self._sessions) >= SESSIONS_MAX:
            self._sessions = {c: s for c, s in self._sessions.items() if s.ends_at > now}
        while len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        cookie = secrets.token_urlsafe(32)
        self._sessions[cookie] = Session(key, now + self.seconds)
        return cookie

    def find(self, cookie: str) -> ApiKey | None:
        """Give the key of a session that has not ended."""
        session = self._sessions.get(cookie)
        if session is None:
            return None
        if session.ends_at <= time.monotonic():
            del self._sessions[cookie]
            return None
        return session.key

    def close(self, cookie: str) -> None:
        """End a session."""
        self._sessions.pop(cookie, None)

    def may_try(self, address: str) -> bool:
        """Whether an address may try a key now; counts the try."""
        now = time.monotonic()
        if len(self._tries) >= ADDRESSES_MAX:
            self._tries.clear()
        count, since = self._tries.get(address, (0, now))
        if now - since > TRIES_SECONDS:
            count, since = 0, now
        self._tries[address] = (count + 1, since)
        return count < TRIES_MAX

    def forgive(self, address: str) -> None:
        """Forget the tries of an address that had a right key."""
        self._tries.pop(address, None)


def cookie_of(header: bytes) -> str:
    """Find the session's cookie in a Cookie header; empty if it is not there."""
    for part in header.decode("latin-1").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value[:128]
    return ""
