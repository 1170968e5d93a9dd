"""AdaptiveRouter: the public class of the library.

It composes encoder, engine, storage and log and keeps no state of its own.  The synchronous
methods are those of release 0.2; the coroutines beside them begin with ``a``.  Before
``start`` everything runs on the caller's thread.
"""

from __future__ import annotations

import asyncio
import builtins
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Any, Final, Literal, Unpack, overload

from synaptoroute.cascade import Calibration, StaticTable
from synaptoroute.cascade.table_store import TableStore
from synaptoroute.config import ClusterConfig, EngineConfig
from synaptoroute.core.mutation import (
    DEFAULT_SET,
    KEEP,
    DeleteRoute,
    Keep,
    PatchRoute,
    PutSettings,
    RemoveUtterances,
    Revision,
)
from synaptoroute.encoder import TextEncoder
from synaptoroute.engine import Engine
from synaptoroute.errors import ConfigError, InvalidRoute, NotCaughtUp, NotReady, SetNotFound
from synaptoroute.forks import guard
from synaptoroute.log import LocalLog, Log
from synaptoroute.models import (
    ImportResult,
    Match,
    Route,
    RouteSetSettings,
    StoredRoute,
    WriteResult,
    canonical_json,
)
from synaptoroute.ports import Published
from synaptoroute.router import reads
from synaptoroute.router.admin import ClusterAdmin, ClusterOperations
from synaptoroute.router.cascade_duty import CascadeDuty, calibrate_set, make_cascade
from synaptoroute.router.changes import Changes
from synaptoroute.router.decider import Decider
from synaptoroute.router.decision_fits import SPREAD_SECONDS, DecisionFitter
from synaptoroute.router.diagnostics import Diagnostics
from synaptoroute.router.erasure import ErasureDuty
from synaptoroute.router.feedback import FeedbackExpiry, FeedbackQueue, stored_settings
from synaptoroute.router.fit_schedule import FitSchedule
from synaptoroute.router.imports import Importer, Routes
from synaptoroute.router.large_writes import LargeWrites
from synaptoroute.router.lifecycle import Lifecycle, Live, other_loop
from synaptoroute.router.open_imports import OpenImports
from synaptoroute.router.queries import (
    QueryArguments,
    answer_on_this_thread,
    answered,
    begin_query,
    make_query,
    query_alone,
    query_batch,
    query_splits,
    split_query,
)
from synaptoroute.router.reads import CascadeReport, NodeStatus, RoutePage
from synaptoroute.router.reverts import SetWriters
from synaptoroute.router.route_checks import (
    checked_description,
    checked_name,
    checked_negatives,
    distinct_utterances,
    is_confidence,
    is_threshold,
)
from synaptoroute.router.route_sets import RouteSetAdmin, RouteSetOperations
from synaptoroute.router.set_changes import SetChanger
from synaptoroute.router.set_engine import of_set
from synaptoroute.router.set_rates import SetRates
from synaptoroute.router.shared_log import follower_of, shared_log
from synaptoroute.router.write_results import result_of
from synaptoroute.router.writes import Ack, WriteOptions, Writer
from synaptoroute.serving.encoder_workers import Observer
from synaptoroute.serving.query import QueryEngine
from synaptoroute.storage import SQLiteStorage

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower

BOUND_ROUTERS_MAX: Final = 4_096
READY_POLL_SECONDS: Final = 0.02
_DEFAULTS: Final = WriteOptions()


class AdaptiveRouter(ClusterOperations, RouteSetOperations):
    """Routes texts to named routes, and changes the routes while it runs.

    Args:
        encoder: Turns texts into vectors.
        storage: The database; None keeps everything in memory only.
        log: Orders the writes; None for a router on its own, a ``cluster.RedisLog`` for
            a member of a cluster.
        config: How to encode, batch and score.
        cluster: How to take part in the cluster.
        observer: Receives measurements of the encoding.
        spare: Second encoder, to which a cluster can switch while it serves.
        cascade: Tables distilled from these encoders; None for those that ship or were
            prepared.  A store may get more from peers.  With one, and if the settings of
            the route set allow it, sure queries need no encoder.

    Attributes:
        spare: The second encoder, if any.
        route_set: The set that it is bound to; empty for ``default``.
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
        cascade: TableStore | Sequence[StaticTable] | None = None,
    ) -> None:
        self._encoder = encoder
        held = [encoder, spare] if spare else [encoder]
        self._cascade = make_cascade(held, cascade, is_member=log is not None)
        self.spare = spare
        self._storage = storage or SQLiteStorage(":memory:")
        self._log = log or LocalLog()
        self._config = config or EngineConfig()
        self._cluster = cluster
        self._observer = observer
        self.route_set = ""
        self._root = self
        self._live = Live()
        self._calibrator: CascadeDuty | None = None
        self._running_imports: builtins.set[str] = builtins.set()
        self._open_imports: OpenImports | None = None
        self._expiry: FeedbackExpiry | None = None
        self._erasures: ErasureDuty | None = None
        self._large_writes = LargeWrites(self._running_imports)
        self._lifecycle = Lifecycle(self._make_engine)
        # Returns the engine; before `start` the first call reads the database.
        self._engine = self._lifecycle.opened
        self._rates = SetRates()
        self._schedule = FitSchedule(self._engine, self._fitter, is_on=self._config.fit_confidence)
        self.decider = Decider(self._engine, self._config)
        self._bound: OrderedDict[str, AdaptiveRouter] = OrderedDict()
        guard(self)

    # --- route sets --------------------------------------------------------------------

    def set(self, name: str) -> AdaptiveRouter:
        """Bind this router to one route set: what is returned queries, reads and writes there.

        It is cheap, shares everything else, and is started and stopped with this one.  Its calls
        raise ``SetNotFound`` if there is no such set.  For queries, ``name`` may be an alias.
        """
        root = self._root
        if name in ("", DEFAULT_SET):
            return root
        bound = root._bound.get(name)
        if bound is None:
            bound = root._bound[name] = copy(root)
            bound.route_set = name
            bound._engine = lambda: of_set(root._engine(), name)
            bound.decider = Decider(bound._engine, root._config, root.decider.vectors)
            if len(root._bound) > BOUND_ROUTERS_MAX:  # names of clients, that may not exist
                root._bound.popitem(last=False)
        return bound

    @property
    def sets(self) -> RouteSetAdmin:
        """The route sets and aliases of the cluster."""
        root = self._root
        return RouteSetAdmin(root._engine(), root._writer())

    @property
    def fits(self) -> DecisionFitter:
        """Fits the numbers behind the confidence of the route set."""
        return self._root._schedule.fitter_of(self.route_set)

    def _fitter(self, name: str) -> DecisionFitter:
        """The fitter of one set; it is not started by itself."""
        bound = self.set(name)
        return DecisionFitter(lambda: bound._engine(), lambda: bound._writer())

    @property
    def follower(self) -> Follower | None:
        """Follows the log of a cluster; None for a router on its own."""
        return self._live.follower

    # --- lifecycle ---------------------------------------------------------------------

    def _make_engine(self) -> QueryEngine:
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

    def _writer(self) -> Writer:
        return Writer(
            self._engine(),
            self._log,
            self._live.follower,
            self._large_writes,
            self.route_set,
            self._rates,
        )

    async def start(self) -> None:
        """Read the database and start the threads; with a shared log, begin to follow it.

        A member of a cluster is started at once and ready when it has caught up:
        see ``status`` and ``wait_ready``.

        Raises:
            EncoderMismatch: The database holds vectors of another encoder.
            StorageUnavailable: The database cannot be opened.
        """
        if self._root is not self:
            raise ConfigError("a router that is bound to a route set starts with its router")
        self._live.loop = asyncio.get_running_loop()
        await self._lifecycle.start()
        if self.follower is None and (log := shared_log(self._log)) is not None:
            found = await follower_of(self._engine(), log, self._cluster or ClusterConfig())
            self._live.follower = found
            await found.start()
        if self._open_imports is None:
            self._open_imports = self.open_imports
            self._open_imports.start()
        if self._expiry is None:
            self._expiry = FeedbackExpiry(self.feedback, self._feedback_queues)
            self._expiry.start()
        if self._erasures is None:
            self._erasures = ErasureDuty(lambda: self.changes.eraser)
            self._erasures.start()
        self._schedule.start(SPREAD_SECONDS if self.follower else 0.0)
        if self._cascade is not None and self._calibrator is None:
            self._calibrator = CascadeDuty(
                lambda name: self.set(name).acalibrate(),
                self._engine,
                self._writer,
                self._cascade,
                self.follower,
                is_fitting=self._config.fit_confidence,
                distil_tokens_max=self._config.distil_tokens_max,
            )
            self._calibrator.start()

    async def wait_ready(self, timeout_seconds: float = 30.0) -> None:
        """Wait until the router may take queries.

        Raises:
            NotReady: It is not ready in time; the message gives the reasons.
        """
        deadline = time.monotonic() + timeout_seconds
        while not (status := self.status()).is_ready:
            if time.monotonic() >= deadline:
                raise NotReady("; ".join(status.reasons), retry_after_seconds=1.0)
            await asyncio.sleep(READY_POLL_SECONDS)

    async def stop(self) -> None:
        """Refuse new requests, answer the accepted ones, close the database."""
        if self._root is not self:
            raise ConfigError("a router that is bound to a route set stops with its router")
        duties = (self._calibrator, self._expiry, self._erasures, self._open_imports)
        for duty in (self._schedule, *duties):
            if duty is not None:
                await duty.stop()
        await self._large_writes.close()
        if self.follower is not None:
            await self.follower.stop()
        await self._lifecycle.stop()

    def close(self) -> None:
        """Close a router that was never started, without an event loop.

        Raises:
            ConfigError: It was started; await ``stop``.
        """
        self._schedule.close()
        self._lifecycle.close()

    # --- queries -----------------------------------------------------------------------

    @overload
    async def aquery(
        self, text: str, *, split: Literal[False] = ..., **options: Unpack[QueryArguments]
    ) -> Match: ...

    @overload
    async def aquery(
        self, text: str, *, split: Literal[True], **options: Unpack[QueryArguments]
    ) -> list[Match]: ...

    async def aquery(
        self, text: str, *, split: bool = False, **options: Unpack[QueryArguments]
    ) -> Match | list[Match]:
        """Find the route that a text belongs to.

        Args:
            text: The query, 1 to 32,768 bytes of UTF-8.
            split: Route each clause of the text, at most eight, and return a list of matches
                with the ``span`` of each.  Neighbouring clauses of one route are one part; a
                text of one clause gets the match that it gets without.
            options: See ``QueryArguments``.

        Returns:
            The match; false in a condition if no route matches.

        Raises:
            InvalidQuery: The arguments are malformed.
            Overloaded: The queue is full, or the answer would come too late.  Overload
                is reported before malformed arguments.
            DeadlineExceeded: There is no answer in time.
            NotReady: The router is stopping.
        """
        if split:
            return (await self.aquery_splits([text], **options))[0]
        return await answered(self.begin_query(text, **options))

    def begin_query(self, text: str, **options: Any) -> Match | asyncio.Future[Match]:
        """Start a query on the event loop; arguments and errors are those of ``aquery``.

        ``is_checked=True`` says that the caller has validated the arguments.
        """
        return begin_query(self._engine(), self._config, text, **options)

    async def aquery_batch(
        self,
        texts: Sequence[str],
        *,
        is_checked: bool = False,
        flow: str = "",
        **options: Unpack[QueryArguments],
    ) -> list[Match]:
        """Answer up to 1,024 queries, in order, all or none; see ``begin_query``.

        Raises:
            TooLarge: There are more texts than the queue can hold.
        """
        return await query_batch(
            self._engine(), self._config, texts, is_checked=is_checked, flow=flow, **options
        )

    async def aquery_splits(
        self, texts: Sequence[str], *, flow: str = "", **options: Unpack[QueryArguments]
    ) -> list[list[Match]]:
        """Route each clause of each text: one list a text; see ``aquery``.

        Raises:
            TooLarge: There are more clauses than the queue can hold.
        """
        return await query_splits(self._engine(), self._config, texts, flow=flow, **options)

    @overload
    def query(
        self, text: str, *, split: Literal[False] = ..., **options: Unpack[QueryArguments]
    ) -> Match: ...

    @overload
    def query(
        self, text: str, *, split: Literal[True], **options: Unpack[QueryArguments]
    ) -> list[Match]: ...

    def query(
        self, text: str, *, split: bool = False, **options: Unpack[QueryArguments]
    ) -> Match | list[Match]:
        """Answer on the caller's thread; on the event loop's thread use ``aquery``."""
        engine = self._engine()
        if engine.is_started:
            alone = None if split else query_alone(engine, self._config, text, options, self._live)
            if alone is not None:
                return alone
            asked: Any = self.aquery(text, split=split, **options)  # type: ignore[call-overload]
            answer: Match | list[Match] = asyncio.run_coroutine_threadsafe(
                asked, other_loop(self._live, asked)
            ).result()
            return answer
        if split:
            parts, queries = split_query(text, options)
            return parts.combine(answer_on_this_thread(engine, queries))
        return answer_on_this_thread(engine, [make_query(text, options)])[0]

    def check_queue(self, deadline_ms: int, flow: str = "") -> None:
        """Refuse a query of a client, before it is parsed, if each would be refused now.

        Raises:
            Overloaded: The queue is full, or the answer would come too late.
            NotReady: The router is not open.
        """
        engine = self._engine()
        if engine.is_started:
            engine.check_queue((None,), False, deadline_ms / 1_000, flow)

    # --- writes ------------------------------------------------------------------------

    async def aput_route(
        self, route: Route, options: WriteOptions = _DEFAULTS, *, is_checked: bool = False
    ) -> WriteResult:
        """Create a route or replace the whole route.

        Args:
            route: The route.
            options: Identity, preconditions and durability.
            is_checked: Whether the route was validated just now and has not been changed
                since; then it is not validated again.
        """
        return await self._writer().put(route, options, is_checked)

    async def apatch_route(
        self,
        name: str,
        *,
        threshold: float | Keep | None = KEEP,
        metadata: dict[str, Any] | Keep = KEEP,
        payload: Any = KEEP,
        confidence_min: float | Keep | None = KEEP,
        description: str | Keep | None = KEEP,
        negatives: Sequence[str] | Keep = KEEP,
        options: WriteOptions = _DEFAULTS,
    ) -> WriteResult:
        """Change a route's fields without touching its utterances.

        A description of None removes it, and an empty list of negatives removes those.
        """
        if not is_threshold(threshold):
            raise InvalidRoute("threshold must be a number between -1 and 1, or null")
        if not is_confidence(confidence_min):
            raise InvalidRoute("confidence_min must be a number between 0 and 1, or null")
        if not isinstance(metadata, dict | Keep):
            raise InvalidRoute("metadata must be an object")
        try:
            patch = PatchRoute(
                name=checked_name(name),
                threshold=float(threshold) if isinstance(threshold, int) else threshold,
                metadata=KEEP if isinstance(metadata, Keep) else canonical_json(metadata),
                payload=KEEP if isinstance(payload, Keep) else canonical_json(payload),
                confidence_min=float(confidence_min)
                if isinstance(confidence_min, int)
                else confidence_min,
                description=checked_description(description),
                negatives=checked_negatives(negatives),
            )
        except ValueError as error:
            raise InvalidRoute(str(error)) from error
        return await self._writer().patch(patch, options)

    async def adelete_route(self, name: str, options: WriteOptions = _DEFAULTS) -> WriteResult:
        """Remove a route and free its slots."""
        return await self._writer().write(DeleteRoute(checked_name(name)), options)

    async def aadd_utterances(
        self,
        name: str,
        utterances: Sequence[str],
        vectors: Sequence[Sequence[float]] | None = None,
        options: WriteOptions = _DEFAULTS,
    ) -> WriteResult:
        """Add examples to a route; existing ones stay as they are."""
        return await self._writer().add(name, utterances, vectors, options)

    async def aremove_utterances(
        self, name: str, utterances: Sequence[str], options: WriteOptions = _DEFAULTS
    ) -> WriteResult:
        """Remove examples from a route; the last one cannot be removed."""
        texts, _ = distinct_utterances(utterances, None)
        mutation = RemoveUtterances(checked_name(name), tuple(texts))
        return await self._writer().write(mutation, options)

    async def aput_settings(
        self, settings: RouteSetSettings, options: WriteOptions = _DEFAULTS
    ) -> WriteResult:
        """Replace the settings of the route set, on every node at one position."""
        mutation = PutSettings(stored_settings(settings))
        return await self._writer().write(mutation, options)

    async def aimport(
        self,
        routes: Routes,
        *,
        replace: bool = False,
        import_id: str | None = None,
        ack: Ack = "applied",
    ) -> ImportResult:
        """Put any number of routes, which become visible together or not at all.

        Args:
            routes: The routes, from any iterable; several with one name are joined.
            replace: Remove the routes that the import does not contain.
            import_id: Identity by which an interrupted import is resumed.
            ack: Level of durability to wait for.

        Raises:
            ImportRejected: It cannot be committed; nothing became visible.
        """
        importer = Importer(self._engine(), self._writer(), self._running_imports, self._config)
        return await importer.run(routes, replace=replace, import_id=import_id, ack=ack)

    @property
    def set_changes(self) -> SetChanger:
        """Changes of routes, settings and tests at one place of the log."""
        return SetChanger(self._engine(), self._writer(), self._running_imports, self._config)

    @property
    def open_imports(self) -> OpenImports:
        """The imports that are neither committed nor aborted."""
        if self._open_imports is not None and self._root is self:
            return self._open_imports
        return OpenImports(
            self._engine(),
            self._writer(),
            self._log,
            self.follower,
            self._running_imports,
            self._config.import_idle_seconds,
        )

    async def aoutcome(self, op_id: bytes) -> WriteResult | None:
        """Find the outcome of a write inside the idempotency window.

        Raises:
            RouteError: It was rejected.
        """
        outcome = await asyncio.wrap_future(self._engine().look_up(op_id))
        return None if outcome is None else result_of(outcome, op_id)

    def add_route(self, route: Route) -> WriteResult:
        """Create or replace a route on the caller's thread, before or after ``start``."""
        self._check_local()
        return self._writer().put_now(route, _DEFAULTS)

    def add_utterances(self, name: str, utterances: Sequence[str]) -> WriteResult:
        """Add examples to a route on the caller's thread."""
        self._check_local()
        return self._writer().add_now(name, utterances, _DEFAULTS)

    def delete_route(self, name: str) -> WriteResult:
        """Remove a route on the caller's thread."""
        self._check_local()
        return self._writer().write_now(DeleteRoute(checked_name(name)), _DEFAULTS)

    def _check_local(self) -> None:
        # A shared log lives on the event loop; a synchronous caller cannot wait for it.
        if not self._log.is_local:
            raise ConfigError("with a shared log, await the coroutines that begin with 'a'")

    # --- reads -------------------------------------------------------------------------

    async def await_version(self, version: Revision, timeout_seconds: float = 2.0) -> None:
        """Wait until a version is visible here, to read one's own write on another node.

        Raises:
            NotCaughtUp: It is not visible in time.
            VersionLost: It belongs to a write that a later epoch left behind.
        """
        if self.follower is not None:
            await self.follower.barriers.wait_version(version, timeout_seconds)
            return
        current = self._engine().published.position.revision
        if version > current:
            raise NotCaughtUp(f"this node stands at {current}")

    async def await_head(self, timeout_seconds: float = 2.0) -> Revision:
        """Wait until everything is visible that the log holds now, and voters confirm it.

        Returns:
            The version that a majority of the voters holds.  What is read here at a later
            version may still be lost; call again to have that confirmed, too.

        Raises:
            SequencerUnavailable: The log does not answer.
            HeadNotConfirmed: No majority of the voters confirms that the head is the newest.
            NotCaughtUp: It is not visible in time.
        """
        if self.follower is not None:
            return await self.follower.head_reads.wait(timeout_seconds)
        return self.visible.position.revision

    async def aget_route(self, name: str) -> StoredRoute:
        """Read one route.

        Raises:
            RouteNotFound: No route has this name.
        """
        return await reads.get_route(self._engine(), name)

    async def alist_routes(self, *, after: str = "", limit: int = 100) -> RoutePage:
        """Read up to ``limit`` routes whose names follow ``after``, in order of name."""
        return await reads.list_routes(self._engine(), after, limit)

    async def aget_settings(self) -> RouteSetSettings:
        """Read the settings of the route set."""
        return await reads.get_settings(self._engine(), self._writer().level)

    async def achecksum(self) -> dict[str, str]:
        """Read what two nodes compare: version, digest and the tensor's SHA-256."""
        return await reads.get_checksum(self._engine())

    @property
    def visible(self) -> Published:
        """The state that queries see: another object after every change in any route set."""
        return self._lifecycle.opened().published

    def status(self) -> NodeStatus:
        """Describe the node; never blocks."""
        return reads.node_status(
            self._lifecycle.state,
            self._lifecycle.engine,
            self.follower,
            self._cascade,
            self._encoder,
            self._config,
            self.fits,
        )

    def cascade(self) -> CascadeReport:
        """Describe the cascade on this node; never blocks."""
        found = reads.cascade_status(self._lifecycle.engine, self._cascade, self.route_set)
        return reads.cascade_report(found)

    def propagation(self) -> list[tuple[int, float]]:
        """Pairs of seq and milliseconds from the log to visible here, newest last."""
        offset_ms = self.follower.clock.lead_ms if self.follower else 0.0
        delays = self._engine().delays
        return [(seq, round(delay_us / 1_000 - offset_ms, 3)) for seq, delay_us in delays]

    @property
    def diagnostics(self) -> Diagnostics:
        """Previews, conflicts, scrubs and comparisons of encoders."""
        return Diagnostics(self._engine(), self._writer(), self.follower)

    def _feedback_queues(self) -> Iterator[FeedbackQueue]:
        """The review queues of the sets that keep feedback."""
        engine = self._engine()
        for name in engine.set_names:
            with suppress(SetNotFound):  # it was removed meanwhile
                if engine.published_of(name).settings.feedback or name == DEFAULT_SET:
                    yield self.set(name).feedback

    @property
    def feedback(self) -> FeedbackQueue:
        """The review queue, and changes of several routes at once."""
        return FeedbackQueue(self._engine(), self._writer(), self._log)

    # --- the cluster -------------------------------------------------------------------

    def _admin(self) -> ClusterAdmin:
        root = self._root
        return ClusterAdmin(root._engine(), root._writer_of(""), root.follower, root._writer_of)

    def _writer_of(self, name: str) -> Writer:
        return self.set(name)._writer()

    async def acalibrate(self) -> tuple[Calibration, WriteResult]:
        """Calibrate the cascade on the current routes, on every node at one position.

        Raises:
            ConfigError: This node has no table of the encoder that serves.
            ClusterError: The log did not take it.
        """
        engine, writer = self._engine(), self._writer()
        cascade = engine.cascade_of(self.route_set) or self._cascade
        return await calibrate_set(engine, writer, cascade)

    @property
    def changes(self) -> Changes:
        """The history, reverts, tests, promotions and erasures."""
        engine, name = self._root._engine(), self.route_set or DEFAULT_SET
        log, config = self._log, self._config
        return Changes(engine, self._writer(), log, config, self._writers_of, name)

    def _writers_of(self, name: str) -> SetWriters:
        bound = self.set(name)
        return SetWriters(bound._engine(), bound._writer(), bound.set_changes)
