"""Comparisons before a change: of one route, or of the whole encoder.

A preview shows where texts would go after a change of a route.  A route's score for a text
depends on that route alone, so the changed route is scored in a tensor of its own and
compared with the other routes as they are.

A comparison of encoders shows the same for a change of the encoder, on labelled texts.  The
staged vectors of the spare encoder become a tensor of their own, and the spare encoder
encodes the texts.

Nothing is written, and no query waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import RouteRecord
from synaptoroute.core.imports import generation_id, missing_texts, vectors_in
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import NotReady
from synaptoroute.models import Candidate, Match, Route
from synaptoroute.ports import AppliedState, EnginePort
from synaptoroute.router.queries import make_query
from synaptoroute.scoring import Scratch, rank
from synaptoroute.serving.query import match_of
from synaptoroute.tensor import Tensor

PREVIEW_TEXTS_MAX: Final = 200
COMPARED_TEXTS_MAX: Final = 2_000
TEXTS_AT_ONCE: Final = 32
CHANGED_SHOWN_MAX: Final = 200
_NEVER: Final = -2.0
"""Below every score."""


@dataclass(frozen=True, slots=True)
class RoutedText:
    """Where a text goes; ``route`` is None for none.

    Attributes:
        score: Its score; the score of the best route if none matches.
    """

    route: str | None
    score: float | None
    threshold: float | None
    utterance: str | None

    @property
    def is_match(self) -> bool:
        return (self.score or _NEVER) >= (self.threshold or -1.0)

    def unmatched(self) -> RoutedText:
        """The same score and threshold, without a route."""
        return RoutedText(None, self.score, self.threshold, self.utterance)


def _routed(match: Match) -> RoutedText:
    return RoutedText(match.route, match.score, match.threshold, match.utterance)


# --- a change of one route -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PreviewedText:
    """A text before and after a change of a route."""

    text: str
    before: RoutedText
    after: RoutedText

    @property
    def is_changed(self) -> bool:
        return self.before.route != self.after.route


async def score_alone(
    encoder: TextEncoder,
    settings: Settings,
    route: Route,
    vectors: NDArray[np.float32],
    texts: Sequence[str],
) -> list[Match]:
    """Score texts against a single route, on another thread.

    Args:
        vectors: float32[n, dim] of its utterances.
        texts: Checked texts.
    """
    tensor = Tensor(encoder.dim, settings)
    slots = np.arange(len(vectors), dtype=np.int64)
    record = RouteRecord(
        route_id=0,
        name=route.name,
        slots=tuple(slots.tolist()),
        utterances=tuple(route.utterances),
        threshold=route.threshold,
        metadata="{}",
        payload="null",
        revision=Revision(1, 0),
    )
    tensor.load(slots, vectors, [record], settings, Revision(1, 0))
    queries = [make_query(text) for text in texts]

    def score() -> list[Match]:
        embeddings = encoder.encode([query.text for query in queries])
        specs = [query.spec(tensor.routes) for query in queries]
        rankings = rank(tensor, embeddings, specs, Scratch())
        return [
            match_of(query, ranking, tensor, "", "")
            for query, ranking in zip(queries, rankings, strict=True)
        ]

    return await asyncio.to_thread(score)


def preview_route(
    name: str, texts: Sequence[str], now: Sequence[Match], alone: Sequence[Match]
) -> list[PreviewedText]:
    """Compare a changed route with the others.

    Args:
        now: The node's answers, with as many candidates as possible.
        alone: Scores of the changed route for each text; empty if it is deleted.
    """
    found = []
    for index, (text, match) in enumerate(zip(texts, now, strict=True)):
        routed = [_candidate(each) for each in match.candidates or () if each.route != name]
        if alone:
            own = alone[index]
            routed.insert(0, RoutedText(name, own.score, own.threshold, own.utterance))
        found.append(PreviewedText(text, _routed(match), _best(routed)))
    return found


def _candidate(candidate: Candidate) -> RoutedText:
    return RoutedText(candidate.route, candidate.score, candidate.threshold, candidate.utterance)


def _best(routed: Sequence[RoutedText]) -> RoutedText:
    """The best one that matches, else the best one without a route."""
    ranked = sorted(routed, key=lambda each: -(each.score or _NEVER))
    for each in ranked:
        if each.is_match:
            return each
    return ranked[0].unmatched() if ranked else RoutedText(None, None, None, None)


# --- a change of the encoder ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text and the route that it belongs to; None for none."""

    text: str
    route: str | None


@dataclass(frozen=True, slots=True)
class ComparedText:
    """A text with both encoders.

    Attributes:
        before: Where it goes with the encoder that serves.
        after: Where it goes with the other one.
    """

    text: str
    expected: str | None
    before: RoutedText
    after: RoutedText


@dataclass(frozen=True, slots=True)
class EncoderComparison:
    """What a change of the encoder would do to labelled texts.

    Attributes:
        correct_after: The same for the other encoder, with the current thresholds.
        threshold_best: Default threshold with which the other encoder is right most
            often, if no route has its own threshold.
        correct_best: How often that is.
        changed: Texts that would go to another route, the first ones.
    """

    encoder: str
    texts: int
    correct_before: int
    correct_after: int
    threshold_best: float
    correct_best: int
    changed: list[ComparedText]


@dataclass(frozen=True, slots=True)
class _StagedSet:
    """The routes with their vectors of another encoder."""

    routes: tuple[RouteRecord, ...]
    settings: Settings
    vectors: dict[str, bytes]


async def compare_encoders(
    engine: EnginePort, fingerprint: str, cases: Sequence[LabelledText], now: Sequence[Match]
) -> EncoderComparison:
    """Compare a spare encoder with the one that serves.

    Args:
        fingerprint: The other encoder; its vectors must be staged completely.
        cases: Labelled texts.

    Raises:
        EncoderMismatch: This node does not have the encoder.
        NotReady: Vectors are missing.
    """
    encoder = engine.encoders.find(fingerprint)
    name = generation_id(fingerprint, encoder.dim)

    def read(state: AppliedState) -> _StagedSet:
        table = state.replica.table
        vectors = vectors_in(table.imports.get(name))
        routes = tuple(table.routes.values())
        if missing_texts(routes, vectors):
            raise NotReady("some utterances have no vector of this encoder yet")
        return _StagedSet(routes, table.settings, vectors)

    staged = await asyncio.wrap_future(engine.run_on_applier(read))
    texts = [case.text for case in cases]
    best = await asyncio.to_thread(_score_staged, encoder, staged, texts)
    return _compare(fingerprint, cases, now, best)


def _score_staged(
    encoder: TextEncoder, staged: _StagedSet, texts: Sequence[str]
) -> list[RoutedText]:
    """Find the best route of each text, whether it matches or not."""
    tensor = Tensor(encoder.dim, staged.settings)
    rows = sorted(
        (slot, text)
        for route in staged.routes
        for slot, text in zip(route.slots, route.utterances, strict=True)
    )
    slots = np.array([slot for slot, _ in rows], np.int64)
    joined = b"".join(staged.vectors[text] for _, text in rows)
    vectors = np.frombuffer(joined, "<f4").reshape(len(rows), encoder.dim)
    tensor.load(slots, vectors, staged.routes, staged.settings, Revision(1, 0))
    found: list[RoutedText] = []
    scratch = Scratch()
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        some = texts[start : start + TEXTS_AT_ONCE]
        specs = [make_query(text).spec(tensor.routes) for text in some]
        for ranking in rank(tensor, encoder.encode(some), specs, scratch):
            if not ranking.top:
                found.append(RoutedText(None, None, None, None))
                continue
            top = ranking.best or ranking.top[0]
            name = tensor.record_of(top.route_id).name
            found.append(RoutedText(name, top.score, top.threshold, None))
    return found


def _compare(
    fingerprint: str,
    cases: Sequence[LabelledText],
    now: Sequence[Match],
    best: Sequence[RoutedText],
) -> EncoderComparison:
    after = [each if each.is_match else each.unmatched() for each in best]
    compared = [
        ComparedText(case.text, case.route, _routed(match), routed)
        for case, match, routed in zip(cases, now, after, strict=True)
    ]
    threshold, correct_best = _best_threshold(cases, best)
    changed = [each for each in compared if each.before.route != each.after.route]
    return EncoderComparison(
        encoder=fingerprint,
        texts=len(cases),
        correct_before=sum(each.before.route == each.expected for each in compared),
        correct_after=sum(each.after.route == each.expected for each in compared),
        threshold_best=threshold,
        correct_best=correct_best,
        changed=changed[:CHANGED_SHOWN_MAX],
    )


def _best_threshold(cases: Sequence[LabelledText], best: Sequence[RoutedText]) -> tuple[float, int]:
    """Find the default threshold that is right most often; the lowest of equal ones."""
    pairs = zip(cases, best, strict=True)
    scored = [(each.score or 0.0, case.route, each.route) for case, each in pairs]
    scored.sort(key=lambda row: row[0])
    # Sweep upwards: each threshold passed takes the route from one more text.
    correct = sum(expected == found for _, expected, found in scored)
    top, threshold = correct, 0.0
    for index, (score, expected, found) in enumerate(scored):
        correct += (expected is None) - (expected == found)
        following = scored[index + 1][0] if index + 1 < len(scored) else score
        if correct > top and following > score:
            top, threshold = correct, (score + following) / 2
    return round(threshold, 3), top
