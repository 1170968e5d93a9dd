"""``/v1/apply``: routes, settings and tests of a set change together, if nothing came between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.models import ImportResult, Route
from synaptoroute.router.set_changes import SetChange
from synaptoroute.server.bodies import body_pieces, media_type, parse_json
from synaptoroute.server.documents import KIND_BY_MEDIA_TYPE, lines_of, routes_of_lines
from synaptoroute.server.parameters import (
    AckLevel,
    IdempotencyKey,
    ReadingRoute,
    checked,
    own_op_id,
    parse_op_id,
)
from synaptoroute.server.responses import (
    BODY_PROBLEMS,
    WRITE_PROBLEMS,
    model_response,
    problems,
    success,
    version_headers,
)
from synaptoroute.server.runtime import router_of, runtime_of
from synaptoroute.server.transfer_endpoints import IMPORT_ID_PATTERN, at_the_rate_of
from synaptoroute.web.middleware import context_of
from synaptoroute.web.problems import Forbidden, MalformedBody, UnsupportedMediaType
from synaptoroute.web.set_paths import set_of

endpoints = APIRouter(route_class=ReadingRoute, tags=["transfer"])

_CHANGE: Final = (
    '{"seen":{"refund":"1.42","parcel":null,"old":"1.7"},"removed":["old"],'
    '"settings":{"confidence_min":0.6},"tests":{"money back please":"refund"}}\n'
)
_ROUTES: Final = (
    '{"name":"refund","utterances":["I want my money back"]}\n'
    '{"name":"parcel","utterances":["Where is my parcel?"]}\n'
)
_BODY: Final[dict[str, Any]] = {
    "application/x-ndjson": {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "The first line is a `SetChange`, each further one a route to put, as "
            "in an import.",
        },
        "example": _CHANGE + _ROUTES,
    }
}
_EXAMPLE: Final = {
    "status": "applied",
    "import_id": "2026-10-01-support",
    "op_id": "5f0c6a5e9d1b4b0f8a3a1c2d3e4f5a6b",
    "version": "1.50",
    "routes": 3,
    "utterances": 2,
}


@endpoints.post(
    "/v1/apply",
    summary="Change a route set as a whole",
    responses={
        200: success("Everything is visible", _EXAMPLE, ImportResult, headers="SR-Version"),
        202: success(
            "In the log, but not applied here in time",
            {**_EXAMPLE, "status": "pending", "version": ""},
            ImportResult,
            headers="Location",
        ),
        **problems(*WRITE_PROBLEMS, *BODY_PROBLEMS),
    },
    openapi_extra={"requestBody": {"required": True, "content": _BODY}},
)
async def apply_change(
    request: Request,
    import_id: Annotated[
        str | None,
        Query(
            description="Identifies the change, so that an interrupted one can be sent again.",
            pattern=IMPORT_ID_PATTERN,
        ),
    ] = None,
    ack: AckLevel = "applied",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Put routes, remove others, and change settings and tests: all at one place of the log, or
    nothing. `seen` names every route that is put or removed, with the revision that you saw,
    null for one that did not exist; `settings_seen` and `tests_seen` likewise. If one of
    them is another by now, the answer is 412 `precondition_failed`. What else happened in the
    set does not matter. Tests beyond 96 KiB follow in entries of their own. Settings need
    the scope `admin`. Needs level 5 of the log.
    """
    runtime = runtime_of(request)
    op_id = parse_op_id(idempotency_key, runtime.config.namespace)
    if op_id is not None:
        op_id = own_op_id(request, op_id)
    if import_id is None and op_id is not None:
        import_id = f"key-{op_id.hex()}"
    if KIND_BY_MEDIA_TYPE.get(media_type(request)) != "ndjson":
        raise UnsupportedMediaType("a change is sent as application/x-ndjson")
    pieces = body_pieces(request, runtime.config.import_bytes_max)
    lines = lines_of(pieces, runtime.config.body_bytes_max)
    change = await _first_line(lines)
    context = context_of(request.scope)
    name = set_of(context.route_set)
    if change.settings and context.key is not None and not context.key.may_in("admin", name):
        raise Forbidden("settings are changed with the scope admin")
    routes: AsyncIterator[Route] = at_the_rate_of(request, routes_of_lines(lines, first=2))
    changes = router_of(request).set_changes
    result = await changes.apply(change, routes, import_id=import_id, ack=ack)
    headers = version_headers(result.version)
    headers["SR-Op-Id"] = result.op_id
    is_pending = result.status == "pending"
    if is_pending:
        headers["Location"] = f"/v1/ops/{result.op_id}"
    return model_response(result, status=202 if is_pending else 200, headers=headers)


async def _first_line(lines: AsyncIterator[bytes]) -> SetChange:
    async for line in lines:
        try:
            document = parse_json(line)
        except MalformedBody as error:
            raise MalformedBody(f"line 1: {error.message}", line=1) from None
        return checked(SetChange, document)
    raise MalformedBody("the body is empty; its first line says what changes")
