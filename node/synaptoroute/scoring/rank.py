"""From a batch of queries to one ranking each: scan, nominate, score exactly, decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from synaptoroute.exact import dot_error
from synaptoroute.scoring.nominees import considered, contenders, leading_scores, nominate
from synaptoroute.scoring.pairs import Pairs
from synaptoroute.scoring.scan import (
    Scan,
    Scratch,
    queries_per_scan,
    scan_bytes,
    scan_centroids,
    scan_rows,
)
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

_SCANNED: Final = ("blend", "max", "topk")
_CENTRED: Final = ("blend", "mean", "centroid")
_CLOSE_ROWS_MAX: Final = 512
"""Utterances a query that bytes may leave; of more, float32 leaves fewer for less."""


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
    exact = queries.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", exact, exact))
    assert bool(np.isfinite(lengths).all()), "an encoder gave a vector that is not finite"
    if not rows.is_live.any():
        return [Ranking() for _ in specs]
    scratch = scratch or Scratch()
    rankings: list[Ranking] = []
    step = queries_per_scan(rows)
    for start in range(0, len(specs), step):
        part = slice(start, start + step)
        rankings += _rank_part(rows, queries[part], lengths[part], specs[part], scratch)
    if scratch.wants_bytes and rows.coarse_spans() is None:
        rows.prepare()
    return rankings


def _rank_part(
    rows: ScoringRows,
    queries: Float32s,
    lengths: Float64s,
    specs: Sequence[QuerySpec],
    scratch: Scratch,
) -> list[Ranking]:
    """Rank queries that fit one scan."""
    allowed, route_counts = considered(rows, specs)
    centroid_error = dot_error(rows.dim) * np.maximum(1.0, lengths)
    centroids = None
    if rows.settings.aggregation in _CENTRED:
        centroids = scan_centroids(rows, queries).T
    pairs = None
    if rows.settings.aggregation in _SCANNED:
        scan = scan_bytes(rows, queries, lengths, scratch)
        if scan is not None:
            pairs = _close(rows, scan, centroids, centroid_error, allowed, specs)
            is_useful = len(pairs.slots) <= _CLOSE_ROWS_MAX * len(specs)
            scratch.judge(was_useful=is_useful)
            pairs = pairs if is_useful else None
    if pairs is None and rows.settings.aggregation in _SCANNED:
        scan = scan_rows(rows, queries, lengths, scratch)
        pairs = _close(rows, scan, centroids, centroid_error, allowed, specs)
    if pairs is None:
        assert centroids is not None
        pairs = _close_to_centroids(rows, queries, centroids, centroid_error, allowed, specs)
    return _decide(rows, queries, specs, pairs, route_counts)


def _close(
    rows: ScoringRows,
    scan: Scan,
    centroids: Float32s | None,
    centroid_error: Float64s,
    allowed: Mask | None,
    specs: Sequence[QuerySpec],
) -> Pairs:
    """Find the routes and utterances that a scan leaves to be scored exactly."""
    upper = scan.largest.T * scan.sizes[:, np.newaxis]
    error = scan.error[:, np.newaxis]
    if centroids is not None:
        upper += centroids
        upper *= 0.5
        error = (error + centroid_error[:, np.newaxis]) * 0.5
    if allowed is not None:
        upper = np.where(allowed, upper, -np.inf)
    depth = 1
    if rows.settings.aggregation == "topk":
        upper = _tighten(rows, scan, upper, error, specs)
        depth = rows.settings.topk
    nominees = Pairs.of(rows, nominate(upper, rows.thresholds, error, specs))
    return _keep_close(nominees, nominees.similarities(scan), scan.error, depth)


def _close_to_centroids(
    rows: ScoringRows,
    queries: Float32s,
    centroids: Float32s,
    centroid_error: Float64s,
    allowed: Mask | None,
    specs: Sequence[QuerySpec],
) -> Pairs:
    """Find what is left to be scored exactly where the centroids decide."""
    upper = centroids.astype(np.float64)
    if rows.settings.aggregation == "mean":
        upper *= rows.mean_norms
    if allowed is not None:
        upper = np.where(allowed, upper, -np.inf)
    chosen = nominate(upper, rows.thresholds, centroid_error[:, np.newaxis], specs)
    nominees = Pairs.of(rows, chosen)
    return _keep_close(nominees, nominees.approximate(rows, queries), centroid_error, 1)


def _keep_close(nominees: Pairs, approximate: Float64s, error: Float64s, depth: int) -> Pairs:
    """Drop the utterances that cannot be among the ``depth`` best of their pair."""
    bars = nominees.kth_largest(approximate, depth) - 2.0 * error[nominees.queries]
    return nominees.keep(approximate >= bars[nominees.pair_of])


def _tighten(
    rows: ScoringRows,
    scan: Scan,
    bound: Float64s,
    error: Float64s,
    specs: Sequence[QuerySpec],
) -> Float64s:
    """Replace upper bounds of ``topk`` by approximate scores, where they can matter."""
    first = _topk(rows, scan, bound, bound >= leading_scores(bound, specs))
    least = np.where(first > -np.inf, first, np.inf).min(axis=1, keepdims=True)
    passing = np.where(first >= rows.thresholds + error, first, -np.inf)
    best = passing.max(axis=1, keepdims=True)
    matter = contenders(bound, rows.thresholds, error, least, best)
    return _topk(rows, scan, bound, matter)


def _topk(rows: ScoringRows, scan: Scan, bound: Float64s, chosen: Mask) -> Float64s:
    """Approximate ``topk`` scores of chosen routes; -inf for all others."""
    pairs = Pairs.of(rows, chosen & (bound > -np.inf))
    scores = np.full(bound.shape, -np.inf)
    means = pairs.mean_of_largest(pairs.similarities(scan), rows.settings.topk)
    scores[pairs.queries, pairs.route_ids] = means
    return scores


def _decide(
    rows: ScoringRows,
    queries: Float32s,
    specs: Sequence[QuerySpec],
    pairs: Pairs,
    route_counts: Sequence[int],
) -> list[Ranking]:
    """Score the pairs exactly and read the rankings off them."""
    slots, similarities, scores = _exact_scores(rows, queries, pairs)
    order = np.lexsort((slots, -scores, pairs.queries))
    route_ids = pairs.route_ids[order]
    standing = _Standing(
        route_ids.tolist(),
        scores[order].tolist(),
        rows.thresholds[route_ids].tolist(),
        slots[order].tolist(),
        similarities[order].tolist(),
    )
    bounds = pairs.queries.searchsorted(np.arange(len(specs) + 1)).tolist()
    return [
        standing.ranking(bounds[index], bounds[index + 1], spec.limit, route_counts[index])
        for index, spec in enumerate(specs)
    ]


def _exact_scores(
    rows: ScoringRows, queries: Float32s, pairs: Pairs
) -> tuple[Numbers, Float64s, Float64s]:
    """The best slot, its similarity and the aggregated score of each pair."""
    aggregation = rows.settings.aggregation
    values, centroid = pairs.exact(rows, queries, with_centroids=aggregation in _CENTRED)
    slots, largest = pairs.best_utterances(values)
    if aggregation == "max":
        return slots, largest, largest
    if aggregation == "topk":
        return slots, largest, pairs.mean_of_largest(values, rows.settings.topk)
    if aggregation == "centroid":
        return slots, largest, centroid
    if aggregation == "mean":
        return slots, largest, centroid * rows.mean_norms[pairs.route_ids]
    return slots, largest, (largest + centroid) / 2.0


@dataclass(frozen=True, slots=True)
class _Standing:
    """All nominees of a batch, query by query, each query's highest first."""

    route_ids: list[int]
    scores: list[float]
    thresholds: list[float]
    slots: list[int]
    similarities: list[float]

    def ranking(self, start: int, stop: int, limit: int, route_count: int) -> Ranking:
        """Read one query's ranking off its nominees, ``start`` to ``stop - 1``."""
        if start == stop:
            return Ranking(route_count=route_count)
        passed = (at for at in range(start, stop) if self.scores[at] >= self.thresholds[at])
        best = next(passed, None)
        winner = start if best is None else best
        second = start + 1 if winner == start else start
        top = tuple(self._at(at) for at in range(start, min(start + limit, stop)))
        return Ranking(
            None if best is None else self._listed(best, start, top),
            top,
            self._listed(second, start, top) if second < stop else None,
            route_count,
        )

    def _listed(self, at: int, start: int, top: tuple[RouteScore, ...]) -> RouteScore:
        """The score at a place, the same object as in the list if it is there."""
        return top[at - start] if at - start < len(top) else self._at(at)

    def _at(self, at: int) -> RouteScore:
        return RouteScore(
            self.route_ids[at],
            self.scores[at],
            self.thresholds[at],
            self.slots[at],
            self.similarities[at],
        )
