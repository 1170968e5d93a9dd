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
from synaptoroute.scoring import QuerySpec, Ranking, RouteScore

Vector = NDArray[np.float32]


def naive_rank(
    vectors: Mapping[int, Vector],
    routes: Sequence[RouteRecord],
    settings: Settings,
    query: Vector,
    spec: QuerySpec,
) -> Ranking:
    """Rank every route by sorting all of their scores."""
    scores = [
        naive_score(vectors, route, settings, query)
        for route in routes
        if spec.routes is None or route.route_id in spec.routes
    ]
    scores.sort(key=lambda score: (-score.score, score.slot))
    if not scores:
        return Ranking()
    best = None
    for score in scores:
        if best is None and score.score >= score.threshold:
            best = score
    others = [score for score in scores if score is not (best or scores[0])]
    return Ranking(
        best,
        tuple(scores[: spec.limit]),
        others[0] if others else None,
        len(scores),
    )


def naive_score(
    vectors: Mapping[int, Vector], route: RouteRecord, settings: Settings, query: Vector
) -> RouteScore:
    """Score one route: similarities first, then how they become one number."""
    slots = route.example_slots
    similarities = [naive_dot(vectors[slot], query) for slot in slots]
    highest = max(similarities)
    slot = min(s for s, value in zip(slots, similarities, strict=True) if value == highest)
    unit, mean_length = naive_centroid([vectors[slot] for slot in slots])
    to_centroid = naive_dot(unit, query)
    match settings.aggregation:
        case "blend" | "adaptive":
            score = (highest + to_centroid) / 2.0
        case "max":
            score = highest
        case "centroid":
            score = to_centroid
        case "mean":
            score = min(1.0, max(-1.0, to_centroid * mean_length))
        case "topk":
            leading = sorted(similarities, reverse=True)[: settings.topk]
            score = sum(leading) / len(leading)
    threshold = settings.threshold_of(route.threshold)
    return RouteScore(route.route_id, score, threshold, slot, highest)


def naive_dot(left: Vector, right: Vector) -> float:
    """Multiply and add by halving; a cosine is within -1 and 1."""
    total = add_by_halving([float(x) * float(y) for x, y in zip(left, right, strict=True)])
    return min(1.0, max(-1.0, total))


def naive_centroid(rows: Sequence[Vector]) -> tuple[Vector, float]:
    """The unit centroid of some rows, and the length of their mean."""
    sums = [sum(round(float(row[i]) * 2**30) for row in rows) / 2**30 for i in range(len(rows[0]))]
    length = math.sqrt(add_by_halving([value * value for value in sums]))
    unit = [value / length if length > 0 else 0.0 for value in sums]
    return np.array(unit, np.float32), length / len(rows)


def add_by_halving(terms: list[float]) -> float:
    """Add the second half to the first until one number is left."""
    while len(terms) > 1:
        half = (len(terms) + 1) // 2
        rest = [*terms[half:], 0.0]
        terms = [terms[i] + rest[min(i, len(rest) - 1)] for i in range(half)]
    return terms[0]
