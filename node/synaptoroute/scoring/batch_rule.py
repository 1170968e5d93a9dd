"""The decision rule for a batch: the rankings of ``DecisionRule.decide``, in fewer calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import numpy as np

from synaptoroute.decision.batch_confidences import batch_confidences
from synaptoroute.decision.probability import BEST_ROUTES
from synaptoroute.scoring.rule import DecisionRule, ExactScore, cohesion_of
from synaptoroute.scoring.values import (
    Float64s,
    Indexes,
    Mask,
    Numbers,
    QuerySpec,
    Ranking,
    RouteScore,
)
from synaptoroute.tensor import TensorView

BATCH_MIN: Final = 8
"""Fewer queries are decided one by one: a call of numpy costs as much as some of them."""
_LISTED_MAX: Final = 64
"""Most routes of a query; lists of more are decided one by one."""


@dataclass(frozen=True, slots=True)
class ScoredRoutes:
    """Exact scores of the routes of a batch of queries, best first for each query.

    Attributes:
        queries: Query of each route, ascending.
        bounds: Where the routes of each query start, and the end: one more than there are queries.
        judged: What thresholds are compared with; None for the scores, or without thresholds.
    """

    queries: Indexes
    bounds: list[int]
    route_ids: Indexes
    scores: Float64s
    slots: Numbers
    similarities: Float64s
    judged: Float64s | None

    def of_query(self, query: int) -> list[ExactScore]:
        part = slice(self.bounds[query], self.bounds[query + 1])
        return list(
            map(
                ExactScore,
                self.route_ids[part].tolist(),
                self.scores[part].tolist(),
                self.slots[part].tolist(),
                self.similarities[part].tolist(),
                repeat(None) if self.judged is None else self.judged[part].tolist(),
            )
        )


def decide_batch(
    rule: DecisionRule,
    view: TensorView,
    found: ScoredRoutes,
    specs: Sequence[QuerySpec],
    route_counts: Sequence[int],
) -> list[Ranking]:
    """Choose the answer to each query; see ``DecisionRule.decide``."""
    counts = np.diff(found.bounds)
    if len(specs) < BATCH_MIN or not 0 < counts.min() <= counts.max() <= _LISTED_MAX:
        return [
            rule.decide(view, found.of_query(place), spec.limit, count)
            for place, (spec, count) in enumerate(zip(specs, route_counts, strict=True))
        ]
    shares, p_none = _shares(rule, view, found, int(counts.max()))
    best = _first_passing(rule, found, shares)
    places: list[int] = []
    parts: list[tuple[int, int, int, int]] = []
    for spec, first, start, stop in zip(specs, best, found.bounds, found.bounds[1:], strict=False):
        listed = min(spec.limit, stop - start)
        second = start + (1 if first <= start else 0)
        own = len(places)
        places += range(start, start + listed)
        at_second = at_best = -1
        if second < stop:
            at_second = second - start
            if at_second >= listed:
                at_second = listed
                places.append(second)
        if first >= 0:
            at_best = first - start
            if at_best >= listed:
                at_best = len(places) - own
                places.append(first)
        parts.append((own, listed, at_second, at_best))
    shown = _route_scores(rule, found, shares, np.array(places))
    return [
        Ranking(
            None if at_best < 0 else shown[own + at_best],
            tuple(shown[own : own + listed]),
            None if at_second < 0 else shown[own + at_second],
            count,
            none,
        )
        for (own, listed, at_second, at_best), count, none in zip(
            parts, route_counts, p_none, strict=True
        )
    ]


def _shares(
    rule: DecisionRule, view: TensorView, found: ScoredRoutes, listed: int
) -> tuple[Float64s | None, list[Any]]:
    """Compute the confidence of each route, and p(none) of each query."""
    starts = found.bounds[:-1]
    if rule.levels is None:
        return None, [None] * len(starts)
    places = np.arange(len(found.queries)) - np.array(starts)[found.queries]
    scores = np.full((len(starts), listed), -np.inf)
    scores[found.queries, places] = found.scores
    tops = found.route_ids[starts].tolist()
    cohesion = np.array([cohesion_of(view, route_id) for route_id in tops], np.float64)
    shares, p_none = batch_confidences(scores, rule.levels, rule.unmatched_share, cohesion)
    return shares[found.queries, places], p_none.tolist()


def _first_passing(rule: DecisionRule, found: ScoredRoutes, shares: Float64s | None) -> list[int]:
    """Find the best route that passes, of each query; -1 for none."""
    judged = found.scores if found.judged is None else found.judged
    passes: Mask = judged >= rule.thresholds.take(found.route_ids)
    if shares is not None:
        passes &= shares >= rule.confidence_mins.take(found.route_ids)
    first = [-1] * (len(found.bounds) - 1)
    passing = passes.nonzero()[0]
    queries = found.queries.take(passing).tolist()
    # Backwards: the first of a query is written last.
    for place, query in zip(passing[::-1].tolist(), reversed(queries), strict=True):
        # Which lower routes were scored depends on the limit, unless they pass at any rank.
        if place - found.bounds[query] < BEST_ROUTES or (
            rule.bars is not None and rule.bars.item(found.route_ids.item(place)) != math.inf
        ):
            first[query] = place
    return first


def _route_scores(
    rule: DecisionRule, found: ScoredRoutes, shares: Float64s | None, places: Indexes
) -> list[RouteScore]:
    route_ids = found.route_ids.take(places)
    return list(
        map(
            RouteScore,
            route_ids.tolist(),
            found.scores.take(places).tolist(),
            rule.thresholds.take(route_ids).tolist(),
            found.slots.take(places).tolist(),
            found.similarities.take(places).tolist(),
            repeat(None) if found.judged is None else found.judged.take(places).tolist(),
            repeat(None) if shares is None else shares.take(places).tolist(),
            rule.confidence_mins.take(route_ids).tolist(),
        )
    )
