"""The scrub: compares every row in memory and on disk with the digest.

The digest is updated by additions, so it cannot see a bit that flips later in the tensor or in
the file.  A scrub hashes the rows again, a few at a time.  The applier pauses while the scorer
hashes its rows of one part, so memory, disk and digest are compared at one position, and a
change is never reported as damage.  Queries wait for one part at most.  Slots are those that the
database stores, so that they name a route set as well (see ``core.rows``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from synaptoroute.core.change import SlotWrite
from synaptoroute.core.digest import row_hash, stored_row_hash
from synaptoroute.core.rows import local_of, set_number_of, stored_number
from synaptoroute.ports import AppliedState, EnginePort

PART_SLOTS: Final = 256
PAUSE_SECONDS: Final = 0.002  # Between two parts, so that writes and queries come first
SLOTS_NAMED_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Scrub:
    rows: int
    memory_slots: tuple[int, ...]  # The first ones that differ
    memory_rows: int
    disk_slots: tuple[int, ...]  # The first ones that differ
    disk_rows: int
    is_digest_right: bool
    seconds: float

    @property
    def is_sound(self) -> bool:
        """Whether everything is what the digest says."""
        return self.is_digest_right and not (self.memory_rows or self.disk_rows)


@dataclass(frozen=True, slots=True)
class Damage:
    """Rows that are not what the digest says."""

    memory: tuple[int, ...]
    disk: tuple[int, ...]
    # Rows of memory for the slots of the disk that memory still has
    sound_rows: tuple[SlotWrite, ...]


class _Place(NamedTuple):
    number: int  # Of the route set
    slot: int  # Inside the set


@dataclass(slots=True)
class _Differences:
    rows: int = 0
    memory: list[int] = field(default_factory=list)
    disk: list[int] = field(default_factory=list)


async def scrub(engine: EnginePort) -> Scrub:
    """Compare memory and disk with the digest, row by row."""
    began_at = time.monotonic()
    found = await _compare_all(engine)
    is_right = await asyncio.wrap_future(engine.run_on_applier(_is_digest_right))
    return Scrub(
        found.rows,
        tuple(found.memory[:SLOTS_NAMED_MAX]),
        len(found.memory),
        tuple(found.disk[:SLOTS_NAMED_MAX]),
        len(found.disk),
        is_right,
        time.monotonic() - began_at,
    )


async def find_damage(engine: EnginePort) -> Damage:
    """Find every damaged row, and what memory has for those of the disk."""
    found = await _compare_all(engine)
    in_memory = frozenset(found.memory)
    wanted = [slot for slot in found.disk if slot not in in_memory]
    rows = await asyncio.wrap_future(
        engine.run_on_applier(lambda state: _rows_in_memory(engine, state, wanted))
    )
    return Damage(tuple(found.memory), tuple(found.disk), rows)


def _rows_in_memory(
    engine: EnginePort, state: AppliedState, wanted: Sequence[int]
) -> tuple[SlotWrite, ...]:
    """Rows of the tensors for stored slots.  Runs on the applier's thread."""
    rows: list[SlotWrite] = []
    for slot in wanted:
        number, local = set_number_of(slot), local_of(slot)
        for _, owner, text, vector in _rows_between(engine, state, number, local, local + 1):
            stored_owner = stored_number(number, owner)
            hashed = row_hash(local, owner, text, vector)
            rows.append(SlotWrite(slot, stored_owner, text, vector, hashed))
    return tuple(rows)


def _rows_between(
    engine: EnginePort, state: AppliedState, number: int, start: int, stop: int
) -> list[tuple[int, int, str, bytes]]:
    """Rows of a set's tensor for slots inside the set; none if the set is gone."""
    sets = state.replica.sets
    if number not in sets.tables:
        return []
    name = sets.records[number].name if number else ""
    # The applier waits for the scorer here.  That cannot deadlock: the scorer never waits for
    # the applier.
    return engine.read(lambda tensor: tensor.rows_between(start, stop), name).result()


async def _compare_all(engine: EnginePort) -> _Differences:
    found = _Differences()
    at: _Place | None = _Place(0, 0)
    while at is not None:
        start = at

        def compare(state: AppliedState, start: _Place = start) -> _Place | None:
            return _compare(engine, state, start, found)

        at = await asyncio.wrap_future(engine.run_on_applier(compare))
        await asyncio.sleep(0 if at is None else PAUSE_SECONDS)
    return found


def _compare(
    engine: EnginePort, state: AppliedState, at: _Place, found: _Differences
) -> _Place | None:
    """Compare some rows from a place on; return where to go on.  On the applier's thread."""
    tables = state.replica.sets.tables
    wanted = found.rows + PART_SLOTS
    # Several small sets are compared at once.
    for number in sorted(number for number in tables if number >= at.number):
        start = at.slot if number == at.number else 0
        highest = max(tables[number].row_hashes, default=-1)
        while start <= highest:
            if found.rows >= wanted:
                return _Place(number, start)
            _compare_part(engine, state, _Place(number, start), found)
            start += PART_SLOTS
    return None


def _compare_part(engine: EnginePort, state: AppliedState, at: _Place, found: _Differences) -> None:
    number, start, stop = at.number, at.slot, at.slot + PART_SLOTS
    held = state.replica.sets.tables[number].row_hashes
    expected = {slot: held[slot] for slot in range(start, stop) if slot in held}
    rows = _rows_between(engine, state, number, start, stop)
    in_memory = {row[0]: row_hash(*row) for row in rows}
    on_disk: dict[int, bytes] = {}
    first = stored_number(number, 0)
    for row in engine.database.rows(first + start - 1, PART_SLOTS):
        if row.slot >= first + stop:
            break
        hashed = stored_row_hash(row.slot, row.owner, row.utterance, row.vector)
        is_right = hashed == row.row_hash and set_number_of(row.owner) == number
        on_disk[row.slot - first] = hashed if is_right else b""
    found.rows += len(expected)
    found.memory += [first + slot for slot in _differing(in_memory, expected)]
    found.disk += [first + slot for slot in _differing(on_disk, expected)]


def _differing(found: dict[int, bytes], expected: dict[int, bytes]) -> list[int]:
    every = sorted(expected.keys() | found.keys())
    return [slot for slot in every if found.get(slot) != expected.get(slot)]


def _is_digest_right(state: AppliedState) -> bool:
    return state.replica.sets.digest_anew() == state.replica.digest
