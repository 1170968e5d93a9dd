"""The scan: similarities of a batch with every row, folded by route.

Of bytes where there is an integer product and rows are many: three to five times as
fast, and a quarter of the memory to walk through.  Of float32 elsewhere.  Either says how far it
may be from the truth, and may differ in its last bits from batch to batch.

The float32 products are cut into stacks of small ones: below a million
multiplications OpenBLAS multiplies without first copying the rows (four times faster
for two queries, on AVX-512) and never starts threads; for one query it must be less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from synaptoroute.exact import FewDots, byte_error, byte_steps, dot_error, to_digits
from synaptoroute.scoring.values import (
    Float32s,
    Float64s,
    Int32s,
    IntegerProduct,
    ScoringRows,
)

SCORES_BYTES_MAX: Final = 64 * 1_048_576
"""Most memory that the similarities of one batch may take."""

BYTES_ROWS_MIN: Final = 4_096
"""With fewer rows, what bytes save is less than what deciding between more routes costs."""

QUERIES_PER_SCAN_MAX: Final = 64
_PRODUCT_MAX: Final = 1_000_000
_VECTOR_PRODUCT_MAX: Final = 9_000
_ROWS_ALIGNED: Final = 128
_CENTROIDS_ALIGNED: Final = 16
_INT32_MIN: Final = -(2**31)
_RESTS_MAX: Final = 1_024
Number = TypeVar("Number", np.float32, np.int32)


class Scratch:
    """What is kept from batch to batch; one thread's own.

    Attributes:
        few_dots: Multiplies a handful of rows with one query.

    Args:
        integer_product: Lets scans be of bytes.
        bytes_rows_min: From how many rows on they are.
    """

    def __init__(
        self,
        integer_product: IntegerProduct | None = None,
        bytes_rows_min: int = BYTES_ROWS_MIN,
    ) -> None:
        self.bytes_rows_min = bytes_rows_min
        self.few_dots = FewDots()
        self._floats = np.empty(0, np.float32)
        self._product = integer_product
        self._rests_left = 0
        self._rests_next = 1

    def take(self, rows: int, columns: int) -> Float32s:
        """Lend float32[rows, columns] of undefined content, until the next call."""
        size = rows * columns
        if size > len(self._floats):
            self._floats = np.empty(size, np.float32)
        return self._floats[:size].reshape(rows, columns)

    def take_integers(self, rows: int, columns: int) -> Int32s:
        """Lend int32[rows, columns] as ``take`` does, of the same memory."""
        return self.take(rows, columns).view(np.int32)

    def integer_product(self) -> IntegerProduct | None:
        """The product of bytes, unless it is given a rest."""
        if self._rests_left:
            self._rests_left -= 1
            return None
        return self._product

    def judge(self, *, was_useful: bool) -> None:
        """Rest from bytes for twice as many scans each time that one was in vain."""
        if was_useful:
            self._rests_next = 1
        else:
            self._rests_left = self._rests_next
            self._rests_next = min(2 * self._rests_next, _RESTS_MAX)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found, in steps whose size is each query's own.

    Attributes:
        similarities: By slot, [slots, n]; undefined for free slots.
        largest: The largest of each route, [routes, n]; undefined for ids not in use.
        sizes: Cosine similarity of one step, float64[n].
        error: Bound of |similarity - exact|, as cosine, float64[n].
    """

    similarities: NDArray[np.float32] | NDArray[np.int32]
    largest: NDArray[np.float32] | NDArray[np.int32]
    sizes: Float64s
    error: Float64s


def queries_per_scan(rows: ScoringRows) -> int:
    """How many queries fit the memory limit, at least one."""
    span_bytes = _span(rows) * np.dtype(np.float32).itemsize
    return max(1, min(QUERIES_PER_SCAN_MAX, SCORES_BYTES_MAX // max(1, span_bytes)))


def scan_rows(rows: ScoringRows, queries: Float32s, lengths: Float64s, scratch: Scratch) -> Scan:
    """Compare every row with every query in float32.

    Args:
        rows: What there is.
        queries: float32[n, dim].
        lengths: Of the queries, float64[n].
        scratch: Memory for the similarities.
    """
    columns = np.ascontiguousarray(queries.T)
    similarities = scratch.take(_span(rows), len(queries))
    for block in rows.blocks():
        stop = block.base_slot + len(block.rows)
        _multiply(block.rows, columns, similarities[block.base_slot : stop])
    error = dot_error(rows.dim) * np.maximum(1.0, lengths)
    return Scan(similarities, _fold(rows, similarities), np.ones(len(queries)), error)


def scan_bytes(
    rows: ScoringRows, queries: Float32s, lengths: Float64s, scratch: Scratch
) -> Scan | None:
    """Compare every row with every query in bytes; None if that is not possible now."""
    if _span(rows) < scratch.bytes_rows_min:
        return None
    product = scratch.integer_product()
    spans = rows.coarse_spans() if product is not None else None
    if product is None:
        return None
    if spans is None:
        rows.prepare()
        return None
    digits, sizes, lost = to_digits(queries, product.digit_max)
    similarities = scratch.take_integers(_span(rows), len(queries))
    for first_slot, span in spans:
        product(span, digits, similarities[first_slot : first_slot + len(span)])
    sizes /= byte_steps(rows.dim)
    error = byte_error(rows.coarse_lost_max, lengths, lost)
    return Scan(similarities, _fold(rows, similarities), sizes, error)


def scan_centroids(rows: ScoringRows, queries: Float32s) -> Float32s:
    """Compare every centroid with every query: float32[routes, n]."""
    columns = np.ascontiguousarray(queries.T)
    route_count = len(rows.is_live)
    spans = rows.centroid_spans()
    aligned = sum(len(centroids) for _, centroids in spans)
    similarities = np.empty((aligned, len(queries)), np.float32)
    if len(spans) == 1 and len(queries) == 1:
        least = -(-route_count // _CENTROIDS_ALIGNED) * _CENTROIDS_ALIGNED
        _multiply(spans[0][1][:least], columns, similarities[:least], _CENTROIDS_ALIGNED)
    else:
        for first_id, centroids in spans:
            _multiply(centroids, columns, similarities[first_id : first_id + len(centroids)])
    return similarities[:route_count]


def _fold(rows: ScoringRows, similarities: NDArray[Number]) -> NDArray[Number]:
    """Keep the largest similarity of every route, [routes, n]."""
    blocks = rows.blocks()
    route_count, query_count = len(rows.is_live), similarities.shape[1]
    largest: NDArray[Number] | None = None
    for block in blocks:
        part = similarities[block.base_slot : block.base_slot + len(block.rows)]
        if query_count == 1:
            by_route = part.reshape(-1).take(block.order, mode="clip")
            part = np.maximum.reduceat(by_route, block.starts).reshape(-1, 1)
        else:
            for left, right in block.folds:
                part = np.maximum(
                    part.take(left, axis=0, mode="clip"), part.take(right, axis=0, mode="clip")
                )
        if len(block.route_ids) == route_count and len(blocks) == 1:
            return part
        if largest is None:
            lowest = -2 if similarities.dtype == np.float32 else _INT32_MIN
            largest = np.full((route_count, query_count), lowest, similarities.dtype)
        largest[block.route_ids] = np.maximum(largest[block.route_ids], part)
    assert largest is not None, "a live route without a row: this is a bug"
    return largest


def _span(rows: ScoringRows) -> int:
    """Rows of the similarities: up to the end of the last block."""
    blocks = rows.blocks()
    return blocks[-1].base_slot + len(blocks[-1].rows) if blocks else 0


def _multiply(
    left: Float32s, columns: Float32s, out: Float32s, height: int = _ROWS_ALIGNED
) -> None:
    """Write ``left @ columns`` to ``out``, as a stack of small products."""
    most = _PRODUCT_MAX if columns.shape[1] > 1 else _VECTOR_PRODUCT_MAX
    while height > 1 and height * columns.size > most:
        height //= 2
    stack = left.reshape(-1, height, left.shape[1])
    np.matmul(stack, columns, out=out.reshape(-1, height, columns.shape[1]))
