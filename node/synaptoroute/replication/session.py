"""The shared state of one follower: the engine, the log, and the state of the log.

A part receives the session and the parts below it as constructor arguments.  It never sees the
follower, which only connects the parts.  A part asks for a heartbeat or a catch-up by an event
of the session.  ``Barriers`` wait on behalf of clients: readers for a version, writers until
other nodes hold an entry.

Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar

from synaptoroute.config import ClusterConfig
from synaptoroute.core.mutation import Position, Revision
from synaptoroute.core.replica import SEALED_LEVEL
from synaptoroute.errors import NotCaughtUp, SynaptoRouteError, VersionLost
from synaptoroute.ports import AppliedState, EnginePort
from synaptoroute.replication.held_positions import HeldPositions
from synaptoroute.replication.incarnation import Incarnation
from synaptoroute.replication.readiness import PeersSay, Readiness, ReadinessTracker
from synaptoroute.sequencer.append_errors import NotPlaced
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.node_rows import STRICT_LEVEL
from synaptoroute.sequencer.presence import heartbeat_seconds
from synaptoroute.sequencer.replica_reads import ReplicaCounts
from synaptoroute.sequencer.scripts import Head, NoLog
from synaptoroute.sequencer.votes import holders
from synaptoroute.trust.certificates import Electorate
from synaptoroute.trust.operator import Operator
from synaptoroute.trust.statements import Signer


class LogState(StrEnum):
    UNKNOWN = "unknown"  # Not reached since the start
    OPEN = "open"  # Writes are accepted
    AWAY = "away"  # Redis does not answer; queries continue
    RECOVERING = "recovering"  # Redis restarted; the nodes verify that nothing was lost
    FOUNDING = "founding"  # There is no log yet; the expected nodes are not all there
    FULL = "full"  # The log has no room for a write; shown only, it is followed as ``OPEN``
    FROZEN = "frozen"  # An operator closed the log
    MISMATCH = "mismatch"  # The log carries vectors of another encoder than this node's
    LOST = "lost"  # Redis has no log any more, though this node holds entries of one
    FOREIGN = "foreign"  # Redis holds the log of another cluster than this node's database
    REGRESSED = "regressed"  # Redis has lost entries that this node holds
    DAMAGED = "damaged"  # The log in Redis contradicts itself
    CLONE = "clone"  # Another process that has this node's identity is alive


EXPLANATIONS = {
    LogState.UNKNOWN: "the log has not been reached yet",
    LogState.OPEN: "",
    LogState.AWAY: "Redis does not answer",
    LogState.RECOVERING: "Redis restarted; the nodes verify that nothing was lost",
    LogState.FOUNDING: "there is no log yet; waiting for the expected number of nodes",
    LogState.FULL: "the log is full; writes are refused until a majority of the voters holds more",
    LogState.FROZEN: "an operator closed the log",
    LogState.MISMATCH: "the log carries vectors of another encoder",
    LogState.LOST: "Redis has no log any more, though nodes hold entries of one",
    LogState.FOREIGN: "Redis holds the log of another cluster than this node's database",
    LogState.REGRESSED: "Redis has lost entries that nodes hold",
    LogState.DAMAGED: "the log in Redis contradicts itself",
    LogState.CLONE: "another process that has this node's identity is alive",
}


@dataclass(slots=True)
class FollowerCounts:
    """Totals since the start; only the event loop writes them."""

    bus_entries: int = 0
    announced: int = 0  # Entries announced on the bus, to be read from the log
    gaps: int = 0  # Times an entry arrived before an earlier one
    tail_losses: int = 0  # Times the head showed entries that the bus had not brought
    catch_ups_log: int = 0
    catch_ups_peer: int = 0  # From a peer's op log
    snapshots: int = 0  # Peers' snapshots that were installed
    forks: int = 0  # Times the log contradicted what had been applied
    forgeries: int = 0  # Times the log held an entry that no member wrote
    halts: int = 0  # Times an entry could not be applied
    reopenings: int = 0  # Times this node opened an epoch after a recovery
    bus_reconnects: int = 0
    faults: int = 0  # Times a task failed unexpectedly and was restarted


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    log_state: LogState
    replica_state: str  # See ``core.replica.State``
    detail: str  # For operators; empty if all is well
    is_caught_up: bool  # Whether the node has reached a head that it saw after its start
    is_alone: bool  # Whether it serves its stored state because there is no log to follow
    head: str  # ``epoch.seq`` of the newest known head; empty if there is none
    log_bytes: int  # Bytes that the log keeps
    log_bytes_max: int
    lag_entries: int | None  # None while the node cannot know it
    staleness_ms: int  # Time since the node last knew that it was not behind
    readiness: Readiness
    peers: int  # Peers whose addresses are known
    role: str  # ``voter`` or ``observer``
    is_bus_live: bool
    orphans_count: int  # Writes that recoveries left behind on this node
    counts: FollowerCounts
    trust_mode: str = "trusting-redis"  # See ``RedisLog.trust_mode``
    public_key: str = ""  # The key of this node, 64 hexadecimal digits
    operator_key: str = ""  # The operator's public key; empty if there is none
    boot: str = ""  # Names this run of the process
    identity_conflict: str = ""  # The other process with this identity; empty if there is none
    identity_conflicts: int = 0  # Times one was found
    rows_refused: int = 0  # Rows of nodes that were forged, foreign or replayed
    is_bus_at_replica: bool = False
    replica_counts: ReplicaCounts = field(default_factory=ReplicaCounts)


CLUSTER_ID_KEY: Final = "lineage"  # Key of the cluster's identity in the node's database
FRESH_KEY: Final = "fresh_ms"
"""Key of the wall clock, in milliseconds, at which the node last knew that it was not behind."""
BEHIND_SECONDS: Final = 0.2  # Time for the bus to bring what a head shows, before the log is read

ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)


class RedisClock:
    """Redis' clock, estimated from the heartbeats: the one clock on which nodes agree."""

    def __init__(self) -> None:
        self._offset_ms = time.time() * 1_000 - time.monotonic() * 1_000

    def now_ms(self) -> int:
        """Redis' time; this node's own wall clock until Redis has answered."""
        return int(time.monotonic() * 1_000 + self._offset_ms)

    @property
    def lead_ms(self) -> float:
        """The lead of this node's wall clock over Redis' clock."""
        return time.time() * 1_000 - (time.monotonic() * 1_000 + self._offset_ms)

    def update(self, time_us: int, sent_at: float, answered_at: float) -> None:
        """Note Redis' time in an answer; it was read about halfway through the round trip."""
        self._offset_ms = time_us / 1_000 - (sent_at + answered_at) / 2 * 1_000


class Session:
    """The shared state of one follower."""

    def __init__(
        self,
        engine: EnginePort,
        log: RedisLog,
        config: ClusterConfig,
        signer: Signer,
        incarnation: Incarnation,
    ) -> None:
        self.engine = engine
        self.log = log
        self.config = config
        self.signer = signer
        self.incarnation = incarnation
        self.node_id = engine.node_id
        self.counts = FollowerCounts()
        self.log_state = LogState.UNKNOWN
        self.detail = EXPLANATIONS[LogState.UNKNOWN]  # For operators; empty if all is well
        self.head: Head | None = None  # The newest head that could be followed
        self.is_caught_up = False  # Never becomes false again
        self.readiness = ReadinessTracker(config.staleness_seconds_max, config.alone_seconds)
        self.halted_since: float | None = None  # Since when the next entry cannot be applied
        self.orphans_count = 0  # Writes that recoveries left behind on this node
        self.catch_up_wanted = asyncio.Event()  # Set to have the log read now
        self.heartbeat_wanted = asyncio.Event()  # Set to have a heartbeat sent now
        self.peers_wanted = asyncio.Event()  # Set to have the peers asked now
        self.clock = RedisClock()
        self.vote = ""  # The report to the newest ballot, as this node signs it
        self.operator: Operator | None = None  # Set at the start, if an operator's key is known
        self.is_uncertified = False  # Whether no majority has certified this node's state yet
        self.refused_epoch = 0  # The newest epoch whose opening this node does not follow
        self.live_count = 0  # Nodes with a heartbeat of the last seconds
        self.held = HeldPositions(
            lambda: self.position, self._chains_at, lambda: self.counts.snapshots
        )

    # --- this node --------------------------------------------------------------------

    @property
    def level(self) -> int:
        """The feature level in force at this node's position."""
        return self.engine.replica_status.level

    @property
    def position(self) -> Position:
        """The position that is durable and visible on this node."""
        return self.engine.published.position

    @property
    def cluster_id(self) -> str:
        """The identity of the cluster; empty while it is not known."""
        known = self.engine.database.meta_get(CLUSTER_ID_KEY)
        return known or (self.head.cluster_id if self.head else "")

    @property
    def role(self) -> str:
        return "voter" if self.head and self.node_id in self.head.voters else "observer"

    @property
    def lag_entries(self) -> int | None:
        """Entries behind the newest that is known; None while nobody tells what is newest."""
        now, tracker = time.monotonic(), self.readiness
        if tracker.is_log_heard(now) and self.head is not None:
            return max(0, self.head.seq - self.position.seq)
        newest = tracker.newest_of_peers(now)
        return None if newest is None else max(0, newest.seq - self.position.seq)

    @property
    def is_sealed(self) -> bool:
        """Whether every entry of the log needs the seal of a member."""
        return bool(self.log.signing_keys.keys) and self.level >= SEALED_LEVEL

    @property
    def heartbeat_seconds(self) -> float:
        """Time between two heartbeats; it grows with the fleet, so that their sum does not."""
        # Nodes of a release before level 2 take a node for dead after five seconds.
        return heartbeat_seconds(self.live_count) if self.level >= STRICT_LEVEL else 1.0

    @property
    def staleness_ms(self) -> int:
        """Time since this node last knew that it was not behind."""
        return int((time.monotonic() - self.readiness.fresh_at) * 1_000)

    @property
    def shown_log_state(self) -> LogState:
        """The state for operators: an open log may be full."""
        is_open = self.log_state is LogState.OPEN and self.head is not None
        if is_open and self.head and self.log.is_full(self.head.kept_bytes):
            return LogState.FULL
        return self.log_state

    @property
    def shown_detail(self) -> str:
        state = self.shown_log_state
        return self.detail if state is self.log_state else EXPLANATIONS[state]

    async def on_applier(self, task: Callable[[AppliedState], ResultT]) -> ResultT:
        """Run a function on the applier's thread, between two groups of entries."""
        return await asyncio.wrap_future(self.engine.run_on_applier(task))

    async def _chains_at(self, seqs: Sequence[int]) -> list[str | None]:
        return await self.on_applier(lambda at: [at.replica.chain_at(seq) for seq in seqs])

    async def count_orphans(self) -> None:
        self.orphans_count = await asyncio.to_thread(self.engine.database.orphan_count)

    # --- the log ----------------------------------------------------------------------

    def set_log_state(self, state: LogState, detail: str = "") -> None:
        before, self.log_state = self.log_state, state
        self.detail = detail or EXPLANATIONS[state]
        if state is before:
            return
        if state in (LogState.OPEN, LogState.FOUNDING):
            _log.info("the log is %s", state.value)
        else:
            _log.warning("the log is %s: %s", state.value, self.detail)
        self.catch_up_wanted.set()
        self.peers_wanted.set()

    def accept_head(self, head: Head) -> None:
        if self.head is not None and self.head.epoch != head.epoch:
            self.readiness.hear_peers(None, None, 0.0, time.monotonic())  # of another epoch
        self.head = head
        self.set_log_state(LogState.OPEN)
        if not self.is_caught_up:
            self.catch_up_wanted.set()
        self.hear_log(head)

    def hear_log(self, head: Head | None = None) -> None:
        """Note that the log's own server answered, with a head to compare if there is one."""
        self.readiness.hear_log(
            time.monotonic(),
            is_open=self.log_state is LogState.OPEN,
            next_seconds=self.heartbeat_seconds,
        )
        if head is not None:
            self.compare(head.position, head.time_us // 1_000)

    def mark_caught_up(self) -> None:
        self.is_caught_up = True
        self.readiness.catch_up(time.monotonic())

    def hear_peers(self, say: PeersSay | None, newest: Position | None, asked_at: float) -> None:
        """Note what a round of questions to the peers found; ``asked_at`` is when it began."""
        self.readiness.hear_peers(say, newest, asked_at, time.monotonic())
        self.is_caught_up |= say is PeersSay.CURRENT

    def compare(self, head: Position, time_ms: int) -> None:
        """Compare a head of the log with what is visible here.

        Args:
            head: A head of the log.
            time_ms: When it was the head, by Redis' clock.
        """
        position = self.position
        seen_at = time.monotonic() - max(0, self.clock.now_ms() - time_ms) / 1_000
        if (position.epoch, position.seq) == (head.epoch, head.seq):
            self.readiness.note_fresh(seen_at)
        elif (position.epoch, position.seq) < (head.epoch, head.seq):
            # The entries are usually on their way on the bus.  Pub/Sub drops messages without
            # a trace, so if they do not arrive, the log has to be read.
            loop = asyncio.get_running_loop()
            loop.call_later(BEHIND_SECONDS, self._check_behind, head, seen_at)

    def _check_behind(self, head: Position, seen_at: float) -> None:
        position = self.position
        if (position.epoch, position.seq) < (head.epoch, head.seq):
            self.counts.tail_losses += 1
            self.catch_up_wanted.set()
        else:
            self.readiness.note_fresh(seen_at)


# --- barriers ---------------------------------------------------------------------


ACK_POLL_SECONDS: Final = 0.008
ALL_POLL_SECONDS: Final = 0.1  # Where the rows of all nodes are read; they change once a second
ACK_RETRY_SECONDS: Final = 0.25  # Pause after a call that Redis did not answer


class Barriers:
    """Waits on behalf of one node's clients.  Runs on the event loop."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._engine = session.engine

    async def wait_version(self, version: Revision, timeout_seconds: float) -> None:
        """Wait until a version is visible here."""
        deadline = time.monotonic() + timeout_seconds
        while not self._is_visible(version):
            self._session.catch_up_wanted.set()
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                at = self._session.position.revision
                raise NotCaughtUp(
                    f"this node is at {at}, not yet at {version}",
                    retry_after_seconds=1.0,
                    version=str(at),
                )
            future = self._engine.expect_version(version.seq)
            try:
                # The version may have become visible between the check and ``expect_version``.
                if not self._is_visible(version):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(left_seconds):
                            await asyncio.wrap_future(future)
            finally:
                self._engine.forget_version(future)

    def _is_visible(self, version: Revision) -> bool:
        position = self._session.position
        if version.epoch == position.epoch:
            return version.seq <= position.seq
        if version.epoch > position.epoch:
            return False
        # An epoch keeps a prefix of the one before it.  A version beyond that prefix belongs to
        # a write that no node holds any more, so it would never become visible.
        epochs = self._engine.replica_status.epochs
        later = [each for each in epochs if each.epoch > version.epoch]
        if later and version.seq > later[0].opened.base_seq:
            raise _lost(version, position)
        return version.seq <= position.seq

    async def wait_head(self, timeout_seconds: float) -> None:
        """Wait until everything is visible that Redis' log holds now.

        For writes, which the log itself orders; ``HeadReads`` is for what clients read.
        """
        head = await self._session.log.head()
        if isinstance(head, NoLog):
            detail = f": {head.damage}" if head.damage else ""
            raise NotCaughtUp(f"there is no log to compare with{detail}", retry_after_seconds=2.0)
        await self.wait_version(head.position.revision, timeout_seconds)

    async def wait_acked(
        self, at: Revision, *, is_all: bool, timeout_seconds: float
    ) -> tuple[int, int] | None:
        """Wait until a majority of the voters, or every live node, holds an entry.

        Returns:
            How many of how many voters hold it on disk; None if it was not reached in time.
        """
        deadline = time.monotonic() + timeout_seconds
        entry = await self._session.held.position_at(at) if self._session.log.is_strict else None
        while True:
            pause_seconds = ACK_POLL_SECONDS
            self._is_visible(at)  # raises VersionLost
            # Positions are kept for each epoch.  If a later epoch was opened meanwhile, its
            # positions count, because it continues with this entry.
            epoch = max(at.epoch, self._session.position.epoch)
            held = None
            try:
                held = await self._acked(epoch, at.seq, is_all)
                if is_all and self._session.log.is_strict:
                    pause_seconds = ALL_POLL_SECONDS
            except SynaptoRouteError:
                pause_seconds = ACK_RETRY_SECONDS
            if held is not None:
                if entry is None or await self._session.held.contains(entry):
                    return held
                raise _lost(at, self._session.position)  # another entry has its place now
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                return None
            await asyncio.sleep(min(pause_seconds, left_seconds))

    async def _acked(self, epoch: int, seq: int, is_all: bool) -> tuple[int, int] | None:
        log = self._session.log
        if log.is_strict:
            return await self._proved(epoch, seq, is_all)
        acked = await log.presence.acked(epoch)
        if isinstance(acked, NotPlaced) or not acked.is_quorum(seq):
            return None
        is_reached = not is_all or acked.is_all(seq)
        return (acked.voters_at(seq), len(acked.voters)) if is_reached else None

    async def _proved(self, epoch: int, seq: int, is_all: bool) -> tuple[int, int] | None:
        # What Redis says of votes is a claim: only what the voters signed counts, and the voters
        # are those of this node's history.
        log, replica = self._session.log, self._engine.replica_status
        voters = Electorate.of_names(replica.voters, replica.voter_keys)
        positions = await log.voter_positions.read(voters, self._session.cluster_id)
        positions = await self._session.held.of(positions)
        held = holders(positions, epoch, seq), len(voters)
        if not voters.is_majority(held[0]):
            return None
        if not is_all:
            return held
        live = {each.report.node_id: each for each in await log.presence.nodes() if each.is_live}
        told = await self._session.held.of(
            {name: each.report.position for name, each in live.items()}
        )
        told = {name: told.get(name, Position()) for name in live}
        behind = {name for name, at in told.items() if not holders({name: at}, epoch, seq)}
        voting = {name: at for name, at in positions.items() if name in behind}
        return held if live and len(behind) == holders(voting, epoch, seq) else None


def _lost(version: Revision, position: Position) -> VersionLost:
    return VersionLost(
        f"the write at {version} was left behind when a later epoch was opened",
        version=str(position.revision),
    )
