"""Decisions of the encoder on each utterance as a query, where the confidence decides.

As in ``decision.fitting``, the utterances of a route are dealt to folds, and each fold is judged
by the others, metric included.  Only the weights and levels are those of the whole route set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from synaptoroute.cascade.leave_one_out import (
    ConfidenceRule,
    Evaluation,
    Float64s,
    Mask,
    Numbers,
    Utterances,
    blocks,
    encoder_scores,
    sums_of,
)
from synaptoroute.decision import BEST_ROUTES, ScoreWeights
from synaptoroute.decision.fitting import FOLDS, cohesions, terms_of
from synaptoroute.decision.many_confidences import many_confidences
from synaptoroute.decision.metric import dense_metric, square_of, within_covariance


def with_decisions(
    given: Utterances, in_scope: Evaluation, out_of_scope: Evaluation
) -> tuple[Evaluation, Evaluation, Float64s]:
    """Add the encoder's answers to evaluations of the same utterances.

    Returns:
        The evaluations, and the score of ``blend`` for each answer of ``in_scope``.
    """
    rule = given.rule
    assert rule is not None, "thresholds alone decide: this is a bug"
    places = np.empty((2, len(given.owners)), np.int64)
    for place, each in zip(places, (in_scope, out_of_scope), strict=True):
        place[each.rows] = np.arange(len(each.rows))
    found = [(each.encoders.copy(), each.expected.copy()) for each in (in_scope, out_of_scope)]
    blended = np.empty(len(in_scope.rows))
    cohesion = cohesions(given.vectors, given.owners)
    for part, scores, judged in _scored(given, in_scope.rows, rule):
        every, own = np.arange(len(part)), given.owners[part]
        at = places[0, part]
        blended[at] = judged[every, in_scope.answers[at]]
        for number, each in enumerate((in_scope, out_of_scope)):
            if number:
                scores[every, own] = -np.inf
            at = places[number, part]
            encoders, expected = found[number]
            encoders[at] = _answers(scores, judged, given.thresholds, rule, cohesion)
            expected[at] = scores[every, each.answers[at]]
    in_scope, out_of_scope = (
        replace(each, encoders=encoders, expected=expected)
        for each, (encoders, expected) in zip((in_scope, out_of_scope), found, strict=True)
    )
    return in_scope, out_of_scope, blended


def _scored(
    given: Utterances, chosen: Numbers, rule: ConfidenceRule
) -> Iterator[tuple[Numbers, Float64s, Float64s]]:
    """Give rows, their scores, and what thresholds are compared with: float64[n, routes]."""
    weights = rule.numbers.weights
    if given.aggregation == "adaptive" and weights is not None:
        yield from _scored_by_folds(given, chosen, rule, weights)
        return
    sums = sums_of(given.vectors, given, np.float64)
    for part in blocks(chosen, len(given.owners)):
        scores = encoder_scores(given, part, sums)
        yield part, scores, scores.copy()


def _scored_by_folds(
    given: Utterances, chosen: Numbers, rule: ConfidenceRule, weights: ScoreWeights
) -> Iterator[tuple[Numbers, Float64s, Float64s]]:
    shares = np.array(
        [weights.largest, weights.centroid, weights.mean, weights.metric, weights.length]
    )
    places = np.arange(len(given.owners)) - given.starts[given.owners]
    folds = places % min(FOLDS, int(given.counts.max()))
    square = square_of(given.vectors) + square_of(rule.descriptions)
    for fold in range(int(folds.max()) + 1):
        asked = chosen[folds[chosen] == fold]
        # A route of one utterance is not judged; it stays among the others.
        kept = (folds != fold) | (given.counts[given.owners] < 2)
        owners, rows = given.owners[kept], given.vectors[kept]
        if len(rule.described):  # else the rows of a large set are not copied again
            owners = np.concatenate([owners, rule.described])
            order = np.argsort(owners, kind="stable")
            owners, rows = owners[order], np.concatenate([rows, rule.descriptions])[order]
        starts = np.searchsorted(owners, np.arange(len(given.thresholds)))
        within = within_covariance(
            square - square_of(given.vectors[~kept]),
            np.add.reduceat(rows, starts, axis=0, dtype=np.float64),
            np.bincount(owners).astype(np.float64),
        )
        metric, noise = dense_metric(within)
        for part in blocks(asked, len(given.owners)):
            queries = given.vectors[part].astype(np.float64)
            terms = terms_of(rows, owners, queries, "adaptive", 0, metric, noise)
            yield part, terms @ shares, (terms[..., 0] + terms[..., 1]) / 2.0


def _answers(
    scores: Float64s,
    judged: Float64s,
    thresholds: Float64s,
    rule: ConfidenceRule,
    cohesion: Float64s,
) -> Numbers:
    """Answer as ``DecisionRule`` does: the best-ranked route that passes; -1 for none."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :BEST_ROUTES]
    best = np.take_along_axis(scores, order, 1)
    near = cohesion[order[:, 0]]
    shares = many_confidences(best, rule.numbers, rule.unmatched_share, near)
    passes: Mask = (shares >= rule.confidence_mins[order]) & (best > -np.inf)
    passes &= np.take_along_axis(judged, order, 1) >= thresholds[order]
    first = passes.argmax(axis=1)
    every = np.arange(len(order))
    return np.where(passes[every, first], order[every, first], -1)
