"""The right to act: one coordinator holds it, the others stand by.

The lease is renewed three times in its life.  Whoever could not renew it for most of
that time no longer acts, and should it act all the same (its process was frozen between
the look at the clock and the act), the script of the act compares the token.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import Final

from synaptoroute.errors import SynaptoRouteError
from synaptoroute.sequencer.lease import Held, Taken
from synaptoroute.sequencer.log import RedisLog

LEASE_NAME: Final = "coordinator"
LEASE_MS: Final = 4_000
RENEW_SECONDS: Final = 1.0
SAFE_SHARE: Final = 0.75
OWNER_CHARACTERS_MAX: Final = 100


class Tenure:
    """One coordinator's hold of the lease.  Used on one event loop.

    Attributes:
        owner: Who we are: address and a mark of this process.
        holder: Who holds the lease, as last heard; empty for nobody.
        taken_count: How often this process became the holder.
    """

    def __init__(self, log: RedisLog, address: str) -> None:
        self.owner = f"{address[:OWNER_CHARACTERS_MAX]}#{uuid.uuid4().hex[:8]}"
        self.holder = ""
        self.taken_count = 0
        self._lease = log.lease(LEASE_NAME, self.owner, lease_ms=LEASE_MS)
        self._held: Held | None = None
        self._renewed_at = 0.0

    @property
    def held(self) -> Held | None:
        """The lease, if it is surely ours for a moment yet."""
        age_seconds = time.monotonic() - self._renewed_at
        return self._held if age_seconds < LEASE_MS / 1_000 * SAFE_SHARE else None

    @property
    def is_active(self) -> bool:
        """Whether this coordinator may act."""
        return self.held is not None

    async def run(self) -> None:
        """Take the lease when it is free and keep it, until cancelled."""
        while True:
            with contextlib.suppress(SynaptoRouteError):
                await self.keep()
            await asyncio.sleep(RENEW_SECONDS)

    async def keep(self) -> None:
        """Renew the lease, or take it where nobody holds it.

        Raises:
            SequencerUnavailable: No answer; what is held runs out by itself.
        """
        asked_at = time.monotonic()
        answer: Held | Taken | None = None
        if self._held is not None:
            answer = await self._lease.renew(self._held)
        if not isinstance(answer, Held):
            self._held = None
            answer = await self._lease.acquire()
            self.taken_count += isinstance(answer, Held)
        if isinstance(answer, Held):
            # The time of the question, not of the answer: the lease runs from before it.
            self._held, self._renewed_at, self.holder = answer, asked_at, self.owner
        else:
            self.holder = answer.owner

    async def release(self) -> None:
        """Give the lease back, so that a standby need not wait."""
        held, self._held = self._held, None
        if held is not None:
            with contextlib.suppress(SynaptoRouteError):
                await self._lease.release(held)
