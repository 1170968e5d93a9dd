"""Imports: any number of routes, visible all at once or not at all.

The routes are encoded and staged in chunks while they arrive, so an import is never
held whole, and queries go on between chunks.  An import that carries the client's
identity can be repeated: what it staged before is not encoded again, and once it is
committed a repetition gets the same answer.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from synaptoroute.core.change import Outcome, StagedImport
from synaptoroute.core.imports import IMPORTS_OPEN_MAX
from synaptoroute.core.mutation import ImportAbort, ImportBegin, ImportChunk, ImportCommit, PutRoute
from synaptoroute.errors import ImportRejected, Overloaded, SynaptoRouteError
from synaptoroute.models import ImportResult, Route, WriteResult
from synaptoroute.ports import EnginePort
from synaptoroute.router.results import result_of
from synaptoroute.router.vectors import row_bytes
from synaptoroute.router.write_options import Ack, Guard, derived_op_id
from synaptoroute.router.writes import Writer, checked_route, put_mutation

CHUNK_UTTERANCES_MAX: Final = 128
CHUNK_TEXT_BYTES_MAX: Final = 65_536
CHUNK_BYTES_MAX: Final = 229_376
"""Texts, vectors, metadata and payloads together; far below what a frame may hold."""
IMPORT_ID_CHARACTERS_MAX: Final = 64
COMMIT_TIMEOUT_SECONDS: Final = 300.0
CHUNK_TIMEOUT_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 0.05
ATTEMPTS_MAX: Final = 16
STAGES_MAX: Final = 4
"""Chunks of one import on their way at a time: nodes take several in one transaction."""
RUN_MARK: Final = "/"
"""Between an import's identity and that of one run of it; no identity holds it."""
ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class _Gathered:
    """Routes gathered to be encoded together."""

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


@dataclass(slots=True)
class _Stages:
    """Chunks of one run on their way into the log, ``STAGES_MAX`` at a time.

    Each chunk has its number, so it does not matter in which order they arrive.  What does
    not fill a chunk waits for more.
    """

    stage: Callable[[ImportChunk], Coroutine[Any, Any, None]]
    run_id: str
    count: int = 0
    utterances: int = 0
    waiting: list[PutRoute] = field(default_factory=list)
    running: deque[asyncio.Task[None]] = field(default_factory=deque)

    async def add(self, parts: list[PutRoute]) -> None:
        """Stage what fills chunks."""
        self.utterances += sum(len(part.utterances) for part in parts)
        *full, self.waiting = _pieces(self.waiting + parts)
        for piece in full:
            await self._begin(piece)

    async def finish(self) -> tuple[int, int]:
        """Stage the rest and wait for all; return the numbers of chunks and of utterances."""
        if self.waiting:
            await self._begin(self.waiting)
        while self.running:
            await self._end_one()
        return self.count, self.utterances

    async def cancel(self) -> None:
        """Let nothing run on: whoever drops the import comes after its last chunk."""
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)

    async def _begin(self, piece: list[PutRoute]) -> None:
        while len(self.running) >= STAGES_MAX:
            await self._end_one()
        chunk = ImportChunk(self.run_id, self.count, tuple(piece))
        self.running.append(asyncio.create_task(self.stage(chunk), name="import-chunk"))
        self.count += 1

    async def _end_one(self) -> None:
        await self.running[0]
        self.running.popleft()


class Importer:
    """Runs one import at a time through a writer."""

    def __init__(self, engine: EnginePort, writer: Writer, running: set[str]) -> None:
        self._engine = engine
        self._running = running  # runs of this router, shared by all its importers
        self._writer = writer
        # One encoder from the first chunk to the commit: if the cluster changes it, the import
        # is refused and can be repeated.
        self._encoder = engine.encoder
        self._known: dict[str, bytes] = {}

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
        commit_id, outcome = await self._place(identity)
        if outcome is not None:
            utterances = 0
            async for route in routes:
                utterances += len(route.utterances)
            return _import_result(result_of(outcome, commit_id), identity, utterances)
        guard = Guard(ack_timeout_seconds=CHUNK_TIMEOUT_SECONDS)
        run_id = f"{identity}{RUN_MARK}{uuid.uuid4().hex}"
        self._running.add(run_id)
        try:
            await self._begin(identity, ImportBegin(run_id, replace), guard)
            chunk_count, utterances = await self._stage_all(run_id, routes, guard)
            result = await self._patiently(
                lambda: self._writer.write(
                    ImportCommit(run_id, chunk_count),
                    Guard(op_id=commit_id, ack=ack, ack_timeout_seconds=COMMIT_TIMEOUT_SECONDS),
                    self._encoder.fingerprint,
                )
            )
        except BaseException:
            if import_id is None:
                await self._drop(run_id, guard)
            raise
        finally:
            self._running.discard(run_id)
        return _import_result(result, identity, utterances)

    async def _place(self, identity: str) -> tuple[bytes, Outcome | None]:
        """Name the commit; with its outcome, if this import was committed before.

        A commit that was rejected gets another name, so that what was in its way can
        be mended and the import repeated.
        """
        for attempt in range(ATTEMPTS_MAX):
            commit_id = derived_op_id("import-commit", identity, str(attempt))
            outcome = await asyncio.wrap_future(self._engine.look_up(commit_id))
            if outcome is None or outcome.status != "rejected":
                return commit_id, outcome
        raise ImportRejected(f"the import {identity!r} was rejected {ATTEMPTS_MAX} times")

    async def _begin(self, identity: str, begin: ImportBegin, guard: Guard) -> None:
        """Open this run of the import; what former runs encoded is kept, the rest dropped.

        Each run stages for itself: the routes may have changed since the last one, and
        chunks of two runs must never be mixed.
        """
        staged = await asyncio.wrap_future(self._engine.staged_imports())
        former = [s for s in staged if s.begin.import_id.startswith(f"{identity}{RUN_MARK}")]
        for each in former:
            for part in (part for chunk in each.chunks for part in chunk.parts):
                self._known.update(zip(part.utterances, part.vectors, strict=True))
            await self._drop(each.begin.import_id, guard)
        if self._writer.is_alone and len(staged) - len(former) >= IMPORTS_OPEN_MAX:
            await self._drop_abandoned(staged, guard)
        await self._stage(begin, guard)

    async def _drop_abandoned(self, staged: Sequence[StagedImport], guard: Guard) -> None:
        """Make room where too many imports were given up half-way and nobody else looks."""
        idle = [each for each in staged if each.begin.import_id not in self._running]
        if idle:
            stalest = min(idle, key=lambda each: each.touched_seq)
            await self._drop(stalest.begin.import_id, guard)

    async def _stage_all(
        self, run_id: str, routes: AsyncIterator[Route], guard: Guard
    ) -> tuple[int, int]:
        """Stage the routes; return the numbers of chunks and of utterances."""
        stages = _Stages(lambda chunk: self._stage(chunk, guard), run_id)
        try:
            gathered = _Gathered()
            async for route in routes:
                gathered.add(checked_route(route))
                if gathered.is_full:
                    await stages.add(await self._parts_of(gathered.routes))
                    gathered = _Gathered()
            await stages.add(await self._parts_of(gathered.routes))
            return await stages.finish()
        finally:
            await stages.cancel()

    async def _parts_of(self, routes: list[Route]) -> list[PutRoute]:
        """Encode what was gathered."""
        bare = [route for route in routes if route.vectors is None]
        vector_of = await self._encode([text for route in bare for text in route.utterances])
        parts = []
        for route in routes:
            if route.vectors is None:
                vectors = tuple(vector_of[text] for text in route.utterances)
            else:
                vectors = row_bytes(
                    await self._writer.encode(route.utterances, route.vectors, self._encoder)
                )
            parts.append(put_mutation(route, vectors))
        return parts

    async def _encode(self, texts: list[str]) -> dict[str, bytes]:
        """Encode each text once, and none that a former run encoded."""
        vector_of = {text: self._known[text] for text in texts if text in self._known}
        fresh = [text for text in dict.fromkeys(texts) if text not in vector_of]
        if fresh:
            rows = await self._patiently(lambda: self._writer.encode(fresh, None, self._encoder))
            vector_of.update(zip(fresh, row_bytes(rows), strict=True))
        return vector_of

    async def _stage(self, mutation: ImportBegin | ImportChunk, guard: Guard) -> None:
        result = await self._patiently(
            lambda: self._writer.write(mutation, guard, self._encoder.fingerprint)
        )
        if result.status == "pending":
            raise ImportRejected(
                "a chunk was not applied in time; repeat the import with its import_id",
                import_id=mutation.import_id,
            )

    async def _patiently(self, attempt: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Wait where the queue is full: an import is in no hurry, and half of it is no use.

        Raises:
            Overloaded: The queue was full for ``CHUNK_TIMEOUT_SECONDS``.
        """
        waited_seconds = 0.0
        while True:
            try:
                return await attempt()
            except Overloaded:
                if waited_seconds >= CHUNK_TIMEOUT_SECONDS:
                    raise
            await asyncio.sleep(RETRY_SECONDS)
            waited_seconds += RETRY_SECONDS

    async def _drop(self, run_id: str, guard: Guard) -> None:
        """Drop what a failed import staged."""
        try:
            await self._writer.write(ImportAbort(run_id), guard)
        except SynaptoRouteError:
            return  # it is not open, or will be dropped as abandoned


def _import_result(result: WriteResult, identity: str, utterances: int) -> ImportResult:
    return ImportResult(
        status=result.status,
        import_id=identity,
        op_id=result.op_id,
        version=result.version,
        routes=result.count,
        utterances=utterances,
    )


def _pieces(parts: list[PutRoute]) -> list[list[PutRoute]]:
    """Cut routes so that no chunk is over the limits; a route may span chunks."""
    pieces: list[list[PutRoute]] = [[]]
    room = CHUNK_UTTERANCES_MAX
    bytes_left = CHUNK_BYTES_MAX
    for part in parts:
        start = 0
        fields_bytes = len(part.metadata.encode()) + len(part.payload.encode())
        needed_bytes = fields_bytes
        for end, (text, vector) in enumerate(
            zip(part.utterances, part.vectors, strict=True), start=1
        ):
            needed_bytes += len(text.encode()) + len(vector)
            if room < CHUNK_UTTERANCES_MAX and (room == 0 or needed_bytes > bytes_left):
                if start < end - 1:
                    pieces[-1].append(_cut(part, start, end - 1))
                pieces.append([])
                start, room, bytes_left = end - 1, CHUNK_UTTERANCES_MAX, CHUNK_BYTES_MAX
                needed_bytes = fields_bytes + len(text.encode()) + len(vector)
            room -= 1
            bytes_left -= needed_bytes
            needed_bytes = 0
        pieces[-1].append(_cut(part, start, len(part.utterances)))
    return pieces


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
