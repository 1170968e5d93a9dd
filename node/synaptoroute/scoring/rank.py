"""From a batch of queries to one ranking each: scan, select candidates, score them exactly.

A lone query takes a shorter way (``lone``): the same arithmetic as in a batch, so the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from synaptoroute.exact import dot_error
from synaptoroute.scoring.batch_rule import ScoredRoutes, decide_batch
from synaptoroute.scoring.candidates import (
    Pairs,
    leading_scores,
    may_lead_or_pass,
    select_candidates,
)
from synaptoroute.scoring.lone import ROUNDED_UP, rank_lone, rank_small
from synaptoroute.scoring.negatives import approximate_penalties, exact_penalties
from synaptoroute.scoring.rule import DecisionRule
from synaptoroute.scoring.scan import (
    Scan,
    Scratch,
    queries_per_scan,
    scan_bytes,
    scan_rows,
    scan_vectors,
)
from synaptoroute.scoring.values import (
    Float32s,
    Float64s,
    Mask,
    Numbers,
    QuerySpec,
    Ranking,
)
from synaptoroute.tensor import Tensor, TensorView

_WITH_UTTERANCES: Final = ("blend", "max", "topk", "adaptive")
_BYTES_ROWS_MAX: Final = 512
"""Utterances a query that a scan of bytes may leave; of more, float32 leaves fewer for less."""

_REFINE_ROWS: Final = 32
_REFINE_ROWS_PER_QUERY: Final = 4
"""Utterances that are scored exactly at once; of more, float32 drops most first."""


def rank(
    tensor: Tensor,
    queries: Float32s,
    specs: Sequence[QuerySpec],
    scratch: Scratch | None = None,
    rule: DecisionRule | None = None,
) -> list[Ranking]:
    """Rank the routes for each query.

    Equal queries get equal rankings, bit for bit, in any batch and at any place in it.

    Args:
        tensor: The routes; must not change meanwhile.
        queries: float32[n, dim], finite, unit length.
        scratch: Memory kept from batch to batch; belongs to the calling thread.
        rule: What routes need to pass; None for that of the route set.

    Returns:
        One ranking a query, in order.
    """
    view = tensor.view()
    assert queries.shape == (len(specs), view.dim), "one vector and one spec a query"
    scratch = scratch or Scratch()
    rule = rule or DecisionRule.of(view, view.calibration)
    if len(specs) == 1 and (found := rank_small(view, queries[0], specs[0], scratch, rule)):
        return [found]
    # A length goes into error bounds, so it must never be too small.
    if len(specs) == 1:
        lengths = np.array([math.sqrt(float(queries[0].dot(queries[0])) * ROUNDED_UP)])
        are_finite = math.isfinite(lengths[0])
    else:
        exact = queries.astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", exact, exact))
        are_finite = bool(np.isfinite(lengths).all())
    assert are_finite, "an encoder gave a vector that is not finite"
    if not view.live_count:
        return [Ranking() for _ in specs]
    if len(specs) == 1:
        return _rank_batch(view, queries, lengths, specs, scratch, rule)
    rankings: list[Ranking] = []
    step = queries_per_scan(view)
    for start in range(0, len(specs), step):
        part = slice(start, start + step)
        rankings += _rank_batch(view, queries[part], lengths[part], specs[part], scratch, rule)
    return rankings


def _rank_batch(
    view: TensorView,
    queries: Float32s,
    lengths: Float64s,
    given: Sequence[QuerySpec],
    scratch: Scratch,
    rule: DecisionRule,
) -> list[Ranking]:
    """Rank queries that fit one scan."""
    allowed, route_counts = _allowed_routes(view, given)
    specs = rule.widened(given)
    # ``dot_error`` is for unit vectors; the error grows with the query's length.
    error = dot_error(view.dim) * np.maximum(1.0, lengths)
    aggregation = view.settings.aggregation
    if aggregation not in _WITH_UTTERANCES:
        centroids = scan_vectors(view, view.centroid_spans, queries).T
        scan = None if view.negatives is None else scan_rows(view, queries, error, scratch)
        pairs = _candidates_by_centroid(view, queries, centroids, error, allowed, specs, rule, scan)
        return _decide(view, queries, given, pairs, route_counts, rule)
    linear = _linear_part(view, queries, error)
    is_lone = len(specs) == 1 and allowed is None and aggregation != "topk"
    is_lone = is_lone and view.negatives is None
    scan = None
    # A scan of bytes is too coarse for the penalties of negatives, which are steep.
    if view.slot_stop >= scratch.bytes_rows_min and view.negatives is None:
        scan = scan_bytes(view, queries, lengths, scratch)
    if scan is not None:
        upper, upper_error = _upper_scores(scan, linear, allowed)
        if is_lone and (
            ranking := rank_lone(
                view, queries, scan, upper, upper_error, specs[0], given[0].limit, scratch, rule
            )
        ):
            return [ranking]
        pairs = _candidates(view, scan, upper, upper_error, specs, rule, queries, error)
        were_useful = len(pairs.slots) <= _BYTES_ROWS_MAX * len(specs)
        scratch.report_bytes(were_useful=were_useful)
        if were_useful:
            if len(pairs.slots) > _REFINE_ROWS + _REFINE_ROWS_PER_QUERY * len(specs):
                pairs = _refine(view, queries, pairs, linear, error, specs, rule)
            return _decide(view, queries, given, pairs, route_counts, rule)
    scan = scan_rows(view, queries, error, scratch)
    upper, upper_error = _upper_scores(scan, linear, allowed)
    if is_lone and (
        ranking := rank_lone(
            view, queries, scan, upper, upper_error, specs[0], given[0].limit, scratch, rule
        )
    ):
        return [ranking]
    lowered = _lower(view, queries, scan, error, upper, upper_error)
    pairs = _candidates(view, scan, upper, lowered, specs, rule, queries, error)
    return _decide(view, queries, given, pairs, route_counts, rule)


@dataclass(frozen=True, slots=True)
class _Linear:
    """The part of a score that is linear in the query: ``weight`` of it, beside the largest.

    Attributes:
        values: Approximate, [n, routes].
        error: Bound of their error, float64[n].
        largest_weight: Weight of the largest similarity.
    """

    values: Float32s | Float64s
    error: Float64s
    weight: float
    largest_weight: float


def _linear_part(view: TensorView, queries: Float32s, error: Float64s) -> _Linear | None:
    """Approximate the linear part of ``blend`` and ``adaptive``."""
    if view.settings.aggregation == "blend":
        return _Linear(scan_vectors(view, view.centroid_spans, queries).T, error, 0.5, 0.5)
    adaptive = view.adaptive
    if view.settings.aggregation != "adaptive" or adaptive is None:
        return None
    values = scan_vectors(view, adaptive.spans, queries).T.astype(np.float64)
    values += adaptive.offsets
    # The error of a product grows with the lengths of both vectors.
    return _Linear(values, error * max(1.0, adaptive.length_max), 1.0, adaptive.largest)


def _allowed_routes(
    view: TensorView, specs: Sequence[QuerySpec]
) -> tuple[Mask | None, Sequence[int]]:
    """Say which routes each query considers: bool[n, routes], None for all; and how many."""
    if not [spec for spec in specs if spec.routes is not None]:
        mask = None if view.live_count == len(view.is_live) else view.is_live[np.newaxis]
        return mask, [view.live_count] * len(specs)
    mask = np.repeat(view.is_live[np.newaxis], len(specs), axis=0)
    for row, spec in zip(mask, specs, strict=True):
        if spec.routes is not None:
            ids = np.fromiter(spec.routes, np.int64, len(spec.routes))
            chosen = np.zeros_like(row)
            chosen[ids[(ids >= 0) & (ids < len(row))]] = True
            row &= chosen
    return mask, mask.sum(axis=1).tolist()


def _upper_scores(
    scan: Scan, linear: _Linear | None, allowed: Mask | None
) -> tuple[Float64s, Float64s]:
    """Approximate all scores, float64[n, routes], and their error; ``topk`` is only bounded."""
    upper = np.multiply(scan.largest.T, scan.sizes[:, np.newaxis], order="C")
    error = scan.error
    if linear is not None:
        upper, error = _combine(upper, error, linear.values, linear)
    if allowed is not None:
        upper = np.where(allowed, upper, -np.inf)
    return upper, error


def _combine(
    largest: Float64s, error: Float64s, values: Float32s | Float64s, linear: _Linear
) -> tuple[Float64s, Float64s]:
    """Add the linear part; overwrites ``largest``."""
    largest *= linear.largest_weight
    if linear.weight == 1.0:
        largest += values
    else:
        largest += values * linear.weight
    return largest, error * abs(linear.largest_weight) + linear.error * linear.weight


def _lower(
    view: TensorView,
    queries: Float32s,
    scan: Scan,
    error: Float64s,
    upper: Float64s,
    upper_error: Float64s,
) -> Float64s:
    """Take the penalties of negatives from ``upper``; returns the bound of its error then."""
    if view.negatives is None:
        return upper_error
    penalties, more = approximate_penalties(view.negatives, queries, scan, error)
    upper[:, view.negatives.route_ids] -= penalties
    return upper_error + more


# --- a batch ---


def _candidates(
    view: TensorView,
    scan: Scan,
    upper: Float64s,
    error: Float64s,
    specs: Sequence[QuerySpec],
    rule: DecisionRule,
    queries: Float32s,
    product_error: Float64s,
) -> Pairs:
    """Find the routes and utterances that a scan leaves to be scored exactly."""
    depth = 1
    if view.settings.aggregation == "topk":
        penalties = np.zeros(upper.shape)
        _lower(view, queries, scan, product_error, penalties, error)
        upper = _tighten(view, scan, upper, error, specs, rule, penalties)
        depth = view.settings.topk
    pairs = Pairs.of(view, *select_candidates(upper, rule.open_bars, error, specs))
    return _keep_close(pairs, pairs.similarities(scan), scan.error, depth)


def _candidates_by_centroid(
    view: TensorView,
    queries: Float32s,
    centroids: Float32s,
    error: Float64s,
    allowed: Mask | None,
    specs: Sequence[QuerySpec],
    rule: DecisionRule,
    scan: Scan | None,
) -> Pairs:
    """Find the routes and utterances to score exactly where the centroids decide."""
    upper = centroids.astype(np.float64)
    if view.settings.aggregation == "mean":
        # A mean norm is at most about 1, so the error bound of the centroid still holds.
        upper *= view.mean_norms
    lowered = error if scan is None else _lower(view, queries, scan, error, upper, error)
    if allowed is not None:
        upper = np.where(allowed, upper, -np.inf)
    pairs = Pairs.of(view, *select_candidates(upper, rule.open_bars, lowered, specs))
    return _keep_close(pairs, pairs.approximate(view, queries), error, 1)


def _keep_close(pairs: Pairs, approximate: Float64s, error: Float64s, depth: int) -> Pairs:
    """Drop the utterances that cannot be among the ``depth`` best of their pair."""
    # Two similarities that are each off by ``error`` may swap places within twice that.
    bars = pairs.kth_largest(approximate, depth) - 2.0 * error[pairs.queries]
    return pairs.keep(approximate >= bars[pairs.pair_of])


def _refine(
    view: TensorView,
    queries: Float32s,
    pairs: Pairs,
    linear: _Linear | None,
    error: Float64s,
    specs: Sequence[QuerySpec],
    rule: DecisionRule,
) -> Pairs:
    """Drop candidates that bytes could not exclude, by comparing them in float32."""
    values = pairs.approximate(view, queries)
    depth = view.settings.topk if view.settings.aggregation == "topk" else 1
    scores = pairs.mean_of_largest(values, depth)
    scores_error = error
    if linear is not None:
        own = linear.values[pairs.queries, pairs.route_ids]
        scores, scores_error = _combine(scores, error, own, linear)
    firsts = pairs.firsts(len(specs))
    places = np.arange(len(pairs.queries)) - firsts[pairs.queries]
    upper = np.full((len(specs), int(places.max()) + 1), -np.inf)
    upper[pairs.queries, places] = scores
    bars = None
    if rule.bars is not None:
        bars = np.zeros(upper.shape)
        bars[pairs.queries, places] = rule.bars[pairs.route_ids]
    queries_left, places_left = select_candidates(upper, bars, scores_error, specs)
    chosen = np.zeros(len(pairs.queries), np.bool_)
    chosen[firsts[queries_left] + places_left] = True
    close = pairs.kth_largest(values, depth) - 2.0 * error[pairs.queries]
    return pairs.choose(chosen, values >= close[pairs.pair_of])


def _tighten(
    view: TensorView,
    scan: Scan,
    bound: Float64s,
    error: Float64s,
    specs: Sequence[QuerySpec],
    rule: DecisionRule,
    lowered: Float64s,
) -> Float64s:
    """Replace upper bounds of ``topk`` by approximate scores, where they can matter.

    Args:
        lowered: Penalties, negated, float64[n, routes].
    """
    first = _topk(view, scan, bound, bound >= leading_scores(bound, specs), lowered)
    least = np.where(first > -np.inf, first, np.inf).min(axis=1, keepdims=True)
    margin = error[:, np.newaxis]
    bars = np.inf if rule.bars is None else rule.bars
    passing = np.where(first >= bars + margin, first, -np.inf)
    best = passing.max(axis=1, keepdims=True)
    matter = may_lead_or_pass(bound, bars, margin, least, best)
    return _topk(view, scan, bound, matter, lowered)


def _topk(
    view: TensorView, scan: Scan, bound: Float64s, chosen: Mask, lowered: Float64s
) -> Float64s:
    """Approximate ``topk`` scores of chosen routes; -inf for all others."""
    pairs = Pairs.of(view, *(chosen & (bound > -np.inf)).nonzero())
    scores = np.full(bound.shape, -np.inf)
    means = pairs.mean_of_largest(pairs.similarities(scan), view.settings.topk)
    scores[pairs.queries, pairs.route_ids] = means + lowered[pairs.queries, pairs.route_ids]
    return scores


def _decide(
    view: TensorView,
    queries: Float32s,
    specs: Sequence[QuerySpec],
    pairs: Pairs,
    route_counts: Sequence[int],
    rule: DecisionRule,
) -> list[Ranking]:
    """Score the pairs exactly and read the rankings off them."""
    slots, similarities, scores, judged = _exact_scores(view, queries, pairs, rule)
    # The last key is the first to count: by query, then by score, then by slot.
    order = np.lexsort((slots, -scores, pairs.queries))
    found = ScoredRoutes(
        pairs.queries,  # ascending already
        pairs.queries.searchsorted(np.arange(len(specs) + 1)).tolist(),
        pairs.route_ids[order],
        scores[order],
        slots[order],
        similarities[order],
        None if judged is None else judged[order],
    )
    return decide_batch(rule, view, found, specs, route_counts)


def _exact_scores(
    view: TensorView, queries: Float32s, pairs: Pairs, rule: DecisionRule
) -> tuple[Numbers, Float64s, Float64s, Float64s | None]:
    """Compute the best slot of each pair, its similarity, and the score of its route.

    The last array is what a threshold is compared with; None for the score, or without any.
    """
    slots, largest, scores, judged = _aggregated(view, queries, pairs, rule)
    if view.negatives is not None and len(slots):
        penalties = exact_penalties(view.negatives, queries, pairs, largest)
        scores = scores - penalties
        judged = None if judged is None else judged - penalties
    return slots, largest, scores, judged


def _aggregated(
    view: TensorView, queries: Float32s, pairs: Pairs, rule: DecisionRule
) -> tuple[Numbers, Float64s, Float64s, Float64s | None]:
    """As ``_exact_scores``, before negatives count."""
    aggregation = view.settings.aggregation
    adaptive = view.adaptive if aggregation == "adaptive" else None
    has_centroids = aggregation not in ("max", "topk") and (adaptive is None or rule.needs_blend)
    beside = [view.centroids] if has_centroids else []
    if adaptive is not None:
        beside.append(adaptive.vectors)
    values, *linear = pairs.exact(view, queries, beside)
    # A cosine is at most 1, but vectors are unit only within rounding.
    np.clip(values, -1.0, 1.0, out=values)
    slots, largest = pairs.best_utterances(values)
    if aggregation == "max":
        return slots, largest, largest, None
    if aggregation == "topk":
        return slots, largest, pairs.mean_of_largest(values, view.settings.topk), None
    blended = None
    if has_centroids:
        centroid = np.clip(linear[0], -1.0, 1.0)
        if aggregation == "centroid":
            return slots, largest, centroid, None
        if aggregation == "mean":
            # The length of a mean may exceed 1 by rounding, as that of a vector may.
            means = np.clip(centroid * view.mean_norms[pairs.route_ids], -1.0, 1.0)
            return slots, largest, means, None
        blended = (largest + centroid) / 2.0
        if adaptive is None:
            return slots, largest, blended, None
    assert adaptive is not None
    scores = largest * adaptive.largest + linear[-1]
    scores += adaptive.offsets[pairs.route_ids]
    return slots, largest, scores, blended
