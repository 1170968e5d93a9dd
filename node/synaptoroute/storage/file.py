"""One database file: opened, verified, taken over for writing, closed.

Rule 1: until a state is verified the file is only read, so that damage is found as it
was left.  Rule 2: the lock is held from before the first look until after the last
write.  Rule 3: what is mirrored in memory (position, settings, facts of the node, sizes
of the op log) changes only after the transaction that changed the file.
"""

from __future__ import annotations

import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from synaptoroute.core.mutation import Position
from synaptoroute.core.snapshot import Snapshot
from synaptoroute.errors import StorageCorrupt, StorageUnavailable
from synaptoroute.storage import schema
from synaptoroute.storage.checkpoint import checkpoint_of, drop_checkpoint
from synaptoroute.storage.connection import (
    Synchronous,
    connect_reader,
    connect_writer,
    roll_back,
    transaction,
    translated,
)
from synaptoroute.storage.corruption import Damaged, finding_damage
from synaptoroute.storage.generation import NEXT_DIM, NEXT_FINGERPRINT
from synaptoroute.storage.install import drop_draft
from synaptoroute.storage.loader import (
    Spares,
    check_encoder,
    check_pages,
    collector_at_rest,
    load,
    read_meta,
    read_node,
    resume,
)
from synaptoroute.storage.lock import FileLock
from synaptoroute.storage.maintenance import Changes, Derive, Keeper, Pause, scrub, write_checkpoint
from synaptoroute.storage.quarantine import is_present, move_aside, sibling
from synaptoroute.storage.records import (
    VECTOR_DTYPE,
    Meta,
    Stored,
    condemned,
    sums_of,
    without,
)
from synaptoroute.storage.rw_lock import Gate
from synaptoroute.storage.wal import is_log_damaged
from synaptoroute.storage.writer import LogWindow, write_meta, write_node

OPLOG_ENTRIES_MAX: Final = 10_000
OPLOG_BYTES_MAX: Final = 67_108_864
_NODE_ID: Final = "node_id"
_EPHEMERAL: Final = ":memory:"


class DatabaseFile:
    """One SQLite file: opened and verified once, then written entry by entry.

    Invariants: ``position`` is that of the file; no transaction is open between two
    calls; nobody else writes to the file while it is open.

    Args:
        path: The database; its folder is made.  ``:memory:`` keeps everything in a
            temporary folder that goes with ``close``.
        synchronous: ``full`` survives a power failure, ``normal`` may lose the newest
            entries to one (never to a crash of the process).  Nothing of ``:memory:``
            is meant to survive, so there the disk is not waited for at all.
        oplog_entries_max: Entries kept for peers.
        oplog_bytes_max: Bytes of their frames.
        on_corrupt: ``raise`` after a damaged file was moved aside, or start empty.

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
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._is_ephemeral = str(path) == _EPHEMERAL
        self._synchronous: Synchronous = "off" if self._is_ephemeral else synchronous
        self._on_corrupt = on_corrupt
        self._log = LogWindow(oplog_entries_max, oplog_bytes_max)
        self._writer: sqlite3.Connection | None = None
        self._meta: Meta | None = None
        self._node: dict[str, str] = {}
        self._gate = Gate()
        self._changes = Changes()
        self._keeper: Keeper | None = None
        self._needs_scrub = False
        self._spares: Spares = {}
        self.damage: str | None = None
        self.derive: Derive | None = None
        self._place(Path(path))

    def _place(self, path: Path) -> None:
        """Settle where the file is, and that its folder exists."""
        self.path = path
        self._lock = FileLock(sibling(path, ".lock"))
        if not self._is_ephemeral:
            with translated(f"make the folder of {path.name}"):
                path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def node_id(self) -> str:
        """Identity of the node, 32 hexadecimal digits; as old as the file."""
        return self._node[_NODE_ID]

    @property
    def position(self) -> Position:
        """Position that is durable.  Any thread."""
        return self._opened().position

    @property
    def digest(self) -> str:
        """Digest of the state that is durable.  Any thread."""
        return self._opened().digest

    # --- opening and closing ---

    def open(self, *, fingerprint: str, dim: int, spares: Spares | None = None) -> Stored:
        """Make or migrate the file, verify all of it and take it over for writing.

        Args:
            fingerprint: The running encoder's; a new file remembers it.
            dim: Dimension of its vectors.
            spares: Other encoders whose vectors it may hold.

        Raises:
            EncoderMismatch: The stored vectors are another encoder's.
            SchemaTooNew: A later release wrote the file.
            StorageCorrupt: The file was damaged and has been moved aside.
            StorageUnavailable: It cannot be read or written, or is open elsewhere.
        """
        self._spares = spares or {}
        return self._open((fingerprint, dim))

    def open_stored(self) -> Stored:
        """Open a file with whatever encoder it was made with; for tools, not for nodes.

        Raises:
            StorageUnavailable: As ``open``, or there is no database.
        """
        return self._open(None)

    def _open(self, encoder: tuple[str, int] | None) -> Stored:
        assert self._writer is None, "the storage is open already: this is a bug"
        if self._is_ephemeral:
            with translated("make a temporary folder"):
                self._folder = tempfile.TemporaryDirectory(prefix="synaptoroute-")
            self._place(Path(self._folder.name) / "ephemeral.sqlite")
        self._lock.take()
        try:
            drop_draft(self.path)
            with collector_at_rest():
                try:
                    return self._read_or_create(encoder)
                except Damaged as damage:
                    moved_aside = self._move_aside(damage)
                    return replace(self._read_or_create(encoder), moved_aside=moved_aside)
        except BaseException:
            self.close()
            raise

    def _read_or_create(self, encoder: tuple[str, int] | None) -> Stored:
        if is_present(self.path) and sibling(self.path, "-journal").exists():
            with finding_damage():
                roll_back(self.path)
        is_blank = not is_present(self.path) or self._is_blank()
        if self._synchronous == "full" and is_log_damaged(self.path):
            raise Damaged("the write-ahead log lost transactions that were durable")
        if is_blank:
            if encoder is None:
                raise StorageUnavailable(f"there is no database {self.path}", reason="absent")
            return self._create(*encoder)
        self._migrate()
        with finding_damage(), closing(connect_reader(self.path)) as reader:
            meta = read_meta(reader)
            node = read_node(reader)
        if encoder is not None:
            check_encoder(meta, *encoder, self._spares)
        stored = self._resume(meta) or load(self.path)
        self._take_over(meta, node)
        self._needs_scrub = stored.is_from_checkpoint
        self._changes.rows = len(stored.slots) + len(stored.snapshot.remembered)
        self._changes.rows_changed = 0 if stored.is_from_checkpoint else self._changes.rows
        return stored

    def _resume(self, meta: Meta) -> Stored | None:
        """Take the rows from the checkpoint; a useless one goes, for it costs time."""
        if not checkpoint_of(self.path).exists():
            return None
        stored = resume(self.path, meta.fingerprint, meta.dim)
        if stored is None:
            drop_checkpoint(self.path)
        return stored

    def _is_blank(self) -> bool:
        """Whether a crash came between the file's first page and its tables."""
        with finding_damage(), closing(connect_reader(self.path)) as reader:
            return schema.is_empty(reader) or schema.stored_version(reader) < 0

    def _migrate(self) -> None:
        """Move an older file to this release's schema, once its pages are checked."""
        with finding_damage(), closing(connect_reader(self.path)) as reader:
            if schema.stored_version(reader) == schema.SCHEMA_VERSION:
                return
        check_pages(self.path)
        with (
            translated("migrate the database"),
            closing(connect_writer(self.path, self._synchronous)) as writer,
        ):
            schema.migrate(writer)

    def _create(self, fingerprint: str, dim: int) -> Stored:
        snapshot = Snapshot()
        sums = sums_of(snapshot)
        meta = Meta(snapshot.position, sums.hex(), fingerprint, dim, snapshot.settings)
        node = {_NODE_ID: uuid.uuid4().hex}
        doing = translated(f"make the database {self.path.name}")
        with doing, closing(connect_writer(self.path, self._synchronous)) as writer:
            with transaction(writer):
                schema.create_tables(writer)
                write_meta(writer, meta)
                write_node(writer, _NODE_ID, node[_NODE_ID])
            schema.migrate(writer)
        self._take_over(meta, node)
        empty = np.empty(0, dtype=np.int64), np.empty((0, dim), dtype=VECTOR_DTYPE)
        return Stored(snapshot, meta.digest, *empty, sums, is_new=True)

    def _take_over(self, meta: Meta, node: dict[str, str]) -> None:
        """Open the connection that writes, and mirror what commits need to know."""
        with translated(f"open {self.path.name} for writing"):
            self._writer = connect_writer(self.path, self._synchronous)
        self._meta, self._node = meta, node
        self._log.forget()

    def _known_log(self, connection: sqlite3.Connection) -> LogWindow:
        """Sizes of the op log's entries, read when the first entry comes, not at boot."""
        if not self._log.is_known:
            self._log.reset(connection.execute("SELECT seq, length(frame) FROM oplog ORDER BY seq"))
        return self._log

    def _move_aside(self, damage: Damaged) -> Path:
        path = move_aside(self.path, damage.position)
        if self._on_corrupt == "raise":
            raise StorageCorrupt(
                f"the database cannot be trusted: {damage.reason}; it was moved to {path}",
                path=str(path),
                reason=damage.reason,
            ) from damage
        return path

    # --- in the background ---

    def keep(self) -> None:
        """Scrub and checkpoint from now on, on a thread of its own, until ``close``.

        Raises:
            StorageUnavailable: The storage is closed.
        """
        self._opened()
        if self._is_ephemeral or self._keeper is not None:
            return
        self._keeper = Keeper(
            self._changes, needs_scrub=self._needs_scrub, scrub=self.scrub, write=self.checkpoint
        )
        self._keeper.start()

    def checkpoint(self, pause: Pause | None = None) -> None:
        """Write a checkpoint: the next boot is several times as fast.  Any thread.

        Raises:
            StorageUnavailable: It could not be written; the former one, if any, is kept.
        """
        changed = self._changes.rows_changed
        with self._gate.entered(), self._condemning():
            write_checkpoint(self.path, pause, self.derive)
        self._changes.rows_changed -= changed

    def scrub(self, pause: Pause | None = None) -> None:
        """Verify all of the file, as a boot without a checkpoint does.  Any thread.

        Raises:
            StorageUnavailable: It is damaged (reason ``corrupt``) and from now on neither
                written to nor given away, or it could not be read.
        """
        with self._gate.entered(), self._condemning():
            scrub(self.path, pause)
        self._needs_scrub = False

    @contextmanager
    def _condemning(self) -> Iterator[None]:
        """Take note of damage: without a checkpoint the next boot looks at every row, and
        moves the file aside.
        """
        self._opened()
        try:
            yield
        except Damaged as damage:
            self.damage = damage.reason
            drop_checkpoint(self.path)
            raise StorageUnavailable(condemned(damage.reason), reason="corrupt") from damage

    def _stop_keeper(self) -> bool:
        """End the background thread; say whether there was one."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.stop()
        return keeper is not None

    def close(self) -> None:
        """Close the file; calling it again does nothing.  Runs on the writing thread.

        A node that was kept leaves a fresh checkpoint for its next boot.
        """
        if self._stop_keeper() and self._changes.is_stale and self.damage is None:
            with suppress(StorageUnavailable):
                self.checkpoint()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        self._lock.free()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    def _opened(self) -> Meta:
        if self._writer is None or self._meta is None:
            raise StorageUnavailable("the storage is closed", reason="closed")
        return self._meta

    @contextmanager
    def _writing(self, doing: str) -> Iterator[sqlite3.Connection]:
        """One transaction of the writer."""
        self._opened()
        if self.damage is not None:
            raise StorageUnavailable(condemned(self.damage), reason="corrupt")
        assert self._writer is not None
        with translated(doing), transaction(self._writer):
            yield self._writer

    @contextmanager
    def _reading(self, doing: str) -> Iterator[sqlite3.Connection]:
        """One read transaction of a connection of its own."""
        self._opened()
        with (
            self._gate.entered(),
            translated(doing),
            closing(connect_reader(self.path)) as reader,
        ):
            reader.execute("BEGIN")
            yield reader

    # --- small facts of this node ---

    def meta_get(self, key: str) -> str | None:
        """Read a fact that was set.  Any thread."""
        return self._node.get(key)

    def meta_set(self, key: str, value: str | None) -> None:
        """Make a fact of this node durable; None removes it.  Runs on the writing thread.

        Raises:
            StorageUnavailable: It is not durable.
        """
        assert key != _NODE_ID, "a node keeps its identity: this is a bug"
        with self._writing("write a fact") as writer:
            write_node(writer, key, value)
        others = without(self._node, key)
        self._node = others if value is None else {**others, key: value}

    def _settle(self, meta: Meta, row_count: int) -> None:
        """Mirror a state that was replaced as a whole."""
        self._meta, self._node = meta, without(self._node, NEXT_FINGERPRINT, NEXT_DIM)
        self._log.forget()
        self._changes.rows_changed = self._changes.rows = row_count
