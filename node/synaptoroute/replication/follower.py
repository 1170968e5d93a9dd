"""The follower: joins the log to the engine.

The bus is the doorbell, the log is the truth.  What the bus brings goes straight to
the replica, which knows what is missing; what is missing is read from the log, then
from a peer's op log, then from a peer's snapshot.  Nothing here is needed to answer
a query.

Runs on the event loop; the engine's threads call back through it.  Its parts:
``pulse`` speaks and hears, ``opening`` judges the log, ``catch_up`` fetches what is
missing, ``waits`` is for readers and writers that wait.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from synaptoroute.config import ClusterConfig
from synaptoroute.core.mutation import Entry, Position, Revision
from synaptoroute.core.replica import Ignored, Source, State
from synaptoroute.errors import EncoderMismatch, SynaptoRouteError
from synaptoroute.ports import EnginePort, IncomingEntry, ReceivedEntry
from synaptoroute.replication.barriers import Waits
from synaptoroute.replication.catch_up import CatchUp
from synaptoroute.replication.heartbeat import Pulse
from synaptoroute.replication.log_bootstrap import Opening
from synaptoroute.replication.maintenance import Duties
from synaptoroute.replication.progress import Progress
from synaptoroute.replication.recovery import Recovery
from synaptoroute.replication.snapshots import PeerSecret, membership_of, prepare
from synaptoroute.replication.status import EXPLANATIONS, FollowerCounts, FollowerStatus, LogState
from synaptoroute.sequencer import RedisLog
from synaptoroute.sequencer.append_errors import Reason, unavailable
from synaptoroute.sequencer.client import end_task
from synaptoroute.sequencer.pubsub import Missed, Reconnecting, Subscribed
from synaptoroute.sequencer.pubsub import Received as BusReceived
from synaptoroute.sequencer.scripts import Head
from synaptoroute.sequencer.wire import Announced, Keepalive, Message

BEHIND_SECONDS: Final = 0.2
"""How long a head may be ahead before the log is read: the bus usually brings it."""
RETRY_SECONDS: Final = 0.5
BACKLOG_ENTRIES_MAX: Final = 8_192
_UNHEARD: Final = frozenset(
    {LogState.UNKNOWN, LogState.MISMATCH, LogState.FOREIGN, LogState.LOST, LogState.REGRESSED}
)
"""States in which what the bus brings is not, or may not be, this node's log."""

_log = logging.getLogger(__name__)


class Follower:
    """One node's place in a cluster.

    Invariants: only heard entries reach the engine; entries are handed over in the
    order in which they were read; ``is_caught_up`` never goes back to false; nothing
    is applied before a first head was judged.
    """

    def __init__(self, engine: EnginePort, log: RedisLog, config: ClusterConfig) -> None:
        self.engine = engine
        self.log = log
        self.config = config
        self.counts = FollowerCounts()
        self.log_state = LogState.UNKNOWN
        self.detail = EXPLANATIONS[LogState.UNKNOWN]
        self.head: Head | None = None
        self.is_caught_up = False
        self._secret = PeerSecret(self)
        self.membership = membership_of(self, self._secret)
        self.catch_up = CatchUp(self)
        self.opening = Opening(self)
        self.recovery = Recovery(self)
        self.pulse = Pulse(self)
        self.duties = Duties(self)
        self._waits = Waits(self)
        self._bus = log.bus()
        self._beats = log.keepalive(engine.node_id)
        self._is_bus_live = False
        self._wake = asyncio.Event()
        self._fresh_at = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()

    # --- life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to follow; returns soon, ``is_caught_up`` says when it has arrived.

        Raises:
            ConfigError: The file with the peers' secret cannot be used.
        """
        await asyncio.to_thread(prepare, self, self._secret)
        engine = self.engine
        engine.subscribe(self)
        self.log.attach(
            position=lambda: engine.published.position,
            fingerprint=lambda: engine.encoder.fingerprint,
            voters=lambda: engine.replica_status.voters,
            epoch_id=lambda: engine.replica_status.epoch_id,
        )
        self._bus.start()
        for name, run in (
            ("bus", self._follow_bus),
            ("heartbeat", self.pulse.run),
            ("catch-up", self._catch_up_when_woken),
            ("positions", self.pulse.report_positions),
            ("beats", self._beats.run),
            ("duties", self.duties.run),
        ):
            task = asyncio.create_task(self._last(name, run), name=f"follower-{name}")
            self._tasks.append(task)

    async def _last(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a loop for good: a mistake in it costs one turn, never the whole of it."""
        while True:
            try:
                await run()
                return
            except Exception as error:
                self.counts.faults += 1
                _log.exception("the follower's %s failed and begins again: %s", name, error)
            await asyncio.sleep(RETRY_SECONDS)

    async def stop(self) -> None:
        """Stop following and close every connection."""
        await self._bus.close()
        await asyncio.gather(*map(end_task, self._tasks))
        self._tasks.clear()
        await self.duties.close()
        await self.recovery.close()
        await self.catch_up.close()
        await self.log.close()

    @property
    def node_id(self) -> str:
        """Identity of this node, kept in its database."""
        return self.engine.node_id

    @property
    def position(self) -> Position:
        """What this node has made durable and visible."""
        return self.engine.published.position

    @property
    def clock_lead_ms(self) -> float:
        """How far this node's wall clock is ahead of Redis'."""
        return self.pulse.clock_lead_ms

    # --- what the engine's threads say -----------------------------------------------

    def on_received(self, received: Sequence[ReceivedEntry]) -> None:
        """Note what the replica misses.  Runs on the applier's thread."""
        for audit in self.duties.audits_in(received):
            self._call(self.duties.audit, audit)
        for each in received:
            step = each.step
            if step.diverged is not None:
                self._call(self._note_fork, step.diverged)
            elif step.fetch is not None:
                self._call(self._note_gap, step.ignored)

    def on_failed(self, error: Exception) -> None:
        """Note that entries could not be applied.  Runs on the applier's thread."""
        self._call(self._note_halt, error)

    def on_visible(self, position: Position) -> None:
        """Note a new position.  Runs on the scorer's thread."""
        self._call(self.pulse.moved.set)

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Run a function on the event loop, if it still turns."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return  # the loop was closed while the engine was ending

    def _note_gap(self, ignored: Ignored | None) -> None:
        self.counts.gaps += ignored is Ignored.BUFFERED
        self._wake.set()

    def _note_fork(self, reason: str) -> None:
        self.counts.forks += 1
        self.catch_up.diverged = reason
        _log.error("this node's history is not the log's: %s", reason)
        self._wake.set()

    def distrust(self, reason: str, donors: Sequence[str]) -> None:
        """Take another state than this node's own: that of one of these donors."""
        self.catch_up.trusted = frozenset(donors)
        self._note_fork(reason)

    def _note_halt(self, error: Exception) -> None:
        self.catch_up.halt(str(error))
        self._wake.set()

    # --- the bus -----------------------------------------------------------------------

    async def _follow_bus(self) -> None:
        async for event in self._bus.events():
            match event:
                case Subscribed():
                    self._is_bus_live = True
                    self._wake.set()  # the past is unknown now
                    self.poke()
                case Missed():
                    self._wake.set()
                case Reconnecting():
                    self._is_bus_live = False
                    self.counts.bus_reconnects += 1
                    self.poke()
                case BusReceived(message):
                    self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case Entry():
                self.counts.bus_entries += 1
                if self.log_state is not LogState.OPEN:
                    self.poke()  # somebody writes, so the log is open again
                if self._may_hear():
                    self.engine.deliver([IncomingEntry(message, Source.BUS, 0)])
                else:
                    self._wake.set()
            case Announced():
                self.counts.announced += 1
                self._wake.set()
            case Keepalive(epoch, seq, chain, state=state):
                self._beats.heard()
                if state != "open":
                    self.poke()
                self.compare(Position(epoch, seq, chain))

    def _may_hear(self) -> bool:
        """Whether what the bus brings may be the log's, and can be taken in."""
        if self.log_state in _UNHEARD or (self.log_state is LogState.AWAY and self.head is None):
            return False
        return self.engine.backlog_entries < BACKLOG_ENTRIES_MAX

    def compare(self, head: Position) -> None:
        """Compare a head that somebody read with what is visible here."""
        position, now = self.position, time.monotonic()
        if (position.epoch, position.seq) == (head.epoch, head.seq):
            self._fresh_at = now
        elif (position.epoch, position.seq) < (head.epoch, head.seq):
            self._loop.call_later(BEHIND_SECONDS, self._check_behind, head, now)

    def _check_behind(self, head: Position, seen_at: float) -> None:
        """Read the log if the bus has not brought what a head showed."""
        position = self.position
        if (position.epoch, position.seq) < (head.epoch, head.seq):
            self.counts.tail_losses += 1
            self._wake.set()
        else:
            self._fresh_at = max(self._fresh_at, seen_at)

    # --- how the log stands ----------------------------------------------------------------

    def accept_head(self, head: Head) -> None:
        """Take note of a head that may be followed."""
        self.head = head
        self.pulse.note_followed()
        self.set_state(LogState.OPEN)
        if not self.is_caught_up:
            self._wake.set()
        self.compare(head.position)

    def set_state(self, state: LogState, detail: str = "") -> None:
        """Say how the log stands."""
        before, self.log_state = self.log_state, state
        self.detail = detail or EXPLANATIONS[state]
        if state is before:
            return
        if state in (LogState.OPEN, LogState.FOUNDING):
            _log.info("the log is %s", state.value)
        else:
            _log.warning("the log is %s: %s", state.value, self.detail)
        self._wake.set()

    def check_may_write(self) -> None:
        """Refuse a write that could only be misplaced, with the reason.

        Raises:
            EncoderMismatch: The log carries vectors of another encoder.
            SequencerUnavailable: The log is another cluster's.
        """
        if self.log_state is LogState.MISMATCH:
            raise EncoderMismatch(self.detail)
        if self.log_state is LogState.FOREIGN:
            raise unavailable(Reason.LOST, self.detail, outcome="not_taken")

    @property
    def role(self) -> str:
        """``voter`` or ``observer``."""
        voters = self.head.voters if self.head else ()
        return "voter" if self.node_id in voters else "observer"

    @property
    def lag_entries(self) -> int:
        """How far this node is behind the newest head that it knows."""
        return max(0, self.head.seq - self.position.seq) if self.head else 0

    # --- catching up -----------------------------------------------------------------------

    async def _catch_up_when_woken(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self.log_state is LogState.UNKNOWN:
                continue  # the first heartbeat judges the log and wakes this again
            try:
                progress = await self.catch_up.run()
            except SynaptoRouteError as error:
                self.catch_up.last_error = str(error)
                progress = Progress.BLOCKED
            if progress is Progress.AT_HEAD:
                await asyncio.wrap_future(self.engine.read(_look))  # durable is not yet visible
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
        self.pulse.poke()

    # --- readers and writers that wait -----------------------------------------------------

    async def wait_version(self, version: Revision, timeout_seconds: float) -> None:
        """Wait until a version is visible here; see ``Waits.version``."""
        await self._waits.version(version, timeout_seconds)

    async def wait_head(self, timeout_seconds: float) -> None:
        """Wait until everything is visible that the log holds now; see ``Waits.head``."""
        await self._waits.head(timeout_seconds)

    async def wait_acked(self, at: Revision, *, is_all: bool, timeout_seconds: float) -> bool:
        """Wait until a quorum of the voters, or every live node, holds an entry."""
        return await self._waits.acked(at, is_all=is_all, timeout_seconds=timeout_seconds)

    # --- looking -----------------------------------------------------------------------------

    @property
    def staleness_ms(self) -> int:
        """How long ago this node last knew that it was not behind."""
        return int((time.monotonic() - self._fresh_at) * 1_000)

    @property
    def is_alone(self) -> bool:
        """Whether this node serves what it holds because there is no log to follow."""
        return self.pulse.is_alone

    def reasons(self) -> tuple[str, ...]:
        """Say why this node may not take queries."""
        state = self.engine.replica_status.state
        if self.opening.mismatch:
            return (self.opening.mismatch,)
        if state in (State.DIVERGED, State.INSTALLING):
            return (f"the replica is {state.value}",)
        if self.catch_up.is_too_stale:
            return ("a peer is ahead, and the log cannot be reached",)
        if self.catch_up.is_halted_too_long:
            return (self.catch_up.trouble,)
        if not (self.is_caught_up or self.is_alone):
            return (f"not caught up with the log yet: {self.detail or self.log_state.value}",)
        return ()

    def status(self) -> FollowerStatus:
        """Show how this node follows; never blocks."""
        head = self.head
        return FollowerStatus(
            log_state=self.log_state,
            replica_state=self.engine.replica_status.state.value,
            detail=self.catch_up.trouble or self.detail,
            is_caught_up=self.is_caught_up,
            is_alone=self.is_alone,
            head=str(head.position.revision) if head else "",
            lag_entries=self.lag_entries,
            staleness_ms=self.staleness_ms,
            role=self.role,
            is_bus_live=self._is_bus_live,
            orphans_count=self.duties.orphans_count,
            counts=self.counts,
        )


def _look(tensor: object) -> None:
    """Do nothing with the tensor: it is at home when everything before is visible."""
