"""The application of one coordinator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.version import __version__
from synaptoroute.web.problems import PROBLEM_JSON, Problem, shorten
from synaptoroute.web.refusals import EndpointNotFound, InvalidParameter, MethodNotAllowed
from synaptoroute_coordinator.app import dashboard, encoders, fleet, gateway, metrics, voters
from synaptoroute_coordinator.app.middleware import Door, visit_of
from synaptoroute_coordinator.app.responses import json_response
from synaptoroute_coordinator.app.runtime import Runtime

_CODE_BY_STATUS: Final = {404: EndpointNotFound.code, 405: MethodNotAllowed.code}
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
    app.add_middleware(cast(Any, Door), runtime=runtime)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameters)
    app.add_exception_handler(HTTPException, _on_http_error)
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


async def _on_invalid_parameters(request: Request, error: Exception) -> Response:
    """Name the wrong parameters, without repeating their values."""
    assert isinstance(error, RequestValidationError)
    errors = [
        {
            "field": shorten(".".join(str(part) for part in item["loc"][1:]), 120),
            "message": shorten(str(item["msg"]), 240),
        }
        for item in error.errors()[:20]
    ]
    first = f"{errors[0]['field']}: {errors[0]['message']}" if errors else "a parameter is wrong"
    return _problem(request, Problem(422, InvalidParameter.code, first, {"errors": errors}))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Answer errors that the framework raises: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    code = _CODE_BY_STATUS.get(error.status_code, "http_error")
    detail = {404: "no endpoint has this path; see /v1/openapi.json"}.get(
        error.status_code, "the request was refused"
    )
    headers = dict(error.headers or {})
    return _problem(request, Problem(error.status_code, code, detail, headers=headers))


def _problem(request: Request, problem: Problem) -> Response:
    body = problem.render(f"urn:synaptoroute:request:{visit_of(request.scope).request_id}")
    headers = {"Content-Type": PROBLEM_JSON, **problem.headers}
    return Response(body, status_code=problem.status, headers=headers)
