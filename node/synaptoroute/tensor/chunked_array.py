"""Rows of numbers that can grow without ever being moved.

Slots are numbered on; a slab holds the rows of some consecutive slots.  A new
slab is zeroed memory that the system maps page by page as rows are written, so
growing costs nothing, copies nothing and stalls nobody.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)
Slots = NDArray[np.int64]


class Slabs(Generic[Scalar]):
    """A growing [slots, dim] array, cut into slabs of ``slab_slots`` rows.

    Invariants: a row never moves; a row that was never written is zero.
    """

    def __init__(self, dim: int, slab_slots: int, dtype: type[Scalar]) -> None:
        assert slab_slots & (slab_slots - 1) == 0, "a slab holds a power of two of rows"
        self.dim = dim
        self.slab_slots = slab_slots
        self._shift = slab_slots.bit_length() - 1
        self._dtype = dtype
        self._slabs: list[NDArray[Scalar]] = []

    @property
    def rows_mapped(self) -> int:
        """Rows that have an address."""
        return len(self._slabs) * self.slab_slots

    def reserve(self, rows: int) -> None:
        """Give an address to ``rows`` rows."""
        while self.rows_mapped < rows:
            self._slabs.append(np.zeros((self.slab_slots, self.dim), self._dtype))

    def take(self, rows: NDArray[Scalar]) -> bool:
        """Use the memory of rows 0, 1, 2, ... as it is, where it is laid out as slabs are.

        It must be the start of an array that has zeroed room for whole slabs; that
        array is this object's from now on.

        Returns:
            Whether it could be used; if not, nothing changed.
        """
        room = rows.base
        if (
            self._slabs
            or not isinstance(room, np.ndarray)
            or room.dtype != self._dtype
            or room.shape[1:] != (self.dim,)
            or len(room) % self.slab_slots
            or not (room.flags.c_contiguous and room.flags.writeable)
            or room.ctypes.data != rows.ctypes.data
        ):
            return False
        starts = range(0, len(room), self.slab_slots)
        self._slabs = [room[start : start + self.slab_slots] for start in starts]
        return True

    def span(self, start: int, stop: int) -> NDArray[Scalar]:
        """View rows ``start`` to ``stop - 1``, which lie in one slab."""
        slab, offset = divmod(start, self.slab_slots)
        view: NDArray[Scalar] = self._slabs[slab]
        return view[offset : offset + stop - start]

    def look(self, slots: Slots) -> NDArray[Scalar]:
        """See rows, [len(slots), dim], to be read at once; consecutive ones are not copied."""
        parts = self._by_slab(slots)
        if len(parts) == 1 and isinstance(parts[0][1], slice):
            view: NDArray[Scalar] = self._slabs[parts[0][0]][parts[0][1]]
            return view
        return self.read(slots)

    def read(self, slots: Slots) -> NDArray[Scalar]:
        """Copy rows out, [len(slots), dim]."""
        if len(self._slabs) == 1:
            return self._slabs[0].take(slots, axis=0)
        rows = np.empty((len(slots), self.dim), self._dtype)
        for slab, at, chosen in self._by_slab(slots):
            rows[chosen] = self._slabs[slab][at]
        return rows

    def write(self, slots: Slots, rows: NDArray[Scalar]) -> None:
        """Copy rows in; each slot at most once."""
        if len(slots):
            self.reserve(int(slots.max()) + 1)
        for slab, at, chosen in self._by_slab(slots):
            self._slabs[slab][at] = rows[chosen]

    def _cut(self, start: int, stop: int) -> list[tuple[int, Slots | slice, Slots | slice]]:
        """Cut a run of slots at the slabs' ends."""
        parts: list[tuple[int, Slots | slice, Slots | slice]] = []
        at = start
        while at < stop:
            slab = at >> self._shift
            offset = slab << self._shift
            end = min(stop, offset + self.slab_slots)
            parts.append((slab, slice(at - offset, end - offset), slice(at - start, end - start)))
            at = end
        return parts

    def _by_slab(self, slots: Slots) -> list[tuple[int, Slots | slice, Slots | slice]]:
        """Say for each slab which of its rows are meant, and where they stand in ``slots``.

        Consecutive slots of one slab, which is what a boot writes, become slices:
        those are copied at the speed of memory.
        """
        if len(slots) == 0:
            return []
        low, high = int(slots[0]), int(slots[-1])
        # Rising over n - 1 in n steps: one after the other.
        if high - low == len(slots) - 1 and bool((slots[1:] > slots[:-1]).all()):
            return self._cut(low, high + 1)
        low, high = int(slots.min()), int(slots.max())
        slab = low >> self._shift
        if slab == high >> self._shift:
            return [(slab, slots - (slab << self._shift), slice(None))]
        slab_of = slots >> self._shift
        parts = [(int(slab), np.flatnonzero(slab_of == slab)) for slab in np.unique(slab_of)]
        return [(slab, slots[chosen] - (slab << self._shift), chosen) for slab, chosen in parts]
