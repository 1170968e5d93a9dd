"""Sessions of the dashboard: begin, look, end; probes and metrics."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.errors import Overloaded
from synaptoroute.version import __version__
from synaptoroute.web.keys import KEY_CHARACTERS_MAX, SCOPES
from synaptoroute.web.refusals import Unauthorized
from synaptoroute_coordinator.app.fleet import json_answer
from synaptoroute_coordinator.app.metrics import CONTENT_TYPE, render
from synaptoroute_coordinator.app.middleware import visit_of
from synaptoroute_coordinator.app.openapi import ANYTHING, PROBLEMS
from synaptoroute_coordinator.app.runtime import runtime_of
from synaptoroute_coordinator.app.sessions import COOKIE, cookie_of

endpoints = APIRouter(tags=["session"])
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {200: ANYTHING, **PROBLEMS}


class SessionKey(BaseModel):
    """An API key that begins a session."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=1, max_length=KEY_CHARACTERS_MAX)


@endpoints.get("/v1/session", summary="Show who is asking", responses=_ANSWERS)
async def show_session(request: Request) -> Response:
    """Whether keys are needed, and what the caller may do."""
    runtime = runtime_of(request)
    key = visit_of(request.scope).key
    scopes = [scope for scope in SCOPES if key is not None and key.may(scope)]
    return json_answer(
        {
            "needs_key": runtime.keys is not None,
            "name": key.name if key else None,
            "scopes": scopes,
            "release": __version__,
            "namespace": runtime.config.namespace,
        }
    )


@endpoints.post("/v1/session", summary="Begin a session", responses=_ANSWERS)
async def begin_session(request: Request, given: SessionKey) -> Response:
    """Shows the key once; a cookie that scripts cannot read stands for it afterwards."""
    runtime = runtime_of(request)
    if runtime.keys is None:
        return await show_session(request)
    address = request.client.host if request.client else ""
    if not runtime.sessions.may_try(address):
        raise Overloaded("too many keys were tried from this address", retry_after_seconds=60.0)
    key = runtime.keys.find(given.key)
    if key is None:
        raise Unauthorized("the API key is not known here")
    runtime.sessions.forgive(address)
    visit_of(request.scope).key = key
    answer = await show_session(request)
    answer.set_cookie(
        COOKIE,
        runtime.sessions.open(key),
        max_age=int(runtime.sessions.seconds),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )
    return answer


@endpoints.delete("/v1/session", summary="End the session", responses=_ANSWERS)
async def end_session(request: Request) -> Response:
    """The cookie is worth nothing afterwards."""
    runtime_of(request).sessions.close(cookie_of(request.headers.get("cookie", "").encode()))
    answer = json_answer({"needs_key": runtime_of(request).keys is not None, "name": None})
    answer.delete_cookie(COOKIE, path="/")
    return answer


@endpoints.get("/livez", tags=["probes"], summary="Whether the process works", responses=_ANSWERS)
async def live(request: Request) -> Response:
    """Answers as long as the event loop turns."""
    return json_answer({"status": "live"})


@endpoints.get("/readyz", tags=["probes"], summary="Whether it sees the log", responses=_ANSWERS)
async def ready(request: Request) -> Response:
    """503 while the log does not answer; a standby is ready as well."""
    reconciler = runtime_of(request).reconciler
    is_ready = reconciler.view.log.state != "away"
    state = "active" if reconciler.tenure.is_active else "standby"
    document = {"status": "ready" if is_ready else "not_ready", "state": state}
    return json_answer(document, 200 if is_ready else 503)


@endpoints.get(
    "/metrics",
    tags=["probes"],
    summary="Metrics",
    responses={
        200: {
            "description": "Prometheus' text format",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **PROBLEMS,
    },
)
async def metrics(request: Request) -> Response:
    """Metrics of the fleet, prefix `synaptoroute_fleet_`; alarms' conditions among them."""
    body = render(request.app.state.registry)
    return Response(body, headers={"Content-Type": CONTENT_TYPE})
