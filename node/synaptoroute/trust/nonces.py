"""Single-use numbers that a server gives out, so that a request is valid once and here only.

A nonce carries its time and a code with a key of this process.  So giving one out stores
nothing, and clients without a key cannot fill a memory.  Only nonces that came back in a valid
request are remembered, until they expire.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from typing import Final

NONCE_SECONDS: Final = 60.0
USED_MAX: Final = 65_536
_MAC_CHARACTERS: Final = 32


class NoncesExhausted(Exception):
    """More requests than are remembered came within the time of a nonce."""


class Nonces:
    """The nonces of one process.  Used on one thread."""

    def __init__(
        self, *, used_max: int = USED_MAX, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._key = secrets.token_bytes(32)
        self._clock = clock
        self._used: set[str] = set()
        self._order: deque[tuple[float, str]] = deque()  # When each used nonce expires
        self._used_max = used_max

    def issue(self) -> str:
        text = f"{int(self._clock() * 1_000)}.{secrets.token_hex(16)}"
        return f"{text}.{self._mac(text)}"

    def is_valid(self, nonce: str) -> bool:
        """Whether a nonce was given out here, has not expired, and was not used."""
        text, _, mac = nonce.rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(text).encode()):
            return False
        # The code is right, so the text is one of ``issue``.
        age_seconds = self._clock() - int(text.partition(".")[0]) / 1_000
        return age_seconds <= NONCE_SECONDS and nonce not in self._used

    def use(self, nonce: str) -> bool:
        """Use a nonce up; False if it is not valid.

        Raises:
            NoncesExhausted: Too many are remembered.  None is forgotten before it expires.
        """
        now = self._clock()
        while self._order and self._order[0][0] < now:
            self._used.discard(self._order.popleft()[1])
        if not self.is_valid(nonce):
            return False
        if len(self._used) >= self._used_max:
            raise NoncesExhausted
        self._used.add(nonce)
        self._order.append((now + NONCE_SECONDS, nonce))
        return True

    def _mac(self, text: str) -> str:
        return hmac.digest(self._key, text.encode("utf-8", "replace"), sha256).hex()[
            :_MAC_CHARACTERS
        ]
