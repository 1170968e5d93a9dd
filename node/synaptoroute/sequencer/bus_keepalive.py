"""Somebody always beats, so that silence on the bus means a broken bus.

One node holds the lease and beats every second.  Where nothing has been heard for
one beat and a random rest, any node that reaches Redis beats in its place; the first
one silences the others.  That happens before the bus gives up at its own deadline,
so the end of one node makes no other reconnect.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from synaptoroute.errors import ClusterError, ProtocolError, SequencerUnavailable
from synaptoroute.sequencer.append_errors import Reason
from synaptoroute.sequencer.client import Link
from synaptoroute.sequencer.scripts import NoLog, Script, Scripts
from synaptoroute.sequencer.wire import beat_record

BEAT_SECONDS: Final = 1.0
TAKEOVER_MIN_SECONDS: Final = 1.6
TAKEOVER_MAX_SECONDS: Final = 2.6
LEASE_MS: Final = 3_000
LEASE_NAME: Final = "beat"


class Beaten(Enum):
    """What a try to beat came to."""

    OWN = "own"
    """Beaten as the holder of the lease."""
    FOREIGN = "foreign"
    """Beaten in the place of a holder that is silent."""
    HELD = "held"
    """Not beaten: another node holds the lease."""
    LOST = "lost"
    """Not beaten: there is no log."""


_ANSWERS: Final = {
    b"BEAT": Beaten.OWN,
    b"FOREIGN": Beaten.FOREIGN,
    b"HELD": Beaten.HELD,
    b"LOST": Beaten.LOST,
}


@dataclass
class Beats:
    """One node's part in the beating.  Used on one event loop.

    Attributes:
        scripts: Scripts of the namespace.
        link: For the beat of a server that refuses to run writing scripts.
        source: Who beats; unique to the process.
        sent: Beats that this node published.
    """

    scripts: Scripts
    link: Link
    source: str
    sent: int = 0
    _heard: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def heard(self) -> None:
        """Say that a beat arrived on the bus."""
        self._heard.set()

    async def run(self) -> None:
        """Beat when it is this node's turn, until cancelled; raises nothing."""
        is_holder, is_takeover, wait_seconds = False, False, random.uniform(0.0, BEAT_SECONDS)
        while True:
            self._heard.clear()
            if is_holder:
                await asyncio.sleep(wait_seconds)
            elif await self._was_heard(wait_seconds):
                wait_seconds = random.uniform(TAKEOVER_MIN_SECONDS, TAKEOVER_MAX_SECONDS)
                continue
            try:
                beaten = await self.beat(is_takeover=is_takeover)
                is_holder = beaten is Beaten.OWN
            except (ClusterError, ProtocolError):
                is_holder = False
            is_takeover = not is_holder
            wait_seconds = (
                BEAT_SECONDS
                if is_holder
                else random.uniform(TAKEOVER_MIN_SECONDS, TAKEOVER_MAX_SECONDS)
            )

    async def _was_heard(self, seconds: float) -> bool:
        """Wait for another's beat."""
        try:
            async with asyncio.timeout(seconds):
                await self._heard.wait()
        except TimeoutError:
            return False
        return True

    async def beat(self, *, is_takeover: bool = False) -> Beaten:
        """Publish the head of the log.

        Args:
            is_takeover: Beat although another node holds the lease, because it is silent.

        Raises:
            SequencerUnavailable: No answer, or this server is a replica.
        """
        keys = self.scripts.keys
        names = [keys.meta, keys.lease(LEASE_NAME), keys.fence]
        args = [keys.bus, self.source, LEASE_MS, int(is_takeover)]
        try:
            answer = await self.scripts.run(Script.BEAT, names, args)
        except SequencerUnavailable as error:
            if error.fields.get("reason") is not Reason.REFUSED or not is_takeover:
                raise
            return await self._beat_without_lease(error)
        beaten = _ANSWERS.get(answer)
        if beaten is None:
            raise ProtocolError(f"an unknown outcome {answer!r}")
        self.sent += beaten in (Beaten.OWN, Beaten.FOREIGN)
        return beaten

    async def _beat_without_lease(self, refused: SequencerUnavailable) -> Beaten:
        """Beat on a master that takes no writes now: its replicas or its disk are away."""
        head = await self.scripts.head()
        if isinstance(head, NoLog):
            return Beaten.LOST
        if head.role == "slave":
            raise refused
        record = beat_record(
            head.epoch, head.seq, head.chain, head.time_us, head.state, self.source
        )
        await self.link.call("PUBLISH", self.scripts.keys.bus, record)
        self.sent += 1
        return Beaten.FOREIGN
