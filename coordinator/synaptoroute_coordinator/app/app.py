"""The application of one coordinator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.version import __version__
from synaptoroute.web.middleware import Middleware, add_error_handlers
from synaptoroute_coordinator.app import dashboard, encoders, fleet, gateway, metrics, voters
from synaptoroute_coordinator.app.middleware import CoordinatorPolicy
from synaptoroute_coordinator.app.responses import json_response
from synaptoroute_coordinator.app.runtime import Runtime

_DESCRIPTION: Final = """\
The control plane of a SynaptoRoute cluster: the state of every node, and the actions that
an operator may take. Queries and writes do not depend on it.

Every error is an RFC 9457 problem document with a stable `code`. Actions are POSTs, need
the scope `admin` and are recorded with the name of the key."""


def create_app(runtime: Runtime) -> FastAPI:
    """Make the application; its lifespan starts and stops the coordinator."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await runtime.start()
        try:
            yield
        finally:
            await runtime.stop()

    app = FastAPI(
        title="SynaptoRoute coordinator",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.runtime = runtime
    app.state.registry = metrics.make_registry(runtime.reconciler)
    app.add_middleware(Middleware, policy=CoordinatorPolicy(runtime))
    add_error_handlers(app)
    for module in (dashboard, metrics, fleet, encoders, voters, gateway):
        app.include_router(module.endpoints)
    _add_openapi(app)
    return app


def _add_openapi(app: FastAPI) -> None:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=_DESCRIPTION,
        routes=app.routes,
    )

    async def show_document(request: Request) -> Response:
        return json_response(document)

    app.add_api_route("/v1/openapi.json", show_document, include_in_schema=False)
