"""The application of one node: endpoints, middleware and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from fastapi import Depends, FastAPI

from synaptoroute.config import NodeConfig
from synaptoroute.encoder import TextEncoder
from synaptoroute.router import AdaptiveRouter
from synaptoroute.server import (
    change_endpoints,
    cluster_endpoints,
    decision_endpoints,
    erase_endpoints,
    feedback_endpoints,
    history_endpoints,
    node_endpoints,
    promotion_endpoints,
    query_endpoints,
    route_endpoints,
    set_endpoints,
    shadow_endpoints,
    transfer_endpoints,
)
from synaptoroute.server.decision_handler import DecisionHandler
from synaptoroute.server.metrics import Metrics
from synaptoroute.server.middleware import NodePolicy
from synaptoroute.server.parameters import await_consistency
from synaptoroute.server.query_handler import QueryHandler
from synaptoroute.server.responses import openapi_document
from synaptoroute.server.runtime import OpenRouter, Runtime
from synaptoroute.version import __version__
from synaptoroute.web.api_keys import ApiKeys
from synaptoroute.web.cors import add_cors
from synaptoroute.web.middleware import Middleware, add_error_handlers
from synaptoroute.web.openapi import operation_id, serve_document
from synaptoroute.web.tls import ServerTls
from synaptoroute.web.tracing import RequestTracer

_READING: Final = (
    query_endpoints,
    decision_endpoints,
    route_endpoints,
    set_endpoints,
    transfer_endpoints,
    change_endpoints,
    promotion_endpoints,
)
"""Endpoints that may be asked for a version or for the head of the log."""
_OTHERS: Final = (
    shadow_endpoints,
    node_endpoints, cluster_endpoints, feedback_endpoints, history_endpoints, erase_endpoints
)  # fmt: skip


def create_app(
    router: AdaptiveRouter | OpenRouter,
    config: NodeConfig,
    *,
    encoder: TextEncoder | None = None,
    metrics: Metrics | None = None,
    keys: ApiKeys | None = None,
    tls: ServerTls | None = None,
    tracer: RequestTracer | None = None,
    on_failure: Callable[[], None] | None = None,
) -> FastAPI:
    """Make the application; its lifespan starts and stops the router.

    Args:
        router: The router, or a function that makes it and its encoder in a thread.
        config: Settings of the process.
        encoder: The encoder of a router that is given, for its metrics.
        metrics: Where to count; the same object may observe the router's engine.
        keys: API keys; None allows everybody.
        tls: Certificates of the server, for their metrics and reloads.
        tracer: Makes the spans of requests; None if they are not traced.
        on_failure: Called on the event loop if the router does not start.
    """
    runtime = Runtime(
        config,
        router,
        encoder=encoder,
        metrics=metrics,
        keys=keys,
        tls=tls,
        on_failure=on_failure,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runtime.start()
        try:
            yield
        finally:
            await runtime.stop()

    app = FastAPI(
        title="SynaptoRoute node",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
    )
    app.state.runtime = runtime
    policy = NodePolicy(runtime, tracer)
    app.state.policy = policy
    app.state.decision_handler = DecisionHandler(runtime, policy)
    app.state.query_handler = QueryHandler(runtime, policy, app.state.decision_handler)
    app.add_middleware(Middleware, policy=policy)
    add_cors(app, config)
    add_error_handlers(app)
    for module in _READING:
        app.include_router(module.endpoints, dependencies=[Depends(await_consistency)])
    for module in _OTHERS:
        app.include_router(module.endpoints)
    app.include_router(cluster_endpoints.peer_endpoints)
    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]
    serve_document(app)
    return app
