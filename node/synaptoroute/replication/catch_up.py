"""Catching up: from the log, else from a peer's op log, else from a peer's snapshot.

One method decides what is missing, in that order.  A snapshot is installed only at a
position whose hash chain the log confirms, so a peer that lies or is lost itself
costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from synaptoroute.core.mutation import Entry, Position
from synaptoroute.core.replica import TRANSITIONS, Source, State
from synaptoroute.errors import (
    ClusterError,
    ProtocolError,
    SequencerUnavailable,
    StorageCorrupt,
    UnknownMutation,
)
from synaptoroute.ports import AppliedState, IncomingEntry
from synaptoroute.replication.history_check import common_seq, is_confirmed
from synaptoroute.replication.progress import Progress
from synaptoroute.replication.snapshots import file_beside
from synaptoroute.replication.status import LogState
from synaptoroute.sequencer.log import Coverage, ReadResult
from synaptoroute.sequencer.peers import PeerClient, SnapshotFile
from synaptoroute.sequencer.presence import NodeSeen

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower

PEERS_ASKED_MAX: Final = 3
_CLOSED: Final = frozenset(
    {LogState.MISMATCH, LogState.REGRESSED, LogState.FOREIGN, LogState.RECOVERING}
)
SPREAD_SECONDS: Final = 0.2
"""Nodes that miss the same entries do not all ask at the same moment."""
LEAP_PAUSE_SECONDS: Final = 30.0
FAR_ENTRIES: Final = 2_000
FAR_BYTES: Final = 16 << 20
"""A node that is farther behind asks for a snapshot first: rows are quicker than history."""

_log = logging.getLogger(__name__)


class CatchUp:
    """Brings one node to the head of the log.  Runs in one task.

    Attributes:
        diverged: What the log contradicts of this node's history, if anything.
        halted: Why an entry could not be applied, if one could not.
        last_error: What stood against the last try.
        is_too_stale: Whether peers have been ahead for too long.
    """

    def __init__(self, follower: Follower) -> None:
        self.diverged: str | None = None
        self.halted: str | None = None
        self.last_error = ""
        self.is_too_stale = False
        self._follower = follower
        self._engine = follower.engine
        self._peers = PeerClient(follower.membership)
        self._known: tuple[NodeSeen, ...] = ()
        self._behind_since: float | None = None
        self.trusted: frozenset[str] = frozenset()
        self._halted_since = 0.0
        self._leap_at = 0.0

    def halt(self, reason: str) -> None:
        """Note that the next entry cannot be applied."""
        if self.halted is None:
            self._halted_since = time.monotonic()
            self._follower.counts.halts += 1
            _log.error("the replica halts: %s", reason)
        self.halted = reason

    @property
    def is_halted_too_long(self) -> bool:
        """Whether an entry has stood in the way for so long that answers are too old."""
        limit = self._follower.config.staleness_seconds_max
        return self.halted is not None and time.monotonic() - self._halted_since > limit

    @property
    def trouble(self) -> str:
        """What an operator should know; empty if all is well."""
        if self.diverged:
            return f"diverged: {self.diverged}"
        if self.halted:
            return f"halted: {self.halted}"
        return ""

    async def close(self) -> None:
        """Close the connections to peers."""
        await self._peers.close()

    async def run(self) -> Progress:
        """Fetch what is missing until the head is reached or something stands against it."""
        follower = self._follower
        if follower.log_state in _CLOSED:
            return Progress.BLOCKED
        if self._engine.replica_status.state is State.HALTED:
            await self._set_state(State.SYNCING)  # perhaps the disk has room again
        while True:
            position = await self._applied()
            if follower.log_state is LogState.LOST:
                return await self._without_log(position)
            if self.diverged is not None:
                if not await self._resync(position):
                    return Progress.BLOCKED
                continue
            try:
                result = await follower.log.read(position)
            except SequencerUnavailable as error:
                self.last_error = error.message
                return await self._without_log(position)
            self._is_in_reach()
            if self._is_another_log(position, result):
                follower.poke()
                return Progress.BLOCKED
            if self._is_far(position, result) and await self._leap(position):
                continue
            progress = await self._take(position, result)
            if progress is not Progress.MOVED:
                return progress

    def _is_another_log(self, position: Position, result: ReadResult) -> bool:
        """Whether somebody opened this node's epoch anew: the next heartbeat judges that log."""
        epoch_id = self._engine.replica_status.epoch_id
        return result.epoch == position.epoch and bool(epoch_id) and result.epoch_id != epoch_id

    def _is_far(self, position: Position, result: ReadResult) -> bool:
        """Whether a snapshot is worth asking for before the log is read to its end."""
        if result.coverage is not Coverage.WHOLE or time.monotonic() < self._leap_at:
            return False
        head = self._follower.head
        kept_bytes = head.kept_bytes if head else 0
        is_new = position.seq == 0 and kept_bytes > FAR_BYTES
        return is_new or result.head.seq - position.seq > FAR_ENTRIES

    async def _leap(self, position: Position) -> bool:
        """Take a snapshot of a peer that is near the head; the log has the rest."""
        self._leap_at = time.monotonic() + LEAP_PAUSE_SECONDS
        near = Position(position.epoch, position.seq + FAR_ENTRIES // 2)
        donors = [seen for seen in await self._donors(near) if seen.is_live]
        return await self._from_snapshots(position, donors, orphans_after_seq=None)

    async def _take(self, position: Position, result: ReadResult) -> Progress:
        """Apply what the log gave, or find what it could not give."""
        match result.coverage:
            case Coverage.WHOLE:
                return await self._extend(position, result)
            case Coverage.TRIMMED | Coverage.HOLE:
                self._follower.counts.gaps += 1
                if result.coverage is Coverage.HOLE:
                    if await self._is_left_behind(position, result):
                        return Progress.MOVED
                    self._follower.recovery.suspect_damage()
                found = await self._from_peers(position)
                return Progress.MOVED if found else Progress.BLOCKED
            case Coverage.BEYOND if result.epoch > position.epoch:
                self.diverged = (
                    f"this node holds entries up to {position.revision} that epoch "
                    f"{result.epoch} left behind"
                )
                return Progress.MOVED
            case Coverage.BEYOND:
                self._follower.set_state(LogState.REGRESSED)
                return Progress.BLOCKED

    async def _is_left_behind(self, position: Position, result: ReadResult) -> bool:
        """Whether a later epoch has other entries at this node's place, and not just a hole."""
        if result.epoch <= position.epoch or await is_confirmed(self._follower.log, position):
            return False
        self.diverged = f"epoch {result.epoch} does not hold {position.revision} of this node"
        return True

    async def _extend(self, position: Position, result: ReadResult) -> Progress:
        """Apply entries that follow the position."""
        if result.entries:
            await self._set_state(State.CATCHING_UP)
            self._engine.deliver(
                [IncomingEntry(e, Source.LOG, result.epoch) for e in result.entries]
            )
            self._follower.counts.catch_ups_log += 1
        after = await self._applied()
        if self.diverged is not None:
            return Progress.MOVED
        if self._follower.log_state in _CLOSED:
            return Progress.BLOCKED  # closed meanwhile: what was read is not to be applied
        if result.entries and after.seq <= position.seq:
            storage = self._engine.status().storage_state
            return await self._halt(f"entry {position.seq + 1} was not applied ({storage})")
        if result.error is not None:
            if not isinstance(result.error, UnknownMutation):
                self._follower.set_state(LogState.DAMAGED, str(result.error))
                self._follower.recovery.suspect_damage()
            return await self._halt(str(result.error))
        self.halted = None
        if result.is_end and after.seq >= result.head.seq:
            await self._set_state(State.LIVE)
            return Progress.AT_HEAD
        return Progress.MOVED

    async def _halt(self, reason: str) -> Progress:
        """Stand still before an entry that cannot be read or applied: it is never skipped."""
        self.halt(self.halted or reason)
        await self._set_state(State.HALTED)
        return Progress.BLOCKED

    async def _applied(self) -> Position:
        """Position after everything that was handed over before."""
        return await asyncio.wrap_future(
            self._engine.run_on_applier(lambda held: held.replica.position)
        )

    async def _set_state(self, state: State) -> None:
        """Move the replica to a state, where a way leads there."""
        if self._engine.replica_status.state is state:
            return

        def move(held: AppliedState) -> None:
            if state in TRANSITIONS[held.replica.state]:
                held.replica.move_to(state)

        await asyncio.wrap_future(self._engine.run_on_applier(move))

    # --- peers ---------------------------------------------------------------------------

    async def _donors(self, after: Position) -> list[NodeSeen]:
        """Peers that may have what follows a position, in random order."""
        with contextlib.suppress(ClusterError):  # then those that were known before
            self._known = await self._follower.log.presence.nodes()
        donors = [
            seen
            for seen in self._known
            if seen.report.url
            and seen.report.node_id != self._follower.node_id
            and (seen.report.epoch, seen.report.seq) >= (after.epoch, after.seq)
            and (not self.trusted or seen.report.node_id in self.trusted)
        ]
        random.shuffle(donors)
        donors.sort(key=lambda seen: not seen.is_live)
        return donors[:PEERS_ASKED_MAX]

    async def _from_peers(self, position: Position) -> bool:
        """Bridge a hole by a peer's op log, else by a peer's snapshot."""
        await asyncio.sleep(random.uniform(0.0, SPREAD_SECONDS))
        donors = await self._donors(position)
        if await self._from_op_logs(position, donors):
            return True
        return await self._from_snapshots(position, donors, orphans_after_seq=None)

    async def _from_op_logs(self, position: Position, donors: Sequence[NodeSeen]) -> bool:
        """Apply what a peer's op log holds after a position; whether it moved."""
        is_ahead = False
        for donor in donors:
            try:
                found = await self._peers.read_log(donor.report.url, position)
            except (ClusterError, ProtocolError) as error:
                self.last_error = str(error)
                continue
            is_ahead |= (found.position.epoch, found.position.seq) > (position.epoch, position.seq)
            if found.entries and await self._believe(position, found.entries):
                return True
        self._judge_staleness(is_ahead)
        return False

    async def _believe(self, position: Position, entries: Sequence[Entry]) -> bool:
        """Apply a peer's entries; the replica checks that they continue its history."""
        self._engine.deliver([IncomingEntry(e, Source.BUS, 0) for e in entries])
        if (await self._applied()).seq <= position.seq:
            return False
        self._follower.counts.catch_ups_peer += 1
        return True

    async def _without_log(self, position: Position) -> Progress:
        """Redis is away: take from peers what they have, and notice when they are ahead."""
        if position.seq and await self._from_op_logs(position, await self._donors(position)):
            self._is_in_reach()
        return Progress.BLOCKED

    def _is_in_reach(self) -> None:
        self._behind_since = None
        self.is_too_stale = False

    def _judge_staleness(self, is_ahead: bool) -> None:
        """A node that knows itself behind for too long must not take queries."""
        if not is_ahead:
            self._is_in_reach()
            return
        now = time.monotonic()
        self._behind_since = self._behind_since or now
        limit = self._follower.config.staleness_seconds_max
        self.is_too_stale = now - self._behind_since > limit

    # --- snapshots -------------------------------------------------------------------------

    async def _resync(self, position: Position) -> bool:
        """Leave a history that the log contradicts; own entries beyond it are kept aside.

        A later epoch may have taken this node's side since: then there is nothing to leave.
        A state that is doubted at its own place is replaced all the same.
        """
        if not self.trusted and await is_confirmed(self._follower.log, position):
            await self._set_state(State.SYNCING)
            self.diverged = None
            return True
        await self._set_state(State.DIVERGED)
        own_log = self._engine.database
        common = await common_seq(self._follower.log, own_log, position)
        donors = await self._donors(Position(0, 0))
        if not await self._from_snapshots(position, donors, orphans_after_seq=common):
            return False
        self.diverged = None
        self.trusted = frozenset()
        return True

    async def _from_snapshots(
        self, position: Position, donors: Sequence[NodeSeen], *, orphans_after_seq: int | None
    ) -> bool:
        """Install the first snapshot that the log confirms."""
        for donor in donors:
            target = file_beside(self._follower, "install")
            try:
                file = await self._peers.fetch_snapshot(
                    donor.report.url, target.parent, target.name
                )
            except (ClusterError, ProtocolError, OSError) as error:
                self.last_error = str(error)
                continue
            try:
                if await self._install(position, file, orphans_after_seq):
                    return True
            except StorageCorrupt as error:
                self.last_error = str(error)
            finally:
                await asyncio.to_thread(file.path.unlink, missing_ok=True)
        return False

    async def _install(
        self, position: Position, file: SnapshotFile, orphans_after_seq: int | None
    ) -> bool:
        """Install a snapshot, if it is ahead and the log knows its position."""
        is_ahead = (file.position.epoch, file.position.seq) > (position.epoch, position.seq)
        if orphans_after_seq is None and not is_ahead:
            self.last_error = "a snapshot is older than what it should replace"
            return False
        if file.position.epoch < self._engine.replica_status.promised_epoch:
            self.last_error = "a snapshot is of an epoch that this node has left for good"
            return False
        if not await is_confirmed(self._follower.log, file.position):
            self.last_error = f"the log does not confirm a snapshot at {file.position.revision}"
            return False
        await self._set_state(State.INSTALLING)
        try:
            installed = await asyncio.wrap_future(
                self._engine.install_snapshot(file.path, orphans_after_seq=orphans_after_seq)
            )
        except BaseException:
            # A history that is known to be wrong is not followed meanwhile.
            await self._set_state(State.SYNCING if self.diverged is None else State.DIVERGED)
            raise
        if installed != file.position:
            self.diverged = f"a snapshot announced as {file.position} held {installed}"
            return False
        self._follower.counts.snapshots += 1
        await self._follower.duties.count_orphans()
        return True
