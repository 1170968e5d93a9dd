"""Heartbeats: what a node says of itself every second, and what it hears in return.

A heartbeat brings the head of the log, which finds what no gap can show: that the
last message was lost.  It brings Redis' clock too, the only one by which nodes agree
on an age.  Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Final

from synaptoroute.core.codec import LEVEL
from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.core.replica import State
from synaptoroute.errors import ClusterError, ProtocolError, SynaptoRouteError
from synaptoroute.failpoints import failpoint
from synaptoroute.replication.ballot_store import Standing
from synaptoroute.replication.status import LogState
from synaptoroute.sequencer.presence import HEARTBEAT_JITTER, HEARTBEAT_SECONDS, NodeReport
from synaptoroute.sequencer.scripts import Head, NoLog
from synaptoroute.version import __version__

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower

POKES_SECONDS: Final = 0.05
"""Pokes come in crowds; one heartbeat answers them all."""
RETRY_SECONDS: Final = 0.5
_UNFOLLOWED: Final = frozenset(
    {LogState.AWAY, LogState.LOST, LogState.REGRESSED, LogState.RECOVERING}
)
"""States in which there is no log that could be caught up with."""


class Pulse:
    """One node's heartbeats.

    Attributes:
        moved: Set when a new position is visible.
        is_alone: Whether this node serves what it holds because there is no log to follow.
    """

    def __init__(self, follower: Follower) -> None:
        self.moved = asyncio.Event()
        self.is_alone = False
        self._follower = follower
        self._poke = asyncio.Event()
        self._followed_at = time.monotonic()
        self._clock_offset_ms = time.time() * 1_000 - time.monotonic() * 1_000

    def now_ms(self) -> int:
        """Redis' clock as this node reckons it; its own before Redis has answered."""
        return int(time.monotonic() * 1_000 + self._clock_offset_ms)

    @property
    def clock_lead_ms(self) -> float:
        """How far this node's wall clock is ahead of Redis'."""
        return time.time() * 1_000 - (time.monotonic() * 1_000 + self._clock_offset_ms)

    def poke(self) -> None:
        """Send a heartbeat at once."""
        self._poke.set()

    async def run(self) -> None:
        """Keepalive until cancelled."""
        while True:
            await self.beat()
            jitter = random.uniform(1 - HEARTBEAT_JITTER, 1 + HEARTBEAT_JITTER)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS * jitter):
                    await self._poke.wait()
                    await asyncio.sleep(POKES_SECONDS)
            self._poke.clear()

    async def beat(self) -> None:
        """Say where this node stands and judge the head that comes back."""
        follower = self._follower
        position = follower.position
        sent_at = time.monotonic()
        try:
            head = await follower.log.presence.heartbeat(self._report(position))
            answered_at = time.monotonic()
            self._clock_offset_ms = head.time_us / 1_000 - (sent_at + answered_at) / 2 * 1_000
            await follower.opening.judge(head, position)
        except ClusterError as error:
            follower.set_state(LogState.AWAY, error.message)
        except ProtocolError as error:
            follower.set_state(LogState.DAMAGED, str(error))
        self._judge_loneliness()

    async def report_to(self, ballot: Ballot, standing: Standing) -> Head | NoLog:
        """Answer a ballot that was promised with what this node holds."""
        return await self._follower.log.presence.heartbeat(
            self._report(standing.position), promise=ballot, voters=standing.voters
        )

    def _report(self, position: Position) -> NodeReport:
        follower = self._follower
        engine = follower.engine
        status = engine.status()
        return NodeReport(
            node_id=follower.node_id,
            url=follower.config.advertise_url,
            role=follower.role,
            version=__version__,
            level=LEVEL,
            fingerprint=engine.encoder.fingerprint,
            epoch=position.epoch,
            seq=position.seq,
            chain=position.chain,
            digest=engine.published.digest,
            state=engine.replica_status.state.value,
            queue_count=status.queue_requests,
            lag_entries=follower.lag_entries,
            encoders=",".join(sorted(engine.encoders.known)),
            tables=",".join(status.tables),
        )

    def note_followed(self) -> None:
        """Say that there is a log and that it can be followed."""
        self._followed_at = time.monotonic()
        self.is_alone = False

    def _judge_loneliness(self) -> None:
        """Without a log for long, a state that was verified at the start is good to serve.

        Else an outage of Redis and a rolling restart together would be an outage.
        """
        follower = self._follower
        if follower.log_state not in _UNFOLLOWED or follower.is_caught_up:
            return
        waited_seconds = time.monotonic() - self._followed_at
        if follower.position.seq and waited_seconds >= follower.config.alone_seconds:
            self.is_alone = True

    async def report_positions(self) -> None:
        """Tell a voter's positions at once, so that a quorum need not wait a second."""
        follower = self._follower
        while True:
            await self.moved.wait()
            self.moved.clear()
            is_diverged = follower.engine.replica_status.state is State.DIVERGED
            if follower.role != "voter" or follower.log_state is not LogState.OPEN or is_diverged:
                continue
            try:
                await follower.log.presence.report_position(follower.node_id, follower.position)
                failpoint("position.told")
            except SynaptoRouteError:
                await asyncio.sleep(RETRY_SECONDS)  # the next heartbeat tells it as well
