"""Prior of a query: what the caller knows of the likely routes beside the text.

A weight is the logarithm of a factor: with ``{"billing": 2.0}`` the odds of ``billing`` against
every other outcome, no route included, are e^2 times those that the text alone gives.  The
routes are ranked by their scores plus the weight over the temperature, which is the same
order.  A weight does not help a route over its threshold.

The scores that an answer shows stay those of the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from synaptoroute.decision.probability import BEST_ROUTES, confidences, exp
from synaptoroute.scoring import DecisionRule, QuerySpec, Ranking, RouteScore, Scratch, rank
from synaptoroute.scoring.rule import cohesion_of
from synaptoroute.scoring.values import Float32s
from synaptoroute.tensor import Tensor

TEMPERATURE_UNKNOWN: Final = 20.0
"""Takes the place of the temperature where no numbers are known for an encoder."""


def rank_with_prior(
    tensor: Tensor,
    vector: Float32s,
    spec: QuerySpec,
    weights: Mapping[int, float],
    rule: DecisionRule,
    scratch: Scratch,
) -> Ranking:
    """Rank the routes for one query with a prior.

    Args:
        vector: float32[dim], of the query.
        weights: By route id, not 0.
    """
    preferred = frozenset(weights) if spec.routes is None else spec.routes & frozenset(weights)
    # Enough of the best routes that weights cannot push all of them out of the list.
    listed = max(spec.limit + 1, BEST_ROUTES) + len(preferred)
    specs = [QuerySpec(listed, spec.routes), QuerySpec(max(1, len(preferred)), preferred)]
    plain, own = rank(tensor, np.stack([vector, vector]), specs, scratch, rule)
    if not plain.top:
        return plain
    found = {each.route_id: each for each in (*plain.top, *own.top)}
    if plain.best is not None:
        found.setdefault(plain.best.route_id, plain.best)
    scores = sorted(found.values(), key=lambda each: (-each.score, each.slot))
    temperature, p_none = TEMPERATURE_UNKNOWN, None
    if rule.levels is not None:
        temperature = rule.levels.temperature
        scores, p_none = _weigh(tensor, scores, weights, rule)
    order = sorted(
        scores,
        key=lambda each: (-(each.score + weights.get(each.route_id, 0.0) / temperature), each.slot),
    )
    best = next((each for each in order if each.passed), None)
    winner = best or order[0]
    runner_up = next((each for each in order if each is not winner), None)
    return Ranking(best, tuple(order[: spec.limit]), runner_up, plain.route_count, p_none)


def _weigh(
    tensor: Tensor, scores: list[RouteScore], weights: Mapping[int, float], rule: DecisionRule
) -> tuple[list[RouteScore], float]:
    """Multiply the odds of each route; returns the scores with their confidences, and p(none)."""
    assert rule.levels is not None
    shares, p_none = confidences(
        [each.score for each in scores],
        rule.levels,
        rule.unmatched_share,
        cohesion=cohesion_of(tensor.view(), scores[0].route_id),
    )
    factors = [exp(weights.get(each.route_id, 0.0)) for each in scores]
    total = p_none
    for place, (each, share, factor) in enumerate(zip(scores, shares, factors, strict=True)):
        # Those beyond the best are listed beside the probability, unless the prior names them.
        if place < BEST_ROUTES or each.route_id in weights:
            total += share * factor
    weighed = [
        each._replace(confidence=share * factor / total)
        for each, share, factor in zip(scores, shares, factors, strict=True)
    ]
    return weighed, p_none / total
