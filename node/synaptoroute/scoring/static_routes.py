"""The static stage: does a static embedding say for sure which route a query belongs to?

Rows are int8, so a product of two is an integer below 2^24, which float32 adds without
any error in whatever order: a decision is the same on every machine, alone or in any
company.  Routes are compared as by ``blend``, the ``SHORTLIST_ROUTES`` whose centroids
are nearest alone, so that a query costs the same however many utterances there are.

The stage only ever says *yes*: the best route must lead the next one by the guard
margin and reach the floor, and the encoder's score that is to be expected of it must
reach the route's threshold.  All else is the encoder's to answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Change, RouteRecord
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.scoring.values import Ranking, RouteScore

Int8s: TypeAlias = NDArray[np.int8]
Float32s: TypeAlias = NDArray[np.float32]
Float64s: TypeAlias = NDArray[np.float64]

SHORTLIST_ROUTES: Final = 6
SHORTLIST_ROWS_MAX: Final = 4_096
"""A shortlist with more utterances would hold up whoever asks; the encoder answers."""

STEPS: Final = 254
_ROUTES_MIN: Final = 2
_GROWTH: Final = 2


@dataclass(frozen=True, slots=True)
class Guard:
    """What makes a static answer sure; measured by ``calibration``.

    Attributes:
        margin: Lead over the next route that is needed at a score of zero.
        slope: What each unit of score takes off that.
        floor: Least score.
        scale: Encoder's score expected = ``offset + scale * score``.
        offset: See ``scale``.
    """

    margin: float
    slope: float
    floor: float
    scale: float
    offset: float

    def margin_at(self, score: float) -> float:
        """Lead that is needed at a score, never below zero."""
        return max(0.0, self.margin - self.slope * score)


@dataclass(frozen=True, slots=True)
class StaticLook:
    """What the static stage saw of one query.

    Attributes:
        is_sure: Whether it answers.
        margin: Lead of its best route; None without a second one.
        guard_margin: Lead that was needed.
        ranking: Its answer in the encoder's scale; None where it is not sure.
    """

    is_sure: bool
    margin: float | None = None
    guard_margin: float | None = None
    ranking: Ranking | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Route:
    """One route: its rows in slot order, and their lengths."""

    record: RouteRecord
    rows: Int8s
    lengths: Float64s


class StaticRoutes:
    """Static embeddings of all utterances at one position; one thread at a time."""

    def __init__(self, dim: int, settings: Settings, revision: Revision) -> None:
        self.settings = settings
        self.revision = revision
        self._dim = dim
        self._centroids: Float32s = np.zeros((0, dim), np.float32)
        self._lengths: Float64s = np.zeros(0)
        self._routes: dict[int, _Route] = {}
        self._names: dict[str, RouteRecord] = {}

    # --- what the making of an answer reads ---

    @property
    def routes(self) -> Mapping[str, RouteRecord]:
        """Routes by name, read-only."""
        return MappingProxyType(self._names)

    def record_of(self, route_id: int) -> RouteRecord:
        """The route with this number."""
        return self._routes[route_id].record

    def rows_of(self, route_id: int) -> Int8s:
        """Embeddings of a route's utterances, int8[n, dim]."""
        return self._routes[route_id].rows

    # --- how it changes ---

    def load(self, records: Iterable[RouteRecord], rows: Iterable[Int8s]) -> None:
        """Take in routes with the embeddings of their utterances."""
        for record, own in zip(records, rows, strict=True):
            self._put(record, own)

    def apply(self, change: Change, at: Revision, written: Mapping[int, Int8s]) -> None:
        """Follow one change.

        Args:
            change: As the table enacted it.
            at: Its place in the log.
            written: Embedding by slot of every row that the change writes.
        """
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
        self._routes[record.route_id] = _Route(record, rows, lengths_of(rows))
        self._names[record.name] = record
        centroid = centroid_of(rows)
        self._centroids[record.route_id] = centroid
        self._lengths[record.route_id] = lengths_of(centroid[np.newaxis])[0]

    def _drop(self, record: RouteRecord) -> None:
        del self._routes[record.route_id], self._names[record.name]
        self._centroids[record.route_id] = 0.0
        self._lengths[record.route_id] = np.inf

    def _reserve(self, routes: int) -> None:
        missing = routes - len(self._lengths)
        if missing > 0:
            missing = max(missing, len(self._lengths) * (_GROWTH - 1))
            empty = np.zeros((missing, self._dim), np.float32)
            self._centroids = np.concatenate([self._centroids, empty])
            self._lengths = np.concatenate([self._lengths, np.full(missing, np.inf)])

    # --- a query ---

    def look(self, embedding: Int8s, guard: Guard, limit: int) -> StaticLook:
        """Decide one query.

        Args:
            embedding: int8[dim].
            guard: What makes an answer sure.
            limit: Candidates to list, at most ``SHORTLIST_ROUTES``.
        """
        standing = self.standing(embedding)
        if len(standing) < _ROUTES_MIN or limit > SHORTLIST_ROUTES:
            return StaticLook(is_sure=False)
        best = standing[0]
        margin = best.score - standing[1].score
        needed = guard.margin_at(best.score)
        if margin < needed or best.score < guard.floor:
            return StaticLook(False, margin, needed)
        scaled = [_scaled(score, guard) for score in standing]
        if scaled[0].score < scaled[0].threshold:
            return StaticLook(False, margin, needed)
        ranking = Ranking(scaled[0], tuple(scaled[:limit]), scaled[1], len(self._routes))
        return StaticLook(True, margin, needed, ranking)

    def standing(self, embedding: Int8s) -> Sequence[RouteScore]:
        """Score the shortlist, highest first; of equals, that of the lowest slot."""
        if len(self._routes) < _ROUTES_MIN:
            return ()
        query = embedding.astype(np.float32)
        length = float(np.sqrt(np.float64(np.dot(query, query))))
        centred = (self._centroids @ query) / self._lengths
        centred /= length
        chosen = shortlist(centred, self._lengths).nonzero()[0].tolist()
        if sum(len(self._routes[number].lengths) for number in chosen) > SHORTLIST_ROWS_MAX:
            return ()
        scores = [self._score(number, query, length, float(centred[number])) for number in chosen]
        scores.sort(key=lambda score: (-score.score, score.slot))
        return scores

    def _score(self, route_id: int, query: Float32s, length: float, centred: float) -> RouteScore:
        route = self._routes[route_id]
        similarities = (route.rows.astype(np.float32) @ query) / route.lengths
        at = int(similarities.argmax())
        similarity = float(similarities[at]) / length
        own = route.record.threshold
        threshold = self.settings.threshold if own is None else own
        score = (similarity + centred) / 2.0
        return RouteScore(route_id, score, threshold, route.record.slots[at], similarity)


def shortlist(centred: Float64s, lengths: Float64s) -> NDArray[np.bool_]:
    """Choose the routes whose centroids are nearest, and all that tie with the last of them.

    Args:
        centred: Similarity to each centroid, float64[..., routes].
        lengths: Length of each centroid; infinite for a number without a route.
    """
    live = np.isfinite(lengths)
    open_to = np.where(live, centred, -np.inf)
    if np.count_nonzero(live) <= SHORTLIST_ROUTES:
        return np.broadcast_to(live, open_to.shape)
    least = np.partition(open_to, -SHORTLIST_ROUTES, axis=-1)[..., -SHORTLIST_ROUTES]
    chosen: NDArray[np.bool_] = open_to >= least[..., np.newaxis]
    return chosen


def centroid_of(rows: Int8s) -> Float32s:
    """Give the direction of the rows' sum, rounded as they are: float32[dim] of integers."""
    centroid: Float32s = rounded_sums(rows.sum(axis=0, dtype=np.int64)[np.newaxis])[0]
    return centroid


def rounded_sums(sums: NDArray[np.int64]) -> Float32s:
    """Make int64[n, dim] one length and round it: float32[n, dim] of integers."""
    squares = np.einsum("ij,ij->i", sums, sums)
    steps = sums * (STEPS / np.sqrt(np.maximum(squares, 1).astype(np.float64)))[:, np.newaxis]
    rounded: Float32s = np.clip(np.rint(steps), -127.0, 127.0).astype(np.float32)
    return rounded


def lengths_of(rows: Int8s | Float32s) -> Float64s:
    """Lengths of rows of integers, float64[n]; infinite where a row is zero."""
    whole = rows.astype(np.int64)
    squares = np.einsum("ij,ij->i", whole, whole)
    lengths: Float64s = np.sqrt(squares.astype(np.float64))
    return np.where(squares > 0, lengths, np.inf)


def _scaled(score: RouteScore, guard: Guard) -> RouteScore:
    """Say a score as the encoder would."""
    value = min(1.0, max(-1.0, guard.offset + guard.scale * score.score))
    return RouteScore(score.route_id, value, score.threshold, score.slot, score.similarity)
