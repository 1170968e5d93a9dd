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
from itertools import accumulate
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.cascade.lda_projection import LdaProjection, rounded
from synaptoroute.cascade.static_confidence import StaticLevels
from synaptoroute.core.change import Change, RouteRecord
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.core.rows import RowKind, kind_of
from synaptoroute.decision.probability import Levels, confidences
from synaptoroute.encoder.static_table import StaticTable
from synaptoroute.scoring.rule import FALLBACK_THRESHOLD
from synaptoroute.scoring.values import Ranking, RouteScore
from synaptoroute.serving.query import FirstStageResult
from synaptoroute.tensor.tensor import first_exact
from synaptoroute.tensor.text_index import TextIndex, text_keys

Int8s: TypeAlias = NDArray[np.int8]
Float32s: TypeAlias = NDArray[np.float32]
Float64s: TypeAlias = NDArray[np.float64]

SHORTLIST_ROUTES: Final = 6
SHORTLIST_ROWS_MAX: Final = 4_096
"""With more utterances on the shortlist the encoder answers: they would block the caller."""
_QUERIES_A_BLOCK: Final = 10
_TERMS_A_PRODUCT_MAX: Final = 262_144
"""OpenBLAS splits larger products among threads, and the caller would wait for them."""
_ROUTES_MIN: Final = 2
_GROWTH: Final = 2


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
    """One route in slot order: embeddings, their projections, and the lengths of these."""

    record: RouteRecord
    rows: Int8s
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
        self._centroids: Float32s = np.zeros((0, projection.dim if projection else dim), np.float32)
        self._lengths: Float64s = np.zeros(0)
        self._lowest: Float64s = np.zeros(0)
        self._routes: dict[int, _Route] = {}
        self._names: dict[str, RouteRecord] = {}
        self._texts = TextIndex()
        self._owners: dict[int, int] = {}  # Route by slot, of the slots in the index

    def projected_by(
        self, projection: LdaProjection | None, settings: Settings, revision: Revision
    ) -> StaticRoutes:
        """Copy the routes, which must not change meanwhile, with another projection."""
        routes = StaticRoutes(self._dim, settings, revision, projection)
        routes.table = self.table
        kept = self._routes.values()
        routes.load([each.record for each in kept], [each.rows for each in kept])
        return routes

    def copy(self) -> StaticRoutes:
        """Copy the routes, which must not change meanwhile; queries may go on."""
        copied = StaticRoutes(self._dim, self.settings, self.revision, self.projection)
        copied.measured, copied.table = self.measured, self.table
        copied._centroids, copied._lengths = self._centroids.copy(), self._lengths.copy()
        copied._lowest = self._lowest.copy()
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
            text, [(self._routes[self._owners[slot]].record, slot) for slot in slots]
        )

    def rows_of(self, route_id: int) -> Int8s:
        """Embeddings of a route's utterances, int8[n, dim]."""
        return self._routes[route_id].rows

    # --- changes ---

    def load(self, records: Iterable[RouteRecord], rows: Iterable[Int8s]) -> None:
        """Add routes with the embeddings of their utterances."""
        for record, own in zip(records, rows, strict=True):
            self._put(record, own)
            self._texts.put(record.slots, text_keys(record.utterances))
            self._owners.update(dict.fromkeys(record.slots, record.route_id))

    def apply(self, change: Change, at: Revision, written: Mapping[int, Int8s]) -> None:
        """Apply one change; ``written`` holds the embeddings of its rows by slot."""
        rows = [each for each in change.writes if kind_of(each.owner) is RowKind.UTTERANCE]
        slots = [each.slot for each in rows]
        gone = (*change.freed, *{each.slot for each in change.writes}.difference(slots))
        self._texts.free(gone)
        for slot in gone:
            self._owners.pop(slot, None)
        self._texts.put(slots, text_keys([each.utterance for each in rows]))
        self._owners.update({each.slot: each.owner for each in rows})
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
        known = self._routes.get(record.route_id)
        former = {} if known is None else dict(zip(known.record.slots, known.rows, strict=True))
        rows = np.empty((len(record.slots), self._dim), np.int8)
        for row, slot in zip(rows, record.slots, strict=True):
            row[:] = written[slot] if slot in written else former[slot]
        return rows

    def _put(self, record: RouteRecord, rows: Int8s) -> None:
        self._reserve(record.route_id + 1)
        projected = rows if self.projection is None else self.projection.apply(rows)
        own = _Route(record, rows, projected, lengths_of(projected))
        self._routes[record.route_id] = own
        self._names[record.name] = record
        centroid = centroid_of(projected)
        self._centroids[record.route_id] = centroid
        self._lengths[record.route_id] = lengths_of(centroid[np.newaxis])[0]
        self._lowest[record.route_id] = 0.0

    def _drop(self, record: RouteRecord) -> None:
        del self._routes[record.route_id], self._names[record.name]
        self._centroids[record.route_id] = 0.0
        # An infinite length and a lowest score of minus infinity keep the free id off every
        # shortlist without a branch.
        self._lengths[record.route_id] = np.inf
        self._lowest[record.route_id] = -np.inf

    def _reserve(self, routes: int) -> None:
        missing = routes - len(self._lengths)
        if missing > 0:
            missing = max(missing, len(self._lengths) * (_GROWTH - 1))
            empty = np.zeros((missing, self._centroids.shape[1]), np.float32)
            self._centroids = np.concatenate([self._centroids, empty])
            self._lengths = np.concatenate([self._lengths, np.full(missing, np.inf)])
            self._lowest = np.concatenate([self._lowest, np.full(missing, -np.inf)])

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
        shortlists = self._shortlists(embeddings)
        return [
            self._decide(shortlist, guard, limit, numbers, levels)
            for shortlist, limit in zip(shortlists, limits, strict=True)
        ]

    def _decide(
        self,
        shortlist: _Shortlist | None,
        guard: MarginGuard,
        limit: int,
        numbers: Levels | None,
        levels: StaticLevels | None,
    ) -> FirstStageResult:
        if shortlist is None or limit > SHORTLIST_ROUTES:
            return FirstStageResult(is_sure=False)
        *_, second, best = sorted(shortlist.scores)
        margin = best - second
        needed = guard.margin_at(best)
        # A tie is never sure, even if the guard needs no margin at this score.
        if margin <= 0.0 or margin < needed or best < guard.floor:
            return FirstStageResult(False, margin, needed)
        record = shortlist.routes[shortlist.scores.index(best)].record
        if record.negatives or (self.measured and record.revision > self.measured):
            # The encoder compares negatives.  A route that changed since was not measured.
            return FirstStageResult(False, margin, needed)
        confident = (
            self._by_threshold(shortlist, guard, record, numbers)
            if levels is None
            else self._by_confidence(shortlist, levels, record)
        )
        if confident is None:
            return FirstStageResult(False, margin, needed)
        shares, p_none = confident
        ranked = [
            self._scaled(each, guard, own, levels)
            for each, own in zip(
                self._ranked(shortlist, max(limit, _ROUTES_MIN)), shares, strict=False
            )
        ]
        ranking = Ranking(ranked[0], tuple(ranked[:limit]), ranked[1], len(self._routes), p_none)
        return FirstStageResult(True, margin, needed, ranking)

    def _by_threshold(
        self,
        shortlist: _Shortlist,
        guard: MarginGuard,
        record: RouteRecord,
        numbers: Levels | None,
    ) -> tuple[Sequence[float | None], float | None] | None:
        """Confidences on the scale of the encoder, and p(none); None if the route fails."""
        threshold = self.settings.threshold_of(record.threshold)
        least = self._confidence_min_of(record)
        if numbers is None and least and threshold == -math.inf:
            threshold = FALLBACK_THRESHOLD
        if guard.expected(max(shortlist.scores)) < threshold:
            return None
        if numbers is None:
            return (None,) * SHORTLIST_ROUTES, None
        scores = sorted(map(guard.expected, shortlist.scores), reverse=True)
        shares, p_none = confidences(scores, numbers, self.settings.expected_unmatched_share)
        return None if shares[0] < least else (shares, p_none)

    def _by_confidence(
        self, shortlist: _Shortlist, levels: StaticLevels, record: RouteRecord
    ) -> tuple[Sequence[float | None], float | None] | None:
        """Confidences by numbers of the static stage, and p(none); None if the route fails."""
        scores = sorted(shortlist.scores, reverse=True)
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
        return score._replace(
            score=expected if levels is not None else guard.expected(score.score),
            judged=None if levels is None else levels.least_blended(score.score),
            confidence=confidence,
            confidence_min=self._confidence_min_of(self._routes[score.route_id].record),
        )

    def route_scores(self, embedding: Int8s) -> Sequence[RouteScore]:
        """Score the shortlist, highest first; ties by slot."""
        (shortlist,) = self._shortlists(embedding[np.newaxis])
        return () if shortlist is None else self._ranked(shortlist, len(shortlist.routes))

    def _shortlists(self, embeddings: Int8s) -> list[_Shortlist | None]:
        """Score the shortlist of each query; None if it is too small or too large."""
        if len(self._routes) < _ROUTES_MIN:
            return [None] * len(embeddings)
        found: list[_Shortlist | None] = []
        # Small blocks: OpenBLAS starts threads for larger products, and results are the same.
        block = max(1, min(_QUERIES_A_BLOCK, _TERMS_A_PRODUCT_MAX // self._centroids.size))
        for start in range(0, len(embeddings), block):
            rows = embeddings[start : start + block]
            rows = rows if self.projection is None else self.projection.apply(rows)
            queries, lengths = rows.astype(np.float32), lengths_of(rows)
            centred = (queries @ self._centroids.T) / self._lengths
            near = nearest_routes(centred + self._lowest)
            found += [
                self._compare(query, float(length), own, chosen.nonzero()[0])
                for query, length, own, chosen in zip(queries, lengths, centred, near, strict=True)
            ]
        return found

    def _compare(
        self, query: Float32s, length: float, centred: Float64s, chosen: NDArray[np.int64]
    ) -> _Shortlist | None:
        """Compare one query with the utterances of its shortlist."""
        routes = [self._routes[number] for number in chosen.tolist()]
        counts = [len(route.lengths) for route in routes]
        if length == math.inf or sum(counts) > SHORTLIST_ROWS_MAX:
            return None
        near = np.concatenate([route.projected for route in routes])
        # Kept as bytes, a quarter of the memory; whole numbers are the same in float32.
        similarities = near.astype(np.float32) @ query
        similarities = similarities / np.concatenate([route.lengths for route in routes])
        similarities /= length
        starts = list(accumulate(counts[:-1], initial=0))
        scores = (np.maximum.reduceat(similarities, starts) + centred[chosen] / length) / 2.0
        return _Shortlist(routes, scores.tolist(), similarities, starts)

    def _ranked(self, shortlist: _Shortlist, count: int) -> list[RouteScore]:
        scores = shortlist.scores
        order = sorted(range(len(scores)), key=lambda number: -scores[number])
        ranked = [self._score(shortlist, number) for number in order[:count]]
        ranked.sort(key=lambda score: (-score.score, score.slot))
        return ranked

    def _score(self, shortlist: _Shortlist, number: int) -> RouteScore:
        record = shortlist.routes[number].record
        start = shortlist.starts[number]
        at = int(shortlist.similarities[start : start + len(record.slots)].argmax())
        threshold = self.settings.threshold_of(record.threshold)
        return RouteScore(
            record.route_id,
            shortlist.scores[number],
            threshold,
            record.slots[at],
            float(shortlist.similarities[start + at]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Shortlist:
    """The shortlist of one query: score per route, similarity per row, first row per route."""

    routes: list[_Route]
    scores: list[float]
    similarities: Float64s
    starts: list[int]


def nearest_routes(centred: Float64s) -> NDArray[np.bool_]:
    """Choose the routes with the nearest centroids, and all that tie with the last of them.

    Args:
        centred: Similarity to each centroid, float64[..., routes]; minus infinity for
            an id without a route.
    """
    if centred.shape[-1] <= SHORTLIST_ROUTES:
        return centred > -np.inf
    least = np.partition(centred, -SHORTLIST_ROUTES, axis=-1)[..., -SHORTLIST_ROUTES]
    chosen: NDArray[np.bool_] = (centred >= least[..., np.newaxis]) & (centred > -np.inf)
    return chosen


def centroid_of(rows: Int8s) -> Float32s:
    """Sum the rows and round to their length: float32[dim] of integers."""
    centroid: Float32s = rounded(rows.sum(axis=0, dtype=np.int64)[np.newaxis])[0]
    return centroid


def lengths_of(rows: Int8s | Float32s) -> Float64s:
    """Lengths of rows of integers, float64[n]; infinite for a row of zeros."""
    whole = rows.astype(np.int64)
    squares = np.einsum("ij,ij->i", whole, whole)
    lengths: Float64s = np.sqrt(squares.astype(np.float64))
    return np.where(squares > 0, lengths, np.inf)
