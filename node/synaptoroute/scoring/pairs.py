"""Pairs of a query and a route, and the utterances of that route, laid out flat.

Everything here is vectorised over all pairs of a batch: ``starts`` cuts the flat
arrays into the pairs' parts, in order of pair, each part in order of slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from synaptoroute.exact import dots
from synaptoroute.scoring.scan import Scan
from synaptoroute.scoring.values import (
    Float32s,
    Float64s,
    Indexes,
    Mask,
    Numbers,
    ScoringRows,
)

_ROWS_AT_ONCE: Final = 512
"""Rows gathered at a time; their copies stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Utterances of the routes that some queries are compared with.

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
    def of(cls, rows: ScoringRows, queries: Indexes, route_ids: Indexes) -> Pairs:
        """Lay out pairs, ascending by query, then by route."""
        parts = [rows.slots_of(route_id) for route_id in route_ids.tolist()]
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
        """Drop whole pairs, and utterances; every pair that stays must keep one."""
        stays = utterances & chosen[self.pair_of]
        pair_of = (chosen.cumsum() - 1)[self.pair_of[stays]]
        queries = self.queries[chosen]
        starts = pair_of.searchsorted(np.arange(len(queries)))
        return Pairs(queries, self.route_ids[chosen], starts, pair_of, self.slots[stays])

    def firsts(self, query_count: int) -> Indexes:
        """Where the pairs of each query start: intp[query_count]."""
        return self.queries.searchsorted(np.arange(query_count))

    def similarities(self, scan: Scan) -> Float64s:
        """Read the utterances' cosine similarities off a scan: float64[utterances]."""
        if len(scan.sizes) == 1:
            return scan.similarities.reshape(-1)[self.slots] * scan.sizes
        query_of = self.queries[self.pair_of]
        return scan.similarities[self.slots, query_of] * scan.sizes[query_of]

    def approximate(self, rows: ScoringRows, queries: Float32s) -> Float64s:
        """Compare the utterances with their queries in float32, without a scan."""
        values = np.empty(len(self.slots))
        for start in range(0, len(values), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            vectors = rows.vectors_of(self.slots[part])
            asked = queries[self.queries[self.pair_of[part]]]
            values[part] = np.einsum("ij,ij->i", vectors, asked)
        return values

    def exact(
        self, rows: ScoringRows, queries: Float32s, *, with_centroids: bool
    ) -> tuple[Float64s, Float64s]:
        """Compare utterances, and the pairs' centroids if asked, with their queries exactly.

        Returns:
            float64[utterances], and float64[pairs] or nothing.
        """
        count = len(self.slots)
        query_of = self.queries[self.pair_of]
        if with_centroids:
            query_of = np.concatenate([query_of, self.queries])
        values = np.empty(len(query_of))
        for start in range(0, len(values), _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, len(values))
            parts = []
            if start < count:
                parts.append(rows.vectors_of(self.slots[start:stop]))
            if stop > count:
                parts.append(
                    rows.centroids_of(self.route_ids[max(0, start - count) : stop - count])
                )
            vectors = parts[0] if len(parts) == 1 else np.concatenate(parts)
            asked = queries if len(queries) == 1 else queries[query_of[start:stop]]
            values[start:stop] = dots(vectors, asked)
        return values[:count], values[count:]

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
