"""Learning in the dashboard: unmatched queries of all nodes, and changes made of them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.errors import InvalidQuery
from synaptoroute.web.middleware import context_of
from synaptoroute.web.problems import Forbidden
from synaptoroute_coordinator.app.gateway import NodeName, ask_node, choose_node, forward_body
from synaptoroute_coordinator.app.responses import (
    ANY_JSON,
    PROBLEMS,
    RESPONSES,
    RequestModel,
    json_response,
)
from synaptoroute_coordinator.app.runtime import path_at_node, runtime_of

CLUSTERED_MAX: Final = 1_000

endpoints = APIRouter(tags=["learning"])


@endpoints.get(
    "/v1/unmatched/clusters",
    summary="Show what unmatched queries have in common",
    responses=RESPONSES,
)
async def show_clusters(request: Request) -> Response:
    """Groups of queries that mean nearly the same, the largest first, with their nearest route."""
    runtime = runtime_of(request)
    documents = await runtime.ask_live(path_at_node(request, "/-/unmatched"))
    is_on = any(document.get("is_on") for _, document in documents)
    queries = [each for _, document in documents for each in document.get("queries", [])]
    times = Counter(str(each["text"]) for each in queries)
    texts = [{"text": text, "times": count} for text, count in times.most_common(CLUSTERED_MAX)]
    if not texts:
        return json_response({"is_on": is_on, "clusters": []})
    body = json.dumps({"texts": texts}).encode()
    path = path_at_node(request, "/v1/clusters")
    answer = await ask_node(runtime, choose_node(runtime), "POST", path, body=body)
    if answer.status_code != 200:
        return answer
    clusters = json.loads(bytes(answer.body))["clusters"]
    return json_response({"is_on": is_on, "clusters": clusters})


class DismissedTexts(RequestModel):
    """Texts of unmatched queries to forget."""

    texts: list[str] = Field(min_length=1, max_length=CLUSTERED_MAX)


@endpoints.post("/v1/unmatched/dismiss", summary="Forget unmatched queries", responses=RESPONSES)
async def dismiss_unmatched(request: Request, asked: DismissedTexts) -> Response:
    """Every live node forgets the queries with these texts."""
    runtime = runtime_of(request)
    body, count = json.dumps({"texts": asked.texts}).encode(), 0
    path = path_at_node(request, "/-/unmatched/dismiss")
    for node in runtime.reconciler.view.live:
        if node.url:
            answer = await ask_node(runtime, node, "POST", path, body=body)
            if answer.status_code == 200:
                count += int(json.loads(bytes(answer.body))["dismissed"])
    return json_response({"dismissed": count})


@endpoints.post(
    "/v1/revisions",
    summary="Change several routes at once",
    responses={200: ANY_JSON, 202: {**ANY_JSON, "description": "Not decided yet"}, **PROBLEMS},
)
async def revise(request: Request, node: NodeName = "") -> Response:
    """Written through one node to all; settings need the scope `admin`."""
    body = await request.body()
    key = context_of(request.scope).key
    if key is None or not key.may("admin"):
        document = _object_of(body)
        # The node sees the key of the coordinator, which is an administrator's.
        if document.get("settings") is not None:
            raise Forbidden("settings need an API key with the scope admin")
        # What was checked is what is sent: another parser may read the same bytes differently.
        body = json.dumps(document).encode()
    return await forward_body(request, node, body)


def _object_of(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidQuery("the body is not JSON") from error
    if not isinstance(document, dict):
        raise InvalidQuery("the body must be an object")
    return document
