"""Route sets: listed, created, copied, limited and deleted through a node.

What is in a set is below ``/v1/sets/{set}/``, see ``CoordinatorPolicy.locate``.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.models import NAME_CHARACTERS_MAX
from synaptoroute_coordinator.app.gateway import Forwarded, NodeName, forward
from synaptoroute_coordinator.app.responses import FORWARDED_RESPONSES

endpoints = APIRouter(tags=["sets"])

SetName = Annotated[str, Path(alias="set", max_length=NAME_CHARACTERS_MAX, min_length=1)]
_SET: Final = "/v1/sets/{set}"
_ANSWER: Final = "The response of the node."
_WRITTEN: Final = "Written through one node to all; the response has the position of the write."
_BY_ADMIN: Final = f"{_WRITTEN} Scope `admin`."
_ACK: Final = "ack ack_timeout"
_LIMITS: Final = {"limits": {"utterances_max": 10_000}}
_FORWARDED: Final = tuple(
    Forwarded.of(*each)
    for each in (
        ("GET", "/v1/sets", "list_sets", "List route sets", _ANSWER, "after limit"),
        ("GET", _SET, "show_set", "Show a route set"),
        ("PUT", _SET, "put_set", "Create a set, or replace limits", _BY_ADMIN, _ACK, _LIMITS),
        ("PATCH", _SET, "patch_set", "Change limits of a set", _BY_ADMIN, _ACK, _LIMITS),
        ("DELETE", _SET, "delete_set", "Delete a route set", _WRITTEN, _ACK),
        ("POST", f"{_SET}/fork", "fork_set", "Copy a set", _WRITTEN, _ACK, {"as": "support@14"}),
    )
)


async def _forward_set(request: Request, name: SetName, node: NodeName = "") -> Response:
    return await forward(request, node)


for _each in _FORWARDED:
    endpoints.add_api_route(
        _each.path,
        _forward_set if "{set}" in _each.path else forward,
        methods=[_each.method],
        name=_each.operation,
        summary=_each.summary,
        description=_each.description,
        responses=FORWARDED_RESPONSES,
        openapi_extra=_each.openapi,
    )
