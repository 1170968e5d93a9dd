"""Terms of the adaptive score: a vector and a number of each route, beside its rows.

They are exact functions of the sum of the route's rows and of the fit (``decision.metric``),
so every node has the same bits after any history.  A write computes them again for the routes
that it touches; a new fit for all routes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.decision import (
    DecisionCalibration,
    Metric,
    ScoreWeights,
    read_metric,
    score_terms,
)
from synaptoroute.tensor.rows import ChunkedArray, Slots

SMALL_ROUTES: Final = 4
"""Routes with which the arrays of a small route set begin."""
_CHUNK_ROUTES: Final = 4_096


@dataclass(frozen=True, slots=True, eq=False)
class AdaptiveTerms:
    """The terms as scoring reads them.

    Attributes:
        largest: Weight of the largest similarity.
        vectors: By route id, float32[routes, dim].
        spans: The same as views, with the first route id of each.
        offsets: By route id, float64[routes].
        length_max: No vector is longer.
    """

    largest: float
    vectors: ChunkedArray[np.float32]
    spans: list[tuple[int, NDArray[np.float32]]]
    offsets: NDArray[np.float64]
    length_max: float


class ScoreTerms:
    """Vectors and numbers of all routes under one fit, by route id.

    Attributes:
        is_complete: Whether they are those of all routes; false for a fit that is new.
    """

    def __init__(
        self, dim: int, weights: ScoreWeights, metric: Metric | None, routes_at_first: int = 0
    ) -> None:
        self.is_complete = False
        self._weights = weights
        self._metric = metric
        self._vectors: ChunkedArray[np.float32] = ChunkedArray(
            dim, _CHUNK_ROUTES, np.float32, routes_at_first
        )
        self._offsets = np.zeros(0)
        self._length_max = 0.0

    def reserve(self, routes: int) -> None:
        if routes <= self._vectors.capacity_rows:
            return
        self._vectors.reserve(routes)
        missing = self._vectors.capacity_rows - len(self._offsets)
        self._offsets = np.concatenate([self._offsets, np.zeros(missing)])

    def copy(self, routes: int) -> ScoreTerms:
        """Copy the terms of routes below ``routes``; small if there are few."""
        copied = ScoreTerms(self._vectors.dim, self._weights, self._metric, SMALL_ROUTES)
        copied.reserve(routes)
        known = min(routes, len(self._offsets))
        copied._vectors.copy_from(self._vectors, known)
        copied._offsets[:known] = self._offsets[:known]
        copied._length_max, copied.is_complete = self._length_max, self.is_complete
        return copied

    def write(
        self, route_ids: Slots, sums: NDArray[np.float64], counts: NDArray[np.float64]
    ) -> None:
        """Compute the terms of routes from the sums of their rows.

        Args:
            sums: On the grid of ``exact``, float64[n, dim].
            counts: Rows of each route, float64[n].
        """
        self.reserve(int(route_ids.max(initial=-1)) + 1)
        vectors, offsets = score_terms(sums, counts, self._weights, self._metric)
        self._vectors.write(route_ids, vectors)
        self._offsets[route_ids] = offsets
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        # Never lowered: it only bounds an error.
        self._length_max = max(self._length_max, float(lengths.max(initial=0.0)))

    def view(self, routes: int, aligned: int) -> AdaptiveTerms:
        """View the terms of routes below ``routes``; the spans hold ``aligned`` rows."""
        return AdaptiveTerms(
            self._weights.largest,
            self._vectors,
            self._vectors.spans(aligned),
            self._offsets[:routes],
            self._length_max,
        )


def terms_of(
    calibration: DecisionCalibration | None, dim: int, routes_at_first: int = 0
) -> ScoreTerms | None:
    """Make empty terms for a fit; None if it has none for the adaptive score of such rows."""
    if calibration is None or calibration.weights is None:
        return None
    metric = read_metric(calibration.metric) if calibration.metric else None
    if metric is not None and metric.dim != dim:
        return None
    return ScoreTerms(dim, calibration.weights, metric, routes_at_first)
