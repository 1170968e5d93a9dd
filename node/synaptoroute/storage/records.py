"""The values of this package, the columns and text form they are stored in, and the rows.

Small values are stored as JSON arrays in the order of their fields.  Rows that the
digest of the state does not cover carry a checksum of their own, because the pages of an
SQLite database have none.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, repeat, starmap
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import (
    EpochRecord,
    Outcome,
    Remembered,
    RouteRecord,
    SetState,
    Snapshot,
)
from synaptoroute.core.digest import (
    BUCKET_COUNT,
    Digest,
    add_rest,
    row_hash,
    state_total,
    total_hex,
)
from synaptoroute.core.mutation import OpenEpoch, Position, Revision, Settings
from synaptoroute.core.rows import SET_BITS, stored_key, stored_number
from synaptoroute.memory import zeroed_array
from synaptoroute.storage.corruption import CorruptFile

VECTOR_DTYPE: Final = np.dtype("<f4")
HASH_WORDS: Final = 4
_OUTCOME_FIELD: Final = 3
_write_json: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


# --- values ---


@dataclass(frozen=True, slots=True)
class Stored:
    """A whole state, read from the file and verified."""

    snapshot: Snapshot
    digest: str  # Digest of that state, recomputed from its bytes, 32 hexadecimal digits
    # int64[n], the slots that have an owner, ascending; of all route sets, as ``core.rows`` stores
    # them
    slots: NDArray[np.int64]
    # float32[n, dim]; row i belongs to ``slots[i]``.  Zeroed memory follows the last row, so that
    # a tensor can use the array without a copy.
    vectors: NDArray[np.float32]
    # The sum of each route set by number, with its buckets; a replica may reuse them
    sums: dict[int, Digest]
    is_new: bool = False  # The file was made by this call
    # Where a corrupt database of this name was moved, if there was one
    moved_aside: Path | None = None
    is_from_checkpoint: bool = False  # The database pages that hold rows were not read
    # Bytes a node derived from exactly these rows, if the checkpoint has them
    derived: NDArray[np.uint8] | None = None

    @property
    def routes_count(self) -> int:
        """Routes of all route sets."""
        states = self.snapshot.sets
        return len(self.snapshot.routes) + sum(len(state.routes) for state in states)

    def rows_of(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Slots inside a route set, int64[n], and their vectors, float32[n, dim], not copied."""
        low, high = stored_number(number, 0), stored_number(number + 1, 0)
        start, stop = np.searchsorted(self.slots, (low, high)).tolist()
        return self.slots[start:stop] - low, self.vectors[start:stop]


@dataclass(frozen=True, slots=True)
class LogRow:
    """One entry of the op log."""

    seq: int
    epoch: int  # Epoch of the log
    op_id: bytes
    prev_chain: str
    chain: str
    time_us: int  # Sequencer's clock, microseconds since 1970
    frame: bytes  # The proposal's bytes as sequenced
    outcome: Outcome
    digest: str  # Digest of the state afterwards
    seal: bytes = b""  # The proof of its author; empty if unsigned


@dataclass(frozen=True, slots=True)
class SlotRow:
    slot: int  # As stored, see ``core.rows``
    owner: int  # The route and the kind of the row, as stored
    utterance: str
    vector: bytes
    row_hash: bytes


@dataclass(frozen=True, slots=True)
class Orphan:
    """One entry that the winning history does not have, kept for an operator."""

    op_id: bytes
    epoch: int
    seq: int
    frame: bytes
    moved_at_us: int  # Microseconds since 1970


@dataclass(frozen=True, slots=True)
class Meta:
    """The row of ``meta``, checked against its checksum."""

    position: Position
    digest: str
    fingerprint: str
    dim: int
    settings: Settings


# --- columns ---


def checksum(*fields: object) -> int:
    """CRC-32 of a row's columns: integers, texts, bytes and floats."""
    return zlib.crc32(repr(fields).encode())


def meta_row(meta: Meta) -> tuple[object, ...]:
    """Columns of ``meta`` after ``only``, with their checksum; every commit writes them."""
    at = meta.position
    text, end_of_sum = _settings_columns(meta.settings)
    fields = (at.epoch, at.seq, at.chain, meta.digest, meta.fingerprint, meta.dim)
    # The same sum as ``checksum(*fields, text)``.  Settings with a calibration are long, so
    # their part of the sum's input is cached; CRC-32 can be continued.
    head = f"{repr(fields).removesuffix(')')}, "
    return (*fields, text, zlib.crc32(end_of_sum, zlib.crc32(head.encode())))


_NEW_SETTINGS: Final[dict[str, object]] = {
    name: getattr(Settings(), name)
    for name in ("confidence_min", "expected_unmatched_share", "ignore", "feedback", "repair_words")
}
"""Fields of level 3 with their defaults; one is stored only if it has another value."""


@lru_cache(maxsize=1)
def _settings_columns(settings: Settings) -> tuple[str, bytes]:
    """Settings as a JSON array, and the bytes that ``checksum`` reads of them."""
    text = settings_text(settings)
    return text, f"{text!r})".encode()


def settings_text(settings: Settings) -> str:
    """Settings as a JSON array, as ``snapshot_file.load_settings`` reads them."""
    fields: list[object] = [
        settings.aggregation,
        settings.topk,
        settings.threshold,
        settings.capacity_slots,
    ]
    if settings.cascade != "auto" or settings.calibration:
        fields += [settings.cascade, settings.calibration]
    new = {name: getattr(settings, name) for name in _NEW_SETTINGS}
    changed = {name: each for name, each in new.items() if each != _NEW_SETTINGS[name]}
    if changed:
        fields.append(changed)
    return json.dumps(fields, separators=(",", ":"))


def route_row(route: RouteRecord, number: int = 0) -> tuple[object, ...]:
    """Columns of ``route``, of a route of the set with this number."""
    at, route_id, name = route.revision, route.route_id, route.name
    if number:
        route_id, name = stored_number(number, route_id), stored_key(number, name)
    return (
        route_id,
        name,
        route.threshold,
        route.metadata,
        route.payload,
        at.epoch,
        at.seq,
    )


def load_log_row(row: tuple[Any, ...]) -> LogRow:
    seq, epoch, op_id, prev_chain, chain, time_us, frame, outcome, digest, seal = row
    parsed = load_outcome(outcome)
    return LogRow(seq, epoch, op_id, prev_chain, chain, time_us, frame, parsed, digest, seal or b"")


def import_row(import_id: str, is_replace: bool, touched_seq: int) -> tuple[object, ...]:
    fields = (import_id, int(is_replace), touched_seq)
    return (*fields, checksum(*fields))


def epoch_row(record: EpochRecord) -> tuple[object, ...]:
    opened = record.opened
    voters = json.dumps(opened.voters, separators=(",", ":"))
    fields = (
        record.epoch,
        opened.epoch_id,
        opened.base_seq,
        voters,
        opened.fingerprint,
        opened.dim,
    )
    return (*fields, checksum(*fields))


def load_epoch(
    epoch: int, epoch_id: str, base_seq: int, voters: str, fingerprint: str, dim: int
) -> EpochRecord:
    return EpochRecord(
        epoch, OpenEpoch(epoch_id, base_seq, tuple(json.loads(voters)), fingerprint, dim)
    )


def remembered_row(seq: int, op_id: bytes, request_hash: bytes, outcome: str) -> tuple[object, ...]:
    return (seq, op_id, request_hash, outcome, remembered_sum(seq, op_id, request_hash, outcome))


def remembered_sum(seq: int, op_id: bytes, request_hash: bytes, outcome: str) -> int:
    """Checksum of a row of ``remembered``; faster than ``checksum``, for a boot reads many."""
    return zlib.crc32(b"%d|%b|%b|%b" % (seq, op_id, request_hash, outcome.encode()))


# --- outcomes ---

_CREATED: Final = "created"
"""Message of a stored outcome whose entry created its route."""


class StoredOutcome(Remembered):
    """A remembered write whose outcome is still text.

    A boot reads as many outcomes as the idempotency window is long and nearly none of
    them is used again, so an outcome is parsed only when it is asked for.
    """

    __slots__ = ()

    @property
    def outcome(self) -> Outcome:  # pyright: ignore[reportIncompatibleVariableOverride]
        return load_outcome(self.text)

    @property
    def text(self) -> str:
        return str(tuple.__getitem__(self, _OUTCOME_FIELD))

    def _parsed(self) -> tuple[bytes, int, bytes, Outcome]:
        return self.op_id, self.seq, self.request_hash, self.outcome

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StoredOutcome):
            return tuple.__eq__(self, other) or self._parsed() == other._parsed()
        return isinstance(other, tuple) and self._parsed() == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._parsed())


def as_remembered(
    op_ids: Iterable[bytes],
    seqs: Iterable[int],
    request_hashes: Iterable[bytes],
    texts: Iterable[str],
) -> list[Remembered]:
    """Make many remembered writes from their columns."""
    columns = zip(op_ids, seqs, request_hashes, texts, strict=True)
    return list(map(tuple.__new__, repeat(StoredOutcome), columns))


def outcome_text(remembered: Remembered) -> str:
    """The outcome's text form, without parsing one that was read as text."""
    if isinstance(remembered, StoredOutcome):
        return remembered.text
    return dump_outcome(remembered.outcome)


def dump_outcome(outcome: Outcome) -> str:
    fields = (
        outcome.status,
        *outcome.at,
        outcome.revision,
        outcome.code,
        # Earlier releases read exactly these fields, and an applied write has no message.
        _CREATED if outcome.created else outcome.message,
        outcome.count,
    )
    return _write_json(fields)


def load_outcome(text: str) -> Outcome:
    status, epoch, seq, revision, code, message, count = json.loads(text)
    held = None if revision is None else Revision(*revision)
    created = status == "applied" and message == _CREATED
    message = "" if created else message
    return Outcome(status, Revision(epoch, seq), held, code, message, count, created)


# --- digests ---

_FEW_ROWS: Final = 2_048
"""Fewer rows are added one by one: sums of 256 buckets cost as much as so many rows."""


def state_sums(
    snapshot: Snapshot, slots: NDArray[np.int64] | None = None
) -> tuple[dict[int, Digest], str]:
    """Compute the sum of each route set, and the digest of the state, from the state alone.

    ``slots`` are the keys of the row hashes of ``default``, int64[n], if the caller has them.
    """
    sums = {0: _set_sum(snapshot, slots)}
    for state in snapshot.sets:
        sums[state.record.number] = _set_sum(state, None)
    records = [state.record for state in snapshot.sets]
    if snapshot.record is not None:
        records.append(snapshot.record)
    return sums, total_hex(state_total(sums, records, snapshot.aliases))


def state_digest(snapshot: Snapshot) -> str:
    """Compute the digest of a state from the state alone, 32 hexadecimal digits."""
    return state_sums(snapshot)[1]


def _set_sum(state: Snapshot | SetState, slots: NDArray[np.int64] | None) -> Digest:
    digest = Digest()
    hashes = state.row_hashes
    if len(hashes) < _FEW_ROWS:
        for slot, hashed in hashes.items():
            digest.add_row(slot, hashed)
    else:
        if slots is None:
            slots = np.fromiter(hashes, np.int64, len(hashes))
        digest.add_row_sums(_bucket_sums(slots, b"".join(hashes.values())))
    add_rest(
        digest,
        state.settings,
        state.routes,
        state.imports,
        state.feedback,
        state.decision,
        state.tests,
    )
    return digest


def _bucket_sums(slots: NDArray[np.int64], row_hashes: bytes) -> list[int]:
    # ``bincount`` adds in float64, which is exact up to 2^53: words of 32 bits, of which
    # no bucket adds more than 2^21, because slots are spread evenly over the buckets.
    assert int(slots.max(initial=0)) < BUCKET_COUNT << 21, "more than a float64 adds exactly"
    buckets = slots & (BUCKET_COUNT - 1)
    words = np.frombuffer(row_hashes, "<u4").reshape(-1, HASH_WORDS)
    sums = [0] * BUCKET_COUNT
    for place in range(HASH_WORDS):
        column = np.bincount(buckets, words[:, place], BUCKET_COUNT)
        for bucket, term in enumerate(column.tolist()):
            sums[bucket] += int(term) << (32 * place)
    return sums


# --- rows of the tensor -----------------------------------------------------------


ROWS_AT_ONCE: Final = 512
_LOCAL_MASK: Final = (1 << SET_BITS) - 1
SPARE_SLOTS: Final = 65_536
"""Arrays of vectors are allocated in multiples of this: see ``Tensor.load``."""
_COLUMNS: Final = "slot, route_id, utterance, vector, row_hash"


@dataclass(slots=True)
class Rows:
    """Rows that have an owner, as columns of equal length."""

    slots: NDArray[np.int64]  # int64[n], ascending, as ``core.rows`` stores them
    owners: NDArray[np.int64]  # int64[n], route and kind of each row, likewise
    utterances: list[str]
    row_hashes: list[bytes]
    vectors: NDArray[np.float32]  # float32[n, dim], with zeroed memory behind them

    def by_owner(self) -> dict[int, tuple[tuple[int, ...], tuple[str, ...]]]:
        """Slots inside their set and texts of each stored owner, by slot."""
        if len(self.slots) == 0:
            return {}
        owners, slots, texts = self.owners, self.slots, tuple(self.utterances)
        # Rows of a bulk import are sorted already.  The sort must be stable: the slots of an
        # owner stay ascending.
        if bool((owners[1:] < owners[:-1]).any()):
            order = np.argsort(owners, kind="stable")
            owners, slots = owners[order], slots[order]
            texts = itemgetter(*order.tolist())(texts)
        firsts = np.flatnonzero(np.diff(owners, prepend=-1))
        bounds = [*firsts.tolist(), len(slots)]
        numbers = tuple((slots & _LOCAL_MASK).tolist())
        parts = [(numbers[start:stop], texts[start:stop]) for start, stop in pairwise(bounds)]
        return dict(zip(owners[firsts].tolist(), parts, strict=True))

    def check_sets(self) -> None:
        """Check that slot and owner of every row are of one set; the row hash covers neither's."""
        if bool((self.slots >> SET_BITS != self.owners >> SET_BITS).any()):
            raise CorruptFile("a slot belongs to a route of another route set")

    def parts(self) -> Iterator[tuple[int, slice]]:
        """The number of each set that has rows, ascending, and its rows."""
        numbers = self.slots >> SET_BITS
        firsts = np.flatnonzero(np.diff(numbers)) + 1
        for start, stop in pairwise([0, *firsts.tolist(), len(numbers)]):
            if start < stop:
                yield int(numbers[start]), slice(start, stop)


def allocate_vectors(rows: int, dim: int) -> NDArray[np.float32]:
    """Allocate zeroed float32[rows, dim] at the start of an array with spare rows."""
    # The system gives memory to the spare rows only when they are written.
    allocated = max(1, -(-rows // SPARE_SLOTS)) * SPARE_SLOTS
    return zeroed_array((allocated, dim), VECTOR_DTYPE)[:rows]


def read_rows(connection: sqlite3.Connection, dim: int, capacities: Mapping[int, int]) -> Rows:
    """Read the whole table ``slot``, a few hundred rows at a time.

    ``capacities`` are the slots of each route set, by number.
    """
    rows_max = sum(
        _used_slots(connection, number, capacity) for number, capacity in capacities.items()
    )
    vectors = allocate_vectors(rows_max, dim)
    slots: list[int] = []
    owners: list[int] = []
    utterances: list[str] = []
    row_hashes: list[bytes] = []
    cursor = connection.execute(f"SELECT {_COLUMNS} FROM slot ORDER BY slot")
    while part := cursor.fetchmany(ROWS_AT_ONCE):
        if len(slots) + len(part) > rows_max:
            raise CorruptFile("a slot belongs to no route set")
        vectors[len(slots) : len(slots) + len(part)] = verify_rows(part, dim)
        slots += [row[0] for row in part]
        owners += [row[1] for row in part]
        utterances += [row[2] for row in part]
        row_hashes += [row[4] for row in part]
    return Rows(
        np.array(slots, np.int64),
        np.array(owners, np.int64),
        utterances,
        row_hashes,
        vectors[: len(slots)],
    )


def _used_slots(connection: sqlite3.Connection, number: int, capacity: int) -> int:
    """Slots of a set up to its highest one with an owner."""
    low, high = stored_number(number, 0), stored_number(number + 1, 0)
    (highest,) = connection.execute(
        "SELECT max(slot) FROM slot WHERE slot >= ? AND slot < ?", (low, high)
    ).fetchone()
    if highest is None:
        return 0
    if highest - low >= capacity:
        raise CorruptFile(f"slot {highest - low} is beyond the capacity")
    return int(highest) - low + 1


def update_rows(connection: sqlite3.Connection, known: Rows, dim: int) -> Rows | None:
    """Bring known rows up to date with the row hashes of the database.

    Returns:
        The rows; None if so few of them are known that reading all is no slower.

    Raises:
        CorruptFile: A row that is not known does not match its hash.
    """
    pairs = connection.execute("SELECT slot, row_hash FROM slot ORDER BY slot").fetchall()
    if not pairs:
        return None
    place_of = {slot: place for place, slot in enumerate(known.slots.tolist())}
    places = [place_of.get(slot, -1) for slot, _ in pairs]
    hashes = [*known.row_hashes, b""]
    # The hash covers slot, owner, text and vector: an equal one proves the known row.
    new = [at for at, (_, hashed) in enumerate(pairs) if hashes[places[at]] != hashed]
    if 2 * len(new) > len(pairs):
        return None
    from_known = np.array(places, np.int64)
    texts = [*known.utterances, ""]
    rows = Rows(
        np.array([slot for slot, _ in pairs], np.int64),
        np.append(known.owners, -1)[from_known],
        [texts[place] for place in places],
        [hashed for _, hashed in pairs],
        _rearranged(known.vectors, from_known, dim),
    )
    for start in range(0, len(new), ROWS_AT_ONCE):
        at = new[start : start + ROWS_AT_ONCE]
        part = [_read_one(connection, pairs[each][0]) for each in at]
        rows.vectors[at] = verify_rows(part, dim)
        rows.owners[at] = [row[1] for row in part]
        for each, row in zip(at, part, strict=True):
            rows.utterances[each] = row[2]
    return rows


def _rearranged(
    vectors: NDArray[np.float32], places: NDArray[np.int64], dim: int
) -> NDArray[np.float32]:
    """Move vectors to new places; -1 stands for one that is not known yet."""
    whole = vectors.base
    own = np.arange(len(places))
    is_in_place = bool(((places == own) | (places == -1)).all())
    # The common case of appended rows: nothing is copied, the spare rows are used.
    if is_in_place and isinstance(whole, np.ndarray) and len(places) <= len(whole):
        whole[len(places) : len(vectors)] = 0.0
        return whole[: len(places)]
    moved = allocate_vectors(len(places), dim)
    is_known = places >= 0
    moved[is_known] = vectors[places[is_known]]
    return moved


def read_after(connection: sqlite3.Connection, slot: int, rows_max: int) -> list[Any]:
    """Read rows after a slot, unverified: tuples in the order of the table's columns."""
    return connection.execute(
        f"SELECT {_COLUMNS} FROM slot WHERE slot > ? ORDER BY slot LIMIT ?", (slot, rows_max)
    ).fetchall()


def _read_one(connection: sqlite3.Connection, slot: int) -> Any:
    return connection.execute(f"SELECT {_COLUMNS} FROM slot WHERE slot = ?", (slot,)).fetchone()


def verify_rows(part: list[Any], dim: int) -> NDArray[np.float32]:
    """Check rows against their hashes and join their vectors: float32[n, dim]."""
    if part and part[-1][0] > _LOCAL_MASK:
        if any(row[0] >> SET_BITS != row[1] >> SET_BITS for row in part):
            raise CorruptFile("a slot belongs to a route of another route set")
        local = [(row[0] & _LOCAL_MASK, row[1] & _LOCAL_MASK, *row[2:4]) for row in part]
    else:
        local = [row[:4] for row in part]
    computed = list(starmap(row_hash, local))
    if computed != [row[4] for row in part]:
        wrong = next(row[0] for row, each in zip(part, computed, strict=True) if each != row[4])
        raise CorruptFile(f"slot {wrong} does not match its hash")
    joined = b"".join([row[3] for row in part])
    return np.frombuffer(joined, VECTOR_DTYPE).reshape(len(part), dim)
