"""Candidates: the routes and utterances that could decide a query.

A scan gives approximate scores, each within ``error`` of the exact one.  The candidates of
a query include its ``limit`` best routes, the best route that passes its threshold, and the
runner-up, whatever the exact scores turn out to be.  ``Pairs`` lays them out flat for a
whole batch, so that every step is one call of numpy for all pairs of a query and a route.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from synaptoroute.exact import row_dots
from synaptoroute.scoring.scan import Scan
from synaptoroute.scoring.values import Float32s, Float64s, Indexes, Mask, Numbers, QuerySpec
from synaptoroute.tensor import TensorView
from synaptoroute.tensor.rows import ChunkedArray

_GATHERED_ROWS: Final = 64
"""Rows copied together at a time.  The copies stay in the CPU cache, and below the size from which
the allocator gives memory back to the kernel, which would clear it again for each batch."""
_LEAST: Final = -1e300
"""Below every score, above -inf."""


def select_candidates(
    upper: Float64s, thresholds: Float64s | None, error: Float64s, specs: Sequence[QuerySpec]
) -> tuple[Indexes, Indexes]:
    """Choose the routes to score exactly.

    Args:
        upper: Approximate scores, float64[n, routes]; -inf for routes not considered.
        thresholds: Of the routes that pass by their score alone, infinity for others,
            float64[n or 1, routes]; None where there is no such route.
        error: Bound of each query's error, float64[n].
        specs: What each query asks for.

    Returns:
        Queries, ascending, and columns of ``upper``, ascending for one query.
    """
    # Routes that are not considered have -inf.  ``_LEAST`` keeps them out of the comparisons
    # below where a bar itself is -inf, because a query has fewer routes than its limit.
    every = np.arange(len(upper))
    # Two scores that are each off by ``error`` may swap places within twice that.
    leads_at = leading_scores(upper, specs)[:, 0] - 2.0 * error
    if thresholds is None:
        queries, columns = (upper >= np.maximum(leads_at, _LEAST)[:, np.newaxis]).nonzero()
        return queries, columns
    first = upper.argmax(axis=1)
    bar = thresholds[every % len(thresholds), first] + error
    if (upper[every, first] >= bar).all():
        # The highest surely passes, so a route that passes and could beat it leads as well.
        queries, columns = (upper >= np.maximum(leads_at, _LEAST)[:, np.newaxis]).nonzero()
        return queries, columns
    # One pass over everything; it leaves few routes, unless one has a very low threshold.
    cut = np.maximum(np.minimum(leads_at, thresholds.min(axis=1) - error), _LEAST)
    queries, columns = (upper >= cut[:, np.newaxis]).nonzero()
    scores, own_error = upper[queries, columns], error[queries]
    own_thresholds = thresholds[queries % len(thresholds), columns]
    best = np.full(len(upper), -np.inf)
    np.maximum.at(best, queries, np.where(scores >= own_thresholds + own_error, scores, -np.inf))
    passes = scores >= np.maximum(own_thresholds - own_error, best[queries] - 2.0 * own_error)
    chosen = passes | (scores >= leads_at[queries])
    return queries[chosen], columns[chosen]


def may_lead_or_pass(
    upper: Float64s,
    thresholds: Float64s | float,
    error: Float64s,
    least: Float64s,
    best: Float64s,
) -> Mask:
    """Keep routes that may be among the leading ones, or pass and beat the best.

    Args:
        upper: float64[n, routes].
        thresholds: float64[routes], or infinity.
        error: float64[n, 1].
        least: float64[n, 1], approximate score that the last leading route reaches.
        best: float64[n, 1], approximate score of a route that surely passes.
    """
    margin = 2.0 * error
    leads = upper >= least - margin
    passes = (upper >= thresholds - error) & (upper >= best - margin)
    return (leads | passes) & (upper > -np.inf)


def leading_scores(upper: Float64s, specs: Sequence[QuerySpec]) -> Float64s:
    """Find the score of each query's last leading route: float64[n, 1].

    The leading routes are ``limit`` routes and one more, which may be the runner-up.
    """
    route_count = upper.shape[1]
    counts = [min(spec.limit + 1, route_count) for spec in specs]
    most = max(counts)
    leading = np.partition(upper, route_count - most, axis=1)[:, route_count - most :]
    if min(counts) == most:
        return leading[:, :1]
    leading.sort(axis=1)
    places: Numbers = most - np.array(counts)
    least: Float64s = leading[np.arange(len(specs)), places]
    return least[:, np.newaxis]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of a query and a route, and the utterances of that route, laid out flat.

    ``starts`` cuts the flat arrays into the parts of the pairs, in order of pair; each part
    is in order of slot.

    Attributes:
        queries: Query of each pair, ascending.
        route_ids: Route of each pair, ascending for one query.
        starts: Where each pair's utterances start.
        pair_of: Pair of each utterance.
        slots: Slot of each utterance.
    """

    queries: Indexes
    route_ids: Indexes
    starts: Indexes
    pair_of: Indexes
    slots: Numbers

    @classmethod
    def of(cls, view: TensorView, queries: Indexes, route_ids: Indexes) -> Pairs:
        """Lay out pairs, ascending by query, then by route."""
        parts = [view.slots_of[route_id] for route_id in route_ids.tolist()]
        if not parts:
            nothing = np.zeros(0, np.intp)
            return cls(queries, route_ids, nothing, nothing, nothing)
        lengths = np.array([len(part) for part in parts])
        pair_of = np.arange(len(parts)).repeat(lengths)
        return cls(queries, route_ids, lengths.cumsum() - lengths, pair_of, np.concatenate(parts))

    def keep(self, chosen: Mask) -> Pairs:
        """Drop utterances; every pair must keep one."""
        pair_of = self.pair_of[chosen]
        starts = pair_of.searchsorted(np.arange(len(self.queries)))
        return Pairs(self.queries, self.route_ids, starts, pair_of, self.slots[chosen])

    def choose(self, chosen: Mask, utterances: Mask) -> Pairs:
        """Drop pairs, and utterances of the others; every pair that stays must keep one."""
        stays = utterances & chosen[self.pair_of]
        pair_of = (chosen.cumsum() - 1)[self.pair_of[stays]]
        queries = self.queries[chosen]
        starts = pair_of.searchsorted(np.arange(len(queries)))
        return Pairs(queries, self.route_ids[chosen], starts, pair_of, self.slots[stays])

    def firsts(self, query_count: int) -> Indexes:
        """Find where the pairs of each query start: intp[query_count]."""
        return self.queries.searchsorted(np.arange(query_count))

    def similarities(self, scan: Scan) -> Float64s:
        """Read the utterances' cosine similarities off a scan: float64[utterances]."""
        if len(scan.sizes) == 1:
            return scan.similarities.reshape(-1)[self.slots] * scan.sizes
        query_of = self.queries[self.pair_of]
        return scan.similarities[self.slots, query_of] * scan.sizes[query_of]

    def approximate(self, view: TensorView, queries: Float32s) -> Float64s:
        """Compare the utterances with their queries in float32, without a scan."""
        values = np.empty(len(self.slots))
        # In parts: a copy of all rows at once would leave the CPU cache.
        for start in range(0, len(values), _GATHERED_ROWS):
            part = slice(start, start + _GATHERED_ROWS)
            vectors = view.rows.read(self.slots[part])
            asked = queries[self.queries[self.pair_of[part]]]
            values[part] = np.einsum("ij,ij->i", vectors, asked)
        return values

    def exact(
        self, view: TensorView, queries: Float32s, beside: Sequence[ChunkedArray[np.float32]]
    ) -> list[Float64s]:
        """Compare utterances, and vectors of the pairs' routes, with their queries exactly.

        Args:
            beside: Vectors by route id.

        Returns:
            float64[utterances], and float64[pairs] for each of ``beside``.
        """
        query_of = self.queries[self.pair_of]
        parts: list[tuple[ChunkedArray[np.float32], Numbers, Indexes]] = [
            (view.rows, self.slots, query_of)
        ]
        parts += [(vectors, self.route_ids, self.queries) for vectors in beside]
        wide = queries.astype(np.float64)
        if len(query_of) + len(beside) * len(self.queries) > _GATHERED_ROWS:
            return [_dots_of(*part, wide) for part in parts]
        # A call costs more than the arithmetic of a few rows.
        rows = np.concatenate([vectors.read(at) for vectors, at, _ in parts])
        asked = wide
        if len(queries) > 1:
            asked = wide.take(np.concatenate([of for _, _, of in parts]), 0)
        values = row_dots(rows, asked)
        return np.split(values, len(query_of) + len(self.queries) * np.arange(len(beside)))

    def kth_largest(self, values: Float64s, k: int) -> Float64s:
        """The k-th largest value of each pair, the smallest where it has fewer."""
        if k == 1:
            return np.maximum.reduceat(values, self.starts) if len(values) else values
        ranked = values[np.lexsort((-values, self.pair_of))]
        return ranked[self.starts + np.minimum(k, self._lengths()) - 1]

    def mean_of_largest(self, values: Float64s, k: int) -> Float64s:
        """The mean of each pair's k largest values, of all where it has fewer.

        Added from the largest down, so that it depends on the values alone.
        """
        if k == 1:
            return self.kth_largest(values, 1)
        ranked = np.append(values[np.lexsort((-values, self.pair_of))], 0.0)
        counts = np.minimum(k, self._lengths())
        # Not ``np.add.reduceat``: its order of addition depends on the instruction set.
        total = np.zeros(len(counts))
        for place in range(int(counts.max(initial=0))):
            has_place = place < counts
            total += np.where(has_place, ranked[np.where(has_place, self.starts + place, -1)], 0.0)
        return total / counts

    def best_utterances(self, values: Float64s) -> tuple[Numbers, Float64s]:
        """The slot of each pair's largest value, the lowest of equals, and the value."""
        if len(values) == len(self.queries):
            return self.slots, values
        first = np.lexsort((-values, self.pair_of))[self.starts]
        return self.slots[first], values[first]

    def _lengths(self) -> Indexes:
        return np.diff(self.starts, append=len(self.slots))


def _dots_of(
    vectors: ChunkedArray[np.float32], at: Numbers, query_of: Indexes, queries: Float64s
) -> Float64s:
    """Multiply rows of an array with their queries exactly, some hundred at a time."""
    values = np.empty(len(at))
    for start in range(0, len(at), _GATHERED_ROWS):
        part = slice(start, start + _GATHERED_ROWS)
        asked = queries if len(queries) == 1 else queries.take(query_of[part], 0)
        values[part] = row_dots(vectors.read(at[part]), asked)
    return values
