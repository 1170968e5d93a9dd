"""Negatives: texts that must not get a route.

A query that is nearer to a negative of a route than to its nearest example lowers the route's
score by the difference, and by more where the query says nearly what the negative says.  A
negation differs from the sentence that it denies by little; it still must not get its route.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from synaptoroute.exact import dots
from synaptoroute.scoring.candidates import Pairs
from synaptoroute.scoring.scan import Scan
from synaptoroute.scoring.values import Float32s, Float64s
from synaptoroute.tensor import NegativeRows

NEAR_SAME: Final = 0.9
"""Similarity from which a query says nearly what a negative says."""
NEAR_SAME_WEIGHT: Final = 8.0
_LEAD_COUNTED: Final = 20.0
"""Inverse of the lead over the examples at which a near sameness counts in full."""
_STEEP: Final = 1.0 + NEAR_SAME_WEIGHT * (1.0 - NEAR_SAME) * _LEAD_COUNTED
"""The most that a penalty rises per unit of the lead; similarities are at most about 1."""


def penalty(nearest: Float64s, largest: Float64s) -> Float64s:
    """Compute what is taken from scores: zero where an example is at least as near.

    Args:
        nearest: Similarity to the nearest negative.
        largest: Similarity to the nearest example.
    """
    lead = np.maximum(nearest - largest, 0.0)
    same = NEAR_SAME_WEIGHT * np.maximum(nearest - NEAR_SAME, 0.0)
    found: Float64s = lead + same * np.minimum(_LEAD_COUNTED * lead, 1.0)
    return found


def approximate_penalties(
    negatives: NegativeRows, queries: Float32s, scan: Scan, error: Float64s
) -> tuple[Float64s, Float64s]:
    """Approximate the penalties of the routes that have negatives.

    Args:
        error: Bound of an error of a product of float32, float64[n].

    Returns:
        float64[n, routes with negatives], and a bound of their error, float64[n].
    """
    similarities = np.maximum.reduceat(negatives.rows @ queries.T, negatives.starts, axis=0)
    largest = scan.largest[negatives.route_ids].T * scan.sizes[:, np.newaxis]
    steep = _STEEP * 1.01
    return (
        penalty(similarities.T.astype(np.float64), largest),
        (steep + NEAR_SAME_WEIGHT) * error + steep * scan.error,
    )


def exact_penalties(
    negatives: NegativeRows, queries: Float32s, pairs: Pairs, largest: Float64s
) -> Float64s:
    """Compute the penalty of each pair exactly: float64[pairs].

    Args:
        largest: Exact similarity to the nearest example, float64[pairs].
    """
    found = np.zeros(len(pairs.queries))
    places = negatives.route_ids.searchsorted(pairs.route_ids)
    places = np.minimum(places, len(negatives.route_ids) - 1)
    has_some = np.flatnonzero(negatives.route_ids[places] == pairs.route_ids)
    stops = np.append(negatives.starts[1:], len(negatives.rows))
    for at in has_some.tolist():
        place = places[at]
        rows = negatives.rows[negatives.starts[place] : stops[place]]
        query = queries[pairs.queries[at] : pairs.queries[at] + 1]
        nearest = np.clip(dots(rows, query), -1.0, 1.0).max()
        found[at] = penalty(nearest, largest[at])
    return found
