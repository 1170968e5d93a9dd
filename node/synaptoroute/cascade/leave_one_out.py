"""Leave-one-out evaluation: how both stages would answer each utterance as a query.

*Leave one out* removes the utterance from its route, so the right answer is known and the
utterance itself is not there.  *Leave the route out* removes its whole route, so the right
answer is none.  These stand for out-of-scope queries, and are harder than most of them: the
utterance may be close to a similar route.

The projection is fitted ``FOLDS`` times, to the utterances (or routes) of the other folds: it
would separate what it was fitted to too well.

Where the confidence decides, ``encoder_decisions`` evaluates the encoder instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from synaptoroute.cascade.lda_projection import fit_projection, rounded
from synaptoroute.cascade.shortlists import SHORTLIST_ROUTES, lengths_of, nearest_routes
from synaptoroute.core.mutation import Aggregation
from synaptoroute.decision import DecisionCalibration

Int8s: TypeAlias = NDArray[np.int8]
Float32s: TypeAlias = NDArray[np.float32]
Float64s: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

ScalarT = TypeVar("ScalarT", bound=np.generic)

OFFERED: Final[tuple[Aggregation, ...]] = ("blend", "max", "mean", "centroid")
FOLDS: Final = 4
_CELLS_A_BLOCK: Final = 1 << 22
_ROWS_A_BLOCK: Final = 4_096


@dataclass(frozen=True, slots=True)
class ConfidenceRule:
    """Rule of confidences, beside thresholds, at one position.

    Attributes:
        numbers: Those behind the confidence of the encoder.
        confidence_mins: Effective least confidence of each route, float64[routes]; 0 for none.
        unmatched_share: Expected share of queries that belong to no route.
        has_negatives: Whether a route has negatives, bool[routes].
        descriptions: Vectors of descriptions, float32[m, dim].
        described: Route of each description, int64[m].
    """

    numbers: DecisionCalibration
    confidence_mins: Float64s
    unmatched_share: float
    has_negatives: Mask
    descriptions: Float32s
    described: Numbers


@dataclass(frozen=True, slots=True)
class Utterances:
    """A route set in the embeddings of both stages, in order of route.

    Attributes:
        vectors: Embeddings of the encoder, float32[n, dim], unit rows.
        static_rows: Static embeddings, int8[n, static dim].
        owners: Route of each row, int64[n], ascending from 0 without gaps.
        thresholds: Effective threshold of each route, float64[routes]; minus infinity for none.
        rule: None where thresholds alone decide.
    """

    vectors: Float32s
    static_rows: Int8s
    owners: Numbers
    thresholds: Float64s
    aggregation: Aggregation
    rule: ConfidenceRule | None = None

    @property
    def starts(self) -> Numbers:
        return np.searchsorted(self.owners, np.arange(len(self.thresholds)))

    @property
    def counts(self) -> Numbers:
        return np.bincount(self.owners, minlength=len(self.thresholds))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results of both stages for n utterances.

    Attributes:
        answers: Best route of the first stage, int64[n].
        scores: Its score, float64[n].
        margins: Its lead over the next one, float64[n].
        encoders: Answer of the encoder, int64[n]; -1 for none.
        expected: Score of the encoder for the route of ``answers``, float64[n].
        owners: The utterance's own route, int64[n].
        rows: The utterance, int64[n].
        listed: Scores on the shortlist of the first stage, float64[n, routes listed], highest
            first; minus infinity for an empty place.
        places: Place of the own route among these, int64[n]; -1 if it is not listed.
    """

    answers: Numbers
    scores: Float64s
    margins: Float64s
    encoders: Numbers
    expected: Float64s
    owners: Numbers
    rows: Numbers
    listed: Float64s
    places: Numbers


def leave_one_out(given: Utterances, chosen: Numbers) -> tuple[Evaluation, Evaluation]:
    """Evaluate utterances without themselves and without their routes; needs three routes."""
    places = np.arange(len(given.owners)) - given.starts[given.owners]
    in_scope = _evaluate_folds(given, chosen, places % FOLDS, is_route_left_out=False)
    return in_scope, _evaluate_folds(given, chosen, given.owners % FOLDS, is_route_left_out=True)


def _evaluate_folds(
    given: Utterances, chosen: Numbers, folds: Numbers, *, is_route_left_out: bool
) -> Evaluation:
    """Evaluate each fold by a projection that was fitted to the other folds."""
    found = []
    for fold in range(FOLDS):
        own, others = chosen[folds[chosen] == fold], folds != fold
        if len(own):
            projection = fit_projection(given.static_rows[others], given.owners[others])
            found.append(
                evaluate(
                    given,
                    projection.apply(given.static_rows),
                    own,
                    is_route_left_out=is_route_left_out,
                )
            )
    return _joined(found)


def evaluate(
    given: Utterances, rows: Int8s, chosen: Numbers, *, is_route_left_out: bool
) -> Evaluation:
    """Evaluate chosen utterances by static rows.

    Args:
        given: At least two routes; three with ``is_route_left_out``.
        rows: Projected static embeddings, int8[n, any].
        chosen: Rows of routes that have others.
        is_route_left_out: Leave out the whole route, not only the utterance.
    """
    found: list[Evaluation] = []
    first = _FirstStage(given, rows)
    # Where the confidence decides, the encoder is evaluated apart, for all of them at once.
    vector_sums = sums_of(given.vectors, given, np.float64) if given.rule is None else None
    for part in blocks(chosen, len(given.owners)):
        static = first.scores(part)
        scores = None if vector_sums is None else encoder_scores(given, part, vector_sums)
        found.append(_compare(given, static, scores, part, is_route_left_out=is_route_left_out))
    return _joined(found)


def blocks(chosen: Numbers, width: int) -> Iterator[Numbers]:
    step = max(1, _CELLS_A_BLOCK // max(1, width))
    for start in range(0, len(chosen), step):
        yield chosen[start : start + step]


def sums_of(rows: NDArray[np.generic], given: Utterances, dtype: type[ScalarT]) -> NDArray[ScalarT]:
    """Add up the rows of each route, in a wider type without a copy of all rows."""
    starts, total = given.starts, len(rows)
    sums = np.empty((len(starts), rows.shape[1]), dtype)
    # Of the routes that begin in a block; the rows of the last one may lie behind its end.
    bounds = np.searchsorted(starts, np.arange(0, total, _ROWS_A_BLOCK)).tolist()
    for first, last in zip(bounds, [*bounds[1:], len(starts)], strict=True):
        if first < last:
            begin, end = starts[first], starts[last] if last < len(starts) else total
            wide = rows[begin:end].astype(dtype)
            np.add.reduceat(wide, starts[first:last] - begin, axis=0, out=sums[first:last])
    return sums


def _largest(similarities: Float64s, part: Numbers, given: Utterances) -> Float64s:
    """Largest similarity to each route, leaving out the row itself."""
    similarities[np.arange(len(part)), part] = -np.inf
    largest: Float64s = np.maximum.reduceat(similarities, given.starts, axis=1)
    return largest


class _FirstStage:
    """Static rows of a route set, ready for any of them as queries."""

    def __init__(self, given: Utterances, rows: Int8s) -> None:
        self._given, self._rows = given, rows
        self._lengths = np.concatenate(
            [lengths_of(rows[at : at + _ROWS_A_BLOCK]) for at in range(0, len(rows), _ROWS_A_BLOCK)]
        )
        self._columns = rows.T.astype(np.float32)
        self._sums = sums_of(rows, given, np.int64)
        self._centroids = rounded(self._sums)

    def scores(self, part: Numbers) -> tuple[Float64s, Float64s]:
        """Scores of the first stage and similarities to centroids, both float64[n, routes]."""
        given, centroids = self._given, self._centroids
        rows = self._rows[part]
        queries, lengths = rows.astype(np.float32), self._lengths[part][:, np.newaxis]
        similarities = (queries @ self._columns).astype(np.float64)
        similarities /= self._lengths
        similarities /= lengths
        centred = (queries @ centroids.T).astype(np.float64)
        centred /= lengths_of(centroids)
        own = given.owners[part]
        # The own centroid is computed without the utterance, and rounded like all others.
        left = rounded(self._sums[own] - rows)
        alone = np.einsum("ij,ij->i", queries, left, dtype=np.float64) / lengths_of(left)
        centred[np.arange(len(part)), own] = alone
        centred /= lengths
        return (_largest(similarities, part, given) + centred) / 2.0, centred


def encoder_scores(given: Utterances, part: Numbers, everything: Float64s) -> Float64s:
    """Scores of the encoder, float64[n, routes]; ``everything`` has the sum of each route."""
    queries = given.vectors[part]
    own, every = given.owners[part], np.arange(len(part))
    inner = queries @ everything.T
    rest = everything[own] - queries
    inner[every, own] = np.einsum("ij,ij->i", rest, queries)
    if given.aggregation == "mean":
        counts = np.repeat(given.counts[np.newaxis].astype(np.float64), len(part), axis=0)
        counts[every, own] -= 1.0
        return np.asarray(inner / counts)
    # As for the mean: only the own route is computed without the utterance.
    norms = np.repeat(np.linalg.norm(everything, axis=1)[np.newaxis], len(part), axis=0)
    norms[every, own] = np.linalg.norm(rest, axis=1)
    centred: Float64s = inner / np.maximum(norms, 1e-12)
    if given.aggregation == "centroid":
        return centred
    largest = _largest((queries @ given.vectors.T).astype(np.float64), part, given)
    return largest if given.aggregation == "max" else (largest + centred) / 2.0


def _compare(
    given: Utterances,
    static: tuple[Float64s, Float64s],
    scores: Float64s | None,
    part: Numbers,
    *,
    is_route_left_out: bool,
) -> Evaluation:
    """Derive the answers of both stages from their scores; -1 for the encoder without scores."""
    blended, centred = static
    own, every = given.owners[part], np.arange(len(part))
    if is_route_left_out:
        centred = centred.copy()
        centred[every, own] = -np.inf
    near = nearest_routes(centred)
    listed = np.where(near, blended, -np.inf)
    best = listed.argmax(axis=1)
    kept = min(SHORTLIST_ROUTES, listed.shape[1])
    order = np.argsort(-listed, axis=1, kind="stable")[:, :kept]
    ordered = np.take_along_axis(listed, order, 1)
    is_own = (order == own[:, np.newaxis]) & (ordered > -np.inf)
    encoders, expected = np.full(len(part), -1), np.full(len(part), np.nan)
    if scores is not None:
        if is_route_left_out:
            scores = scores.copy()
            scores[every, own] = -np.inf
        # The encoder answers the best route among those that reach their threshold.
        passing = np.where(scores >= given.thresholds, scores, -np.inf)
        winners = passing.argmax(axis=1)
        encoders = np.where(passing[every, winners] > -np.inf, winners, -1)
        expected = scores[every, best]
    return Evaluation(
        answers=best,
        scores=listed[every, best],
        margins=ordered[:, 0] - ordered[:, 1],
        encoders=encoders,
        expected=expected,
        owners=own,
        rows=part,
        listed=ordered,
        places=np.where(is_own.any(axis=1), is_own.argmax(axis=1), -1),
    )


def _joined(parts: list[Evaluation]) -> Evaluation:
    names = Evaluation.__slots__
    return Evaluation(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
