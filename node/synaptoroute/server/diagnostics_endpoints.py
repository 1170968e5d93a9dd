"""Diagnostics for operators and the coordinator: previews, conflicts, scrub, imports."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.errors import InvalidQuery
from synaptoroute.models import CANDIDATES_MAX, Match
from synaptoroute.router.comparison import LabelledText
from synaptoroute.server.openapi import BODY_PROBLEMS, READ_PROBLEMS, json_body, problems
from synaptoroute.server.parameters import checked, read_document
from synaptoroute.server.responses import json_response, unless_gone
from synaptoroute.server.runtime import runtime_of
from synaptoroute.server.schemas import PreviewRequest, TrialRequest

endpoints = APIRouter()

_ANYTHING: Final = {"content": {"application/json": {"schema": {"type": "object"}}}}
_PREVIEW_EXAMPLE: Final = {
    "name": "refund",
    "route": {"name": "refund", "utterances": ["I want my money back"], "threshold": 0.45},
    "texts": ["How do I get my money back?"],
}


_TRIAL: Final = TypeAdapter(TrialRequest)
_TRIAL_EXAMPLE: Final = {
    "encoder": "0" * 64,
    "texts": [{"text": "Where is my parcel?", "route": "order-status"}],
}
_PREVIEW: Final = TypeAdapter(PreviewRequest)


@endpoints.post(
    "/v1/preview",
    tags=["queries"],
    summary="Preview the effect of a change of a route",
    responses={
        200: {"description": "Each text before and after", **_ANYTHING},
        **problems(*BODY_PROBLEMS, *READ_PROBLEMS),
    },
    openapi_extra=json_body("PreviewRequest", _PREVIEW_EXAMPLE),
)
async def preview(request: Request) -> Response:
    """Nothing changes: the route is scored beside the route set and compared with it."""
    router = runtime_of(request).router
    asked = checked(_PREVIEW, await read_document(request), InvalidQuery)

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
    responses={200: {"description": "Pairs", **_ANYTHING}, **problems(*READ_PROBLEMS)},
)
async def list_conflicts(
    request: Request,
    similarity_min: Annotated[float, Query(gt=0, le=1, allow_inf_nan=False)] = 0.85,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """Two utterances of different routes that mean the same make the route of a query
    arbitrary.
    """
    work = runtime_of(request).router.diagnostics.conflicts(similarity_min, limit)
    found = await unless_gone(request, work)
    return json_response(json.dumps(dataclasses.asdict(found)))


@endpoints.post(
    "/-/scrub",
    tags=["node"],
    summary="Compare memory and disk with the digest, row by row",
    responses={200: {"description": "The findings", **_ANYTHING}, **problems(*READ_PROBLEMS)},
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
    responses={200: {"description": "Encoders", **_ANYTHING}, **problems(*READ_PROBLEMS)},
)
async def show_generations(request: Request) -> Response:
    """A generation holds the vectors of another encoder; the cluster switches to it as a whole."""
    found = await runtime_of(request).router.diagnostics.encoders()
    return json_response(json.dumps(dataclasses.asdict(found)))


@endpoints.post(
    "/-/generations/trial",
    tags=["node"],
    summary="Compare a standby encoder with the active one",
    responses={
        200: {"description": "The accuracy of both", **_ANYTHING},
        **problems(*BODY_PROBLEMS, *READ_PROBLEMS, 409),
    },
    openapi_extra=json_body("TrialRequest", _TRIAL_EXAMPLE),
)
async def try_encoder(request: Request) -> Response:
    """Nothing changes: the generation is scored beside the route set."""
    router = runtime_of(request).router
    asked = checked(_TRIAL, await read_document(request), InvalidQuery)

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
    responses={200: {"description": "Queries", **_ANYTHING}, **problems(*READ_PROBLEMS)},
)
async def list_unmatched(request: Request) -> Response:
    """Empty unless the setting `unmatched_kept` is above 0."""
    is_on, found = runtime_of(request).router.diagnostics.unmatched()
    queries = [dataclasses.asdict(each) for each in found]
    return json_response(json.dumps({"is_on": is_on, "queries": queries}))


@endpoints.get(
    "/-/imports",
    tags=["node"],
    summary="List imports that are neither committed nor aborted",
    responses={200: {"description": "Imports", **_ANYTHING}, **problems(*READ_PROBLEMS)},
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
