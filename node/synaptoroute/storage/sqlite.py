"""The node's database as the rest of the node sees it.

Threads: the methods that write belong to one thread at a time (the caller's before
``start``, the applier's afterwards); ``read_log``, ``rows``, ``snapshot_to`` and
``meta_get`` may be called from any.  Rows, log, outcomes, position and digest of an
entry become durable in one transaction, so a node that dies anywhere wakes up at some
position with exactly the state of that position.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from synaptoroute.core.change import Change, Commit, SlotWrite
from synaptoroute.core.mutation import Position
from synaptoroute.errors import StorageCorrupt, StorageUnavailable
from synaptoroute.failpoints import failpoint
from synaptoroute.storage import install
from synaptoroute.storage.connection import connect_reader, connect_writer, translated
from synaptoroute.storage.corruption import Damaged, finding_damage
from synaptoroute.storage.generation import NEXT_DIM, NEXT_FINGERPRINT
from synaptoroute.storage.loader import check_encoder, load, read_meta
from synaptoroute.storage.orphans import Orphan, count_orphans, drop_orphan, read_orphans
from synaptoroute.storage.outcomes import load_outcome
from synaptoroute.storage.quarantine import is_present
from synaptoroute.storage.re_embedding import ReencodedFile
from synaptoroute.storage.records import LogRow, Meta, SlotRow, Stored, sums_of, without
from synaptoroute.storage.writer import (
    check_order,
    drop_encoded,
    rewrite_rows,
    write_changes,
    write_entries,
    write_imports,
    write_meta,
    write_node,
)

ROWS_AT_ONCE: Final = 512
READERS_SECONDS_MAX: Final = 5.0
"""How long those who read may hold up a new file."""


class SQLiteStorage(ReencodedFile):
    """A route set on disk: rows, routes, log and outcomes at one position.

    Invariants: ``position`` is that of the file; no transaction is open between two
    calls; nobody else writes to the file while it is open.
    """

    # --- entries ---

    @property
    def encoder(self) -> tuple[str, int]:
        """Whose vectors the file holds: fingerprint and dimension.  Any thread."""
        meta = self._opened()
        return meta.fingerprint, meta.dim

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
        meta = self._opened()
        check_order(meta.position, commits)
        changes = [commit.change for commit in commits]
        settings = next(
            (each.settings for each in reversed(changes) if each.settings is not None),
            meta.settings,
        )
        last = commits[-1]
        switched = next((each.encoder for each in reversed(changes) if each.encoder), None)
        vectors = switched or meta
        after = Meta(last.entry.position, last.digest, vectors.fingerprint, vectors.dim, settings)
        # A walk over the rows would meet vectors of two sizes.
        was_kept = switched is not None and self._stop_keeper()
        try:
            self._commit(commits, changes, after)
        finally:
            if was_kept:
                self.keep()

    def _commit(self, commits: Sequence[Commit], changes: Sequence[Change], after: Meta) -> None:
        """Write a group of entries in one transaction."""
        sizes = [(commit.entry.seq, len(commit.entry.frame)) for commit in commits]
        with self._writing("commit entries") as writer:
            floor = self._known_log(writer).floor_after(sizes)
            write_changes(writer, changes)
            if NEXT_FINGERPRINT in self._node:
                drop_encoded(writer, changes)
            for commit in commits:
                write_imports(writer, commit)
            write_entries(writer, commits, floor)
            write_meta(writer, after)
            failpoint("commit.begun")
        self._log.extend(sizes, floor)
        self._meta = after
        written = sum(len(change.writes) for change in changes)
        freed = sum(len(change.freed) for change in changes)
        self._changes.add(written - freed, len(commits) + written + freed)

    def read_log(self, after_seq: int, *, entries_max: int, bytes_max: int) -> list[LogRow]:
        """Read entries for a peer.  Any thread.

        Args:
            after_seq: The last place the peer holds.
            entries_max: At most so many entries.
            bytes_max: At most so many bytes of frames, but always one entry.

        Returns:
            Consecutive entries from ``after_seq + 1``; none where the op log does not
            reach back that far or does not go on.
        """
        found: list[LogRow] = []
        size_bytes = 0
        with self._reading("read the op log") as reader:
            cursor = reader.execute(
                "SELECT seq, epoch, op_id, prev_chain, chain, time_us, frame, outcome, digest"
                " FROM oplog WHERE seq > ? ORDER BY seq LIMIT ?",
                (after_seq, entries_max),
            )
            for seq, epoch, op_id, prev_chain, chain, time_us, frame, outcome, digest in cursor:
                size_bytes += len(frame)
                if seq != after_seq + 1 + len(found) or (found and size_bytes > bytes_max):
                    break
                came_of = load_outcome(outcome)
                found.append(
                    LogRow(seq, epoch, op_id, prev_chain, chain, time_us, frame, came_of, digest)
                )
        return found

    def log_floor(self) -> int | None:
        """Place of the oldest entry of the op log; None where it is empty.  Any thread."""
        with self._reading("read the op log") as reader:
            (floor,) = reader.execute("SELECT min(seq) FROM oplog").fetchone()
            return None if floor is None else int(floor)

    def orphans(self) -> list[Orphan]:
        """Entries that a history which won does not have.  Any thread."""
        with self._reading("read orphans") as reader:
            return read_orphans(reader)

    def orphan_count(self) -> int:
        """How many writes they are.  Any thread."""
        with self._reading("count orphans") as reader:
            return count_orphans(reader)

    def drop_orphan(self, op_id: bytes) -> None:
        """Forget one.  Runs on the writing thread.

        Raises:
            StorageUnavailable: It is still there.
        """
        with self._writing("forget an orphan") as writer:
            drop_orphan(writer, op_id)

    def rows(self, after_slot: int = -1, rows_max: int | None = None) -> Iterator[SlotRow]:
        """Read the tensor's rows as the file holds them, in slot order.  Any thread.

        All rows of one call are of one position.  While the iteration lasts the
        write-ahead log cannot be reset, so a slow reader takes ``rows_max`` at a time.
        """
        with self._reading("read rows") as reader:
            cursor = reader.execute(
                "SELECT slot, route_id, utterance, vector, row_hash FROM slot"
                " WHERE slot > ? ORDER BY slot LIMIT ?",
                (after_slot, -1 if rows_max is None else rows_max),
            )
            while part := cursor.fetchmany(ROWS_AT_ONCE):
                for row in part:
                    yield SlotRow(*row)

    # --- whole states ---

    def snapshot_to(self, target: Path) -> Position:
        """Write the state at one position to a file of its own.  Any thread.

        The writer goes on meanwhile.  The file is complete and synced before it has its
        name, and holds nothing that belongs to this node alone.

        Raises:
            StorageUnavailable: Disk full, or the target's folder cannot be written.
        """
        self._opened()
        if self.damage is not None:
            raise StorageUnavailable("a damaged database is not given away", reason="corrupt")
        with self._gate.entered(), translated("write a snapshot"):
            return install.copy_out(self.path, target)

    def install(
        self, source: Path, *, orphans_after_seq: int | None = None, now_us: int = 0
    ) -> Stored:
        """Verify a snapshot file and take over its state.  Runs on the writing thread.

        Args:
            source: A file of ``snapshot_to``, of a peer; nobody may change it meanwhile.
            orphans_after_seq: Keep own entries after this place as orphans.
            now_us: Wall clock for them, microseconds since 1970.

        Raises:
            StorageCorrupt: The file is not what it claims to be; nothing changed.
            EncoderMismatch: Its vectors are another encoder's.
            StorageUnavailable: It could not be read or copied; nothing changed.
        """
        own = self._opened()
        was_kept = self._stop_keeper()
        draft = install.draft_of(self.path)
        try:
            stored, meta = self._verify(source, draft)
            check_encoder(meta, own.fingerprint, own.dim, self._spares)
            with translated("prepare a snapshot"):
                facts = without(self._node, NEXT_FINGERPRINT, NEXT_DIM)
                install.bring_own(draft, self.path, orphans_after_seq, now_us, facts)
            if not self._put_in_place(draft, meta, len(stored.slots)):
                self._copy_in(draft, orphans_after_seq, now_us, meta, len(stored.slots))
        except Damaged as damage:
            raise StorageCorrupt(
                f"the snapshot cannot be trusted: {damage.reason}", source=str(source)
            ) from damage
        finally:
            install.drop_draft(self.path)
            if was_kept and self._writer is not None:
                self.keep()
        return stored

    def _verify(self, source: Path, draft: Path) -> tuple[Stored, Meta]:
        """Copy a snapshot beside the database and verify the copy."""
        if not is_present(source):
            raise Damaged("there is no snapshot")
        assert self._writer is not None
        with translated("copy a snapshot"):
            shutil.copyfile(source, draft)
        with finding_damage():
            install.check_schema(self._writer, draft)
            with closing(connect_reader(draft, immutable=True)) as reader:
                meta = read_meta(reader)
        return load(draft, immutable=True), meta

    def _put_in_place(self, draft: Path, meta: Meta, row_count: int) -> bool:
        """Exchange the file, if nobody else has it open; the writer is a new one then."""
        with self._gate.shut(READERS_SECONDS_MAX) as is_empty:
            writer = self._writer
            assert writer is not None
            try:
                with translated("put a snapshot in place"):
                    is_placed = is_empty and install.put_in_place(writer, draft, self.path)
            finally:
                writer.close()
                self._writer = self._connect_again()
        if is_placed:
            self._settle(meta, row_count)
            self.damage = None
        return is_placed

    def _connect_again(self) -> sqlite3.Connection:
        """Open the writer anew; if that fails the storage is closed."""
        try:
            with translated(f"open {self.path.name} for writing"):
                return connect_writer(self.path, self._synchronous)
        except StorageUnavailable:
            self._writer = None
            raise

    def _copy_in(
        self, draft: Path, orphans_after_seq: int | None, now_us: int, meta: Meta, row_count: int
    ) -> None:
        """Replace the rows in one transaction: slower, but others may have the file open."""
        assert self._writer is not None
        with (
            translated("open a snapshot"),
            install.attached(self._writer, draft),
            self._replacing(orphans_after_seq, now_us, meta, row_count) as writer,
        ):
            install.copy_in(writer)

    def replace_all(
        self, stored: Stored, *, orphans_after_seq: int | None = None, now_us: int = 0
    ) -> None:
        """Replace the state by a value, keeping what is this node's own.

        The op log is empty afterwards.  Runs on the writing thread.

        Raises:
            StorageUnavailable: Nothing changed.
        """
        own = self._opened()
        snapshot = stored.snapshot
        meta = replace(
            own,
            position=snapshot.position,
            digest=sums_of(snapshot).hex(),
            settings=snapshot.settings,
        )
        with self._replacing(orphans_after_seq, now_us, meta, len(stored.slots)) as writer:
            install.write_state(writer, stored)

    def mend(self, rows: Sequence[SlotWrite], digest: str) -> Stored:
        """Write rows of owned slots again, then read all back, verified.

        Runs on the writing thread.

        Raises:
            StorageUnavailable: It was not written; or, with reason ``corrupt``, more than
                these rows is damaged.
        """
        meta = self._opened()
        self.damage = None
        was_kept = self._stop_keeper()
        try:
            with self._writing("mend rows") as writer:
                rewrite_rows(writer, rows)
                write_meta(writer, replace(meta, digest=digest))
            self._meta = replace(meta, digest=digest)
            with self._condemning():
                return load(self.path)
        finally:
            if was_kept:
                self.keep()

    def keep_one_voter(self) -> None:
        """Let this node alone decide what survives: the voters of a restored state are gone.

        Runs on the writing thread.
        """
        with self._writing("keep one voter") as writer:
            install.keep_one_voter(writer, self.node_id)

    @contextmanager
    def _replacing(
        self, orphans_after_seq: int | None, now_us: int, meta: Meta, row_count: int
    ) -> Iterator[sqlite3.Connection]:
        """Replace the state in one transaction and mirror the new one."""
        with self._writing("replace the state") as writer:
            if orphans_after_seq is not None:
                install.move_to_orphans(writer, orphans_after_seq, now_us)
            yield writer
            for key in (NEXT_FINGERPRINT, NEXT_DIM):
                write_node(writer, key, None)
            write_meta(writer, meta)
        self._settle(meta, row_count)
