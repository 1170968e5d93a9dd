"""What operators ask of a node beside queries and routes.

Every survey looks at one position and stands behind queries: it takes its copy between
two batches and does its work elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from synaptoroute.core.change import StagedImport
from synaptoroute.core.imports import encoder_of, missing_texts, vectors_in
from synaptoroute.errors import InvalidQuery
from synaptoroute.models import QUERY_BYTES_MAX, Match, Route, check_text
from synaptoroute.ports import AppliedState
from synaptoroute.replication.encoder_migration import Progress
from synaptoroute.replication.follower import Follower
from synaptoroute.replication.scrub import Scrub, scrub
from synaptoroute.router.conflicts import CONFLICTS_MAX, Conflict, copy_rows, find_conflicts
from synaptoroute.router.encoder_comparison import (
    TEXTS_AT_ONCE,
    TRIAL_TEXTS_MAX,
    Labelled,
    Trial,
    try_encoder,
)
from synaptoroute.router.preview import PREVIEW_TEXTS_MAX, Previewed, judge, score_alone
from synaptoroute.router.writes import Writer, checked_route
from synaptoroute.serving.query import QueryEngine
from synaptoroute.serving.unmatched import UnmatchedQuery

_AT_ONCE_MAX: Final = 2

AskAll = Callable[[Sequence[str]], Awaitable[list[Match]]]


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Near-duplicate utterances of different routes.

    Attributes:
        conflicts: Pairs, most similar first.
        rows_compared: Utterances that were compared.
        rows: Utterances that there are.
        version: ``epoch.seq`` that was looked at.
    """

    conflicts: list[Conflict]
    rows_compared: int
    rows: int
    version: str


@dataclass(frozen=True, slots=True)
class StagedGeneration:
    """Vectors of another encoder, as far as they are there.

    Attributes:
        encoder: Its fingerprint.
        dim: Dimension of its vectors.
        vectors: How many are staged.
        missing_texts: Texts that have none yet.
    """

    encoder: str
    dim: int
    vectors: int
    missing_texts: int


@dataclass(frozen=True, slots=True)
class Generations:
    """Encoders of a node and what is staged of them.

    Attributes:
        serving: Fingerprint of the encoder that serves.
        encoders: Name of every encoder that is loaded, by fingerprint.
        staged: What is staged, of the whole cluster.
        progress: What this node does about it.
    """

    serving: str
    encoders: dict[str, str]
    staged: tuple[StagedGeneration, ...]
    progress: Progress


class Surveys:
    """One node's surveys.  Used on the event loop."""

    _room = asyncio.Semaphore(_AT_ONCE_MAX)

    def __init__(self, engine: QueryEngine, writer: Writer, follower: Follower | None) -> None:
        self._engine = engine
        self._writer = writer
        self._follower = follower

    async def preview(
        self, name: str, route: Route | None, texts: Sequence[str], ask_all: AskAll
    ) -> list[Previewed]:
        """Say where texts would go if a route were put, or deleted where it is None.

        Args:
            name: Name of the route.
            route: The route as it would be.
            texts: 1 to ``PREVIEW_TEXTS_MAX`` queries.
            ask_all: Asks the node with ``CANDIDATES_MAX`` candidates.

        Raises:
            InvalidQuery: The texts are malformed.
            InvalidRoute: The route is.
        """
        asked = _checked(texts)
        async with self._room:
            now = await ask_all(asked)
            if route is None:
                return judge(name, asked, now, [])
            route = checked_route(route)
            vectors = await self._writer.encode(route.utterances, route.vectors)
            settings = await asyncio.wrap_future(self._engine.read(lambda tensor: tensor.settings))
            encoder = self._engine.encoder
            alone = await score_alone(encoder, settings, route, vectors, asked)
        return judge(name, asked, now, alone)

    async def conflicts(self, similarity_min: float, limit: int) -> Conflicts:
        """Find near-duplicate utterances of different routes.

        Raises:
            InvalidQuery: An argument is out of its limits.
        """
        if not (0.0 < similarity_min <= 1.0 and 1 <= limit <= CONFLICTS_MAX):
            raise InvalidQuery(f"similarity is above 0 to 1, limit is 1 to {CONFLICTS_MAX}")
        async with self._room:
            rows, version = await asyncio.wrap_future(
                self._engine.read(lambda tensor: (copy_rows(tensor), str(tensor.revision)))
            )
            found = await asyncio.to_thread(find_conflicts, rows, similarity_min, limit)
        return Conflicts(found, len(rows.owners), rows.total, version)

    async def scrub(self) -> Scrub:
        """Compare memory and disk with the digest, row by row.

        Raises:
            StorageUnavailable: The database cannot be read.
        """
        if self._follower is not None:
            return await self._follower.duties.scrub()
        return await scrub(self._engine)

    async def try_encoder(
        self, fingerprint: str, cases: Sequence[Labelled], ask_all: AskAll
    ) -> Trial:
        """Compare an encoder that stands by with the one that serves, on labelled texts.

        Raises:
            InvalidQuery: The texts are malformed.
            EncoderMismatch, NotReady: See ``trial.try_encoder``.
        """
        asked = _checked([case.text for case in cases], TRIAL_TEXTS_MAX)
        checked = [Labelled(text, case.route) for text, case in zip(asked, cases, strict=True)]
        async with self._room:
            now: list[Match] = []
            for start in range(0, len(asked), TEXTS_AT_ONCE):
                now += await ask_all(asked[start : start + TEXTS_AT_ONCE])
            return await try_encoder(self._engine, fingerprint, checked, now)

    async def generations(self) -> Generations:
        """Say how far changes of the encoder have come, as this node sees it."""
        engine = self._engine

        def look(state: AppliedState) -> tuple[StagedGeneration, ...]:
            table = state.replica.table
            routes = tuple(table.routes.values())
            found = []
            for name, staged in table.imports.items():
                encoder = encoder_of(name)
                if encoder is not None:
                    lacking = len(missing_texts(routes, vectors_in(staged)))
                    found.append(StagedGeneration(*encoder, staged.row_count, lacking))
            return tuple(found)

        staged = await asyncio.wrap_future(engine.run_on_applier(look))
        progress = self._follower.duties.generations.progress if self._follower else Progress()
        return Generations(engine.encoder.fingerprint, engine.encoders.names, staged, progress)

    def unmatched(self) -> tuple[bool, list[UnmatchedQuery]]:
        """Whether queries without a route are kept, and the newest of them."""
        kept = self._engine.unmatched
        return kept.is_on, kept.newest

    async def open_imports(self) -> tuple[StagedImport, ...]:
        """Give the imports that are neither committed nor aborted."""
        return await asyncio.wrap_future(self._engine.staged_imports())


def _checked(texts: Sequence[str], texts_max: int = PREVIEW_TEXTS_MAX) -> list[str]:
    if not 1 <= len(texts) <= texts_max:
        raise InvalidQuery(f"1 to {texts_max} texts are expected, got {len(texts)}")
    try:
        return [check_text(text, QUERY_BYTES_MAX) for text in texts]
    except ValueError as error:
        raise InvalidQuery(f"a text {error}") from error
