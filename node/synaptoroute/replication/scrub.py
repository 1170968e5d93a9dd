"""The scrub: every row in memory and on disk against the digest that others compare.

The digest is kept by additions, so it cannot see a bit that flips afterwards, neither
in the tensor nor in the file.  A scrub hashes the rows again, a few at a time: the
applier stands still while the scorer hashes its rows of one part, so memory, disk and
digest are compared at one position and nothing is reported that a change explains.
Queries wait for at most one part.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import Final

from synaptoroute.core.change import SlotWrite
from synaptoroute.core.digest import row_hash, sum_state
from synaptoroute.ports import AppliedState, EnginePort
from synaptoroute.tensor import Tensor

PART_SLOTS: Final = 256
PAUSE_SECONDS: Final = 0.002
"""Between two parts, so that writes and queries come first."""
SLOTS_NAMED_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Scrub:
    """What a scrub found.

    Attributes:
        rows: Rows compared.
        memory_slots: Slots of the tensor that hold something else; the first ones.
        memory_rows: How many there are.
        disk_slots: The same of the database.
        disk_rows: How many there are.
        is_digest_right: Whether the kept digest is the sum over the state.
        seconds: How long it took.
    """

    rows: int
    memory_slots: tuple[int, ...]
    memory_rows: int
    disk_slots: tuple[int, ...]
    disk_rows: int
    is_digest_right: bool
    seconds: float

    @property
    def is_sound(self) -> bool:
        """Whether everything is what the digest says."""
        return self.is_digest_right and not (self.memory_rows or self.disk_rows)


@dataclass(frozen=True, slots=True)
class _Part:
    rows: int
    memory: tuple[int, ...]
    disk: tuple[int, ...]
    is_last: bool


@dataclass(frozen=True, slots=True)
class Damage:
    """Rows that are not what the digest says.

    Attributes:
        memory: Slots of the tensor.
        disk: Slots of the database.
        sound_rows: Rows of memory for those of the disk that memory still has.
    """

    memory: tuple[int, ...]
    disk: tuple[int, ...]
    sound_rows: tuple[SlotWrite, ...]


async def find_damage(engine: EnginePort) -> Damage:
    """Find every row that is damaged, and what memory has for those of the disk.

    Raises:
        NotReady: The engine has stopped.
        StorageUnavailable: The database cannot be read.
    """
    start = 0
    memory: list[int] = []
    disk: list[int] = []
    while True:
        part = await asyncio.wrap_future(engine.run_on_applier(partial(_compare, engine, start)))
        memory += part.memory
        disk += part.disk
        if part.is_last:
            break
        start += PART_SLOTS
        await asyncio.sleep(PAUSE_SECONDS)
    wanted = [slot for slot in disk if slot not in set(memory)]
    rows = await asyncio.wrap_future(engine.read(partial(_rows_of, wanted)))
    return Damage(tuple(memory), tuple(disk), rows)


def _rows_of(slots: list[int], tensor: Tensor) -> tuple[SlotWrite, ...]:
    """Copy rows out of the tensor.  Runs on the scorer's thread."""
    rows = [row for slot in slots for row in tensor.rows_between(slot, slot + 1)]
    return tuple(SlotWrite(*row, row_hash(*row)) for row in rows)


async def scrub(engine: EnginePort) -> Scrub:
    """Compare memory and disk with the digest, row by row.

    Raises:
        NotReady: The engine has stopped.
        StorageUnavailable: The database cannot be read.
    """
    began_at = time.monotonic()
    start, rows = 0, 0
    memory: list[int] = []
    disk: list[int] = []
    while True:
        part = await asyncio.wrap_future(engine.run_on_applier(partial(_compare, engine, start)))
        rows += part.rows
        memory += part.memory
        disk += part.disk
        if part.is_last:
            break
        start += PART_SLOTS
        await asyncio.sleep(PAUSE_SECONDS)
    is_right = await asyncio.wrap_future(engine.run_on_applier(_is_digest_right))
    return Scrub(
        rows,
        tuple(memory[:SLOTS_NAMED_MAX]),
        len(memory),
        tuple(disk[:SLOTS_NAMED_MAX]),
        len(disk),
        is_right,
        time.monotonic() - began_at,
    )


def _compare(engine: EnginePort, start: int, state: AppliedState) -> _Part:
    """Compare the slots from ``start``.  Runs on the applier's thread, between groups."""
    stop = start + PART_SLOTS
    expected = state.replica.table.row_hashes
    slots = {slot for slot in range(start, stop) if slot in expected}
    in_memory = engine.read(lambda tensor: _hashes(tensor.rows_between(start, stop))).result()
    on_disk: dict[int, bytes] = {}
    for row in state.storage.rows(start - 1, PART_SLOTS):
        if row.slot >= stop:
            break
        hashed = row_hash(row.slot, row.route_id, row.utterance, row.vector)
        on_disk[row.slot] = hashed if hashed == row.row_hash else b""
    return _Part(
        rows=len(slots),
        memory=_differing(slots | in_memory.keys(), in_memory, expected),
        disk=_differing(slots | on_disk.keys(), on_disk, expected),
        is_last=stop > max(expected, default=0),
    )


def _hashes(rows: list[tuple[int, int, str, bytes]]) -> dict[int, bytes]:
    return {row[0]: row_hash(*row) for row in rows}


def _differing(
    slots: set[int], found: dict[int, bytes], expected: dict[int, bytes]
) -> tuple[int, ...]:
    return tuple(slot for slot in sorted(slots) if found.get(slot) != expected.get(slot))


def _is_digest_right(state: AppliedState) -> bool:
    table = state.replica.table
    routes = tuple(table.routes.values())
    summed = sum_state(table.settings, table.row_hashes, routes, tuple(table.imports.values()))
    return summed.hex() == table.digest.hex()
