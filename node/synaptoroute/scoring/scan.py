"""The scan: similarities of a batch with every row, and the largest of every route.

It compares bytes where there is an integer product and many rows: three to five times as
fast, with a quarter of the memory to read.  Elsewhere it compares float32.  Both state how
far a result may be from the exact one, and both may differ in their last bits from batch
to batch.

The float32 products are cut into stacks of small ones: below a million multiplications
OpenBLAS multiplies without first copying the rows (four times faster for two queries, on
AVX-512) and never starts threads; for one query the limit is lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from synaptoroute.exact import FewDots, byte_error, byte_steps, to_digits
from synaptoroute.scoring.values import Bytes, Float32s, Float64s, Int32s, IntegerProduct
from synaptoroute.tensor import TensorView
from synaptoroute.tensor.blocks import ROWS_ALIGNED
from synaptoroute.tensor.rows import ByteSpan

SCORES_BYTES_MAX: Final = 64 * 1_048_576
"""Most memory that the similarities of one batch may take."""
BYTES_ROWS_MIN: Final = 4_096
"""With fewer rows, what bytes save is less than the cost of the further candidates."""

QUERIES_PER_SCAN_MAX: Final = 64
_PRODUCT_MAX: Final = 1_000_000
_VECTOR_PRODUCT_MAX: Final = 9_000
_CENTROIDS_ALIGNED: Final = 16
_INT32_MIN: Final = -(2**31)
_SKIPS_MAX: Final = 1_024
_PRODUCTS_AT_ONCE: Final = 131_072
"""Products that stay in the CPU cache until they are brought in order."""
Number = TypeVar("Number", np.float32, np.int32)


class Scratch:
    """Memory that is kept from batch to batch; belongs to one thread.

    Args:
        integer_product: Allows scans of bytes.
        bytes_rows_min: Fewer rows are scanned in float32.

    Attributes:
        lone_plan: What ``lone`` keeps for the route set of the query before.
    """

    def __init__(
        self, integer_product: IntegerProduct | None = None, bytes_rows_min: int = BYTES_ROWS_MIN
    ) -> None:
        self.bytes_rows_min = bytes_rows_min
        self.few_dots = FewDots()
        self.lone_plan: Any = None
        self._floats = np.empty(0, np.float32)
        self._products = np.empty(0, np.int32)
        self._product = integer_product
        self._skips_left = 0
        self._skips_next = 1

    def take(self, rows: int, columns: int) -> Float32s:
        """Lend float32[rows, columns] of undefined content, until the next call."""
        # Never cleared: rows that no block covers may hold NaN, and nothing reads them.
        size = rows * columns
        if size > len(self._floats):
            self._floats = np.empty(size, np.float32)
        return self._floats[:size].reshape(rows, columns)

    def take_integers(self, rows: int, columns: int) -> Int32s:
        """Lend int32[rows, columns] as ``take`` does, of the same memory."""
        return self.take(rows, columns).view(np.int32)

    def take_products(self, blocks: int, queries: int, width: int) -> Int32s:
        """Lend int32[blocks, queries, width] of undefined content, until the next call."""
        size = blocks * queries * width
        if size > len(self._products):
            self._products = np.empty(size, np.int32)
        return self._products[:size].reshape(blocks, queries, width)

    @property
    def has_product(self) -> bool:
        """Whether bytes may be scanned."""
        return self._product is not None

    def integer_product(self) -> IntegerProduct | None:
        """Return the product of bytes; None where this scan shall skip it."""
        if self._skips_left:
            self._skips_left -= 1
            return None
        return self._product

    def report_bytes(self, *, were_useful: bool) -> None:
        """Back off from bytes: skip twice as many scans each time they were of no use."""
        if were_useful:
            self._skips_next = 1
        else:
            self._skips_left = self._skips_next
            self._skips_next = min(2 * self._skips_next, _SKIPS_MAX)


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of a scan, in steps whose size each query has for itself.

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


def queries_per_scan(view: TensorView) -> int:
    """Count the queries that fit the memory limit, at least one."""
    row_bytes = view.slot_stop * np.dtype(np.float32).itemsize
    return max(1, min(QUERIES_PER_SCAN_MAX, SCORES_BYTES_MAX // max(1, row_bytes)))


def scan_rows(view: TensorView, queries: Float32s, error: Float64s, scratch: Scratch) -> Scan:
    """Compare every row with every query in float32.

    Args:
        queries: float32[n, dim].
        error: Bound of each query's products, float64[n].
    """
    columns = np.ascontiguousarray(queries.T)
    similarities = scratch.take(view.slot_stop, len(queries))
    for block in view.blocks:
        stop = block.base_slot + len(block.rows)
        _multiply(block.rows, columns, similarities[block.base_slot : stop])
    return Scan(similarities, _fold(view, similarities), np.ones(len(queries)), error)


def scan_bytes(
    view: TensorView, queries: Float32s, lengths: Float64s, scratch: Scratch
) -> Scan | None:
    """Compare every row with every query in bytes; None if that is not possible now.

    Args:
        queries: float32[n, dim].
        lengths: Of the queries, float64[n].
    """
    product = scratch.integer_product()
    if product is None:
        return None
    spans = view.quantized.spans(view.slot_stop)
    if spans is None:
        # Rows of a boot are rounded while the node is idle.  Under constant load it never
        # is, so each query that would have used the bytes rounds some.
        view.quantized.advance()
        return None
    digits, sizes, lost = to_digits(queries, product.digit_max)
    # The last block may end behind the last row that counts.
    slot_stop = spans[-1].first_slot + spans[-1].sums.size
    similarities = scratch.take_integers(slot_stop, len(queries))
    for span in spans:
        stop = span.first_slot + span.sums.size
        _multiply_bytes(product, digits, span, similarities[span.first_slot : stop], scratch)
    sizes /= byte_steps(view.dim)
    # Rows that were rounded by ``spans`` may have raised ``lost_max``: read it afterwards.
    error = byte_error(view.quantized.lost_max, lengths, lost)
    return Scan(similarities, _fold(view, similarities), sizes, error)


def _multiply_bytes(
    product: IntegerProduct, digits: Bytes, span: ByteSpan, out: Int32s, scratch: Scratch
) -> None:
    """Write the products of a span's rows with the digits of n queries: int32[slots, n]."""
    count, width = len(digits), span.sums.shape[1]
    if count == 1:
        product(digits, span.blocks, span.sums, out.reshape(-1, 1, width))
        return
    step = max(1, _PRODUCTS_AT_ONCE // (count * width))
    for start in range(0, len(span.blocks), step):
        part = slice(start, start + step)
        sums = span.sums[part]
        products = scratch.take_products(len(sums), count, width)
        product(digits, span.blocks[part], sums, products)
        by_row = out[start * width : (start + len(sums)) * width].reshape(-1, width, count)
        by_row[:] = products.transpose(0, 2, 1)


def scan_vectors(
    view: TensorView, spans: Sequence[tuple[int, Float32s]], queries: Float32s
) -> Float32s:
    """Compare one vector of every route with every query: float32[routes, n].

    Args:
        spans: Vectors by route id, with the first route id of each span.
    """
    columns = np.ascontiguousarray(queries.T)
    route_count = len(view.is_live)
    first_id, last = spans[-1]
    similarities = np.empty((first_id + len(last), len(queries)), np.float32)
    if len(spans) == 1 and len(queries) == 1:
        # A lone query pays for every row of zeros behind the last route.
        rows = min(-(-route_count // _CENTROIDS_ALIGNED) * _CENTROIDS_ALIGNED, len(last))
        _multiply(last[:rows], columns, similarities[:rows], _CENTROIDS_ALIGNED)
    else:
        for first_id, vectors in spans:
            _multiply(vectors, columns, similarities[first_id : first_id + len(vectors)])
    return similarities[:route_count]


def _fold(view: TensorView, similarities: NDArray[Number]) -> NDArray[Number]:
    """Keep the largest similarity of every route, [routes, n]."""
    route_count, query_count = len(view.is_live), similarities.shape[1]
    largest: NDArray[Number] | None = None
    for block in view.blocks:
        part = similarities[block.base_slot : block.base_slot + len(block.rows)]
        if query_count == 1:
            # ``mode="clip"`` spares numpy's bounds check; the indexes are within the block.
            by_route = part.reshape(-1).take(block.order, mode="clip")
            part = np.maximum.reduceat(by_route, block.starts).reshape(-1, 1)
        else:
            for left, right in block.folds:
                part = np.maximum(
                    part.take(left, axis=0, mode="clip"), part.take(right, axis=0, mode="clip")
                )
        if len(block.route_ids) == route_count and len(view.blocks) == 1:
            return part
        if largest is None:
            # Below every similarity: a route may have no row in some of the blocks.
            lowest = -2 if similarities.dtype == np.float32 else _INT32_MIN
            largest = np.full((route_count, query_count), lowest, similarities.dtype)
        largest[block.route_ids] = np.maximum(largest[block.route_ids], part)
    assert largest is not None, "a live route without a row: this is a bug"
    return largest


def _multiply(left: Float32s, columns: Float32s, out: Float32s, height: int = ROWS_ALIGNED) -> None:
    """Write ``left @ columns`` to ``out``, as a stack of small products."""
    # Results differ in their last bits with the height of the stack.  That is harmless:
    # they only select candidates, within an error that holds for every order of addition.
    most = _PRODUCT_MAX if columns.shape[1] > 1 else _VECTOR_PRODUCT_MAX
    # A small route set has fewer rows than the stack would be high.
    height = min(height, len(left) & -len(left))
    while height > 1 and height * columns.size > most:
        height //= 2
    stack = left.reshape(-1, height, left.shape[1])
    np.matmul(stack, columns, out=out.reshape(-1, height, columns.shape[1]))
