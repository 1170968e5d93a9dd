"""``/v1/sets`` and ``/v1/aliases``: the route sets of a cluster, and the names that point to them.

What is in a set is served below ``/v1/sets/{set}/`` by the endpoints of ``default``, see
``web.set_paths``.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Path, Query
from pydantic import AfterValidator
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.core.names import NAME_CHARACTERS_MAX
from synaptoroute.models import normal_name
from synaptoroute.router.route_sets import (
    PAGE_SETS_MAX,
    AliasInfo,
    AliasPage,
    RouteSetInfo,
    RouteSetLimits,
    RouteSetPage,
    alias_not_found,
    checked_set_name,
)
from synaptoroute.server.parameters import (
    ReadingRoute,
    WriteParameters,
    checked,
    is_unchanged,
    read_document,
)
from synaptoroute.server.responses import (
    BODY_PROBLEMS,
    READ_PROBLEMS,
    json_body,
    model_response,
    problems,
    success,
    version_headers,
    write_response,
)
from synaptoroute.server.route_endpoints import write_responses
from synaptoroute.server.runtime import runtime_of
from synaptoroute.server.schemas import ForkBody, SetBody, SetPatch
from synaptoroute.server.set_access import check_may, may, visible_to
from synaptoroute.web.middleware import context_of
from synaptoroute.web.problems import Forbidden
from synaptoroute.web.set_paths import set_not_found

endpoints = APIRouter(route_class=ReadingRoute, tags=["sets"])

SetName = Annotated[
    str,
    Path(
        alias="set",
        description="Name of the route set.",
        min_length=1,
        max_length=NAME_CHARACTERS_MAX,
        examples=["support@13"],
    ),
    AfterValidator(normal_name),
]
AliasName = Annotated[
    str,
    Path(
        alias="alias",
        description="Name of the alias.",
        min_length=1,
        max_length=NAME_CHARACTERS_MAX,
        examples=["support"],
    ),
    AfterValidator(normal_name),
]
After = Annotated[
    str,
    Query(description="The `next_after` of the page before.", max_length=NAME_CHARACTERS_MAX),
    AfterValidator(normal_name),
]
Limit = Annotated[int, Query(ge=1, le=PAGE_SETS_MAX)]
_SET_EXAMPLE: Final = {
    "name": "support@13",
    "routes": 14,
    "utterances": 168,
    "revision": "1.42",
    "created": "1.40",
    "forked_from": "support@12",
    "limits": {
        "utterances_max": 10_000,
        "routes_max": 0,
        "bytes_max": 0,
        "writes_per_second_max": 50,
        "write_bytes_per_second_max": 0,
    },
    "aliases": ["support"],
}
_ALIAS_STATE: Final = {
    "set": "support@12",
    "shadow": "support@13",
    "shadow_share": 0.2,
    "canary": None,
    "canary_share": 0.0,
}
_ALIAS_EXAMPLE: Final = {"name": "support", **_ALIAS_STATE, "revision": "1.44", "history": []}


@endpoints.get(
    "/v1/sets",
    summary="List route sets",
    responses={
        200: success(
            "One page, in order of name",
            {"sets": [_SET_EXAMPLE], "next_after": None, "version": "1.44"},
            RouteSetPage,
            headers="SR-Version Link",
        ),
        **problems(*READ_PROBLEMS),
    },
)
async def list_sets(request: Request, after: After = "", limit: Limit = 100) -> Response:
    """The route sets that the key of the request may know. Follow `next_after` until it is null."""
    sets = runtime_of(request).router.sets
    page = await sets.sets(after=after, limit=limit, is_visible=visible_to(request))
    headers = _page_headers("sets", page.version, page.next_after, limit)
    return model_response(page, headers=headers)


@endpoints.get(
    "/v1/sets/{set}",
    summary="Show a route set",
    responses={
        200: success("The route set", _SET_EXAMPLE, RouteSetInfo, headers="ETag SR-Version"),
        304: {"description": "Unchanged since the ETag in If-None-Match"},
        **problems(*READ_PROBLEMS, 404),
    },
)
async def show_set(request: Request, name: SetName) -> Response:
    """How much is in it, its limits, and the aliases that name it."""
    check_may(request, "read", name, set_not_found(name))
    router = runtime_of(request).router
    version = router.visible.version
    found = await router.sets.get(name, visible_to(request))
    headers = version_headers(version, found.revision)
    if is_unchanged(request.headers.get("if-none-match"), found.revision):
        return Response(status_code=304, headers=headers)
    return model_response(found, headers=headers)


@endpoints.put(
    "/v1/sets/{set}",
    summary="Create a route set, or replace its limits",
    responses=write_responses(*BODY_PROBLEMS, 404, created=True),
    openapi_extra=json_body("SetBody", {"limits": {"utterances_max": 10_000}}),
)
async def put_set(request: Request, name: SetName, write: WriteParameters) -> Response:
    """201 if the write created it. Needs `admin` in the set; limits need `admin` in every set."""
    name = checked_set_name(name)
    check_may(request, "admin", name, set_not_found(name))
    document = await read_document(request) if _has_body(request) else {}
    asked = checked(SetBody, document)
    if asked.limits is not None:
        _check_limits_allowed(request)
    options = write.options(document)
    result = await runtime_of(request).router.sets.put(name, asked.limits, options)
    return write_response(result, options, is_new=result.created)


@endpoints.patch(
    "/v1/sets/{set}",
    summary="Change limits of a route set",
    responses=write_responses(*BODY_PROBLEMS, 404),
    openapi_extra=json_body("SetPatch", {"limits": {"utterances_max": 10_000}}),
)
async def patch_set(request: Request, name: SetName, write: WriteParameters) -> Response:
    """Limits that are absent stay as they are; 0 is no limit. Needs `admin` in every set."""
    check_may(request, "admin", name, set_not_found(name))
    document = await read_document(request)
    asked = checked(SetPatch, document)
    _check_limits_allowed(request)
    limits = checked(RouteSetLimits, asked.limits)
    options = write.options(document)
    result = await runtime_of(request).router.sets.change_limits(name, limits, options)
    return write_response(result, options)


@endpoints.delete(
    "/v1/sets/{set}",
    summary="Delete a route set",
    responses=write_responses(404),
)
async def delete_set(request: Request, name: SetName, write: WriteParameters) -> Response:
    """Remove it with its routes, settings, tests and feedback. 409 `set_in_use` while an alias
    names it; the set `default` stays. Needs `write` in the set.
    """
    check_may(request, "write", name, set_not_found(name))
    options = write.options()
    result = await runtime_of(request).router.sets.delete(name, options)
    return write_response(result, options)


@endpoints.post(
    "/v1/sets/{set}/fork",
    summary="Copy a route set",
    responses=write_responses(*BODY_PROBLEMS, 404, created=True),
    openapi_extra=json_body("ForkBody", {"as": "support@14"}),
)
async def fork_set(request: Request, name: SetName, write: WriteParameters) -> Response:
    """The copy has the routes, settings, tests, limits and fitted numbers of the set at one
    position. Nodes copy their own rows, so nothing is encoded. Needs `read` in the set and
    `write` in the copy.
    """
    check_may(request, "read", name, set_not_found(name))
    document = await read_document(request)
    asked = checked(ForkBody, document)
    into = checked_set_name(asked.into)
    check_may(request, "write", into, set_not_found(into))
    options = write.options(document)
    result = await runtime_of(request).router.sets.fork(name, into, options)
    return write_response(result, options, is_new=result.status == "applied")


@endpoints.get(
    "/v1/aliases",
    summary="List aliases",
    responses={
        200: success(
            "One page, in order of name",
            {"aliases": [_ALIAS_EXAMPLE], "next_after": None, "version": "1.44"},
            AliasPage,
            headers="SR-Version Link",
        ),
        **problems(*READ_PROBLEMS),
    },
)
async def list_aliases(request: Request, after: After = "", limit: Limit = 100) -> Response:
    """The aliases that the key of the request may know, without their histories."""
    sets = runtime_of(request).router.sets
    page = await sets.aliases(after=after, limit=limit, is_visible=visible_to(request))
    headers = _page_headers("aliases", page.version, page.next_after, limit)
    return model_response(page, headers=headers)


@endpoints.get(
    "/v1/aliases/{alias}",
    summary="Show an alias",
    responses={
        200: success("The alias", _ALIAS_EXAMPLE, AliasInfo, headers="ETag SR-Version"),
        304: {"description": "Unchanged since the ETag in If-None-Match"},
        **problems(*READ_PROBLEMS, 404),
    },
)
async def show_alias(request: Request, name: AliasName) -> Response:
    """What it points to, and who changed that when."""
    check_may(request, "read", name, alias_not_found(name))
    router = runtime_of(request).router
    version = router.visible.version
    found = await router.sets.alias(name, partial(may, request, "read"))
    headers = version_headers(version, found.revision)
    if is_unchanged(request.headers.get("if-none-match"), found.revision):
        return Response(status_code=304, headers=headers)
    return model_response(found, headers=headers)


@endpoints.delete(
    "/v1/aliases/{alias}",
    summary="Delete an alias",
    responses=write_responses(404),
)
async def delete_alias(request: Request, name: AliasName, write: WriteParameters) -> Response:
    """Queries to it get 404 `set_not_found` from then on; the sets stay. Needs `write` for it."""
    check_may(request, "write", name, alias_not_found(name))
    options = write.options()
    result = await runtime_of(request).router.sets.delete_alias(name, options)
    return write_response(result, options)


def _has_body(request: Request) -> bool:
    headers = request.headers
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _check_limits_allowed(request: Request) -> None:
    key = context_of(request.scope).key
    if key is not None and not key.may("admin"):
        raise Forbidden("limits need an API key with the scope admin in every route set")


def _page_headers(kind: str, version: str, next_after: str | None, limit: int) -> dict[str, Any]:
    headers = version_headers(version)
    if next_after is not None:
        headers["Link"] = f'</v1/{kind}?after={quote(next_after)}&limit={limit}>; rel="next"'
    return headers
