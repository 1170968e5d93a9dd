"""Nomination: which routes could decide an answer, given an error bound.

``upper`` holds approximate scores, each within ``error`` of the exact one.  The
nominees of a query include the ``limit`` best, the best that passes, and the
best beside it, whatever the exact scores turn out to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from synaptoroute.scoring.values import (
    Float64s,
    Indexes,
    Mask,
    Numbers,
    QuerySpec,
    ScoringRows,
)

_LEAST: Final = -1e300
"""Below every score, above -inf."""


def considered(rows: ScoringRows, specs: Sequence[QuerySpec]) -> tuple[Mask | None, list[int]]:
    """Say which routes each query is about: bool[n, routes], None for all; and how many."""
    is_live = rows.is_live
    live_count = int(np.count_nonzero(is_live))
    if all(spec.routes is None for spec in specs):
        mask = None if live_count == len(is_live) else is_live[np.newaxis]
        return mask, [live_count] * len(specs)
    mask = np.repeat(is_live[np.newaxis], len(specs), axis=0)
    for row, spec in zip(mask, specs, strict=True):
        if spec.routes is not None:
            ids = np.fromiter(spec.routes, np.int64, len(spec.routes))
            chosen = np.zeros_like(row)
            chosen[ids[(ids >= 0) & (ids < len(row))]] = True
            row &= chosen
    return mask, mask.sum(axis=1).tolist()


def nominate(
    upper: Float64s, thresholds: Float64s, error: Float64s, specs: Sequence[QuerySpec]
) -> tuple[Indexes, Indexes]:
    """Choose the routes to score exactly.

    Args:
        upper: float64[n, routes], -inf for routes out of question.
        thresholds: float64[n or 1, routes].
        error: float64[n], bound of each query's error.
        specs: What each query asks for.

    Returns:
        Queries, ascending, and columns of ``upper``, ascending for one query.
    """
    every = np.arange(len(upper))
    leads_at = leading_scores(upper, specs)[:, 0] - 2.0 * error
    first = upper.argmax(axis=1)
    bar = thresholds[every % len(thresholds), first] + error
    if (upper[every, first] >= bar).all():
        # The highest surely passes, so what passes and could beat it leads as well.
        queries, columns = (upper >= np.maximum(leads_at, _LEAST)[:, np.newaxis]).nonzero()
        return queries, columns
    # One pass over everything; what is left is little, unless a route is very lenient.
    cut = np.maximum(np.minimum(leads_at, thresholds.min(axis=1) - error), _LEAST)
    queries, columns = (upper >= cut[:, np.newaxis]).nonzero()
    scores, own_error = upper[queries, columns], error[queries]
    own_thresholds = thresholds[queries % len(thresholds), columns]
    best = np.full(len(upper), -np.inf)
    np.maximum.at(best, queries, np.where(scores >= own_thresholds + own_error, scores, -np.inf))
    passes = scores >= np.maximum(own_thresholds - own_error, best[queries] - 2.0 * own_error)
    chosen = passes | (scores >= leads_at[queries])
    return queries[chosen], columns[chosen]


def contenders(
    upper: Float64s, thresholds: Float64s, error: Float64s, least: Float64s, best: Float64s
) -> Mask:
    """Keep what may stand among the leading scores, or pass and beat the best.

    Args:
        upper: float64[n, routes].
        thresholds: float64[routes].
        error: float64[n, 1].
        least: float64[n, 1], approximate score that the last leading route reaches.
        best: float64[n, 1], approximate score of a route that surely passes.
    """
    margin = 2.0 * error
    leads = upper >= least - margin
    passes = (upper >= thresholds - error) & (upper >= best - margin)
    return (leads | passes) & (upper > -np.inf)


def leading_scores(upper: Float64s, specs: Sequence[QuerySpec]) -> Float64s:
    """Find the score of each query's last leading route: float64[n, 1].

    Leading are ``limit`` routes, and one more to be the runner-up.
    """
    route_count = upper.shape[1]
    counts = [min(spec.limit + 1, route_count) for spec in specs]
    most = max(counts)
    leading = np.partition(upper, route_count - most, axis=1)[:, route_count - most :]
    if min(counts) == most:
        return leading[:, :1]
    leading.sort(axis=1)
    places: Numbers = most - np.array(counts)
    least: Float64s = leading[np.arange(len(specs)), places]
    return least[:, np.newaxis]
