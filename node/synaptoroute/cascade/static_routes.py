"""The routes in static embeddings: decides whether a query surely belongs to one of them.

Embeddings are projected first, by the projection that was fitted to the route set
(``lda_projection``).  Rows are int8, so a product of two is an integer below 2^24, which
float32 adds without error in any order: a decision is the same on every machine, alone or in
a batch.  Only the ``SHORTLIST_ROUTES`` routes with the nearest centroids are compared, as by
``blend``, so the cost of a query does not depend on the number of utterances.

The first stage only ever says *yes*: the best route must lead the next one by the guard
margin, reach the floor, and pass as the encoder is expected to judge it: its score reaches the
route's threshold, its confidence the route's least confidence.  The encoder answers all else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.cascade.lda_projection import LdaProjection, rounded
from synaptoroute.cascade.shortlists import (
    SHORTLIST_ROUTES,
    RouteCentroids,
    Shortlists,
    lengths_of,
    product,
    shortlist_of,
    shortlists_of,
)
from synaptoroute.cascade.static_confidence import StaticLevels
from synaptoroute.core.change import Change, RouteRecord
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.core.rows import RowKind, kind_of
from synaptoroute.decision.probability import Levels, confidences
from synaptoroute.encoder.static_table import StaticTable, rounded_row
from synaptoroute.memory import zeroed_array
from synaptoroute.scoring.rule import FALLBACK_THRESHOLD
from synaptoroute.scoring.values import Ranking, RouteScore
from synaptoroute.serving.query import FirstStageResult
from synaptoroute.tensor.tensor import first_exact
from synaptoroute.tensor.text_index import TextIndex, text_keys

Int8s: TypeAlias = NDArray[np.int8]
Float32s: TypeAlias = NDArray[np.float32]
Float64s: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int32]

SHORTLIST_ROWS_MAX: Final = 4_096
"""With more utterances on the shortlist the encoder answers: they would block the caller."""
NEAR_ROWS_MAX: Final = 8_192
"""Rows of a set that are kept as float32 as well, 384 bytes each, once they were compared."""
_ROUTES_MIN: Final = 2


@dataclass(frozen=True, slots=True)
class MarginGuard:
    """The conditions under which an answer is sure; measured by ``calibration``.

    Attributes:
        margin: Required lead over the next route at a score of zero.
        slope: Reduction of the required lead per unit of score.
        floor: Lowest score.
        scale: The expected score of the encoder is ``offset + scale * score``.
        offset: See ``scale``.
    """

    margin: float
    slope: float
    floor: float
    scale: float
    offset: float

    def margin_at(self, score: float) -> float:
        """Required lead at a score, never negative."""
        return max(0.0, self.margin - self.slope * score)

    def expected(self, score: float) -> float:
        return min(1.0, max(-1.0, self.offset + self.scale * score))


@dataclass(frozen=True, slots=True, eq=False)
class _Route:
    """One route in slot order: projections of its embeddings, and the lengths of these."""

    record: RouteRecord
    projected: Int8s
    lengths: Float64s


class StaticRoutes:
    """Static embeddings of all utterances at one position; one thread at a time.

    Attributes:
        measured: Position up to which routes were measured: later ones are never sure.  None if
            that does not matter.
        table: What the embeddings were made with.
    """

    def __init__(
        self,
        dim: int,
        settings: Settings,
        revision: Revision,
        projection: LdaProjection | None = None,
    ) -> None:
        self.settings = settings
        self.revision = revision
        self._dim = dim
        self.projection = projection
        self.measured: Revision | None = None
        self.table: StaticTable | None = None
        self._projected_dim = projection.dim if projection else dim
        self._centroids = RouteCentroids(self._projected_dim)
        self._routes: dict[int, _Route] = {}
        self._rows_count = 0
        self._near: dict[int, Float32s] = {}  # Projections as float32, of some routes
        self._near_rows = 0
        self._names: dict[str, RouteRecord] = {}
        self._texts = TextIndex()
        self._owners: Numbers = np.zeros(0, np.int32)  # Route by slot, of the slots in the index

    def copy(self) -> StaticRoutes:
        """Copy the routes, which must not change meanwhile; queries may go on."""
        copied = StaticRoutes(self._dim, self.settings, self.revision, self.projection)
        copied.measured, copied.table = self.measured, self.table
        copied._centroids, copied._rows_count = self._centroids.copy(), self._rows_count
        copied._routes, copied._names = self._routes.copy(), self._names.copy()
        copied._texts, copied._owners = self._texts.copy(), self._owners.copy()
        return copied

    # --- what an answer is made of ---

    @property
    def routes(self) -> Mapping[str, RouteRecord]:
        return MappingProxyType(self._names)

    def record_of(self, route_id: int) -> RouteRecord:
        return self._routes[route_id].record

    def exact_match(self, text: str) -> tuple[int, int] | None:
        """Find the route and slot of a text; see ``Tensor.exact_match``."""
        slots = self._texts.find(text)
        if not slots:
            return None
        return first_exact(
            text, [(self._routes[self._owners.item(slot)].record, slot) for slot in slots]
        )

    # --- changes ---

    def load(self, records: Iterable[RouteRecord], rows: Iterable[Int8s]) -> None:
        """Add routes with the embeddings of their utterances, which are read one by one."""
        held = tuple(records)
        bounds = [0, *accumulate(len(record.slots) for record in held)]
        # One array: small ones would lie between what embedding leaves behind, and small products
        # would wait for OpenBLAS's threads.
        embedded = zeroed_array((bounds[-1], self._dim), np.int8)
        for own, (start, stop) in zip(rows, pairwise(bounds), strict=True):
            embedded[start:stop] = own
        projected = self._project(embedded)
        for record, (start, stop) in zip(held, pairwise(bounds), strict=True):
            self._put(record, projected[start:stop])
            self._texts.put(record.slots, text_keys(record.utterances))
            self._own(record.slots, record.route_id)

    def apply(self, change: Change, at: Revision, written: Mapping[int, Int8s]) -> None:
        """Apply one change; ``written`` holds the embeddings of its rows by slot."""
        rows = [each for each in change.writes if kind_of(each.owner) is RowKind.UTTERANCE]
        slots = [each.slot for each in rows]
        gone = (*change.freed, *{each.slot for each in change.writes}.difference(slots))
        self._texts.free(gone)
        self._texts.put(slots, text_keys([each.utterance for each in rows]))
        for each in rows:
            self._own((each.slot,), each.owner)
        for record in change.deleted:
            self._drop(record)
        for record in change.before:
            del self._names[record.name]
        for record in change.put:
            self._put(record, self._rows_after(record, written))
        if change.settings is not None:
            self.settings = change.settings
        self.revision = at

    def _rows_after(self, record: RouteRecord, written: Mapping[int, Int8s]) -> Int8s:
        """Projections of a route after a change; those of slots that stay are known."""
        known = self._routes.get(record.route_id)
        former = (
            {} if known is None else dict(zip(known.record.slots, known.projected, strict=True))
        )
        new = [slot for slot in record.slots if slot in written]
        if new:
            rows = self._project(np.stack([written[slot] for slot in new]))
            former |= zip(new, rows, strict=True)
        projected = np.empty((len(record.slots), self._projected_dim), np.int8)
        for row, slot in zip(projected, record.slots, strict=True):
            row[:] = former[slot]
        return projected

    def _project(self, rows: Int8s) -> Int8s:
        return rows if self.projection is None else self.projection.apply(rows)

    def _own(self, slots: Sequence[int], route_id: int) -> None:
        """Note the route of slots; it counts for those in the index of texts alone."""
        missing = max(slots, default=-1) + 1 - len(self._owners)
        if missing > 0:
            missing = max(missing, len(self._owners))
            self._owners = np.concatenate([self._owners, np.zeros(missing, np.int32)])
        self._owners[list(slots)] = route_id

    def _put(self, record: RouteRecord, projected: Int8s) -> None:
        self._forget(record.route_id)
        self._routes[record.route_id] = _Route(record, projected, lengths_of(projected))
        self._names[record.name] = record
        self._rows_count += len(projected)
        self._centroids.put(record.route_id, centroid_of(projected))

    def _drop(self, record: RouteRecord) -> None:
        self._forget(record.route_id)
        del self._routes[record.route_id], self._names[record.name]
        self._centroids.drop(record.route_id)

    def _forget(self, route_id: int) -> None:
        """Forget the rows of a route that changes or goes."""
        known = self._routes.get(route_id)
        if known is not None:
            self._rows_count -= len(known.projected)
        near = self._near.pop(route_id, None)
        if near is not None:
            self._near_rows -= len(near)

    # --- queries ---

    def evaluate(
        self,
        embeddings: Int8s,
        guard: MarginGuard,
        limits: Sequence[int],
        numbers: Levels | None = None,
        levels: StaticLevels | None = None,
    ) -> Sequence[FirstStageResult]:
        """Decide queries, each as if it were alone in the batch.

        Args:
            embeddings: int8[n, dim].
            limits: Candidates of each to list, at most ``SHORTLIST_ROUTES``.
            numbers: Behind the confidence of the encoder; None if none are known.
            levels: Behind that of static answers; None where thresholds alone decide.
        """
        found = self._shortlists(embeddings)
        results = []
        for query, (scores, limit) in enumerate(zip(found.ordered, limits, strict=True)):
            if limit > SHORTLIST_ROUTES or not found.is_listed(query):
                results.append(_UNLISTED)
                continue
            best = scores[0]
            margin, needed = best - scores[1], guard.margin_at(best)
            ranking = None
            # A tie is never sure, even if the guard needs no margin at this score.
            if 0.0 < margin >= needed and best >= guard.floor:
                ranking = self._decide(found, query, guard, limit, numbers, levels)
            results.append(FirstStageResult(ranking is not None, margin, needed, ranking))
        return results

    def _decide(
        self,
        shortlists: Shortlists,
        query: int,
        guard: MarginGuard,
        limit: int,
        numbers: Levels | None,
        levels: StaticLevels | None,
    ) -> Ranking | None:
        """Rank the routes of a query that has the margin; None if the encoder must answer."""
        pairs = shortlists.pairs_of(query)
        record = self._routes[shortlists.route_ids[pairs[0]]].record
        if record.negatives or (self.measured and record.revision > self.measured):
            # The encoder compares negatives.  A route that changed since was not measured.
            return None
        scores = shortlists.scores_of(query)
        confident = (
            self._by_threshold(scores, guard, record, numbers)
            if levels is None
            else self._by_confidence(scores, levels, record)
        )
        if confident is None:
            return None
        shares, p_none = confident
        found = self._ranked(shortlists, query, pairs[: max(limit, _ROUTES_MIN)])
        ranked = [
            self._scaled(each, guard, own, levels) for each, own in zip(found, shares, strict=False)
        ]
        return Ranking(ranked[0], tuple(ranked[:limit]), ranked[1], len(self._routes), p_none)

    def _by_threshold(
        self,
        scores: Sequence[float],
        guard: MarginGuard,
        record: RouteRecord,
        numbers: Levels | None,
    ) -> tuple[Sequence[float | None], float | None] | None:
        """Confidences on the scale of the encoder, and p(none); None if the route fails."""
        threshold = self.settings.threshold_of(record.threshold)
        least = self._confidence_min_of(record)
        if numbers is None and least and threshold == -math.inf:
            threshold = FALLBACK_THRESHOLD
        if guard.expected(scores[0]) < threshold:
            return None
        if numbers is None:
            return (None,) * SHORTLIST_ROUTES, None
        expected = sorted(map(guard.expected, scores), reverse=True)
        shares, p_none = confidences(expected, numbers, self.settings.expected_unmatched_share)
        return None if shares[0] < least else (shares, p_none)

    def _by_confidence(
        self, scores: Sequence[float], levels: StaticLevels, record: RouteRecord
    ) -> tuple[Sequence[float | None], float | None] | None:
        """Confidences by numbers of the static stage, and p(none); None if the route fails."""
        if levels.least_blended(scores[0]) < self.settings.threshold_of(record.threshold):
            return None
        least = self._confidence_min_of(record)
        measured = levels.measured(scores, self.settings.expected_unmatched_share)
        if measured[0][0] < least:
            return None  # the guard was measured without such queries
        shares, p_none = levels.sharpened(*measured)
        return None if shares[0] < least else (shares, p_none)

    def _confidence_min_of(self, record: RouteRecord) -> float:
        own = (
            self.settings.confidence_min if record.confidence_min is None else record.confidence_min
        )
        return own or 0.0

    def _scaled(
        self,
        score: RouteScore,
        guard: MarginGuard,
        confidence: float | None,
        levels: StaticLevels | None,
    ) -> RouteScore:
        """Express a score in the scale of the encoder."""
        # Unlike the others, an adaptive score may exceed 1.
        expected = guard.offset + guard.scale * score.score
        return RouteScore(
            score.route_id,
            expected if levels is not None else guard.expected(score.score),
            score.threshold,
            score.slot,
            score.similarity,
            None if levels is None else levels.least_blended(score.score),
            confidence,
            self._confidence_min_of(self._routes[score.route_id].record),
        )

    def route_scores(self, embedding: Int8s) -> Sequence[RouteScore]:
        """Score the shortlist, highest first; ties by slot."""
        shortlists = self._shortlists(embedding[np.newaxis])
        return self._ranked(shortlists, 0, shortlists.pairs_of(0))

    def _shortlists(self, embeddings: Int8s) -> Shortlists:
        """Score the shortlist of each query; it is empty if it is too small or too large."""
        queries = self._projected(embeddings)
        is_small = self._rows_count <= SHORTLIST_ROWS_MAX
        if len(queries) == 1 and is_small and len(self._routes) >= _ROUTES_MIN:
            query = queries[0]
            length = math.sqrt(float(query.dot(query)))
            if length > 0.0:
                centred, route_ids = self._centroids.nearest(query)
                return shortlist_of(route_ids, centred, query, length, self._rows_of(route_ids))
        lengths = lengths_of(queries)
        centred, chosen = self._centroids.near(queries)
        if len(self._routes) < _ROUTES_MIN:
            chosen[:] = False
        if np.inf in lengths.tolist():
            chosen[lengths == np.inf] = False
        if not is_small:
            self._leave_out_large(chosen)
        query_of, route_of = chosen.nonzero()
        rows = self._rows_of(route_of.tolist())
        return shortlists_of(query_of, route_of, centred, queries, lengths, rows)

    def _rows_of(self, route_ids: Iterable[int]) -> list[tuple[Float32s, Float64s]]:
        near, routes = self._near, self._routes
        return [
            (near[each] if each in near else self._near_of(each), routes[each].lengths)
            for each in route_ids
        ]

    def _projected(self, embeddings: Int8s) -> Float32s:
        rows = embeddings.astype(np.float32)
        if self.projection is None:
            return rows
        sums = product(rows, self.projection.factors32).astype(np.float64)
        if len(sums) == 1:
            return rounded_row(sums[0]).astype(np.float32)[np.newaxis]
        return rounded(sums)

    def _leave_out_large(self, chosen: NDArray[np.bool_]) -> None:
        """Empty the shortlists that have too many rows."""
        for own in chosen:
            ids = own.nonzero()[0].tolist()
            if sum(len(self._routes[each].lengths) for each in ids) > SHORTLIST_ROWS_MAX:
                own[:] = False

    def _near_of(self, route_id: int) -> Float32s:
        """Make the projections of a route's utterances float32[n, dim], and keep some."""
        # Kept as bytes, a quarter of the memory; whole numbers are the same in float32.
        near = self._routes[route_id].projected.astype(np.float32)
        if self._near_rows + len(near) <= NEAR_ROWS_MAX:
            self._near[route_id] = near
            self._near_rows += len(near)
        return near

    def _ranked(self, shortlists: Shortlists, query: int, pairs: Iterable[int]) -> list[RouteScore]:
        ranked = [self._score(shortlists, query, pair) for pair in pairs]
        ranked.sort(key=lambda score: (-score.score, score.slot))
        return ranked

    def _score(self, shortlists: Shortlists, query: int, pair: int) -> RouteScore:
        record = self._routes[shortlists.route_ids[pair]].record
        at, similarity = shortlists.nearest_row(query, pair)
        threshold = self.settings.threshold_of(record.threshold)
        return RouteScore(
            record.route_id, shortlists.scores[pair], threshold, record.slots[at], similarity
        )


_UNLISTED: Final = FirstStageResult(is_sure=False)


def centroid_of(rows: Int8s) -> Float32s:
    """Sum the rows and round to their length: float32[dim] of integers."""
    centroid: Float32s = rounded(rows.sum(axis=0, dtype=np.int64)[np.newaxis])[0]
    return centroid
