"""What a change of a route would do to queries, without making it.

A route's score for a text depends on that route alone, so the changed route is scored
in a tensor of its own and set against the other routes as they stand.  Nothing is
written and no query waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.encoder import TextEncoder
from synaptoroute.models import Candidate, Match, Route
from synaptoroute.router.queries import question
from synaptoroute.scoring import Scratch, rank
from synaptoroute.serving.query import match_of
from synaptoroute.tensor import Tensor

PREVIEW_TEXTS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Standing:
    """Which route a text goes to; ``route`` is None for none.

    Attributes:
        route: Name of the route.
        score: Its score, or that of the best route where none passes.
        threshold: What the score is held against.
        utterance: The most similar example.
    """

    route: str | None
    score: float | None
    threshold: float | None
    utterance: str | None


@dataclass(frozen=True, slots=True)
class Previewed:
    """One text before and after the change.

    Attributes:
        text: The text.
        before: As the node answers now.
        after: As it would answer.
    """

    text: str
    before: Standing
    after: Standing

    @property
    def is_changed(self) -> bool:
        """Whether the text goes to another route."""
        return self.before.route != self.after.route


async def score_alone(
    encoder: TextEncoder,
    settings: Settings,
    route: Route,
    vectors: NDArray[np.float32],
    texts: Sequence[str],
) -> list[Match]:
    """Score texts against one route that is nowhere else; encodes them in a thread.

    Args:
        encoder: Of the node.
        settings: Of the route set.
        route: The route as it would be.
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
    queries = [question(text, 1, None, False, True) for text in texts]

    def score() -> list[Match]:
        embeddings = encoder.encode([query.text for query in queries])
        rankings = rank(
            tensor, embeddings, [query.spec(tensor.routes) for query in queries], Scratch()
        )
        return [
            match_of(query, ranking, tensor, "", "")
            for query, ranking in zip(queries, rankings, strict=True)
        ]

    return await asyncio.to_thread(score)


def judge(
    name: str, texts: Sequence[str], now: Sequence[Match], alone: Sequence[Match]
) -> list[Previewed]:
    """Set the changed route against the others.

    Args:
        name: Name of the route that changes.
        texts: The texts.
        now: The node's answers, with as many candidates as there may be.
        alone: The changed route's own standing for each text; empty if it is deleted.
    """
    found = []
    for index, (text, match) in enumerate(zip(texts, now, strict=True)):
        others = [_of(each) for each in match.candidates or () if each.route != name]
        changed = [_alone(name, alone[index])] if alone else []
        before = Standing(match.route, match.score, match.threshold, match.utterance)
        found.append(Previewed(text, before, _best([*changed, *others])))
    return found


def _of(candidate: Candidate) -> Standing:
    return Standing(candidate.route, candidate.score, candidate.threshold, candidate.utterance)


def _alone(name: str, match: Match) -> Standing:
    return Standing(name, match.score, match.threshold, match.utterance)


def _best(standings: Sequence[Standing]) -> Standing:
    """The best of those that pass, else the best with no route."""
    ranked = sorted(standings, key=lambda each: -(each.score or -2.0))
    for each in ranked:
        if (each.score or -2.0) >= (each.threshold or -1.0):
            return each
    if not ranked:
        return Standing(None, None, None, None)
    best = ranked[0]
    return Standing(None, best.score, best.threshold, best.utterance)
