"""The follower: joins the log to the engine.

The bus is the doorbell, the log is the truth.  What the bus brings goes straight to
the replica, which knows what is missing; what is missing is read from the log, then
from a peer's op log, then from a peer's snapshot.  Every second a heartbeat says
where this node stands and hears the head, which finds what no gap can show: that the
last message was lost.  Nothing here is needed to answer a query.

Runs on the event loop; the engine's threads call back through it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

from synaptoroute.cluster import RedisLog
from synaptoroute.cluster.bus import Missed, Reconnecting, Subscribed
from synaptoroute.cluster.bus import Received as BusReceived
from synaptoroute.cluster.presence import HEARTBEAT_JITTER, HEARTBEAT_SECONDS, NodeReport
from synaptoroute.cluster.scripts import Head, NoLog
from synaptoroute.cluster.wire import Announced, Beat, Message
from synaptoroute.config import ClusterConfig
from synaptoroute.core.codec import LEVEL
from synaptoroute.core.mutation import Entry, Position, Revision
from synaptoroute.core.step import Ignored, Source, State
from synaptoroute.engine import Engine, Heard, Received
from synaptoroute.errors import (
    ClusterError,
    NotCaughtUp,
    ProtocolError,
    SynaptoRouteError,
    VersionLost,
)
from synaptoroute.follower.catch_up import CatchUp, Progress
from synaptoroute.follower.donation import membership_of
from synaptoroute.follower.opening import Opening
from synaptoroute.follower.status import EXPLANATIONS, FollowerCounts, FollowerStatus, LogState
from synaptoroute.version import __version__

BEHIND_SECONDS: Final = 0.2
"""How long a head may be ahead before the log is read: the bus usually brings it."""
RETRY_SECONDS: Final = 0.5
BACKLOG_ENTRIES_MAX: Final = 8_192
ACK_POLL_SECONDS: Final = 0.008
STOP_SECONDS: Final = 2.0


class Follower:
    """One node's place in a cluster.

    Invariants: only heard entries reach the engine; entries are handed over in the
    order in which they were read; ``is_caught_up`` never goes back to false.
    """

    def __init__(self, engine: Engine, log: RedisLog, config: ClusterConfig) -> None:
        self.engine = engine
        self.log = log
        self.config = config
        self.counts = FollowerCounts()
        self.log_state = LogState.UNKNOWN
        self.detail = ""
        self.head: Head | None = None
        self.is_caught_up = False
        self.is_alone = False
        self.membership = membership_of(self)
        self._catch_up = CatchUp(self)
        self._opening = Opening(self)
        self._bus = log.bus()
        self._beats = log.beats(engine.storage.node_id)
        self._is_bus_live = False
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._poke = asyncio.Event()
        self._started_at = time.monotonic()
        self._fresh_at = self._started_at
        self._answered_at = self._started_at
        self._clock_offset_ms = time.time() * 1_000 - time.monotonic() * 1_000
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()

    # --- life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to follow; returns at once, ``is_caught_up`` says when it has arrived."""
        applier = self.engine.applier
        applier.on_received = self._on_received
        applier.on_failed = self._on_failed
        self.engine.watch(self._on_visible)
        self.log.attach(
            position=lambda: self.engine.published.position,
            fingerprint=lambda: self.engine.encoder.fingerprint,
        )
        self._bus.start()
        for name, loop in (
            ("bus", self._follow_bus()),
            ("heartbeat", self._beat_hearts()),
            ("catch-up", self._catch_up_when_woken()),
            ("positions", self._report_positions()),
            ("beats", self._beats.run()),
        ):
            self._tasks.append(asyncio.create_task(loop, name=f"follower-{name}"))

    async def stop(self) -> None:
        """Stop following and close every connection."""
        await self._bus.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._opening.close()
        await self._catch_up.close()
        await self.log.close()

    @property
    def node_id(self) -> str:
        """Identity of this node, kept in its database."""
        return self.engine.storage.node_id

    @property
    def position(self) -> Position:
        """What this node has made durable and visible."""
        return self.engine.published.position

    def now_ms(self) -> int:
        """Redis' clock as this node reckons it; its own before Redis has answered."""
        return int(time.monotonic() * 1_000 + self._clock_offset_ms)

    @property
    def clock_lead_ms(self) -> float:
        """How far this node's wall clock is ahead of Redis'."""
        return time.time() * 1_000 - (time.monotonic() * 1_000 + self._clock_offset_ms)

    # --- what the engine's threads say -----------------------------------------------

    def _on_received(self, received: Sequence[Received]) -> None:
        """Note what the replica misses.  Runs on the applier's thread."""
        for each in received:
            step = each.step
            if step.diverged is not None:
                self._call(self._note_fork, step.diverged)
            elif step.fetch is not None:
                self._call(self._note_gap, step.ignored)

    def _on_failed(self, error: Exception) -> None:
        """Note that entries could not be applied.  Runs on the applier's thread."""
        self._call(self._note_halt, error)

    def _on_visible(self, position: Position) -> None:
        """Note a new position.  Runs on the scorer's thread."""
        del position
        self._call(self._moved.set)

    def _call(self, function: object, *arguments: object) -> None:
        """Run a function on the event loop, if it still turns."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]
        except RuntimeError:
            return  # the loop was closed while the engine was ending

    def _note_gap(self, ignored: Ignored | None) -> None:
        self.counts.gaps += ignored is Ignored.BUFFERED
        self._wake.set()

    def _note_fork(self, reason: str) -> None:
        self.counts.forks += 1
        self._catch_up.diverged = reason
        self._wake.set()

    def _note_halt(self, error: Exception) -> None:
        self.counts.halts += 1
        self._catch_up.halted = str(error)
        self._wake.set()

    # --- the bus -----------------------------------------------------------------------

    async def _follow_bus(self) -> None:
        async for event in self._bus.events():
            match event:
                case Subscribed():
                    self._is_bus_live = True
                    self._wake.set()  # the past is unknown now
                    self._poke.set()
                case Missed():
                    self._wake.set()
                case Reconnecting():
                    self._is_bus_live = False
                    self.counts.bus_reconnects += 1
                    self._poke.set()
                case BusReceived(message):
                    self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case Entry():
                self.counts.bus_entries += 1
                if self.engine.applier.backlog_entries < BACKLOG_ENTRIES_MAX:
                    self.engine.hear([Heard(message, Source.BUS, 0)])
                else:
                    self._wake.set()
            case Announced():
                self.counts.announced += 1
                self._wake.set()
            case Beat(epoch, seq, chain, state=state):
                self._beats.heard()
                if state != "open":
                    self._poke.set()
                self._compare(Position(epoch, seq, chain))

    def _compare(self, head: Position) -> None:
        """Compare a head that somebody read with what is visible here."""
        position = self.position
        if (position.epoch, position.seq) == (head.epoch, head.seq):
            self._fresh_at = time.monotonic()
        elif (position.epoch, position.seq) < (head.epoch, head.seq):
            self._loop.call_later(BEHIND_SECONDS, self._check_behind, head)

    def _check_behind(self, head: Position) -> None:
        """Read the log if the bus has not brought what a head showed."""
        position = self.position
        if (position.epoch, position.seq) < (head.epoch, head.seq):
            self.counts.tail_losses += 1
            self._wake.set()

    # --- heartbeats ----------------------------------------------------------------------

    async def _beat_hearts(self) -> None:
        while True:
            await self.beat_heart()
            jitter = random.uniform(1 - HEARTBEAT_JITTER, 1 + HEARTBEAT_JITTER)
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS * jitter):
                    await self._poke.wait()
                await asyncio.sleep(0.05)  # pokes come in crowds
            except TimeoutError:
                pass
            self._poke.clear()

    async def beat_heart(self) -> None:
        """Say where this node stands and judge the head that comes back."""
        position = self.position
        sent_at = time.monotonic()
        try:
            head = await self.log.presence.heartbeat(self._report(position))
        except ClusterError as error:
            self._judge_silence(error)
            return
        except ProtocolError as error:
            self.set_state(LogState.DAMAGED, str(error))
            return
        self._answered_at = time.monotonic()
        self.is_alone = False
        middle = (sent_at + self._answered_at) / 2
        self._clock_offset_ms = head.time_us / 1_000 - middle * 1_000
        await self._opening.judge(head, position)

    def _report(self, position: Position) -> NodeReport:
        published = self.engine.published
        return NodeReport(
            node_id=self.node_id,
            url=self.config.advertise_url,
            role=self.role,
            version=__version__,
            level=LEVEL,
            fingerprint=self.engine.encoder.fingerprint,
            epoch=position.epoch,
            seq=position.seq,
            chain=position.chain,
            digest=published.digest,
            state=self.engine.applier.replica.state.value,
            queue_count=self.engine.queue_requests,
            lag_entries=self.lag_entries,
        )

    def accept_head(self, head: Head) -> None:
        """Take note of a head that may be followed."""
        self.head = head
        self.set_state(LogState.OPEN)
        if not self.is_caught_up:
            self._wake.set()
        self._compare(head.position)

    def _judge_silence(self, error: ClusterError) -> None:
        """Redis does not answer: writes stop, queries go on."""
        self.set_state(LogState.AWAY, error.message)
        waited = time.monotonic() - self._answered_at
        has_state = self.position.epoch > 0 and self.position.seq > 0
        if not self.is_caught_up and has_state and waited >= self.config.alone_seconds:
            self.is_alone = True

    def set_state(self, state: LogState, detail: str = "") -> None:
        """Say how the log stands."""
        self.log_state = state
        self.detail = detail or EXPLANATIONS[state]

    @property
    def role(self) -> str:
        """``voter`` or ``observer``."""
        voters = self.head.voters if self.head else ()
        return "voter" if self.node_id in voters else "observer"

    @property
    def lag_entries(self) -> int:
        """How far this node is behind the newest head that it knows."""
        return max(0, self.head.seq - self.position.seq) if self.head else 0

    async def _report_positions(self) -> None:
        """Tell the voters' positions at once, so that a quorum need not wait a second."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            if self.role != "voter" or self.log_state is not LogState.OPEN:
                continue
            try:
                await self.log.presence.report_position(self.node_id, self.position)
            except SynaptoRouteError:
                await asyncio.sleep(RETRY_SECONDS)  # the next heartbeat tells it as well

    # --- catching up -----------------------------------------------------------------------

    async def _catch_up_when_woken(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                progress = await self._catch_up.run()
            except SynaptoRouteError as error:
                self._catch_up.last_error = str(error)
                progress = Progress.BLOCKED
            if progress is Progress.AT_HEAD:
                self.is_caught_up = True
                self._fresh_at = time.monotonic()
            else:
                await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.0))
                self._wake.set()

    def wake(self) -> None:
        """Read the log at once."""
        self._wake.set()

    def poke(self) -> None:
        """Send a heartbeat at once."""
        self._poke.set()

    # --- readers and writers that wait -----------------------------------------------------

    async def wait_version(self, version: Revision, timeout_seconds: float) -> None:
        """Wait until a version is visible here.

        Raises:
            NotCaughtUp: It is not, in time.
            VersionLost: It belongs to a write that a later epoch left behind.
        """
        if self._has(version):
            return
        self._wake.set()
        future = self.engine.scorer.versions.expect(version.seq)
        try:
            if not self._has(version):
                await asyncio.wait_for(asyncio.wrap_future(future), timeout_seconds)
        except TimeoutError:
            pass
        finally:
            self.engine.scorer.versions.forget(future)
        if not self._has(version):
            raise NotCaughtUp(
                f"this node is at {self.position.revision}, not yet at {version}",
                retry_after_seconds=1.0,
                version=str(self.position.revision),
            )

    def _has(self, version: Revision) -> bool:
        """Whether a version is visible here."""
        position = self.position
        if version.epoch == position.epoch:
            return version.seq <= position.seq
        if version.epoch > position.epoch:
            return False
        later = [e for e in self.engine.applier.replica.epochs if e.epoch > version.epoch]
        if later and version.seq > later[0].opened.base_seq:
            raise VersionLost(
                f"the write at {version} was left behind when epoch {later[0].epoch} was opened",
                version=str(position.revision),
            )
        return version.seq <= position.seq

    async def wait_head(self, timeout_seconds: float) -> None:
        """Wait until everything is visible that the log holds now.

        Raises:
            SequencerUnavailable: The log does not answer.
            NotCaughtUp: Not in time.
        """
        head = await self.log.head()
        if isinstance(head, NoLog):
            raise NotCaughtUp("there is no log to compare with", retry_after_seconds=2.0)
        await self.wait_version(head.position.revision, timeout_seconds)

    async def wait_acked(self, at: Revision, *, is_all: bool, timeout_seconds: float) -> bool:
        """Wait until a quorum of the voters, or every live node, holds an entry."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                acked = await self.log.presence.acked(at.epoch)
                if not hasattr(acked, "reason") and (
                    acked.is_all(at.seq) and acked.is_quorum(at.seq)
                    if is_all
                    else acked.is_quorum(at.seq)
                ):
                    return True
            except SynaptoRouteError:
                await asyncio.sleep(RETRY_SECONDS)
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(ACK_POLL_SECONDS)

    # --- looking -----------------------------------------------------------------------------

    @property
    def staleness_ms(self) -> int:
        """How long ago this node last knew that it was not behind."""
        return int((time.monotonic() - self._fresh_at) * 1_000)

    def reasons(self) -> tuple[str, ...]:
        """Say why this node may not take queries."""
        state = self.engine.applier.replica.state
        if self.log_state is LogState.MISMATCH:
            return (self.detail,)
        if state in (State.DIVERGED, State.INSTALLING):
            return (f"the replica is {state.value}",)
        if self._catch_up.is_too_stale:
            return ("a peer is ahead, and the log cannot be reached",)
        if not (self.is_caught_up or self.is_alone):
            return (f"not caught up with the log yet: {self.detail or self.log_state.value}",)
        return ()

    def status(self) -> FollowerStatus:
        """Show how this node follows; never blocks."""
        head = self.head
        return FollowerStatus(
            log_state=self.log_state,
            replica_state=self.engine.applier.replica.state.value,
            detail=self._catch_up.trouble or self.detail,
            is_caught_up=self.is_caught_up,
            is_alone=self.is_alone,
            head=str(head.position.revision) if head else "",
            lag_entries=self.lag_entries,
            staleness_ms=self.staleness_ms,
            role=self.role,
            is_bus_live=self._is_bus_live,
            counts=self.counts,
        )
