"""How both stages would judge each utterance, were it a query and not there.

*Leave one out*: the utterance is taken from its route, so the right answer is known and
is not in front of it.  *Leave the route out*: its whole route is taken away, so the right
answer is none; these stand for queries that no route is meant for, and are harder than
most of those, for the utterance may lie near to a sister route.
The turn is fitted ``FOLDS`` times to the rest: without a share of the utterances for those,
without a share of the routes for these; what it was fitted to it would part too well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.cascade.lda_projection import fit_turn, rounded
from synaptoroute.cascade.static_routes import lengths_of, shortlist
from synaptoroute.core.mutation import Aggregation

Int8s: TypeAlias = NDArray[np.int8]
Float32s: TypeAlias = NDArray[np.float32]
Float64s: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

OFFERED: Final[tuple[Aggregation, ...]] = ("blend", "max", "mean", "centroid")
FOLDS: Final = 4
_CELLS_A_BLOCK: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Utterances:
    """A route set in the vectors of both stages, in order of route.

    Attributes:
        vectors: Of the encoder, float32[n, dim], unit rows.
        static_rows: Static embeddings, int8[n, static dim].
        owners: Route of each row, int64[n], ascending from 0 without gaps.
        thresholds: Effective threshold of each route, float64[routes].
        aggregation: By which the encoder's scores are made.
    """

    vectors: Float32s
    static_rows: Int8s
    owners: Numbers
    thresholds: Float64s
    aggregation: Aggregation

    @property
    def starts(self) -> Numbers:
        """First row of each route."""
        return np.searchsorted(self.owners, np.arange(len(self.thresholds)))

    @property
    def counts(self) -> Numbers:
        """Rows of each route."""
        return np.bincount(self.owners, minlength=len(self.thresholds))


@dataclass(frozen=True, slots=True)
class Judged:
    """Verdicts on n utterances.

    Attributes:
        answers: Best route of the static stage, int64[n].
        scores: Its score, float64[n].
        margins: Its lead over the next one, float64[n].
        encoders: Route that the encoder answers, int64[n]; -1 for none.
        expected: What the encoder gives the route of ``answers``, float64[n].
        owners: The utterance's own route, int64[n].
    """

    answers: Numbers
    scores: Float64s
    margins: Float64s
    encoders: Numbers
    expected: Float64s
    owners: Numbers


def leave_one_out(given: Utterances, chosen: Numbers) -> tuple[Judged, Judged]:
    """Judge chosen utterances without themselves, and without their routes.

    Args:
        given: At least three routes.
        chosen: Rows of routes that have others.
    """
    places = np.arange(len(given.owners)) - given.starts[given.owners]
    ones = _judge_folds(given, chosen, places % FOLDS, is_stray=False)
    return ones, _judge_folds(given, chosen, given.owners % FOLDS, is_stray=True)


def _judge_folds(given: Utterances, chosen: Numbers, folds: Numbers, *, is_stray: bool) -> Judged:
    """Judge each fold by a turn that knows the other folds alone."""
    found = []
    for fold in range(FOLDS):
        own, others = chosen[folds[chosen] == fold], folds != fold
        if len(own):
            turn = fit_turn(given.static_rows[others], given.owners[others])
            found.append(judge(given, turn.apply(given.static_rows), own, is_stray=is_stray))
    return _joined(found)


def judge(given: Utterances, rows: Int8s, chosen: Numbers, *, is_stray: bool) -> Judged:
    """Judge chosen utterances by static rows.

    Args:
        given: At least two routes; three for strays.
        rows: What the static stage compares, int8[n, any].
        chosen: Rows of routes that have others.
        is_stray: Leave out their routes; else themselves.
    """
    found: list[Judged] = []
    sums = _sums(rows.astype(np.int64), given)
    vector_sums = _sums(given.vectors.astype(np.float64), given)
    for part in _blocks(chosen, len(given.owners)):
        static = _static_scores(given, rows, part, sums)
        scores = _encoder_scores(given, part, vector_sums)
        found.append(_judge(given, static, scores, given.owners[part], is_stray=is_stray))
    return _joined(found)


def _blocks(chosen: Numbers, width: int) -> Iterator[Numbers]:
    step = max(1, _CELLS_A_BLOCK // max(1, width))
    for start in range(0, len(chosen), step):
        yield chosen[start : start + step]


def _sums(rows: NDArray[np.generic], given: Utterances) -> NDArray[np.generic]:
    return np.add.reduceat(rows, given.starts, axis=0)


def _largest(similarities: Float64s, part: Numbers, given: Utterances) -> Float64s:
    """Largest similarity to each route but to the row itself."""
    similarities[np.arange(len(part)), part] = -np.inf
    largest: Float64s = np.maximum.reduceat(similarities, given.starts, axis=1)
    return largest


def _static_scores(
    given: Utterances, rows: Int8s, part: Numbers, sums: NDArray[np.generic]
) -> tuple[Float64s, Float64s]:
    """``blend`` of the static stage and the similarities to centroids, float64[n, routes]."""
    queries = rows[part].astype(np.float32)
    lengths = lengths_of(rows[part])[:, np.newaxis]
    similarities = (queries @ rows.T.astype(np.float32)).astype(np.float64)
    similarities /= lengths_of(rows)
    similarities /= lengths
    whole = np.asarray(sums, np.int64)
    centroids = rounded(whole)
    centred = (queries @ centroids.T).astype(np.float64)
    centred /= lengths_of(centroids)
    own = given.owners[part]
    left = rounded(whole[own] - rows[part])
    alone = np.einsum("ij,ij->i", queries, left, dtype=np.float64) / lengths_of(left)
    centred[np.arange(len(part)), own] = alone
    centred /= lengths
    return (_largest(similarities, part, given) + centred) / 2.0, centred


def _encoder_scores(given: Utterances, part: Numbers, sums: NDArray[np.generic]) -> Float64s:
    """Scores by the encoder's vectors, float64[n, routes]."""
    queries = given.vectors[part]
    everything = np.asarray(sums, np.float64)
    own, every = given.owners[part], np.arange(len(part))
    inner = queries @ everything.T
    rest = everything[own] - queries
    inner[every, own] = np.einsum("ij,ij->i", rest, queries)
    if given.aggregation == "mean":
        counts = np.repeat(given.counts[np.newaxis].astype(np.float64), len(part), axis=0)
        counts[every, own] -= 1.0
        return np.asarray(inner / counts)
    norms = np.repeat(np.linalg.norm(everything, axis=1)[np.newaxis], len(part), axis=0)
    norms[every, own] = np.linalg.norm(rest, axis=1)
    centred: Float64s = inner / np.maximum(norms, 1e-12)
    if given.aggregation == "centroid":
        return centred
    largest = _largest((queries @ given.vectors.T).astype(np.float64), part, given)
    return largest if given.aggregation == "max" else (largest + centred) / 2.0


def _judge(
    given: Utterances,
    static: tuple[Float64s, Float64s],
    scores: Float64s,
    own: Numbers,
    *,
    is_stray: bool,
) -> Judged:
    """Read both stages' verdicts off their scores."""
    blended, centred = static
    every = np.arange(len(own))
    if is_stray:
        centred, scores = centred.copy(), scores.copy()
        centred[every, own] = -np.inf
        scores[every, own] = -np.inf
    near = shortlist(centred)
    listed = np.where(near, blended, -np.inf)
    best = listed.argmax(axis=1)
    top = np.partition(listed, -2, axis=1)[:, -2:]
    passing = np.where(scores >= given.thresholds, scores, -np.inf)
    winners = passing.argmax(axis=1)
    return Judged(
        answers=best,
        scores=listed[every, best],
        margins=top[:, 1] - top[:, 0],
        encoders=np.where(passing[every, winners] > -np.inf, winners, -1),
        expected=scores[every, best],
        owners=own,
    )


def _joined(parts: list[Judged]) -> Judged:
    names = Judged.__slots__
    return Judged(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
