"""The decision rule: which route is the answer, given the exact scores of the best ones.

A route passes if its score reaches its threshold, where one applies, and its confidence
reaches its least confidence, where one applies.  The answer is the best-ranked route that
passes.  Only the best ``BEST_ROUTES`` routes share the probability, so below them a route passes
only if it needs no confidence.  Where no numbers are known for an encoder, there is no confidence,
and a route that would need one is judged by ``FALLBACK_THRESHOLD`` instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, NamedTuple

import numpy as np

from synaptoroute.decision import DecisionCalibration
from synaptoroute.decision.probability import BEST_ROUTES, Levels, confidences
from synaptoroute.scoring.values import Float64s, QuerySpec, Ranking, RouteScore
from synaptoroute.tensor import Tensor, TensorView

FALLBACK_THRESHOLD: Final = 0.49
"""Least score without numbers for a confidence: the default threshold of earlier releases."""


_WIDENED: Final = (QuerySpec(BEST_ROUTES - 1),)


class ExactScore(NamedTuple):
    """The exact score of one route for a query.

    Attributes:
        score: Of the aggregation in use.
        slot: Its most similar example.
        similarity: Cosine similarity of that example.
        judged: What the threshold is compared with; None for the score, or without thresholds.
    """

    route_id: int
    score: float
    slot: int
    similarity: float
    judged: float | None = None


_SCORE: Final = attrgetter("score")


@dataclass(frozen=True, slots=True, eq=False)
class DecisionRule:
    """Conditions that a route must meet to be the answer, at one position.

    Attributes:
        thresholds: By route id, float64[routes]; minus infinity for none.
        confidence_mins: By route id, float64[routes]; 0 for none.
        bars: Thresholds of the routes that pass at any rank; infinity for the others.  None
            if there is no such route.
        levels: Numbers behind the confidence; None if none are known for the encoder.
        unmatched_share: Expected share of queries that no route should take.
        needs_blend: Whether a threshold is compared with the score of ``blend``.
    """

    thresholds: Float64s
    confidence_mins: Float64s
    bars: Float64s | None
    levels: Levels | None
    unmatched_share: float
    needs_blend: bool = True

    @classmethod
    def of(cls, view: TensorView, levels: Levels | None = None) -> DecisionRule:
        """Make the rule of a route set."""
        thresholds, needed = view.thresholds, view.confidence_mins
        share = view.settings.expected_unmatched_share
        if levels is None:
            is_open = (needed > 0.0) & np.isneginf(thresholds)
            thresholds = np.where(is_open, FALLBACK_THRESHOLD, thresholds)
            return cls(thresholds, np.zeros(len(needed)), thresholds, None, share)
        is_sure_only = needed > 0.0
        # The threshold of an adaptive score is one of another score, which no scan approximates.
        if view.settings.aggregation == "adaptive":
            has_some = not bool(np.isneginf(thresholds[view.is_live]).all())
            return cls(thresholds, needed, None, levels, share, has_some)
        if (is_sure_only | ~view.is_live).all():
            return cls(thresholds, needed, None, levels, share)
        return cls(thresholds, needed, np.where(is_sure_only, np.inf, thresholds), levels, share)

    @property
    def open_bars(self) -> Float64s | None:
        """``bars`` as float64[1, routes]."""
        return None if self.bars is None else self.bars[np.newaxis]

    def widened_limit(self, limit: int) -> int:
        """Routes to score exactly beside a runner-up: those that share the probability."""
        return limit if self.levels is None else max(limit, BEST_ROUTES - 1)

    def widened(self, specs: Sequence[QuerySpec]) -> Sequence[QuerySpec]:
        """Have the routes scored exactly that share the probability."""
        if self.levels is None:
            return specs
        # A runner-up is always scored beside the limit.
        least = BEST_ROUTES - 1
        if len(specs) == 1 and specs[0].routes is None and specs[0].limit <= least:
            return _WIDENED
        return [spec if spec.limit >= least else QuerySpec(least, spec.routes) for spec in specs]

    def decide(
        self, view: TensorView, found: Sequence[ExactScore], limit: int, route_count: int
    ) -> Ranking:
        """Choose the answer.

        Args:
            found: Best first: at least the routes that share the probability, and the best
                that passes at any rank.
            limit: How many to list.
            route_count: How many were considered.
        """
        if not found:
            return Ranking(route_count=route_count)
        shares: Sequence[float | None] = (None,) * len(found)
        p_none = None
        if self.levels is not None:
            shares, p_none = confidences(
                [*map(_SCORE, found)],
                self.levels,
                self.unmatched_share,
                cohesion=cohesion_of(view, found[0].route_id),
            )
        thresholds, needed = self.thresholds, self.confidence_mins
        best = None
        for place, (each, share) in enumerate(zip(found, shares, strict=True)):
            route_id = each.route_id
            # Which lower routes were scored depends on the limit, unless they pass at any rank.
            if place >= BEST_ROUTES and (self.bars is None or self.bars.item(route_id) == math.inf):
                continue
            judged = each.score if each.judged is None else each.judged
            if judged >= thresholds.item(route_id) and (
                share is None or share >= needed.item(route_id)
            ):
                best = place
                break
        second = 1 if best == 0 or best is None else 0
        # Only what is shown is made into an object: the rest costs a query for nothing.
        listed = min(limit, len(found))
        scores: dict[int, RouteScore] = {}
        for at in (*range(listed), second, best or 0):
            if at in scores or at >= len(found):
                continue  # it is there, or there is no second route
            route_id, score, slot, similarity, compared = found[at]
            scores[at] = RouteScore(
                route_id,
                score,
                thresholds.item(route_id),
                slot,
                similarity,
                compared,
                shares[at],
                needed.item(route_id),
            )
        return Ranking(
            None if best is None else scores[best],
            tuple(map(scores.__getitem__, range(listed))),
            scores.get(second),
            route_count,
            p_none,
        )


def cohesion_of(view: TensorView, route_id: int) -> float | None:
    """Mean similarity of two examples of a route; None if it has one."""
    count = len(view.slots_of[route_id])
    if count < 2:
        return None
    length = view.mean_norms.item(route_id)
    return (count * length * length - 1.0) / (count - 1.0)


def numbers_of(tensor: Tensor, fingerprint: str) -> DecisionCalibration | None:
    """Find the numbers of a tensor whose rows are of an encoder; None if none are known."""
    tensor.use_encoder(fingerprint)
    return tensor.calibration


def rule_of(tensor: Tensor, fingerprint: str) -> DecisionRule:
    """Make the decision rule of a tensor whose rows are of an encoder."""
    numbers = numbers_of(tensor, fingerprint)
    return DecisionRule.of(tensor.view(), numbers)
