"""Linearizable: reads of the newest state see each register as if there were one copy.

Every write of a register gives it a value that no other write gives.  Then a history is
linearizable if no two values must each come before the other (Gibbons and Korach, "Testing
Shared Memories", 1997, section 4).  A value must come before another one if an operation of
it, its write or a read of it, ended before an operation of the other began.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sim.history import HeadRead, History, Op

INITIAL = b""
"""The value of a register that was never written."""


@dataclass
class Zone:
    """One value of a register.

    Attributes:
        value: The write that gave it.
        written: When that write began.
        first_end: The earliest end of an operation of this value.
        last_begin: The latest beginning of one.
    """

    value: bytes
    written: float
    first_end: float
    last_begin: float

    def add(self, began: float, ended: float) -> None:
        """Add an operation."""
        self.first_end = min(self.first_end, ended)
        self.last_begin = max(self.last_begin, began)

    def precedes(self, other: Zone) -> bool:
        """Whether this value must come before another one."""
        return self.first_end < other.last_begin


def stale(history: History) -> list[str]:
    """Reads and writes of registers that no single copy could have answered."""
    reads: dict[str, list[HeadRead]] = defaultdict(list)
    for read in history.head_reads:
        reads[read.name].append(read)
    writes: dict[str, list[Op]] = defaultdict(list)
    for op in history.ops.values():
        writes[op.name].append(op)
    found: list[str] = []
    for name, seen in reads.items():
        found += _contradictions(name, writes[name], seen)
    return found


def _contradictions(name: str, writes: Iterable[Op], reads: Iterable[HeadRead]) -> list[str]:
    zones = {INITIAL: Zone(INITIAL, -math.inf, -math.inf, -math.inf)}
    for op in writes:
        ended = math.inf if op.ended is None else op.ended
        zones[op.op_id] = Zone(op.op_id, op.began, ended, op.began)
    found, is_seen = [], set()
    for read in reads:
        zone = zones.get(read.value)
        if zone is None or read.ended < zone.written:
            found.append(f"{name}: {read.node} read a value that nobody had written")
            continue
        zone.add(read.began, read.ended)
        is_seen.add(read.value)
    # A write that was neither acknowledged nor read may never have happened.
    kept = [z for z in zones.values() if z.first_end < math.inf or z.value in is_seen]
    for early in kept:
        if early.first_end >= early.last_begin:
            continue  # its operations overlap: it can only lie within another value's zone
        for other in kept:
            if other is not early and early.precedes(other) and other.precedes(early):
                pair = sorted((early.value.hex()[-4:], other.value.hex()[-4:]))
                found.append(f"{name}: each of the values {pair} must come before the other")
    return sorted(set(found))
