"""AdaptiveRouter: the library's face.

It wires encoder, engine, storage and log and keeps no state of its own.  The
synchronous names are those of release 0.2; the coroutines beside them begin with
``a``.  Before ``start`` everything runs on the caller's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from synaptoroute.cascade import StaticTable
from synaptoroute.cascade.calibrator import Calibrator
from synaptoroute.cascade.cascade import Cascade
from synaptoroute.config import ClusterConfig, EngineConfig
from synaptoroute.core.mutation import (
    KEEP,
    DeleteRoute,
    Keep,
    PatchRoute,
    PutSettings,
    RemoveUtterances,
    Settings,
)
from synaptoroute.encoder import TextEncoder
from synaptoroute.engine import Engine
from synaptoroute.errors import (
    ConfigError,
    InvalidRoute,
    NotReady,
)
from synaptoroute.log import LocalLog, Log
from synaptoroute.models import (
    CascadeReport,
    ImportResult,
    Match,
    Route,
    RouteSetSettings,
    WriteResult,
    canonical_json,
)
from synaptoroute.replication.follower import Follower
from synaptoroute.router.imports import Importer
from synaptoroute.router.life import Life
from synaptoroute.router.queries import (
    answer_here,
    answered,
    ask_all,
    begin,
    question,
)
from synaptoroute.router.reads import cascade_report
from synaptoroute.router.repairs import Repairs
from synaptoroute.router.status import NodeStatus, node_status
from synaptoroute.router.write_options import Ack, Guard
from synaptoroute.router.writes import (
    Writer,
    checked_name,
    distinct_utterances,
    is_threshold,
)
from synaptoroute.sequencer import RedisLog
from synaptoroute.serving.encoder_workers import Observer
from synaptoroute.serving.query import QueryEngine
from synaptoroute.storage import SQLiteStorage

READY_POLL_SECONDS: Final = 0.02
_NO_GUARD = Guard()


class AdaptiveRouter(Repairs):
    """Routes texts to named routes, and changes the routes while it runs.

    Args:
        encoder: Turns texts into vectors.
        storage: The database; None keeps everything in memory only.
        log: Where writes get their order; None for a router on its own, a
            ``cluster.RedisLog`` for a member of a cluster.
        config: How to encode, batch and score.
        cluster: How to take part in the cluster.
        observer: Receives measurements of the encoding.
        spare: Second encoder, to which a cluster may change while it serves.
        cascade: Tables that were distilled from these encoders; with one, and where the
            settings of the route set ask for it, sure queries need no encoder.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        storage: SQLiteStorage | None = None,
        *,
        log: Log | None = None,
        config: EngineConfig | None = None,
        cluster: ClusterConfig | None = None,
        observer: Observer | None = None,
        spare: TextEncoder | None = None,
        cascade: Sequence[StaticTable] = (),
    ) -> None:
        self._encoder = encoder
        self._cascade = Cascade(cascade) if cascade else None
        self.spare = spare
        self._storage = storage or SQLiteStorage(":memory:")
        self._log = log or LocalLog()
        self._config = config or EngineConfig()
        self._cluster = cluster
        self._observer = observer
        self.follower: Follower | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calibrator: Calibrator | None = None
        self._running_imports: set[str] = set()
        self._life = Life(self._make_engine)

    # --- life ----------------------------------------------------------------------

    def _make_engine(self) -> Engine:
        """Read the database."""
        engine = Engine(
            self._encoder,
            self._storage,
            self._config,
            self._observer,
            spare=self.spare,
            cascade=self._cascade,
        )
        if isinstance(self._log, LocalLog):
            self._log.attach(engine.propose)
        return engine

    @property
    def _engine(self) -> QueryEngine:
        """The engine; before ``start`` the first use reads the database."""
        return self._life.opened()

    @property
    def _writer(self) -> Writer:
        return Writer(self._engine, self._log, self.follower)

    async def start(self) -> None:
        """Read the database and start the threads; with a shared log, begin to follow it.

        A member of a cluster is started at once and ready when it has caught up:
        see ``status`` and ``wait_ready``.

        Raises:
            EncoderMismatch: The database holds another encoder's vectors.
            StorageUnavailable: The database cannot be opened.
        """
        self._loop = asyncio.get_running_loop()
        await self._life.start()
        if isinstance(self._log, RedisLog) and self.follower is None:
            self.follower = Follower(self._engine, self._log, self._cluster or ClusterConfig())
            await self.follower.start()
        if self._cascade is not None and self._calibrator is None:
            self._calibrator = Calibrator(
                self.acalibrate, self._cascade, self._live_tables if self.follower else None
            )
            self._calibrator.start()

    async def _live_tables(self) -> set[str]:
        """Names of the static tables that live nodes have."""
        assert isinstance(self._log, RedisLog)
        nodes = await self._log.presence.nodes()
        return {name for seen in nodes if seen.is_live for name in seen.report.tables.split(",")}

    async def wait_ready(self, timeout_seconds: float = 30.0) -> None:
        """Wait until the router may take queries.

        Raises:
            NotReady: It may not, in time; the message says why.
        """
        deadline = time.monotonic() + timeout_seconds
        while not (status := self.status()).is_ready:
            if time.monotonic() >= deadline:
                raise NotReady("; ".join(status.reasons), retry_after_seconds=1.0)
            await asyncio.sleep(READY_POLL_SECONDS)

    async def stop(self) -> None:
        """Refuse newcomers, answer what was accepted, close the database."""
        if self._calibrator is not None:
            await self._calibrator.stop()
        if self.follower is not None:
            await self.follower.stop()
        await self._life.stop()

    def close(self) -> None:
        """Close a router that was never started, without an event loop.

        Raises:
            ConfigError: It was started; await ``stop``.
        """
        self._life.close()

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
            deadline_ms: Give up after that many milliseconds, at least 1.
            use_cache: False encodes the text anew, to measure.

        Returns:
            The match; false in a condition when no route passes.

        Raises:
            InvalidQuery: The arguments are malformed.
            Overloaded: The queue is full, or the answer would come too late; whoever is
                refused for what waits already is refused before the arguments are looked at.
            DeadlineExceeded: No answer in time.
            NotReady: The router is stopping.
        """
        return await answered(
            self.begin_query(
                text,
                limit=limit,
                routes=routes,
                explain=explain,
                deadline_ms=deadline_ms,
                use_cache=use_cache,
            )
        )

    def begin_query(self, text: str, **options: Any) -> Match | asyncio.Future[Match]:
        """Begin to answer, on the event loop; arguments and errors are those of ``aquery``."""
        return begin(self._engine, self._config, text, **options)

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
        """Answer up to 1,024 queries, in order and all or none; see ``aquery``.

        Raises:
            TooLarge: More texts than the queue could ever hold.
        """
        return await ask_all(
            self._engine,
            self._config,
            texts,
            limit=limit,
            routes=routes,
            explain=explain,
            deadline_ms=deadline_ms,
            use_cache=use_cache,
        )

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
            return answer_here(engine, [question(text, limit, routes, explain, True)])[0]
        asked = self.aquery(text, limit=limit, routes=routes, explain=explain)
        return asyncio.run_coroutine_threadsafe(asked, self._other_loop(asked)).result()

    def _other_loop(self, coroutine: Any) -> asyncio.AbstractEventLoop:
        """The router's event loop, if this is not its own thread."""
        assert self._loop is not None
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            coroutine.close()
            raise ConfigError("on the event loop's thread, await the coroutine instead")
        if not self._loop.is_running():
            coroutine.close()
            raise NotReady("the event loop on which the router was started has ended")
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
        if not is_threshold(threshold):
            raise InvalidRoute("threshold must be a number between -1 and 1, or null")
        if not isinstance(metadata, dict | Keep):
            raise InvalidRoute("metadata must be an object")
        try:
            patch = PatchRoute(
                name=checked_name(name),
                threshold=float(threshold) if isinstance(threshold, int) else threshold,
                metadata=KEEP if isinstance(metadata, Keep) else canonical_json(metadata),
                payload=KEEP if isinstance(payload, Keep) else canonical_json(payload),
            )
        except ValueError as error:
            raise InvalidRoute(str(error)) from error
        return await self._writer.write(patch, guard)

    async def adelete_route(self, name: str, guard: Guard = _NO_GUARD) -> WriteResult:
        """Remove a route and free its slots."""
        return await self._writer.write(DeleteRoute(checked_name(name)), guard)

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
        mutation = RemoveUtterances(checked_name(name), tuple(texts))
        return await self._writer.write(mutation, guard)

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
        importer = Importer(self._engine, self._writer, self._running_imports)
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
        return self._writer.write_now(DeleteRoute(checked_name(name)), _NO_GUARD)

    def _check_local(self) -> None:
        """Synchronous writes need a log that does not live on an event loop."""
        if not self._log.is_local:
            raise ConfigError("with a shared log, await the coroutines that begin with 'a'")

    # --- looking -------------------------------------------------------------------

    def cascade(self) -> CascadeReport:
        """Show how the cascade stands on this node; never blocks."""
        return cascade_report(self.status().cascade)

    def status(self) -> NodeStatus:
        """Show how the node is; never blocks."""
        return node_status(
            self._life.state,
            self._life.engine,
            self.follower,
            self._cascade,
            self._encoder,
            self._config,
        )
