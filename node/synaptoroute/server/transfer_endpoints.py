"""``/v1/import`` and ``/v1/export``: many routes at once.

An import becomes visible all at once or not at all.  An export shows the routes at
one position; NDJSON is the format that neither side needs to hold whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from synaptoroute.errors import ClusterError, LimitExceeded
from synaptoroute.models import ImportResult, Route, StoredRoute
from synaptoroute.router import AdaptiveRouter
from synaptoroute.router.imports import RUN_SEPARATOR, Routes
from synaptoroute.router.route_checks import count_to_encode
from synaptoroute.server.bodies import body_pieces, is_json, media_type, read_body
from synaptoroute.server.documents import (
    KIND_BY_MEDIA_TYPE,
    MEDIA_TYPES,
    DocumentKind,
    each_route,
    ndjson_routes,
    parse_document,
    render_document,
)
from synaptoroute.server.parameters import (
    AckLevel,
    IdempotencyKey,
    ReadingRoute,
    WriteParameters,
    parse_op_id,
    take_texts,
)
from synaptoroute.server.responses import (
    BODY_PROBLEMS,
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    model_response,
    problems,
    success,
    version_headers,
    write_response,
)
from synaptoroute.server.route_endpoints import PAGE_ROUTES_MAX, write_responses
from synaptoroute.server.runtime import router_of, runtime_of
from synaptoroute.web.middleware import request_flow
from synaptoroute.web.problems import NotAcceptable, UnsupportedMediaType

endpoints = APIRouter(route_class=ReadingRoute, tags=["transfer"])

IMPORT_ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,63}$"
EXPORT_ATTEMPTS_MAX: Final = 5
_PIECE_BYTES: Final = 65_536
_LINE: Final = '{"name":"refund","utterances":["I want my money back"]}\n'
_DOCUMENT: Final = {"routes": [{"name": "refund", "utterances": ["I want my money back"]}]}
_YAML: Final = "routes:\n  - name: refund\n    utterances: [I want my money back]\n"
_SCHEMA: Final = {"type": "string", "format": "binary"}
_FORMATS: Final[dict[str, Any]] = {
    "application/x-ndjson": {
        "schema": {**_SCHEMA, "description": "One route a line, each as in the JSON document."},
        "example": _LINE,
    },
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {
                "version": {"const": 1},
                "routes": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"$ref": "#/components/schemas/Route"},
                },
            },
            "required": ["routes"],
        },
        "example": _DOCUMENT,
    },
    "application/yaml": {
        "schema": {**_SCHEMA, "description": "The JSON document, written as YAML."},
        "example": _YAML,
    },
}
_IMPORT_EXAMPLE: Final = {
    "status": "applied",
    "import_id": "2026-10-01-support",
    "op_id": "5f0c6a5e9d1b4b0f8a3a1c2d3e4f5a6b",
    "version": "1.50",
    "routes": 14,
    "utterances": 168,
}


@endpoints.post(
    "/v1/import",
    summary="Import routes",
    responses={
        200: success("All routes are visible", _IMPORT_EXAMPLE, ImportResult, headers="SR-Version"),
        202: success(
            "In the log, but not applied here in time",
            {**_IMPORT_EXAMPLE, "status": "pending", "version": ""},
            ImportResult,
            headers="Location",
        ),
        **problems(*WRITE_PROBLEMS, *BODY_PROBLEMS),
    },
    openapi_extra={"requestBody": {"required": True, "content": _FORMATS}},
)
async def import_routes(
    request: Request,
    replace: Annotated[
        bool, Query(description="Also delete every route that the import does not name.")
    ] = False,
    import_id: Annotated[
        str | None,
        Query(
            description="Identifies the import, so that an interrupted one can be sent again.",
            pattern=IMPORT_ID_PATTERN,
        ),
    ] = None,
    ack: AckLevel = "applied",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Create or replace every route of a document, atomically. NDJSON is read while it
    arrives, and errors name the line. An `Idempotency-Key` serves as `import_id`.
    """
    runtime = runtime_of(request)
    router = router_of(request)
    op_id = parse_op_id(idempotency_key, runtime.config.namespace)
    if import_id is None and op_id is not None:
        import_id = f"key-{op_id.hex()}"
    kind = _body_kind(request)
    with runtime.bodies.lease(request_flow(request)) as lease:
        if kind == "ndjson":
            pieces = body_pieces(request, runtime.config.import_bytes_max)
            routes = ndjson_routes(pieces, runtime.config.body_bytes_max)
        else:
            body = await read_body(request, lease, runtime.config.body_bytes_max)
            routes = each_route(await asyncio.to_thread(parse_document, body, kind))
        routes = at_the_rate_of(request, routes)
        result = await router.aimport(routes, replace=replace, import_id=import_id, ack=ack)
    headers = version_headers(result.version)
    headers["SR-Op-Id"] = result.op_id
    is_pending = result.status == "pending"
    if is_pending:
        headers["Location"] = f"/v1/ops/{result.op_id}"
    return model_response(result, status=202 if is_pending else 200, headers=headers)


async def at_the_rate_of(request: Request, routes: Routes) -> AsyncIterator[Route]:
    """Yield routes no faster than the key of a request may have texts encoded."""
    stream = routes if isinstance(routes, AsyncIterable) else each_route(routes)
    async for route in stream:
        while True:
            try:
                take_texts(request, count_to_encode(route))
                break
            except LimitExceeded as error:
                await asyncio.sleep(error.retry_after_seconds or 1.0)
        yield route


class OpenImport(BaseModel):
    """An import that is neither committed nor aborted.

    Attributes:
        import_id: The client's identity of the import.
        run_id: Identity of this run: an import that was sent again has several.
        replace: Whether the commit deletes the routes that it does not name.
        chunks: Parts that are staged.
        utterances: Utterances in them.
    """

    import_id: str
    run_id: str
    replace: bool
    chunks: int
    utterances: int


class OpenImportList(BaseModel):
    """The open imports of the cluster; every node has the same."""

    imports: list[OpenImport]


_OPEN_IMPORT: Final = {
    "import_id": "2026-10-01-support",
    "run_id": "2026-10-01-support/5f0c6a5e9d1b4b0f8a3a1c2d3e4f5a6b",
    "replace": False,
    "chunks": 3,
    "utterances": 384,
}


@endpoints.get(
    "/v1/imports",
    summary="List open imports",
    responses={
        200: success("The imports", {"imports": [_OPEN_IMPORT]}, OpenImportList),
        **problems(*READ_PROBLEMS),
    },
)
async def list_open_imports(request: Request) -> Response:
    """Imports that are neither committed nor aborted. One to which nothing is added for
    `import_idle_seconds` is aborted by any node.
    """
    found = await router_of(request).open_imports.staged()
    imports = [
        OpenImport(
            import_id=each.begin.import_id.partition(RUN_SEPARATOR)[0],
            run_id=each.begin.import_id,
            replace=each.begin.replace,
            chunks=len(each.chunks),
            utterances=each.row_count,
        )
        for each in found
    ]
    return model_response(OpenImportList(imports=imports))


@endpoints.delete(
    "/v1/imports/{import_id}",
    summary="Abort an open import",
    responses=write_responses(404),
)
async def abort_import(
    request: Request,
    import_id: Annotated[str, Path(pattern=IMPORT_ID_PATTERN)],
    write: WriteParameters,
) -> Response:
    """Drop everything that the import staged; queries never saw it. A client that still sends
    it gets 409 `import_rejected`.
    """
    options = write.options()
    result = await router_of(request).open_imports.abort(import_id, options)
    return write_response(result, options)


@endpoints.get(
    "/v1/export",
    summary="Export routes",
    response_class=StreamingResponse,
    responses={
        200: {"description": "All routes at one position, in order of name", "content": _FORMATS},
        **problems(*READ_PROBLEMS, 406),
    },
)
async def export_routes(request: Request) -> Response:
    """All routes in the form that an import takes back: NDJSON, or YAML or JSON by
    `Accept`. Vectors are not exported; the texts are encoded again.
    """
    kind = accepted_kind(request.headers.get("accept", "*/*"))
    routes, version = await _read_all(router_of(request))
    return StreamingResponse(
        _pieces(routes, kind),
        media_type=MEDIA_TYPES[kind],
        headers=version_headers(version),
    )


def _body_kind(request: Request) -> DocumentKind:
    kind = media_type(request)
    known = "json" if is_json(kind) else KIND_BY_MEDIA_TYPE.get(kind)
    if known is None:
        raise UnsupportedMediaType(f"an import is sent as one of {', '.join(MEDIA_TYPES.values())}")
    return known


def accepted_kind(accept: str) -> DocumentKind:
    """Choose the format that a client prefers; NDJSON if it accepts any."""
    chosen: tuple[float, DocumentKind] | None = None
    for item in accept.split(","):
        kind, _, parameters = item.partition(";")
        kind = kind.strip().lower()
        known = "ndjson" if kind in ("*/*", "application/*", "") else KIND_BY_MEDIA_TYPE.get(kind)
        weight = _weight(parameters)
        if known is not None and weight > 0 and (chosen is None or weight > chosen[0]):
            chosen = weight, known
    if chosen is None:
        raise NotAcceptable(f"an export is one of {', '.join(MEDIA_TYPES.values())}")
    return chosen[1]


def _weight(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


async def _read_all(router: AdaptiveRouter) -> tuple[list[StoredRoute], str]:
    for _ in range(EXPORT_ATTEMPTS_MAX):
        page = await router.alist_routes(limit=PAGE_ROUTES_MAX)
        routes, version = page.routes, page.version
        while page.next_after is not None and page.version == version:
            page = await router.alist_routes(after=page.next_after, limit=PAGE_ROUTES_MAX)
            routes = [*routes, *page.routes]
        if page.version == version:
            return routes, version
    raise ClusterError("the routes changed while they were read", retry_after_seconds=1.0)


async def _pieces(routes: list[StoredRoute], kind: DocumentKind) -> AsyncIterator[bytes]:
    """Join small pieces, and yield to the event loop between large ones."""
    gathered = bytearray()
    for piece in render_document(routes, kind):
        gathered += piece
        if len(gathered) >= _PIECE_BYTES:
            yield bytes(gathered)
            gathered.clear()
            await asyncio.sleep(0)
    yield bytes(gathered)
