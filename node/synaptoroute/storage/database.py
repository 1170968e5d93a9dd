"""One database file: opened and verified, then held with its writing connection.

Until a state is verified the file is only read, so that corruption is quarantined exactly
as it was found.

``PRAGMA user_version`` holds the version of the schema, ``PRAGMA application_id`` marks the file
as ours.  A migration is one function.  It runs in one transaction with the change of the version,
and is never edited once it was released.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Final

import numpy as np

from synaptoroute.core.change import Commit, Snapshot
from synaptoroute.errors import SchemaTooNew, StorageUnavailable
from synaptoroute.failpoints import failpoint
from synaptoroute.storage.checkpoint import checkpoint_of, drop_checkpoint
from synaptoroute.storage.connection import (
    WAL_AUTOCHECKPOINT_PAGES,
    ReadWriteLock,
    Synchronous,
    connect_reader,
    connect_writer,
    has_room,
    roll_back_journal,
    sibling,
    transaction,
    translated,
)
from synaptoroute.storage.corruption import (
    CorruptFile,
    corruption_detected,
    corruption_message,
    is_present,
    is_wal_corrupt,
)
from synaptoroute.storage.levels import NEWEST_VERSION, trim_seals
from synaptoroute.storage.loader import (
    StandbyEncoders,
    check_encoder,
    check_pages,
    load,
    load_from_checkpoint,
    read_facts,
    read_meta,
)
from synaptoroute.storage.maintenance import ChangeCounter
from synaptoroute.storage.records import VECTOR_DTYPE, Meta, Stored, state_sums
from synaptoroute.storage.writer import LogWindow, write_fact, write_group, write_meta

APPLICATION_ID: Final = 0x53526F75
SCHEMA_VERSION = 1  # Every database is migrated to it when it is opened
MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {}
"""The step from each older version to the next."""

TABLES: Final = frozenset(
    {
        "meta",
        "node",
        "route",
        "slot",
        "slot_next",
        "oplog",
        "remembered",
        "import_open",
        "staging",
        "epoch",
        "orphan",
    }
)


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables of version 1, inside the caller's transaction."""
    # Comments are removed: SQLite stores the text of each statement, and snapshots are
    # compared with it character by character.
    script = files("synaptoroute.storage").joinpath("schema.sql").read_text("utf-8")
    lines = (line for line in script.splitlines() if not line.startswith("--"))
    for statement in "\n".join(lines).split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")


def is_empty(connection: sqlite3.Connection) -> bool:
    (count,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return bool(count == 0)


def stored_version(connection: sqlite3.Connection) -> int:
    """Read the schema version.

    Raises:
        SchemaTooNew: A later release wrote the file.
        StorageUnavailable: The file belongs to another program.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if application_id != APPLICATION_ID and not {"meta", "slot", "oplog"} <= names:
        raise StorageUnavailable(
            "the file is the SQLite database of another program; choose another path",
            reason="foreign",
        )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > max(SCHEMA_VERSION, NEWEST_VERSION):
        raise SchemaTooNew(
            f"the database has schema version {version}, this release knows up to "
            f"{NEWEST_VERSION}; run the release that wrote it, or a later one",
            stored=version,
            known=NEWEST_VERSION,
        )
    return int(version)


def migrate(connection: sqlite3.Connection) -> None:
    """Migrate the file to this release's version, one transaction per step."""
    for version in range(stored_version(connection), SCHEMA_VERSION):
        with transaction(connection):
            MIGRATIONS[version](connection)
            connection.execute(f"PRAGMA user_version = {version + 1}")


NODE_ID: Final = "node_id"
READERS_END_SECONDS: Final = 2.0
_ERRORS_OF_A_FULL_DISK: Final = frozenset({"disk_full", "io", "permission"})
NEXT_FINGERPRINT: Final = "next_fingerprint"
"""Fact of the node: the encoder whose vectors wait in ``slot_next``."""
NEXT_DIM: Final = "next_dim"


class Database:
    """An open database file: the connection that writes, and what memory mirrors of it.

    Invariants: no transaction is open between two calls; ``meta``, ``facts`` and the log
    window change only after the transaction that changed the file.
    """

    def __init__(
        self,
        path: Path,
        synchronous: Synchronous,
        log: LogWindow,
        meta: Meta,
        facts: dict[str, str],
        *,
        is_read_only: bool = False,  # The disk was too full to open the file for writing
    ) -> None:
        self.path = path
        self.meta = meta  # What is durable.  Any thread.
        self.facts = facts  # Replaced, never changed.  Any thread.
        self.changes = ChangeCounter()  # Since the checkpoint
        self.lock = ReadWriteLock()  # Shared for readers; exclusive for replacing the file
        self.owes_checkpoint = False  # One of the write-ahead log was put off
        self.needs_scrub = False  # A boot from a checkpoint left pages unread
        self.corruption: str | None = None  # Why the file may no longer be written to or given away
        self._synchronous: Synchronous = synchronous
        self._log = log
        # The sizes of the op log are read with the first commit, not at boot.
        self._log.unload()
        self._writer: sqlite3.Connection | None = None
        self.is_read_only = is_read_only  # Becomes false by itself when a write finds room
        if not is_read_only:
            self._connect()

    def _connect(self) -> None:
        with translated(f"open {self.path.name} for writing"):
            self._writer = connect_writer(self.path, self._synchronous)

    @property
    def is_open(self) -> bool:
        return self._writer is not None or self.is_read_only

    @property
    def writer(self) -> sqlite3.Connection:
        """The connection that writes; for the writing thread only."""
        if self.is_read_only:
            self._connect_when_there_is_room()
        if self._writer is None:
            raise StorageUnavailable("the storage is closed", reason="closed")
        return self._writer

    def _connect_when_there_is_room(self) -> None:
        # Readers took the file for immutable: none may be left when the first page changes.
        with self.lock.exclusive(READERS_END_SECONDS) as is_free:
            if not is_free or not has_room(self.path.parent):
                raise StorageUnavailable(
                    "the disk is full, so the database is read only",
                    retry_after_seconds=5.0,
                    reason="disk_full",
                )
            self._connect()
            self.is_read_only = False

    def writable(self) -> sqlite3.Connection:
        """The connection that writes, if the file may be written to."""
        if self.corruption is not None:
            raise StorageUnavailable(corruption_message(self.corruption), reason="corrupt")
        return self.writer

    @contextmanager
    def reading(self, doing: str) -> Iterator[sqlite3.Connection]:
        """Run one read transaction on a connection of its own.  Any thread."""
        with (
            self.lock.shared(),
            translated(doing),
            closing(connect_reader(self.path, immutable=self.is_read_only)) as reader,
        ):
            reader.execute("BEGIN")
            yield reader

    def commit(self, commits: Sequence[Commit], meta: Meta) -> None:
        """Make a group of entries durable, all or none; ``meta`` is the state afterwards."""
        sizes: list[tuple[int, int]] = []
        written = freed = 0
        is_large = False
        for commit in commits:
            sizes.append((commit.entry.seq, len(commit.entry.frame)))
            is_large |= commit.change.forked_from is not None or commit.change.is_set_removed
            for part in (commit.change, *commit.change.others):
                written += len(part.writes)
                freed += len(part.freed)
        log = self._log
        if is_large:
            self._put_off_checkpoint()
        # Rows, log, outcomes and position in one transaction: a crash leaves all or none.
        with transaction(self.writable(), "commit entries") as writer:
            if not log.is_loaded:
                log.load(writer.execute("SELECT seq, length(frame) FROM oplog ORDER BY seq"))
            floor = log.floor_after(sizes)
            is_re_embedding = NEXT_FINGERPRINT in self.facts
            copied, removed = write_group(
                writer,
                commits,
                meta,
                floor,
                settings=self.meta.settings,
                is_re_embedding=is_re_embedding,
            )
            failpoint("commit.begun")
        # Only now: a failed commit leaves the mirror, and the group can be repeated.
        log.extend(sizes, floor)
        self.meta = meta
        written, freed = written + copied, freed + removed
        self.changes.add(written - freed, len(commits) + written + freed)

    def _put_off_checkpoint(self) -> None:
        """Leave out the checkpoint of the write-ahead log behind the next transaction.

        It writes the rows of a copied set a second time, for which nobody should wait.
        """
        with translated("put off a checkpoint"):
            self.writable().execute("PRAGMA wal_autocheckpoint = 0")
        self.owes_checkpoint = True

    def settle(self) -> None:
        """Make up for a checkpoint that was put off."""
        self.owes_checkpoint = False
        writer = self.writer
        with suppress(sqlite3.Error):  # the next commit tries again
            writer.execute(f"PRAGMA wal_autocheckpoint = {WAL_AUTOCHECKPOINT_PAGES}")
            writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def trim_log(self, floor: int) -> None:
        """Delete the entries of the op log before a place; the newest one stays."""
        log = self._log
        with transaction(self.writable(), "trim the op log") as writer:
            if not log.is_loaded:
                log.load(writer.execute("SELECT seq, length(frame) FROM oplog ORDER BY seq"))
            floor = min(floor, self.meta.position.seq)
            writer.execute("DELETE FROM oplog WHERE seq < ?", (floor,))
            trim_seals(writer, floor, self.meta.position.seq)
        log.extend((), floor)

    def purge_log(self, floor: int) -> None:
        """Delete entries as ``trim_log`` does, and overwrite everything that was deleted."""
        self.trim_log(floor)
        with translated("overwrite deleted entries"):
            # Deleted texts stay in free pages and in the WAL until both are written anew.
            self.writable().execute("VACUUM")
            self.writable().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def set_fact(self, key: str, value: str | None) -> None:
        """Make a fact of this node durable; None removes it."""
        with transaction(self.writable(), "write a fact") as writer:
            write_fact(writer, key, value)
        facts = {name: held for name, held in self.facts.items() if name != key}
        self.facts = facts if value is None else {**facts, key: value}

    def set_state(self, meta: Meta, row_count: int) -> None:
        """Mirror a state that replaced the previous one as a whole."""
        self.meta, self.facts = meta, self.lasting_facts()
        self._log.unload()
        self.changes.rows_changed = self.changes.rows = row_count

    def lasting_facts(self) -> dict[str, str]:
        """Facts of this node, without those of a re-embedding."""
        ending = (NEXT_FINGERPRINT, NEXT_DIM)
        return {key: value for key, value in self.facts.items() if key not in ending}

    def reconnect(self) -> None:
        """Open the writer anew; if that fails the database is closed."""
        # Other threads ask for the position meanwhile: the old connection stays visible
        # until the new one is there.
        try:
            if self._writer is not None:
                self._writer.close()
            self._connect()
        except StorageUnavailable:
            self._writer = None
            raise

    def close(self) -> None:
        writer, self._writer = self._writer, None
        self.is_read_only = False
        if writer is not None:
            writer.close()


def open_database(
    path: Path,
    synchronous: Synchronous,
    log: LogWindow,
    encoder: tuple[str, int] | None,
    standby_encoders: StandbyEncoders,
) -> tuple[Database, Stored]:
    """Open the file for writing, or read only if the disk is full; see ``_open_writable``."""
    try:
        return _open_writable(path, synchronous, log, encoder, standby_encoders)
    except StorageUnavailable as error:
        # SQLite calls a full disk an I/O error where it makes the index of its log.
        if error.fields.get("reason") not in _ERRORS_OF_A_FULL_DISK or has_room(path.parent):
            raise
        if not is_present(path) or not _is_self_contained(path):
            raise
    return _open_read_only(path, synchronous, log, encoder, standby_encoders)


def _is_self_contained(path: Path) -> bool:
    """Whether the file alone holds everything, as a clean stop leaves it."""
    logs = (sibling(path, "-wal"), sibling(path, "-journal"))
    return not any(log.exists() and log.stat().st_size for log in logs)


def _open_read_only(
    path: Path,
    synchronous: Synchronous,
    log: LogWindow,
    encoder: tuple[str, int] | None,
    standby_encoders: StandbyEncoders,
) -> tuple[Database, Stored]:
    """Verify a file that nobody can write to now, and open it for reading.

    Raises:
        CorruptFile: The content cannot be what was written.
        EncoderMismatch: The stored vectors are another encoder's.
        StorageUnavailable: It cannot be read, or an earlier release wrote it.
    """
    with corruption_detected(), closing(connect_reader(path, immutable=True)) as reader:
        if stored_version(reader) < SCHEMA_VERSION:
            raise StorageUnavailable(
                "the disk is full, so the database cannot be migrated", reason="disk_full"
            )
        meta = read_meta(reader)
        facts = read_facts(reader)
    if encoder is not None:
        check_encoder(meta, *encoder, standby_encoders)
    stored = load(path, immutable=True)
    database = Database(path, synchronous, log, meta, facts, is_read_only=True)
    database.changes.rows = len(stored.slots) + len(stored.snapshot.remembered)
    database.changes.rows_changed = database.changes.rows
    return database, stored


def _open_writable(
    path: Path,  # The database; the caller holds its lock
    synchronous: Synchronous,
    log: LogWindow,  # The window of the op log to use
    # Fingerprint and dimension of the running one; None accepts any, and makes no file
    encoder: tuple[str, int] | None,
    standby_encoders: StandbyEncoders,  # Others whose vectors the file may hold
) -> tuple[Database, Stored]:
    """Make or migrate the file, verify all of it and open it for writing.

    Raises:
        CorruptFile: The content cannot be what was written.
        EncoderMismatch: The stored vectors are another encoder's.
        SchemaTooNew: A later release wrote the file.
        StorageUnavailable: It cannot be read or written.
    """
    if is_present(path) and sibling(path, "-journal").exists():
        with corruption_detected():
            roll_back_journal(path)
    is_blank = not is_present(path) or _is_blank(path)
    # With ``normal`` a power failure may cut off several transactions: no corruption.
    if synchronous == "full" and is_wal_corrupt(path):
        raise CorruptFile("the write-ahead log lost transactions that were durable")
    if is_blank:
        if encoder is None:
            raise StorageUnavailable(f"there is no database {path}", reason="absent")
        return _create(path, synchronous, log, *encoder)
    _migrate(path, synchronous)
    with corruption_detected(), closing(connect_reader(path)) as reader:
        meta = read_meta(reader)
        facts = read_facts(reader)
    if encoder is not None:
        check_encoder(meta, *encoder, standby_encoders)
    stored = _load_checkpoint(path, meta) or load(path)
    database = Database(path, synchronous, log, meta, facts)
    changes = database.changes
    changes.rows = len(stored.slots) + len(stored.snapshot.remembered)
    changes.rows_changed = 0 if stored.is_from_checkpoint else changes.rows
    database.needs_scrub = stored.is_from_checkpoint
    return database, stored


def _is_blank(path: Path) -> bool:
    """Whether a crash came between the first page of the file and its tables."""
    with corruption_detected(), closing(connect_reader(path)) as reader:
        return is_empty(reader) or stored_version(reader) < 0


def _migrate(path: Path, synchronous: Synchronous) -> None:
    with corruption_detected(), closing(connect_reader(path)) as reader:
        if stored_version(reader) >= SCHEMA_VERSION:
            return
    check_pages(path)
    doing = translated("migrate the database")
    with doing, closing(connect_writer(path, synchronous)) as writer:
        migrate(writer)


def _load_checkpoint(path: Path, meta: Meta) -> Stored | None:
    """Load the state from the checkpoint; a useless one is removed, for it costs time."""
    if not checkpoint_of(path).exists():
        return None
    stored = load_from_checkpoint(path, meta.fingerprint, meta.dim)
    if stored is None:
        drop_checkpoint(path)
    return stored


def _create(
    path: Path, synchronous: Synchronous, log: LogWindow, fingerprint: str, dim: int
) -> tuple[Database, Stored]:
    snapshot = Snapshot()
    sums, digest = state_sums(snapshot)
    meta = Meta(snapshot.position, digest, fingerprint, dim, snapshot.settings)
    facts = {NODE_ID: uuid.uuid4().hex}
    doing = translated(f"make the database {path.name}")
    with doing, closing(connect_writer(path, synchronous)) as writer:
        with transaction(writer):
            create_tables(writer)
            write_meta(writer, meta)
            write_fact(writer, NODE_ID, facts[NODE_ID])
        migrate(writer)
    empty = np.empty(0, dtype=np.int64), np.empty((0, dim), dtype=VECTOR_DTYPE)
    stored = Stored(snapshot, meta.digest, *empty, sums, is_new=True)
    return Database(path, synchronous, log, meta, facts), stored
