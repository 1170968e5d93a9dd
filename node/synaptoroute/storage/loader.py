"""Loads a whole state from the file and verifies all of it.

SQLite checks its pages on a second connection, in parallel.  The hash of every row is
recomputed from its bytes, and the digest of the state from the hashes.  What the digest
does not cover has a checksum.  The op log must end at the position.
"""

from __future__ import annotations

import gc
import sqlite3
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import (
    EpochRecord,
    Remembered,
    RouteRecord,
    SetRecord,
    SetState,
    Snapshot,
    StagedImport,
)
from synaptoroute.core.imports import row_count_of
from synaptoroute.core.levels import DECISION_LEVEL
from synaptoroute.core.mutation import (
    CHAIN_START,
    IDEMPOTENCY_WINDOW_ENTRIES,
    ImportBegin,
    Position,
    Revision,
)
from synaptoroute.core.rows import (
    RowKind,
    local_of,
    owner_of,
    route_id_of,
    set_number_of,
    split_key,
    stored_number,
)
from synaptoroute.errors import EncoderMismatch
from synaptoroute.snapshot_file import (
    SetParts,
    load_settings,
    read_aliases,
    read_chunks,
    read_decisions,
    read_feedback,
    read_sets,
    read_tests,
    with_sets,
)
from synaptoroute.storage.checkpoint import Checkpoint, CheckpointReader
from synaptoroute.storage.connection import connect_reader
from synaptoroute.storage.corruption import CorruptFile, corruption_detected
from synaptoroute.storage.levels import (
    has_decision_tables,
    has_set_tables,
    read_chains,
    read_confidence,
    read_decision,
    read_level,
    read_seals,
)
from synaptoroute.storage.records import (
    Meta,
    Rows,
    Stored,
    as_remembered,
    checksum,
    load_epoch,
    read_rows,
    remembered_sum,
    state_sums,
    update_rows,
)

_KIND_BITS: Final = owner_of(0, RowKind.DESCRIPTION) | owner_of(0, RowKind.NEGATIVE)
_CHAIN_DIGITS: Final = len(CHAIN_START)

OPENVINO_FINGERPRINT: Final = "757737abe2a0382244d9b24ebb6a393c37523091455a8affb3995ec97af03901"
"""Fingerprint of the bundled model on OpenVINO, a backend that ADR 0027 removes.

Source: ``encoder.recipe.fingerprint`` of that model with the arithmetic ``openvino-int8/2``.
"""

StandbyEncoders: TypeAlias = Mapping[str, int]
"""Other encoders whose vectors the file may hold: dimension by fingerprint."""


def read_meta(connection: sqlite3.Connection) -> Meta:
    with corruption_detected():
        rows = connection.execute("SELECT * FROM meta").fetchall()
        if len(rows) != 1:
            raise CorruptFile(f"the database has {len(rows)} positions")
        _, epoch, seq, chain, digest, fingerprint, dim, settings, total = rows[0]
        if checksum(epoch, seq, chain, digest, fingerprint, dim, settings) != total:
            raise CorruptFile("the position does not match its checksum")
        position = Position(epoch, seq, chain)
        return Meta(position, digest, fingerprint, dim, load_settings(settings))


def read_facts(connection: sqlite3.Connection) -> dict[str, str]:
    with corruption_detected():
        facts = {}
        for key, value, total in connection.execute("SELECT key, value, sum FROM node"):
            if checksum(key, value) != total:
                raise CorruptFile(f"the fact {key!r} does not match its checksum")
            facts[key] = value
        if "node_id" not in facts:
            raise CorruptFile("the node has no identity")
        return facts


def check_encoder(
    meta: Meta, fingerprint: str, dim: int, standby_encoders: StandbyEncoders | None = None
) -> None:
    """Refuse vectors of an encoder that is neither the running one nor a standby."""
    known = {fingerprint: dim, **(standby_encoders or {})}
    if known.get(meta.fingerprint) != meta.dim:
        found = f"{meta.fingerprint} with {meta.dim} dimensions"
        advice = "to re-encode the stored utterances, or start with the former model"
        if meta.fingerprint == OPENVINO_FINGERPRINT:
            found += " (the bundled model on OpenVINO, a backend that this release does not have)"
            advice = "to re-encode the stored utterances"
        raise EncoderMismatch(
            f"the stored vectors are of encoder {found}, "
            f"the running encoder is {fingerprint} with {dim}; run `synaptoroute model migrate` "
            f"{advice}",
            stored_fingerprint=meta.fingerprint,
            stored_dim=meta.dim,
            running_fingerprint=fingerprint,
            running_dim=dim,
        )


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector while a state is loaded."""
    # Loading only allocates: each collection would walk the growing state and free nothing.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def load(path: Path, *, immutable: bool = False) -> Stored:
    """Read and verify the whole state; the page check runs on a second thread.

    Nothing may write to the file meanwhile.  ``immutable`` is for a single file that no process has
    open, such as a peer's snapshot.

    Raises:
        CorruptFile: Anything does not match.
        StorageUnavailable: The file cannot be read.
    """
    check = _PageCheck(path, immutable)
    check.start()
    try:
        with (
            corruption_detected(),
            closing(connect_reader(path, immutable=immutable)) as connection,
        ):
            connection.execute("BEGIN")
            stored = _load_state(connection)
    finally:
        # Also after an error: no thread may have the file open when it is quarantined.
        check.join()
    check.raise_found(stored.snapshot.position)
    return stored


def check_pages(path: Path) -> None:
    """Let SQLite check the structure of the file."""
    check = _PageCheck(path, immutable=False)
    check.run()
    check.raise_found(None)


class _PageCheck(threading.Thread):
    """SQLite's check of the structure of the file, on a thread of its own."""

    def __init__(self, path: Path, immutable: bool) -> None:
        super().__init__(name="storage-check", daemon=True)
        self._path = path
        self._immutable = immutable
        self._found: list[str] = []
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            with closing(connect_reader(self._path, immutable=self._immutable)) as connection:
                rows = connection.execute("PRAGMA quick_check(3)").fetchall()
            self._found = [str(row[0]) for row in rows if row[0] != "ok"]
        except sqlite3.Error as error:
            self._error = error

    def raise_found(self, position: Position | None) -> None:
        with corruption_detected(position):
            if self._error is not None:
                raise self._error
        if self._found:
            raise CorruptFile("; ".join(self._found), position)


def load_from_checkpoint(path: Path, fingerprint: str, dim: int) -> Stored | None:
    """Load the state with rows of the checkpoint instead of those of the database.

    The digest over them must be the one that the last commit stored.  The pages that
    hold vectors and texts are not read: ``scrub`` verifies them later.
    """
    with (
        CheckpointReader(path, fingerprint, dim) as reader,
        closing(connect_reader(path)) as connection,
    ):
        checkpoint = reader.read_columns()
        if checkpoint is None:
            return None
        try:
            with corruption_detected():
                connection.execute("BEGIN")
                stored = _join_checkpoint(connection, reader, checkpoint)
        except CorruptFile:
            return None
        if stored is None or not reader.is_sound():
            return None
        # The derived bytes fit only the very rows they were computed from.
        is_exact = stored.snapshot.position == checkpoint.position
        derived = reader.derived if is_exact and stored.vectors is checkpoint.rows.vectors else None
        return replace(stored, is_from_checkpoint=True, derived=derived)


def _join_checkpoint(
    connection: sqlite3.Connection, reader: CheckpointReader, checkpoint: Checkpoint
) -> Stored | None:
    meta = read_meta(connection)
    remembered = _remembered_since(connection, meta.position, checkpoint)
    if checkpoint.position == meta.position:
        # The walk that wrote the checkpoint may have begun before writes that it ended
        # after: its rows then are of several positions and may not even match the routes.
        with suppress(CorruptFile):
            stored = _assemble(connection, meta, checkpoint.rows, remembered)
            if stored.digest == meta.digest:
                return stored
    rows = update_rows(connection, checkpoint.rows, meta.dim) if reader.is_sound() else None
    if rows is None:
        return None
    stored = _assemble(connection, meta, rows, remembered)
    return stored if stored.digest == meta.digest else None


def _remembered_since(
    connection: sqlite3.Connection, position: Position, checkpoint: Checkpoint
) -> list[Remembered]:
    """Outcomes of the checkpoint and those after it, if its history is that of the file."""
    at = checkpoint.position
    known = connection.execute("SELECT epoch, chain FROM oplog WHERE seq = ?", (at.seq,)).fetchone()
    if at != position and known != (at.epoch, at.chain):
        return read_remembered(connection, position.seq)
    held = checkpoint.remembered
    floor = position.seq - IDEMPOTENCY_WINDOW_ENTRIES
    first = bisect_left(held, floor, key=lambda each: each.seq)
    return held[first:] + read_remembered(connection, position.seq, after_seq=at.seq)


def _load_state(connection: sqlite3.Connection) -> Stored:
    meta = read_meta(connection)
    with corruption_detected(meta.position):
        capacities = {0: meta.settings.capacity_slots}
        for number, (_, settings) in _read_sets(connection).items():
            if number:
                capacities[number] = load_settings(settings).capacity_slots
        rows = read_rows(connection, meta.dim, capacities)
        remembered = read_remembered(connection, meta.position.seq)
        stored = _assemble(connection, meta, rows, remembered)
        check_op_log(connection)
    if stored.digest != meta.digest:
        raise CorruptFile(
            f"the state has digest {stored.digest}, stored is {meta.digest}", meta.position
        )
    return stored


def _read_sets(connection: sqlite3.Connection) -> dict[int, tuple[SetRecord, str]]:
    return read_sets(connection) if has_set_tables(connection) else {}


def _assemble(
    connection: sqlite3.Connection, meta: Meta, rows: Rows, remembered: list[Remembered]
) -> Stored:
    level, voter_keys = read_level(connection)
    rows.check_sets()
    slots, row_hashes = _split_rows(rows)
    has_sets = has_set_tables(connection)
    parts = SetParts(
        routes=_read_routes(connection, rows, level),
        row_hashes=row_hashes,
        imports=_read_imports(connection),
        feedback=read_feedback(connection) if has_decision_tables(connection) else {},
        decisions=read_decisions(connection) if has_sets else {},
        tests=read_tests(connection) if has_sets else {},
    )
    if level >= DECISION_LEVEL:
        parts.decisions[0] = read_decision(connection)
    snapshot = Snapshot(
        position=meta.position,
        settings=meta.settings,
        remembered=tuple(remembered),
        epochs=_read_epochs(connection),
        level=level,
        voter_keys=voter_keys,
        aliases=read_aliases(connection) if has_sets else (),
        chains=read_chains(connection, meta.position) if level > 1 else (),
        seals=read_seals(connection, meta.position) if level > 1 else (),
    )
    snapshot = with_sets(snapshot, _read_sets(connection), parts)
    _check_position(connection, snapshot)
    _check_slots(snapshot)
    sums, digest = state_sums(snapshot, slots)
    return Stored(snapshot, digest, rows.slots, rows.vectors, sums)


def _split_rows(rows: Rows) -> tuple[NDArray[np.int64], dict[int, dict[int, bytes]]]:
    """Slots of ``default``, int64[n], and the row hashes of each set by slot."""
    own = np.empty(0, np.int64)
    hashes: dict[int, dict[int, bytes]] = {}
    for number, at in rows.parts():
        slots = rows.slots[at] - stored_number(number, 0)
        hashes[number] = dict(zip(slots.tolist(), rows.row_hashes[at], strict=True))
        if number == 0:
            own = slots
    return own, hashes


def _read_routes(
    connection: sqlite3.Connection, rows: Rows, level: int
) -> dict[int, tuple[RouteRecord, ...]]:
    owned = rows.by_owner()
    has_kinds = bool((rows.owners & _KIND_BITS).any())
    cursor = connection.execute(
        "SELECT route_id, name, threshold, metadata, payload, epoch, seq FROM route"
        " ORDER BY route_id"
    )
    routes: dict[int, list[RouteRecord]] = {}
    confidence = read_confidence(connection) if level >= DECISION_LEVEL else {}
    for number, found in groupby(cursor.fetchall(), lambda row: set_number_of(row[0])):
        own = [
            RouteRecord(
                route_id,
                name,
                *owned.pop(route_id),
                threshold,
                metadata,
                payload,
                Revision(epoch, seq),
            )
            for route_id, name, threshold, metadata, payload, epoch, seq in found
        ]
        if level >= DECISION_LEVEL and (has_kinds or confidence):
            own = [_with_decision(route, owned, confidence) for route in own]
        routes[number] = own if number == 0 else [_inside(route, number) for route in own]
    if confidence:
        raise CorruptFile("a route that does not exist has a confidence")
    if owned:
        missing = sorted(map(route_id_of, owned))
        raise CorruptFile(f"slots belong to routes that do not exist: {missing[:3]}")
    return {number: tuple(sorted(own, key=attrgetter("name"))) for number, own in routes.items()}


def _inside(route: RouteRecord, number: int) -> RouteRecord:
    """A route with its number and its name inside its set."""
    held, name = split_key(route.name)
    if held != number:
        raise CorruptFile(f"the route {name!r} belongs to two route sets")
    return route._replace(route_id=local_of(route.route_id), name=name)


def _with_decision(
    route: RouteRecord,  # With its stored number
    owned: dict[int, tuple[tuple[int, ...], tuple[str, ...]]],
    confidence: dict[int, float],
) -> RouteRecord:
    """Give a route its rows of the new kinds and its confidence, and take them from the maps."""
    described = owned.pop(owner_of(route.route_id, RowKind.DESCRIPTION), None)
    slots, texts = owned.pop(owner_of(route.route_id, RowKind.NEGATIVE), ((), ()))
    if described is not None and len(described[0]) != 1:
        raise CorruptFile(f"the route {route.name!r} has several descriptions")
    return route._replace(
        confidence_min=confidence.pop(route.route_id, None),
        description=described[1][0] if described else None,
        description_slot=described[0][0] if described else None,
        negatives=texts,
        negative_slots=slots,
    )


def read_remembered(
    connection: sqlite3.Connection, seq: int, after_seq: int = -1
) -> list[Remembered]:
    """Read the outcomes of the window that ends at ``seq``, or those after ``after_seq``."""
    first = max(seq - IDEMPOTENCY_WINDOW_ENTRIES, after_seq + 1)
    rows = connection.execute(
        "SELECT seq, op_id, request_hash, outcome, sum FROM remembered WHERE seq >= ? ORDER BY seq",
        (first,),
    ).fetchall()
    if not rows:
        return []
    seqs, op_ids, request_hashes, texts, totals = zip(*rows, strict=True)
    computed = tuple(map(remembered_sum, seqs, op_ids, request_hashes, texts))
    if computed != totals:
        raise CorruptFile("an outcome does not match its checksum")
    if seqs[-1] > seq:
        raise CorruptFile("an outcome is newer than the position")
    return as_remembered(op_ids, seqs, request_hashes, texts)


def _read_imports(connection: sqlite3.Connection) -> dict[int, tuple[StagedImport, ...]]:
    chunks = read_chunks(connection)
    imports: dict[int, list[StagedImport]] = {}
    cursor = connection.execute(
        "SELECT import_id, is_replace, touched_seq, sum FROM import_open ORDER BY import_id"
    )
    for key, is_replace, touched_seq, total in cursor:
        if checksum(key, is_replace, touched_seq) != total:
            raise CorruptFile(f"the import {key!r} does not match its checksum")
        held = tuple(chunks.pop(key, ()))
        rows = sum(row_count_of(chunk) for chunk in held)
        number, import_id = split_key(key)
        begin = ImportBegin(import_id, bool(is_replace))
        imports.setdefault(number, []).append(StagedImport(begin, held, touched_seq, rows))
    if chunks:
        raise CorruptFile("chunks are staged for an import that is not open")
    return {
        number: tuple(sorted(held, key=lambda staged: staged.begin.import_id))
        for number, held in imports.items()
    }


def _read_epochs(connection: sqlite3.Connection) -> tuple[EpochRecord, ...]:
    epochs = []
    for *fields, total in connection.execute("SELECT * FROM epoch ORDER BY epoch"):
        if checksum(*fields) != total:
            raise CorruptFile(f"epoch {fields[0]} does not match its checksum")
        epochs.append(load_epoch(*fields))
    return tuple(epochs)


def _check_position(connection: sqlite3.Connection, snapshot: Snapshot) -> None:
    position = snapshot.position
    if position.seq < 0 or position.epoch < 0 or len(position.chain) != _CHAIN_DIGITS:
        raise CorruptFile("the position is out of range")
    if snapshot.epochs and snapshot.epochs[-1].epoch > position.epoch:
        raise CorruptFile("an epoch is newer than the position")
    last = connection.execute(
        "SELECT epoch, seq, chain FROM oplog ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    if last is not None and last != (position.epoch, position.seq, position.chain):
        raise CorruptFile("the op log does not end at the position")


def check_op_log(connection: sqlite3.Connection) -> None:
    """Check that the op log has no gaps; reads all of it."""
    count, first, last = connection.execute(
        "SELECT count(*), min(seq), max(seq) FROM oplog"
    ).fetchone()
    if count and count != last - first + 1:
        raise CorruptFile("the op log has gaps")


def _check_slots(snapshot: Snapshot) -> None:
    states: tuple[Snapshot | SetState, ...] = (snapshot, *snapshot.sets)
    for state in states:
        highest = max(state.row_hashes, default=-1)
        if highest >= state.settings.capacity_slots:
            raise CorruptFile(f"slot {highest} is beyond the capacity")
