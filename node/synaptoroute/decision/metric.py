"""The metric of a route set, and the terms of the adaptive score.

With W the covariance within routes, T that of all rows, and each shrunk towards the identity,
the metric G is the inverse of W less ``SEPARATION`` times the inverse of T.  The first lowers
the directions in which the utterances of one route differ anyway; the second those in which
routes do not differ much more.  A route with unit rows x, n of them, has the centroid c, the
mean m, and for a query q the score

    max x.q * w.largest + q.A + b
    A = w.centroid c + w.mean m + w.metric G m
    b = w.length (m.G m - noise / n), w.length below zero

The last term is the bias of a linear discriminant, corrected for the length that a mean of
few rows gains by chance.  All but the first term is linear in q: a route needs one vector A
and one number b beside its rows.

G is kept as ``scale (I - U diag(gains) U^T)`` with the directions U as small integers.
Products of whole numbers below 2^53 are exact in float64 in any order of addition, so A and
b are equal bits on every machine, however its BLAS adds.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.exact import tree_sum
from synaptoroute.threads import single_blas_thread

Float32s: TypeAlias = NDArray[np.float32]
Float64s: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]
Int8s: TypeAlias = NDArray[np.int8]

RANK_MAX: Final = 128
"""Directions that a metric keeps; more gain nothing on CLINC150 and Banking77."""
DIM_MAX: Final = 8_192
DIRECTIONS_BYTES_MAX: Final = 96 * 1_024
SHRINKAGE_MIN: Final = 0.2
_SHRINKAGE_MORE: Final = 0.4
"""Added to the least shrinkage while there is no evidence of the covariance."""
SEPARATION: Final = 0.55
"""Share of the inverse of the whole covariance that the metric gives up."""

_PEAK: Final = 127
_MEAN_STEPS: Final = 2.0**24
_SHARE_STEPS: Final = 2.0**16
_ROWS_A_BLOCK: Final = 4_096
_HEADER: Final = struct.Struct("<HHdd")


@dataclass(frozen=True, slots=True)
class ScoreWeights:
    """Weights of the adaptive score's terms; see the module."""

    largest: float
    centroid: float
    mean: float
    metric: float
    length: float


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """The metric of a route set.

    Attributes:
        scale: Of the directions that are not kept.
        noise: Mean of x.G x over the deviations x of rows from the mean of their route.
        gains: How far each direction is lowered, float64[rank], each below 1.
        directions: Integer vectors, int8[dim, rank].
    """

    scale: float
    noise: float
    gains: Float64s
    directions: Int8s
    _factors: tuple[Float64s, Float64s] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        whole = self.directions.astype(np.float64)
        squares = np.einsum("ij,ij->j", whole, whole)
        factors = self.gains * _SHARE_STEPS / np.maximum(squares, 1.0)
        object.__setattr__(self, "_factors", (whole, factors))

    @property
    def dim(self) -> int:
        return int(self.directions.shape[0])

    def dump(self) -> bytes:
        """Write it as bytes; equal metrics give equal bytes."""
        dim, rank = self.directions.shape
        head = _HEADER.pack(dim, rank, self.scale, self.noise)
        return head + self.gains.astype("<f8").tobytes() + self.directions.tobytes()

    def apply(self, means: Float64s) -> Float64s:
        """Multiply means of unit rows with the metric: float64[n, dim].

        The result depends on each row alone, never on a BLAS.
        """
        whole, factors = self._factors
        steps = np.rint(means * _MEAN_STEPS)
        # At most 2^24 * 2^14 by Cauchy-Schwarz, sums of a part of the terms included: exact.
        shares = steps @ whole
        shares *= factors
        np.rint(shares, shares)
        lowered = shares @ whole.T
        lowered *= 1.0 / _SHARE_STEPS
        steps -= lowered
        steps *= self.scale / _MEAN_STEPS
        return steps


def read_metric(content: bytes) -> Metric | None:
    """Read what ``Metric.dump`` wrote; None if it is not that."""
    if len(content) < _HEADER.size:
        return None
    dim, rank, scale, noise = _HEADER.unpack_from(content)
    expected = _HEADER.size + rank * (8 + dim)
    if len(content) != expected or not 1 <= dim <= DIM_MAX or rank > RANK_MAX:
        return None
    if not (0.0 < scale <= 1e6 and 0.0 <= noise <= 1e9):
        return None
    gains = np.frombuffer(content, "<f8", rank, _HEADER.size).astype(np.float64)
    if not bool(((gains >= 0.0) & (gains < 1.0)).all()):
        return None
    directions = np.frombuffer(content, np.int8, dim * rank, _HEADER.size + 8 * rank)
    directions = directions.reshape(dim, rank)
    return None if bool((directions < -_PEAK).any()) else Metric(scale, noise, gains, directions)


def score_terms(
    sums: Float64s, counts: Float64s, weights: ScoreWeights, metric: Metric | None
) -> tuple[Float32s, Float64s]:
    """Compute the vector A and the number b of each route, equal bits on every machine.

    Args:
        sums: Sums of the routes' unit rows on the grid of ``exact``, float64[n, dim].
        counts: Rows of each route, float64[n], at least 1.
        metric: None for the identity.

    Returns:
        float32[n, dim] and float64[n].
    """
    norms = np.sqrt(tree_sum(sums * sums))
    means = sums / counts[:, np.newaxis]
    applied = means if metric is None else metric.apply(means)
    # Opposite rows may cancel out: a zero sum has a zero centroid.
    vectors = sums * (weights.centroid / np.where(norms > 0.0, norms, 1.0))[:, np.newaxis]
    vectors += weights.mean * means
    vectors += weights.metric * applied
    lengths = tree_sum(means * applied)
    noise = 0.0 if metric is None else metric.noise
    return vectors.astype(np.float32), weights.length * (lengths - noise / counts)


# --- fitting -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class WithinCovariance:
    """The covariance of rows around the means of their routes.

    Attributes:
        matrix: float64[dim, dim].
        freedom: Rows that are free to vary: rows less routes.
        between: The covariance of the means of routes, less what rows within them add to it,
            float64[dim, dim].
    """

    matrix: Float64s
    freedom: int
    between: Float64s

    @property
    def spread(self) -> float:
        """Mean variance of a component, above zero."""
        return max(float(np.trace(self.matrix)) / len(self.matrix), 1e-12)

    @property
    def shrinkage(self) -> float:
        """Share of the identity: the more, the less evidence there is."""
        dim = len(self.matrix)
        return SHRINKAGE_MIN + _SHRINKAGE_MORE * dim / (dim + self.freedom)


def square_of(rows: NDArray[np.generic], steps: float = 1.0) -> Float64s:
    """Sum the outer products of the rows divided by ``steps``: float64[dim, dim]."""
    square = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), _ROWS_A_BLOCK):
        block = rows[start : start + _ROWS_A_BLOCK].astype(np.float64)
        block /= steps
        square += block.T @ block
    return square


def within_covariance(
    square: Float64s, sums: Float64s, counts: Float64s, divisor: float | None = None
) -> WithinCovariance:
    """Compute the covariance within routes.

    Args:
        square: Sum of the outer products of all rows, float64[dim, dim].
        sums: Sum of the rows of each route, float64[routes, dim].
        counts: Rows of each route, float64[routes].
        divisor: Divides the scatter; None for the degrees of freedom.
    """
    freedom = round(float(counts.sum())) - len(counts)
    means = sums / counts[:, np.newaxis]
    matrix = (square - means.T @ sums) / (divisor or max(freedom, 1))
    apart = means - means.mean(axis=0)
    between = apart.T @ apart / len(means) - float((1.0 / counts).mean()) * matrix
    return WithinCovariance(matrix, freedom, between)


def shrunk(matrix: Float64s, spread: float, shrinkage: float) -> Float64s:
    """Move a covariance towards ``spread`` times the identity; a singular one gets an inverse."""
    return (1.0 - shrinkage) * matrix + shrinkage * spread * np.eye(len(matrix))


def dense_metric(within: WithinCovariance) -> tuple[Float64s, float]:
    """Compute the metric as one matrix, float64[dim, dim], and its noise; for judging."""
    metric = fit_metric(within)
    if metric is None:
        return np.eye(len(within.matrix)), 0.0
    return _dense(metric), metric.noise


@single_blas_thread()
def fit_metric(within: WithinCovariance) -> Metric | None:
    """Compute the metric of a covariance; None where no route has two utterances.

    About 50 ms for 384 dimensions.
    """
    dim = len(within.matrix)
    if within.freedom <= 0 or dim > DIM_MAX:
        return None
    whole = _inverse(within.matrix, within.shrinkage)
    whole -= SEPARATION * _inverse(within.matrix + within.between, within.shrinkage)
    whole /= 1.0 - SEPARATION
    values, axes = np.linalg.eigh(whole)
    rank = min(RANK_MAX, within.freedom, dim - 1, DIRECTIONS_BYTES_MAX // dim)
    scale = float(values[rank:].mean())
    # A direction in which routes hardly differ may even be turned; it is left out instead.
    gains = np.clip(1.0 - values[:rank] / scale, 0.0, 1.0 - 1e-9)
    kept = axes[:, :rank]
    peaks = np.maximum(np.abs(kept).max(axis=0, initial=0.0), 1e-30)
    directions = np.rint(kept * (_PEAK / peaks)).astype(np.int8)
    metric = Metric(scale, 0.0, gains, directions)
    # The noise is that of the metric as it is kept, rounded and cut.
    noise = float(np.einsum("ij,ij->", within.matrix, _dense(metric)))
    return Metric(scale, max(noise, 0.0), gains, directions)


def _inverse(matrix: Float64s, shrinkage: float) -> Float64s:
    """Invert a covariance that is shrunk and has one as its mean variance."""
    spread = max(float(np.trace(matrix)) / len(matrix), 1e-12)
    return np.array(np.linalg.inv(shrunk(matrix / spread, 1.0, shrinkage)), np.float64)


def _dense(metric: Metric) -> Float64s:
    whole = metric.directions.astype(np.float64)
    whole /= np.sqrt(np.maximum(np.einsum("ij,ij->j", whole, whole), 1.0))
    return metric.scale * (np.eye(metric.dim) - (whole * metric.gains) @ whole.T)


def is_finite(weights: ScoreWeights) -> bool:
    """Whether the weights can be used."""
    numbers = (
        weights.largest,
        weights.centroid,
        weights.mean,
        weights.metric,
        weights.length,
    )
    return all(math.isfinite(number) and abs(number) <= 1e3 for number in numbers)
