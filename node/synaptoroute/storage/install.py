"""States between files: a snapshot out, a peer's snapshot or a value in.

Going out, SQLite copies the tables as they stand at one position while the writer goes
on.  Coming in, a verified copy of the snapshot takes the database's place by a rename;
where another program has the database open, its rows are replaced in one transaction
instead.  What belongs to the node itself (table ``node``) neither goes out nor is
replaced.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.mutation import OP_ID_BYTES, Position, Proposal
from synaptoroute.core.snapshot import EpochRecord, Snapshot
from synaptoroute.failpoints import failpoint
from synaptoroute.storage.connection import (
    BUSY_SECONDS,
    PAGE_BYTES,
    connect_reader,
    reader_uri,
    transaction,
)
from synaptoroute.storage.corruption import Damaged
from synaptoroute.storage.loader import read_meta
from synaptoroute.storage.outcomes import text_of
from synaptoroute.storage.quarantine import sibling, sync_folder
from synaptoroute.storage.records import Stored, epoch_row, load_epoch
from synaptoroute.storage.schema import TABLES, create_tables
from synaptoroute.storage.writer import (
    INSERT_EPOCH,
    INSERT_IMPORT,
    INSERT_REMEMBERED,
    INSERT_ROUTE,
    INSERT_SLOT,
    INSERT_STAGING,
    import_row,
    remembered_row,
    route_row,
    write_node,
)

_OWN: Final = frozenset({"node", "orphan", "slot_next"})
_TRAVELLING: Final = tuple(sorted(TABLES - _OWN))
TAIL_ENTRIES_MAX: Final = 1_024
TAIL_BYTES_MAX: Final = 8_388_608
_NO_OP_ID: Final = b"\x00" * OP_ID_BYTES


def copy_out(path: Path, target: Path) -> Position:
    """Write the state at one position to a file of its own.

    Of the op log only the newest entries go along: a new node needs none of them for
    itself, and those that are a little behind it can be served from few.

    Returns:
        The position that the file holds.
    """
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.draft")
    try:
        with closing(_connect_draft(draft)) as copy:
            copy.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            copy.execute("ATTACH ? AS own", (f"{path.absolute().as_uri()}?mode=ro",))
            with transaction(copy):
                create_tables(copy)
                floor = _tail_floor(copy)
                for table in _TRAVELLING:
                    if table != "oplog":
                        copy.execute(f"INSERT INTO main.{table} SELECT * FROM own.{table}")
                copy.execute("INSERT INTO oplog SELECT * FROM own.oplog WHERE seq >= ?", (floor,))
            position = read_meta(copy).position
        sync_file(draft)
        failpoint("snapshot.written")
        draft.rename(target)
        sync_folder(target.parent)
    finally:
        draft.unlink(missing_ok=True)
    return position


def _connect_draft(draft: Path) -> sqlite3.Connection:
    """Open a file that is worth nothing until it is whole: without journal or sync."""
    connection = sqlite3.connect(
        f"{draft.absolute().as_uri()}?mode=rwc",
        uri=True,
        isolation_level=None,
        timeout=BUSY_SECONDS,
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _tail_floor(connection: sqlite3.Connection) -> int:
    """Say from which entry on the op log of ``own`` travels."""
    floor = size_bytes = 0
    for seq, frame_bytes in connection.execute(
        "SELECT seq, length(frame) FROM own.oplog ORDER BY seq DESC LIMIT ?", (TAIL_ENTRIES_MAX,)
    ):
        size_bytes += frame_bytes
        if size_bytes > TAIL_BYTES_MAX:
            break
        floor = seq
    return floor or 1 << 62


def draft_of(path: Path) -> Path:
    """Where a snapshot stands while it becomes the database."""
    return sibling(path, ".incoming")


def drop_draft(path: Path) -> None:
    """Remove what a crash left of a snapshot."""
    with suppress(OSError):
        draft_of(path).unlink(missing_ok=True)


def bring_own(
    draft: Path, path: Path, orphans_after_seq: int | None, now_us: int, facts: Mapping[str, str]
) -> None:
    """Give a snapshot what belongs to this node, so that it can take the database's place.

    Args:
        draft: The snapshot, which nobody else has open.
        path: The database.
        orphans_after_seq: Keep own entries after this place as orphans.
        now_us: Wall clock for them, microseconds since 1970.
        facts: Facts of the node.
    """
    with closing(_connect_draft(draft)) as copy:
        copy.execute("ATTACH ? AS own", (f"{path.absolute().as_uri()}?mode=ro",))
        with transaction(copy):
            for table in _OWN:
                copy.execute(f"DELETE FROM main.{table}")
            for key, value in facts.items():
                write_node(copy, key, value)
            copy.execute("INSERT INTO main.orphan SELECT * FROM own.orphan")
            if orphans_after_seq is not None:
                move_to_orphans(copy, orphans_after_seq, now_us, "own")
    sync_file(draft)
    failpoint("install.drafted")


def put_in_place(writer: sqlite3.Connection, draft: Path, path: Path) -> bool:
    """Rename a draft over the database, whose only connection is ``writer``.

    The database first becomes a single file without a log, which SQLite does only where
    no other connection exists; nobody can open it from then until the rename.  A crash
    leaves either the one file or the other, whole.

    Returns:
        False where another connection exists; nothing changed.

    Raises:
        OSError: The file could not be renamed; the database is as it was.
    """
    try:
        (mode,) = writer.execute("PRAGMA journal_mode = DELETE").fetchone()
        if mode != "delete":
            return False
        writer.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        return False
    try:
        draft.rename(path)
        failpoint("install.renamed")
        sync_folder(path.parent)
    finally:
        writer.execute("ROLLBACK")
    return True


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_schema(own: sqlite3.Connection, source: Path) -> None:
    """Refuse a file whose tables are not ours, word for word.

    Raises:
        Damaged: Other tables, views, triggers or indexes.
    """
    query = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
    with closing(connect_reader(source, immutable=True)) as donor:
        if donor.execute(query).fetchall() != own.execute(query).fetchall():
            raise Damaged("the snapshot has another schema")


@contextmanager
def attached(connection: sqlite3.Connection, source: Path) -> Iterator[None]:
    """Make a file that nobody changes readable as ``donor``."""
    connection.execute("ATTACH ? AS donor", (reader_uri(source),))
    try:
        yield
    finally:
        connection.execute("DETACH donor")


def copy_in(connection: sqlite3.Connection) -> None:
    """Replace the state by that of ``donor``, inside the caller's transaction."""
    for table in _TRAVELLING:
        connection.execute(f"DELETE FROM main.{table}")
        connection.execute(f"INSERT INTO main.{table} SELECT * FROM donor.{table}")
    connection.execute("DELETE FROM slot_next")


def write_state(connection: sqlite3.Connection, stored: Stored) -> None:
    """Replace the state by a value, inside the caller's transaction; not ``meta``."""
    snapshot = stored.snapshot
    for table in (*_TRAVELLING, "slot_next"):
        if table != "meta":
            connection.execute(f"DELETE FROM {table}")
    connection.executemany(INSERT_SLOT, _slot_rows(stored))
    connection.executemany(INSERT_ROUTE, [route_row(route) for route in snapshot.routes])
    connection.executemany(INSERT_EPOCH, [epoch_row(epoch) for epoch in snapshot.epochs])
    connection.executemany(
        INSERT_REMEMBERED,
        [
            remembered_row(each.seq, each.op_id, each.request_hash, text_of(each))
            for each in snapshot.remembered
        ],
    )
    _write_imports(connection, snapshot)


def _slot_rows(stored: Stored) -> Iterator[tuple[int, int, str, bytes, bytes]]:
    snapshot = stored.snapshot
    owners = {
        slot: (route.route_id, utterance)
        for route in snapshot.routes
        for slot, utterance in zip(route.slots, route.utterances, strict=True)
    }
    for slot, vector in zip(stored.slots.tolist(), stored.vectors, strict=True):
        yield (slot, *owners[slot], vector.tobytes(), snapshot.row_hashes[slot])


def _write_imports(connection: sqlite3.Connection, snapshot: Snapshot) -> None:
    for staged in snapshot.imports:
        begin = staged.begin
        connection.execute(
            INSERT_IMPORT, import_row(begin.import_id, begin.replace, staged.touched_seq)
        )
        connection.executemany(
            INSERT_STAGING,
            [
                (begin.import_id, chunk.number, encode_proposal(Proposal(_NO_OP_ID, chunk)))
                for chunk in staged.chunks
            ],
        )


def keep_one_voter(connection: sqlite3.Connection, node_id: str) -> None:
    """Let one node alone decide what survives, inside the caller's transaction.

    For a state that was restored: the voters of its last epoch are gone.
    """
    row = connection.execute("SELECT * FROM epoch ORDER BY epoch DESC LIMIT 1").fetchone()
    if row is not None:
        record = load_epoch(*row[:-1])
        opened = replace(record.opened, voters=(node_id,))
        connection.execute("DELETE FROM epoch WHERE epoch = ?", (record.epoch,))
        connection.execute(INSERT_EPOCH, epoch_row(EpochRecord(record.epoch, opened)))


def move_to_orphans(
    connection: sqlite3.Connection, after_seq: int, now_us: int, schema: str = "main"
) -> int:
    """Keep entries that the winning history does not have, inside the caller's transaction.

    Returns:
        How many there were.
    """
    cursor = connection.execute(
        "INSERT INTO orphan (op_id, epoch, seq, frame, moved_at_us)"
        f" SELECT op_id, epoch, seq, frame, ? FROM {schema}.oplog WHERE seq > ? ORDER BY seq",
        (now_us, after_seq),
    )
    return cursor.rowcount
