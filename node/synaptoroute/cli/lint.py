"""What is wrong with a set of routes, found without a node.

Each utterance is scored against all routes twice: as it is, and as if it were not
there (leave one out), which is how a new query with its meaning would fare.  Scores
are those of the default aggregation, ``blend``: the mean of the best utterance's
similarity and the similarity to the route's centroid.

Errors are what cannot be meant: one text in two routes, a route that nothing can
reach.  Warnings are what a person should look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from synaptoroute.models import Route

UTTERANCES_MIN: Final = 5
"""Fewer examples than this make a route's centroid a matter of luck."""
NEAR_DUPLICATE_MIN: Final = 0.95
NEARER_MARGIN: Final = 0.05
"""Another route's score must be higher by this before it is worth a look."""
FINDINGS_PER_PAIR_MAX: Final = 3
_ROWS_AT_ONCE: Final = 256

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        level: ``error`` or ``warning``.
        code: Stable name of the rule.
        route: The route it is about; empty for the file.
        message: One sentence.
    """

    level: Level
    code: str
    route: str
    message: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How utterances fare against all routes.

    Attributes:
        owners: int64[n], index of each utterance's route.
        own: float64[n], score of its own route with the utterance in it.
        without: float64[n], the same without it; NaN where it is the only one.
        other: float64[n], best score of another route; -inf where there is none.
        other_route: int64[n], index of that route.
    """

    owners: NDArray[np.int64]
    own: NDArray[np.float64]
    without: NDArray[np.float64]
    other: NDArray[np.float64]
    other_route: NDArray[np.int64]


def check_texts(routes: Sequence[Route]) -> Iterator[Finding]:
    """Find what needs no encoder: counts, names, one text in two routes."""
    for route in routes:
        count = len(route.utterances)
        if count < UTTERANCES_MIN:
            yield Finding(
                "warning",
                "few-utterances",
                route.name,
                f"has {count} utterance{'s' * (count > 1)}; {UTTERANCES_MIN} or more are needed",
            )
    yield from _check_names(routes)
    yield from _check_same_texts(routes)


def _check_names(routes: Sequence[Route]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for route in routes:
        other = first.setdefault(route.name.casefold(), route.name)
        if other != route.name:
            yield Finding(
                "warning", "similar-name", route.name, f"differs from {other!r} by case alone"
            )


def _check_same_texts(routes: Sequence[Route]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for route in routes:
        for text in route.utterances:
            other = first.setdefault(" ".join(text.casefold().split()), route.name)
            if other != route.name:
                yield Finding(
                    "error", "same-utterance", route.name, f"{text!r} is also one of {other!r}"
                )


def check_vectors(
    routes: Sequence[Route], vectors: Float32s, default_threshold: float
) -> Iterator[Finding]:
    """Find what the encoder sees.

    Args:
        routes: The routes.
        vectors: float32[n, dim], unit rows, of all utterances in order.
        default_threshold: For routes without one of their own.
    """
    standing = score_utterances(vectors, [len(route.utterances) for route in routes])
    yield from _check_near_duplicates(routes, vectors, standing.owners)
    thresholds = np.array(
        [default_threshold if route.threshold is None else route.threshold for route in routes]
    )
    yield from _check_nearer_elsewhere(routes, standing, thresholds)
    yield from _check_reach(routes, standing, thresholds)


def score_utterances(vectors: Float32s, counts: Sequence[int]) -> Standing:
    """Score every utterance against every route, with and without itself.

    Args:
        vectors: float32[n, dim], unit rows, grouped by route.
        counts: Utterances of each route, at least one each.
    """
    owners = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - np.asarray(counts)
    sums = np.add.reduceat(vectors.astype(np.float64), starts, axis=0)
    centroids = _unit(sums)
    own, without, other = (np.empty(len(vectors)) for _ in range(3))
    other_route = np.zeros(len(vectors), dtype=np.int64)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        part = slice(start, min(start + _ROWS_AT_ONCE, len(vectors)))
        rows, owner = vectors[part], owners[part]
        line = np.arange(len(rows))
        similarities = (rows @ vectors.T).astype(np.float64)
        scores = (np.maximum.reduceat(similarities, starts, axis=1) + rows @ centroids.T) / 2
        own[part] = scores[line, owner]
        similarities[line, np.arange(part.start, part.stop)] = -np.inf
        best = np.maximum.reduceat(similarities, starts, axis=1)[line, owner]
        rest = (rows * _unit(np.subtract(sums[owner], rows, dtype=np.float64))).sum(axis=1)
        without[part] = np.where(np.isfinite(best), (best + rest) / 2, np.nan)
        scores[line, owner] = -np.inf
        other_route[part] = scores.argmax(axis=1)
        other[part] = scores[line, other_route[part]]
    return Standing(owners, own, without, other, other_route)


def _check_near_duplicates(
    routes: Sequence[Route], vectors: Float32s, owners: NDArray[np.int64]
) -> Iterator[Finding]:
    texts = [text for route in routes for text in route.utterances]
    shown: dict[tuple[int, int], int] = {}
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        similarities = vectors[start : start + _ROWS_AT_ONCE] @ vectors.T
        for row, column in zip(*np.nonzero(similarities >= NEAR_DUPLICATE_MIN), strict=True):
            left, right = start + int(row), int(column)
            pair = (int(owners[left]), int(owners[right]))
            if left >= right or pair[0] == pair[1]:
                continue
            shown[pair] = shown.get(pair, 0) + 1
            if shown[pair] > FINDINGS_PER_PAIR_MAX:
                continue
            yield Finding(
                "warning",
                "near-duplicate",
                routes[pair[0]].name,
                f"{texts[left]!r} is nearly {texts[right]!r} of {routes[pair[1]].name!r} "
                f"(similarity {similarities[row, column]:.3f})",
            )


def _check_nearer_elsewhere(
    routes: Sequence[Route], standing: Standing, thresholds: Float64s
) -> Iterator[Finding]:
    """Utterances that another route would take, were they not examples of their own."""
    texts = [text for route in routes for text in route.utterances]
    is_taken = (standing.other >= thresholds[standing.other_route]) & (
        standing.other > standing.without + NEARER_MARGIN
    )
    for index in np.flatnonzero(is_taken).tolist():
        other = routes[int(standing.other_route[index])].name
        yield Finding(
            "warning",
            "nearer-elsewhere",
            routes[int(standing.owners[index])].name,
            f"{texts[index]!r} is nearer to {other!r} "
            f"({standing.other[index]:.3f} against {standing.without[index]:.3f})",
        )


def _check_reach(
    routes: Sequence[Route], standing: Standing, thresholds: Float64s
) -> Iterator[Finding]:
    for index, route in enumerate(routes):
        threshold = float(thresholds[index])
        mine = standing.owners == index
        other = standing.other[mine]
        if not ((standing.own[mine] >= threshold) & (standing.own[mine] >= other)).any():
            yield Finding(
                "error",
                "unreachable",
                route.name,
                f"not even its own utterances reach it: the best scores "
                f"{standing.own[mine].max():.3f}, the threshold is {threshold:g}",
            )
            continue
        without = standing.without[mine]
        if mine.sum() > 1 and not ((without >= threshold) & (without >= other)).any():
            yield Finding(
                "warning",
                "hardly-reachable",
                route.name,
                "each of its utterances would miss it if it were not one of them: "
                f"the best scores {np.nanmax(without):.3f}, the threshold is {threshold:g}",
            )


def _unit(rows: Float64s) -> Float64s:
    """Scale rows to unit length; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)
