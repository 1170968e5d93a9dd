"""Voters, orphaned writes and forced recoveries, by an operator.

The nodes decide.  The coordinator finds the node to ask, forwards the request with its own
key, and records the operator in the audit log.
"""

from __future__ import annotations

import json
from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute_coordinator.actions.executor import ActionResult
from synaptoroute_coordinator.app.fleet import find_node
from synaptoroute_coordinator.app.gateway import ask_node, choose_node
from synaptoroute_coordinator.app.middleware import actor_of
from synaptoroute_coordinator.app.responses import ANY_JSON, PROBLEMS, ActionFailed, json_response
from synaptoroute_coordinator.app.runtime import Runtime, runtime_of
from synaptoroute_coordinator.fleet import NodeView

ORPHANS_MAX: Final = 1_000
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: ANY_JSON,
    202: {**ANY_JSON, "description": "Not decided yet"},
    **PROBLEMS,
}

endpoints = APIRouter()


class VoterAction(BaseModel):
    """Whether a node votes on recoveries."""

    model_config = ConfigDict(extra="forbid")

    node: str = Field(min_length=1, max_length=128, description="Identity or name of the node.")
    vote: StrictBool


class OrphanAction(BaseModel):
    """A write that a recovery left behind."""

    model_config = ConfigDict(extra="forbid")

    node: str = Field(min_length=1, max_length=128, description="Node that holds it.")
    op_id: str = Field(pattern=r"^[0-9a-f]{32}$")


class RecoveryAction(BaseModel):
    """Open the log with the nodes that are present."""

    model_config = ConfigDict(extra="forbid")

    force: StrictBool = Field(description="False only shows what forcing would keep and may lose.")


@endpoints.post(
    "/v1/actions/voter", tags=["actions"], summary="Change the voters", responses=_RESPONSES
)
async def change_voter(request: Request, asked: VoterAction) -> Response:
    """One node at a time; the next change is accepted once a majority holds this one."""
    runtime = runtime_of(request)
    # A voter that is lost for good is no longer in the fleet view, only in the log.
    voters = runtime.reconciler.view.log.voters
    identity = asked.node if asked.node in voters else find_node(runtime, asked.node).node
    action = "make a voter" if asked.vote else "unmake a voter"
    body = {"node": identity, "vote": asked.vote}
    chosen = choose_node(runtime)
    return await _forward_action(request, chosen, "/v1/cluster/voters", body, action, asked.node)


@endpoints.get(
    "/v1/orphans",
    tags=["fleet"],
    summary="List writes that recoveries left behind",
    responses=_RESPONSES,
)
async def list_orphans(request: Request) -> Response:
    """Writes accepted by a Redis server that lost a failover, held by no majority."""
    reconciler = runtime_of(request).reconciler
    live = [node for node in reconciler.view.live if node.url]
    documents = await reconciler.client.documents(
        [(node.node, node.url) for node in live], "/v1/cluster/orphans"
    )
    found = [
        {"node": node.name, **each}
        for node in live
        for each in documents.get(node.node, {}).get("orphans", [])
    ]
    return json_response({"orphans": found[:ORPHANS_MAX]})


@endpoints.post(
    "/v1/actions/orphan", tags=["actions"], summary="Repeat a lost write", responses=_RESPONSES
)
async def replay_orphan(request: Request, asked: OrphanAction) -> Response:
    """Repeated with its identity and preconditions, so it takes effect at most once."""
    chosen = find_node(runtime_of(request), asked.node)
    body, path = {"op_id": asked.op_id}, "/v1/cluster/orphans"
    return await _forward_action(request, chosen, path, body, "replay", asked.op_id)


@endpoints.post(
    "/v1/actions/recover", tags=["actions"], summary="Force a recovery", responses=_RESPONSES
)
async def recover(request: Request, asked: RecoveryAction) -> Response:
    """For a log that stays closed because voters are lost for good. Writes that only they
    held may be lost.
    """
    chosen = choose_node(runtime_of(request))
    body, path = {"force": asked.force}, "/v1/cluster/recover"
    return await _forward_action(request, chosen, path, body, "recover" if asked.force else "", "")


async def _forward_action(
    request: Request, node: NodeView, path: str, body: dict[str, Any], action: str, about: str
) -> Response:
    """Forward an action to a node, and record the result."""
    runtime: Runtime = runtime_of(request)
    if not node.url:
        raise ActionFailed(f"{node.name} cannot be reached")
    answer = await ask_node(runtime, node, "POST", path, body=json.dumps(body).encode())
    if action:
        is_done = answer.status_code < 300
        detail = f"{about} {answer.status_code} from {node.name}".strip()
        done = ActionResult("done" if is_done else "failed", detail)
        await runtime.reconciler.record_result(actor_of(request.scope), action, done)
    return answer
