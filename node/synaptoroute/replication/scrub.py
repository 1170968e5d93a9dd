"""The scrub: compares every row in memory and on disk with the digest.

The digest is updated by additions, so it cannot see a bit that flips later in the tensor or in
the file.  A scrub hashes the rows again, a few at a time.  The applier pauses while the scorer
hashes its rows of one part, so memory, disk and digest are compared at one position, and a
change is never reported as damage.  Queries wait for one part at most.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

from synaptoroute.core.change import SlotWrite
from synaptoroute.core.digest import row_hash, sum_state
from synaptoroute.ports import AppliedState, EnginePort
from synaptoroute.tensor import Tensor

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

    def copy_rows(tensor: Tensor) -> tuple[SlotWrite, ...]:
        rows = [row for slot in wanted for row in tensor.rows_between(slot, slot + 1)]
        return tuple(SlotWrite(*row, row_hash(*row)) for row in rows)

    rows = await asyncio.wrap_future(engine.read(copy_rows))
    return Damage(tuple(found.memory), tuple(found.disk), rows)


async def _compare_all(engine: EnginePort) -> _Differences:
    found = _Differences()
    start, is_last = 0, False
    while not is_last:
        at = start

        def compare(state: AppliedState, at: int = at) -> bool:
            return _compare(engine, state, at, found)

        is_last = await asyncio.wrap_future(engine.run_on_applier(compare))
        start += PART_SLOTS
        await asyncio.sleep(0 if is_last else PAUSE_SECONDS)
    return found


def _compare(engine: EnginePort, state: AppliedState, start: int, found: _Differences) -> bool:
    """Compare the slots from ``start``; whether they are the last.  On the applier's thread."""
    stop = start + PART_SLOTS
    expected = state.replica.table.row_hashes
    slots = {slot for slot in range(start, stop) if slot in expected}
    # The applier waits for the scorer here.  That cannot deadlock: the scorer never waits for
    # the applier.
    in_memory = engine.read(
        lambda tensor: {row[0]: row_hash(*row) for row in tensor.rows_between(start, stop)}
    ).result()
    on_disk: dict[int, bytes] = {}
    for row in engine.database.rows(start - 1, PART_SLOTS):
        if row.slot >= stop:
            break
        hashed = row_hash(row.slot, row.owner, row.utterance, row.vector)
        on_disk[row.slot] = hashed if hashed == row.row_hash else b""
    found.rows += len(slots)
    found.memory += _differing(slots, in_memory, expected)
    found.disk += _differing(slots, on_disk, expected)
    return stop > max(expected, default=0)


def _differing(slots: set[int], found: dict[int, bytes], expected: dict[int, bytes]) -> list[int]:
    every = sorted(slots | found.keys())
    return [slot for slot in every if found.get(slot) != expected.get(slot)]


def _is_digest_right(state: AppliedState) -> bool:
    table = state.replica.table
    routes, imports = tuple(table.routes.values()), tuple(table.imports.values())
    feedback = tuple(table.feedback.values())
    summed = sum_state(table.settings, table.row_hashes, routes, imports, feedback, table.decision)
    return summed.hex() == table.digest.hex()
