"""``POST /v1/query`` and ``POST /v1/query/batch`` as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Header
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.errors import InvalidQuery
from synaptoroute.models import Match
from synaptoroute.server.bodies import parse_json, read_body, require_json
from synaptoroute.server.metrics import parse_version
from synaptoroute.server.parameters import (
    ReadingRoute,
    check_texts,
    checked,
    read_document,
    take_texts,
)
from synaptoroute.server.query_handler import (
    DEADLINE_HEADER,
    SESSION_HEADER,
    QueryHandler,
    longest_deadline_ms,
    options_of,
    parse_batch,
    query_arguments,
    render_matches,
)
from synaptoroute.server.responses import (
    BODY_PROBLEMS,
    QUERY_PROBLEMS,
    READ_PROBLEMS,
    json_body,
    json_response,
    model_response,
    problems,
    success,
    unless_gone,
    version_headers,
)
from synaptoroute.server.runtime import runtime_of, serving_router_of
from synaptoroute.server.schemas import (
    SESSION_CHARACTERS_MAX,
    BatchAnswer,
    ReadingAnswer,
    ReadingRequest,
    SplitAnswer,
    SplitBatchAnswer,
)
from synaptoroute.web.middleware import context_of, request_flow

DEADLINE_PATTERN: Final = "^([1-9][0-9]{0,4}|[1-5][0-9]{5}|600000)$"

Deadline = Annotated[
    str | None,
    Header(
        alias=DEADLINE_HEADER,
        description="Milliseconds within which the response is useful; 429 `overloaded` at once "
        "if the predicted wait is longer.",
        json_schema_extra={"pattern": DEADLINE_PATTERN},
        examples=["250"],
    ),
]
Session = Annotated[
    str | None,
    Header(
        alias=SESSION_HEADER,
        description="Where the body has no `session`: keeps the queries of one session on one "
        "side of an alias with a canary.",
        json_schema_extra={"minLength": 1, "maxLength": SESSION_CHARACTERS_MAX},
    ),
]
endpoints = APIRouter(route_class=ReadingRoute, tags=["queries"])
QueryAnswer = Match | SplitAnswer
BatchOrSplitAnswer = BatchAnswer | SplitBatchAnswer

_MATCH_EXAMPLE = {
    "route": "refund",
    "score": 0.71,
    "threshold": 0.5,
    "utterance": "I want my money back",
    "similarity": 0.83,
    "margin": 0.24,
    "runner_up": "order-status",
    "reason": "matched",
    "payload": {"tool": "start_refund"},
    "metadata": {},
    "version": "1.42",
    "node": "5f0c6a5e9d1b4b0f",
}


@endpoints.post(
    "/v1/query",
    summary="Route one text",
    responses={
        200: success(
            "The match; with `split`, one for each part of the text",
            _MATCH_EXAMPLE,
            QueryAnswer,
            headers="SR-Version",
        ),
        **problems(*QUERY_PROBLEMS),
    },
    openapi_extra=json_body("QueryRequest", {"text": "How do I get my money back?"}),
)
async def query(request: Request, deadline: Deadline = None, session: Session = None) -> Response:
    """Say which route a text belongs to, with its score, the most similar utterance,
    the runner-up and the margin. `route` is null with a `reason` when nothing passes.
    """
    del deadline, session  # declared for the document; the handler reads all headers itself
    handler: QueryHandler = request.app.state.query_handler
    return await handler.serve(request)


@endpoints.post(
    "/v1/query/batch",
    summary="Route several texts",
    responses={
        200: success(
            "One match for each text, in order; with `split`, the parts of each text",
            {"matches": [_MATCH_EXAMPLE]},
            BatchOrSplitAnswer,
            headers="SR-Version",
        ),
        **problems(*QUERY_PROBLEMS),
    },
    openapi_extra=json_body(
        "BatchRequest", {"texts": ["How do I get my money back?", "Where is my parcel?"]}
    ),
)
async def query_batch(
    request: Request, deadline: Deadline = None, session: Session = None
) -> Response:
    """Route up to 1,024 texts; each gets the match that it would get alone. The work is
    cancelled if the client goes away.
    """
    del deadline, session
    runtime = runtime_of(request)
    require_json(request)
    options = options_of(dict(reversed(request.scope["headers"])))
    check_texts(request)
    with runtime.bodies.lease(request_flow(request)) as lease:
        body = await read_body(request, lease, runtime.config.body_bytes_max)
        batch = parse_batch(body)
        if runtime.config.log_queries:
            runtime.log.debug("queries", texts=batch.texts)
        context = context_of(request.scope)
        take_texts(request, len(batch.texts))
        router, arguments = (
            serving_router_of(request),
            query_arguments(
                batch,
                longest_deadline_ms(options.deadline_ms, runtime.config),
                options.session,
                "" if context.key is None else context.key.cache_scope,
            ),
        )
        arguments |= {"use_cache": options.use_cache, "flow": request_flow(request)}
        if batch.split:
            # Spans count from the texts as they were sent.
            texts = parse_json(body, takes_last=True)["texts"]
            parts = await unless_gone(request, router.aquery_splits(texts, **arguments))
            matches = [match for own in parts for match in own]
            rendered = f'{{"texts":[{",".join(map(render_matches, parts))}]}}'
        else:
            work = router.aquery_batch(batch.texts, is_checked=True, **arguments)
            matches = await unless_gone(request, work)
            rendered = render_matches(matches)
    runtime.traffic.count(matches)
    # Texts may be answered at different positions: the oldest holds for all of them.
    version = min((match.version for match in matches), key=parse_version)
    return json_response(rendered, headers=version_headers(version))


@endpoints.post(
    "/v1/preview/texts",
    summary="Show how texts are read",
    responses={
        200: success(
            "What is encoded of each text",
            {
                "texts": [
                    {
                        "text": "> old mail\nwhere is my refnud",
                        "encoded_text": "where is my refund",
                        "repairs": [{"written": "refnud", "read": "refund"}],
                        "spans": [[0, 29]],
                    }
                ]
            },
            ReadingAnswer,
            headers="SR-Version",
        ),
        **problems(*BODY_PROBLEMS, *READ_PROBLEMS),
    },
    openapi_extra=json_body(
        "ReadingRequest", {"texts": ["> old mail\nwhere is my refnud"], "ignore": ["(?m)^>.*$"]}
    ),
)
async def preview_texts(request: Request) -> Response:
    """Nothing is encoded or routed. `ignore` tries patterns in place of those of the
    settings.
    """
    router = serving_router_of(request)
    version = router.visible.version
    asked = checked(ReadingRequest, await read_document(request), InvalidQuery)
    texts = router.diagnostics.read_texts(asked.texts, asked.ignore)
    return model_response(ReadingAnswer(texts=texts), headers=version_headers(version))
