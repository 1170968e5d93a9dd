"""Requests that a node answers: routes and queries, voters, orphaned writes, recoveries.

The coordinator has no routes.  It chooses a live node at the head, or the one that the caller
names, and returns its response unchanged, errors included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from pydantic import Field, StrictBool
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.errors import NotReady
from synaptoroute.models import NAME_CHARACTERS_MAX, NAME_PATTERN
from synaptoroute.sequencer.proven_http import Target
from synaptoroute.trust.operator import WARRANT_CHARACTERS_MAX
from synaptoroute.web.middleware import context_of
from synaptoroute_coordinator.actions.executor import ActionResult
from synaptoroute_coordinator.app.fleet import find_node
from synaptoroute_coordinator.app.responses import (
    ANY_JSON,
    FORWARDED_RESPONSES,
    PROBLEMS,
    ActionFailed,
    NodeNotFound,
    RequestModel,
    json_response,
)
from synaptoroute_coordinator.app.runtime import Runtime, actor_of, runtime_of
from synaptoroute_coordinator.fleet import NodeView

_REQUEST_HEADERS: Final = ("content-type", "accept", "if-match", "if-none-match",
                "idempotency-key", "sr-min-version", "sr-min-version-timeout", "sr-note",
                "traceparent", "tracestate")  # fmt: skip
_RESPONSE_HEADERS: Final = ("content-type", "etag", "sr-version", "sr-op-id", "sr-node", "location",
                    "retry-after", "sr-staleness-ms")  # fmt: skip
_WRITES: Final = frozenset({"PUT", "PATCH", "DELETE"})
_WRITING_POSTS: Final = frozenset(
    {"/v1/feedback", "/v1/feedback/resolve", "/v1/revisions", "/v1/erase"}
)
_WRITING_ENDS: Final = ("/utterances", "/fork", "/rollback", "/revert")

endpoints = APIRouter()

NodeName = Annotated[str, Query(description="Identity or name of the node to ask.", max_length=128)]
RouteName = Annotated[str, Path(max_length=NAME_CHARACTERS_MAX, min_length=1, pattern=NAME_PATTERN)]
_ACTION_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: ANY_JSON,
    202: {**ANY_JSON, "description": "Not decided yet"},
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
        raise NotReady("no such node is live", retry_after_seconds=1.0, outcome="not_taken")
    return min(ready or live, key=lambda node: (node.lag_entries, node.queue_requests, node.name))


async def forward(request: Request, node: NodeName = "") -> Response:
    return await forward_body(request, node, await request.body())


async def forward_body(request: Request, node: str, body: bytes) -> Response:
    """Forward a request with this body to a node, and record a write."""
    runtime = runtime_of(request)
    chosen = choose_node(runtime, node)
    headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
    query = "&".join(
        part for part in request.url.query.split("&") if part and not part.startswith("node=")
    )
    # The raw path: decoded and encoded again, an escaped slash in a name would be lost.
    path = request.scope["raw_path"].decode("latin-1") if request.scope.get("raw_path") else ""
    answer = await ask_node(
        runtime,
        chosen,
        request.method,
        path.partition("?")[0] or request.url.path,
        query=query,
        body=body,
        headers=headers,
        actor=actor_of(request.scope),
    )
    asked = request.url.path
    is_post = asked.endswith(_WRITING_ENDS) or asked in _WRITING_POSTS
    if request.method in _WRITES or is_post:
        outcome = "done" if answer.status_code < 300 else "refused"
        action = f"{request.method} {context_of(request.scope).path}"
        await runtime.reconciler.audit_log.add(
            actor_of(request.scope), action, outcome, f"{answer.status_code} from {chosen.name}"
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
    actor: str = "",
) -> Response:
    given = {"content-type": "application/json"} if headers is None and body else headers
    answer = await runtime.reconciler.client.ask(
        Target(node.url, node.node),
        method,
        path,
        query=query,
        body=body,
        headers=given,
        actor=actor,
    )
    kept = {name: answer.headers[name] for name in _RESPONSE_HEADERS if name in answer.headers}
    # A browser would write what people said to its disk.
    kept["cache-control"] = "no-store"
    return Response(answer.body, status_code=answer.status, headers=kept)


async def _forward_route(request: Request, name: RouteName, node: NodeName = "") -> Response:
    return await forward(request, node)


_ANSWER: Final = "The response of the node."
_WRITTEN: Final = "Written through one node to all; the response has the position of the write."
_ROUTE_EXAMPLE: Final = {"utterances": ["I want my money back"], "threshold": 0.45}
_REVISION_EXAMPLE: Final = {"routes": [{"name": "refund", "utterances": ["money back"]}]}


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A call that a node answers.

    Attributes:
        method: HTTP method.
        path: Template of the path.
        operation: Identifier of the operation; as in the document of the node.
        summary: What it does.
        description: More about it.
        parameters: Names of its parameters in the URL, comma-separated.
        example: Example of its body; None if it has none.
    """

    method: str
    path: str
    operation: str
    summary: str
    description: str = _ANSWER
    parameters: str = ""
    example: Any = None

    @classmethod
    def of(cls, *fields: Any) -> Forwarded:
        """A call from its fields in order."""
        return cls(*fields)

    @property
    def openapi(self) -> dict[str, Any]:
        """Describe the body and the parameters, which the framework cannot know."""
        parameters = [
            {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}
            for name in self.parameters.split()
        ]
        if self.example is None:
            return {"parameters": parameters}
        content = {"schema": {"type": "object"}, "example": self.example}
        body = {"required": True, "content": {"application/json": content}}
        return {"parameters": parameters, "requestBody": body}


_ENDPOINTS: Final = (
    Forwarded("GET", "/v1/routes", "list_routes", "List routes", parameters="after limit"),
    Forwarded("GET", "/v1/routes/{name}", "show_route", "Show a route"),
    Forwarded(
        "PUT",
        "/v1/routes/{name}",
        "put_route",
        "Create or replace a route",
        _WRITTEN,
        "ack ack_timeout",
        _ROUTE_EXAMPLE,
    ),
    Forwarded(
        "PATCH",
        "/v1/routes/{name}",
        "patch_route",
        "Change fields of a route",
        _WRITTEN,
        "ack ack_timeout",
        {"threshold": 0.45},
    ),
    Forwarded(
        "DELETE",
        "/v1/routes/{name}",
        "delete_route",
        "Delete a route",
        _WRITTEN,
        "ack ack_timeout",
    ),
    Forwarded("GET", "/v1/settings", "show_settings", "Show the settings of the route set"),
    Forwarded(
        "PUT",
        "/v1/settings",
        "put_settings",
        "Replace the settings of the route set",
        f"{_WRITTEN} Scope `admin`.",
        "ack ack_timeout",
        {"aggregation": "adaptive", "topk": 5, "threshold": None, "capacity_slots": 100_000},
    ),
    Forwarded(
        "GET",
        "/v1/feedback",
        "list_feedback",
        "List the review queue",
        f"{_ANSWER} Scope `admin`.",
        "route after limit",
    ),
    Forwarded(
        "GET",
        "/v1/evaluation",
        "show_evaluation",
        "Judge the routes by their own utterances",
        parameters="limit answers",
    ),
    Forwarded(
        "POST",
        "/v1/feedback",
        "put_feedback",
        "Say which route is right",
        _WRITTEN,
        "ack ack_timeout",
        {"text": "send my headphones back", "route": "returns"},
    ),
    Forwarded(
        "POST",
        "/v1/feedback/resolve",
        "resolve_items",
        "Resolve items of the review queue",
        _WRITTEN,
        "ack ack_timeout",
        {"items": [{"id": "5f0c6a5e9d1b4b0f", "as": "utterance", "route": "returns"}]},
    ),
    Forwarded(
        "POST",
        "/v1/revisions/preview",
        "preview_revision",
        "Preview the effect of a revision",
        "Where texts, the queue's items and utterances go before and after; nothing changes.",
        "",
        _REVISION_EXAMPLE,
    ),
    Forwarded(
        "GET",
        "/v1/history",
        "show_history",
        "Show who changed what and when",
        parameters="set route before limit changes",
    ),
    Forwarded(
        "GET",
        "/v1/conflicts",
        "list_conflicts",
        "List near-duplicate utterances",
        parameters="similarity_min limit",
    ),
    Forwarded(
        "POST",
        "/v1/query",
        "query",
        "Route one text",
        f"{_ANSWER} `explain` shows the reason.",
        "",
        {"text": "How do I get my money back?", "explain": True},
    ),
    Forwarded(
        "POST",
        "/v1/query/batch",
        "query_batch",
        "Route several texts",
        _ANSWER,
        "",
        {"texts": ["How do I get my money back?", "Where is my parcel?"]},
    ),
    Forwarded(
        "POST",
        "/v1/preview",
        "preview",
        "Try a change of a route",
        "Which routes texts would match after a change; nothing changes.",
        "",
        {"name": "refund", "route": None, "texts": ["How do I get my money back?"]},
    ),
    Forwarded(
        "POST",
        "/v1/preview/texts",
        "preview_texts",
        "Show how texts are read",
        "What is cut out of texts and which words are repaired, also with patterns to try.",
        "",
        {"texts": ["where is my refnud"]},
    ),
)
for _each in _ENDPOINTS:
    endpoints.add_api_route(
        _each.path,
        _forward_route if "{name}" in _each.path else forward,
        methods=[_each.method],
        tags=["routes"],
        name=_each.operation,
        summary=_each.summary,
        description=_each.description,
        responses=FORWARDED_RESPONSES,
        openapi_extra=_each.openapi,
    )


# --- voters, orphaned writes and forced recoveries ------------------------------------

# The nodes decide.  The coordinator finds the node to ask, forwards the request with its own
# key, and records the operator in the audit log.

ORPHANS_MAX: Final = 1_000


_WARRANT: Final = Field(
    default="",
    max_length=WARRANT_CHARACTERS_MAX,
    description="The operator's signature, where the nodes know the operator's key.",
)


class VoterAction(RequestModel):
    """Whether a node votes on recoveries."""

    node: str = Field(min_length=1, max_length=128, description="Identity or name of the node.")
    vote: StrictBool
    warrant: str = _WARRANT


class OrphanAction(RequestModel):
    """A write that a recovery left behind."""

    node: str = Field(min_length=1, max_length=128, description="Node that holds it.")
    op_id: str = Field(pattern=r"^[0-9a-f]{32}$")


class RecoveryAction(RequestModel):
    """Open the log with the nodes that are present."""

    force: StrictBool = Field(description="False only shows what forcing would keep and may lose.")
    warrant: str = _WARRANT


@endpoints.post(
    "/v1/actions/voter", tags=["actions"], summary="Change the voters", responses=_ACTION_RESPONSES
)
async def change_voter(request: Request, asked: VoterAction) -> Response:
    """One node at a time; the next change is accepted once a majority holds this one."""
    runtime = runtime_of(request)
    # A voter that is lost for good is no longer in the fleet view, only in the log.
    voters = runtime.reconciler.view.log.voters
    identity = asked.node if asked.node in voters else find_node(runtime, asked.node).node
    action = "make a voter" if asked.vote else "unmake a voter"
    body: dict[str, object] = {"node": identity, "vote": asked.vote}
    if asked.warrant:
        body["warrant"] = asked.warrant
    chosen = choose_node(runtime)
    return await _forward_action(request, chosen, "/v1/cluster/voters", body, action, asked.node)


@endpoints.get(
    "/v1/orphans",
    tags=["fleet"],
    summary="List writes that recoveries left behind",
    responses=_ACTION_RESPONSES,
)
async def list_orphans(request: Request) -> Response:
    """Writes accepted by a Redis server that lost a failover, held by no majority."""
    documents = await runtime_of(request).ask_live("/v1/cluster/orphans")
    found = [
        {"node": node.name, **each}
        for node, document in documents
        for each in document.get("orphans", [])
    ]
    return json_response({"orphans": found[:ORPHANS_MAX]})


@endpoints.post(
    "/v1/actions/orphan",
    tags=["actions"],
    summary="Repeat a lost write",
    responses=_ACTION_RESPONSES,
)
async def replay_orphan(request: Request, asked: OrphanAction) -> Response:
    """Repeated with its identity and preconditions, so it takes effect at most once."""
    chosen = find_node(runtime_of(request), asked.node)
    body, path = {"op_id": asked.op_id}, "/v1/cluster/orphans"
    return await _forward_action(request, chosen, path, body, "replay", asked.op_id)


@endpoints.post(
    "/v1/actions/recover", tags=["actions"], summary="Force a recovery", responses=_ACTION_RESPONSES
)
async def recover(request: Request, asked: RecoveryAction) -> Response:
    """For a log that stays closed because voters are lost for good. Writes that only they
    held may be lost.
    """
    chosen = choose_node(runtime_of(request))
    body, path = asked.model_dump(exclude_defaults=True), "/v1/cluster/recover"
    return await _forward_action(request, chosen, path, body, "recover" if asked.force else "", "")


async def _forward_action(
    request: Request, node: NodeView, path: str, body: dict[str, Any], action: str, about: str
) -> Response:
    """Forward an action to a node, and record the result."""
    runtime: Runtime = runtime_of(request)
    if not node.url:
        raise ActionFailed(f"{node.name} cannot be reached")
    answer = await ask_node(
        runtime,
        node,
        "POST",
        path,
        body=json.dumps(body).encode(),
        actor=actor_of(request.scope),
    )
    if action:
        is_done = answer.status_code < 300
        detail = f"{about} {answer.status_code} from {node.name}".strip()
        done = ActionResult("done" if is_done else "failed", detail)
        await runtime.reconciler.record_result(actor_of(request.scope), action, done)
    return answer
