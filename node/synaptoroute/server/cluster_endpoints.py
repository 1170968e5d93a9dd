"""The cluster as this node sees it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.errors import ClusterError
from synaptoroute.server.openapi import READ_PROBLEMS, answer, problems
from synaptoroute.server.responses import json_answer, model_answer, runtime_of, version_headers

endpoints = APIRouter(tags=["cluster"])

_ANYTHING: Final = {"content": {"application/json": {"schema": {"type": "object"}}}}


class ClusterNode(BaseModel):
    """One node, as it last said of itself.

    Attributes:
        node: Its identity.
        url: Where its peers reach it; empty for one that only takes.
        role: ``voter`` or ``observer``.
        release: Its release.
        version: ``epoch.seq`` that it has made durable.
        digest: Digest of its state there.
        state: State of its replica.
        lag_entries: How far it said it was behind.
        queue_requests: Queries that waited.
        age_ms: How long ago it said so, by Redis' clock.
        is_live: Whether it counts as live.
    """

    node: str
    url: str
    role: str
    release: str
    version: str
    digest: str
    state: str
    lag_entries: int
    queue_requests: int
    age_ms: int
    is_live: bool


class Cluster(BaseModel):
    """The cluster as one node sees it.

    Attributes:
        log_state: How the log stands; ``local`` for a node on its own.
        detail: What an operator should know; empty if all is well.
        head: ``epoch.seq`` of the newest entry that this node knows of.
        nodes: Every node that was heard of in the last hour.
    """

    log_state: str
    detail: str
    head: str
    nodes: list[ClusterNode]


_EXAMPLE: Final = {
    "log_state": "open",
    "detail": "",
    "head": "1.42",
    "nodes": [
        {
            "node": "5f0c6a5e9d1b4b0f",
            "url": "http://10.0.0.7:8080",
            "role": "voter",
            "release": "1.0.0",
            "version": "1.42",
            "digest": "449644e0dc8c6d0b583de989387ed5ca",
            "state": "live",
            "lag_entries": 0,
            "queue_requests": 0,
            "age_ms": 412,
            "is_live": True,
        }
    ],
}


@endpoints.get(
    "/v1/cluster",
    summary="Show every node of the cluster",
    responses={200: answer("The cluster", _EXAMPLE, Cluster), **problems(*READ_PROBLEMS)},
)
async def show_cluster(request: Request) -> Response:
    """Positions, digests, lag and age of every node. While Redis is away the list is
    empty and `log_state` says so.
    """
    router = runtime_of(request).router
    status, follower = router.status(), router.follower
    if follower is None:
        return model_answer(
            Cluster(log_state="local", detail="", head=status.version, nodes=[]),
            headers=version_headers(status.version),
        )
    nodes: list[ClusterNode] = []
    detail = ""
    try:
        seen = await follower.session.log.presence.nodes()
    except ClusterError as error:
        seen, detail = (), error.message
    for each in seen:
        report = each.report
        nodes.append(
            ClusterNode(
                node=report.node_id,
                url=report.url,
                role=report.role,
                release=report.version,
                version=str(report.position.revision),
                digest=report.digest,
                state=report.state,
                lag_entries=report.lag_entries,
                queue_requests=report.queue_count,
                age_ms=each.age_ms,
                is_live=each.is_live,
            )
        )
    follows = follower.status()
    return model_answer(
        Cluster(
            log_state=follows.log_state.value,
            detail=detail or follows.detail,
            head=follows.head,
            nodes=sorted(nodes, key=lambda node: node.node),
        ),
        headers=version_headers(status.version),
    )


@endpoints.get(
    "/-/propagation",
    tags=["node"],
    summary="How long the newest entries took to become visible here",
    responses={200: {"description": "Delays", **_ANYTHING}, **problems(*READ_PROBLEMS)},
)
async def show_propagation(request: Request) -> Response:
    """Pairs of seq and milliseconds from the log to this node's tensor, newest last."""
    router = runtime_of(request).router
    document: dict[str, Any] = {
        "entries": router.propagation(),
        "follower": None
        if router.follower is None
        else dataclasses.asdict(router.follower.status()),
    }
    return json_answer(json.dumps(document, default=str))
