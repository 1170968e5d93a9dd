"""Checks of a set of routes that need no node.

Each utterance is scored against all routes twice: with itself, and without itself (leave
one out), as a new query with the same meaning would be.  Scores are those of the default
aggregation, ``blend``: the mean of the similarity to the best utterance and the similarity
to the centroid of the route.

Errors are certain mistakes: one text in two routes, or an unreachable route.  Warnings are
worth a look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.same_text import same_text_form
from synaptoroute.encoder import Tokens
from synaptoroute.encoder.presets import why_not_understood
from synaptoroute.models import Route

UTTERANCES_MIN: Final = 5
"""With fewer examples the centroid of a route depends on chance."""
NEAR_DUPLICATE_MIN: Final = 0.95
BARRING_MIN: Final = 0.95
"""Queries like an utterance so similar to a negative of its route may lose the route."""
NEARER_MARGIN: Final = 0.05
"""The score of another route must be higher by this to be reported."""
FINDINGS_PER_PAIR_MAX: Final = 3
_ROWS_PER_BLOCK: Final = 256

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake: its level, the stable name of the rule, the route (or empty), and a sentence."""

    level: Level
    code: str
    route: str
    message: str


@dataclass(frozen=True, slots=True)
class UtteranceScores:
    """Scores of utterances against all routes.

    Attributes:
        owners: int64[n], index of each utterance's route.
        own: float64[n], score of its own route, with the utterance in it.
        without: float64[n], the same without it; NaN if it is the only utterance.
        other: float64[n], best score of another route; -inf if there is none.
        other_route: int64[n], index of that route.
    """

    owners: NDArray[np.int64]
    own: NDArray[np.float64]
    without: NDArray[np.float64]
    other: NDArray[np.float64]
    other_route: NDArray[np.int64]


def check_texts(routes: Sequence[Route]) -> Iterator[Finding]:
    """Find mistakes without an encoder: counts, names, one text in two routes."""
    for route in routes:
        count = len(route.utterances)
        if count < UTTERANCES_MIN:
            what = f"has {count} utterance{'s' * (count > 1)}; {UTTERANCES_MIN} or more are needed"
            yield Finding("warning", "few-utterances", route.name, what)
    yield from _check_names(routes)
    yield from _check_same_texts(routes)
    yield from _check_negatives(routes)


def _check_negatives(routes: Sequence[Route]) -> Iterator[Finding]:
    """Find negatives that contradict an utterance, or that leave a text no route."""
    owner = {same_text_form(text): route for route in routes for text in route.utterances}
    for route in routes:
        own = set(map(same_text_form, route.utterances))
        for text in route.negatives:
            if same_text_form(text) in own:
                what = f"the negative {text!r} is also an utterance, which it bars"
                yield Finding("error", "negative-is-utterance", route.name, what)
    barred: dict[str, set[str]] = {}
    for route in routes:
        for text in route.negatives:
            barred.setdefault(same_text_form(text), set()).add(route.name)
    for form, names in barred.items():
        if len(names) == len(routes) > 1 and form not in owner:
            what = f"{form!r} is a negative of every route"
            yield Finding("warning", "negative-everywhere", min(names), what)


def check_barred(
    routes: Sequence[Route], vectors: Float32s, negatives: Float32s
) -> Iterator[Finding]:
    """Find utterances that a negative of their own route takes away.

    Args:
        vectors: float32[n, dim], unit rows, of the utterances of all routes, in order.
        negatives: The same of their negatives.
    """
    start = at = 0
    for route in routes:
        own = vectors[start : start + len(route.utterances)]
        against = negatives[at : at + len(route.negatives)]
        start, at = start + len(own), at + len(against)
        if not len(against):
            continue
        similarities = own @ against.T
        for row, column in zip(*np.nonzero(similarities >= BARRING_MIN), strict=True):
            what = (
                f"the negative {route.negatives[column]!r} is near the utterance "
                f"{route.utterances[row]!r} (similarity {similarities[row, column]:.3f})"
            )
            yield Finding("warning", "negative-near-utterance", route.name, what)


def _check_names(routes: Sequence[Route]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for route in routes:
        other = first.setdefault(route.name.casefold(), route.name)
        if other != route.name:
            what = f"differs from {other!r} only by case"
            yield Finding("warning", "similar-name", route.name, what)


def _check_same_texts(routes: Sequence[Route]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for route in routes:
        for text in route.utterances:
            other = first.setdefault(same_text_form(text), route.name)
            if other != route.name:
                what = f"{text!r} is also an utterance of {other!r}"
                yield Finding("error", "same-utterance", route.name, what)


def check_tokens(
    routes: Sequence[Route], tokens: Sequence[Tokens], model: str
) -> Iterator[Finding]:
    """Find utterances that the encoder does not understand, or cannot tell apart.

    Args:
        tokens: Those of the utterances of all routes, in order.
        model: Name of the encoder.
    """
    first: dict[bytes, tuple[str, str]] = {}
    pairs = ((route.name, text) for route in routes for text in route.utterances)
    for (name, text), own in zip(pairs, tokens, strict=True):
        if not own.is_understood:
            what = f"only an equal query matches {text!r}: {why_not_understood(text, model)}"
            yield Finding("warning", "not-understood", name, what)
            continue
        other, other_text = first.setdefault(own.key, (name, text))
        if other != name and same_text_form(text) != same_text_form(other_text):
            what = f"{model} cannot tell {text!r} from {other_text!r} of {other!r}"
            yield Finding("warning", "same-tokens", name, what)


def check_vectors(
    routes: Sequence[Route], vectors: Float32s, default_threshold: float
) -> Iterator[Finding]:
    """Find mistakes in the vectors of the utterances.

    Args:
        vectors: float32[n, dim], unit rows, of all utterances in order.
        default_threshold: For routes without one of their own.
    """
    scores = score_utterances(vectors, [len(route.utterances) for route in routes])
    yield from _check_near_duplicates(routes, vectors, scores.owners)
    thresholds = np.array(
        [default_threshold if route.threshold is None else route.threshold for route in routes]
    )
    yield from _check_nearer_elsewhere(routes, scores, thresholds)
    yield from _check_reach(routes, scores, thresholds)


def score_utterances(vectors: Float32s, counts: Sequence[int]) -> UtteranceScores:
    """Score every utterance against every route, with and without itself.

    Args:
        vectors: float32[n, dim], unit rows, grouped by route.
        counts: Utterances of each route, at least one each.
    """
    owners = np.repeat(np.arange(len(counts)), counts)
    # ``reduceat`` aggregates the columns of one route: each group runs to the next start.
    starts = np.cumsum(counts) - np.asarray(counts)
    sums = np.add.reduceat(vectors.astype(np.float64), starts, axis=0)
    centroids = _unit(sums)
    own, without, other = (np.empty(len(vectors)) for _ in range(3))
    other_route = np.zeros(len(vectors), dtype=np.int64)
    # In blocks: all similarities at once would need n * n floats.
    for start in range(0, len(vectors), _ROWS_PER_BLOCK):
        part = slice(start, min(start + _ROWS_PER_BLOCK, len(vectors)))
        rows, owner = vectors[part], owners[part]
        line = np.arange(len(rows))
        similarities = (rows @ vectors.T).astype(np.float64)
        scores = (np.maximum.reduceat(similarities, starts, axis=1) + rows @ centroids.T) / 2
        own[part] = scores[line, owner]
        # Leave one out: the utterance itself must not be its own nearest one.
        similarities[line, np.arange(part.start, part.stop)] = -np.inf
        best = np.maximum.reduceat(similarities, starts, axis=1)[line, owner]
        rest = (rows * _unit(np.subtract(sums[owner], rows, dtype=np.float64))).sum(axis=1)
        without[part] = np.where(np.isfinite(best), (best + rest) / 2, np.nan)
        scores[line, owner] = -np.inf
        other_route[part] = scores.argmax(axis=1)
        other[part] = scores[line, other_route[part]]
    return UtteranceScores(owners, own, without, other, other_route)


def _check_near_duplicates(
    routes: Sequence[Route], vectors: Float32s, owners: NDArray[np.int64]
) -> Iterator[Finding]:
    texts = [text for route in routes for text in route.utterances]
    shown: dict[tuple[int, int], int] = {}
    for start in range(0, len(vectors), _ROWS_PER_BLOCK):
        similarities = vectors[start : start + _ROWS_PER_BLOCK] @ vectors.T
        for row, column in zip(*np.nonzero(similarities >= NEAR_DUPLICATE_MIN), strict=True):
            left, right = start + int(row), int(column)
            pair = (int(owners[left]), int(owners[right]))
            if left >= right or pair[0] == pair[1]:
                continue
            shown[pair] = shown.get(pair, 0) + 1
            if shown[pair] > FINDINGS_PER_PAIR_MAX:
                continue
            what = (
                f"{texts[left]!r} is nearly {texts[right]!r} of {routes[pair[1]].name!r} "
                f"(similarity {similarities[row, column]:.3f})"
            )
            yield Finding("warning", "near-duplicate", routes[pair[0]].name, what)


def _check_nearer_elsewhere(
    routes: Sequence[Route], scores: UtteranceScores, thresholds: Float64s
) -> Iterator[Finding]:
    """Find utterances that would match another route if they were queries."""
    texts = [text for route in routes for text in route.utterances]
    is_taken = (scores.other >= thresholds[scores.other_route]) & (
        scores.other > scores.without + NEARER_MARGIN
    )
    for index in np.flatnonzero(is_taken).tolist():
        other = routes[int(scores.other_route[index])].name
        figures = f"{scores.other[index]:.3f} against {scores.without[index]:.3f}"
        what = f"{texts[index]!r} is nearer to {other!r} ({figures})"
        yield Finding("warning", "nearer-elsewhere", routes[int(scores.owners[index])].name, what)


def _check_reach(
    routes: Sequence[Route], scores: UtteranceScores, thresholds: Float64s
) -> Iterator[Finding]:
    for index, route in enumerate(routes):
        threshold = float(thresholds[index])
        mine = scores.owners == index
        other = scores.other[mine]
        if not ((scores.own[mine] >= threshold) & (scores.own[mine] >= other)).any():
            figures = (
                f"the best scores {scores.own[mine].max():.3f}, the threshold is {threshold:g}"
            )
            what = f"none of its own utterances reaches it: {figures}"
            yield Finding("error", "unreachable", route.name, what)
            continue
        without = scores.without[mine]
        if mine.sum() > 1 and not ((without >= threshold) & (without >= other)).any():
            figures = f"the best scores {np.nanmax(without):.3f}, the threshold is {threshold:g}"
            what = f"none of its utterances would reach it as a query: {figures}"
            yield Finding("warning", "hardly-reachable", route.name, what)


def _unit(rows: Float64s) -> Float64s:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)
