"""Settings and outcomes of writes; probes, metrics and introspection of this node."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.errors import RouteError
from synaptoroute.models import CascadeReport, RouteSetSettings
from synaptoroute.server.metrics import CONTENT_TYPE
from synaptoroute.server.openapi import (
    BODY_PROBLEMS,
    READ_PROBLEMS,
    json_body,
    problems,
    success,
)
from synaptoroute.server.parameters import WriteParameters, checked, read_document
from synaptoroute.server.responses import (
    json_response,
    model_response,
    version_headers,
    write_response,
)
from synaptoroute.server.route_endpoints import WRITE_EXAMPLE, write_responses
from synaptoroute.server.runtime import runtime_of
from synaptoroute.server.schemas import Liveness, Operation, Readiness
from synaptoroute.version import __version__
from synaptoroute.web.problems import InvalidParameter, OperationNotFound

endpoints = APIRouter()

_SETTINGS = TypeAdapter(RouteSetSettings)
_SETTINGS_EXAMPLE: Final = {
    "aggregation": "blend",
    "topk": 3,
    "threshold": 0.5,
    "capacity_slots": 262_144,
    "cascade": False,
}
_CASCADE_EXAMPLE: Final = {
    "state": "on",
    "reason": "",
    "static": 5_120,
    "deferred": 4_880,
    "changed_share": 0.01,
    "at": "1.104",
    "table": "84e3529a87ae1ff8",
    "guard_margin": 0.34,
    "slope": 0.35,
    "floor": 0.7,
    "share": 0.61,
    "agreement": 0.996,
    "strays": 0.005,
}
OP_ID_PATTERN: Final = r"^([0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$"
_ANYTHING: Final = {"content": {"application/json": {"schema": {"type": "object"}}}}


@endpoints.get(
    "/v1/settings",
    tags=["settings"],
    summary="Show the settings of the route set",
    responses={
        200: success("Settings", _SETTINGS_EXAMPLE, RouteSetSettings, headers="SR-Version"),
        **problems(*READ_PROBLEMS),
    },
)
async def show_settings(request: Request) -> Response:
    """How the scores of a route's utterances become one score, the default threshold, and
    the size of the tensor.
    """
    router = runtime_of(request).router
    settings = await router.aget_settings()
    return model_response(settings, headers=version_headers(router.status().version))


@endpoints.put(
    "/v1/settings",
    tags=["settings"],
    summary="Replace the settings of the route set",
    responses=write_responses(*BODY_PROBLEMS),
    openapi_extra=json_body("RouteSetSettings", _SETTINGS_EXAMPLE),
)
async def put_settings(request: Request, write: WriteParameters) -> Response:
    """Replace all of them, on every node at one position. Needs the scope `admin`."""
    document = await read_document(request)
    settings = checked(_SETTINGS, document)
    options = write.options(document)
    if options.if_match is not None or options.if_none_match:
        raise InvalidParameter("settings have no ETag: If-Match and If-None-Match do not apply")
    result = await runtime_of(request).router.aput_settings(settings, options)
    return write_response(result, options)


@endpoints.get(
    "/v1/settings/cascade",
    tags=["settings"],
    summary="Show the state of the cascade on this node",
    responses={
        200: success("State of the cascade", _CASCADE_EXAMPLE, CascadeReport, headers="SR-Version"),
        **problems(*READ_PROBLEMS),
    },
)
async def show_cascade(request: Request) -> Response:
    """Whether this node answers sure queries without the encoder, the measurements behind
    that decision, and the reason if it does not.
    """
    router = runtime_of(request).router
    return model_response(router.cascade(), headers=version_headers(router.status().version))


@endpoints.get(
    "/v1/ops/{op_id}",
    tags=["settings"],
    summary="Show the outcome of a write",
    responses={
        200: success("The outcome", {**WRITE_EXAMPLE, "code": None, "detail": None}, Operation),
        **problems(*READ_PROBLEMS, 404),
    },
)
async def show_operation(
    request: Request,
    op_id: Annotated[
        str,
        Path(
            description="The `op_id` of a write, or the UUID sent as its Idempotency-Key.",
            pattern=OP_ID_PATTERN,
            examples=[WRITE_EXAMPLE["op_id"]],
        ),
    ],
) -> Response:
    """The outcome of a write, remembered for the next 65,536 entries of the log."""
    identity = uuid.UUID(op_id)
    try:
        result = await runtime_of(request).router.aoutcome(identity.bytes)
    except RouteError as error:
        return model_response(_rejected(identity.hex, error))
    if result is None:
        raise OperationNotFound("this node remembers no write of this identity")
    shown = Operation(
        op_id=result.op_id,
        status=result.status,
        version=result.version,
        revision=result.revision,
        count=result.count,
    )
    return model_response(shown, headers=version_headers(result.version))


def _rejected(op_id: str, error: RouteError) -> Operation:
    version = error.fields.get("version")
    return Operation(
        op_id=op_id,
        status="rejected",
        version=str(version) if version is not None else "",
        code=error.code,
        detail=error.message,
    )


# --- probes and metrics: open without a key ---------------------------------------------


@endpoints.get(
    "/livez",
    tags=["node"],
    summary="Show whether the process runs",
    responses={200: success("The process runs", {"status": "live"}, Liveness), **problems(500)},
)
async def live(request: Request) -> Response:
    """Answers as long as the event loop runs, even if nothing else works."""
    return model_response(Liveness())


@endpoints.get(
    "/readyz",
    tags=["node"],
    summary="Show whether the node is ready for queries",
    responses={
        200: success("Ready", {"status": "ready", "state": "ready", "reasons": []}, Readiness),
        503: success(
            "Starting, draining or failed",
            {"status": "not_ready", "state": "starting", "reasons": ["starting"]},
            Readiness,
        ),
        **problems(500),
    },
)
async def ready(request: Request) -> Response:
    """For load balancers: 503 with the reasons until the router has started, and again
    after the stop signal.
    """
    runtime = runtime_of(request)
    reasons = runtime.reasons()
    shown = Readiness(
        status="not_ready" if reasons else "ready", state=runtime.state, reasons=reasons
    )
    headers = {"Retry-After": "1"} if reasons else {}
    return model_response(shown, status=503 if reasons else 200, headers=headers)


@endpoints.get(
    "/metrics",
    tags=["node"],
    summary="Metrics",
    responses={
        200: {
            "description": "Prometheus' text format",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **problems(500),
    },
)
async def metrics(request: Request) -> Response:
    """Metrics of this node, prefix `synaptoroute_`."""
    body = runtime_of(request).metrics.render()
    return Response(body, headers={"Content-Type": CONTENT_TYPE})


# --- introspection: needs the scope admin -----------------------------------------------


@endpoints.get(
    "/-/state",
    tags=["node"],
    summary="Show the whole state of this node",
    responses={200: {"description": "State", **_ANYTHING}, **problems(*READ_PROBLEMS)},
)
async def show_state(request: Request) -> Response:
    """Readiness, position, digest, queue, encoder, storage and counters."""
    runtime = runtime_of(request)
    status = runtime.status()
    document: dict[str, Any] = {
        "release": __version__,
        "state": runtime.state,
        "reasons": runtime.reasons(),
        "uptime_seconds": round(time.monotonic() - runtime.began_at, 3),
        "bodies_bytes": runtime.bodies.held_bytes,
        "router": None if status is None else dataclasses.asdict(status),
    }
    return json_response(json.dumps(document, default=str))


@endpoints.get(
    "/-/settings",
    tags=["node"],
    summary="Show the settings of this process",
    responses={200: {"description": "Settings", **_ANYTHING}, **problems(*READ_PROBLEMS)},
)
async def show_process_settings(request: Request) -> Response:
    """The settings of the process; secrets are masked."""
    return json_response(runtime_of(request).config.model_dump_json())


@endpoints.get(
    "/-/digest",
    tags=["node"],
    summary="Show the digest, by which two nodes are compared",
    responses={
        200: success(
            "Digest and checksum",
            {"version": "1.42", "digest": "0" * 32, "tensor_sha256": "0" * 64},
        ),
        **problems(*READ_PROBLEMS),
    },
)
async def show_digest(request: Request) -> Response:
    """Version, digest of the state and SHA-256 of the tensor. Reads the whole tensor."""
    return json_response(json.dumps(await runtime_of(request).router.achecksum()))
