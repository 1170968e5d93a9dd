"""Reference scoring: plain loops, one query and one route at a time.

The only arithmetic shared with the product is its definition: float64 products
added by halving, and centroids summed in integers of 2^-30.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import Settings
from synaptoroute.decision import (
    BEST_ROUTES,
    DecisionCalibration,
    ScoreWeights,
    confidences,
    read_metric,
)
from synaptoroute.scoring import QuerySpec, Ranking, RouteScore
from synaptoroute.scoring.rule import FALLBACK_THRESHOLD

Vector = NDArray[np.float32]


def naive_rank(
    vectors: Mapping[int, Vector],
    routes: Sequence[RouteRecord],
    settings: Settings,
    query: Vector,
    spec: QuerySpec,
    calibration: DecisionCalibration | None = None,
) -> Ranking:
    """Rank every route by sorting all of their scores."""
    by_id = {route.route_id: route for route in routes}
    scores = [
        naive_score(vectors, route, settings, query, calibration)
        for route in routes
        if spec.routes is None or route.route_id in spec.routes
    ]
    scores.sort(key=lambda score: (-score.score, score.slot))
    if all(settings.threshold_of(route.threshold) == -math.inf for route in routes):
        scores = [score._replace(judged=None) for score in scores]  # nothing is compared with it
    if not scores:
        return Ranking()
    p_none = None
    if calibration is not None:
        slots = by_id[scores[0].route_id].example_slots
        count, length = len(slots), naive_centroid([vectors[slot] for slot in slots])[1]
        sure, p_none = confidences(
            [score.score for score in scores],
            calibration,
            settings.expected_unmatched_share,
            None if count < 2 else (count * length * length - 1.0) / (count - 1.0),
        )
        scores = [score._replace(confidence=each) for score, each in zip(scores, sure, strict=True)]
    best = None
    for place, score in enumerate(scores):
        has_more = settings.aggregation == "adaptive" and calibration_is_adaptive(calibration)
        has_more |= score.confidence_min > 0.0
        if best is None and score.passed and (place < BEST_ROUTES or not has_more):
            best = score
    others = [score for score in scores if score is not (best or scores[0])]
    return Ranking(
        best,
        tuple(scores[: spec.limit]),
        others[0] if others else None,
        len(scores),
        p_none,
    )


def calibration_is_adaptive(calibration: DecisionCalibration | None) -> bool:
    return calibration is not None and calibration.weights is not None


def naive_score(
    vectors: Mapping[int, Vector],
    route: RouteRecord,
    settings: Settings,
    query: Vector,
    calibration: DecisionCalibration | None = None,
) -> RouteScore:
    """Score one route: similarities first, then how they become one number."""
    slots = route.example_slots
    similarities = [naive_dot(vectors[slot], query) for slot in slots]
    highest = max(similarities)
    slot = min(s for s, value in zip(slots, similarities, strict=True) if value == highest)
    own = [vectors[slot] for slot in slots]
    unit, mean_length = naive_centroid(own)
    to_centroid = naive_dot(unit, query)
    compared: float | None = None
    match settings.aggregation:
        case "blend" | "adaptive":
            score = (highest + to_centroid) / 2.0
            if settings.aggregation == "adaptive" and calibration is not None:
                weights = calibration.weights
                if weights is not None:
                    compared = score
                    vector, offset = naive_terms(own, weights, calibration.metric)
                    score = highest * weights.largest + naive_product(vector, query) + offset
        case "max":
            score = highest
        case "centroid":
            score = to_centroid
        case "mean":
            score = min(1.0, max(-1.0, to_centroid * mean_length))
        case "topk":
            leading = sorted(similarities, reverse=True)[: settings.topk]
            score = sum(leading) / len(leading)
    if route.negative_slots:
        nearest = max(naive_dot(vectors[slot], query) for slot in route.negative_slots)
        lead = max(nearest - highest, 0.0)
        lowered = lead + 8.0 * max(nearest - 0.9, 0.0) * min(20.0 * lead, 1.0)
        score -= lowered
        compared = None if compared is None else compared - lowered
    least = settings.confidence_min if route.confidence_min is None else route.confidence_min
    least, threshold = least or 0.0, settings.threshold_of(route.threshold)
    if calibration is None:
        threshold = FALLBACK_THRESHOLD if least and threshold == -math.inf else threshold
        least = 0.0
    return RouteScore(
        route.route_id,
        score,
        threshold,
        slot,
        highest,
        compared,
        None,
        least,
    )


def naive_terms(
    rows: Sequence[Vector], weights: ScoreWeights, content: bytes
) -> tuple[Vector, float]:
    """The vector and the number of a route, by Python's integers and floats."""
    sums, length = naive_sums(rows)
    means = [value / len(rows) for value in sums]
    metric = read_metric(content) if content else None
    applied, noise = means, 0.0
    if metric is not None:
        noise = metric.noise
        steps = [round(mean * 2.0**24) for mean in means]
        columns = metric.directions.T.tolist()
        shares = []
        for gain, column in zip(metric.gains.tolist(), columns, strict=True):
            product = sum(step * part for step, part in zip(steps, column, strict=True))
            square = sum(part * part for part in column)
            shares.append(round(product * (gain * 2.0**16 / max(square, 1))))
        lowered = [
            sum(share * column[at] for share, column in zip(shares, columns, strict=True))
            for at in range(len(steps))
        ]
        applied = [
            (step - low / 2.0**16) * (metric.scale / 2.0**24)
            for step, low in zip(steps, lowered, strict=True)
        ]
    factor = weights.centroid / (length if length > 0 else 1.0)
    vector = [
        (value * factor + weights.mean * mean) + weights.metric * other
        for value, mean, other in zip(sums, means, applied, strict=True)
    ]
    product = add_by_halving([mean * other for mean, other in zip(means, applied, strict=True)])
    return np.array(vector, np.float32), weights.length * (product - noise / len(rows))


def naive_product(left: Vector, right: Vector) -> float:
    """Multiply and add by halving."""
    return add_by_halving([float(x) * float(y) for x, y in zip(left, right, strict=True)])


def naive_dot(left: Vector, right: Vector) -> float:
    """The product of two unit vectors; a cosine is within -1 and 1."""
    return min(1.0, max(-1.0, naive_product(left, right)))


def naive_sums(rows: Sequence[Vector]) -> tuple[list[float], float]:
    """The sum of some rows on the grid, and its length."""
    sums = [sum(round(float(row[i]) * 2**30) for row in rows) / 2**30 for i in range(len(rows[0]))]
    return sums, math.sqrt(add_by_halving([value * value for value in sums]))


def naive_centroid(rows: Sequence[Vector]) -> tuple[Vector, float]:
    """The unit centroid of some rows, and the length of their mean."""
    sums, length = naive_sums(rows)
    unit = [value / length if length > 0 else 0.0 for value in sums]
    return np.array(unit, np.float32), length / len(rows)


def add_by_halving(terms: list[float]) -> float:
    """Add the second half to the first until one number is left."""
    while len(terms) > 1:
        half = (len(terms) + 1) // 2
        rest = [*terms[half:], 0.0]
        terms = [terms[i] + rest[min(i, len(rest) - 1)] for i in range(half)]
    return terms[0]
