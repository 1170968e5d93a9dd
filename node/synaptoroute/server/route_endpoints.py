"""``/v1/routes``: read and change routes and their utterances."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Query
from pydantic import AfterValidator
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.core.mutation import KEEP
from synaptoroute.errors import InvalidRoute
from synaptoroute.models import (
    NAME_CHARACTERS_MAX,
    Route,
    StoredRoute,
    WriteResult,
    normal_name,
)
from synaptoroute.router.route_checks import count_to_encode
from synaptoroute.server.parameters import (
    ReadingRoute,
    RouteName,
    WriteParameters,
    checked,
    is_unchanged,
    read_document,
    read_texts,
    take_texts,
)
from synaptoroute.server.responses import (
    BODY_PROBLEMS,
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    json_body,
    model_response,
    problems,
    success,
    version_headers,
    write_response,
)
from synaptoroute.server.runtime import router_of
from synaptoroute.server.schemas import (
    RouteList,
    RoutePatch,
    UtterancesToAdd,
    UtterancesToRemove,
)
from synaptoroute.web.problems import InvalidParameter

endpoints = APIRouter(route_class=ReadingRoute, tags=["routes"])

PAGE_ROUTES_MAX: Final = 1_000
PAGE_ROUTES_DEFAULT: Final = 100

ROUTE_EXAMPLE: Final = {
    "utterances": ["I want my money back", "How do I get a refund?"],
    "threshold": 0.45,
    "payload": {"tool": "start_refund"},
}
_STORED_EXAMPLE: Final = {
    "name": "refund",
    "effective_threshold": 0.45,
    "metadata": {},
    "revision": "1.42",
    **ROUTE_EXAMPLE,
}
WRITE_EXAMPLE: Final = {
    "status": "applied",
    "op_id": "5f0c6a5e9d1b4b0f8a3a1c2d3e4f5a6b",
    "version": "1.42",
    "revision": "1.42",
    "count": 2,
    "ack": "applied",
}
_UTTERANCES_EXAMPLE: Final = {"utterances": ["Give me my money back"]}


def write_responses(*more: int, created: bool = False) -> dict[int | str, dict[str, Any]]:
    headers = "SR-Version SR-Op-Id SR-Held-By ETag"
    found: dict[int | str, dict[str, Any]] = {
        200: success("Done", WRITE_EXAMPLE, WriteResult, headers=headers),
        202: success(
            "In the log, but the level of durability is not reached yet",
            {**WRITE_EXAMPLE, "status": "pending", "version": "", "revision": None},
            WriteResult,
            headers="SR-Op-Id Location",
        ),
        **problems(*WRITE_PROBLEMS, *more),
    }
    if created:
        found[201] = success("Created", WRITE_EXAMPLE, WriteResult, headers=headers)
    return found


@endpoints.get(
    "/v1/routes",
    summary="List routes",
    responses={
        200: success(
            "One page, in order of name",
            {"routes": [_STORED_EXAMPLE], "next_after": None, "version": "1.42"},
            RouteList,
            headers="SR-Version Link",
        ),
        **problems(*READ_PROBLEMS),
    },
)
async def list_routes(
    request: Request,
    after: Annotated[
        str,
        Query(description="The `next_after` of the page before.", max_length=NAME_CHARACTERS_MAX),
        AfterValidator(normal_name),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=PAGE_ROUTES_MAX)] = PAGE_ROUTES_DEFAULT,
) -> Response:
    """Routes in order of name. Follow `next_after` until it is null."""
    page = await router_of(request).alist_routes(after=after, limit=limit)
    headers = version_headers(page.version)
    if page.next_after is not None:
        next_page = f"/v1/routes?after={quote(page.next_after)}&limit={limit}"
        headers["Link"] = f'<{next_page}>; rel="next"'
    shown = RouteList.model_construct(
        routes=page.routes, next_after=page.next_after, version=page.version
    )
    return model_response(shown, headers=headers)


@endpoints.get(
    "/v1/routes/{name}",
    summary="Show a route",
    responses={
        200: success("The route", _STORED_EXAMPLE, StoredRoute, headers="ETag SR-Version"),
        304: {"description": "Unchanged since the ETag in If-None-Match"},
        **problems(*READ_PROBLEMS, 404),
    },
)
async def show_route(request: Request, name: RouteName) -> Response:
    """A route with its utterances, as this node holds it."""
    route = await router_of(request).aget_route(name)
    headers = version_headers(route.version, route.revision)
    if is_unchanged(request.headers.get("if-none-match"), route.revision):
        return Response(status_code=304, headers=headers)
    return model_response(route, headers=headers)


@endpoints.put(
    "/v1/routes/{name}",
    summary="Create or replace a route",
    responses=write_responses(*BODY_PROBLEMS, created=True),
    openapi_extra=json_body("RouteBody", ROUTE_EXAMPLE),
)
async def put_route(request: Request, name: RouteName, write: WriteParameters) -> Response:
    """Create a route or replace all of it. The utterances are encoded here unless their
    vectors are given. 201 if the write created the route.
    """
    document = await read_texts(request)
    route = checked(Route, _named(document, name))
    take_texts(request, count_to_encode(route))
    options = write.options(document)
    result = await router_of(request).aput_route(route, options, is_checked=True)
    return write_response(result, options, is_new=result.created)


@endpoints.patch(
    "/v1/routes/{name}",
    summary="Change a route's fields",
    responses=write_responses(*BODY_PROBLEMS, 404),
    openapi_extra=json_body("RoutePatch", {"threshold": 0.45}),
)
async def patch_route(request: Request, name: RouteName, write: WriteParameters) -> Response:
    """Replace fields as a whole; absent ones stay as they are, and so do the utterances. A
    threshold or a `confidence_min` of null restores the default; a description of null and an
    empty list of negatives remove them.
    """
    document = await read_document(request)
    patch = checked(RoutePatch, document)
    take_texts(request, len(patch.negatives or ()) + (patch.description is not None))
    given = patch.model_fields_set
    options = write.options(document)
    result = await router_of(request).apatch_route(
        name,
        threshold=patch.threshold if "threshold" in given else KEEP,
        metadata=patch.metadata if "metadata" in given else KEEP,
        payload=patch.payload if "payload" in given else KEEP,
        confidence_min=patch.confidence_min if "confidence_min" in given else KEEP,
        description=patch.description if "description" in given else KEEP,
        negatives=patch.negatives if "negatives" in given else KEEP,
        options=options,
    )
    return write_response(result, options)


@endpoints.delete(
    "/v1/routes/{name}",
    summary="Delete a route",
    responses=write_responses(404),
)
async def delete_route(request: Request, name: RouteName, write: WriteParameters) -> Response:
    """Remove a route. The response has a body that shows the version of the write."""
    options = write.options()
    result = await router_of(request).adelete_route(name, options)
    return write_response(result, options)


@endpoints.post(
    "/v1/routes/{name}/utterances",
    summary="Add utterances",
    responses=write_responses(*BODY_PROBLEMS, 404),
    openapi_extra=json_body("UtterancesToAdd", _UTTERANCES_EXAMPLE),
)
async def add_utterances(request: Request, name: RouteName, write: WriteParameters) -> Response:
    """Add examples to a route; examples that it already has stay as they are."""
    document = await read_texts(request)
    asked = checked(UtterancesToAdd, document)
    take_texts(request, 0 if asked.vectors is not None else len(asked.utterances))
    options = write.options(document)
    result = await router_of(request).aadd_utterances(
        name, asked.utterances, asked.vectors, options
    )
    return write_response(result, options)


@endpoints.delete(
    "/v1/routes/{name}/utterances",
    summary="Remove utterances",
    responses=write_responses(*BODY_PROBLEMS, 404),
    openapi_extra=json_body("UtterancesToRemove", _UTTERANCES_EXAMPLE),
)
async def remove_utterances(request: Request, name: RouteName, write: WriteParameters) -> Response:
    """Remove examples from a route; the last one cannot be removed."""
    document = await read_document(request)
    asked = checked(UtterancesToRemove, document)
    options = write.options(document)
    result = await router_of(request).aremove_utterances(name, asked.utterances, options)
    return write_response(result, options)


def _named(document: Any, name: str) -> Any:
    if not isinstance(document, dict):
        raise InvalidRoute("the body must be an object")
    given = document.get("name", name)
    if given != name and not (isinstance(given, str) and normal_name(given) == name):
        raise InvalidParameter("the name in the body is not the name in the path")
    return {**document, "name": name}
