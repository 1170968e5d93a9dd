"""The application of one node: endpoints, door and life."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.config import NodeConfig
from synaptoroute.encoder import TextEncoder
from synaptoroute.router import AdaptiveRouter
from synaptoroute.server import (
    cluster_endpoints,
    fleet_endpoints,
    node_endpoints,
    peer_endpoints,
    query_endpoints,
    recovery_endpoints,
    route_endpoints,
    transfer_endpoints,
)
from synaptoroute.server.fast_path import Express
from synaptoroute.server.metrics import Metrics
from synaptoroute.server.middleware import Door, problem_headers, request_id_of
from synaptoroute.server.openapi import openapi_document
from synaptoroute.server.query_handler import HotQuery
from synaptoroute.server.read_consistency import keep_pace
from synaptoroute.server.responses import json_answer
from synaptoroute.server.runtime import OpenRouter, Runtime
from synaptoroute.version import __version__
from synaptoroute.web.keys import KeyRing
from synaptoroute.web.problems import (
    FIELD_CHARACTERS_MAX,
    Problem,
    first_message,
    shorten,
)
from synaptoroute.web.refusals import (
    EndpointNotFound,
    InvalidParameter,
    MalformedBody,
    MethodNotAllowed,
)

_CODE_BY_STATUS = {
    400: MalformedBody.code,
    404: EndpointNotFound.code,
    405: MethodNotAllowed.code,
}
# Where a parameter stands, as the framework calls it; people know it by its name.
_PLACES = frozenset({"path", "query", "header", "body", "cookie"})


def create_app(
    router: AdaptiveRouter | OpenRouter,
    config: NodeConfig,
    *,
    encoder: TextEncoder | None = None,
    metrics: Metrics | None = None,
    keys: KeyRing | None = None,
    on_failure: Callable[[], None] | None = None,
) -> FastAPI:
    """Make the application; its lifespan starts and stops the router.

    Args:
        router: The router, or what makes it and its encoder, called in a thread.
        config: Settings of the process.
        encoder: The router's encoder, for its metrics; known where it is made here.
        metrics: Where to count; the same object may observe the router's engine.
        keys: API keys; None serves everybody.
        on_failure: Called on the event loop when the router could not be started.
    """
    runtime = Runtime(
        config, router, encoder=encoder, metrics=metrics, keys=keys, on_failure=on_failure
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
    )
    app.state.runtime = runtime
    hot_query = HotQuery(runtime)
    app.state.express = Express(runtime, hot_query)
    app.add_middleware(cast(Any, Door), runtime=runtime, hot_query=hot_query)
    app.add_exception_handler(RequestValidationError, _refuse_parameters)
    app.add_exception_handler(HTTPException, _refuse)
    for room in (query_endpoints, route_endpoints, transfer_endpoints):
        app.include_router(room.endpoints, dependencies=[Depends(keep_pace)])
    for room in (
        fleet_endpoints,
        node_endpoints,
        cluster_endpoints,
        recovery_endpoints,
        peer_endpoints,
    ):
        app.include_router(room.endpoints)
    _serve_document(app)
    return app


def _serve_document(app: FastAPI) -> None:
    """Serve the OpenAPI document; no page, which would need files from elsewhere."""

    async def show_document(request: Request) -> Response:
        return json_answer(_document_bytes(app))

    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]
    app.add_api_route(
        "/v1/openapi.json",
        show_document,
        include_in_schema=False,
    )


def _document_bytes(app: FastAPI) -> bytes:
    return json.dumps(app.openapi(), separators=(",", ":")).encode()


async def _refuse_parameters(request: Request, error: Exception) -> Response:
    """Say which parameter is wrong, without repeating its value."""
    assert isinstance(error, RequestValidationError)
    found = [
        {
            "field": shorten(".".join(_parts(item["loc"])), FIELD_CHARACTERS_MAX),
            "message": shorten(str(item["msg"]), FIELD_CHARACTERS_MAX * 2),
        }
        for item in error.errors()
    ]
    problem = Problem(
        422, InvalidParameter.code, first_message(found, "a parameter is wrong"), {"errors": found}
    )
    return _problem_answer(request, problem)


def _parts(location: tuple[int | str, ...]) -> list[str]:
    return [str(part) for part in location if part not in _PLACES]


async def _refuse(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    code = _CODE_BY_STATUS.get(error.status_code, "http_error")
    details = {
        404: "no endpoint has this path; see /v1/openapi.json",
        405: f"the endpoint does not take {request.method}",
    }
    detail = details.get(error.status_code, "the request was refused")
    headers = dict(error.headers or {})
    return _problem_answer(request, Problem(error.status_code, code, detail, headers=headers))


def _problem_answer(request: Request, problem: Problem) -> Response:
    body = problem.render(f"urn:synaptoroute:request:{request_id_of(request.scope)}")
    return Response(body, status_code=problem.status, headers=dict(problem_headers(problem)))
