"""Snapshots: the state at one position, written to a file and installed from one.

Export: SQLite copies the tables as they are at one position while the writer continues.
Install: a verified copy of the snapshot takes the database's place by a rename.  If
another program has the database open, its rows are replaced in one transaction instead.
What belongs to the node itself (table ``node``) is neither exported nor replaced.
"""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from synaptoroute.core.change import EpochRecord, SetState, Snapshot, StagedImport
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.content import root_of
from synaptoroute.core.mutation import OP_ID_BYTES, Position, Proposal
from synaptoroute.core.rows import stored_key, stored_number
from synaptoroute.errors import StorageCorrupt
from synaptoroute.failpoints import failpoint
from synaptoroute.private_files import make_private_file
from synaptoroute.snapshot_file import check_chains
from synaptoroute.storage.connection import (
    PAGE_BYTES,
    connect_draft,
    connect_reader,
    reader_uri,
    sibling,
    sync,
    transaction,
    translated,
)
from synaptoroute.storage.corruption import CorruptFile, corruption_detected, is_present
from synaptoroute.storage.database import (
    NEXT_DIM,
    NEXT_FINGERPRINT,
    TABLES,
    Database,
    create_tables,
)
from synaptoroute.storage.levels import (
    copy_level_tables,
    empty_level_tables,
    is_finalized,
    schema_rows,
    seal_floor,
    write_confidence,
    write_feedback,
    write_level,
)
from synaptoroute.storage.loader import (
    StandbyEncoders,
    check_encoder,
    load,
    read_meta,
)
from synaptoroute.storage.records import (
    Meta,
    Stored,
    epoch_row,
    import_row,
    load_epoch,
    outcome_text,
    remembered_row,
    route_row,
    state_digest,
)
from synaptoroute.storage.sets import (
    create_set,
    write_aliases,
    write_set_decision,
    write_tests,
)
from synaptoroute.storage.writer import (
    INSERT_EPOCH,
    INSERT_IMPORT,
    INSERT_REMEMBERED,
    INSERT_ROUTE,
    INSERT_SLOT,
    INSERT_STAGING,
    write_fact,
    write_meta,
)

_NODE_TABLES: Final = frozenset({"node", "orphan", "slot_next"})
_STATE_TABLES: Final = tuple(sorted(TABLES - _NODE_TABLES))
TAIL_ENTRIES_MAX: Final = 1_024
TAIL_BYTES_MAX: Final = 8_388_608
READERS_SECONDS_MAX: Final = 5.0  # How long running reads may delay the exchange of the file
_NO_OP_ID: Final = b"\x00" * OP_ID_BYTES


# --- export ---


def export_snapshot(path: Path, target: Path) -> Position:
    """Write the state at one position to a file of its own; return that position."""
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.draft")
    try:
        with closing(connect_draft(draft)) as copy:
            copy.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            copy.execute("ATTACH ? AS own", (reader_uri(path),))
            with transaction(copy):
                create_tables(copy)
                floor = _tail_floor(copy)
                for table in _STATE_TABLES:
                    if table != "oplog":
                        copy.execute(f"INSERT INTO main.{table} SELECT * FROM own.{table}")
                copy.execute("INSERT INTO oplog SELECT * FROM own.oplog WHERE seq >= ?", (floor,))
                position = read_meta(copy).position
                copy_level_tables(copy, "own", "main", seal_floor(floor, position.seq))
        # The bytes before the name: a name that outlives a power failure has a whole file.
        sync(draft)
        failpoint("snapshot.written")
        draft.rename(target)
        sync(target.parent)
    finally:
        draft.unlink(missing_ok=True)
    return position


def _tail_floor(connection: sqlite3.Connection) -> int:
    """Return the first entry of the op log of ``own`` that goes into a snapshot.

    A new node needs none of them itself; it can serve peers that are a little behind.
    """
    floor = size_bytes = 0
    for seq, frame_bytes in connection.execute(
        "SELECT seq, length(frame) FROM own.oplog ORDER BY seq DESC LIMIT ?", (TAIL_ENTRIES_MAX,)
    ):
        size_bytes += frame_bytes
        if size_bytes > TAIL_BYTES_MAX:
            break
        floor = seq
    return floor or 1 << 62


# --- install ---


def install_snapshot(
    database: Database,
    source: Path,
    standby_encoders: StandbyEncoders,
    orphans_after_seq: int | None,
    now_us: int,
    root: str | None = None,
) -> Stored:
    """Verify a snapshot file and install its state; see ``SQLiteStorage.install``."""
    draft = incoming_path(database.path)
    try:
        stored, meta = _verify(database, source, draft)
        if root is not None and root_of(stored.snapshot, meta.fingerprint, meta.dim) != root:
            raise CorruptFile("its content is not what the voters certified")
        check_encoder(meta, database.meta.fingerprint, database.meta.dim, standby_encoders)
        with translated("prepare a snapshot"):
            _copy_node_tables(database, draft, orphans_after_seq, now_us)
        if not _replace_file(database, draft, meta, len(stored.slots)):
            _replace_rows(database, draft, orphans_after_seq, now_us, meta, len(stored.slots))
    except CorruptFile as corrupt:
        raise StorageCorrupt(
            f"the snapshot cannot be trusted: {corrupt.reason}", source=str(source)
        ) from corrupt
    finally:
        drop_incoming(database.path)
    return stored


def incoming_path(path: Path) -> Path:
    """Path of a snapshot that is being prepared to become the database."""
    return sibling(path, ".incoming")


def drop_incoming(path: Path) -> None:
    """Remove what a crash left of a snapshot."""
    with suppress(OSError):
        incoming_path(path).unlink(missing_ok=True)


def _verify(database: Database, source: Path, draft: Path) -> tuple[Stored, Meta]:
    if not is_present(source):
        raise CorruptFile("there is no snapshot")
    # The copy is verified, not the source: the source may change in between.
    with translated("copy a snapshot"):
        make_private_file(draft)  # a copy would have the mode that the umask leaves
        shutil.copyfile(source, draft)
    with corruption_detected(), closing(connect_reader(draft, immutable=True)) as reader:
        _check_schema(database.writer, reader)
        meta = read_meta(reader)
        check_chains(reader, meta.position)
    return load(draft, immutable=True), meta


def _check_schema(own: sqlite3.Connection, donor: sqlite3.Connection) -> None:
    """Refuse a file whose tables differ from ours in a single character.

    A view or trigger of a malicious snapshot would run with the node's own statements.
    """
    # The tables of later versions may be on one side only: a node that joins a log at a higher
    # level, or one that goes back to a state before it.
    if schema_rows(donor) != schema_rows(own):
        raise CorruptFile("the snapshot has another schema")


def _copy_node_tables(
    database: Database, draft: Path, orphans_after_seq: int | None, now_us: int
) -> None:
    with closing(connect_draft(draft)) as copy:
        copy.execute("ATTACH ? AS own", (reader_uri(database.path),))
        with transaction(copy):
            for table in _NODE_TABLES:
                copy.execute(f"DELETE FROM main.{table}")
            for key, value in database.lasting_facts().items():
                write_fact(copy, key, value)
            copy.execute("INSERT INTO main.orphan SELECT * FROM own.orphan")
            if orphans_after_seq is not None:
                _move_to_orphans(copy, orphans_after_seq, now_us, "own")
    sync(draft)
    failpoint("install.drafted")


def _replace_file(database: Database, draft: Path, meta: Meta, row_count: int) -> bool:
    """Exchange the file, unless another connection exists; the writer is a new one then."""
    with database.lock.exclusive(READERS_SECONDS_MAX) as is_free:
        try:
            with translated("put a snapshot in place"):
                is_replaced = is_free and _rename_over(database.writer, draft, database.path)
        finally:
            database.reconnect()
    if is_replaced:
        database.set_state(meta, row_count)
        database.corruption = None
    return is_replaced


def _rename_over(writer: sqlite3.Connection, draft: Path, path: Path) -> bool:
    """Rename a draft over the database, whose only connection is ``writer``.

    A crash leaves either the one file or the other, whole.
    """
    try:
        # The database first becomes a single file without a WAL, or the old WAL would lie
        # beside the new file.  SQLite does that only if no other connection exists, and
        # the exclusive lock lets none open the file until the rename.
        (mode,) = writer.execute("PRAGMA journal_mode = DELETE").fetchone()
        if mode != "delete":
            return False
        writer.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        return False
    try:
        draft.rename(path)
        failpoint("install.renamed")
        sync(path.parent)
    finally:
        writer.execute("ROLLBACK")
    return True


def _replace_rows(
    database: Database,
    draft: Path,
    orphans_after_seq: int | None,
    now_us: int,
    meta: Meta,
    row_count: int,
) -> None:
    """Replace the rows in one transaction: slower, but other programs may have the file open."""
    writer = database.writer
    with translated("open a snapshot"):
        writer.execute("ATTACH ? AS donor", (reader_uri(draft, immutable=True),))
        try:
            with _replacing_state(database, meta, row_count, orphans_after_seq, now_us):
                for table in _STATE_TABLES:
                    writer.execute(f"DELETE FROM main.{table}")
                    writer.execute(f"INSERT INTO main.{table} SELECT * FROM donor.{table}")
                copy_level_tables(writer, "donor", "main")
                writer.execute("DELETE FROM slot_next")
        finally:
            writer.execute("DETACH donor")


# --- a state that comes as a value ---


def replace_state(
    database: Database, stored: Stored, orphans_after_seq: int | None, now_us: int
) -> None:
    """Replace the state by a value; see ``SQLiteStorage.replace_all``."""
    snapshot = stored.snapshot
    meta = replace(
        database.meta,
        position=snapshot.position,
        digest=state_digest(snapshot),
        settings=snapshot.settings,
    )
    row_count = len(stored.slots)
    with _replacing_state(database, meta, row_count, orphans_after_seq, now_us) as writer:
        for table in (*_STATE_TABLES, "slot_next"):
            if table != "meta":
                writer.execute(f"DELETE FROM {table}")
        empty_level_tables(writer)
        if snapshot.level > 1 or is_finalized(writer):
            write_level(writer, snapshot.level, snapshot.voter_keys)
        _write_state(writer, stored)


@contextmanager
def _replacing_state(
    database: Database, meta: Meta, row_count: int, orphans_after_seq: int | None, now_us: int
) -> Iterator[sqlite3.Connection]:
    """Replace the state in one transaction, then mirror the new one."""
    with transaction(database.writable(), "replace the state") as writer:
        if orphans_after_seq is not None:
            _move_to_orphans(writer, orphans_after_seq, now_us)
        yield writer
        for key in (NEXT_FINGERPRINT, NEXT_DIM):
            write_fact(writer, key, None)
        write_meta(writer, meta)
    database.set_state(meta, row_count)


def _write_state(connection: sqlite3.Connection, stored: Stored) -> None:
    snapshot = stored.snapshot
    connection.executemany(INSERT_SLOT, _slot_rows(stored))
    connection.executemany(INSERT_EPOCH, [epoch_row(epoch) for epoch in snapshot.epochs])
    connection.executemany(
        INSERT_REMEMBERED,
        [
            remembered_row(each.seq, each.op_id, each.request_hash, outcome_text(each))
            for each in snapshot.remembered
        ],
    )
    _write_set(connection, snapshot, 0)
    for state in snapshot.sets:
        create_set(connection, state.record, state.settings)
        _write_set(connection, state, state.record.number)
    if snapshot.record is not None:
        create_set(connection, snapshot.record)
    write_aliases(connection, snapshot.aliases)


def _write_set(connection: sqlite3.Connection, state: Snapshot | SetState, number: int) -> None:
    """Write the content of a set, except its rows."""
    connection.executemany(INSERT_ROUTE, [route_row(route, number) for route in state.routes])
    confidence = {
        stored_number(number, route.route_id): route.confidence_min
        for route in state.routes
        if route.confidence_min is not None
    }
    if confidence:
        write_confidence(connection, confidence)
    if state.decision.payload:
        write_set_decision(connection, number, state.decision)
    _write_imports(connection, state.imports, number)
    if state.feedback:
        write_feedback(connection, state.feedback, number=number)
    write_tests(connection, number, state.tests)


def _slot_rows(stored: Stored) -> Iterator[tuple[int, int, str, bytes, bytes]]:
    snapshot = stored.snapshot
    states: list[tuple[int, Snapshot | SetState]] = [(0, snapshot)]
    states += [(state.record.number, state) for state in snapshot.sets]
    for number, state in states:
        owners = {
            slot: (stored_number(number, owner), text)
            for route in state.routes
            for slot, owner, text in route.rows()
        }
        slots, vectors = stored.rows_of(number)
        for slot, vector in zip(slots.tolist(), vectors, strict=True):
            hashed = state.row_hashes[slot]
            yield (stored_number(number, slot), *owners[slot], vector.tobytes(), hashed)


def _write_imports(
    connection: sqlite3.Connection, imports: Iterable[StagedImport], number: int
) -> None:
    for staged in imports:
        begin = staged.begin
        key = stored_key(number, begin.import_id)
        connection.execute(INSERT_IMPORT, import_row(key, begin.replace, staged.touched_seq))
        connection.executemany(
            INSERT_STAGING,
            [
                (key, chunk.number, encode_proposal(Proposal(_NO_OP_ID, chunk)))
                for chunk in staged.chunks
            ],
        )


def set_sole_voter(connection: sqlite3.Connection, node_id: str) -> None:
    """Make one node the only voter of the last epoch, inside the caller's transaction."""
    row = connection.execute("SELECT * FROM epoch ORDER BY epoch DESC LIMIT 1").fetchone()
    if row is not None:
        record = load_epoch(*row[:-1])
        opened = replace(record.opened, voters=(node_id,))
        connection.execute("DELETE FROM epoch WHERE epoch = ?", (record.epoch,))
        connection.execute(INSERT_EPOCH, epoch_row(EpochRecord(record.epoch, opened)))


def _move_to_orphans(
    connection: sqlite3.Connection, after_seq: int, now_us: int, schema: str = "main"
) -> None:
    connection.execute(
        "INSERT INTO orphan (op_id, epoch, seq, frame, moved_at_us)"
        f" SELECT op_id, epoch, seq, frame, ? FROM {schema}.oplog WHERE seq > ? ORDER BY seq",
        (now_us, after_seq),
    )
