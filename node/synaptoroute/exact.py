"""Arithmetic whose result no machine, batch or order of work can change.

A float32 product is exact in float64, so only sums can differ.  ``dots`` adds
along one fixed tree; it depends on the two vectors and on nothing else.
``to_grid`` rounds components to multiples of 2^-30: float64 adds and subtracts
up to 2^22 of those without any error, so a running sum over rows equals the sum
recomputed from them, bit for bit, whatever came and went in between.

Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., ch. 3.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float32s: TypeAlias = NDArray[np.float32]
Float64s: TypeAlias = NDArray[np.float64]

GRID: Final = 2.0**-30
GRID_ROWS_MAX: Final = 1 << 22
"""Unit rows that a sum may hold before float64 could round it."""

_SHIFT: Final = 1.5 * 2.0**52 * GRID
"""Adding and subtracting it leaves the nearest multiple of ``GRID``."""


def to_grid(vectors: Float32s) -> Float64s:
    """Round components to multiples of 2^-30, ready for exact sums.

    Args:
        vectors: float32[n, dim], components within -2 to 2.
    """
    grid = vectors.astype(np.float64)
    grid += _SHIFT
    grid -= _SHIFT
    return grid


def tree_sum(terms: Float64s) -> Float64s:
    """Sum float64[n, m] along its rows by halving; ``terms`` is overwritten.

    Returns:
        float64[n]; row i depends on ``terms[i]`` alone.
    """
    width = terms.shape[1]
    while width > 1:
        half = (width + 1) // 2
        terms[:, : width - half] += terms[:, half:width]
        width = half
    return terms[:, 0].copy() if width else np.zeros(len(terms))


def dots(left: Float32s, right: Float32s) -> Float64s:
    """Multiply float32[n, dim] with float32[n, dim] row by row: float64[n]."""
    terms = left.astype(np.float64)
    terms *= right
    return tree_sum(terms)


def dot_error(dim: int) -> float:
    """Bound |BLAS - exact| for unit vectors, whatever order BLAS adds in.

    Higham's gamma_n for float32 with n = ``dim``, 2 % for rows that are unit only
    within rounding, and four roundings for what is computed from the product.
    """
    unit_roundoff = 2.0**-24
    return 1.02 * dim * unit_roundoff / (1.0 - dim * unit_roundoff) + 4 * unit_roundoff
