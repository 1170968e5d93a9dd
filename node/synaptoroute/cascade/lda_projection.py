"""Linear discriminant projection: stresses the directions in which routes differ.

Static embeddings are sums of words, so two texts of one route differ most in politeness,
names and tenses.  The projection whitens what differs *within* routes and keeps the
directions in which routes differ from each other.  It is fitted to the utterances of the
route set and travels with the calibration.

* Fitting may differ in last digits between machines, so one node fits and all others read.
* Applying is integer arithmetic: factors and rows are int8, so a sum of up to 256 products
  stays below 2^24 and float32 adds it without error in any order; the sum of up to 96 squares
  of those stays below 2^53.

Source: Fisher's linear discriminants; Rao, 1948 (several classes), with the covariance
shrunk towards a multiple of one (Friedman, Regularized Discriminant Analysis, 1989).
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.decision.metric import shrunk, square_of, within_covariance

Int8s: TypeAlias = NDArray[np.int8]
Float32s: TypeAlias = NDArray[np.float32]
Float64s: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]

PROJECTED_DIM_MAX: Final = 96
STATIC_DIM_MAX: Final = 256
STEPS: Final = 254
"""Quantization steps per unit of a component; components beyond half a unit are clipped."""
SHRINKAGE: Final = 0.3
"""Share of the covariance within routes that is replaced by its mean over all directions."""

TOTAL_SHARE: Final = 0.01
"""Weight of the total covariance next to that between routes: few routes span fewer
directions than are kept."""

_PEAK: Final = 127
_ROWS_A_BLOCK: Final = 512


class LdaProjection:
    """Projects static embeddings; any thread.

    Invariant: ``factors`` is int8[static dim, projected dim], and ``factors32`` the same numbers.
    """

    def __init__(self, factors: Int8s) -> None:
        assert factors.shape[0] <= STATIC_DIM_MAX, "its sums would not be exact: this is a bug"
        assert factors.shape[1] <= PROJECTED_DIM_MAX, (
            "its squares would not be exact: this is a bug"
        )
        self.factors = factors
        self.factors32 = factors.astype(np.float32)

    @property
    def dim(self) -> int:
        return int(self.factors.shape[1])

    def apply(self, rows: Int8s) -> Int8s:
        """Project embeddings, int8[n, static dim], to int8[n, dim]; zero rows stay zero."""
        projected = np.empty((len(rows), self.dim), np.int8)
        for start in range(0, len(rows), _ROWS_A_BLOCK):
            block = slice(start, start + _ROWS_A_BLOCK)
            sums = rows[block].astype(np.float32) @ self.factors32
            projected[block] = rounded(sums.astype(np.float64))
        return projected

    def dump(self) -> str:
        return base64.b64encode(self.factors.tobytes()).decode()


def read_projection(text: str, static_dim: int) -> LdaProjection | None:
    """Read what ``dump`` wrote; None if it is no projection of such embeddings."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    dim, rest = divmod(len(content), static_dim)
    if rest or not 1 <= dim <= PROJECTED_DIM_MAX or static_dim > STATIC_DIM_MAX:
        return None
    return LdaProjection(np.frombuffer(content, np.int8).reshape(static_dim, dim))


def fit_projection(rows: Int8s, owners: Numbers) -> LdaProjection:
    """Fit a projection to a route set.

    Args:
        rows: Static embeddings of the utterances, int8[n, static dim].
        owners: Route of each row, int64[n], ascending; gaps are allowed.
    """
    starts = np.flatnonzero(np.diff(owners, prepend=owners[:1] - 1))
    counts = np.diff(starts, append=len(owners))[:, np.newaxis]
    sums = np.add.reduceat(rows, starts, axis=0, dtype=np.int64).astype(np.float64) / STEPS
    means = sums / counts
    square = square_of(rows, STEPS)
    found = within_covariance(square, sums, counts[:, 0], divisor=len(rows))
    # With few utterances the covariance is singular; shrinking makes it invertible.
    within = shrunk(found.matrix, found.spread, SHRINKAGE)
    # Symmetric whitening: unlike a Cholesky factor it does not depend on the order of axes.
    weights, directions = np.linalg.eigh(within)
    whitening = (directions / np.sqrt(np.maximum(weights, 1e-12))) @ directions.T
    middle = sums.sum(axis=0) / len(rows)
    total = square / len(rows) - np.outer(middle, middle)
    apart = means - means.mean(axis=0)
    between = apart.T @ apart / len(means) + TOTAL_SHARE * total
    _, chosen = np.linalg.eigh(whitening @ between @ whitening)
    factors = whitening @ chosen[:, ::-1][:, :PROJECTED_DIM_MAX]
    # The scale is free, since rows are normalized afterwards: use the whole range of int8.
    factors *= _PEAK / max(float(np.abs(factors).max()), 1e-30)
    return LdaProjection(np.rint(factors).astype(np.int8))


def rounded(sums: Numbers | Float64s) -> Float32s:
    """Scale rows of integers to one length and round them: float32[n, dim]; zero rows stay zero.

    Args:
        sums: Whole numbers; of float64, squares of a row add up to less than 2^53.
    """
    squares = np.einsum("ij,ij->i", sums, sums)
    steps = sums * (STEPS / np.sqrt(np.maximum(squares, 1).astype(np.float64)))[:, np.newaxis]
    np.rint(steps, steps)
    np.minimum(steps, _PEAK, out=steps)
    whole: Float32s = np.maximum(steps, -_PEAK, out=steps).astype(np.float32)
    return whole
