"""The scan: float32 similarities of a batch with every row, folded by route.

What it returns is within ``exact.dot_error`` of the truth and may differ in its
last bits from batch to batch.  The products are cut into stacks of small ones:
below a million multiplications OpenBLAS multiplies without first copying the
rows (four times faster for two queries, on AVX-512) and never starts threads.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from synaptoroute.scoring.values import Float32s, ScoringRows

SCORES_BYTES_MAX: Final = 64 * 1_048_576
"""Most memory that the similarities of one batch may take."""

QUERIES_PER_SCAN_MAX: Final = 64
_PRODUCT_MAX: Final = 1_000_000
_ROWS_ALIGNED: Final = 128


class Scratch:
    """Memory for similarities, kept from batch to batch; one thread's own."""

    def __init__(self) -> None:
        self._floats = np.empty(0, np.float32)

    def take(self, rows: int, columns: int) -> Float32s:
        """Lend float32[rows, columns] of undefined content, until the next call."""
        size = rows * columns
        if size > len(self._floats):
            self._floats = np.empty(size, np.float32)
        return self._floats[:size].reshape(rows, columns)


def queries_per_scan(rows: ScoringRows) -> int:
    """How many queries fit the memory limit, at least one."""
    span_bytes = _span(rows) * np.dtype(np.float32).itemsize
    return max(1, min(QUERIES_PER_SCAN_MAX, SCORES_BYTES_MAX // max(1, span_bytes)))


def scan_rows(rows: ScoringRows, queries: Float32s, scratch: Scratch) -> tuple[Float32s, Float32s]:
    """Compare every row with every query.

    Args:
        rows: What there is.
        queries: float32[n, dim].
        scratch: Memory for the first result.

    Returns:
        Similarities by slot, float32[slots, n], undefined for free slots; and the
        largest of each route, float32[routes, n], -inf for ids not in use.
    """
    columns = np.ascontiguousarray(queries.T)
    similarities = scratch.take(_span(rows), len(queries))
    largest = np.full((len(rows.is_live), len(queries)), -np.inf, np.float32)
    for block in rows.blocks():
        part = similarities[block.base_slot : block.base_slot + len(block.rows)]
        _multiply(block.rows, columns, part)
        for left, right in block.folds:
            part = np.maximum(part.take(left, axis=0), part.take(right, axis=0))
        largest[block.route_ids] = np.maximum(largest[block.route_ids], part)
    return similarities, largest


def scan_centroids(rows: ScoringRows, queries: Float32s) -> Float32s:
    """Compare every centroid with every query: float32[routes, n]."""
    columns = np.ascontiguousarray(queries.T)
    spans = rows.centroid_spans()
    aligned = sum(len(centroids) for _, centroids in spans)
    similarities = np.empty((aligned, len(queries)), np.float32)
    for first_id, centroids in spans:
        _multiply(centroids, columns, similarities[first_id : first_id + len(centroids)])
    return similarities[: len(rows.is_live)]


def _span(rows: ScoringRows) -> int:
    """Rows of the similarities: up to the end of the last block."""
    blocks = rows.blocks()
    return blocks[-1].base_slot + len(blocks[-1].rows) if blocks else 0


def _multiply(left: Float32s, columns: Float32s, out: Float32s) -> None:
    """Write ``left @ columns`` to ``out``, as a stack of small products."""
    height = _ROWS_ALIGNED
    while height > 1 and height * columns.size > _PRODUCT_MAX:
        height //= 2
    stack = left.reshape(-1, height, left.shape[1])
    np.matmul(stack, columns, out=out.reshape(-1, height, columns.shape[1]))
