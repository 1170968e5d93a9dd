"""Rows of numbers that grow in chunks, and the same rows rounded to bytes.

``ChunkedArray`` cuts a [rows, dim] array into chunks.  A new chunk is zeroed memory that
the system maps page by page as rows are written, so growth copies nothing and stalls no
query.  The array of a small route set begins with a few rows; while it has less than one chunk,
growth copies what is there.  ``QuantizedRows`` holds a byte a component for the first pass of a
scan: a quarter of the memory, and products of whole numbers; see ``synaptoroute.exact``.  They
stand in blocks of ``BYTES_WIDTH`` rows side by side, component by component, as the integer
product reads a lone query fastest (``encoder.integer_product``).
"""

from __future__ import annotations

from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from synaptoroute.exact import to_bytes
from synaptoroute.memory import zeroed_array

Scalar = TypeVar("Scalar", bound=np.generic)
Slots: TypeAlias = NDArray[np.int64]

CACHED_ROWS: Final = 256
"""Rows converted in one step; their float64 copies stay in the CPU cache."""
ADVANCE_ROWS: Final = 2_048
"""Rows of deferred work done between two batches; some milliseconds."""
COPIED_ROWS: Final = 2_048
BYTES_WIDTH: Final = 128
"""Rows of a block of bytes; a power of two."""

SMALL_ROWS: Final = 16
"""Rows with which the arrays of a small route set begin."""
DORMANT_ROWS: Final = 4_096
"""A small route set is not rounded below so many rows: no scan would read the bytes."""
_DEFERRED_WRITES_MAX: Final = 64
"""Writes whose rows may wait to be rounded."""

_Part: TypeAlias = tuple[int, "Slots | slice", "Slots | slice"]


class ChunkedArray(Generic[Scalar]):
    """A growing [rows, dim] array in chunks of ``chunk_rows`` rows.

    Invariants: a row of a whole chunk never moves; a row that was never written is zero.

    Args:
        chunk_rows: Rows of a whole chunk.
        rows_at_first: Rows of the first chunk to begin with; 0 for a whole one.  Both are powers
            of two.

    Attributes:
        capacity_rows: Rows that have memory.
        chunk_rows: Rows of a chunk; fewer than those of a whole one at first.
    """

    def __init__(
        self, dim: int, chunk_rows: int, dtype: type[Scalar], rows_at_first: int = 0
    ) -> None:
        assert chunk_rows & (chunk_rows - 1) == 0, "a chunk holds a power of two of rows"
        self.dim = dim
        self.whole_rows = chunk_rows
        self.chunk_rows = min(rows_at_first, chunk_rows) or chunk_rows
        self.capacity_rows = 0
        self._shift = self.chunk_rows.bit_length() - 1
        self._dtype = dtype
        self._chunks: list[NDArray[Scalar]] = []

    def reserve(self, rows: int) -> bool:
        """Allocate memory for at least ``rows`` rows.

        Returns:
            Whether rows moved; earlier views keep their memory, and show no later write.
        """
        has_moved = False
        if rows > self.chunk_rows and self.chunk_rows < self.whole_rows:
            has_moved = self._enlarge(min(rows, self.whole_rows))
        while self.capacity_rows < rows:
            # Not ``np.full`` or ``np.empty``: zeroed memory costs nothing until it is written,
            # and rows that were never written must hold finite numbers.
            self._chunks.append(zeroed_array((self.chunk_rows, self.dim), self._dtype))
            self.capacity_rows += self.chunk_rows
        return has_moved

    def _enlarge(self, rows: int) -> bool:
        """Replace the only chunk, which is not a whole one, by a larger one."""
        former, self._chunks = self._chunks, []
        self._shift = (rows - 1).bit_length()
        self.chunk_rows = 1 << self._shift
        self.capacity_rows = 0
        if not former:
            return False
        self.reserve(rows)
        self._chunks[0][: len(former[0])] = former[0]
        return True

    def copy_from(self, other: ChunkedArray[Scalar], rows: int) -> None:
        """Copy rows 0 to ``rows - 1`` of another array, a few thousand at a time."""
        self.reserve(rows)
        step = min(COPIED_ROWS, self.chunk_rows, other.chunk_rows)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            self.span(start, stop)[:] = other.span(start, stop)

    def adopt(self, rows: NDArray[Scalar]) -> bool:
        """Use the memory of ``rows`` without copying it, if it is laid out as chunks are.

        The rows must be the start of an array that has zeroed room for whole chunks.
        This object owns that array afterwards.

        Returns:
            Whether the memory was taken; if not, nothing changed.
        """
        room = rows.base
        if (
            self._chunks
            or self.chunk_rows < self.whole_rows
            or not isinstance(room, np.ndarray)
            or room.dtype != self._dtype
            or room.shape[1:] != (self.dim,)
            or len(room) % self.chunk_rows
            or not (room.flags.c_contiguous and room.flags.writeable)
            or room.ctypes.data != rows.ctypes.data
        ):
            return False
        starts = range(0, len(room), self.chunk_rows)
        self._chunks = [room[start : start + self.chunk_rows] for start in starts]
        self.capacity_rows = len(room)
        return True

    def span(self, start: int, stop: int) -> NDArray[Scalar]:
        """View rows ``start`` to ``stop - 1``, which lie in one chunk."""
        chunk, offset = divmod(start, self.chunk_rows)
        view: NDArray[Scalar] = self._chunks[chunk][offset : offset + stop - start]
        return view

    def spans(self, stop: int) -> list[tuple[int, NDArray[Scalar]]]:
        """View rows 0 to ``stop - 1`` chunk by chunk, each with the number of its first row."""
        size = self.chunk_rows
        starts = range(0, stop, size)
        return [(start, self._chunks[start // size][: stop - start]) for start in starts]

    def peek(self, slots: Slots) -> NDArray[Scalar]:
        """Return rows to be read at once: a view if they are consecutive, else a copy."""
        parts = self._parts(slots)
        if len(parts) == 1 and isinstance(parts[0][1], slice):
            view: NDArray[Scalar] = self._chunks[parts[0][0]][parts[0][1]]
            return view
        return self.read(slots)

    def read(self, slots: Slots) -> NDArray[Scalar]:
        """Copy rows out, [len(slots), dim]."""
        if len(self._chunks) == 1:
            return self._chunks[0].take(slots, axis=0)
        rows = np.empty((len(slots), self.dim), self._dtype)
        for chunk, within, places in self._parts(slots):
            rows[places] = self._chunks[chunk][within]
        return rows

    def write(self, slots: Slots, rows: NDArray[Scalar]) -> None:
        """Copy rows in; each slot at most once."""
        top = int(slots.max(initial=-1))
        if top >= self.capacity_rows:
            self.reserve(top + 1)
        for chunk, within, places in self._parts(slots):
            self._chunks[chunk][within] = rows[places]

    def _parts(self, slots: Slots) -> list[_Part]:
        """Split slots by chunk: the chunk, the rows in it, their places in ``slots``.

        Consecutive slots, which is what a boot writes, become slices: numpy copies those
        at the speed of memory.
        """
        if len(slots) == 0:
            return []
        low, high = int(slots[0]), int(slots[-1])
        # n values that rise by n - 1 in total, each above the one before, are consecutive.
        is_run = high - low == len(slots) - 1 and bool((slots[1:] > slots[:-1]).all())
        if not is_run:
            low, high = int(slots.min()), int(slots.max())
        first, last = low >> self._shift, high >> self._shift
        if first == last:
            base = first << self._shift
            within = slice(low - base, high + 1 - base) if is_run else slots - base
            return [(first, within, slice(None))]
        parts: list[_Part] = []
        if is_run:
            for chunk in range(first, last + 1):
                base = chunk << self._shift
                start, stop = max(low, base), min(high + 1, base + self.chunk_rows)
                places = slice(start - low, stop - low)
                parts.append((chunk, slice(start - base, stop - base), places))
            return parts
        chunk_of = slots >> self._shift
        for chunk in np.unique(chunk_of).tolist():
            chosen = np.flatnonzero(chunk_of == chunk)
            parts.append((chunk, slots[chosen] - (chunk << self._shift), chosen))
        return parts


class ByteSpan(NamedTuple):
    """Rows of one chunk, rounded.

    Attributes:
        first_slot: Slot of the first row.
        blocks: int8[blocks, dim, BYTES_WIDTH]; row i is column i modulo the width of its block.
        sums: Of the bytes of each row, int32[blocks, BYTES_WIDTH].
    """

    first_slot: int
    blocks: NDArray[np.int8]
    sums: NDArray[np.int32]

    def rows(self) -> NDArray[np.int8]:
        """Copy the rows out, one after the other: int8[n, dim]."""
        return self.blocks.transpose(0, 2, 1).reshape(-1, self.blocks.shape[1])


class QuantizedRows:
    """Every row rounded to bytes, once ``is_ready``.

    Large writes are rounded when they are made, small ones right after.  Rows of a boot
    are rounded a few thousand at a time between batches, because a boot must not wait.
    The rows of a small route set are not rounded before there are ``DORMANT_ROWS``.
    Invariants: no row lost more than ``lost_max``; ``lost_max`` never falls.

    Attributes:
        lost_max: Greatest length that a row lost by rounding.
        has_deferred: Whether written rows are not rounded yet; ``spans`` does that first.
        is_ready: Whether all rows of the last boot are rounded.
    """

    def __init__(self, rows: ChunkedArray[np.float32]) -> None:
        self.lost_max = 0.0
        self.has_deferred = False
        self.is_ready = True
        self._rows = rows
        self._is_dormant = rows.chunk_rows < rows.whole_rows
        at_first = DORMANT_ROWS // BYTES_WIDTH if self._is_dormant else 0
        whole = rows.whole_rows // BYTES_WIDTH
        # A "row" of these is a block.
        self._blocks: ChunkedArray[np.int8] = ChunkedArray(
            rows.dim * BYTES_WIDTH, whole, np.int8, at_first
        )
        self._sums: ChunkedArray[np.int32] = ChunkedArray(BYTES_WIDTH, whole, np.int32, at_first)
        self._pending_start = 0
        self._pending_stop = 0
        self._deferred: list[Slots] = []

    def defer_all(self, stop: int) -> None:
        """Round rows 0 to ``stop - 1`` later, by ``advance``."""
        self._pending_start = 0
        self._pending_stop = max(stop, self._pending_stop)
        self.is_ready = self._pending_stop == 0

    def advance(self) -> None:
        """Round the next ``ADVANCE_ROWS`` rows of a boot."""
        start = self._pending_start
        stop = min(start + ADVANCE_ROWS, self._pending_stop)
        for first in range(start, stop, CACHED_ROWS):
            slots = np.arange(first, min(first + CACHED_ROWS, stop))
            self.write(slots, self._rows.peek(slots))
        self._pending_start = stop
        self.is_ready = stop == self._pending_stop

    def wake(self) -> None:
        """Round all rows from now on, if there are enough; those that are there by ``advance``."""
        if self._is_dormant and self._rows.capacity_rows >= DORMANT_ROWS:
            self._is_dormant = False
            self.defer_all(self._rows.capacity_rows)

    def copy_from(self, other: QuantizedRows, rows: int) -> None:
        """Copy the bytes of rows 0 to ``rows - 1``; nothing may be deferred there."""
        self._is_dormant = self._rows.capacity_rows < DORMANT_ROWS
        self._pending_start = self._pending_stop = 0
        self.is_ready = True
        if not self._is_dormant:
            self.lost_max = other.lost_max
            blocks = min(-(-rows // BYTES_WIDTH), other._blocks.capacity_rows)
            self._blocks.copy_from(other._blocks, blocks)
            self._sums.copy_from(other._sums, blocks)

    def defer(self, slots: Slots) -> None:
        """Round a few rows that were written later, by ``flush``."""
        if self._is_dormant:
            return
        self._deferred.append(slots)
        self.has_deferred = True
        if len(self._deferred) >= _DEFERRED_WRITES_MAX:
            self.flush()

    def flush(self) -> None:
        """Round the rows that ``defer`` was given."""
        if self._deferred:
            # A row that was written twice is rounded once, as it is now.
            slots = np.unique(np.concatenate(self._deferred))
            self._deferred.clear()
            self.has_deferred = False
            self.write(slots, self._rows.peek(slots))

    def write(self, slots: Slots, vectors: NDArray[np.float32]) -> None:
        """Round float32[n, dim] now; very many rows are left to ``advance``."""
        if self._is_dormant:
            return
        if len(slots) > ADVANCE_ROWS:
            self.defer_all(int(slots.max()) + 1)
            return
        for first in range(0, len(slots), CACHED_ROWS):
            part = vectors[first : first + CACHED_ROWS]
            rounded = np.empty(part.shape, np.int8)
            lost, sums = to_bytes(part, rounded)
            # Never lowered when a row goes: the maximum of the others is not known.
            self.lost_max = max(self.lost_max, float(lost.max()))
            self._place(slots[first : first + CACHED_ROWS], rounded, sums)

    def _place(self, slots: Slots, rounded: NDArray[np.int8], sums: NDArray[np.int32]) -> None:
        """Put rounded rows into their blocks."""
        self._reserve(int(slots.max()) + 1)
        numbers, columns = slots // BYTES_WIDTH, slots % BYTES_WIDTH
        starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(slots)], strict=True):
            number, within = int(numbers[start]), columns[start:stop]
            block = self._blocks.span(number, number + 1).reshape(-1, BYTES_WIDTH)
            held = self._sums.span(number, number + 1)[0]
            low, high = int(within[0]), int(within[-1]) + 1
            if high - low == stop - start and bool((within[1:] > within[:-1]).all()):
                block[:, low:high] = rounded[start:stop].T
                held[low:high] = sums[start:stop]
            else:
                block[:, within] = rounded[start:stop].T
                held[within] = sums[start:stop]

    def _reserve(self, rows: int) -> None:
        blocks = -(-rows // BYTES_WIDTH)
        self._blocks.reserve(blocks)
        self._sums.reserve(blocks)

    def spans(self, stop: int) -> list[ByteSpan] | None:
        """View rows 0 to ``stop - 1``, in whole blocks; None if not ready."""
        if self._is_dormant or not self.is_ready:
            return None
        if self.has_deferred:
            self.flush()
        # The last block is padded; its free rows may lie beyond the last rounded one.
        self._reserve(stop)
        count = -(-stop // BYTES_WIDTH)
        return [
            ByteSpan(number * BYTES_WIDTH, blocks.reshape(-1, self._rows.dim, BYTES_WIDTH), sums)
            for (number, blocks), (_, sums) in zip(
                self._blocks.spans(count), self._sums.spans(count), strict=True
            )
        ]
