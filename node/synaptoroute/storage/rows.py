"""The rows of the tensor: read into columns and verified row by row."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from itertools import pairwise, starmap
from operator import itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.digest import row_hash
from synaptoroute.storage.corruption import CorruptFile
from synaptoroute.storage.records import VECTOR_DTYPE

ROWS_AT_ONCE: Final = 512
SPARE_SLOTS: Final = 65_536
"""Arrays of vectors are allocated in multiples of this: see ``Tensor.load``."""
_COLUMNS: Final = "slot, route_id, utterance, vector, row_hash"


@dataclass(slots=True)
class Rows:
    """Rows that have an owner, as columns of equal length."""

    slots: NDArray[np.int64]  # int64[n], ascending
    route_ids: NDArray[np.int64]  # int64[n]
    utterances: list[str]
    row_hashes: list[bytes]
    vectors: NDArray[np.float32]  # float32[n, dim], with zeroed memory behind them

    def by_route(self) -> dict[int, tuple[tuple[int, ...], tuple[str, ...]]]:
        """Slots and texts of each route, by slot."""
        if len(self.slots) == 0:
            return {}
        route_ids, slots, texts = self.route_ids, self.slots, tuple(self.utterances)
        # Rows of a bulk import are sorted already.  The sort must be stable: the slots of a
        # route stay ascending.
        if bool((route_ids[1:] < route_ids[:-1]).any()):
            order = np.argsort(route_ids, kind="stable")
            route_ids, slots = route_ids[order], slots[order]
            texts = itemgetter(*order.tolist())(texts)
        firsts = np.flatnonzero(np.diff(route_ids, prepend=-1))
        bounds = [*firsts.tolist(), len(slots)]
        numbers = tuple(slots.tolist())
        parts = [(numbers[start:stop], texts[start:stop]) for start, stop in pairwise(bounds)]
        return dict(zip(route_ids[firsts].tolist(), parts, strict=True))


def allocate_vectors(rows: int, dim: int) -> NDArray[np.float32]:
    """Allocate zeroed float32[rows, dim] at the start of an array with spare rows."""
    # The system gives memory to the spare rows only when they are written.
    allocated = max(1, -(-rows // SPARE_SLOTS)) * SPARE_SLOTS
    return np.zeros((allocated, dim), VECTOR_DTYPE)[:rows]


def read_rows(connection: sqlite3.Connection, dim: int, slots_max: int) -> Rows:
    """Read the whole table ``slot``, a few hundred rows at a time."""
    (highest,) = connection.execute("SELECT max(slot) FROM slot").fetchone()
    if highest is not None and not 0 <= highest < slots_max:
        raise CorruptFile(f"slot {highest} is beyond the capacity")
    vectors = allocate_vectors(0 if highest is None else highest + 1, dim)
    slots: list[int] = []
    route_ids: list[int] = []
    utterances: list[str] = []
    row_hashes: list[bytes] = []
    cursor = connection.execute(f"SELECT {_COLUMNS} FROM slot ORDER BY slot")
    while part := cursor.fetchmany(ROWS_AT_ONCE):
        vectors[len(slots) : len(slots) + len(part)] = verify_rows(part, dim)
        slots += [row[0] for row in part]
        route_ids += [row[1] for row in part]
        utterances += [row[2] for row in part]
        row_hashes += [row[4] for row in part]
    return Rows(
        np.array(slots, np.int64),
        np.array(route_ids, np.int64),
        utterances,
        row_hashes,
        vectors[: len(slots)],
    )


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
        np.append(known.route_ids, -1)[from_known],
        [texts[place] for place in places],
        [hashed for _, hashed in pairs],
        _rearranged(known.vectors, from_known, dim),
    )
    for start in range(0, len(new), ROWS_AT_ONCE):
        at = new[start : start + ROWS_AT_ONCE]
        part = [_read_one(connection, pairs[each][0]) for each in at]
        rows.vectors[at] = verify_rows(part, dim)
        rows.route_ids[at] = [row[1] for row in part]
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
    computed = list(starmap(row_hash, (row[:4] for row in part)))
    if computed != [row[4] for row in part]:
        wrong = next(row[0] for row, each in zip(part, computed, strict=True) if each != row[4])
        raise CorruptFile(f"slot {wrong} does not match its hash")
    joined = b"".join([row[3] for row in part])
    return np.frombuffer(joined, VECTOR_DTYPE).reshape(len(part), dim)
