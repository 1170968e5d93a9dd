"""AdaptiveRouter: the library's face.

It wires encoder, engine, storage and log and keeps no state of its own.  The
synchronous names are those of release 0.2; the coroutines beside them begin with
``a``.  Before ``start`` everything runs on the caller's thread.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Sequence
from typing import Any

from synaptoroute.config import EngineConfig
from synaptoroute.core.mutation import (
    KEEP,
    DeleteRoute,
    Keep,
    PatchRoute,
    PutSettings,
    RemoveUtterances,
    RouteRecord,
    Settings,
)
from synaptoroute.encoder import TextEncoder
from synaptoroute.engine import Engine, Observer, Query
from synaptoroute.errors import (
    ConfigError,
    InvalidQuery,
    InvalidRoute,
    NotReady,
    Overloaded,
    RouteNotFound,
)
from synaptoroute.log import LocalLog, Log
from synaptoroute.models import (
    QUERY_BATCH_TEXTS_MAX,
    ImportResult,
    Match,
    Route,
    RouteSetSettings,
    StoredRoute,
    WriteResult,
    canonical_json,
    check_name,
)
from synaptoroute.router.guard import Ack, Guard
from synaptoroute.router.imports import Importer
from synaptoroute.router.questions import expire, question
from synaptoroute.router.results import RoutePage, result_of, stored_route
from synaptoroute.router.status import NodeStatus, node_status
from synaptoroute.router.writes import Writer, distinct_utterances
from synaptoroute.storage import SQLiteStorage
from synaptoroute.tensor import Tensor

PAGE_ROUTES_MAX = 1_000
_NO_GUARD = Guard()


class AdaptiveRouter:
    """Routes texts to named routes, and changes the routes while it runs.

    Args:
        encoder: Turns texts into vectors.
        storage: The database; None keeps everything in memory only.
        log: Where writes get their order; None for a router on its own.
        config: How to encode, batch and score.
        observer: Receives measurements of the encoding.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        storage: SQLiteStorage | None = None,
        *,
        log: Log | None = None,
        config: EngineConfig | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._encoder = encoder
        self._storage = storage or SQLiteStorage(":memory:")
        self._log = log or LocalLog()
        self._config = config or EngineConfig()
        self._observer = observer
        self._state = "new"
        self._engine_or_none: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- life ----------------------------------------------------------------------

    @property
    def _engine(self) -> Engine:
        """The engine; the first use reads the database."""
        if self._engine_or_none is None:
            if self._state in ("stopped", "draining", "failed"):
                raise NotReady(f"the router is {self._state}")
            self._engine_or_none = Engine(
                self._encoder, self._storage, self._config, self._observer
            )
            if isinstance(self._log, LocalLog):
                self._log.attach(self._engine_or_none.propose)
        return self._engine_or_none

    @property
    def _writer(self) -> Writer:
        return Writer(self._engine, self._log)

    async def start(self) -> None:
        """Read the database and start the threads.

        Raises:
            EncoderMismatch: The database holds another encoder's vectors.
            StorageUnavailable: The database cannot be opened.
        """
        if self._state == "ready":
            return
        if self._state != "new":
            raise NotReady(f"the router is {self._state}; make a new one")
        self._state = "starting"
        self._loop = asyncio.get_running_loop()
        try:
            engine = await asyncio.to_thread(lambda: self._engine)
        except BaseException:
            self._state = "failed"
            raise
        engine.start()
        self._state = "ready"

    async def stop(self) -> None:
        """Refuse newcomers, answer what was accepted, close the database."""
        if self._state in ("stopped", "draining"):
            return
        self._state = "draining"
        if self._engine_or_none is not None:
            await asyncio.to_thread(self._engine_or_none.stop)
        self._state = "stopped"

    def close(self) -> None:
        """Close a router that was never started, without an event loop."""
        if self._state == "new" and self._engine_or_none is not None:
            self._engine_or_none.stop()
        self._state = "stopped"

    # --- queries -------------------------------------------------------------------

    async def aquery(
        self,
        text: str,
        *,
        limit: int = 1,
        routes: Sequence[str] | None = None,
        explain: bool = False,
        deadline_ms: int | None = None,
        use_cache: bool = True,
    ) -> Match:
        """Say which route a text belongs to.

        Args:
            text: The query, 1 to 32,768 bytes of UTF-8.
            limit: Report that many candidates, 1 to 100; one reports none.
            routes: Choose among these routes only.
            explain: Report at least five candidates.
            deadline_ms: Give up after that many milliseconds.
            use_cache: False encodes the text anew, to measure.

        Returns:
            The match; false in a condition when no route passes.

        Raises:
            InvalidQuery: The arguments are malformed.
            Overloaded: The queue is full.
            DeadlineExceeded: No answer in time.
            NotReady: The router is stopping.
        """
        query = question(text, limit, routes, explain, use_cache)
        engine = self._engine
        if not engine.is_started:
            return engine.answer_now([query])[0]
        return await self._ask(engine, query, deadline_ms)

    async def _ask(self, engine: Engine, query: Query, deadline_ms: int | None) -> Match:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Match] = loop.create_future()
        query.future, query.loop = future, loop
        engine.submit(query)
        seconds = (deadline_ms or self._config.query_deadline_ms) / 1_000
        handle = loop.call_later(seconds, expire, future, seconds)
        try:
            return await future
        finally:
            handle.cancel()

    async def aquery_batch(
        self,
        texts: Sequence[str],
        *,
        limit: int = 1,
        routes: Sequence[str] | None = None,
        explain: bool = False,
        deadline_ms: int | None = None,
        use_cache: bool = True,
    ) -> list[Match]:
        """Answer up to 1,024 queries, in order; see ``aquery``."""
        if len(texts) > QUERY_BATCH_TEXTS_MAX:
            raise InvalidQuery(f"a batch has at most {QUERY_BATCH_TEXTS_MAX} texts")
        queries = [question(text, limit, routes, explain, use_cache) for text in texts]
        engine = self._engine
        if not engine.is_started:
            return engine.answer_now(queries) if queries else []
        if engine.queue_requests + len(queries) > self._config.queue_requests_max:
            raise Overloaded("the queue has no room for the batch", retry_after_seconds=1.0)
        asked = [asyncio.ensure_future(self._ask(engine, each, deadline_ms)) for each in queries]
        try:
            return list(await asyncio.gather(*asked))
        except BaseException:
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            raise

    def query(
        self,
        text: str,
        *,
        limit: int = 1,
        routes: Sequence[str] | None = None,
        explain: bool = False,
    ) -> Match:
        """Answer on the caller's thread; on the event loop's thread use ``aquery``."""
        engine = self._engine
        if not engine.is_started:
            return engine.answer_now([question(text, limit, routes, explain, True)])[0]
        asked = self.aquery(text, limit=limit, routes=routes, explain=explain)
        return asyncio.run_coroutine_threadsafe(asked, self._other_loop(asked)).result()

    def _other_loop(self, coroutine: Any) -> asyncio.AbstractEventLoop:
        """The router's event loop, if this is not its own thread."""
        assert self._loop is not None
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return self._loop
        if running is self._loop:
            coroutine.close()
            raise ConfigError("on the event loop's thread, await the coroutine instead")
        return self._loop

    # --- writes --------------------------------------------------------------------

    async def aput_route(self, route: Route, guard: Guard = _NO_GUARD) -> WriteResult:
        """Create a route or replace all of it."""
        return await self._writer.put(route, guard)

    async def apatch_route(
        self,
        name: str,
        *,
        threshold: float | Keep | None = KEEP,
        metadata: dict[str, Any] | Keep = KEEP,
        payload: Any = KEEP,
        guard: Guard = _NO_GUARD,
    ) -> WriteResult:
        """Change a route's fields without touching its utterances."""
        if isinstance(threshold, int | float) and not -1.0 <= threshold <= 1.0:
            raise InvalidRoute("threshold must be between -1 and 1")
        try:
            patch = PatchRoute(
                name=check_name(name),
                threshold=float(threshold) if isinstance(threshold, int) else threshold,
                metadata=KEEP if isinstance(metadata, Keep) else canonical_json(metadata),
                payload=KEEP if isinstance(payload, Keep) else canonical_json(payload),
            )
        except ValueError as error:
            raise InvalidRoute(str(error)) from error
        return await self._writer.write(patch, guard)

    async def adelete_route(self, name: str, guard: Guard = _NO_GUARD) -> WriteResult:
        """Remove a route and free its slots."""
        return await self._writer.write(DeleteRoute(name), guard)

    async def aadd_utterances(
        self,
        name: str,
        utterances: Sequence[str],
        vectors: Sequence[Sequence[float]] | None = None,
        guard: Guard = _NO_GUARD,
    ) -> WriteResult:
        """Add examples to a route; those it has already are left as they are."""
        return await self._writer.add(name, utterances, vectors, guard)

    async def aremove_utterances(
        self, name: str, utterances: Sequence[str], guard: Guard = _NO_GUARD
    ) -> WriteResult:
        """Remove examples from a route; the last one cannot be removed."""
        texts, _ = distinct_utterances(utterances, None)
        return await self._writer.write(RemoveUtterances(name, tuple(texts)), guard)

    async def aput_settings(
        self, settings: RouteSetSettings, guard: Guard = _NO_GUARD
    ) -> WriteResult:
        """Replace the settings of the route set, on every node at one position."""
        mutation = PutSettings(Settings(**settings.model_dump()))
        return await self._writer.write(mutation, guard)

    async def aimport(
        self,
        routes: AsyncIterator[Route],
        *,
        replace: bool = False,
        import_id: str | None = None,
        ack: Ack = "applied",
    ) -> ImportResult:
        """Put any number of routes, visible all at once or not at all.

        Args:
            routes: The routes; several with one name are joined.
            replace: Remove the routes that the import does not name.
            import_id: Identity by which an interrupted import is resumed.
            ack: Level of durability to wait for.

        Raises:
            ImportRejected: It cannot be committed; nothing became visible.
        """
        importer = Importer(self._engine, self._writer)
        return await importer.run(routes, replace=replace, import_id=import_id, ack=ack)

    def add_route(self, route: Route) -> WriteResult:
        """Create or replace a route on the caller's thread, before or after ``start``."""
        self._check_local()
        return self._writer.put_now(route, _NO_GUARD)

    def add_utterances(self, name: str, utterances: Sequence[str]) -> WriteResult:
        """Add examples to a route on the caller's thread."""
        self._check_local()
        return self._writer.add_now(name, utterances, _NO_GUARD)

    def delete_route(self, name: str) -> WriteResult:
        """Remove a route on the caller's thread."""
        self._check_local()
        return self._writer.write_now(DeleteRoute(name), _NO_GUARD)

    def _check_local(self) -> None:
        """Synchronous writes need a log that does not live on an event loop."""
        if not self._log.is_local:
            raise ConfigError("with a shared log, await the coroutines that begin with 'a'")

    # --- looking -------------------------------------------------------------------

    async def aget_route(self, name: str) -> StoredRoute:
        """Show one route.

        Raises:
            RouteNotFound: No route has this name.
        """

        def look(tensor: Tensor) -> tuple[RouteRecord | None, Settings]:
            return tensor.routes.get(name), tensor.settings

        record, settings = await asyncio.wrap_future(self._engine.read(look))
        if record is None:
            raise RouteNotFound(f"no route is named {name!r}")
        return stored_route(record, settings)

    async def alist_routes(self, *, after: str = "", limit: int = 100) -> RoutePage:
        """Show up to ``limit`` routes whose names follow ``after``, in order of name."""
        if not 1 <= limit <= PAGE_ROUTES_MAX:
            raise InvalidQuery(f"limit must be 1 to {PAGE_ROUTES_MAX}")

        def look(tensor: Tensor) -> tuple[list[RouteRecord], Settings, str]:
            names = heapq.nsmallest(limit + 1, (n for n in tensor.routes if n > after))
            records = [tensor.routes[name] for name in names]
            return records, tensor.settings, str(tensor.revision)

        records, settings, version = await asyncio.wrap_future(self._engine.read(look))
        shown = [stored_route(record, settings) for record in records[:limit]]
        more = len(records) > limit
        return RoutePage(shown, shown[-1].name if more else None, version)

    async def aget_settings(self) -> RouteSetSettings:
        """Show the settings of the route set."""
        settings = await asyncio.wrap_future(self._engine.read(lambda tensor: tensor.settings))
        return RouteSetSettings(
            aggregation=settings.aggregation,
            topk=settings.topk,
            threshold=settings.threshold,
            capacity_slots=settings.capacity_slots,
        )

    async def aoutcome(self, op_id: bytes) -> WriteResult | None:
        """Find what came of a write, inside the idempotency window.

        Raises:
            RouteError: It was rejected.
        """
        outcome = await asyncio.wrap_future(self._engine.look_up(op_id))
        return None if outcome is None else result_of(outcome, op_id)

    async def achecksum(self) -> dict[str, str]:
        """Show by what two nodes compare: version, digest and the tensor's SHA-256."""

        def look(tensor: Tensor) -> tuple[str, str]:
            return tensor.checksum(), str(tensor.revision)

        checksum, version = await asyncio.wrap_future(self._engine.read(look))
        published = self._engine.published
        return {"version": version, "digest": published.digest, "tensor_sha256": checksum}

    def status(self) -> NodeStatus:
        """Show how the node is; never blocks."""
        return node_status(self._state, self._engine_or_none, self._encoder, self._config)
