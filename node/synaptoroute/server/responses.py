"""HTTP responses to results, and how the OpenAPI document describes them.

Errors are in ``web.problems``.  The endpoints read bodies themselves, strictly, so the
framework does not find their schemas; they are listed here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Final, TypeVar

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.models import Route, RouteSetSettings, WriteResult
from synaptoroute.router import WriteOptions
from synaptoroute.server import decision_schemas, promotion_schemas, schemas
from synaptoroute.server.parameters import etag, reached
from synaptoroute.version import __version__
from synaptoroute.web.openapi import SECURITY, SECURITY_SCHEMES
from synaptoroute.web.problems import PROBLEM_JSON, ClientGone, status_phrase
from synaptoroute.web.set_paths import is_of_a_set, path_in_a_set

JSON: Final = "application/json"
ResultT = TypeVar("ResultT")


def json_response(
    body: bytes | str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(body, status_code=status, headers=headers, media_type=JSON)


def model_response(
    model: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return json_response(model.model_dump_json(), status=status, headers=headers)


def version_headers(version: str, revision: str | None = None) -> dict[str, str]:
    """Headers that name the version of a state and the revision of a route."""
    headers = {"SR-Version": version} if version else {}
    if revision is not None:
        headers["ETag"] = etag(revision)
    return headers


def write_response(result: WriteResult, options: WriteOptions, *, is_new: bool = False) -> Response:
    """The response to a write: 201 for a new route, 202 while ``ack`` is not reached, else 200."""
    headers = version_headers(result.version, result.revision)
    headers["SR-Op-Id"] = result.op_id
    if result.held_by:
        headers["SR-Held-By"] = result.held_by
    status = 201 if is_new and result.status == "applied" else 200
    if result.status == "pending" or not reached(result.ack, options.ack):
        status = 202
        headers["Location"] = f"/v1/ops/{result.op_id}"
    return model_response(result, status=status, headers=headers)


async def unless_gone(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Wait for a result, and cancel the work if the client goes away.

    The whole body must have been read: what arrives next is then the end of the connection.
    """
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("the client closed the connection")
    finally:
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# --- the OpenAPI document ------------------------------------------------------------

DESCRIPTION: Final = """\
Finds the named route that a text belongs to.

Every error is an RFC 9457 problem document with a stable `code`. Every write carries its
position in the order of all writes (`SR-Version`), may be made safe to repeat
(`Idempotency-Key`) and may be conditional (`If-Match`, `If-None-Match: *`).

Operations with `x-route-set-path` are about one route set. Their own path is that of the set
`default`; the other is that of any set, and for queries and decisions of any alias, with the same
parameters, bodies and answers."""

TAGS: Final = [
    {"name": "queries", "description": "Find the route of a text."},
    {"name": "decisions", "description": "Choose an option, in the protocols of other servers."},
    {"name": "routes", "description": "Read and change routes."},
    {"name": "learning", "description": "Feedback, its review, and changes of several routes."},
    {
        "name": "sets",
        "description": "Route sets and aliases: tests, comparisons, promotions; erasure.",
    },
    {"name": "transfer", "description": "Import and export many routes at once."},
    {"name": "settings", "description": "Settings of the route set, and outcomes of writes."},
    {"name": "cluster", "description": "Members, voters, recoveries and orphaned writes."},
    {"name": "node", "description": "Probes, metrics and introspection of this node."},
]
REQUEST_MODELS: Final[tuple[type[BaseModel], ...]] = (
    schemas.QueryRequest,
    schemas.BatchRequest,
    schemas.PreviewRequest,
    schemas.ReadingRequest,
    schemas.TrialRequest,
    schemas.RoutePatch,
    schemas.UtterancesToAdd,
    schemas.UtterancesToRemove,
    schemas.RecoveryRequest,
    schemas.FinalizeRequest,
    schemas.VoterChange,
    schemas.OrphanToReplay,
    schemas.FeedbackRequest,
    schemas.ResolveRequest,
    schemas.ResolutionsRequest,
    schemas.RevisionRequest,
    schemas.RevisionPreviewRequest,
    schemas.ClustersRequest,
    schemas.DismissRequest,
    schemas.SetBody,
    schemas.SetPatch,
    schemas.ForkBody,
    schemas.ProblemDocument,
    promotion_schemas.TestsBody,
    promotion_schemas.TestsPatch,
    promotion_schemas.EvaluationRequest,
    promotion_schemas.DiffRequest,
    promotion_schemas.AliasBody,
    promotion_schemas.RollbackRequest,
    promotion_schemas.EraseRequest,
    decision_schemas.DecisionRequest,
    decision_schemas.SystemOneRequest,
    decision_schemas.OpenAIError,
    RouteSetSettings,
    Route,
)
READ_PROBLEMS: Final = (400, 401, 403, 422, 500, 503)
BODY_PROBLEMS: Final = (400, 408, 413, 415, 429)
QUERY_PROBLEMS: Final = (*READ_PROBLEMS, *BODY_PROBLEMS, 504)
WRITE_PROBLEMS: Final = (*READ_PROBLEMS, 409, 412, 429, 504)
_SCHEMA: Final = "#/components/schemas/"


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe problem documents for the ``responses`` of an endpoint."""
    return {
        status: {
            "description": status_phrase(status),
            "content": {PROBLEM_JSON: {"schema": {"$ref": f"{_SCHEMA}ProblemDocument"}}},
        }
        for status in sorted(set(statuses))
    }


def success(
    description: str, example: Any, model: Any = None, *, headers: str = ""
) -> dict[str, Any]:
    """Describe a success, with an example and the names of its headers."""
    described: dict[str, Any] = {
        "description": description,
        "content": {"application/json": {"example": example}},
    }
    if model is not None:
        described["model"] = model
    if headers:
        described["headers"] = {name: _header(name) for name in headers.split()}
    return described


def any_json(description: str) -> dict[str, Any]:
    """Describe a success whose JSON has no schema of its own."""
    content = {"application/json": {"schema": {"type": "object"}}}
    return {"description": description, "content": content}


def json_body(schema: str, example: Any) -> dict[str, Any]:
    """Describe a request's JSON body by the name of its schema."""
    content = {"schema": {"$ref": _SCHEMA + schema}, "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


_HEADER_MEANINGS: Final = {
    "ETag": "Revision of the route, quoted; send it as If-Match.",
    "SR-Version": "Position in the order of writes, epoch.seq.",
    "SR-Op-Id": "Identity of the write, 32 hexadecimal digits.",
    "SR-Held-By": "How many of how many voters hold the write on disk, for ack=quorum and all.",
    "Location": "Where to read the outcome of a write that is still pending.",
    "Link": "The next page, if there is one.",
}


def _header(name: str) -> dict[str, Any]:
    return {"description": _HEADER_MEANINGS[name], "schema": {"type": "string"}}


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """Make the document once; the framework keeps it in ``app.openapi_schema``."""
    if app.openapi_schema is None:
        document = get_openapi(
            title="SynaptoRoute node",
            version=__version__,
            description=DESCRIPTION,
            routes=app.routes,
            tags=TAGS,
            license_info={"name": "MIT", "identifier": "MIT"},
        )
        components = document.setdefault("components", {})
        named = components.setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):
            named.pop(unused, None)
        named.update(_request_schemas(REQUEST_MODELS))
        named["RouteBody"] = _route_body(named["Route"])
        components["securitySchemes"] = SECURITY_SCHEMES
        document["security"] = list(SECURITY)
        for path, operations in document["paths"].items():
            if is_of_a_set(path):
                for operation in operations.values():
                    operation["x-route-set-path"] = path_in_a_set(path, "{set}")
        app.openapi_schema = document
    return app.openapi_schema


def _request_schemas(models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    mode: JsonSchemaMode = "validation"
    _, found = models_json_schema(
        [(model, mode) for model in models], ref_template=_SCHEMA + "{model}"
    )
    definitions: dict[str, Any] = found["$defs"]
    return definitions


def _route_body(route: dict[str, Any]) -> dict[str, Any]:
    """A route whose name stands in the path; repeating it in the body is allowed."""
    required = [name for name in route["required"] if name != "name"]
    return {**route, "title": "RouteBody", "required": required}
