"""Allocates small numbers, lowest free first: slots and route ids."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Collection
from typing import Final

_STALE_MIN: Final = 1_024
_NEXT_MAX: Final = 64
"""Numbers that a write of one route may look at again."""


class FreeNumbers:
    """Allocates the numbers 0, 1, 2, ..., lowest free first.

    The next numbers are a pure function of those in use, so a replica restored from a
    snapshot allocates like one that replayed the whole log.

    Invariants: ``high_water`` is one above the highest number in use, or 0 if none is.
    Below it, exactly the members of ``_free`` are free.  Each of them is in ``_next`` or in
    ``_heap``; those in ``_next`` are the lower ones.
    """

    __slots__ = ("_free", "_heap", "_next", "high_water")

    def __init__(self) -> None:
        self.high_water = 0
        self._free: set[int] = set()
        # Claiming a number leaves its entry behind: peek() skips such entries, and free() rebuilds
        # the heap before they outnumber the rest.
        self._heap: list[int] = []
        self._next: list[int] = []  # Ascending: taken off the heap, which takes long if it is large

    def peek(self, count: int) -> list[int]:
        """Return the ``count`` lowest free numbers without claiming them."""
        free = self._free
        if not free:
            return list(range(self.high_water, self.high_water + count))
        lowest = [number for number in self._next if number in free]
        while self._heap and len(lowest) < count:
            number = heapq.heappop(self._heap)
            if number in free and (not lowest or lowest[-1] != number):
                lowest.append(number)
        self._next = lowest[:_NEXT_MAX]
        for number in lowest[_NEXT_MAX:]:
            heapq.heappush(self._heap, number)
        missing = count - len(lowest)
        return lowest[:count] + list(range(self.high_water, self.high_water + missing))

    def claim(self, number: int) -> None:
        if number < self.high_water:
            self._free.remove(number)
            return
        skipped = range(self.high_water, number)
        if skipped:
            # Rare.  ``_next`` may hold old entries above them.
            self._free.update(skipped)
            self._heap, self._next = sorted(self._free), []
        self.high_water = number + 1

    def claim_all(self, used: Collection[int]) -> None:
        """Mark many distinct numbers as used at once; none may be in use yet.  For the boot."""
        assert self.high_water == 0, "numbers are in use already: this is a bug"
        self.high_water = max(used, default=-1) + 1
        if len(used) < self.high_water:
            self._free = set(range(self.high_water)).difference(used)
            self._heap = sorted(self._free)

    def free(self, number: int) -> None:
        assert 0 <= number < self.high_water, f"{number} is not in use: this is a bug"
        assert number not in self._free, f"{number} is free already: this is a bug"
        self._free.add(number)
        if len(self._free) == self.high_water:
            self._free.clear()
            self._heap.clear()
            self._next.clear()
            self.high_water = 0
            return
        if self._next and number < self._next[-1]:
            self._note_lower(number)
        else:
            heapq.heappush(self._heap, number)
        while self.high_water - 1 in self._free:
            self.high_water -= 1
            self._free.remove(self.high_water)
        if len(self._heap) > 2 * len(self._free) + _STALE_MIN:
            self._heap, self._next = sorted(self._free), []

    def _note_lower(self, number: int) -> None:
        """Note a free number below the last of ``_next``, where its old entry may be."""
        at = bisect_left(self._next, number)
        if self._next[at] != number:
            self._next.insert(at, number)
