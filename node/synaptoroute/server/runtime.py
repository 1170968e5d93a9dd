"""State that the endpoints of one node share.

The server listens before the router is loaded.  Until the router has started, ``router``
raises NotReady and ``/readyz`` says why.  Everything here runs on the event loop, except
``open_router``, which runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from starlette.requests import Request

from synaptoroute.config import NodeConfig
from synaptoroute.core.codec import decode_proposal
from synaptoroute.core.mutation import (
    Audit,
    Finalize,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    OpenEpoch,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.encoder import EncoderStats, TextEncoder
from synaptoroute.errors import ClusterError, NotReady, SynaptoRouteError
from synaptoroute.replication.follower import Follower
from synaptoroute.router import AdaptiveRouter, NodeStatus
from synaptoroute.router.route_sets import SetFigures
from synaptoroute.server.bodies import BODIES_BYTES_MAX, BodyBudget
from synaptoroute.server.documents import each_route, load_routes_file
from synaptoroute.server.metrics import Metrics, parse_version
from synaptoroute.server.traffic import RouteTraffic
from synaptoroute.web.api_keys import ApiKeys
from synaptoroute.web.logs import server_log
from synaptoroute.web.middleware import CONTEXT, context_of
from synaptoroute.web.tls import ClientTls, ServerTls

OpenRouter = Callable[[], tuple[AdaptiveRouter, TextEncoder]]
START_RETRY_SECONDS: Final = 1.0
SEED_RETRY_SECONDS: Final = 2.0
SEED_ENTRIES_MAX: Final = 1_000  # with more entries a log has been used
READY_POLL_SECONDS: Final = 0.02
FORGET_SECONDS: Final = 1.0
"""Longest time that a reader of metrics waits for the names of removed routes."""


class Runtime:
    """One node, as its endpoints see it; draining and a failure are final."""

    def __init__(
        self,
        config: NodeConfig,
        source: AdaptiveRouter | OpenRouter,
        *,
        encoder: TextEncoder | None = None,
        metrics: Metrics | None = None,
        keys: ApiKeys | None = None,
        tls: ServerTls | None = None,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        self.config = config
        self.keys = keys
        self.tls = tls
        self.metrics = metrics or Metrics()
        self.traffic = RouteTraffic()
        self.log = server_log()
        self.bodies = BodyBudget(
            max(BODIES_BYTES_MAX, config.body_bytes_max), config.body_bytes_max
        )
        self.failure: SynaptoRouteError | None = None
        self.is_draining = False
        self.began_at = time.monotonic()
        self.node_header = b""
        self.follower: Follower | None = None  # set with the router, for a member of a cluster
        self._source = source
        self._encoder = encoder
        self._on_failure = on_failure
        self._router: AdaptiveRouter | None = None
        self._serving: AdaptiveRouter | None = None  # set once the router has been ready
        self._forgot_at = ""  # version at which counts of removed routes were forgotten
        self._tasks: list[asyncio.Task[None]] = []
        self.metrics.watch(self._figures)
        self.metrics.watch_sets(
            self._set_figures, self.traffic, config.metrics_sets_max, config.metrics_routes_max
        )
        if keys is not None:
            self.metrics.watch_keys(lambda: keys.status)
        self.metrics.watch_certificates(self._certificates)

    # --- the router ----------------------------------------------------------------

    @property
    def router(self) -> AdaptiveRouter:
        """The router as soon as it is open, for writes, peers and operators."""
        if self._router is None:
            raise self._not_ready("the node has not started yet")
        return self._router

    @property
    def serving_router(self) -> AdaptiveRouter:
        """The router for queries and reads: a member's state may be empty until it caught up."""
        if self._serving is None:
            raise self._not_ready("the node has not caught up since its start")
        return self._serving

    def _not_ready(self, message: str) -> NotReady:
        return NotReady(message, retry_after_seconds=START_RETRY_SECONDS, reasons=self.reasons())

    def status(self) -> NodeStatus | None:
        return None if self._router is None else self._router.status()

    def reasons(self) -> list[str]:
        return self._reasons_of(self.status())

    def _reasons_of(self, status: NodeStatus | None) -> list[str]:
        if self.failure is not None:
            return [f"failed: {self.failure.code}"]
        if self.is_draining:
            return ["draining"]
        if status is None:
            return ["starting"]
        if not status.is_ready:
            return list(status.reasons) or [status.state]
        return [] if self._serving is not None else ["starting"]

    @property
    def state(self) -> str:
        if self.failure is not None:
            return "failed"
        if self.is_draining:
            return "draining"
        status = self.status()
        return "starting" if status is None else status.state

    def _figures(self) -> tuple[NodeStatus, EncoderStats] | None:
        if self._router is None:
            return None
        stats = EncoderStats() if self._encoder is None else self._encoder.stats()
        status = self._router.status()
        return replace(status, is_ready=not self._reasons_of(status)), stats

    def _set_figures(self) -> list[SetFigures]:
        try:
            return [] if self._router is None else self._router.sets.figures()
        except NotReady:  # it stops
            return []

    async def forget_removed(self) -> None:
        """Forget the counts of routes and sets that no longer exist."""
        router, traffic = self._router, self.traffic
        if router is None or (self._forgot_at == router.visible.version and not traffic.has_new):
            return
        version, pairs = router.visible.version, traffic.pairs
        # It may stop, or be busy: metrics are needed most where a node is in trouble.
        with contextlib.suppress(NotReady, TimeoutError):
            async with asyncio.timeout(FORGET_SECONDS):
                removed = await router.sets.removed(pairs)
            traffic.forget(*removed)
            self._forgot_at = version

    def _certificates(self) -> tuple[ServerTls | None, ClientTls | None]:
        return self.tls, None if self.follower is None else self.follower.tls

    # --- life ----------------------------------------------------------------------

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._start(), name="router-start")]
        if self.keys is not None:
            self._tasks.append(asyncio.create_task(self.keys.watch(self.log), name="keys"))
        if self.tls is not None:
            self._tasks.append(asyncio.create_task(self.tls.watch(), name="certificates"))

    async def wait_started(self) -> None:
        await asyncio.shield(self._tasks[0])

    def drain(self) -> None:
        """Become unready; requests are still answered."""
        self.is_draining = True

    async def stop(self) -> None:
        self.drain()
        # Wait for a start that is under way: half a router could not be closed.
        await asyncio.gather(self._tasks[0], return_exceptions=True)
        for task in self._tasks[1:]:
            task.cancel()
        await asyncio.gather(*self._tasks[1:], return_exceptions=True)
        if self._router is not None:
            router, self._router, self.follower = self._router, None, None
            self._serving = None
            await router.stop()
            if self._encoder is not None and not isinstance(self._source, AdaptiveRouter):
                await asyncio.to_thread(self._encoder.close)
                if router.spare is not None:
                    await asyncio.to_thread(router.spare.close)
            self.log.info("stopped")

    async def _start(self) -> None:
        try:
            router = await self._open()
            await router.start()
            if router.follower is not None:
                # A member serves its peers while it catches up; the same peers may wait for it.
                self._publish(router)
                if not await self._is_ready_in_time(router):
                    return
                self._serving = router
            await self._seed(router)
            self._publish(router)
            self._serving = router
            status = router.status()
        except SynaptoRouteError as error:
            self._fail(error)
            self.log.error("start_failed", code=error.code, detail=error.message)
        except Exception as error:
            self._fail(SynaptoRouteError(str(error)))
            self.log.exception("start_failed", code=SynaptoRouteError.code)
        else:
            self.log.info(
                "ready",
                node=status.node,
                version=status.version,
                routes=status.routes,
                model=status.model,
                seconds=round(time.monotonic() - self.began_at, 3),
            )

    def _publish(self, router: AdaptiveRouter) -> None:
        self._router, self.follower = router, router.follower
        # A name with a line break in it would end the head of every response.
        name = "".join(each if each.isprintable() else "?" for each in router.status().node)
        self.node_header = name.encode("ascii", "replace")

    async def _is_ready_in_time(self, router: AdaptiveRouter) -> bool:
        """Wait until a member has caught up; return False if the node drains before that."""
        while not router.status().is_ready:
            if self.is_draining:
                return False
            await asyncio.sleep(READY_POLL_SECONDS)
        return True

    async def _open(self) -> AdaptiveRouter:
        if isinstance(self._source, AdaptiveRouter):
            return self._source
        router, self._encoder = await asyncio.to_thread(self._source)
        return router

    def _fail(self, error: SynaptoRouteError) -> None:
        self.failure = error
        if self._on_failure is not None:
            self._on_failure()

    async def _seed(self, router: AdaptiveRouter) -> None:
        """Import the route file into a database that has never held a route."""
        path = self.config.routes_file
        if path is None or await _was_used(router):
            return
        routes = await asyncio.to_thread(load_routes_file, path)
        while True:
            try:
                result = await router.aimport(each_route(routes))
                break
            except ClusterError as error:
                # A member may have become ready while Redis is away: the file can wait.
                if self.follower is None or self.is_draining:
                    raise
                self.log.warning("routes_file_waits", code=error.code, detail=error.message)
            await asyncio.sleep(SEED_RETRY_SECONDS)
            if await _was_used(router):
                return
        self.log.info("routes_file_applied", path=str(path), routes=result.routes)

    async def reload_keys(self) -> None:
        if self.keys is not None:
            await self.keys.reload_and_log(self.log, force=True)


def runtime_of(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


def router_of(request: Request) -> AdaptiveRouter:
    """The router as soon as it is open, bound to the route set that the path names."""
    name = request.scope[CONTEXT].route_set
    router: AdaptiveRouter = request.app.state.runtime.router
    return router.set(name) if name else router


def serving_router_of(request: Request) -> AdaptiveRouter:
    """The router once it may take queries, bound to the set or alias that the path names."""
    name = context_of(request.scope).route_set
    router = runtime_of(request).serving_router
    return router.set(name) if name else router


async def _was_used(router: AdaptiveRouter) -> bool:
    """Whether the database holds routes, or held any before."""
    status, follower = router.status(), router.follower
    if status.routes > 0 or follower is None:
        # The first entry of a log founds it and holds no route.
        return status.routes > 0 or parse_version(status.version).seq > 1
    read = follower.session.engine.database.read_log
    rows = await asyncio.to_thread(read, 0, entries_max=SEED_ENTRIES_MAX, bytes_max=1 << 20)
    position = follower.session.position
    if len(rows) != position.seq:  # the beginning of the history is no longer here
        return position.seq > 1
    # An audit may come before the first route, and so may an import that broke off.
    return not all(isinstance(decode_proposal(row.frame).mutation, _ROUTELESS) for row in rows)


_ROUTELESS: Final = (
    Audit,
    Finalize,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    OpenEpoch,
    VoterAdd,
    VoterRemove,
)
