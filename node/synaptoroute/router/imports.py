"""Imports: any number of routes, visible all at once or not at all.

The routes are encoded and staged in chunks while they arrive, so an import is never
held whole, and queries go on between chunks.  An import that carries the client's
identity can be resumed: chunks are known by number, and the commit by the identity.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.mutation import (
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    PutRoute,
)
from synaptoroute.engine import Engine
from synaptoroute.errors import ImportRejected, SynaptoRouteError
from synaptoroute.models import ImportResult, Route
from synaptoroute.router.guard import Ack, Guard, derived_op_id
from synaptoroute.router.results import result_of
from synaptoroute.router.writes import Writer, put_mutation

CHUNK_UTTERANCES_MAX: Final = 128
CHUNK_TEXT_BYTES_MAX: Final = 65_536
IMPORT_ID_CHARACTERS_MAX: Final = 64
COMMIT_TIMEOUT_SECONDS: Final = 300.0
CHUNK_TIMEOUT_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Chunk:
    """Routes gathered for the next chunk."""

    routes: list[Route] = field(default_factory=list)
    utterances: int = 0
    text_bytes: int = 0

    def add(self, route: Route) -> None:
        self.routes.append(route)
        self.utterances += len(route.utterances)
        self.text_bytes += sum(len(text.encode()) for text in route.utterances)

    @property
    def is_full(self) -> bool:
        return self.utterances >= CHUNK_UTTERANCES_MAX or self.text_bytes >= CHUNK_TEXT_BYTES_MAX


class Importer:
    """Runs one import at a time through a writer."""

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self._engine = engine
        self._writer = writer

    async def run(
        self,
        routes: AsyncIterator[Route],
        *,
        replace: bool,
        import_id: str | None,
        ack: Ack,
    ) -> ImportResult:
        """Stage every route, then commit.

        Raises:
            ImportRejected: It cannot be committed; nothing became visible.
            RouteError: A route is malformed; nothing became visible.
        """
        identity = check_import_id(import_id)
        commit_id = derived_op_id("import-commit", identity)
        if import_id is not None:
            known = await self._committed_before(identity, commit_id)
            if known is not None:
                return known
        guard = Guard(ack_timeout_seconds=CHUNK_TIMEOUT_SECONDS)
        await self._stage(ImportBegin(identity, replace), guard)
        try:
            chunk_count, utterances = await self._stage_all(identity, routes, guard)
            result = await self._writer.write(
                ImportCommit(identity, chunk_count),
                Guard(op_id=commit_id, ack=ack, ack_timeout_seconds=COMMIT_TIMEOUT_SECONDS),
            )
        except (SynaptoRouteError, ValueError):
            if import_id is None:
                await self._drop(identity, guard)
            raise
        return ImportResult(
            status=result.status,
            import_id=identity,
            op_id=result.op_id,
            version=result.version,
            routes=result.count,
            utterances=utterances,
        )

    async def _committed_before(self, identity: str, commit_id: bytes) -> ImportResult | None:
        """Answer a repeated import from the outcome of its commit."""
        outcome = await asyncio.wrap_future(self._engine.look_up(commit_id))
        if outcome is None:
            return None
        result = result_of(outcome, commit_id)
        return ImportResult(
            status=result.status,
            import_id=identity,
            op_id=result.op_id,
            version=result.version,
            routes=result.count,
            utterances=0,
        )

    async def _stage_all(
        self, identity: str, routes: AsyncIterator[Route], guard: Guard
    ) -> tuple[int, int]:
        """Stage the routes; return the numbers of chunks and of utterances."""
        count = utterances = 0
        chunk = _Chunk()
        async for route in routes:
            chunk.add(route)
            if chunk.is_full:
                count += await self._stage_chunk(identity, count, chunk, guard)
                utterances += chunk.utterances
                chunk = _Chunk()
        if chunk.routes:
            count += await self._stage_chunk(identity, count, chunk, guard)
            utterances += chunk.utterances
        return count, utterances

    async def _stage_chunk(
        self, identity: str, first_number: int, chunk: _Chunk, guard: Guard
    ) -> int:
        """Encode and stage what was gathered, cut to size; return how many chunks."""
        parts: list[PutRoute] = []
        given = [route for route in chunk.routes if route.vectors is not None]
        bare = [route for route in chunk.routes if route.vectors is None]
        for route in given:
            rows = await self._writer.encode(route.utterances, route.vectors)
            parts.append(put_mutation(route, rows))
        if bare:
            texts = [text for route in bare for text in route.utterances]
            rows = await self._writer.encode(texts, None)
            parts.extend(_puts(bare, rows))
        pieces = _pieces(parts)
        for offset, piece in enumerate(pieces):
            await self._stage(ImportChunk(identity, first_number + offset, tuple(piece)), guard)
        return len(pieces)

    async def _stage(self, mutation: ImportBegin | ImportChunk, guard: Guard) -> None:
        result = await self._writer.write(mutation, guard)
        if result.status == "pending":
            raise ImportRejected(
                "a chunk was not applied in time; resume the import with its import_id",
                import_id=mutation.import_id,
            )

    async def _drop(self, identity: str, guard: Guard) -> None:
        """Drop what a failed import staged; nobody can resume it."""
        try:
            await self._writer.write(ImportAbort(identity), guard)
        except SynaptoRouteError:
            return  # it will be aborted as abandoned


def _puts(routes: list[Route], rows: NDArray[np.float32]) -> list[PutRoute]:
    """Cut the vectors of several routes apart again."""
    parts = []
    start = 0
    for route in routes:
        end = start + len(route.utterances)
        parts.append(put_mutation(route, rows[start:end]))
        start = end
    return parts


def _pieces(parts: list[PutRoute]) -> list[list[PutRoute]]:
    """Cut routes so that no chunk is over the limits; a route may span chunks."""
    pieces: list[list[PutRoute]] = [[]]
    room = CHUNK_UTTERANCES_MAX
    text_room = CHUNK_TEXT_BYTES_MAX
    for part in parts:
        start = 0
        for end, text in enumerate(part.utterances, start=1):
            size_bytes = len(text.encode())
            if room == 0 or (size_bytes > text_room and room < CHUNK_UTTERANCES_MAX):
                if start < end - 1:
                    pieces[-1].append(_cut(part, start, end - 1))
                pieces.append([])
                start, room, text_room = end - 1, CHUNK_UTTERANCES_MAX, CHUNK_TEXT_BYTES_MAX
            room -= 1
            text_room -= size_bytes
        pieces[-1].append(_cut(part, start, len(part.utterances)))
    return [piece for piece in pieces if piece]


def _cut(part: PutRoute, start: int, end: int) -> PutRoute:
    """Take some of a route's rows."""
    return PutRoute(
        part.name,
        part.utterances[start:end],
        part.vectors[start:end],
        part.threshold,
        part.metadata,
        part.payload,
    )


def check_import_id(import_id: str | None) -> str:
    """Check the client's identity of an import, or make one.

    Raises:
        ImportRejected: Empty, too long, or not letters, digits and ``_.:-``.
    """
    if import_id is None:
        return uuid.uuid4().hex
    allowed = import_id.isascii() and import_id.replace("-", "").translate(_PUNCTUATION).isalnum()
    if not allowed or len(import_id) > IMPORT_ID_CHARACTERS_MAX:
        raise ImportRejected(
            f"an import_id is 1 to {IMPORT_ID_CHARACTERS_MAX} letters, digits, '_', '.', ':', '-'"
        )
    return import_id


_PUNCTUATION: Final = str.maketrans("", "", "_.:")
