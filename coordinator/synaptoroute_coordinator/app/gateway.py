"""Requests about routes and queries, forwarded to a node.

The coordinator has no routes.  It chooses a live node at the head, or the one that the caller
names, and returns its response unchanged, errors included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.errors import NotReady
from synaptoroute.models import NAME_CHARACTERS_MAX, NAME_PATTERN
from synaptoroute_coordinator.app.middleware import actor_of
from synaptoroute_coordinator.app.responses import ANY_JSON, PROBLEMS, NodeNotFound
from synaptoroute_coordinator.app.runtime import Runtime, runtime_of
from synaptoroute_coordinator.fleet import NodeView

_REQUEST_HEADERS: Final = ("content-type", "accept", "if-match", "if-none-match", "idempotency-key",
                "sr-min-version", "sr-min-version-timeout")  # fmt: skip
_RESPONSE_HEADERS: Final = ("content-type", "etag", "sr-version", "sr-op-id", "sr-node", "location",
                    "retry-after", "sr-staleness-ms")  # fmt: skip
_WRITES: Final = frozenset({"PUT", "PATCH", "DELETE"})

endpoints = APIRouter(tags=["routes"])

NodeName = Annotated[str, Query(description="Identity or name of the node to ask.", max_length=128)]
RouteName = Annotated[str, Path(max_length=NAME_CHARACTERS_MAX, min_length=1, pattern=NAME_PATTERN)]
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: ANY_JSON,
    304: {"description": "Unchanged"},
    **PROBLEMS,
}


def choose_node(runtime: Runtime, requested: str = "") -> NodeView:
    """Choose a node for a request: the requested one, or the least busy."""
    view = runtime.reconciler.view
    if requested and all(requested not in (node.node, node.name) for node in view.nodes):
        raise NodeNotFound("no node has this identity or name")
    live = [node for node in view.live if node.url]
    if requested:
        live = [node for node in live if requested in (node.node, node.name)]
    ready = [node for node in live if node.telemetry is None or node.telemetry.is_ready]
    if not (ready or live):
        raise NotReady("no such node is live", retry_after_seconds=1.0)
    return min(ready or live, key=lambda node: (node.lag_entries, node.queue_requests, node.name))


async def forward(request: Request, requested: str = "") -> Response:
    runtime = runtime_of(request)
    node = choose_node(runtime, requested)
    body = await request.body()
    headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
    query = "&".join(
        part for part in request.url.query.split("&") if part and not part.startswith("node=")
    )
    # The raw path: decoded and encoded again, an escaped slash in a name would be lost.
    path = request.scope["raw_path"].decode("latin-1") if request.scope.get("raw_path") else ""
    answer = await ask_node(
        runtime,
        node,
        request.method,
        path.partition("?")[0] or request.url.path,
        query=query,
        body=body,
        headers=headers,
    )
    if request.method in _WRITES or request.url.path.endswith("/utterances"):
        outcome = "done" if answer.status_code < 300 else "refused"
        action = f"{request.method} {request.url.path}"
        await runtime.reconciler.audit_log.add(
            actor_of(request.scope), action, outcome, f"{answer.status_code} from {node.name}"
        )
    return answer


async def ask_node(
    runtime: Runtime,
    node: NodeView,
    method: str,
    path: str,
    *,
    query: str = "",
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Response:
    given = {"content-type": "application/json"} if headers is None and body else headers
    answer = await runtime.reconciler.client.ask(
        node.url, method, path, query=query, body=body, headers=given
    )
    kept = {name: answer.headers[name] for name in _RESPONSE_HEADERS if name in answer.headers}
    return Response(answer.body, status_code=answer.status, headers=kept)


# --- endpoints -------------------------------------------------------------------------


async def _forward(request: Request, node: NodeName = "") -> Response:
    return await forward(request, node)


async def _forward_route(request: Request, name: RouteName, node: NodeName = "") -> Response:
    return await forward(request, node)


_ANSWER: Final = "The response of the node."
_WRITTEN: Final = "Written through one node to all; the response has the position of the write."
_ENDPOINTS: Final = (
    ("GET", "/v1/routes", "List routes", f"{_ANSWER} Parameters: `after`, `limit`."),
    ("GET", "/v1/routes/{name}", "Show a route", _ANSWER),
    ("PUT", "/v1/routes/{name}", "Create or replace a route", _WRITTEN),
    ("PATCH", "/v1/routes/{name}", "Change fields of a route", _WRITTEN),
    ("DELETE", "/v1/routes/{name}", "Delete a route", _WRITTEN),
    ("GET", "/v1/settings", "Show the settings of the route set", _ANSWER),
    (
        "GET",
        "/v1/conflicts",
        "List near-duplicate utterances",
        f"{_ANSWER} Parameters: `similarity_min`, `limit`.",
    ),
    ("POST", "/v1/query", "Route one text", f"{_ANSWER} `explain` shows the reason."),
    (
        "POST",
        "/v1/preview",
        "Try a change of a route",
        "Which routes texts would match after a change; nothing changes.",
    ),
)
for _method, _path, _summary, _description in _ENDPOINTS:
    endpoints.add_api_route(
        _path,
        _forward_route if "{name}" in _path else _forward,
        methods=[_method],
        name=_summary.lower().replace(" ", "_"),
        summary=_summary,
        description=_description,
        responses=_RESPONSES,
    )
