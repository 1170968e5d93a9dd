"""Evaluation of a route set by its own utterances, each as a query that it has never seen.

An utterance is judged by a copy of the route set from which it is left out, together with the
utterances that have its place in the other routes, as in a preview.  The numbers behind score
and confidence are measured without them as well.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from synaptoroute.errors import InvalidQuery
from synaptoroute.models import CANDIDATES_MAX, Match
from synaptoroute.router.revision_preview import (
    RouteSet,
    answer,
    choose_utterances,
    copy_routes,
    folds_of,
    judging_tensor,
    left_out,
)
from synaptoroute.serving.query import QueryEngine

_running: Final = asyncio.Semaphore(1)
"""For all routers of the process: more at a time would take the CPUs from queries."""


@dataclass(frozen=True, slots=True)
class JudgedUtterance:
    """An utterance, its route, and the answer that it would get as a query."""

    text: str
    route: str
    match: Match


@dataclass(frozen=True, slots=True)
class OwnEvaluation:
    """Answers of a route set to its own utterances; ``version`` is that of the route set."""

    version: str
    utterances: list[JudgedUtterance]


async def evaluate_own(engine: QueryEngine, limit: int) -> OwnEvaluation:
    """Judge up to 600 utterances of routes that have several.

    Args:
        limit: Candidates of each answer, 1 to ``CANDIDATES_MAX``.

    Raises:
        TooLarge: The route set is too large to be copied.
    """
    if not 1 <= limit <= CANDIDATES_MAX:
        raise InvalidQuery(f"limit must be 1 to {CANDIDATES_MAX}")
    async with _running:
        fingerprint = engine.encoder.fingerprint
        routes = await asyncio.wrap_future(engine.read(copy_routes))
        return await asyncio.to_thread(_evaluate, routes, fingerprint, limit)


def _evaluate(routes: RouteSet, fingerprint: str, limit: int) -> OwnEvaluation:
    chosen = choose_utterances(routes)
    found: list[JudgedUtterance] = []
    count = folds_of(routes)
    for fold in range(count):
        own = [each for each in chosen if each[3] % count == fold]
        if not own:
            continue
        tensor = judging_tensor(routes, left_out(routes, count, fold), fingerprint)
        texts = [text for _, _, text, _ in own]
        embeddings = routes.vectors[[routes.row_of[slot] for _, slot, _, _ in own]]
        # Without exact matches: the same text in another route would decide alone.
        matches = answer(tensor, texts, embeddings, fingerprint, limit=max(2, limit), exact=False)
        found += [
            JudgedUtterance(text, name, match)
            for (name, _, text, _), match in zip(own, matches, strict=True)
        ]
    return OwnEvaluation(routes.version, found)
