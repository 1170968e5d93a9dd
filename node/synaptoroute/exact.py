"""Arithmetic with results that no machine, batch or order of work can change.

A product of float32 numbers is exact in float64, so only sums can differ.  ``dots`` adds
along one fixed tree; the result depends on the two vectors and on nothing else.
``to_grid`` rounds components to multiples of 2^-30.  float64 adds and subtracts up to 2^22
of those without any error, so a running sum over rows equals the sum computed anew from
the rows that are left, bit for bit.
``to_bytes`` and ``to_digits`` round vectors so coarsely that their products are sums of
small integers, which are exact.  They also measure how much each vector lost: by
Cauchy-Schwarz, no product can be further from the exact one than that.

Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., ch. 3.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float32s: TypeAlias = NDArray[np.float32]
Float64s: TypeAlias = NDArray[np.float64]
Int32s: TypeAlias = NDArray[np.int32]
Bytes: TypeAlias = NDArray[np.int8]

GRID: Final = 2.0**-30
GRID_ROWS_MAX: Final = 1 << 22
"""Most unit rows that float64 sums without rounding."""

_BYTE_REACH: Final = 127
_USUAL_PEAK: Final = 6.0
"""Components beyond this many times their root mean square are cut off."""
_SMALLEST: Final = 2.0**-60

_WIDE_MIN: Final = 128
"""Rows of fewer components are transposed before they are summed."""
_SHAPES_MAX: Final = 64
"""Shapes whose arrays are kept."""
_UNIT_MAX: Final = 1.02
"""Greatest length of a row; rows are unit only within rounding."""

# A float64 near 1.5 * 2^52 * GRID has no bits below GRID: adding this number rounds to the
# nearest multiple of GRID, and subtracting it is exact.
_SHIFT: Final = 1.5 * 2.0**52 * GRID


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
    """Sum float64[n, width] along its rows by halving.

    Returns:
        float64[n]; row i depends on ``terms[i]`` alone.
    """
    return _halve(terms.T.copy(order="C"))


def dots(left: Float32s, right: Float32s) -> Float64s:
    """Multiply float32[n, dim] with float32[n or 1, dim] row by row: float64[n]."""
    terms = left.T.astype(np.float64, order="C")
    # The product of two float32 numbers has at most 48 bits: float64 holds it exactly.
    terms *= right.T
    return _halve(terms)


def row_dots(left: Float32s, right: Float64s) -> Float64s:
    """Compute the bits of ``dots`` for many rows, in two thirds of its time: float64[n].

    Args:
        left: float32[n, dim].
        right: float64[n or 1, dim] that was float32.
    """
    terms: Float64s = left.astype(np.float64)
    terms *= right
    # Long halves are added as they lie: only the short rest is transposed.
    while (width := terms.shape[1]) >= _WIDE_MIN and not width % 2:
        terms = terms[:, : width // 2] + terms[:, width // 2 :]
    return _halve(terms.T.copy(order="C"))


class FewDots:
    """``dots`` with one vector, for a handful of rows; belongs to one thread.

    Most of the cost of such a call is not arithmetic but making arrays, so the arrays are
    kept by shape.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], _Halving] = {}

    def __call__(self, left: Float32s, right: Float64s) -> list[float]:
        """Multiply float32[n, dim] with float64[dim, 1] that was float32."""
        halving = self._kept.get(left.shape)
        if halving is None:
            if len(self._kept) >= _SHAPES_MAX:
                self._kept.clear()
            halving = self._kept[left.shape] = _plan_halving(*left.shape)
        terms, sums, halves = halving
        np.multiply(left.T, right, terms[: left.shape[1]])
        for head, rest in halves:
            np.add(head, rest, head)
        found: list[float] = sums.tolist()
        return found


_Halving: TypeAlias = tuple[Float64s, Float64s, list[tuple[Float64s, Float64s]]]


def _plan_halving(count: int, width: int) -> _Halving:
    """Make float64[width, count], its sums, and the halves in the order ``_halve`` adds them."""
    terms = np.zeros((max(1, width), count))
    flat = terms.reshape(-1)
    sums = flat[:count]
    halves: list[tuple[Float64s, Float64s]] = []
    while width > 1:
        half = (width + 1) // 2
        halves.append((flat[: (width - half) * count], flat[half * count : width * count]))
        width = half
    return terms, sums, halves


def _halve(terms: Float64s) -> Float64s:
    """Add the lower half of float64[width, n] to the upper until one row is left.

    Overwrites ``terms``.  A half is one run of memory, so few rows cost few calls.
    """
    # The tree depends on ``width`` alone.  ``np.sum`` would add in an order that depends on
    # the shape and on the instruction set.
    width, count = terms.shape
    flat = terms.reshape(-1)
    while width > 1:
        half = (width + 1) // 2
        head = flat[: (width - half) * count]
        np.add(head, flat[half * count : width * count], head)
        width = half
    return flat[:count].copy() if width else np.zeros(count)


def dot_error(dim: int) -> float:
    """Bound |BLAS - exact| for unit vectors, for any order of addition in BLAS.

    Higham's gamma_n for float32 with n = ``dim``, 2 % for rows that are unit only
    within rounding, and four roundings for what is computed from the product.
    """
    # float32 keeps 24 bits.  Denormal products add less than the last four roundings allow.
    unit_roundoff = 2.0**-24
    return 1.02 * dim * unit_roundoff / (1.0 - dim * unit_roundoff) + 4 * unit_roundoff


def byte_steps(dim: int) -> float:
    """Steps of a byte per unit of a row's component."""
    return _BYTE_REACH / min(1.0, _USUAL_PEAK / math.sqrt(dim))


def to_bytes(vectors: Float32s, out: Bytes) -> tuple[Float64s, Int32s]:
    """Round rows to steps of 1 / ``byte_steps``.

    Args:
        vectors: float32[n, dim].
        out: int8[n, dim], written: -127 to 127.

    Returns:
        Length that each row lost, float64[n], never too small; and the sum of its bytes,
        int32[n].
    """
    steps = np.float32(byte_steps(vectors.shape[1]))
    scaled = vectors * steps
    np.rint(scaled, out=scaled)
    # Components beyond ``_USUAL_PEAK`` are cut off; ``lost`` counts what that costs.
    np.clip(scaled, -_BYTE_REACH, _BYTE_REACH, out=scaled)
    np.copyto(out, scaled, casting="unsafe")
    # float32 adds whole numbers below 2^24 exactly, in any order.
    sums = scaled.sum(axis=1).astype(np.int32)
    scaled /= steps
    scaled -= vectors
    lost: Float64s = np.sqrt(np.einsum("ij,ij->i", scaled, scaled), dtype=np.float64)
    # The loss itself is computed in float32: three roundings of numbers up to one, a component.
    lost *= 1.0 + 2.0**-12
    lost += 2.0**-22 * math.sqrt(vectors.shape[1])
    return lost, sums


def to_digits(queries: Float32s, digit_max: int) -> tuple[Bytes, Float64s, Float64s]:
    """Round queries to small integers, each by its own greatest component.

    Args:
        queries: float32[n, dim].
        digit_max: Greatest integer to use, at most 127.

    Returns:
        int8[n, dim]; the size of a step, float64[n]; and the length that each query
        lost, float64[n].
    """
    exact = queries.astype(np.float64)
    # ``_SMALLEST`` keeps a query of zeros from dividing by zero.
    sizes = np.abs(exact).max(axis=1, initial=_SMALLEST)
    sizes /= digit_max
    digits = exact / sizes[:, np.newaxis]
    np.rint(digits, digits)
    exact -= digits * sizes[:, np.newaxis]
    lost = np.einsum("ij,ij->i", exact, exact)
    np.sqrt(lost, lost)
    lost += 2.0**-40
    return digits.astype(np.int8), sizes, lost


def byte_error(lost_max: float, lengths: Float64s, query_lost: Float64s) -> Float64s:
    """Bound |integer product in steps - exact| for rows that lost ``lost_max`` at most.

    x q - x' q' = (x - x') q + x' (q - q'), and |x'| is at most |x| + |x - x'|.  The last
    term covers the rounding of this bound itself.
    """
    return lost_max * lengths + (_UNIT_MAX + lost_max) * query_lost + 2.0**-40
