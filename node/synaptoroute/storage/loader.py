"""A whole state out of the file, with proof that it is what was put in.

Nothing is believed: SQLite checks its pages on a connection of its own, in parallel;
every row's hash is recomputed from its bytes and the digest from the hashes; what the
digest does not cover has a checksum; the position must be that of the op log's end.
"""

from __future__ import annotations

import sqlite3
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import RouteRecord, StagedImport
from synaptoroute.core.codec import decode_proposal
from synaptoroute.core.digest import row_hash
from synaptoroute.core.imports import row_count_of
from synaptoroute.core.mutation import (
    CHAIN_START,
    IDEMPOTENCY_WINDOW_ENTRIES,
    ImportBegin,
    ImportChunk,
    Position,
    Revision,
)
from synaptoroute.core.snapshot import EpochRecord, Remembered, Snapshot
from synaptoroute.errors import CodecError, EncoderMismatch
from synaptoroute.storage.connection import connect_reader, reason_of, unavailable
from synaptoroute.storage.records import (
    VECTOR_DTYPE,
    Meta,
    Stored,
    checksum,
    digest_of,
    load_epoch,
    load_outcomes,
    load_settings,
    remembered_sum,
)

ROWS_AT_ONCE: Final = 512
_DAMAGE_CODES: Final = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_MISMATCH,
}
_SHORT_READ: Final = 522
_CHAIN_DIGITS: Final = len(CHAIN_START)


class Damaged(Exception):
    """What the file says cannot be true; the shell moves the file aside."""

    def __init__(self, reason: str, position: Position | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position


@dataclass(slots=True)
class _Rows:
    """The table ``slot``, verified row by row."""

    slots: NDArray[np.int64]
    vectors: NDArray[np.float32]
    row_hashes: dict[int, bytes]
    owned: dict[int, tuple[list[int], list[str]]]


@contextmanager
def finding_damage(position: Position | None = None) -> Iterator[None]:
    """Tell damage from a disk that fails: the one moves the file, the other does not.

    Raises:
        Damaged: The bytes cannot be what was written.
        StorageUnavailable: They could not be read.
    """
    try:
        yield
    except Damaged as damage:
        damage.position = damage.position or position
        raise
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code & 0xFF in _DAMAGE_CODES or code == _SHORT_READ:
            raise Damaged(f"SQLite says: {error}", position) from error
        raise unavailable("read the database", reason_of(error), error) from error
    except (CodecError, ValueError, TypeError, KeyError, OverflowError, struct.error) as error:
        raise Damaged(f"a row is malformed: {error!r}", position) from error


def read_meta(connection: sqlite3.Connection) -> Meta:
    """Read where the state stands.

    Raises:
        Damaged: There is no such row, or it does not match its checksum.
    """
    with finding_damage():
        rows = connection.execute("SELECT * FROM meta").fetchall()
        if len(rows) != 1:
            raise Damaged(f"the database has {len(rows)} positions")
        _, epoch, seq, chain, digest, fingerprint, dim, settings, total = rows[0]
        if checksum(epoch, seq, chain, digest, fingerprint, dim, settings) != total:
            raise Damaged("the position does not match its checksum")
        position = Position(epoch, seq, chain)
        return Meta(position, digest, fingerprint, dim, load_settings(settings))


def read_node(connection: sqlite3.Connection) -> dict[str, str]:
    """Read the facts that belong to this node.

    Raises:
        Damaged: A fact does not match its checksum, or the node has no identity.
    """
    with finding_damage():
        facts = {}
        for key, value, total in connection.execute("SELECT key, value, sum FROM node"):
            if checksum(key, value) != total:
                raise Damaged(f"the fact {key!r} does not match its checksum")
            facts[key] = value
        if "node_id" not in facts:
            raise Damaged("the node has no identity")
        return facts


def check_encoder(meta: Meta, fingerprint: str, dim: int) -> None:
    """Refuse vectors of another encoder.

    Raises:
        EncoderMismatch: The stored vectors are of another encoder or dimension.
    """
    if (meta.fingerprint, meta.dim) != (fingerprint, dim):
        raise EncoderMismatch(
            f"the stored vectors are of encoder {meta.fingerprint} with {meta.dim} dimensions, "
            f"the running encoder is {fingerprint} with {dim}; run `synaptoroute model migrate` "
            "to re-encode the stored utterances, or start with the former model",
            stored_fingerprint=meta.fingerprint,
            stored_dim=meta.dim,
            running_fingerprint=fingerprint,
            running_dim=dim,
        )


def load(path: Path, *, immutable: bool = False) -> Stored:
    """Read and verify the whole state; the page check runs on a second thread.

    Args:
        path: The database; nobody may write to it meanwhile.
        immutable: It is a single file that nobody has open, such as a peer's snapshot.

    Raises:
        Damaged: Anything at all does not fit.
        StorageUnavailable: The file cannot be read.
    """
    check = _PageCheck(path, immutable)
    check.start()
    try:
        with finding_damage(), closing(connect_reader(path, immutable=immutable)) as connection:
            connection.execute("BEGIN")
            stored = _load_state(connection)
    except Damaged:
        # The pages know better what is wrong than the first row that does not fit.
        check.join()
        raise
    finally:
        check.join()
    check.raise_found(stored.snapshot.position)
    return stored


def check_pages(path: Path) -> None:
    """Let SQLite check the file's structure.

    Raises:
        Damaged: It found something.
    """
    check = _PageCheck(path, immutable=False)
    check.run()
    check.raise_found(None)


class _PageCheck(threading.Thread):
    """SQLite's own check of the file's structure."""

    def __init__(self, path: Path, immutable: bool) -> None:
        super().__init__(name="storage-check", daemon=True)
        self._path = path
        self._immutable = immutable
        self._found: list[str] = []
        self._error: Exception | None = None

    def run(self) -> None:
        """Check; what goes wrong is kept for the thread that waits."""
        try:
            with closing(connect_reader(self._path, immutable=self._immutable)) as connection:
                rows = connection.execute("PRAGMA quick_check(3)").fetchall()
            self._found = [str(row[0]) for row in rows if row[0] != "ok"]
        except sqlite3.Error as error:
            self._error = error

    def raise_found(self, position: Position | None) -> None:
        """Raise what the check found, in the thread of the caller."""
        with finding_damage(position):
            if self._error is not None:
                raise self._error
        if self._found:
            raise Damaged("; ".join(self._found), position)


def _load_state(connection: sqlite3.Connection) -> Stored:
    meta = read_meta(connection)
    with finding_damage(meta.position):
        rows = _read_slots(connection, meta.dim)
        snapshot = Snapshot(
            position=meta.position,
            settings=meta.settings,
            routes=_read_routes(connection, rows.owned),
            row_hashes=rows.row_hashes,
            remembered=_read_remembered(connection, meta.position.seq),
            imports=_read_imports(connection),
            epochs=_read_epochs(connection),
        )
        _check_position(connection, snapshot)
        _check_slots(snapshot)
        digest = digest_of(snapshot)
    if digest != meta.digest:
        raise Damaged(f"the state has digest {digest}, stored is {meta.digest}", meta.position)
    return Stored(snapshot, digest, rows.slots, rows.vectors)


def _read_slots(connection: sqlite3.Connection, dim: int) -> _Rows:
    """Read the rows a few hundred at a time: what is hashed is still in the cache."""
    (count,) = connection.execute("SELECT count(*) FROM slot").fetchone()
    rows = _Rows(
        slots=np.empty(count, dtype=np.int64),
        vectors=np.empty((count, dim), dtype=VECTOR_DTYPE),
        row_hashes={},
        owned={},
    )
    cursor = connection.execute(
        "SELECT slot, route_id, utterance, vector, row_hash FROM slot ORDER BY slot"
    )
    start = 0
    while part := cursor.fetchmany(ROWS_AT_ONCE):
        _take_part(rows, start, part, dim)
        start += len(part)
    return rows


def _take_part(rows: _Rows, start: int, part: list[Any], dim: int) -> None:
    stop = start + len(part)
    joined = b"".join([row[3] for row in part])
    rows.vectors[start:stop] = np.frombuffer(joined, VECTOR_DTYPE).reshape(len(part), dim)
    rows.slots[start:stop] = [row[0] for row in part]
    for slot, route_id, utterance, vector, stored in part:
        if row_hash(slot, route_id, utterance, vector) != stored:
            raise Damaged(f"slot {slot} does not match its hash")
        rows.row_hashes[slot] = stored
        owned = rows.owned.get(route_id)
        if owned is None:
            owned = rows.owned[route_id] = ([], [])
        owned[0].append(slot)
        owned[1].append(utterance)


def _read_routes(
    connection: sqlite3.Connection, owned: dict[int, tuple[list[int], list[str]]]
) -> tuple[RouteRecord, ...]:
    routes = []
    cursor = connection.execute(
        "SELECT route_id, name, threshold, metadata, payload, epoch, seq FROM route"
    )
    for route_id, name, threshold, metadata, payload, epoch, seq in cursor:
        slots, utterances = owned.pop(route_id)
        routes.append(
            RouteRecord(
                route_id,
                name,
                tuple(slots),
                tuple(utterances),
                threshold,
                metadata,
                payload,
                Revision(epoch, seq),
            )
        )
    if owned:
        raise Damaged(f"slots belong to routes that do not exist: {sorted(owned)[:3]}")
    return tuple(sorted(routes, key=lambda route: route.name))


def _read_remembered(connection: sqlite3.Connection, seq: int) -> tuple[Remembered, ...]:
    rows = connection.execute(
        "SELECT seq, op_id, request_hash, outcome, sum FROM remembered WHERE seq >= ? ORDER BY seq",
        (seq - IDEMPOTENCY_WINDOW_ENTRIES,),
    ).fetchall()
    for at, op_id, request_hash, outcome, total in rows:
        if remembered_sum(at, op_id, request_hash, outcome) != total:
            raise Damaged(f"the outcome of entry {at} does not match its checksum")
    outcomes = load_outcomes([row[3] for row in rows])
    remembered = [
        Remembered(op_id, at, request_hash, outcome)
        for (at, op_id, request_hash, _, _), outcome in zip(rows, outcomes, strict=True)
    ]
    if remembered and remembered[-1].seq > seq:
        raise Damaged("an outcome is newer than the position")
    return tuple(remembered)


def _read_imports(connection: sqlite3.Connection) -> tuple[StagedImport, ...]:
    chunks: dict[str, list[ImportChunk]] = {}
    cursor = connection.execute("SELECT frame FROM staging ORDER BY import_id, number")
    for (frame,) in cursor:
        chunk = decode_proposal(frame).mutation
        if not isinstance(chunk, ImportChunk):
            raise Damaged("what is staged is not a chunk of an import")
        chunks.setdefault(chunk.import_id, []).append(chunk)
    imports = []
    cursor = connection.execute(
        "SELECT import_id, is_replace, touched_seq, sum FROM import_open ORDER BY import_id"
    )
    for import_id, is_replace, touched_seq, total in cursor:
        if checksum(import_id, is_replace, touched_seq) != total:
            raise Damaged(f"the import {import_id!r} does not match its checksum")
        held = tuple(chunks.pop(import_id, ()))
        rows = sum(row_count_of(chunk) for chunk in held)
        imports.append(
            StagedImport(ImportBegin(import_id, bool(is_replace)), held, touched_seq, rows)
        )
    if chunks:
        raise Damaged("chunks are staged for an import that is not open")
    return tuple(sorted(imports, key=lambda staged: staged.begin.import_id))


def _read_epochs(connection: sqlite3.Connection) -> tuple[EpochRecord, ...]:
    epochs = []
    for *fields, total in connection.execute("SELECT * FROM epoch ORDER BY epoch"):
        if checksum(*fields) != total:
            raise Damaged(f"epoch {fields[0]} does not match its checksum")
        epochs.append(load_epoch(*fields))
    return tuple(epochs)


def _check_position(connection: sqlite3.Connection, snapshot: Snapshot) -> None:
    position = snapshot.position
    if position.seq < 0 or position.epoch < 0 or len(position.chain) != _CHAIN_DIGITS:
        raise Damaged("the position is out of range")
    if snapshot.epochs and snapshot.epochs[-1].epoch > position.epoch:
        raise Damaged("an epoch is newer than the position")
    count, first, last = connection.execute(
        "SELECT count(*), min(seq), max(seq) FROM oplog"
    ).fetchone()
    if count == 0:
        return
    (epoch, chain) = connection.execute(
        "SELECT epoch, chain FROM oplog WHERE seq = ?", (last,)
    ).fetchone()
    if (epoch, last, chain) != (position.epoch, position.seq, position.chain):
        raise Damaged("the op log does not end at the position")
    if count != last - first + 1:
        raise Damaged("the op log has gaps")


def _check_slots(snapshot: Snapshot) -> None:
    highest = max(snapshot.row_hashes, default=-1)
    if highest >= snapshot.settings.capacity_slots:
        raise Damaged(f"slot {highest} is beyond the capacity")
