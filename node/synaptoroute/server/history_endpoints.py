"""``/v1/history``: who changed what and when, and how to undo it."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from pydantic import AfterValidator
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.change_models import HistoryEntry, HistoryPage
from synaptoroute.core.field_values import COUNT_MAX
from synaptoroute.core.mutation import Revision
from synaptoroute.models import NAME_CHARACTERS_MAX, NAME_PATTERN, normal_name
from synaptoroute.router.history import HISTORY_ENTRIES_MAX, HistoryQuery
from synaptoroute.router.reverts import change_not_found
from synaptoroute.server.parameters import VERSION_PATTERN, WriteParameters
from synaptoroute.server.responses import (
    READ_PROBLEMS,
    model_response,
    problems,
    success,
    version_headers,
    write_response,
)
from synaptoroute.server.route_endpoints import write_responses
from synaptoroute.server.runtime import router_of
from synaptoroute.server.set_access import visible_to
from synaptoroute.web.middleware import context_of
from synaptoroute.web.problems import Forbidden
from synaptoroute.web.set_paths import set_of

endpoints = APIRouter(tags=["settings"])

_ROUTE_EXAMPLE: Final[dict[str, Any]] = {
    "utterances": ["I want my money back"],
    "threshold": None,
    "confidence_min": None,
    "description": None,
    "negatives": [],
    "metadata": {},
    "payload": None,
}
_HISTORY_EXAMPLE: Final = {
    "entries": [
        {
            "version": "1.42",
            "at": "2026-03-01T12:00:00.123+00:00",
            "author": "route-editor",
            "note": "Customers say refund, too",
            "action": "put_route",
            "route_set": "default",
            "route": "refund",
            "alias": None,
            "import_id": None,
            "status": "applied",
            "code": None,
            "count": 1,
            "op_id": "5f0c6a5e9d1b4b0f8a0e3c1d2b4a6978",
            "changes": [
                {
                    "kind": "route",
                    "name": "refund",
                    "route_set": "default",
                    "before": _ROUTE_EXAMPLE,
                    "after": {**_ROUTE_EXAMPLE, "utterances": ["a refund, please"]},
                    "is_known": True,
                }
            ],
            "changes_total": 1,
        }
    ],
    "next_before": None,
}


@endpoints.get(
    "/v1/history",
    summary="Show who changed what and when",
    responses={
        200: success("The history", _HISTORY_EXAMPLE, HistoryPage),
        **problems(*READ_PROBLEMS),
    },
)
async def show_history(
    request: Request,
    route: Annotated[
        str | None,
        Query(
            description="Only changes of this route.",
            min_length=1,
            max_length=NAME_CHARACTERS_MAX,
            pattern=NAME_PATTERN,
        ),
        AfterValidator(lambda name: name if name is None else normal_name(name)),
    ] = None,
    route_set: Annotated[
        str | None,
        Query(
            alias="set",
            description="Only changes of this route set or alias.",
            min_length=1,
            max_length=NAME_CHARACTERS_MAX,
        ),
    ] = None,
    before: Annotated[
        int | None, Query(description="`next_before` of the page before.", ge=1, le=COUNT_MAX)
    ] = None,
    limit: Annotated[
        int, Query(description="Entries to look for.", ge=1, le=HISTORY_ENTRIES_MAX)
    ] = 100,
    changes: Annotated[
        bool, Query(description="Show what each entry changed, before and after.")
    ] = True,
) -> Response:
    """Newest first, as far as this node keeps entries. The author is the name of the API key
    that wrote. A page of a route may be short although there are more: go on with
    `next_before` until it is null. `changes=false` is cheaper.
    """
    router = router_of(request)
    context = context_of(request.scope)
    if context.route_set or (route_set is None and visible_to(request) is not None):
        route_set = set_of(context.route_set)
    query = HistoryQuery(
        route=route,
        route_set=route_set,
        before_seq=before,
        limit=limit,
        has_changes=changes,
        is_visible=visible_to(request),
    )
    page = await router.changes.history(query)
    return model_response(page, headers=version_headers(router.status().version))


@endpoints.post(
    "/v1/history/{version}/revert",
    summary="Revert a change",
    responses=write_responses(404),
)
async def revert_change(
    request: Request,
    version: Annotated[
        str,
        Path(description="The change, by its version in the history.", pattern=VERSION_PATTERN),
    ],
    write: WriteParameters,
) -> Response:
    """A new change restores what the entry changed. 409 `change_superseded` if a later entry
    changed the same route; an `If-Match` with the route's present ETag replaces that as well.
    Settings need the scope `admin`.
    """
    epoch, _, seq = version.partition(".")
    options = write.options()
    revision = Revision(int(epoch), int(seq))
    context = context_of(request.scope)
    key, name = context.key, set_of(context.route_set)

    is_bound = bool(context.route_set) or visible_to(request) is not None

    def check(entry: HistoryEntry) -> None:
        # Without a set in the path, a key for every set reverts changes of any.
        if is_bound and entry.route_set != name:
            raise change_not_found(version)
        has_settings = any(each.kind == "settings" for each in entry.changes or ())
        if has_settings and key is not None and not key.may_in("admin", entry.route_set or name):
            raise Forbidden("a change of settings is not reverted without the scope admin")

    result = await router_of(request).changes.reverter.revert(revision, options, check)
    return write_response(result, options)
