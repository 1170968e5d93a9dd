"""The rows once more, a byte a component, for the first look of a scan.

A quarter of the memory, and products of whole numbers; see ``synaptoroute.exact``.
Many rows that change are rounded with the change, few of them right after it.  Those of
a boot are rounded later, a few thousand at a time between batches, because a boot must
not wait for them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.exact import to_bytes
from synaptoroute.tensor.chunked_array import Slabs, Slots

_ROWS_AT_ONCE: Final = 256
"""Rows rounded at once; their copies stay in the processor's cache."""

_NOTES_MAX: Final = 64
"""Writes whose rows wait to be rounded."""

ADVANCE_ROWS: Final = 2_048
"""Rows caught up on between two batches; some milliseconds."""


class CoarseRows:
    """Bytes of every row, once ``is_ready``.

    Invariants: no row lost more than ``lost_max``; ``lost_max`` never falls.
    """

    def __init__(self, dim: int, slab_slots: int) -> None:
        self._bytes: Slabs[np.uint8] = Slabs(dim, slab_slots, np.uint8)
        self._due_start = 0
        self._due_stop = 0
        self._noted: list[Slots] = []
        self.lost_max = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether no row is due."""
        return self._due_start == self._due_stop

    def owe(self, stop: int) -> None:
        """Note that rows 0 to ``stop - 1`` are there but not rounded."""
        self._due_start = 0
        self._due_stop = max(stop, self._due_stop)

    def advance(self, rows: Slabs[np.float32]) -> None:
        """Round the next rows that are due."""
        start = self._due_start
        stop = min(start + ADVANCE_ROWS, self._due_stop)
        for first in range(start, stop, _ROWS_AT_ONCE):
            slots = np.arange(first, min(first + _ROWS_AT_ONCE, stop))
            self.write(slots, rows.look(slots))
        self._due_start = stop

    @property
    def is_behind(self) -> bool:
        """Whether rows were noted that changed."""
        return bool(self._noted)

    def note(self, slots: Slots, rows: Slabs[np.float32]) -> None:
        """Note a few rows that changed, to be rounded before anybody looks."""
        self._noted.append(slots)
        if len(self._noted) >= _NOTES_MAX:
            self.catch_up(rows)

    def catch_up(self, rows: Slabs[np.float32]) -> None:
        """Round the rows that were noted."""
        if self._noted:
            slots = np.unique(np.concatenate(self._noted))
            self._noted.clear()
            self.write(slots, rows.look(slots))

    def write(self, slots: Slots, vectors: NDArray[np.float32]) -> None:
        """Round rows as they are written, float32[n, dim]; very many are only owed."""
        if len(slots) > ADVANCE_ROWS:
            self.owe(int(slots.max()) + 1)
            return
        for first in range(0, len(slots), _ROWS_AT_ONCE):
            part = vectors[first : first + _ROWS_AT_ONCE]
            rounded = np.empty(part.shape, np.uint8)
            self.lost_max = max(self.lost_max, float(to_bytes(part, rounded).max()))
            self._bytes.write(slots[first : first + _ROWS_AT_ONCE], rounded)

    def spans(self, stop: int) -> list[tuple[int, NDArray[np.uint8]]]:
        """View rows 0 to ``stop - 1``, slab by slab, with the first slot of each view."""
        self._bytes.reserve(stop)
        size = self._bytes.slab_slots
        return [
            (start, self._bytes.span(start, min(start + size, stop)))
            for start in range(0, stop, size)
        ]
