"""``/v1/erase``: remove texts from every route set, and from the logs."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.change_models import Erasure, ErasureStatus
from synaptoroute.errors import InvalidQuery
from synaptoroute.server.parameters import WriteParameters, checked, read_document
from synaptoroute.server.promotion_schemas import EraseRequest
from synaptoroute.server.responses import (
    BODY_PROBLEMS,
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    json_body,
    model_response,
    problems,
    success,
    version_headers,
)
from synaptoroute.server.runtime import runtime_of

endpoints = APIRouter(tags=["sets"])

_STATUS_EXAMPLE: Final[dict[str, Any]] = {
    "node": "5f0c6a5e9d1b4b0f",
    "version": "1.57",
    "is_clean": True,
    "waiting_for": [],
}
_ERASURE_EXAMPLE: Final[dict[str, Any]] = {
    "status": "applied",
    "op_id": "5f0c6a5e9d1b4b0f8a3a1c2d3e4f5a6b",
    "version": "1.57",
    "found": {
        "utterances": 1,
        "descriptions": 0,
        "negatives": 0,
        "tests": 1,
        "feedback": 0,
        "routes_deleted": 0,
        "unmatched": 2,
    },
    "logs": _STATUS_EXAMPLE,
}


@endpoints.post(
    "/v1/erase",
    summary="Erase texts",
    responses={
        200: success("Erased", _ERASURE_EXAMPLE, Erasure, headers="SR-Version"),
        **problems(*WRITE_PROBLEMS, *BODY_PROBLEMS),
    },
    openapi_extra=json_body("EraseRequest", {"texts": ["my name is Ann Smith"]}),
)
async def erase_texts(request: Request, write: WriteParameters) -> Response:
    """Remove up to 100 texts, and what counts as the same text, from the routes, tests and
    feedback of every set. Every node then drops its log up to here, and Redis as well; `logs` says
    whether this node has done so. Scope `admin`.
    """
    document = await read_document(request)
    asked = checked(EraseRequest, document, InvalidQuery)
    eraser = runtime_of(request).router.changes.eraser
    found = await eraser.erase(asked.texts, write.options(document))
    return model_response(found, headers=version_headers(found.version))


@endpoints.get(
    "/v1/erase",
    summary="Show whether erased texts are gone from the logs",
    responses={200: success("State", _STATUS_EXAMPLE, ErasureStatus), **problems(*READ_PROBLEMS)},
)
async def show_erasures(request: Request) -> Response:
    """Of this node and of Redis; the other nodes answer for themselves. Scope `admin`."""
    return model_response(await runtime_of(request).router.changes.eraser.status())
