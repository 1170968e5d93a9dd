"""Numbers that are handed out lowest first.

Which numbers come next is a pure function of which are in use, so a replica built
from a snapshot chooses as one that replayed the whole log.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable


class FreeNumbers:
    """The numbers 0, 1, 2, ... that are not in use.

    Invariants: every number at or above ``high_water`` is free; below it, exactly
    the members of ``_free``.  The heap holds every member of ``_free``, and may
    hold numbers that were claimed since: they are skipped.
    """

    __slots__ = ("_free", "_heap", "high_water")

    def __init__(self) -> None:
        self.high_water = 0
        self._free: set[int] = set()
        self._heap: list[int] = []

    def peek(self, count: int) -> list[int]:
        """Say which ``count`` numbers are lowest, without claiming them."""
        lowest: list[int] = []
        while self._heap and len(lowest) < count:
            number = heapq.heappop(self._heap)
            if number in self._free and (not lowest or lowest[-1] != number):
                lowest.append(number)
        for number in lowest:
            heapq.heappush(self._heap, number)
        missing = count - len(lowest)
        return lowest + list(range(self.high_water, self.high_water + missing))

    def claim(self, number: int) -> None:
        """Put a free number in use."""
        if number >= self.high_water:
            for skipped in range(self.high_water, number):
                self._free.add(skipped)
                heapq.heappush(self._heap, skipped)
            self.high_water = number + 1
            return
        self._free.remove(number)

    def claim_all(self, numbers: Iterable[int]) -> None:
        """Put many free numbers in use, for a boot."""
        for number in sorted(numbers):
            self.claim(number)

    def free(self, number: int) -> None:
        """Take a number out of use."""
        assert 0 <= number < self.high_water, f"{number} is not in use: this is a bug"
        assert number not in self._free, f"{number} is free already: this is a bug"
        self._free.add(number)
        heapq.heappush(self._heap, number)
        if len(self._free) == self.high_water:
            self._free.clear()
            self._heap.clear()
            self.high_water = 0
