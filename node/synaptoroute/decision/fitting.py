"""The fit: judges a route set on itself, and measures the numbers of a decision.

The utterances of a route are dealt to folds.  Each fold is judged by the others, metric
included, as if its utterances were queries; every route loses alike, so none is favoured.
At most ``JUDGED_MAX`` utterances are judged.

* The weights of the terms and the temperature minimise the log loss, with a prior: a set of
  few utterances keeps the default weights.  Some labels may be wrong, so the loss assumes a
  share of them that is random, which is chosen by likelihood.
* *Inside* are the levels of the judged utterances.  *Outside* are those levels with the
  utterance's own route and its nearest neighbours taken away: look-alikes are not what
  foreign queries look like.
* Routes of wide content have lower levels.  ``cohesion_slope`` says how much lower.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.decision.calibration import (
    CURVE_POINTS_MAX,
    CurvePoint,
    DecisionCalibration,
    Kind,
)
from synaptoroute.decision.many_confidences import many_confidences
from synaptoroute.decision.metric import (
    Float32s,
    Float64s,
    Numbers,
    ScoreWeights,
    dense_metric,
    fit_metric,
    square_of,
    within_covariance,
)
from synaptoroute.decision.probability import BEST_ROUTES
from synaptoroute.threads import single_blas_thread

Mask: TypeAlias = NDArray[np.bool_]

JUDGED_MAX: Final = 600
JUDGED_MIN: Final = 20
ROUTES_MIN: Final = 3
FITTED_ROWS_MAX: Final = 65_536
"""Of a larger set, evenly spread routes are fitted."""
ADAPTIVE_UTTERANCES_MIN: Final = 2.0
"""Mean count below which a set has no covariance to speak of."""
FOLDS: Final = 10
UNMATCHED_SHARE: Final = 0.1

_WEIGHTS_UTTERANCES_MIN: Final = 3.0
_HIDDEN_SHARE: Final = 0.02
_HIDDEN_MAX: Final = 40
_LISTED: Final = 64
"""Routes that are kept of each judgement, the own one included."""
_TEMPERATURE: Final = 20.0
_EVIDENCE: Final = 16.0
"""Weight of the prior, in judgements."""
_PRIOR_SPREAD: Final = (0.28, 0.8, 0.8, 0.5, 0.3)
_SLOPE_KEPT: Final = 0.7
"""Share of the measured slope that is used: more lets foreign queries into wide routes."""
_SPREAD_KEPT: Final = 0.9
"""Share of the deviation inside that is used: utterances differ more than queries do."""
_WRONG_SHARES: Final = (0.0, 0.02, 0.05, 0.1, 0.2)
_WRONG_COST: Final = 50.0
_ROUNDS: Final = 8
_CELLS_A_BLOCK: Final = 1 << 22
_BINS: Final = 15


@dataclass(frozen=True, slots=True, eq=False)
class Judgements:
    """Terms of the score for judged utterances, of their best routes.

    Attributes:
        terms: float64[n, listed, terms].
        own: Place of the own route among the listed ones, intp[n].
        routes: Listed routes, int64[n, listed].
        owners: Own route, int64[n].
    """

    terms: Float64s
    own: Numbers
    routes: Numbers
    owners: Numbers


@single_blas_thread()
def fit_decision(
    vectors: Float32s,
    owners: Numbers,
    aggregation: Kind,
    *,
    topk: int = 3,
    at: str = "",
    fingerprint: str = "",
) -> DecisionCalibration | None:
    """Measure the numbers of a route set; equal inputs on one machine give equal numbers.

    Args:
        vectors: Unit rows, float32[n, dim].
        owners: Route of each row, int64[n], ascending; gaps are allowed.
        topk: Utterances that the aggregation ``topk`` averages.
        at: ``epoch.seq`` of the set.
        fingerprint: Of the encoder.

    Returns:
        None where there is too little to judge: fewer than ``ROUTES_MIN`` routes, or
        ``JUDGED_MIN`` utterances of routes that have others.
    """
    rows, own = _fitted(vectors, owners)
    counts = np.bincount(own) if len(own) else np.zeros(0, np.int64)
    judged = np.flatnonzero(counts[own] > 1) if len(own) else np.zeros(0, np.int64)
    if len(counts) < ROUTES_MIN or len(judged) < JUDGED_MIN:
        return None
    judged = judged[_spread(len(judged), JUDGED_MAX)]
    is_adaptive = aggregation == "adaptive" and len(own) >= ADAPTIVE_UTTERANCES_MIN * len(counts)
    kind: Kind = aggregation
    if aggregation == "adaptive" and not is_adaptive:
        kind = "blend"
    prior = default_terms(len(own) / len(counts)) if is_adaptive else np.array([_TEMPERATURE])
    found = _judge(rows, own, judged, kind, topk, prior)
    theta, clean = _fit_terms(found, prior, len(own) / len(counts))
    temperature = float(theta.sum() - theta[-1]) if is_adaptive else float(theta[0])
    scores = found.terms @ (theta / temperature)
    metric = weights = None
    if is_adaptive:
        weights = ScoreWeights(*(theta / temperature).tolist())
        sums = _sums(rows, own)
        metric = fit_metric(within_covariance(square_of(rows), sums, counts.astype(np.float64)))
    bare = _levels(scores, found, temperature, cohesions(rows, own), clean, float(counts.mean()))
    calibration = DecisionCalibration(
        at,
        fingerprint,
        aggregation,
        len(np.unique(owners)),
        len(owners),
        temperature,
        *bare,
        weights=weights,
        metric=b"" if metric is None else metric.dump(),
    )
    return _with_evidence(calibration, scores, found, cohesions(rows, own))


def default_terms(utterances_per_route: float) -> Float64s:
    """Weights of the terms times the temperature before anything is judged.

    Chosen on CLINC150 and Banking77: with few utterances the mean is short by chance, so the
    centroid counts more, and the mean is taken back.  The largest similarity counts more than
    the judgements say: whoever writes utterances avoids saying the same twice, so they are less
    like each other than a query is like the nearest of them.
    """
    count = max(utterances_per_route, 1.0)
    temperature = max(_TEMPERATURE, 27.0 - 20.0 / count)
    largest = max(0.25, 0.5 - 0.75 / count)
    length = -0.38 if count >= 3.0 else -0.25
    return temperature * np.array([largest, 0.4 + 2.0 / count, -0.2 - 1.0 / count, 0.85, length])


def cohesions(rows: Float32s, owners: Numbers) -> Float64s:
    """Compute the mean similarity of two utterances of each route, nan for routes of one."""
    counts = np.bincount(owners).astype(np.float64)
    sums = _sums(rows, owners)
    squares = np.einsum("ij,ij->i", sums, sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Float64s = (squares - counts) / (counts * (counts - 1.0))
    return np.where(counts > 1.0, found, np.nan)


# --- judging -----------------------------------------------------------------------------


def _fitted(vectors: Float32s, owners: Numbers) -> tuple[Float32s, Numbers]:
    """Number the routes from zero; of a large set keep evenly spread routes."""
    _, own = np.unique(owners, return_inverse=True)
    if len(own) <= FITTED_ROWS_MAX:
        return vectors, own.astype(np.int64)
    routes = int(own.max()) + 1
    kept = np.zeros(routes, np.bool_)
    kept[_spread(routes, max(ROUTES_MIN, routes * FITTED_ROWS_MAX // len(own)))] = True
    rows = np.flatnonzero(kept[own])[:FITTED_ROWS_MAX]
    return vectors[rows], np.unique(own[rows], return_inverse=True)[1].astype(np.int64)


def _spread(count: int, most: int) -> Numbers:
    """Choose at most ``most`` places, evenly spread."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


def _starts(owners: Numbers) -> Numbers:
    return np.searchsorted(owners, np.arange(int(owners.max()) + 1))


def _sums(rows: NDArray[np.generic], owners: Numbers) -> Float64s:
    return np.add.reduceat(rows, _starts(owners), axis=0, dtype=np.float64)


def _judge(
    rows: Float32s,
    owners: Numbers,
    judged: Numbers,
    kind: Kind,
    topk: int,
    prior: Float64s,
) -> Judgements:
    """Judge utterances by the folds that they are not in."""
    counts = np.bincount(owners)
    folds = (np.arange(len(owners)) - _starts(owners)[owners]) % min(FOLDS, int(counts.max()))
    has_others = counts[owners] > 1
    square = square_of(rows) if kind == "adaptive" else None
    parts: list[Judgements] = []
    for fold in range(int(folds.max()) + 1):
        asked = judged[folds[judged] == fold]
        if not len(asked):
            continue
        kept = (folds != fold) | ~has_others
        metric, noise = None, 0.0
        if square is not None:
            left = np.bincount(owners[kept]).astype(np.float64)
            rest = square - square_of(rows[~kept])
            within = within_covariance(rest, _sums(rows[kept], owners[kept]), left)
            metric, noise = dense_metric(within)
        step = max(1, _CELLS_A_BLOCK // len(owners))
        for start in range(0, len(asked), step):
            part = asked[start : start + step]
            terms = terms_of(
                rows[kept], owners[kept], rows[part].astype(np.float64), kind, topk, metric, noise
            )
            parts.append(_listed(terms, owners[part], prior))
    return Judgements(
        np.concatenate([part.terms for part in parts]),
        np.concatenate([part.own for part in parts]),
        np.concatenate([part.routes for part in parts]),
        np.concatenate([part.owners for part in parts]),
    )


def terms_of(
    rows: Float32s,
    owners: Numbers,
    queries: Float64s,
    kind: Kind,
    topk: int,
    metric: Float64s | None = None,
    noise: float = 0.0,
) -> Float64s:
    """Compute the terms of each score, float64[n, routes, terms]; plain float64.

    Args:
        rows: float32[rows, dim].
        owners: Ascending from 0 without gaps.
        queries: float64[n, dim].
        kind: ``adaptive`` has five terms, in order of ``ScoreWeights``; others have their score.
    """
    starts, counts = _starts(owners), np.bincount(owners).astype(np.float64)
    sums = _sums(rows, owners)
    means = sums / counts[:, np.newaxis]
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    mean = queries @ means.T
    centroid = queries @ (sums / np.where(norms > 0.0, norms, 1.0)).T
    if kind == "mean":
        return mean[..., np.newaxis]
    if kind == "centroid":
        return centroid[..., np.newaxis]
    # Not in float64: the rows of a large set would be copied for every fold.
    similarities = (queries.astype(np.float32) @ rows.T).astype(np.float64)
    if kind == "topk":
        return _mean_of_largest(similarities, starts, counts, topk)[..., np.newaxis]
    largest = np.maximum.reduceat(similarities, starts, axis=1)
    if kind == "max":
        return largest[..., np.newaxis]
    if kind == "blend":
        return ((largest + centroid) / 2.0)[..., np.newaxis]
    applied = means if metric is None else means @ metric
    lengths = np.einsum("ij,ij->i", means, applied) - noise / counts
    long = np.broadcast_to(lengths, mean.shape)
    return np.stack([largest, centroid, mean, queries @ applied.T, long], axis=-1)


def _mean_of_largest(
    similarities: Float64s, starts: Numbers, counts: Float64s, topk: int
) -> Float64s:
    stops = starts + counts.astype(np.int64)
    columns = [
        np.sort(similarities[:, start:stop], axis=1)[:, -topk:].mean(axis=1)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]
    return np.stack(columns, axis=1)


def _listed(terms: Float64s, owners: Numbers, prior: Float64s) -> Judgements:
    """Keep the best routes of each judgement, the own one first."""
    scores = terms @ prior
    every = np.arange(len(owners))
    scores[every, owners] = np.inf
    listed = min(_LISTED, scores.shape[1])
    routes = np.argsort(-scores, axis=1, kind="stable")[:, :listed]
    kept = np.take_along_axis(terms, routes[..., np.newaxis], axis=1)
    return Judgements(kept, np.zeros(len(owners), np.int64), routes, owners)


# --- weights and temperature -------------------------------------------------------------


def _fit_terms(found: Judgements, prior: Float64s, utterances: float) -> tuple[Float64s, Float64s]:
    """Fit the weights times the temperature; also returns how sure each label is right."""
    if len(prior) > 1 and utterances < _WEIGHTS_UTTERANCES_MIN:
        # The folds have no covariance, so they tell nothing of the weights.
        score = (found.terms @ prior / _TEMPERATURE)[..., np.newaxis]
        single = replace(found, terms=score)
        scale, clean = _fit_terms(single, np.array([_TEMPERATURE]), utterances)
        return prior * (scale[0] / _TEMPERATURE), clean
    spread = _TEMPERATURE * np.array(_PRIOR_SPREAD if len(prior) > 1 else (1.0,))
    best = (-np.inf, prior, np.ones(len(found.own)))
    for wrong in _WRONG_SHARES:
        theta, clean, likelihood = _fit_with(found, prior, spread, wrong)
        value = likelihood - _WRONG_COST * wrong
        is_usable = float(theta[: 4 if len(theta) > 1 else 1].sum()) >= 1.0
        if is_usable and value > best[0]:
            best = (value, theta, clean)
    return best[1], best[2]


def _fit_with(
    found: Judgements, prior: Float64s, spread: Float64s, wrong: float
) -> tuple[Float64s, Float64s, float]:
    """Fit with a share of random labels: each judgement counts as far as it seems right."""
    theta, clean, routes = prior, np.ones(len(found.own)), found.terms.shape[1]
    own, mixed = found.own, np.ones(len(found.own))
    for _ in range(3 if wrong else 1):
        theta = _newton(found, clean, theta, prior, spread)
        chances = np.take_along_axis(softmax(found.terms @ theta), own[:, np.newaxis], 1)[:, 0]
        mixed = (1.0 - wrong) * chances + wrong / routes
        clean = (1.0 - wrong) * chances / np.maximum(mixed, 1e-300)
        if not wrong:
            clean = np.ones(len(own))
    penalty = 0.5 * _EVIDENCE * float((((theta - prior) / spread) ** 2).sum())
    return theta, clean, float(np.log(np.maximum(mixed, 1e-300)).sum()) - penalty


def _newton(
    found: Judgements, clean: Float64s, theta: Float64s, prior: Float64s, spread: Float64s
) -> Float64s:
    """Minimise the weighted log loss with its prior, which is convex, by Newton's method."""
    terms, every = found.terms, np.arange(len(found.own))
    own_terms = terms[every, found.own]
    curve = np.diag(_EVIDENCE / spread**2)

    def loss_at(at: Float64s) -> tuple[float, Float64s]:
        chances = softmax(terms @ at)
        own = np.maximum(chances[every, found.own], 1e-300)
        apart = at - prior
        return float(-(clean * np.log(own)).sum() + 0.5 * apart @ curve @ apart), chances

    loss, chances = loss_at(theta)
    for _ in range(_ROUNDS):
        expected = np.einsum("ij,ijk->ik", chances, terms)
        slope = (clean[:, np.newaxis] * (expected - own_terms)).sum(axis=0)
        slope += curve @ (theta - prior)
        weighted = terms * (clean[:, np.newaxis] * chances)[..., np.newaxis]
        flat = terms.reshape(-1, terms.shape[2])
        bend = weighted.reshape(flat.shape).T @ flat
        bend += curve - (clean[:, np.newaxis] * expected).T @ expected
        step = np.linalg.solve(bend, slope)
        length = 1.0
        nearer = loss_at(theta - step)
        while nearer[0] > loss and length > 1e-3:
            length *= 0.5
            nearer = loss_at(theta - length * step)
        if nearer[0] > loss:
            break
        theta, gain = theta - length * step, loss - nearer[0]
        loss, chances = nearer
        if gain < 1e-7 * len(every):
            break
    return theta


def softmax(logits: Float64s) -> Float64s:
    """float64[n, m]; each row sums to one."""
    weights: Float64s = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


# --- levels ------------------------------------------------------------------------------


def level_of(scores: Float64s, temperature: float) -> Float64s:
    """Level of each row of scores: float64[n]; see ``probability``."""
    best = -np.sort(-scores, axis=1)[:, :BEST_ROUTES]
    top = best[:, 0]
    weights = np.exp(temperature * (best - top[:, np.newaxis]))
    return np.asarray(np.log(weights.sum(axis=1)) / temperature + top)


def _levels(
    scores: Float64s,
    found: Judgements,
    temperature: float,
    cohesion: Float64s,
    clean: Float64s,
    utterances: float,
) -> tuple[float, float, float, float, float, float]:
    """Measure the levels inside and outside, and how the first depends on the cohesion."""
    inside = level_of(scores, temperature)
    away = scores.copy()
    away[np.arange(len(away)), found.own] = -np.inf
    away = -np.sort(-away, axis=1)
    hidden = min(round(_HIDDEN_SHARE * (len(cohesion) - 1)), _HIDDEN_MAX, away.shape[1] - 2)
    outside = level_of(away[:, hidden:], temperature)
    weight = clean / clean.sum()
    usual = float(np.nanmean(cohesion))
    own = np.where(np.isnan(cohesion), usual, cohesion)[found.owners]
    # The cohesion of a few utterances is mostly chance.
    caution = 0.1 + 4.0 / utterances**2
    slope = _slope(inside, own, found.owners, weight, caution) if utterances >= 3.0 else 0.0
    middle = float(weight @ own)
    rest = inside - slope * (own - middle)
    inside_mean, outside_mean = float(weight @ rest), float(weight @ outside)
    return (
        inside_mean,
        max(_SPREAD_KEPT * float(np.sqrt(weight @ (rest - inside_mean) ** 2)), 1e-3),
        outside_mean,
        max(float(np.sqrt(weight @ (outside - outside_mean) ** 2)), 1e-3),
        middle,
        slope,
    )


def _slope(
    levels: Float64s, cohesion: Float64s, owners: Numbers, weight: Float64s, caution: float
) -> float:
    """Regress the mean level of each route on its cohesion; few routes give a small slope.

    Regressed by route, not by utterance: an odd utterance has a low level, and leaves the
    rest of its route more alike.
    """
    count = int(owners.max()) + 1
    weights = np.bincount(owners, weight, count)
    present = weights > 0.0
    level = np.bincount(owners, weight * levels, count)[present] / weights[present]
    own = np.bincount(owners, weight * cohesion, count)[present] / weights[present]
    share = np.minimum(weights[present], 10.0 / len(owners))
    share /= share.sum()
    apart = own - share @ own
    rise = float(share @ (apart * (level - share @ level)))
    return _SLOPE_KEPT * max(0.0, rise / (float(share @ apart**2) + caution / len(apart)))


# --- evidence ----------------------------------------------------------------------------


def _with_evidence(
    bare: DecisionCalibration, scores: Float64s, found: Judgements, cohesion: Float64s
) -> DecisionCalibration:
    """Add accuracy, calibration error and the curve of the judged utterances."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :BEST_ROUTES]
    best = np.take_along_axis(scores, order, 1)
    chosen = np.take_along_axis(found.routes, order[:, :1], 1)[:, 0]
    right = chosen == found.owners
    sure = many_confidences(best, bare, UNMATCHED_SHARE, cohesion[chosen])[:, 0]
    numbers = {name: getattr(bare, name) for name in DecisionCalibration.__slots__}
    numbers["accuracy"] = float(right.mean())
    numbers["ece"] = calibration_error(sure, right)
    numbers["curve"] = _curve(sure, right)
    return DecisionCalibration(**numbers)


def calibration_error(sure: Float64s, right: Mask) -> float:
    """Expected calibration error over 15 equal bins."""
    bins = np.minimum((sure * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.abs(np.bincount(bins, sure, _BINS) - np.bincount(bins, right, _BINS))
    return float(gaps.sum() / max(len(sure), 1))


def _curve(sure: Float64s, right: Mask) -> tuple[CurvePoint, ...]:
    points = []
    for step in range(CURVE_POINTS_MAX):
        least = round(step / (CURVE_POINTS_MAX - 1), 4)
        answered = sure >= least
        accuracy = float(right[answered].mean()) if answered.any() else 1.0
        points.append(CurvePoint(least, float(answered.mean()), accuracy))
    return tuple(points)
