"""``SQLiteStorage``: the durable state of a node.

Threads: methods that write belong to one thread at a time (the caller's before ``start``,
the applier's afterwards); those marked "Any thread" may be called from any.  Rows, log,
outcomes, position and digest of an entry become durable in one transaction, so a node
that dies at any moment restarts at some position with exactly the state of that position.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from synaptoroute.core.change import Commit, SlotWrite
from synaptoroute.core.mutation import EraseTexts, Position, PutFeedback
from synaptoroute.core.mutation_fields import KIND_BY_TYPE
from synaptoroute.errors import StorageCorrupt, StorageUnavailable
from synaptoroute.forks import guard
from synaptoroute.private_files import make_private_folder
from synaptoroute.storage import maintenance
from synaptoroute.storage.checkpoint import drop_checkpoint
from synaptoroute.storage.connection import FileLock, Synchronous, sibling, transaction, translated
from synaptoroute.storage.corruption import CorruptFile, corruption_message, quarantine
from synaptoroute.storage.database import NODE_ID, Database, open_database
from synaptoroute.storage.levels import is_finalized, read_voter_links
from synaptoroute.storage.loader import StandbyEncoders, gc_paused, load
from synaptoroute.storage.maintenance import Derive, MaintenanceThread, Pause
from synaptoroute.storage.re_embedding import ReEmbedding
from synaptoroute.storage.records import ROWS_AT_ONCE, LogRow, Orphan, SlotRow, Stored, load_log_row
from synaptoroute.storage.snapshots import (
    drop_incoming,
    export_snapshot,
    install_snapshot,
    replace_state,
    set_sole_voter,
)
from synaptoroute.storage.writer import REPLACE_SLOT, LogWindow, meta_after, write_meta

OPLOG_ENTRIES_MAX: Final = 10_000
OPLOG_BYTES_MAX: Final = 67_108_864
ORPHANS_MAX: Final = 10_000  # Orphans read at once; an op log holds no more entries
_EPHEMERAL: Final = ":memory:"


class SQLiteStorage:
    """A route set on disk: rows, routes, log and outcomes at one position.

    Invariants: ``position`` is that of the file; no other process writes to the file
    while it is open: the lock is held from before the first read until after the last
    write.

    Args:
        path: The database; its folder is made.  ``:memory:`` keeps everything in a
            temporary folder that ``close`` removes.
        synchronous: ``full`` survives a power failure, ``normal`` may lose the newest
            entries to one (never to a crash of the process).  ``:memory:`` does not wait
            for the disk at all.
        oplog_entries_max: Entries kept for peers.
        oplog_bytes_max: Bytes of their frames.
        on_corrupt: ``raise`` after a corrupt file was moved aside, or start empty.

    Raises:
        StorageUnavailable: The folder cannot be made.
    """

    sqlite_version: Final = sqlite3.sqlite_version

    def __init__(
        self,
        path: str | Path,
        *,
        synchronous: Literal["full", "normal"] = "full",
        oplog_entries_max: int = OPLOG_ENTRIES_MAX,
        oplog_bytes_max: int = OPLOG_BYTES_MAX,
        on_corrupt: Literal["raise", "move_aside"] = "raise",
    ) -> None:
        self._remove_folder: weakref.finalize[..., SQLiteStorage] | None = None
        self._is_ephemeral = str(path) == _EPHEMERAL
        self._synchronous: Synchronous = "off" if self._is_ephemeral else synchronous
        self._on_corrupt = on_corrupt
        self._log = LogWindow(oplog_entries_max, oplog_bytes_max)
        self._standby_encoders: StandbyEncoders = {}
        self._database: Database | None = None
        self._thread: MaintenanceThread | None = None
        self._derive: Derive | None = None
        self.owes_checkpoint = False  # A commit put something off: ``settle`` is to be called
        self._set_path(Path(path))
        guard(self, SQLiteStorage._leave_to_parent)

    def _leave_to_parent(self) -> None:
        """Give up the copies of a forked process."""
        # A descriptor in the child would keep the lock of a parent that has closed or ended.
        self._lock.drop()
        if self._remove_folder is not None:
            # The child's end must not remove the parent's folder.
            self._remove_folder.detach()

    def _set_path(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(sibling(path, ".lock"))
        if not self._is_ephemeral:
            with translated(f"make the folder of {path.name}"):
                make_private_folder(path.parent)

    def _opened(self) -> Database:
        database = self._database
        if database is None or not database.is_open:
            raise StorageUnavailable("the storage is closed", reason="closed")
        return database

    @property
    def node_id(self) -> str:
        """Identity of the node, 32 hexadecimal digits; as old as the file."""
        assert self._database is not None, "the storage was never open: this is a bug"
        return self._database.facts[NODE_ID]

    @property
    def is_read_only(self) -> bool:
        """Whether the disk was too full at the start to open the file for writing.  Any thread."""
        return self._database is not None and self._database.is_read_only

    @property
    def position(self) -> Position:
        """Position that is durable.  Any thread."""
        return self._opened().meta.position

    @property
    def digest(self) -> str:
        """Digest of the state that is durable.  Any thread."""
        return self._opened().meta.digest

    @property
    def encoder(self) -> tuple[str, int]:
        """Encoder of the stored vectors: fingerprint and dimension.  Any thread."""
        meta = self._opened().meta
        return meta.fingerprint, meta.dim

    @property
    def corruption(self) -> str | None:
        """Corruption found while the file was in use.  Any thread."""
        return self._database.corruption if self._database is not None else None

    @property
    def re_embedding(self) -> ReEmbedding:
        """The change of the encoder of this database.  Runs on the writing thread."""
        return ReEmbedding(self._opened())

    # --- opening and closing ---

    def open(
        self, *, fingerprint: str, dim: int, standby_encoders: StandbyEncoders | None = None
    ) -> Stored:
        """Make or migrate the file, verify all of it and open it for writing.

        Args:
            fingerprint: The running encoder's; a new file remembers it.
            dim: Dimension of its vectors.
            standby_encoders: Other encoders whose vectors it may hold.

        Raises:
            EncoderMismatch: The stored vectors are another encoder's.
            SchemaTooNew: A later release wrote the file.
            StorageCorrupt: The file was corrupt and has been moved aside.
            StorageUnavailable: It cannot be read or written, or is open elsewhere.
        """
        self._standby_encoders = standby_encoders or {}
        return self._open((fingerprint, dim))

    def open_stored(self) -> Stored:
        """Open a file with the encoder it was made with; for tools, not for nodes.

        Raises:
            StorageUnavailable: As ``open``, or there is no database.
        """
        return self._open(None)

    def _open(self, encoder: tuple[str, int] | None) -> Stored:
        assert self._database is None or not self._database.is_open, (
            "the storage is open already: this is a bug"
        )
        if self._is_ephemeral:
            with translated("make a temporary folder"):
                folder = tempfile.mkdtemp(prefix="synaptoroute-")
            # A storage that is dropped without `close` leaves no folder behind and no warning.
            self._remove_folder = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._set_path(Path(folder) / "ephemeral.sqlite")
        self._lock.acquire()
        try:
            drop_incoming(self.path)
            with gc_paused():
                return self._open_or_quarantine(encoder)
        except BaseException:
            self.close()
            raise

    def _open_or_quarantine(self, encoder: tuple[str, int] | None) -> Stored:
        source = (self.path, self._synchronous, self._log, encoder, self._standby_encoders)
        try:
            self._database, stored = open_database(*source)
        except CorruptFile as corrupt:
            moved_aside = quarantine(self.path, corrupt.position)
            if self._on_corrupt == "raise":
                raise StorageCorrupt(
                    f"the database cannot be trusted: {corrupt.reason};"
                    f" it was moved to {moved_aside}",
                    path=str(moved_aside),
                    reason=corrupt.reason,
                ) from corrupt
        else:
            return stored
        self._database, stored = open_database(*source)
        return replace(stored, moved_aside=moved_aside)

    def close(self) -> None:
        """Close the file; calling it again does nothing.  Runs on the writing thread.

        A node with background maintenance leaves a fresh checkpoint for its next boot.
        """
        database = self._database
        had_maintenance = self._stop_maintenance()
        if database is not None:
            if had_maintenance and database.changes.is_stale and database.corruption is None:
                with suppress(StorageUnavailable):
                    self.checkpoint()
            database.close()
        # The lock goes last: a process that gets it may open the file at once.
        self._lock.release()
        if self._remove_folder is not None:
            self._remove_folder()
            self._remove_folder = None

    # --- entries ---

    def commit(self, commits: Sequence[Commit]) -> None:
        """Make a group of entries durable, all or none.  Runs on the writing thread.

        Args:
            commits: In order, the first one directly after ``position``.

        Raises:
            StorageUnavailable: Nothing of it is durable; ``fields["reason"]`` is
                ``disk_full``, ``read_only``, ``io``, ``busy``, ``corrupt`` or ``closed``.
                The same group may be committed again later.
        """
        if not commits:
            return
        database = self._opened()
        before, after = database.meta, meta_after(database.meta, commits)
        if (before.fingerprint, before.dim) == (after.fingerprint, after.dim):
            database.commit(commits, after)
            self.owes_checkpoint = database.owes_checkpoint
            return
        # A walk over the rows would meet vectors of two sizes.
        with self._maintenance_paused():
            database.commit(commits, after)

    def settle(self) -> None:
        """Finish what a commit put off until it is visible.  Runs on the writing thread."""
        self.owes_checkpoint = False
        database = self._database
        if database is not None and database.is_open:
            database.settle()

    def read_log(self, after_seq: int, *, entries_max: int, bytes_max: int) -> list[LogRow]:
        """Read entries for a peer.  Any thread.

        Args:
            after_seq: The last place the peer holds.
            entries_max: At most so many entries.
            bytes_max: At most so many bytes of frames, but always one entry.

        Returns:
            Consecutive entries from ``after_seq + 1``; none if the op log does not reach
            back that far or ends before.
        """
        found: list[LogRow] = []
        size_bytes = 0
        with self._opened().reading("read the op log") as reader:
            seals = "(SELECT seal FROM seal WHERE seal.seq = oplog.seq)"
            cursor = reader.execute(
                "SELECT seq, epoch, op_id, prev_chain, chain, time_us, frame, outcome, digest,"
                f" {seals if is_finalized(reader) else 'NULL'}"
                " FROM oplog WHERE seq > ? ORDER BY seq LIMIT ?",
                (after_seq, entries_max),
            )
            for row in cursor:
                seq, frame = row[0], row[6]
                size_bytes += len(frame)
                if seq != after_seq + 1 + len(found) or (found and size_bytes > bytes_max):
                    break
                found.append(load_log_row(row))
        return found

    def read_log_back(
        self, before_seq: int | None, *, entries_max: int, bytes_max: int
    ) -> list[LogRow]:
        """Read entries for people, newest first.  Any thread.

        Args:
            before_seq: Only entries before this place; None for the newest.
            entries_max: At most so many entries.
            bytes_max: At most so many bytes of frames, but always one entry.
        """
        found: list[LogRow] = []
        size_bytes = 0
        with self._opened().reading("read the op log") as reader:
            cursor = reader.execute(
                "SELECT seq, epoch, op_id, prev_chain, chain, time_us, frame, outcome, digest,"
                " NULL FROM oplog WHERE seq < ? ORDER BY seq DESC LIMIT ?",
                ((1 << 62) if before_seq is None else before_seq, entries_max),
            )
            for row in cursor:
                size_bytes += len(row[6])
                if found and size_bytes > bytes_max:
                    break
                found.append(load_log_row(row))
        return found

    def last_feedback(self, before_us: int) -> int | None:
        """Seq of the newest entry of the op log with feedback from before a time.  Any thread.

        Args:
            before_us: By the sequencer's clock, microseconds since 1970.
        """
        with self._opened().reading("read the op log") as reader:
            # The kind of an entry is the fourth byte of its frame.
            (seq,) = reader.execute(
                "SELECT max(seq) FROM oplog WHERE time_us < ? AND substr(frame, 4, 1) = ?",
                (before_us, bytes([KIND_BY_TYPE[PutFeedback]])),
            ).fetchone()
            return None if seq is None else int(seq)

    def last_erasure(self, after_seq: int = 0) -> int | None:
        """Seq of the newest entry after a place that erases texts.  Any thread."""
        with self._opened().reading("read the op log") as reader:
            (seq,) = reader.execute(
                "SELECT max(seq) FROM oplog WHERE seq > ? AND substr(frame, 4, 1) = ?",
                (after_seq, bytes([KIND_BY_TYPE[EraseTexts]])),
            ).fetchone()
            return None if seq is None else int(seq)

    def purge_log(self, floor: int) -> None:
        """Delete the entries before a place so that no byte of them stays in the files.

        The file is written anew, and the checkpoint is dropped.  Runs on the writing thread.

        Raises:
            StorageUnavailable: Some of them may still be there.
        """
        self._opened().purge_log(floor)
        drop_checkpoint(self.path)

    def trim_log(self, floor: int) -> None:
        """Delete the entries of the op log before a place; the newest one stays.

        Runs on the writing thread.

        Raises:
            StorageUnavailable: Nothing was deleted.
        """
        self._opened().trim_log(floor)

    def voter_links(self) -> tuple[str, ...]:
        """The chain of the voters, see ``trust.voters``.  Any thread."""
        with self._opened().reading("read the chain of the voters") as reader:
            return read_voter_links(reader)

    def log_floor(self) -> int | None:
        """Seq of the oldest entry of the op log; None if it is empty.  Any thread."""
        with self._opened().reading("read the op log") as reader:
            (floor,) = reader.execute("SELECT min(seq) FROM oplog").fetchone()
            return None if floor is None else int(floor)

    def rows(self, after_slot: int = -1, rows_max: int | None = None) -> Iterator[SlotRow]:
        """Read the tensor's rows as the file holds them, in slot order.  Any thread.

        All rows of one call are of one position.
        """
        # While the iteration lasts the WAL cannot be reset and the file not be replaced,
        # so a slow reader should take ``rows_max`` at a time.
        with self._opened().reading("read rows") as reader:
            cursor = reader.execute(
                "SELECT slot, route_id, utterance, vector, row_hash FROM slot"
                " WHERE slot > ? ORDER BY slot LIMIT ?",
                (after_slot, -1 if rows_max is None else rows_max),
            )
            while part := cursor.fetchmany(ROWS_AT_ONCE):
                for row in part:
                    yield SlotRow(*row)

    # --- orphans: entries of a history that lost, kept for an operator ---

    def orphans(self) -> list[Orphan]:
        """Read the orphans, oldest first, each write once.  Any thread."""
        with self._opened().reading("read orphans") as reader:
            cursor = reader.execute(
                "SELECT op_id, epoch, seq, frame, moved_at_us FROM orphan WHERE orphan_id IN"
                " (SELECT min(orphan_id) FROM orphan GROUP BY op_id) ORDER BY orphan_id LIMIT ?",
                (ORPHANS_MAX,),
            )
            return [Orphan(*row) for row in cursor]

    def orphan_count(self) -> int:
        """Count the orphaned writes.  Any thread."""
        with self._opened().reading("count orphans") as reader:
            (count,) = reader.execute("SELECT count(DISTINCT op_id) FROM orphan").fetchone()
            return int(count)

    def drop_orphan(self, op_id: bytes) -> None:
        """Delete an orphaned write.  Runs on the writing thread.

        Raises:
            StorageUnavailable: It is still there.
        """
        with transaction(self._opened().writable(), "delete an orphan") as writer:
            writer.execute("DELETE FROM orphan WHERE op_id = ?", (op_id,))

    # --- facts of this node ---

    def meta_get(self, key: str) -> str | None:
        """Read a fact that was set.  Any thread."""
        return self._database.facts.get(key) if self._database is not None else None

    def meta_set(self, key: str, value: str | None) -> None:
        """Make a fact of this node durable; None removes it.  Runs on the writing thread.

        Raises:
            StorageUnavailable: It is not durable.
        """
        assert key != NODE_ID, "a node keeps its identity: this is a bug"
        self._opened().set_fact(key, value)

    # --- whole states ---

    def snapshot_to(self, target: Path) -> Position:
        """Write the state at one position to a file of its own.  Any thread.

        The writer continues meanwhile.  The file is complete and synced before it has its
        name, and holds nothing that belongs to this node alone.

        Raises:
            StorageUnavailable: Disk full, or the target's folder cannot be written.
        """
        database = self._opened()
        if database.corruption is not None:
            raise StorageUnavailable("no snapshot of a damaged database", reason="corrupt")
        with database.lock.shared(), translated("write a snapshot"):
            return export_snapshot(self.path, target)

    def install(
        self,
        source: Path,
        *,
        orphans_after_seq: int | None = None,
        now_us: int = 0,
        root: str | None = None,
    ) -> Stored:
        """Verify a snapshot file and install its state.  Runs on the writing thread.

        Args:
            source: A file of ``snapshot_to``, of a peer.
            orphans_after_seq: Keep own entries after this place as orphans.
            now_us: Wall clock for them, microseconds since 1970.
            root: The content root that the state must have; None for any.

        Raises:
            StorageCorrupt: The file is not what it claims to be; nothing changed.
            EncoderMismatch: Its vectors are another encoder's.
            StorageUnavailable: It could not be read or copied; nothing changed.
        """
        database = self._opened()
        with self._maintenance_paused():
            return install_snapshot(
                database, source, self._standby_encoders, orphans_after_seq, now_us, root
            )

    def replace_all(
        self, stored: Stored, *, orphans_after_seq: int | None = None, now_us: int = 0
    ) -> None:
        """Replace the state by a value, keeping what belongs to this node.

        The op log is empty afterwards.  Runs on the writing thread.

        Raises:
            StorageUnavailable: Nothing changed.
        """
        replace_state(self._opened(), stored, orphans_after_seq, now_us)

    def repair_rows(self, rows: Sequence[SlotWrite], digest: str) -> Stored:
        """Write rows of owned slots again, then read everything back, verified.

        Runs on the writing thread.

        Raises:
            StorageUnavailable: It was not written; or, with reason ``corrupt``, more than
                these rows is damaged.
        """
        database = self._opened()
        database.corruption = None
        with self._maintenance_paused():
            meta = replace(database.meta, digest=digest)
            with transaction(database.writable(), "repair rows") as writer:
                writer.executemany(REPLACE_SLOT, rows)
                write_meta(writer, meta)
            database.meta = meta
            with self._corruption_recorded(database):
                return load(self.path)

    def set_sole_voter(self) -> None:
        """Make this node the only voter: those of a restored state do not exist.

        Runs on the writing thread.
        """
        with transaction(self._opened().writable(), "set the sole voter") as writer:
            set_sole_voter(writer, self.node_id)

    # --- maintenance in the background ---

    def start_maintenance(self) -> None:
        """Scrub and checkpoint on a thread of its own, until ``close``.

        Raises:
            StorageUnavailable: The storage is closed.
        """
        database = self._opened()
        if self._is_ephemeral or self._thread is not None:
            return
        self._thread = MaintenanceThread(
            database.changes,
            needs_scrub=database.needs_scrub,
            scrub=self.scrub,
            checkpoint=self.checkpoint,
        )
        self._thread.start()

    def derive_with(self, derive: Derive) -> None:
        """Store the result of ``derive`` over the rows in every checkpoint from now on.

        It is called on the thread that writes the checkpoint.
        """
        self._derive = derive

    def _stop_maintenance(self) -> bool:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()
        return thread is not None

    @contextmanager
    def _maintenance_paused(self) -> Iterator[None]:
        was_running = self._stop_maintenance()
        try:
            yield
        finally:
            if was_running and self._database is not None and self._database.is_open:
                self.start_maintenance()

    def checkpoint(self, pause: Pause | None = None) -> None:
        """Write a checkpoint: the next boot is several times as fast.  Any thread.

        Raises:
            StorageUnavailable: It could not be written; the previous one, if any, is kept.
        """
        database = self._opened()
        # What changes during the walk counts for the next checkpoint.
        changed = database.changes.rows_changed
        with database.lock.shared(), self._corruption_recorded(database):
            maintenance.write_checkpoint(self.path, pause, self._derive)
        database.changes.rows_changed -= changed

    def scrub(self, pause: Pause | None = None) -> None:
        """Verify all of the file, as a boot without a checkpoint does.  Any thread.

        Raises:
            StorageUnavailable: It is corrupt (reason ``corrupt``) and from now on neither
                written to nor given away, or it could not be read.
        """
        database = self._opened()
        with database.lock.shared(), self._corruption_recorded(database):
            maintenance.scrub(self.path, pause)
        database.needs_scrub = False

    @contextmanager
    def _corruption_recorded(self, database: Database) -> Iterator[None]:
        try:
            yield
        except CorruptFile as corrupt:
            database.corruption = corrupt.reason
            # Without a checkpoint the next boot reads every row, and quarantines the file.
            drop_checkpoint(self.path)
            raise StorageUnavailable(corruption_message(corrupt.reason), reason="corrupt") from (
                corrupt
            )
