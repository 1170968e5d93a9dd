"""The leader lease: one coordinator holds it and acts, the others stand by.

The lease is renewed three times in its life.  A holder that could not renew it for most
of that time stops acting.  A process that is frozen between this check and its action is
fenced: the Redis script of the action compares the token of the lease.
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


class LeaderLease:
    """One coordinator's side of the lease.  Used on one event loop."""

    def __init__(self, log: RedisLog, address: str) -> None:
        self.owner = f"{address[:OWNER_CHARACTERS_MAX]}#{uuid.uuid4().hex[:8]}"
        self.holder = ""  # as last heard; empty if nobody holds it
        self.acquired_count = 0
        self._lease = log.lease(LEASE_NAME, self.owner, lease_ms=LEASE_MS)
        self._held: Held | None = None
        self._renewed_at = 0.0

    @property
    def held(self) -> Held | None:
        """The lease, if it is certain to be ours for a while."""
        age_seconds = time.monotonic() - self._renewed_at
        return self._held if age_seconds < LEASE_MS / 1_000 * SAFE_SHARE else None

    @property
    def is_active(self) -> bool:
        return self.held is not None

    async def run(self) -> None:
        while True:
            with contextlib.suppress(SynaptoRouteError):
                await self.renew()
            await asyncio.sleep(RENEW_SECONDS)

    async def renew(self) -> None:
        """Renew the lease, or acquire it if nobody holds it.

        Raises:
            SequencerUnavailable: Redis does not answer; a held lease expires by itself.
        """
        asked_at = time.monotonic()
        answer: Held | Taken | None = None
        if self._held is not None:
            answer = await self._lease.renew(self._held)
        if not isinstance(answer, Held):
            self._held = None
            answer = await self._lease.acquire()
            self.acquired_count += isinstance(answer, Held)
        if isinstance(answer, Held):
            # Redis starts the lease before the answer arrives, so it is counted from the
            # time of the request; from the answer on, it would seem to last too long.
            self._held, self._renewed_at, self.holder = answer, asked_at, self.owner
        else:
            self.holder = answer.owner

    async def release(self) -> None:
        """Release the lease, so that a standby need not wait for its expiry."""
        held, self._held = self._held, None
        if held is not None:
            with contextlib.suppress(SynaptoRouteError):
                await self._lease.release(held)
