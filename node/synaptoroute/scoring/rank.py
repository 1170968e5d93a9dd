"""From a batch of queries to one ranking each: scan, nominate, score exactly, decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from synaptoroute.exact import dot_error
from synaptoroute.scoring.candidates import considered, contenders, leading_scores, nominate
from synaptoroute.scoring.pairs import Pairs
from synaptoroute.scoring.scan import (
    Scan,
    Scratch,
    queries_per_scan,
    scan_bytes,
    scan_centroids,
    scan_rows,
)
from synaptoroute.scoring.single import rank_single
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

_ROUNDED_UP: Final = 1.0 + 2.0**-12
"""Makes a length that float32 added up, of thousands of components, no shorter than it is."""

_REFINE_ROWS: Final = 32
_REFINE_ROWS_A_QUERY: Final = 4
"""Utterances that are scored exactly at once; of more, float32 drops most first."""


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
    lengths = _lengths(queries)
    if not np.count_nonzero(rows.is_live):
        return [Ranking() for _ in specs]
    scratch = scratch or Scratch()
    if len(specs) == 1:
        return _rank_part(rows, queries, lengths, specs, scratch)
    rankings: list[Ranking] = []
    step = queries_per_scan(rows)
    for start in range(0, len(specs), step):
        part = slice(start, start + step)
        rankings += _rank_part(rows, queries[part], lengths[part], specs[part], scratch)
    return rankings


def _lengths(queries: Float32s) -> Float64s:
    """Lengths of queries, float64[n], never too small by what is left out of an error."""
    if len(queries) == 1:
        lengths = np.array([math.sqrt(float(queries[0].dot(queries[0])) * _ROUNDED_UP)])
        are_finite = math.isfinite(lengths[0])
    else:
        exact = queries.astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", exact, exact))
        are_finite = bool(np.isfinite(lengths).all())
    assert are_finite, "an encoder gave a vector that is not finite"
    return lengths


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
    centroids = scan_centroids(rows, queries).T if rows.settings.aggregation in _CENTRED else None
    if rows.settings.aggregation not in _SCANNED:
        assert centroids is not None
        pairs = _close_to_centroids(rows, queries, centroids, centroid_error, allowed, specs)
        return _decide(rows, queries, specs, pairs, route_counts)
    scan = scan_bytes(rows, queries, lengths, scratch)
    if scan is not None:
        upper, error = _upper_scores(scan, centroids, centroid_error, allowed)
        if ranking := _alone(rows, queries, scan, upper, error, allowed, specs, scratch):
            return [ranking]
        pairs = _close(rows, scan, upper, error, specs)
        scratch.judge(was_useful=len(pairs.slots) <= _CLOSE_ROWS_MAX * len(specs))
        if len(pairs.slots) <= _CLOSE_ROWS_MAX * len(specs):
            if len(pairs.slots) > _REFINE_ROWS + _REFINE_ROWS_A_QUERY * len(specs):
                pairs = _refine(rows, queries, pairs, centroids, centroid_error, specs)
            return _decide(rows, queries, specs, pairs, route_counts)
    scan = scan_rows(rows, queries, lengths, scratch)
    upper, error = _upper_scores(scan, centroids, centroid_error, allowed)
    if ranking := _alone(rows, queries, scan, upper, error, allowed, specs, scratch):
        return [ranking]
    return _decide(rows, queries, specs, _close(rows, scan, upper, error, specs), route_counts)


def _alone(
    rows: ScoringRows,
    queries: Float32s,
    scan: Scan,
    upper: Float64s,
    error: Float64s,
    allowed: Mask | None,
    specs: Sequence[QuerySpec],
    scratch: Scratch,
) -> Ranking | None:
    """Answer a query that is alone and asks for nothing special, if that is easy."""
    if len(specs) > 1 or allowed is not None or rows.settings.aggregation == "topk":
        return None
    return rank_single(
        rows, queries, scan, upper[0], float(error[0]), specs[0].limit, scratch.few_dots
    )


def _upper_scores(
    scan: Scan, centroids: Float32s | None, centroid_error: Float64s, allowed: Mask | None
) -> tuple[Float64s, Float64s]:
    """Approximate all scores, float64[n, routes], of ``topk`` bound them; and their error."""
    upper = np.multiply(scan.largest.T, scan.sizes[:, np.newaxis], order="C")
    error = scan.error
    if centroids is not None:
        upper += centroids
        upper *= 0.5
        error = (error + centroid_error) * 0.5
    if allowed is not None:
        upper = np.where(allowed, upper, -np.inf)
    return upper, error


def _close(
    rows: ScoringRows, scan: Scan, upper: Float64s, error: Float64s, specs: Sequence[QuerySpec]
) -> Pairs:
    """Find the routes and utterances that a scan leaves to be scored exactly."""
    depth = 1
    if rows.settings.aggregation == "topk":
        upper = _tighten(rows, scan, upper, error, specs)
        depth = rows.settings.topk
    nominees = _nominees(rows, upper, error, specs)
    return _keep_close(nominees, nominees.similarities(scan), scan.error, depth)


def _refine(
    rows: ScoringRows,
    queries: Float32s,
    pairs: Pairs,
    centroids: Float32s | None,
    error: Float64s,
    specs: Sequence[QuerySpec],
) -> Pairs:
    """Drop what bytes had to leave, by comparing in float32 what they left."""
    values = pairs.approximate(rows, queries)
    depth = rows.settings.topk if rows.settings.aggregation == "topk" else 1
    scores = pairs.mean_of_largest(values, depth)
    if centroids is not None:
        scores += centroids[pairs.queries, pairs.route_ids]
        scores *= 0.5
    firsts = pairs.firsts(len(specs))
    places = np.arange(len(pairs.queries)) - firsts[pairs.queries]
    upper = np.full((len(specs), int(places.max()) + 1), -np.inf)
    thresholds = np.zeros(upper.shape)
    upper[pairs.queries, places] = scores
    thresholds[pairs.queries, places] = rows.thresholds[pairs.route_ids]
    queries_left, places_left = nominate(upper, thresholds, error, specs)
    chosen = np.zeros(len(pairs.queries), np.bool_)
    chosen[firsts[queries_left] + places_left] = True
    bars = pairs.kth_largest(values, depth) - 2.0 * error[pairs.queries]
    return pairs.choose(chosen, values >= bars[pairs.pair_of])


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
    nominees = _nominees(rows, upper, centroid_error, specs)
    return _keep_close(nominees, nominees.approximate(rows, queries), centroid_error, 1)


def _nominees(
    rows: ScoringRows, upper: Float64s, error: Float64s, specs: Sequence[QuerySpec]
) -> Pairs:
    """Lay out the routes that could decide, by scores within ``error`` of the truth."""
    return Pairs.of(rows, *nominate(upper, rows.thresholds[np.newaxis], error, specs))


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
    margin = error[:, np.newaxis]
    passing = np.where(first >= rows.thresholds + margin, first, -np.inf)
    best = passing.max(axis=1, keepdims=True)
    matter = contenders(bound, rows.thresholds, margin, least, best)
    return _topk(rows, scan, bound, matter)


def _topk(rows: ScoringRows, scan: Scan, bound: Float64s, chosen: Mask) -> Float64s:
    """Approximate ``topk`` scores of chosen routes; -inf for all others."""
    pairs = Pairs.of(rows, *(chosen & (bound > -np.inf)).nonzero())
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
