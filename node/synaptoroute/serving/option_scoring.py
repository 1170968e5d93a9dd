"""Scores of the options of questions, for the query that the scorer ranked.

Routes have the exact scores of their ranking.  An option that is no route is scored as a
route whose only utterance is its text, by the same arithmetic and under the same fit.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from synaptoroute.decision import Metric, read_metric, score_terms
from synaptoroute.encoder import Tokens
from synaptoroute.exact import dots, to_grid
from synaptoroute.questions import OptionScores, RouteFigures
from synaptoroute.questions.answers import TextFigures
from synaptoroute.scoring import DecisionRule, Ranking
from synaptoroute.scoring.rule import cohesion_of
from synaptoroute.serving.query import OptionSet, Query
from synaptoroute.tensor import Tensor, TensorView


def score_options(
    query: Query,
    ranking: Ranking,
    tensor: Tensor,
    vector: NDArray[np.float32],
    tokens: Tokens | None,
    rule: DecisionRule,
    *,
    text: str,
    barred: frozenset[str],
    version: str,
    node: str,
) -> OptionScores:
    """Score the options of a query.  The caller holds the lock of the tensor.

    Args:
        query: With ``options``.
        ranking: Of all options that are routes.
        vector: float32[dim], of the query.
        text: The query as it was prepared, without repairs.
        barred: Options that are routes with the text among their negatives.
    """
    options, view = query.options, tensor.view()
    assert options is not None, "no options to score: this is a bug"
    is_noise = query.prepared is not None and not query.prepared.text
    return OptionScores(
        version=version,
        node=node,
        tokens=0 if tokens is None else tokens.count,
        was_cached=query.was_cached,
        is_understood=not is_noise and (tokens is None or tokens.is_understood),
        routes={
            tensor.record_of(each.route_id).name: RouteFigures(
                each.score, each.slot, cohesion_of(view, each.route_id)
            )
            for each in ranking.top
        },
        texts=_text_figures(options, tensor, view, vector),
        exact=_exact_routes(tensor, text, query.routes or frozenset()),
        barred=barred,
        levels=rule.levels,
        fingerprint=tensor.fingerprint,
        unmatched_share=rule.unmatched_share,
    )


def _exact_routes(tensor: Tensor, text: str, names: frozenset[str]) -> tuple[str, ...]:
    """Routes among ``names`` that have a text, best first."""
    slots = tensor.texts.find(text)
    if not slots:
        return ()
    left = frozenset(tensor.routes[name].route_id for name in names if name in tensor.routes)
    found = []
    while (match := tensor.exact_match(text, slots, left)) is not None:
        found.append(tensor.record_of(match[0]).name)
        left -= {match[0]}
    return tuple(found)


def _text_figures(
    options: OptionSet, tensor: Tensor, view: TensorView, vector: NDArray[np.float32]
) -> dict[str, TextFigures]:
    """Score the options that are no routes; none if their vectors are of another encoder."""
    places = [
        at for at, name in enumerate(options.names) if name is None or name not in tensor.routes
    ]
    if not places or options.fingerprint != tensor.fingerprint:
        return {}
    vectors = options.vectors[places]
    similarities = dots(vectors, vector[np.newaxis]).clip(-1.0, 1.0)
    scores = _scores(view, vectors, similarities, vector)
    return {
        options.texts[at]: TextFigures(score, similarity)
        for at, score, similarity in zip(
            places, scores.tolist(), similarities.tolist(), strict=True
        )
    }


def _scores(
    view: TensorView,
    vectors: NDArray[np.float32],
    similarities: NDArray[np.float64],
    vector: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Score routes of one utterance each: every aggregation but the adaptive is its similarity."""
    calibration = view.calibration
    if view.adaptive is None or calibration is None or calibration.weights is None:
        return similarities
    weights, metric = calibration.weights, _metric_of(calibration.metric)
    sums = to_grid(vectors)
    terms, offsets = score_terms(sums, np.ones(len(sums)), weights, metric)
    linear = dots(terms, vector[np.newaxis])
    return similarities * weights.largest + linear + offsets


@lru_cache(maxsize=4)
def _metric_of(content: bytes) -> Metric | None:
    return read_metric(content) if content else None
