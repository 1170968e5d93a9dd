"""The OpenAPI document, with examples and every problem document of each endpoint.

The endpoints read bodies themselves, strictly, so the framework does not find their schemas;
they are listed here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from synaptoroute.models import Route, RouteSetSettings
from synaptoroute.server import schemas
from synaptoroute.version import __version__
from synaptoroute.web.problems import PROBLEM_JSON, status_phrase

DESCRIPTION: Final = """\
Finds the named route that a text belongs to.

Every error is an RFC 9457 problem document with a stable `code`. Every write carries its
position in the order of all writes (`SR-Version`), may be made safe to repeat
(`Idempotency-Key`) and may be conditional (`If-Match`, `If-None-Match: *`)."""

TAGS: Final = [
    {"name": "queries", "description": "Find the route of a text."},
    {"name": "routes", "description": "Read and change routes."},
    {"name": "transfer", "description": "Import and export many routes at once."},
    {"name": "settings", "description": "Settings of the route set, and outcomes of writes."},
    {"name": "node", "description": "Probes, metrics and introspection of this node."},
]
REQUEST_MODELS: Final[tuple[type[BaseModel], ...]] = (
    schemas.QueryRequest,
    schemas.BatchRequest,
    schemas.PreviewRequest,
    schemas.TrialRequest,
    schemas.RoutePatch,
    schemas.UtterancesToAdd,
    schemas.UtterancesToRemove,
    schemas.RecoveryRequest,
    schemas.VoterChange,
    schemas.OrphanToReplay,
    schemas.ProblemDocument,
    RouteSetSettings,
    Route,
)
READ_PROBLEMS: Final = (401, 403, 422, 500, 503)
BODY_PROBLEMS: Final = (400, 408, 413, 415, 429)
QUERY_PROBLEMS: Final = (*READ_PROBLEMS, *BODY_PROBLEMS, 504)
WRITE_PROBLEMS: Final = (*READ_PROBLEMS, 409, 412, 429)
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
    description: str, example: Any, model: type[BaseModel] | None = None, *, headers: str = ""
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


def json_body(schema: str, example: Any) -> dict[str, Any]:
    """Describe a request's JSON body by the name of its schema."""
    content = {"schema": {"$ref": _SCHEMA + schema}, "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


_HEADER_MEANINGS: Final = {
    "ETag": "Revision of the route, quoted; send it as If-Match.",
    "SR-Version": "Position in the order of writes, epoch.seq.",
    "SR-Op-Id": "Identity of the write, 32 hexadecimal digits.",
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
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [{}, {"bearer": []}, {"api_key": []}]
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
