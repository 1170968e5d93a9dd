"""What the endpoints of one coordinator share: settings, reconciler, keys and sessions.

A session replaces the API key in the dashboard: the key is sent once, and a random cookie
stands for it afterwards.  Sessions are kept in memory and end with the process.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.requests import Request

from synaptoroute.web.api_keys import ApiKey, ApiKeys
from synaptoroute.web.logs import ServerLog
from synaptoroute_coordinator.config import CoordinatorConfig
from synaptoroute_coordinator.reconciler import Reconciler

LOGGER_NAME: Final = "synaptoroute.coordinator"

COOKIE: Final = "sr_session"
COOKIE_CHARACTERS_MAX: Final = 128
SESSIONS_MAX: Final = 10_000
ATTEMPTS_MAX: Final = 10
ATTEMPTS_SECONDS: Final = 60.0
ADDRESSES_MAX: Final = 10_000


class Runtime:
    def __init__(
        self, config: CoordinatorConfig, reconciler: Reconciler, keys: ApiKeys | None
    ) -> None:
        self.config = config
        self.reconciler = reconciler
        self.keys = keys
        self.sessions = Sessions(config.session_seconds)
        self.is_stopping = asyncio.Event()
        self.log: ServerLog = structlog.stdlib.get_logger(LOGGER_NAME)
        self._keys_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await asyncio.to_thread(self.reconciler.audit_log.load)
        self.reconciler.start()
        if self.keys is not None:
            self._keys_task = asyncio.create_task(self.keys.watch(self.log), name="keys")

    async def stop(self) -> None:
        self.is_stopping.set()
        if self._keys_task is not None:
            self._keys_task.cancel()
            await asyncio.gather(self._keys_task, return_exceptions=True)
        await self.reconciler.stop()
        await self.reconciler.client.close()
        await self.reconciler.backups.close()
        await self.reconciler.log.close()


def runtime_of(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


@dataclass(frozen=True, slots=True)
class Session:
    key: ApiKey
    ends_at: float


class Sessions:
    """The sessions of one process.  Used on one event loop."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._sessions: dict[str, Session] = {}
        self._attempts: dict[str, tuple[int, float]] = {}

    def open(self, key: ApiKey) -> str:
        now = time.monotonic()
        if len(self._sessions) >= SESSIONS_MAX:
            self._sessions = {c: s for c, s in self._sessions.items() if s.ends_at > now}
        # Still full: the oldest sessions go, so that nobody can lock others out.
        while len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        cookie = secrets.token_urlsafe(32)
        self._sessions[cookie] = Session(key, now + self.seconds)
        return cookie

    def find(self, cookie: str) -> ApiKey | None:
        session = self._sessions.get(cookie)
        if session is None:
            return None
        if session.ends_at <= time.monotonic():
            del self._sessions[cookie]
            return None
        return session.key

    def close(self, cookie: str) -> None:
        self._sessions.pop(cookie, None)

    def allow_attempt(self, address: str) -> bool:
        """Count an attempt to open a session; return False after too many of them."""
        now = time.monotonic()
        if len(self._attempts) >= ADDRESSES_MAX:
            self._attempts.clear()
        count, since = self._attempts.get(address, (0, now))
        if now - since > ATTEMPTS_SECONDS:
            count, since = 0, now
        self._attempts[address] = (count + 1, since)
        return count < ATTEMPTS_MAX

    def reset_attempts(self, address: str) -> None:
        self._attempts.pop(address, None)


def cookie_of(header: bytes) -> str:
    """Find the session cookie in a Cookie header; empty if it is absent."""
    for part in header.decode("latin-1").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value[:COOKIE_CHARACTERS_MAX]
    return ""
