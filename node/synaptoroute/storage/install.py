"""States between files: a snapshot out, a peer's snapshot or a value in.

Going out, SQLite copies the file as it stands at one position while the writer goes on.
Coming in, the rows are replaced in one transaction of the own file rather than the file
by a rename: a crash in between could pair the new file with the old write-ahead log.
What belongs to the node itself (table ``node``) neither goes out nor is replaced.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.mutation import OP_ID_BYTES, Position, Proposal
from synaptoroute.core.snapshot import Snapshot
from synaptoroute.storage.aside import sync_folder
from synaptoroute.storage.connection import connect_reader, reader_uri, transaction
from synaptoroute.storage.loader import Damaged, read_meta
from synaptoroute.storage.records import Stored, dump_outcome, epoch_row
from synaptoroute.storage.schema import TABLES
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
)

_OWN: Final = frozenset({"node", "orphan", "slot_next"})
_TRAVELLING: Final = tuple(sorted(TABLES - _OWN))
_NO_OP_ID: Final = b"\x00" * OP_ID_BYTES


def copy_out(path: Path, target: Path) -> Position:
    """Write the state at one position to a file of its own.

    Returns:
        The position that the file holds.
    """
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.draft")
    try:
        with closing(connect_reader(path)) as reader:
            # VACUUM INTO writes to the other file, which query_only would forbid;
            # this connection cannot write to its own file all the same.
            reader.execute("PRAGMA query_only = OFF")
            reader.execute("VACUUM INTO ?", (str(draft),))
        with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
            with transaction(copy):
                for table in sorted(_OWN):
                    copy.execute(f"DELETE FROM {table}")
            position = read_meta(copy).position
        _sync_file(draft)
        draft.rename(target)
        sync_folder(target.parent)
    finally:
        draft.unlink(missing_ok=True)
    return position


def _sync_file(path: Path) -> None:
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
            remembered_row(each.seq, each.op_id, each.request_hash, dump_outcome(each.outcome))
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


def move_to_orphans(connection: sqlite3.Connection, after_seq: int, now_us: int) -> int:
    """Keep entries that the winning history does not have, inside the caller's transaction.

    Returns:
        How many there were.
    """
    cursor = connection.execute(
        "INSERT INTO orphan (op_id, epoch, seq, frame, moved_at_us)"
        " SELECT op_id, epoch, seq, frame, ? FROM oplog WHERE seq > ? ORDER BY seq",
        (now_us, after_seq),
    )
    return cursor.rowcount
