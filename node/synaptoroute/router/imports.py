"""Imports: any number of routes that become visible together or not at all.

Routes are encoded and staged in chunks while they arrive, so an import is never held in
memory as a whole, and queries are answered between chunks.  An import with the client's
identity can be repeated: texts that an earlier run staged are not encoded again, and after
the commit a repeat gets the same answer.  The hash of everything that was sent decides what a
repeat is: other content under the same identity is a conflict.

Of several runs of one import at a time, the last one to begin drops the others.  They read
their routes to the end, and take the outcome of the run that goes on.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from synaptoroute.config import EngineConfig
from synaptoroute.core.change import Outcome, StagedImport
from synaptoroute.core.imports import IMPORTS_OPEN_MAX, NOT_OPEN_MESSAGE
from synaptoroute.core.mutation import (
    CommitPlan,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    PutRoute,
)
from synaptoroute.errors import (
    IdempotencyConflict,
    ImportRejected,
    LimitExceeded,
    Overloaded,
    PreconditionFailed,
    SynaptoRouteError,
)
from synaptoroute.models import ImportResult, Route, WriteResult
from synaptoroute.ports import EnginePort
from synaptoroute.router.chunks import CHUNK_TEXT_BYTES_MAX, CHUNK_UTTERANCES_MAX, pieces_of
from synaptoroute.router.import_hash import ImportHash
from synaptoroute.router.op_ids import derived_op_id, scoped_op_id
from synaptoroute.router.route_checks import checked_route, put_mutation, texts_of
from synaptoroute.router.text_warnings import (
    WARNINGS_MAX,
    doubtful_texts,
    limited,
    not_understood_now,
)
from synaptoroute.router.vectors import checked_rows, row_bytes
from synaptoroute.router.write_results import result_of
from synaptoroute.router.writes import Ack, WriteOptions, Writer
from synaptoroute.threads import BulkThread

IMPORT_ID_CHARACTERS_MAX: Final = 64
COMMIT_TIMEOUT_SECONDS: Final = 300.0
CHUNK_TIMEOUT_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 0.05
TAKEOVER_SECONDS: Final = 2.0
"""After this time without an open run, no other run of an import is expected."""
ATTEMPTS_MAX: Final = 16
PLAN_TRIES_MAX: Final = 3
STAGES_MAX: Final = 4
"""Chunks of one import in flight: nodes apply several in one transaction."""
KEEPALIVE_SECONDS_MAX: Final = 10.0
KEEPALIVES_PER_IDLE_TIME: Final = 4
RUN_SEPARATOR: Final = "/"
"""Between the identity of an import and of one run; no identity contains it."""
ResultT = TypeVar("ResultT")
Routes: TypeAlias = AsyncIterable[Route] | Iterable[Route]


@dataclass(slots=True)
class _EncoderBatch:
    """Routes that are encoded together."""

    routes: list[Route] = field(default_factory=list)
    utterances: int = 0
    text_bytes: int = 0

    def add(self, route: Route) -> None:
        self.routes.append(route)
        texts = texts_of(route)
        self.utterances += len(texts)
        self.text_bytes += sum(len(text.encode()) for text in texts)

    @property
    def is_full(self) -> bool:
        return self.utterances >= CHUNK_UTTERANCES_MAX or self.text_bytes >= CHUNK_TEXT_BYTES_MAX


@dataclass(slots=True)
class _ChunkSender:
    """Sends the chunks of one run to the log, ``STAGES_MAX`` at a time.

    Chunks are numbered, so they may arrive in any order.  Parts that do not fill a chunk
    wait for more.
    """

    stage: Callable[[ImportChunk], Coroutine[Any, Any, None]]
    run_id: str
    count: int = 0
    sent_at: float = field(default_factory=time.monotonic)
    waiting: list[PutRoute] = field(default_factory=list)
    running: deque[asyncio.Task[None]] = field(default_factory=deque)

    async def add(self, parts: list[PutRoute]) -> None:
        """Send all full chunks."""
        *full, self.waiting = pieces_of(self.waiting + parts)
        for piece in full:
            await self._send(piece)

    async def keep_alive(self, seconds: float) -> None:
        """Stage an empty chunk after so many seconds without one, until cancelled.

        Nodes abort an import that is idle.  An empty chunk shows that its author lives.
        """
        while True:
            await asyncio.sleep(seconds / 2)
            is_silent = time.monotonic() - self.sent_at >= seconds
            if is_silent and all(task.done() for task in self.running):
                self._start(())

    async def finish(self) -> int:
        """Send the rest and wait; return the number of chunks."""
        if self.waiting:
            await self._send(self.waiting)
        while self.running:
            await self._end_one()
        return self.count

    async def cancel(self) -> None:
        # A chunk that arrives after the abort of its import would only be rejected, but one
        # that is still being sent could delay the abort.
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)

    async def _send(self, piece: list[PutRoute]) -> None:
        while len(self.running) >= STAGES_MAX:
            await self._end_one()
        self._start(tuple(piece))

    def _start(self, parts: tuple[PutRoute, ...]) -> None:
        # Without a pause between the number and the task: two tasks call this.
        chunk = ImportChunk(self.run_id, self.count, parts)
        self.running.append(asyncio.create_task(self.stage(chunk), name="import-chunk"))
        self.count += 1
        self.sent_at = time.monotonic()

    async def _end_one(self) -> None:
        await self.running[0]
        self.running.popleft()


class CommitMaker(Protocol):
    """Makes the entry that commits an import together with other changes."""

    @property
    def digest(self) -> bytes:
        """Bytes that differ for different changes; a repeated import must have the same."""
        ...

    async def check(self) -> None:
        """Raise if the entry would be refused now."""
        ...

    async def make(self, run_id: str, chunk_count: int) -> CommitPlan:
        """Make the entry for the state that this node holds."""
        ...


async def streamed(routes: Routes) -> AsyncIterator[Route]:
    """Yield routes of any iterable."""
    if isinstance(routes, AsyncIterable):
        async for each in routes:
            yield each
    else:
        for each in routes:
            yield each


async def _read(routes: Routes, request: ImportHash, bulk: BulkThread) -> AsyncIterator[Route]:
    """Yield each route, checked and hashed in the order in which they arrive."""

    def take(given: Route) -> Route:
        route = checked_route(given)
        request.add(route)
        return route

    async for given in streamed(routes):
        yield take(given) if given.vectors is None else await bulk.run(take, given)


class Importer:
    """Runs one import through a writer, once."""

    def __init__(
        self, engine: EnginePort, writer: Writer, running: set[str], config: EngineConfig
    ) -> None:
        self._engine = engine
        self._running = running
        self._keepalive_seconds = min(
            KEEPALIVE_SECONDS_MAX, config.import_idle_seconds / KEEPALIVES_PER_IDLE_TIME
        )
        self._writer = writer
        # One encoder from the first chunk to the commit: if the cluster switches to another,
        # the import is rejected and can be repeated.
        self._encoder = engine.encoder
        self._bulk = BulkThread(config.writes_nice)
        self._known: dict[str, bytes] = {}
        self._warnings: list[str] = []

    async def run(
        self,
        routes: Routes,
        *,
        replace: bool,
        import_id: str | None,
        ack: Ack,
        plan: CommitMaker | None = None,
    ) -> ImportResult:
        """Stage all routes, then commit, with what ``plan`` changes besides.

        Raises:
            IdempotencyConflict: Other routes were imported under this identity.
            ImportRejected: It cannot be committed.
            PreconditionFailed: What the plan depends on has changed.
        """
        try:
            return await self._run(routes, replace, import_id, ack, plan)
        finally:
            self._bulk.close()

    async def _run(
        self,
        routes: Routes,
        replace: bool,
        import_id: str | None,
        ack: Ack,
        plan: CommitMaker | None,
    ) -> ImportResult:
        identity = check_import_id(import_id)
        request = ImportHash(replace=replace, more=b"" if plan is None else plan.digest)
        read = _read(routes, request, self._bulk)
        commit_id, outcome = await self._find_commit(identity)
        if outcome is not None:
            return await self._repeated(identity, commit_id, outcome, request, read)
        if plan is not None:
            await plan.check()
        options = WriteOptions(ack_timeout_seconds=CHUNK_TIMEOUT_SECONDS)
        run_id = f"{identity}{RUN_SEPARATOR}{uuid.uuid4().hex}"
        self._running.add(run_id)
        try:
            await self._begin(identity, ImportBegin(run_id, replace), options)
            chunk_count = await self._stage_all(run_id, read, options)
            commit: ImportCommit | CommitMaker = plan or ImportCommit(run_id, chunk_count)
            if isinstance(commit, ImportCommit):
                result = await self._commit(commit, identity, commit_id, request.digest(), ack)
            else:
                digest, run = request.digest(), (run_id, chunk_count)
                result = await self._commit_plan(commit, run, identity, commit_id, digest, ack)
            # Another run may have been committed instead of this one.
            if await self._is_open(run_id) and result.status != "pending":
                await self._drop(run_id, options)
        except (IdempotencyConflict, PreconditionFailed):
            await self._drop(run_id, options)
            raise
        except ImportRejected:
            is_committed = (await self._find_commit(identity))[1] is not None
            if import_id is None or (not is_committed and await self._is_open(run_id)):
                raise
            taken = await self._outcome_of_another(identity, request, read)
            if taken is None:
                raise
            if await self._is_open(run_id):
                await self._drop(run_id, options)
            return _import_result(result_of(taken[1], taken[0]), identity, request.utterances)
        except BaseException:
            # A plan that is sent again is another one: what it saw has to be looked up again.
            if import_id is None or plan is not None:
                await self._drop(run_id, options)
            raise
        finally:
            self._running.discard(run_id)
        done = _import_result(result, identity, request.utterances)
        return done.model_copy(update={"warnings": limited(self._warnings)})

    async def _commit_plan(
        self,
        plan: CommitMaker,
        run: tuple[str, int],
        identity: str,
        commit_id: bytes,
        digest: bytes,
        ack: Ack,
    ) -> WriteResult:
        """Commit for the state that this node holds; make the entry again if that was too old."""
        for tries_left in reversed(range(PLAN_TRIES_MAX)):
            commit = await plan.make(*run)
            try:
                return await self._commit(commit, identity, commit_id, digest, ack)
            except PreconditionFailed:
                if not tries_left:
                    raise
            commit_id, _ = await self._find_commit(identity)
        raise AssertionError("the last attempt returns or raises")

    async def _commit(
        self,
        commit: ImportCommit | CommitPlan,
        identity: str,
        commit_id: bytes,
        digest: bytes,
        ack: Ack,
    ) -> WriteResult:
        while True:
            options = WriteOptions(
                commit_id, digest, ack=ack, ack_timeout_seconds=COMMIT_TIMEOUT_SECONDS
            )
            write = partial(self._writer.write, commit, options, self._encoder.fingerprint)
            try:
                return await self._retry_overloaded(write)
            except ImportRejected:
                # A run that was dropped before its commit leaves its refusal under the op_id
                # that all runs share.  It says nothing about this run, which is still open.
                taken, outcome = await self._find_commit(identity)
                is_own = taken == commit_id or outcome is not None
                if is_own or not await self._is_refusal_of_another(commit_id, commit.import_id):
                    raise
                commit_id = taken

    async def _is_refusal_of_another(self, commit_id: bytes, run_id: str) -> bool:
        """Whether a refused commit says that its run is not open, although this one is."""
        outcome = await asyncio.wrap_future(self._engine.look_up(commit_id))
        is_not_open = outcome is not None and outcome.message == NOT_OPEN_MESSAGE
        return is_not_open and await self._is_open(run_id)

    async def _repeated(
        self,
        identity: str,
        commit_id: bytes,
        outcome: Outcome,
        request: ImportHash,
        read: AsyncIterator[Route],
    ) -> ImportResult:
        """Answer an import that was committed before, if it has the same content."""
        await _exhaust(read)
        known = await asyncio.wrap_future(self._engine.look_up(commit_id, request.digest()))
        result = result_of(known or outcome, commit_id)
        return _import_result(result, identity, request.utterances)

    async def _outcome_of_another(
        self, identity: str, request: ImportHash, read: AsyncIterator[Route]
    ) -> tuple[bytes, Outcome] | None:
        """Wait for the run that dropped this one; None if no run goes on."""
        await _exhaust(read)
        give_up_at = time.monotonic() + COMMIT_TIMEOUT_SECONDS
        # A run may have to drop the others before it opens itself; then none is open for a moment.
        quiet_until = time.monotonic() + TAKEOVER_SECONDS
        while True:
            staged = await asyncio.wrap_future(self._engine.staged_imports())
            is_going_on = any(_is_run_of(identity, each) for each in staged)
            commit_id, outcome = await self._find_commit(identity)
            if outcome is not None:
                known = self._engine.look_up(commit_id, request.digest())
                return commit_id, await asyncio.wrap_future(known) or outcome
            now = time.monotonic()
            if is_going_on:
                quiet_until = now + TAKEOVER_SECONDS
            if now >= min(give_up_at, quiet_until):
                return None
            await asyncio.sleep(RETRY_SECONDS)

    async def _is_open(self, run_id: str) -> bool:
        staged = await asyncio.wrap_future(self._engine.staged_imports())
        return any(each.begin.import_id == run_id for each in staged)

    async def _find_commit(self, identity: str) -> tuple[bytes, Outcome | None]:
        """Return the op_id of the commit, and its outcome if it was committed before."""
        # A rejected commit keeps its outcome under its op_id.  The next attempt gets another
        # op_id, so that the import can be repeated once the cause is removed.
        for attempt in range(ATTEMPTS_MAX):
            commit_id = scoped_op_id(
                derived_op_id("import-commit", identity, str(attempt)), self._writer.route_set
            )
            outcome = await asyncio.wrap_future(self._engine.look_up(commit_id))
            if outcome is None or outcome.status != "rejected":
                return commit_id, outcome
        raise ImportRejected(f"the import {identity!r} was rejected {ATTEMPTS_MAX} times")

    async def _begin(self, identity: str, begin: ImportBegin, options: WriteOptions) -> None:
        """Open this run of the import and drop earlier runs, except for their vectors."""
        # Each run stages all its chunks: the routes may have changed since the last run, and
        # chunks of two runs must not be mixed.
        staged = await asyncio.wrap_future(self._engine.staged_imports())
        earlier = [each for each in staged if _is_run_of(identity, each)]
        for each in earlier:
            for part in (part for chunk in each.chunks for part in chunk.parts):
                self._known.update(zip(part.utterances, part.vectors, strict=True))
                self._known.update(zip(part.negatives, part.negative_vectors, strict=True))
                if part.description is not None:
                    self._known[part.description] = part.description_vector
        # Opened before the earlier runs are dropped, if there is room: whoever runs them waits for
        # the outcome of this one only as long as a run is open.
        is_room = len(staged) < IMPORTS_OPEN_MAX
        if is_room:
            await self._stage(begin, options)
        for each in earlier:
            await self._drop(each.begin.import_id, options)
        if is_room:
            return
        if self._writer.is_alone and len(staged) - len(earlier) >= IMPORTS_OPEN_MAX:
            await self._drop_abandoned(staged, options)
        await self._stage(begin, options)

    async def _drop_abandoned(self, staged: Sequence[StagedImport], options: WriteOptions) -> None:
        """Drop the stalest open import: without a cluster, no coordinator does that."""
        idle = [each for each in staged if each.begin.import_id not in self._running]
        if idle:
            stalest = min(idle, key=lambda each: each.touched_seq)
            await self._drop(stalest.begin.import_id, options)

    async def _stage_all(
        self, run_id: str, routes: AsyncIterator[Route], options: WriteOptions
    ) -> int:
        """Stage the routes; return the number of chunks."""
        sender = _ChunkSender(lambda chunk: self._stage(chunk, options), run_id)
        keepalive = asyncio.create_task(
            sender.keep_alive(self._keepalive_seconds), name="import-keepalive"
        )
        try:
            batch = _EncoderBatch()
            async for route in routes:
                batch.add(route)
                if batch.is_full:
                    await sender.add(await self._parts_of(batch.routes))
                    batch = _EncoderBatch()
            await sender.add(await self._parts_of(batch.routes))
            keepalive.cancel()
            return await sender.finish()
        finally:
            keepalive.cancel()
            await sender.cancel()

    async def _parts_of(self, routes: list[Route]) -> list[PutRoute]:
        texts = [texts_of(route) for route in routes]
        # Client-given vectors are those of the utterances alone.
        bare = [
            each if route.vectors is None else each[len(route.utterances) :]
            for route, each in zip(routes, texts, strict=True)
        ]
        vector_of = await self._encode([text for each in bare for text in each])
        parts = []
        for route, each in zip(routes, bare, strict=True):
            vectors = tuple(vector_of[text] for text in each)
            if route.vectors is not None:
                given, dim = route.vectors, self._encoder.dim
                vectors = await self._bulk.run(_checked_bytes, given, dim) + vectors
            parts.append(put_mutation(route, vectors))
        return parts

    async def _encode(self, texts: list[str]) -> dict[str, bytes]:
        """Encode each text once, except those that an earlier run encoded."""
        vector_of = {text: self._known[text] for text in texts if text in self._known}
        fresh = [text for text in dict.fromkeys(texts) if text not in vector_of]
        if fresh:
            if len(self._warnings) <= WARNINGS_MAX and (doubtful := doubtful_texts(fresh)):
                found = await asyncio.to_thread(not_understood_now, doubtful, self._encoder)
                self._warnings += found
            rows = await self._retry_overloaded(
                lambda: self._writer.encode(fresh, None, self._encoder)
            )
            vector_of.update(zip(fresh, row_bytes(rows), strict=True))
        return vector_of

    async def _stage(self, mutation: ImportBegin | ImportChunk, options: WriteOptions) -> None:
        result = await self._retry_overloaded(
            lambda: self._writer.write(mutation, options, self._encoder.fingerprint)
        )
        if result.status == "pending":
            raise ImportRejected(
                "a chunk was not applied in time; repeat the import with its import_id",
                import_id=mutation.import_id,
            )

    async def _retry_overloaded(self, attempt: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Retry while the queue is full, or the set at its rate: an import can wait."""
        waited_seconds = 0.0
        while True:
            try:
                return await attempt()
            except (Overloaded, LimitExceeded) as error:
                is_for_good = error.retry_after_seconds is None and not isinstance(
                    error, Overloaded
                )
                if waited_seconds >= CHUNK_TIMEOUT_SECONDS or is_for_good:
                    raise
            await asyncio.sleep(RETRY_SECONDS)
            waited_seconds += RETRY_SECONDS

    async def _drop(self, run_id: str, options: WriteOptions) -> None:
        try:
            await self._writer.write(ImportAbort(run_id), options)
        except SynaptoRouteError:
            return  # it is not open, or the coordinator drops it later as abandoned


def _checked_bytes(vectors: Sequence[Sequence[float]], dim: int) -> tuple[bytes, ...]:
    return row_bytes(checked_rows(vectors, dim))


def _is_run_of(identity: str, staged: StagedImport) -> bool:
    return staged.begin.import_id.startswith(f"{identity}{RUN_SEPARATOR}")


async def _exhaust(routes: AsyncIterator[Route]) -> None:
    async for _ in routes:
        pass


def _import_result(result: WriteResult, identity: str, utterances: int) -> ImportResult:
    return ImportResult(
        status=result.status,
        import_id=identity,
        op_id=result.op_id,
        version=result.version,
        routes=result.count,
        utterances=utterances,
    )


def check_import_id(import_id: str | None) -> str:
    """Check the identity of an import, or generate one.

    Raises:
        ImportRejected: It is empty, too long, or has other characters than letters,
            digits and ``_.:-``.
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
