"""Pairs of a query and a route, and the utterances of that route, laid out flat.

Everything here is vectorised over all pairs of a batch: ``starts`` cuts the flat
arrays into the pairs' parts, in order of pair, each part in order of slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from synaptoroute.exact import dots
from synaptoroute.scoring.values import (
    Float32s,
    Float64s,
    Indexes,
    Mask,
    Numbers,
    ScoringRows,
)

_ROWS_AT_ONCE: Final = 2_048
"""Rows gathered at a time; bounds the memory of copies."""


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
    def of(cls, rows: ScoringRows, chosen: Mask) -> Pairs:
        """Lay out the pairs of bool[n, routes]."""
        queries, route_ids = np.nonzero(chosen)
        parts = [rows.slots_of(route_id) for route_id in route_ids.tolist()]
        lengths = np.fromiter(map(len, parts), np.intp, len(parts))
        slots = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        starts = np.cumsum(lengths) - lengths
        return cls(queries, route_ids, starts, np.repeat(np.arange(len(parts)), lengths), slots)

    def keep(self, chosen: Mask) -> Pairs:
        """Drop utterances; every pair must keep one."""
        pair_of = self.pair_of[chosen]
        starts = np.flatnonzero(np.diff(pair_of, prepend=-1))
        return Pairs(self.queries, self.route_ids, starts, pair_of, self.slots[chosen])

    def approximate(self, rows: ScoringRows, queries: Float32s) -> Float32s:
        """Compare the utterances with their queries in float32, without a scan."""
        values = np.empty(len(self.slots), np.float32)
        for start in range(0, len(values), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            vectors = rows.vectors_of(self.slots[part])
            asked = queries[self.queries[self.pair_of[part]]]
            np.einsum("ij,ij->i", vectors, asked, out=values[part])
        return values

    def exact(self, rows: ScoringRows, queries: Float32s) -> Float64s:
        """Compare the utterances with their queries exactly."""
        values = np.empty(len(self.slots))
        for start in range(0, len(values), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            asked = queries[self.queries[self.pair_of[part]]]
            values[part] = dots(rows.vectors_of(self.slots[part]), asked)
        return values

    def kth_largest(self, values: Float32s, k: int) -> Float32s:
        """The k-th largest value of each pair, the smallest where it has fewer."""
        if k == 1:
            return np.maximum.reduceat(values, self.starts) if len(values) else values
        ranked = values[np.lexsort((-values, self.pair_of))]
        return ranked[self.starts + np.minimum(k, self._lengths()) - 1]

    def mean_of_largest(self, values: Float64s, k: int) -> Float64s:
        """The mean of each pair's k largest values, of all where it has fewer.

        Added from the largest down, so that it depends on the values alone.
        """
        ranked = np.append(values[np.lexsort((-values, self.pair_of))], 0.0)
        counts = np.minimum(k, self._lengths())
        total = np.zeros(len(counts))
        for place in range(int(counts.max(initial=0))):
            has_place = place < counts
            total += np.where(has_place, ranked[np.where(has_place, self.starts + place, -1)], 0.0)
        return total / counts

    def best_utterances(self, values: Float64s) -> tuple[Numbers, Float64s]:
        """The slot of each pair's largest value, the lowest of equals, and the value."""
        if len(values) == 0:
            return self.slots, values
        largest = np.maximum.reduceat(values, self.starts)
        indexes = np.flatnonzero(values == largest[self.pair_of])
        first = indexes[np.flatnonzero(np.diff(self.pair_of[indexes], prepend=-1))]
        return self.slots[first], largest

    def _lengths(self) -> Indexes:
        return np.diff(self.starts, append=len(self.slots))
