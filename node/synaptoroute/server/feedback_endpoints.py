"""``/v1/feedback`` and ``/v1/revisions``: the review queue, and changes of several routes."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.core.mutation import KEEP, Revision
from synaptoroute.errors import InvalidQuery
from synaptoroute.learning.curves import Judged, calibration_error, curve_of, reliability_of
from synaptoroute.models import CANDIDATES_MAX, FeedbackPage, FeedbackReceipt, Match
from synaptoroute.router.evaluation import OwnEvaluation
from synaptoroute.router.feedback import PAGE_ITEMS_MAX, Resolution
from synaptoroute.router.revision_preview import LabelledText, RouteChange
from synaptoroute.server.parameters import (
    WriteParameters,
    checked,
    read_document,
    read_texts,
    take_texts,
)
from synaptoroute.server.responses import (
    BODY_PROBLEMS,
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    any_json,
    json_body,
    json_response,
    model_response,
    problems,
    success,
    unless_gone,
    version_headers,
    write_response,
)
from synaptoroute.server.route_endpoints import write_responses
from synaptoroute.server.runtime import router_of, serving_router_of
from synaptoroute.server.schemas import (
    ClustersRequest,
    DismissRequest,
    FeedbackRequest,
    ItemResolution,
    ResolutionsRequest,
    ResolveRequest,
    RevisionPreviewRequest,
    RevisionRequest,
    RouteChangeBody,
)
from synaptoroute.web.middleware import context_of
from synaptoroute.web.problems import Forbidden
from synaptoroute.web.set_paths import set_of

endpoints = APIRouter(tags=["learning"])

_ITEM_EXAMPLE: Final = {
    "id": "5f0c6a5e9d1b4b0f",
    "text": "send my headphones back",
    "route": "returns",
    "was": None,
    "at_ms": 1_767_225_600_000,
    "times": 2,
}
_SAID_EXAMPLE: Final = {"text": "send my headphones back", "route": "returns", "was": None}
_REVISION_EXAMPLE: Final = {
    "routes": [{"name": "returns", "utterances": ["send my headphones back"]}],
    "resolved": ["5f0c6a5e9d1b4b0f"],
}
_OF_QUERIES: Final = {"payload", "metadata", "version", "node", "decision_id"}
ItemId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]


@endpoints.post(
    "/v1/feedback",
    summary="Say which route is right",
    responses={
        200: success(
            "In the review queue",
            {"id": "5f0c6a5e9d1b4b0f", "times": 1, "version": "1.42", "status": "applied"},
            FeedbackReceipt,
            headers="SR-Version",
        ),
        **problems(*WRITE_PROBLEMS, *BODY_PROBLEMS, 404),
    },
    openapi_extra=json_body("FeedbackRequest", _SAID_EXAMPLE),
)
async def put_feedback(request: Request, write: WriteParameters) -> Response:
    """Put a text and its right route into the review queue, which is off by default. Name the
    answer by its `decision_id`, on the node that gave it, or send the text.
    """
    document = await read_document(request)
    said = checked(FeedbackRequest, document, InvalidQuery)
    receipt = await router_of(request).feedback.put(
        said.route,
        text=said.text,
        decision_id=said.decision_id,
        was=said.was if "was" in said.model_fields_set else KEEP,
        options=write.options(document),
    )
    headers = version_headers(receipt.version) if receipt.version else {}
    return model_response(receipt, headers=headers)


@endpoints.get(
    "/v1/feedback",
    summary="List the review queue",
    responses={
        200: success(
            "One page, newest first",
            {
                "is_on": True,
                "items": [_ITEM_EXAMPLE],
                "next_after": None,
                "total": 1,
                "version": "1.42",
            },
            FeedbackPage,
            headers="SR-Version",
        ),
        **problems(*READ_PROBLEMS),
    },
)
async def list_feedback(
    request: Request,
    after: Annotated[
        str, Query(description="The `next_after` of the page before.", max_length=40)
    ] = "",
    limit: Annotated[int, Query(ge=1, le=PAGE_ITEMS_MAX)] = 100,
    route: Annotated[
        str, Query(description="Only items that name this route.", max_length=128)
    ] = "",
) -> Response:
    """Items of the review queue. They are texts of users, so they need the scope admin."""
    queue = router_of(request).feedback
    page = await queue.page(after=after, limit=limit, route=route or None)
    return model_response(page, headers=version_headers(page.version))


@endpoints.post(
    "/v1/feedback/{item}/resolve",
    summary="Resolve one item of the review queue",
    responses=write_responses(*BODY_PROBLEMS, 404),
    openapi_extra=json_body("ResolveRequest", {"as": "utterance", "route": "returns"}),
)
async def resolve_item(request: Request, item: ItemId, write: WriteParameters) -> Response:
    """The item leaves the queue, and its route learns it, in one entry of the log."""
    document = await read_document(request)
    asked = checked(ResolveRequest, document, InvalidQuery)
    options = write.options(document)
    queue = router_of(request).feedback
    result = await queue.resolve([_resolution(item, asked)], options)
    return write_response(result, options)


@endpoints.post(
    "/v1/feedback/resolve",
    summary="Resolve several items of the review queue",
    responses=write_responses(*BODY_PROBLEMS, 404),
    openapi_extra=json_body(
        "ResolutionsRequest",
        {"items": [{"id": "5f0c6a5e9d1b4b0f", "as": "utterance", "route": "returns"}]},
    ),
)
async def resolve_items(request: Request, write: WriteParameters) -> Response:
    """All in one entry of the log: every node has all of it at one position, or nothing."""
    document = await read_document(request)
    asked = checked(ResolutionsRequest, document, InvalidQuery)
    options = write.options(document)
    resolutions = [_resolution(each.id, each) for each in asked.items]
    result = await router_of(request).feedback.resolve(resolutions, options)
    return write_response(result, options)


@endpoints.post(
    "/v1/revisions",
    summary="Change several routes at once",
    responses=write_responses(*BODY_PROBLEMS, 404),
    openapi_extra=json_body("RevisionRequest", _REVISION_EXAMPLE),
)
async def revise(request: Request, write: WriteParameters) -> Response:
    """Utterances for several routes, new routes, settings, and items that leave the review queue,
    in one entry of the log: every node has all of it at one position, or nothing. Settings need
    the scope `admin`.
    """
    document = await read_document(request)
    asked = checked(RevisionRequest, document, InvalidQuery)
    options = write.options(document)
    changes = [_change(each) for each in asked.routes]
    take_texts(request, sum(len(each.utterances) + len(each.negatives) for each in changes))
    context = context_of(request.scope)
    if (
        asked.settings is not None
        and context.key is not None
        and not context.key.may_in("admin", set_of(context.route_set))
    ):
        raise Forbidden("settings need an API key with the scope admin")
    result = await router_of(request).feedback.revise(
        changes, asked.resolved, options, asked.settings
    )
    return write_response(result, options)


@endpoints.post(
    "/v1/revisions/preview",
    summary="Preview the effect of a revision",
    responses={200: any_json("The effect"), **problems(*BODY_PROBLEMS, *READ_PROBLEMS, 404, 412)},
    openapi_extra=json_body("RevisionPreviewRequest", _REVISION_EXAMPLE),
)
async def preview_revision(request: Request) -> Response:
    """Nothing changes: a copy of the route set is revised, and texts are judged by both: those of
    the request, those of the review queue, and utterances, each left out of its route.
    """
    document = await read_document(request)
    asked = checked(RevisionPreviewRequest, document, InvalidQuery)
    changes = [_change(each) for each in asked.routes]
    texts = [
        LabelledText(each.text, "route" in each.model_fields_set, each.route)
        for each in asked.texts
    ]
    queue = serving_router_of(request).feedback
    found = await unless_gone(request, queue.preview(changes, asked.resolved, texts))
    shown = dataclasses.asdict(found)
    for name in ("texts", "utterances_changed"):
        for row, each in zip(shown[name], getattr(found, name), strict=True):
            row["is_changed"] = each.is_changed
    return json_response(json.dumps(shown), headers=version_headers(found.version))


@endpoints.get(
    "/v1/evaluation",
    summary="Judge the routes by their own utterances",
    responses={200: any_json("Curves and answers"), **problems(*READ_PROBLEMS)},
)
async def show_evaluation(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=CANDIDATES_MAX)] = 1,
    answers: Annotated[bool, Query(description="List every utterance and its answer.")] = False,
) -> Response:
    """Each utterance as a query, by a copy of the route set without it: coverage against accuracy,
    reliability, and pairs of routes that are confused.
    """
    router = serving_router_of(request)
    found = await unless_gone(request, router.feedback.evaluate(limit))
    shown = evaluation_document(found)
    if answers:
        shown["utterances"] = [
            {
                "text": each.text,
                "route": each.route,
                "match": each.match.model_dump(exclude=_OF_QUERIES),
            }
            for each in found.utterances
        ]
    return json_response(json.dumps(shown), headers=version_headers(found.version))


@endpoints.post(
    "/v1/clusters",
    summary="Cluster texts by what they mean",
    responses={200: any_json("Clusters"), **problems(*BODY_PROBLEMS, *READ_PROBLEMS)},
    openapi_extra=json_body(
        "ClustersRequest", {"texts": [{"text": "do you sell gift cards", "times": 3}]}
    ),
)
async def cluster_texts(request: Request) -> Response:
    """Groups of up to 1,000 texts, the largest first, each with its most typical texts first and
    the nearest route. Equal texts give equal groups.
    """
    asked = checked(ClustersRequest, await read_texts(request), InvalidQuery)
    take_texts(request, len(asked.texts))
    router = serving_router_of(request)

    async def ask_all(texts: Any) -> list[Match]:
        return await router.aquery_batch(texts, explain=True)

    pairs = [(each.text, each.times) for each in asked.texts]
    work = router.diagnostics.clusters(pairs, asked.similarity_min, ask_all)
    found = await unless_gone(request, work)
    shown = [
        {
            "size": each.size,
            "similarity": each.similarity,
            "nearest": dataclasses.asdict(each.nearest),
            "texts": [{"text": text, "times": times} for text, times in each.texts],
        }
        for each in found
    ]
    return json_response(json.dumps({"clusters": shown}))


@endpoints.post(
    "/-/unmatched/dismiss",
    tags=["node"],
    summary="Forget unmatched queries",
    responses={200: any_json("How many"), **problems(*BODY_PROBLEMS, *READ_PROBLEMS)},
    openapi_extra=json_body("DismissRequest", {"texts": ["do you sell gift cards"]}),
)
async def dismiss_unmatched(request: Request) -> Response:
    """Forget the queries with these texts on this node."""
    asked = checked(DismissRequest, await read_document(request), InvalidQuery)
    count = router_of(request).diagnostics.dismiss(asked.texts)
    return json_response(json.dumps({"dismissed": count}))


def evaluation_document(found: OwnEvaluation) -> dict[str, Any]:
    """Figures of limits, from the answers to utterances."""
    judged = [_judged(each.route, each.match) for each in found.utterances]
    pairs = Counter(
        (each.expected, each.best)
        for each in judged
        if each.best is not None and each.best != each.expected
    )
    return {
        "version": found.version,
        "texts": len(judged),
        "ranked_right": sum(each.is_right for each in judged),
        "answered_right": sum(each.match.route == each.route for each in found.utterances),
        "curve": [dataclasses.asdict(each) for each in curve_of(judged, is_confidence=True)],
        "reliability": [dataclasses.asdict(each) for each in reliability_of(judged)],
        "calibration_error": calibration_error(judged),
        "confusion_pairs": [
            {"expected": expected, "best": best, "count": count}
            for (expected, best), count in sorted(
                pairs.items(), key=lambda item: (-item[1], str(item[0]))
            )
        ],
    }


def _judged(route: str, match: Match) -> Judged:
    best = match.candidates[0].route if match.candidates else match.route
    return Judged(route, best, match.confidence or 0.0)


def _resolution(item_id: str, asked: ResolveRequest | ItemResolution) -> Resolution:
    return Resolution(item_id, asked.resolve_as, asked.route, asked.text, asked.create)


def _change(body: RouteChangeBody) -> RouteChange:
    given: dict[str, Any] = {}
    for name in ("threshold", "confidence_min"):
        if name in body.model_fields_set:
            given[name] = getattr(body, name)
    if body.revision is not None:
        epoch, _, seq = body.revision.partition(".")
        given["revision"] = Revision(int(epoch), int(seq))
    given["negatives"] = tuple(body.negatives)
    return RouteChange(body.name, tuple(body.utterances), body.create, **given)
