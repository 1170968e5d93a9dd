"""Diagnostics: what operators ask of a node beside queries and routes.

Each reads one position of the log and stays behind queries: it copies what it needs between
two batches and does its work on other threads.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import StagedImport
from synaptoroute.core.imports import encoder_of, missing_texts, vectors_in
from synaptoroute.errors import InvalidQuery
from synaptoroute.models import QUERY_BYTES_MAX, Match, Route, check_text
from synaptoroute.ports import AppliedState
from synaptoroute.replication.encoder_migration import MigrationProgress
from synaptoroute.replication.follower import Follower
from synaptoroute.replication.scrub import Scrub, scrub
from synaptoroute.router.comparison import (
    COMPARED_TEXTS_MAX,
    PREVIEW_TEXTS_MAX,
    TEXTS_AT_ONCE,
    EncoderComparison,
    LabelledText,
    PreviewedText,
    compare_encoders,
    preview_route,
    score_alone,
)
from synaptoroute.router.writes import Writer, checked_route
from synaptoroute.serving.query import QueryEngine, UnmatchedQuery
from synaptoroute.tensor import Tensor

CONFLICT_ROWS_MAX: Final = 10_000
"""More rows are not compared: the work grows with their square."""
CONFLICTS_MAX: Final = 500
_BLOCK_ROWS: Final = 512
_DIAGNOSTICS_AT_ONCE: Final = 2

AskAll = Callable[[Sequence[str]], Awaitable[list[Match]]]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two near-duplicate utterances of different routes."""

    route: str
    utterance: str
    other_route: str
    other_utterance: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Near-duplicate utterances of different routes.

    Attributes:
        conflicts: Pairs, most similar first.
        rows_compared: Utterances that were compared.
        version: ``epoch.seq`` of the route set that was compared.
    """

    conflicts: list[Conflict]
    rows_compared: int
    rows: int
    version: str


@dataclass(frozen=True, slots=True)
class StagedVectors:
    """Staged vectors of another encoder."""

    encoder: str
    dim: int
    vectors: int
    missing_texts: int


@dataclass(frozen=True, slots=True)
class EncoderStatus:
    """The encoders of a node and the progress of a change to another one.

    Attributes:
        encoders: Names of the loaded encoders, by fingerprint.
        staged: Staged vectors of the whole cluster.
    """

    serving: str
    encoders: dict[str, str]
    staged: tuple[StagedVectors, ...]
    progress: MigrationProgress


class Diagnostics:
    """Diagnostics of one node.  Used on the event loop."""

    # For all routers of the process: more at a time would take the CPUs from queries.
    _room = asyncio.Semaphore(_DIAGNOSTICS_AT_ONCE)

    def __init__(self, engine: QueryEngine, writer: Writer, follower: Follower | None) -> None:
        self._engine = engine
        self._writer = writer
        self._follower = follower

    async def preview(
        self, name: str, route: Route | None, texts: Sequence[str], ask_all: AskAll
    ) -> list[PreviewedText]:
        """Show where texts would go if a route were put, or deleted if it is None.

        Args:
            texts: 1 to ``PREVIEW_TEXTS_MAX`` queries.
            ask_all: Queries the node with ``CANDIDATES_MAX`` candidates.

        Raises:
            InvalidQuery: The texts are malformed.
            InvalidRoute: The route is malformed.
        """
        asked = _checked_texts(texts, PREVIEW_TEXTS_MAX)
        async with self._room:
            now = await ask_all(asked)
            if route is None:
                return preview_route(name, asked, now, [])
            route = checked_route(route)
            vectors = await self._writer.encode(route.utterances, route.vectors)
            settings = self._engine.published.settings
            alone = await score_alone(self._engine.encoder, settings, route, vectors, asked)
        return preview_route(name, asked, now, alone)

    async def conflicts(self, similarity_min: float, limit: int) -> Conflicts:
        """Find near-duplicate utterances of different routes."""
        if not (0.0 < similarity_min <= 1.0 and 1 <= limit <= CONFLICTS_MAX):
            raise InvalidQuery(f"similarity is above 0 to 1, limit is 1 to {CONFLICTS_MAX}")
        async with self._room:
            rows, version = await asyncio.wrap_future(
                self._engine.read(lambda tensor: (_copy_rows(tensor), str(tensor.revision)))
            )
            found = await asyncio.to_thread(_find_conflicts, rows, similarity_min, limit)
        return Conflicts(found, len(rows.owners), rows.total, version)

    async def scrub(self) -> Scrub:
        """Compare memory and disk with the digest, row by row."""
        if self._follower is not None:
            return await self._follower.maintenance.scrub()
        return await scrub(self._engine)

    async def compare_encoders(
        self, fingerprint: str, cases: Sequence[LabelledText], ask_all: AskAll
    ) -> EncoderComparison:
        """Compare a spare encoder with the one that serves, on labelled texts."""
        asked = _checked_texts([case.text for case in cases], COMPARED_TEXTS_MAX)
        checked = [LabelledText(text, case.route) for text, case in zip(asked, cases, strict=True)]
        async with self._room:
            now: list[Match] = []
            for start in range(0, len(asked), TEXTS_AT_ONCE):
                now += await ask_all(asked[start : start + TEXTS_AT_ONCE])
            return await compare_encoders(self._engine, fingerprint, checked, now)

    async def encoders(self) -> EncoderStatus:
        """Show the encoders and how far a change to another one has come."""
        engine = self._engine

        def read(state: AppliedState) -> tuple[StagedVectors, ...]:
            table = state.replica.table
            routes = tuple(table.routes.values())
            found = []
            for name, staged in table.imports.items():
                encoder = encoder_of(name)
                if encoder is not None:
                    missing = len(missing_texts(routes, vectors_in(staged)))
                    found.append(StagedVectors(*encoder, staged.row_count, missing))
            return tuple(found)

        staged = await asyncio.wrap_future(engine.run_on_applier(read))
        follower = self._follower
        progress = follower.maintenance.migration.progress if follower else MigrationProgress()
        return EncoderStatus(engine.encoder.fingerprint, engine.encoders.names, staged, progress)

    def unmatched(self) -> tuple[bool, list[UnmatchedQuery]]:
        """Whether queries without a route are kept, and the newest of them."""
        kept = self._engine.unmatched
        return kept.is_on, kept.newest

    async def open_imports(self) -> tuple[StagedImport, ...]:
        """List the imports that are neither committed nor aborted."""
        return await asyncio.wrap_future(self._engine.staged_imports())


def _checked_texts(texts: Sequence[str], texts_max: int) -> list[str]:
    if not 1 <= len(texts) <= texts_max:
        raise InvalidQuery(f"1 to {texts_max} texts are expected, got {len(texts)}")
    try:
        return [check_text(text, QUERY_BYTES_MAX) for text in texts]
    except ValueError as error:
        raise InvalidQuery(f"a text {error}") from error


# --- conflicts -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows copied from the tensor.

    Attributes:
        vectors: float32[n, dim].
        owners: int64[n], index in ``routes``.
    """

    vectors: NDArray[np.float32]
    owners: NDArray[np.int64]
    utterances: tuple[str, ...]
    routes: tuple[str, ...]
    total: int


def _copy_rows(tensor: Tensor) -> _Rows:
    """Copy up to ``CONFLICT_ROWS_MAX`` rows, whole routes in order of name."""
    slots: list[int] = []
    owners: list[int] = []
    texts: list[str] = []
    names: list[str] = []
    for name in sorted(tensor.routes):
        record = tensor.routes[name]
        if len(slots) + len(record.slots) > CONFLICT_ROWS_MAX:
            break
        owners += [len(names)] * len(record.slots)
        names.append(name)
        slots += record.slots
        texts += record.utterances
    vectors = tensor.vectors_of(np.asarray(slots, np.int64))
    return _Rows(
        vectors, np.asarray(owners, np.int64), tuple(texts), tuple(names), tensor.slots_used
    )


def _find_conflicts(rows: _Rows, similarity_min: float, limit: int) -> list[Conflict]:
    """Find the most similar pairs of utterances of different routes; takes seconds."""
    best: list[tuple[float, int, int]] = []
    # In blocks: all similarities at once would take 400 MB.
    for start in range(0, len(rows.vectors), _BLOCK_ROWS):
        part = rows.vectors[start : start + _BLOCK_ROWS]
        similarities = part @ rows.vectors[start:].T
        is_other = rows.owners[start : start + len(part), np.newaxis] != rows.owners[start:]
        is_later = np.arange(len(part))[:, np.newaxis] < np.arange(len(rows.vectors) - start)
        first, second = np.nonzero((similarities >= similarity_min) & is_other & is_later)
        values = similarities[first, second]
        if len(values) > limit:
            kept = np.argpartition(-values, limit)[:limit]
            first, second, values = first[kept], second[kept], values[kept]
        pairs = zip(
            values.tolist(), (first + start).tolist(), (second + start).tolist(), strict=True
        )
        best = heapq.nlargest(limit, [*best, *pairs])
    return [
        Conflict(
            rows.routes[int(rows.owners[one])],
            rows.utterances[one],
            rows.routes[int(rows.owners[two])],
            rows.utterances[two],
            round(min(1.0, value), 4),
        )
        for value, one, two in best
    ]
