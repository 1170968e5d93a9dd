"""Requests about routes and queries, forwarded to a node.

The coordinator holds no route.  It chooses a node that is live and at the head, or the
one that the caller names, and gives its answer back unchanged, problems included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.errors import NotReady, TooLarge
from synaptoroute.models import NAME_CHARACTERS_MAX, NAME_PATTERN
from synaptoroute_coordinator.app.middleware import actor_of
from synaptoroute_coordinator.app.responses import ANY_JSON, PROBLEMS, NodeNotFound
from synaptoroute_coordinator.app.runtime import Runtime, runtime_of
from synaptoroute_coordinator.fleet import NodeView

BODY_BYTES_MAX: Final = 8_388_608
_SENT: Final = ("content-type", "accept", "if-match", "if-none-match", "idempotency-key",
                "sr-min-version", "sr-min-version-timeout")  # fmt: skip
_RETURNED: Final = ("content-type", "etag", "sr-version", "sr-op-id", "sr-node", "location",
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
    """Choose a node for a request: the requested one, or the least busy.

    Raises:
        NotReady: No node is live, or the requested one is not.
        NodeNotFound: No node has that name.
    """
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
    """Forward a request to a node.

    Raises:
        NotReady: No node is available.
        TooLarge: The body is over ``BODY_BYTES_MAX``.
        ClusterError: The node does not answer.
    """
    runtime = runtime_of(request)
    node = choose_node(runtime, requested)
    body = await read_body(request)
    headers = {name: request.headers[name] for name in _SENT if name in request.headers}
    query = "&".join(
        part for part in request.url.query.split("&") if part and not part.startswith("node=")
    )
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
    """Send one request to a node and return its response unchanged.

    Raises:
        ClusterError: The node does not answer.
    """
    given = {"content-type": "application/json"} if headers is None and body else headers
    answer = await runtime.reconciler.client.ask(
        node.url, method, path, query=query, body=body, headers=given
    )
    kept = {name: answer.headers[name] for name in _RETURNED if name in answer.headers}
    return Response(answer.body, status_code=answer.status, headers=kept)


async def read_body(request: Request) -> bytes:
    """Read the whole body of a request.

    Raises:
        TooLarge: It is over ``BODY_BYTES_MAX``.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES_MAX:
            raise TooLarge(f"a body has at most {BODY_BYTES_MAX} bytes", limit=BODY_BYTES_MAX)
    return bytes(body)


@endpoints.get("/v1/routes", summary="List routes", responses=_RESPONSES)
async def list_routes(request: Request, node: NodeName = "") -> Response:
    """The response of the node. Parameters: `after`, `limit`."""
    return await forward(request, node)


@endpoints.get("/v1/routes/{name}", summary="Show a route", responses=_RESPONSES)
async def show_route(request: Request, name: RouteName, node: NodeName = "") -> Response:
    """The response of the node."""
    return await forward(request, node)


@endpoints.put("/v1/routes/{name}", summary="Create or replace a route", responses=_RESPONSES)
async def put_route(request: Request, name: RouteName, node: NodeName = "") -> Response:
    """Written through one node to all; the response has the position of the write."""
    return await forward(request, node)


@endpoints.patch("/v1/routes/{name}", summary="Change fields of a route", responses=_RESPONSES)
async def patch_route(request: Request, name: RouteName, node: NodeName = "") -> Response:
    """Written through one node to all."""
    return await forward(request, node)


@endpoints.delete("/v1/routes/{name}", summary="Delete a route", responses=_RESPONSES)
async def delete_route(request: Request, name: RouteName, node: NodeName = "") -> Response:
    """Written through one node to all."""
    return await forward(request, node)


@endpoints.get("/v1/settings", summary="Show the settings of the route set", responses=_RESPONSES)
async def show_settings(request: Request, node: NodeName = "") -> Response:
    """The response of the node."""
    return await forward(request, node)


@endpoints.get("/v1/conflicts", summary="List near-duplicate utterances", responses=_RESPONSES)
async def list_conflicts(request: Request, node: NodeName = "") -> Response:
    """The response of the node. Parameters: `similarity_min`, `limit`."""
    return await forward(request, node)


@endpoints.post("/v1/query", summary="Route one text", responses=_RESPONSES)
async def query(request: Request, node: NodeName = "") -> Response:
    """The response of the node; `explain` shows the reason."""
    return await forward(request, node)


@endpoints.post("/v1/preview", summary="Try a change of a route", responses=_RESPONSES)
async def preview(request: Request, node: NodeName = "") -> Response:
    """Which routes texts would match after a change; nothing changes."""
    return await forward(request, node)
