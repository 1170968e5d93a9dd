"""One query that a handful of routes can win: the everyday case, in few calls.

A call of numpy costs a microsecond whatever it does, and a query alone is made of
little else.  So a handful of routes is decided here in plain Python; it is the same
arithmetic as for a batch, and anything out of the ordinary is left to that.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from synaptoroute.exact import FewDots
from synaptoroute.scoring.scan import Scan
from synaptoroute.scoring.values import Float32s, Float64s, Ranking, RouteScore, ScoringRows

_ROUTES_MAX: Final = 8
_ROWS_MAX: Final = 32


def rank_single(
    rows: ScoringRows,
    query: Float32s,
    scan: Scan,
    upper: Float64s,
    error: float,
    limit: int,
    few_dots: FewDots,
) -> Ranking | None:
    """Rank all routes for one query, of which every id is in use.

    Args:
        rows: The tensor, whose aggregation is ``blend`` or ``max``.
        query: float32[1, dim].
        scan: Of this query.
        upper: Approximate scores, float64[routes].
        error: Their bound.
        limit: How many routes to list.
        few_dots: The calling thread's own.

    Returns:
        None where this case needs the way of a batch.
    """
    first = int(upper.argmax())
    least = len(upper) - min(limit + 1, len(upper))
    leading = upper.copy()
    leading.partition(least)
    candidates = upper >= leading.item(least) - 2.0 * error
    if upper.item(first) < rows.thresholds.item(first) + error:
        # A lower route with a lower threshold may be the best that passes.
        candidates |= upper >= rows.thresholds - error
    route_ids = candidates.nonzero()[0].tolist()
    if len(route_ids) > _ROUTES_MAX:
        return None
    slots, counts = _close_slots(rows, route_ids, scan)
    if len(slots) > _ROWS_MAX:
        return None
    standing = _exact_scores(rows, query, route_ids, slots, counts, few_dots)
    standing.sort(key=_order)
    best = next((score for score in standing if score.score >= score.threshold), None)
    winner = best or standing[0]
    others = (score for score in standing if score is not winner)
    return Ranking(best, tuple(standing[:limit]), next(others, None), len(upper))


def _close_slots(
    rows: ScoringRows, route_ids: list[int], scan: Scan
) -> tuple[list[int], list[int]]:
    """Utterances that may be the most similar of their route, and how many each route has."""
    similarities = scan.similarities.reshape(-1)
    margin = 2.0 * float(scan.error[0]) / float(scan.sizes[0])
    slots: list[int] = []
    counts: list[int] = []
    for route_id in route_ids:
        own = rows.slots_of(route_id)
        values = similarities.take(own).tolist()
        bar = max(values) - margin
        close = [own.item(at) for at, value in enumerate(values) if value >= bar]
        slots += close
        counts.append(len(close))
    return slots, counts


def _exact_scores(
    rows: ScoringRows,
    query: Float32s,
    route_ids: list[int],
    slots: list[int],
    counts: list[int],
    few_dots: FewDots,
) -> list[RouteScore]:
    """Score the routes exactly."""
    is_blend = rows.settings.aggregation == "blend"
    vectors = rows.vectors_of(np.array(slots))
    if is_blend:
        vectors = np.concatenate([vectors, rows.centroids_of(np.array(route_ids))])
    values = few_dots(vectors, query.T.astype(np.float64))
    thresholds = rows.thresholds
    scores: list[RouteScore] = []
    start = 0
    for place, (route_id, count) in enumerate(zip(route_ids, counts, strict=True)):
        own = values[start : start + count]
        largest = max(own)
        score = (largest + values[len(slots) + place]) / 2.0 if is_blend else largest
        slot = slots[start + own.index(largest)]
        scores.append(RouteScore(route_id, score, thresholds.item(route_id), slot, largest))
        start += count
    return scores


def _order(score: RouteScore) -> tuple[float, int]:
    """Highest first; of equals, that of the lowest slot."""
    return -score.score, score.slot
