"""Settings and outcomes of writes; probes, metrics, introspection and diagnostics of this node."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import time
import uuid
from functools import cache
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.encoder.presets import PRESETS, measured
from synaptoroute.encoder.processor import kind_of_cpu
from synaptoroute.errors import InvalidQuery, RouteError
from synaptoroute.models import (
    CANDIDATES_MAX,
    Match,
    RouteSetSettings,
)
from synaptoroute.router.decision_fits import CalibrationReport
from synaptoroute.router.diagnostics import LabelledText
from synaptoroute.router.reads import CascadeReport
from synaptoroute.server.metrics import CONTENT_TYPE
from synaptoroute.server.parameters import (
    WriteParameters,
    checked,
    own_op_id,
    read_document,
    read_texts,
    take_texts,
)
from synaptoroute.server.responses import (
    BODY_PROBLEMS,
    READ_PROBLEMS,
    any_json,
    json_body,
    json_response,
    model_response,
    problems,
    success,
    unless_gone,
    version_headers,
    write_response,
)
from synaptoroute.server.route_endpoints import WRITE_EXAMPLE, write_responses
from synaptoroute.server.runtime import router_of, runtime_of, serving_router_of
from synaptoroute.server.schemas import (
    KeyDescription,
    Liveness,
    Operation,
    PreviewRequest,
    Readiness,
    TrialRequest,
)
from synaptoroute.version import __version__
from synaptoroute.web.key_grants import ALL_SCOPES, SCOPES, Scope
from synaptoroute.web.key_limits import LIMITS
from synaptoroute.web.middleware import context_of
from synaptoroute.web.problems import InvalidParameter, OperationNotFound

endpoints = APIRouter()

_SETTINGS_EXAMPLE: Final = {
    "aggregation": "blend",
    "topk": 3,
    "threshold": 0.5,
    "capacity_slots": 262_144,
    "cascade": "auto",
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
    "strays": 0.003,
    "confidence": True,
}
_CALIBRATION_EXAMPLE: Final = {
    "state": "fitted",
    "changed_share": 0.02,
    "refit_changed_share": 0.1,
    "pending": "nothing",
    "at": "1.104",
    "fitted_at": "2026-03-01T12:00:00.123+00:00",
    "fitted_by": "5f0c6a5e9d1b4b0f8a3a1c2d3e4f5a6b",
    "aggregation": "adaptive",
    "encoder": "84e3529a87ae1ff8",
    "routes": 150,
    "utterances": 1_500,
    "temperature": 17.4,
    "inside_mean": 0.61,
    "inside_deviation": 0.12,
    "outside_mean": 0.38,
    "outside_deviation": 0.07,
    "accuracy": 0.904,
    "ece": 0.042,
    "curve": [{"confidence_min": 0.5, "coverage": 0.93, "accuracy": 0.95}],
    "payload_bytes": 98_816,
}
OP_ID_PATTERN: Final = r"^([0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$"


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
    router = serving_router_of(request)
    version = router.visible.version  # before the read: what is read is not older
    settings = await router.aget_settings()
    return model_response(settings, headers=version_headers(version))


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
    settings = checked(RouteSetSettings, document)
    options = write.options(document)
    if options.if_match is not None or options.if_none_match:
        raise InvalidParameter("settings have no ETag: If-Match and If-None-Match do not apply")
    result = await router_of(request).aput_settings(settings, options)
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
    router = serving_router_of(request)
    version = router.visible.version
    return model_response(router.cascade(), headers=version_headers(version))


@endpoints.get(
    "/v1/settings/calibration",
    tags=["settings"],
    summary="Show the numbers behind the confidence",
    responses={
        200: success(
            "The numbers, and what is pending",
            _CALIBRATION_EXAMPLE,
            CalibrationReport,
            headers="SR-Version",
        ),
        **problems(*READ_PROBLEMS),
    },
)
async def show_calibration(request: Request) -> Response:
    """When and by which node the route set was fitted, the numbers, how good they are on its own
    utterances, and whether a fit is due.
    """
    router = serving_router_of(request)
    report = await router.fits.report()
    return model_response(report, headers=version_headers(router.visible.version))


@endpoints.post(
    "/v1/settings/calibration",
    tags=["settings"],
    summary="Fit the numbers behind the confidence now",
    responses={
        200: success(
            "The new numbers",
            _CALIBRATION_EXAMPLE,
            CalibrationReport,
            headers="SR-Version SR-Op-Id",
        ),
        **problems(*READ_PROBLEMS, 409),
    },
)
async def fit_calibration(request: Request) -> Response:
    """Fit the route set as it is now, on this node, and write the numbers to the log. Nodes do
    this by themselves when enough utterances have changed. Needs the scope `admin`.
    """
    router = serving_router_of(request)
    result = await router.fits.fit_now()
    report = await router.fits.report()
    headers = version_headers(result.version if result else router.visible.version)
    if result is not None:
        headers["SR-Op-Id"] = result.op_id
    return model_response(report, headers=headers)


@endpoints.get(
    "/v1/key",
    tags=["settings"],
    summary="Show what the API key of the request allows",
    responses={
        200: success(
            "The key",
            {"name": "route-editor", "scopes": ["read", "write"], "expires_at": None},
            KeyDescription,
        ),
        **problems(*READ_PROBLEMS),
    },
)
async def show_key(request: Request) -> Response:
    """Name, scopes, expiry and limits of the key; without API keys, all scopes and no name."""
    key = context_of(request.scope).key
    if key is None:
        shown = KeyDescription(name=None, scopes=list(SCOPES), expires_at=None)
    else:
        scopes: list[Scope] = [scope for scope in ALL_SCOPES if scope in key.scopes]
        limits = {
            name: getattr(key.limits, name)
            for name in LIMITS
            if getattr(key.limits, name) < math.inf
        }
        shown = KeyDescription(
            name=key.name,
            scopes=scopes,
            expires_at=key.expires_at,
            grants=sorted(map(str, key.grants)),
            limits=limits,
        )
    return model_response(shown)


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
        result = await router_of(request).aoutcome(own_op_id(request, identity.bytes))
    except RouteError as error:
        rejected = _rejected(identity.hex, error)
        return model_response(rejected, headers=version_headers(rejected.version))
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
    """Metrics of this node, prefix `synaptoroute_`. Those that name route sets need a key of the
    scope `metrics`, or one that reads everything, unless the node has no keys.
    """
    runtime, key = runtime_of(request), context_of(request.scope).key
    has_sets = runtime.keys is None or (key is not None and (key.may("metrics") or key.may("read")))
    if has_sets:
        await runtime.forget_removed()
    body = runtime.metrics.render(has_sets=has_sets)
    return Response(body, headers={"Content-Type": CONTENT_TYPE})


# --- introspection: needs the scope admin -----------------------------------------------


@endpoints.get(
    "/-/state",
    tags=["node"],
    summary="Show the whole state of this node",
    responses={200: any_json("State"), **problems(*READ_PROBLEMS)},
)
async def show_state(request: Request) -> Response:
    """Readiness, position, digest, queue, encoder, storage and counters."""
    runtime = runtime_of(request)
    status = runtime.status()
    document: dict[str, Any] = {
        "release": __version__,
        "cpu_kind": await asyncio.to_thread(kind_of_cpu),
        "state": runtime.state,
        "reasons": runtime.reasons(),
        "uptime_seconds": round(time.monotonic() - runtime.began_at, 3),
        "bodies_bytes": runtime.bodies.held_bytes,
        "api_keys": None if runtime.keys is None else dataclasses.asdict(runtime.keys.status),
        "router": None if status is None else dataclasses.asdict(status),
    }
    return json_response(json.dumps(document, default=str))


@endpoints.get(
    "/-/settings",
    tags=["node"],
    summary="Show the settings of this process",
    responses={200: any_json("Settings"), **problems(*READ_PROBLEMS)},
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
    found = await runtime_of(request).router.achecksum()
    return json_response(json.dumps(found), headers=version_headers(found["version"]))


# --- diagnostics: previews, conflicts, scrub, encoders, imports --------------------------

_PREVIEW_EXAMPLE: Final = {
    "name": "refund",
    "route": {"name": "refund", "utterances": ["I want my money back"], "threshold": 0.45},
    "texts": ["How do I get my money back?"],
}


_TRIAL_EXAMPLE: Final = {
    "encoder": "0" * 64,
    "texts": [{"text": "Where is my parcel?", "route": "order-status"}],
}


@endpoints.post(
    "/v1/preview",
    tags=["queries"],
    summary="Preview the effect of a change of a route",
    responses={
        200: any_json("Each text before and after"),
        **problems(*BODY_PROBLEMS, *READ_PROBLEMS),
    },
    openapi_extra=json_body("PreviewRequest", _PREVIEW_EXAMPLE),
)
async def preview(request: Request) -> Response:
    """Nothing changes: the route is scored beside the route set and compared with it."""
    router = serving_router_of(request)
    asked = checked(PreviewRequest, await read_texts(request), InvalidQuery)
    take_texts(request, len(asked.texts))

    async def ask_all(texts: Any) -> list[Match]:
        return await router.aquery_batch(texts, limit=CANDIDATES_MAX, explain=True)

    work = router.diagnostics.preview(asked.name, asked.route, asked.texts, ask_all)
    found = await unless_gone(request, work)
    shown = [{**dataclasses.asdict(each), "is_changed": each.is_changed} for each in found]
    return json_response(json.dumps({"texts": shown}))


@endpoints.get(
    "/v1/conflicts",
    tags=["routes"],
    summary="List near-duplicate utterances of different routes",
    responses={200: any_json("Pairs"), **problems(*READ_PROBLEMS)},
)
async def list_conflicts(
    request: Request,
    similarity_min: Annotated[float, Query(gt=0, le=1, allow_inf_nan=False)] = 0.85,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """Two utterances of different routes that mean the same make the route of a query
    arbitrary.
    """
    work = serving_router_of(request).diagnostics.conflicts(similarity_min, limit)
    found = await unless_gone(request, work)
    shown = json.dumps(dataclasses.asdict(found))
    return json_response(shown, headers=version_headers(found.version))


@endpoints.post(
    "/-/scrub",
    tags=["node"],
    summary="Compare memory and disk with the digest, row by row",
    responses={200: any_json("The findings"), **problems(*READ_PROBLEMS)},
)
async def scrub(request: Request) -> Response:
    """Finds bits that flipped in memory or on disk, which the digest alone cannot see."""
    found = await runtime_of(request).router.diagnostics.scrub()
    shown = {**dataclasses.asdict(found), "is_sound": found.is_sound}
    return json_response(json.dumps(shown))


@endpoints.get(
    "/-/generations",
    tags=["node"],
    summary="Show the encoders and their staged vectors",
    responses={200: any_json("Encoders"), **problems(*READ_PROBLEMS)},
)
async def show_generations(request: Request) -> Response:
    """A generation holds the vectors of another encoder; the cluster switches to it as a whole."""
    router = runtime_of(request).router
    found = await router.diagnostics.encoders()
    cascade = router.cascade().model_dump(include={"state", "reason", "static", "deferred"})
    shown = {**dataclasses.asdict(found), "cascade": cascade, "presets": _presets()}
    return json_response(json.dumps(shown))


@cache
def _presets() -> tuple[dict[str, Any], ...]:
    """Describe the encoders that have a short name, with what was measured of each."""
    return tuple(
        {
            "name": preset.name,
            "model": preset.model,
            "purpose": preset.purpose,
            "languages": list(preset.languages),
            "needs": preset.needs,
            "measured": figures and dataclasses.asdict(figures),
        }
        for preset in PRESETS
        for figures in (measured(preset.model),)
    )


@endpoints.post(
    "/-/generations/trial",
    tags=["node"],
    summary="Compare a standby encoder with the active one",
    responses={
        200: any_json("The accuracy of both"),
        **problems(*BODY_PROBLEMS, *READ_PROBLEMS, 409),
    },
    openapi_extra=json_body("TrialRequest", _TRIAL_EXAMPLE),
)
async def try_encoder(request: Request) -> Response:
    """Nothing changes: the generation is scored beside the route set."""
    router = runtime_of(request).serving_router
    asked = checked(TrialRequest, await read_document(request), InvalidQuery)

    async def ask_all(texts: Any) -> list[Match]:
        return await router.aquery_batch(texts)

    cases = [LabelledText(each.text, each.route) for each in asked.texts]
    work = router.diagnostics.compare_encoders(asked.encoder, cases, ask_all)
    found = await unless_gone(request, work)
    return json_response(json.dumps(dataclasses.asdict(found)))


@endpoints.get(
    "/-/unmatched",
    tags=["node"],
    summary="List the newest queries that no route matched",
    responses={200: any_json("Queries"), **problems(*READ_PROBLEMS)},
)
async def list_unmatched(request: Request) -> Response:
    """Empty unless the setting `unmatched_kept` is above 0."""
    is_on, found = router_of(request).diagnostics.unmatched()
    queries = [dataclasses.asdict(each) for each in found]
    return json_response(json.dumps({"is_on": is_on, "queries": queries}))


@endpoints.get(
    "/-/traffic",
    tags=["node"],
    summary="Show how many answers each route got",
    responses={200: any_json("Counts"), **problems(*READ_PROBLEMS)},
)
async def show_traffic(request: Request) -> Response:
    """Answers to queries since the start of the process, by route set and route, with the sum of
    their confidences; a null route stands for answers without one, and `set_others` for the
    routes of a set that are not counted one by one. Holds no text.
    """
    runtime = runtime_of(request)
    await runtime.forget_removed()
    return json_response(json.dumps(runtime.traffic.document()))


@endpoints.get(
    "/-/imports",
    tags=["node"],
    summary="List imports that are neither committed nor aborted",
    responses={200: any_json("Imports"), **problems(*READ_PROBLEMS)},
)
async def list_imports(request: Request) -> Response:
    """Each with the position of its newest entry, which shows whether it was abandoned."""
    found = await runtime_of(request).router.diagnostics.open_imports()
    shown = [
        {
            "import_id": each.begin.import_id,
            "replace": each.begin.replace,
            "chunks": len(each.chunks),
            "utterances": each.row_count,
            "touched_seq": each.touched_seq,
        }
        for each in found
    ]
    return json_response(json.dumps({"imports": shown}))
