"""Catch-up: from the log, else from a peer's op log, else from a peer's snapshot.

``run`` decides what is missing and tries the sources in that order.  A snapshot is installed
only if the log confirms the hash chain at its position, and, in a cluster with a secret, if a
majority of the voters certifies its content.  So a peer that lies, or that is itself lost, costs
time and nothing else.

Runs on the event loop, in one task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

from synaptoroute.core.mutation import Entry, Position
from synaptoroute.core.recovery import common_seq
from synaptoroute.core.replica import TRANSITIONS, Source, State
from synaptoroute.errors import (
    ClusterError,
    NotCaughtUp,
    ProtocolError,
    SequencerUnavailable,
    StorageCorrupt,
    UnknownMutation,
)
from synaptoroute.ports import AppliedState, IncomingEntry
from synaptoroute.replication.certificates import Certificates
from synaptoroute.replication.peer_watch import PeerWatch
from synaptoroute.replication.recovery import Recovery
from synaptoroute.replication.session import LogState, Session
from synaptoroute.replication.snapshots import temporary_file
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.log_reads import Coverage, ReadResult
from synaptoroute.sequencer.node_rows import NodeSeen
from synaptoroute.sequencer.peers import PeerClient, SnapshotFile
from synaptoroute.sequencer.scripts import Head, NoLog
from synaptoroute.storage import SQLiteStorage
from synaptoroute.threads import end_task
from synaptoroute.trust.certificates import Certificate

PEERS_ASKED_MAX: Final = 3
SPREAD_SECONDS: Final = 0.2  # Nodes that miss the same entries do not all ask at one moment
SNAPSHOT_PAUSE_SECONDS: Final = 30.0
"""Time between two tries to take a snapshot instead of a long log."""
FAR_ENTRIES: Final = 2_000
FAR_BYTES: Final = 16 << 20
"""A node farther behind asks for a snapshot first: installing rows is faster than replaying."""
BUSY_SECONDS_MIN: Final = 0.5
BUSY_SECONDS_MAX: Final = 8.0
"""Pause before busy donors are asked again: where hundreds of nodes join, most have to wait."""
BUSY_STATUS: Final = 429
COMPARED_ENTRIES: Final = 1_024
EPOCH_POLL_SECONDS: Final = 0.1
_CLOSED: Final = frozenset(
    {
        LogState.MISMATCH,
        LogState.REGRESSED,
        LogState.FOREIGN,
        LogState.RECOVERING,
        LogState.CLONE,
    }
)

_log = logging.getLogger(__name__)


class CatchUpResult(Enum):
    """Whether there is more to do, and whether it can be done now."""

    AT_HEAD = "at_head"
    MOVED = "moved"
    BLOCKED = "blocked"


class CatchUp:
    def __init__(
        self,
        session: Session,
        peers: PeerClient,
        recovery: Recovery,
        certificates: Certificates,
        peer_watch: PeerWatch,
    ) -> None:
        self.diverged: str | None = None  # How the log contradicts this node's history
        self.is_fork_proven = False  # Whether voters have left this node's history, too
        self.halted: str | None = None  # Why the next entry cannot be applied
        self.last_error = ""
        self._session = session
        self._engine = session.engine
        self._peers = peers
        self._recovery = recovery
        self._certificates = certificates
        self._peer_watch = peer_watch
        self._known_nodes: tuple[NodeSeen, ...] = ()
        self._donors_allowed: frozenset[str] = frozenset()
        self._forged: str | None = None  # Why the log's next entry is not a member's
        self._snapshot_tried_until = 0.0
        self._busy_seconds = 0.0  # The last pause after all donors were busy
        self._busy_until = 0.0

    # --- trouble ----------------------------------------------------------------------

    def note_fork(self, reason: str) -> None:
        self._session.counts.forks += 1
        self.diverged = reason
        # Without seals the log's word is all there is.
        self.is_fork_proven = not self._session.is_sealed
        _log.error("this node's history is not the log's: %s", reason)
        self._session.catch_up_wanted.set()

    def require_resync(self, reason: str, donors: Sequence[str] = ()) -> None:
        """Replace this node's state by a snapshot of one of the donors; any donor if none given."""
        self._donors_allowed = frozenset(donors)
        self.note_fork(reason)
        self.is_fork_proven = True

    def note_halt(self, reason: str) -> None:
        if self.halted is None:
            self._session.halted_since = time.monotonic()
            self._session.counts.halts += 1
            _log.error("the replica halts: %s", reason)
        self.halted = reason

    def note_forgery(self, reason: str) -> None:
        self._session.counts.forgeries += 1
        self._forged = reason
        _log.error("the log in Redis holds an entry that no member wrote: %s", reason)
        self._session.catch_up_wanted.set()

    @property
    def is_halted_too_long(self) -> bool:
        """Whether the node has been halted for so long that its answers are too old."""
        limit = self._session.config.staleness_seconds_max
        since = self._session.halted_since
        return since is not None and time.monotonic() - since > limit

    @property
    def trouble(self) -> str:
        """A message for operators; empty if all is well."""
        if self.diverged:
            return f"diverged: {self.diverged}"
        return f"halted: {self.halted}" if self.halted else ""

    # --- the log ----------------------------------------------------------------------

    async def run(self) -> CatchUpResult:
        """Fetch what is missing until the head is reached or an obstacle remains."""
        session = self._session
        if session.log_state in _CLOSED:
            return CatchUpResult.BLOCKED
        if self._engine.replica_status.state is State.HALTED:
            await self._set_state(State.SYNCING)  # the disk may have room again
        while True:
            position = await self._applied()
            if session.log_state is LogState.LOST:
                return await self._without_log(position)
            if self.diverged is not None:
                if not await self._resync(position):
                    return CatchUpResult.BLOCKED
                continue
            if self._waits_for_donors(position):
                return CatchUpResult.BLOCKED
            try:
                result = await self._read(position)
            except SequencerUnavailable as error:
                self.last_error = error.message
                return await self._without_log(position)
            if self._is_other_log(position, result):
                session.heartbeat_wanted.set()
                return CatchUpResult.BLOCKED
            if self._is_far(position, result) and await self._skip_ahead(position):
                continue
            outcome = await self._take(position, result)
            if outcome is not CatchUpResult.MOVED:
                return outcome

    def _waits_for_donors(self, position: Position) -> bool:
        """Whether only a peer has what follows, and all of them are busy."""
        head = self._session.head
        is_trimmed = head is not None and position.seq + 1 < head.floor
        return is_trimmed and time.monotonic() < self._busy_until

    async def _read(self, position: Position) -> ReadResult:
        """Read what follows from a replica if the primary confirms it, else from the primary."""
        log = self._session.log
        return await log.replica_reads.read(position) or await log.read(position)

    def _is_other_log(self, position: Position, result: ReadResult) -> bool:
        """Whether another ballot opened this node's epoch: the next heartbeat handles that log."""
        epoch_id = self._engine.replica_status.epoch_id
        return result.epoch == position.epoch and bool(epoch_id) and result.epoch_id != epoch_id

    def _is_far(self, position: Position, result: ReadResult) -> bool:
        if result.coverage is not Coverage.WHOLE or time.monotonic() < self._snapshot_tried_until:
            return False
        head = self._session.head
        kept_bytes = head.kept_bytes if head else 0
        is_new = position.seq == 0 and kept_bytes > FAR_BYTES
        return is_new or result.head.seq - position.seq > FAR_ENTRIES

    async def _skip_ahead(self, position: Position) -> bool:
        """Install a snapshot of a peer near the head; the log has the rest."""
        self._snapshot_tried_until = time.monotonic() + SNAPSHOT_PAUSE_SECONDS
        near = Position(position.epoch, position.seq + FAR_ENTRIES // 2)
        donors = [seen for seen in await self._find_donors(near) if seen.is_live]
        return await self._from_snapshots(position, donors, orphans_after_seq=None)

    async def _take(self, position: Position, result: ReadResult) -> CatchUpResult:
        match result.coverage:
            case Coverage.WHOLE:
                return await self._extend(position, result)
            case Coverage.TRIMMED | Coverage.HOLE:
                self._session.counts.gaps += 1
                if result.coverage is Coverage.HOLE:
                    if await self._is_left_behind(position, result):
                        return CatchUpResult.MOVED
                    self._recovery.suspect_damage(proof_of(result.error))
                found = await self._from_peers(position)
                if not found:
                    # No peer has what the log claims to have had: if no voter has it either,
                    # the trim was never one.
                    self._recovery.suspect_forgery(position, is_missing=True)
                return CatchUpResult.MOVED if found else CatchUpResult.BLOCKED
            case Coverage.BEYOND if result.epoch > position.epoch:
                self.diverged = (
                    f"this node holds entries up to {position.revision} that epoch "
                    f"{result.epoch} left behind"
                )
                return CatchUpResult.MOVED
            case Coverage.BEYOND:
                self._session.set_log_state(LogState.REGRESSED)
                return CatchUpResult.BLOCKED

    async def _is_left_behind(self, position: Position, result: ReadResult) -> bool:
        """Whether a later epoch has another history at this position, not just a hole."""
        if result.epoch <= position.epoch or await is_confirmed(self._session.log, position):
            return False
        self.diverged = f"epoch {result.epoch} does not hold {position.revision} of this node"
        return True

    async def _extend(self, position: Position, result: ReadResult) -> CatchUpResult:
        session = self._session
        if result.entries:
            await self._set_state(State.CATCHING_UP)
            self._engine.deliver(
                [IncomingEntry(e, Source.LOG, result.epoch) for e in result.entries]
            )
            session.counts.catch_ups_log += 1
        after = await self._applied()
        # The applier reports a fork and a failed commit by callbacks that were scheduled on
        # this loop before the future of ``_applied`` was resolved, so they have run by now.
        if self.diverged is not None:
            return CatchUpResult.MOVED
        if self._forged is not None:
            return await self._refuse_forgery(after)
        if session.log_state in _CLOSED:
            return CatchUpResult.BLOCKED  # closed meanwhile: the entries may not be applied
        if result.entries and after.seq <= position.seq:
            storage_state = self._engine.status().storage_state
            return await self._halt(f"entry {position.seq + 1} was not applied ({storage_state})")
        if result.error is not None:
            if result.error.fields.get("forged"):
                self.note_forgery(str(result.error))
                return await self._refuse_forgery(after)
            if not isinstance(result.error, UnknownMutation):
                session.set_log_state(LogState.DAMAGED, str(result.error))
                self._recovery.suspect_damage(proof_of(result.error))
                if await self._from_peers(after):
                    return CatchUpResult.MOVED
            return await self._halt(str(result.error))
        self.halted = self._session.halted_since = None
        if result.is_end and after.seq >= result.head.seq:
            await self._set_state(State.LIVE)
            return CatchUpResult.AT_HEAD
        return CatchUpResult.MOVED

    async def _refuse_forgery(self, position: Position) -> CatchUpResult:
        """Stop before an entry that no member wrote, and have the voters drop it."""
        reason, self._forged = str(self._forged), None
        self._session.set_log_state(LogState.DAMAGED, reason)
        self._recovery.suspect_forgery(position)
        return await self._halt(reason)

    async def _halt(self, reason: str) -> CatchUpResult:
        """Stop before an entry that cannot be read or applied: it is never skipped."""
        self.note_halt(self.halted or reason)
        await self._set_state(State.HALTED)
        return CatchUpResult.BLOCKED

    async def _applied(self) -> Position:
        return await self._session.on_applier(lambda state: state.replica.position)

    async def _set_state(self, state: State) -> None:
        if self._engine.replica_status.state is state:
            return

        def move(at: AppliedState) -> None:
            if state in TRANSITIONS[at.replica.state]:
                at.replica.move_to(state)

        await self._session.on_applier(move)

    # --- peers ------------------------------------------------------------------------

    async def _find_donors(self, after: Position) -> list[NodeSeen]:
        """Peers that may have what follows a position: live ones first, else random order."""
        with contextlib.suppress(ClusterError):  # then use those that were known before
            self._known_nodes = await self._session.log.presence.nodes()
        donors = [
            seen
            for seen in self._known_nodes
            if seen.report.url
            and seen.report.node_id != self._session.node_id
            and (seen.report.epoch, seen.report.seq) >= (after.epoch, after.seq)
            and (not self._donors_allowed or seen.report.node_id in self._donors_allowed)
        ]
        random.shuffle(donors)
        donors.sort(key=lambda seen: not seen.is_live)
        return donors[:PEERS_ASKED_MAX]

    async def _from_peers(self, position: Position) -> bool:
        await asyncio.sleep(random.uniform(0.0, SPREAD_SECONDS))
        donors = await self._find_donors(position)
        if await self._from_op_logs(position, [seen.report.url for seen in donors]):
            return True
        return await self._from_snapshots(position, donors, orphans_after_seq=None)

    async def _from_op_logs(self, position: Position, urls: Iterable[str]) -> bool:
        for url in urls:
            try:
                found = await self._peers.read_log(url, position)
            except (ClusterError, ProtocolError) as error:
                self.last_error = str(error)
                continue
            if found.entries and await self._apply_from_peer(position, found.entries):
                return True
        return False

    async def _apply_from_peer(self, position: Position, entries: Sequence[Entry]) -> bool:
        # ``Source.BUS``: a peer is no authority.  The replica applies entries that continue its
        # own hash chain, but never takes a peer's word for a fork or a new epoch.
        self._engine.deliver([IncomingEntry(e, Source.BUS, 0) for e in entries])
        if (await self._applied()).seq <= position.seq:
            return False
        self._session.counts.catch_ups_peer += 1
        return True

    async def _without_log(self, position: Position) -> CatchUpResult:
        """Take from peers what continues this node's history, while Redis does not answer."""
        # Those of the last round of questions: what nodes reported to Redis is too old.
        ahead = self._peer_watch.ahead[:PEERS_ASKED_MAX]
        if position.seq and await self._from_op_logs(position, ahead):
            return CatchUpResult.MOVED
        return CatchUpResult.BLOCKED

    # --- snapshots --------------------------------------------------------------------

    async def _resync(self, position: Position) -> bool:
        """Leave a history that the log contradicts; own entries beyond it become orphans.

        A later epoch may have continued this node's history meanwhile; then nothing is to be
        left.  A state that an operator had replaced is replaced in any case.
        """
        log = self._session.log
        if not self._donors_allowed and await is_confirmed(log, position):
            await self._set_state(State.SYNCING)
            self.diverged = None
            return True
        if not self.is_fork_proven and await self._recovery.contest():
            await self._set_state(State.SYNCING)
            self.diverged = None
            return False
        if not self.is_fork_proven and await self._recovery.drop_forged(position):
            # A majority stands on this history and none beyond it, so it is the log that lies.
            await self._set_state(State.SYNCING)
            self.diverged = None
            return False
        self.is_fork_proven = True
        await self._set_state(State.DIVERGED)
        common = await _common_seq_with_log(log, self._engine.database, position)
        donors = await self._find_donors(Position(0, 0))
        if not await self._from_snapshots(position, donors, orphans_after_seq=common):
            return False
        self.diverged = None
        self._donors_allowed = frozenset()
        return True

    async def _from_snapshots(
        self, position: Position, donors: Sequence[NodeSeen], *, orphans_after_seq: int | None
    ) -> bool:
        if time.monotonic() < self._busy_until:
            return False
        is_busy = bool(donors)
        for donor in donors:
            try:
                if await self._from_snapshot(position, donor, orphans_after_seq):
                    self._busy_seconds = 0.0
                    return True
                is_busy = False
            except (ClusterError, ProtocolError, OSError, StorageCorrupt) as error:
                self.last_error = str(error)
                is_busy &= getattr(error, "fields", {}).get("status") == BUSY_STATUS
        if is_busy:
            doubled = max(2 * self._busy_seconds, BUSY_SECONDS_MIN)
            self._busy_seconds = min(doubled, BUSY_SECONDS_MAX)
            pause_seconds = self._busy_seconds * random.uniform(0.5, 1.0)
            self._busy_until = time.monotonic() + pause_seconds
        return False

    async def _from_snapshot(
        self, position: Position, donor: NodeSeen, orphans_after_seq: int | None
    ) -> bool:
        target = temporary_file(self._engine, "install")
        asked: list[asyncio.Task[Certificate]] = []

        def ask(announced: Position) -> None:
            # While the file arrives: voters know the roots of their last positions only.
            if self._certificates.is_required:
                asked.append(asyncio.create_task(self._certificates.gather(announced)))

        try:
            file = await self._peers.fetch_snapshot(
                donor.report.url, target.parent, target.name, ask
            )
            certificate = await self._certified(asked[0]) if asked else None
            return await self._install(position, file, orphans_after_seq, certificate)
        finally:
            await asyncio.gather(*map(end_task, asked))
            await asyncio.to_thread(target.unlink, missing_ok=True)

    async def _certified(self, asked: asyncio.Task[Certificate]) -> Certificate:
        """Wait for a certificate, but not beyond the epoch: then the log has what is missing."""
        head = self._session.head
        while not asked.done():
            await asyncio.wait([asked], timeout=EPOCH_POLL_SECONDS)
            if self._session.head is not head and self._is_other_epoch(head):
                raise NotCaughtUp("another epoch was opened while a snapshot arrived")
        return asked.result()

    def _is_other_epoch(self, head: Head | None) -> bool:
        newest = self._session.head
        return head is None or newest is None or newest.epoch != head.epoch

    async def _install(
        self,
        position: Position,
        file: SnapshotFile,
        orphans_after_seq: int | None,
        certificate: Certificate | None,
    ) -> bool:
        is_ahead = (file.position.epoch, file.position.seq) > (position.epoch, position.seq)
        if orphans_after_seq is None and not is_ahead:
            self.last_error = "a snapshot is older than the state to replace"
            return False
        if file.position.epoch < self._engine.replica_status.promised_epoch:
            # The promise says that this node takes nothing from that epoch any more.
            self.last_error = "a snapshot is of an epoch that this node has left for good"
            return False
        if not await is_confirmed(self._session.log, file.position):
            self.last_error = f"the log does not confirm a snapshot at {file.position.revision}"
            return False
        if certificate is None and self._certificates.is_required:
            self.last_error = "a snapshot arrived before its certificate was asked for"
            return False
        await self._set_state(State.INSTALLING)
        try:
            installed = await asyncio.wrap_future(
                self._engine.install_snapshot(
                    file.path,
                    orphans_after_seq=orphans_after_seq,
                    root=certificate.root if certificate else None,
                )
            )
        except BaseException:
            # Also on cancellation: no replica may stay in ``INSTALLING``.  A history known to be
            # wrong is not followed again either.
            await self._set_state(State.SYNCING if self.diverged is None else State.DIVERGED)
            raise
        if installed != file.position:
            self.diverged = f"a snapshot announced as {file.position} held {installed}"
            return False
        if certificate is not None:
            await self._certificates.note_proven()
        self._session.counts.snapshots += 1
        await self._session.count_orphans()
        return True


def proof_of(error: ProtocolError | None) -> str:
    """The part of an entry that no log can contain; empty if the reader's keys may be the cause."""
    if error is None or error.fields.get("forged") or isinstance(error, UnknownMutation):
        return ""
    return str(error)


# --- comparing histories ------------------------------------------------------------------


async def is_confirmed(log: RedisLog, position: Position) -> bool:
    """Whether the log has this position in its history, as far back as it reaches."""
    head = await log.head()
    if isinstance(head, NoLog) or not 0 < position.seq <= head.seq:
        return False
    if position.seq == head.seq:
        known: str | None = head.chain
    elif position.seq == head.floor - 1:
        known = head.floor_chain
    else:
        found = await log.read(Position(position.epoch, position.seq - 1), entries_max=1)
        known = found.entries[0].chain if found.entries else None
    return position.chain == known


async def _common_seq_with_log(log: RedisLog, database: SQLiteStorage, position: Position) -> int:
    """The last sequence number at which a node's op log and the log agree."""
    start = max(0, position.seq - COMPARED_ENTRIES)
    own = await asyncio.to_thread(
        database.read_log, start, entries_max=COMPARED_ENTRIES, bytes_max=1 << 30
    )
    if not own:
        return start
    common = Position(own[0].epoch, start, own[0].prev_chain)
    chains = {row.seq: row.chain for row in own}
    while True:
        try:
            theirs = await log.read(common)
        except (ClusterError, ProtocolError):
            return common.seq
        agreed = common_seq(common.seq, chains, ((e.seq, e.chain) for e in theirs.entries))
        if theirs.is_end or not theirs.entries or agreed != theirs.entries[-1].seq:
            return agreed
        common = theirs.entries[-1].position
