"""From a batch of queries to one ranking each: scan, nominate, score exactly, decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from synaptoroute.exact import dot_error, dots
from synaptoroute.scoring.nominees import considered, contenders, leading_scores, nominate
from synaptoroute.scoring.pairs import Pairs
from synaptoroute.scoring.scan import Scratch, queries_per_scan, scan_centroids, scan_rows
from synaptoroute.scoring.values import (
    Float32s,
    Float64s,
    Mask,
    Numbers,
    QuerySpec,
    Ranking,
    RouteScore,
    ScoringRows,
)


def rank(
    rows: ScoringRows,
    queries: Float32s,
    specs: Sequence[QuerySpec],
    scratch: Scratch | None = None,
) -> list[Ranking]:
    """Rank the routes for each query.

    Equal queries get equal rankings, bit for bit, in any batch and any place of it.

    Args:
        rows: The tensor; must not change meanwhile.
        queries: float32[n, dim], finite, unit length.
        specs: n of them.
        scratch: Memory kept from batch to batch; belongs to the calling thread.

    Returns:
        One ranking a query, in order.
    """
    assert queries.shape == (len(specs), rows.dim), "one vector and one spec a query"
    assert bool(np.isfinite(queries).all()), "an encoder gave a vector that is not finite"
    if not rows.is_live.any():
        return [Ranking() for _ in specs]
    scratch = scratch or Scratch()
    rankings: list[Ranking] = []
    step = queries_per_scan(rows)
    for start in range(0, len(specs), step):
        part = slice(start, start + step)
        rankings += _rank_part(rows, queries[part], specs[part], scratch)
    return rankings


def _rank_part(
    rows: ScoringRows, queries: Float32s, specs: Sequence[QuerySpec], scratch: Scratch
) -> list[Ranking]:
    """Rank queries that fit one scan."""
    allowed = considered(rows, specs)
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    error = (dot_error(rows.dim) * np.maximum(1.0, lengths))[:, np.newaxis]
    similarities, upper = _upper_scores(rows, queries, scratch)
    upper[~allowed] = -np.inf
    if rows.settings.aggregation == "topk":
        assert similarities is not None, "topk is bounded by the scan"
        upper = _tighten(rows, similarities, upper, error, specs)
    nominees = Pairs.of(rows, nominate(upper, rows.thresholds, error, specs))
    approximate = (
        nominees.approximate(rows, queries)
        if similarities is None
        else similarities[nominees.slots, nominees.queries[nominees.pair_of]]
    )
    depth = rows.settings.topk if rows.settings.aggregation == "topk" else 1
    bars = nominees.kth_largest(approximate, depth) - 2.0 * error[nominees.queries, 0]
    close = nominees.keep(approximate >= bars[nominees.pair_of])
    return _decide(rows, queries, specs, close, allowed.sum(axis=1))


def _upper_scores(
    rows: ScoringRows, queries: Float32s, scratch: Scratch
) -> tuple[Float32s | None, Float64s]:
    """Approximate every route's score: float64[n, routes]; for ``topk`` bound it.

    The first result is the scan by slot, where the aggregation needs one.
    """
    aggregation = rows.settings.aggregation
    if aggregation == "centroid":
        return None, scan_centroids(rows, queries).T.astype(np.float64)
    if aggregation == "mean":
        centroid = scan_centroids(rows, queries).T.astype(np.float64)
        return None, centroid * rows.mean_norms
    similarities, largest = scan_rows(rows, queries, scratch)
    upper = largest.T.astype(np.float64)
    if aggregation == "blend":
        upper = (upper + scan_centroids(rows, queries).T) / 2.0
    return similarities, upper


def _tighten(
    rows: ScoringRows,
    similarities: Float32s,
    bound: Float64s,
    error: Float64s,
    specs: Sequence[QuerySpec],
) -> Float64s:
    """Replace upper bounds of ``topk`` by approximate scores, where they can matter."""
    first = _topk(rows, similarities, bound, bound >= leading_scores(bound, specs))
    least = np.where(first > -np.inf, first, np.inf).min(axis=1, keepdims=True)
    passing = np.where(first >= rows.thresholds + error, first, -np.inf)
    best = passing.max(axis=1, keepdims=True)
    matter = contenders(bound, rows.thresholds, error, least, best)
    return _topk(rows, similarities, bound, matter)


def _topk(rows: ScoringRows, similarities: Float32s, bound: Float64s, chosen: Mask) -> Float64s:
    """Approximate ``topk`` scores of chosen routes; -inf for all others."""
    pairs = Pairs.of(rows, chosen & (bound > -np.inf))
    values = similarities[pairs.slots, pairs.queries[pairs.pair_of]].astype(np.float64)
    scores = np.full(bound.shape, -np.inf)
    scores[pairs.queries, pairs.route_ids] = pairs.mean_of_largest(values, rows.settings.topk)
    return scores


def _decide(
    rows: ScoringRows,
    queries: Float32s,
    specs: Sequence[QuerySpec],
    pairs: Pairs,
    route_counts: Numbers,
) -> list[Ranking]:
    """Score the pairs exactly and read the rankings off them."""
    values = pairs.exact(rows, queries)
    slots, best_values = pairs.best_utterances(values)
    scores = _exact_scores(rows, queries, pairs, values, best_values)
    order = np.lexsort((slots, -scores, pairs.queries))
    standing = [
        RouteScore(*fields)
        for fields in zip(
            pairs.route_ids[order].tolist(),
            scores[order].tolist(),
            rows.thresholds[pairs.route_ids[order]].tolist(),
            slots[order].tolist(),
            best_values[order].tolist(),
            strict=True,
        )
    ]
    bounds = np.searchsorted(pairs.queries, np.arange(len(specs) + 1)).tolist()
    return [
        _ranking(standing[bounds[index] : bounds[index + 1]], spec, int(route_counts[index]))
        for index, spec in enumerate(specs)
    ]


def _exact_scores(
    rows: ScoringRows, queries: Float32s, pairs: Pairs, values: Float64s, largest: Float64s
) -> Float64s:
    """Aggregate exactly: float64[pairs]."""
    aggregation = rows.settings.aggregation
    if aggregation == "max":
        return largest
    if aggregation == "topk":
        return pairs.mean_of_largest(values, rows.settings.topk)
    centroid = dots(rows.centroids_of(pairs.route_ids), queries[pairs.queries])
    if aggregation == "centroid":
        return centroid
    if aggregation == "mean":
        return centroid * rows.mean_norms[pairs.route_ids]
    return (largest + centroid) / 2.0


def _ranking(standing: list[RouteScore], spec: QuerySpec, route_count: int) -> Ranking:
    """Read one ranking off the nominees, highest first."""
    best = next((score for score in standing if score.passed), None)
    winner = best or (standing[0] if standing else None)
    runner_up = next((score for score in standing if score is not winner), None)
    return Ranking(best, tuple(standing[: spec.limit]), runner_up, route_count)
