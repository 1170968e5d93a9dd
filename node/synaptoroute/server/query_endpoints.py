"""``POST /v1/query`` and its batch: the hot path.

Parsing and rendering are functions of their own; between them stands one call.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.config import NodeConfig
from synaptoroute.errors import InvalidQuery
from synaptoroute.models import Match
from synaptoroute.router import answered
from synaptoroute.server.bodies import parse_json, read_body, require_json
from synaptoroute.server.openapi import QUERY_PROBLEMS, answer, json_body, problems
from synaptoroute.server.responses import (
    json_answer,
    render_match,
    runtime_of,
    unless_gone,
    version_headers,
)
from synaptoroute.server.runtime import Runtime
from synaptoroute.server.schemas import (
    QUERY_DEADLINE_MS_MAX,
    BatchAnswer,
    BatchRequest,
    QueryOptions,
    QueryRequest,
)
from synaptoroute.web.problems import field_errors, first_message
from synaptoroute.web.refusals import InvalidParameter

DEADLINE_HEADER: Final = "SR-Deadline-Ms"
DEADLINE_PATTERN: Final = "^([1-9][0-9]{0,4}|[1-5][0-9]{5}|600000)$"
_DEADLINE: Final = re.compile(r"[1-9][0-9]{0,5}")

Deadline = Annotated[
    str | None,
    Header(
        alias=DEADLINE_HEADER,
        description="Milliseconds within which the answer is of use; 429 `overloaded` at once "
        "where the predicted wait is longer.",
        json_schema_extra={"pattern": DEADLINE_PATTERN},
        examples=["250"],
    ),
]
endpoints = APIRouter(tags=["queries"])

_QUERY = TypeAdapter(QueryRequest)
_BATCH = TypeAdapter(BatchRequest)
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


def parse_query(body: bytes) -> QueryRequest:
    """Read a query.

    Raises:
        MalformedBody, InvalidQuery: See ``parse_json`` and the fields' limits.
    """
    try:
        return _QUERY.validate_python(parse_json(body), strict=True)
    except ValidationError as error:
        raise _refusal(error) from None


def parse_batch(body: bytes) -> BatchRequest:
    """Read a batch of queries.

    Raises:
        MalformedBody, InvalidQuery: See ``parse_query``.
    """
    try:
        return _BATCH.validate_python(parse_json(body), strict=True)
    except ValidationError as error:
        raise _refusal(error) from None


def parse_deadline(value: str | None) -> int | None:
    """Read ``SR-Deadline-Ms``: milliseconds.

    Raises:
        InvalidParameter: Not a number within its limits.
    """
    if value is None:
        return None
    if not _DEADLINE.fullmatch(value) or int(value) > QUERY_DEADLINE_MS_MAX:
        raise InvalidParameter(
            f"SR-Deadline-Ms must be a whole number from 1 to {QUERY_DEADLINE_MS_MAX}"
        )
    return int(value)


def begin(
    runtime: Runtime, asked: QueryRequest, *, use_cache: bool, head_ms: int | None
) -> Match | asyncio.Future[Match]:
    """Begin to answer one query; ``head_ms`` is the deadline in the header."""
    _log_texts(runtime, [asked.text])
    options = _options(asked, runtime, head_ms)
    return runtime.router.begin_query(asked.text, use_cache=use_cache, **options)


def render_batch(matches: list[Match]) -> str:
    """Matches as JSON."""
    return f'{{"matches":[{",".join(render_match(match) for match in matches)}]}}'


@endpoints.post(
    "/v1/query",
    summary="Route one text",
    responses={
        200: answer("The match", _MATCH_EXAMPLE, Match, headers="SR-Version"),
        **problems(*QUERY_PROBLEMS),
    },
    openapi_extra=json_body("QueryRequest", {"text": "How do I get my money back?"}),
)
async def query(request: Request, deadline: Deadline = None) -> Response:
    """Say which route a text belongs to, with its score, the most similar utterance,
    the runner-up and the margin. `route` is null with a `reason` when nothing passes.
    """
    runtime = runtime_of(request)
    require_json(request)
    head_ms = parse_deadline(deadline)
    with runtime.bodies.lease() as lease:
        asked = parse_query(await read_body(request, lease, runtime.config.body_bytes_max))
        use_cache = _may_use_cache(request)
        match = await answered(begin(runtime, asked, use_cache=use_cache, head_ms=head_ms))
    return json_answer(render_match(match), headers=version_headers(match.version))


@endpoints.post(
    "/v1/query/batch",
    summary="Route several texts",
    responses={
        200: answer("One match a text, in order", {"matches": [_MATCH_EXAMPLE]}, BatchAnswer),
        **problems(*QUERY_PROBLEMS),
    },
    openapi_extra=json_body(
        "BatchRequest", {"texts": ["How do I get my money back?", "Where is my parcel?"]}
    ),
)
async def query_batch(request: Request, deadline: Deadline = None) -> Response:
    """Route up to 1,024 texts; each gets the answer that it would get alone. The work is
    dropped when the client goes away.
    """
    runtime = runtime_of(request)
    require_json(request)
    head_ms = parse_deadline(deadline)
    with runtime.bodies.lease() as lease:
        asked = parse_batch(await read_body(request, lease, runtime.config.body_bytes_max))
        _log_texts(runtime, asked.texts)
        work = runtime.router.aquery_batch(
            asked.texts, use_cache=_may_use_cache(request), **_options(asked, runtime, head_ms)
        )
        matches = await unless_gone(request, work)
    return json_answer(render_batch(matches))


def _options(asked: QueryOptions, runtime: Runtime, head_ms: int | None) -> dict[str, Any]:
    deadline_ms = longest_ms(head_ms, runtime.config)
    return {
        "limit": asked.limit,
        "routes": asked.routes,
        "explain": asked.explain,
        "deadline_ms": min(deadline_ms, asked.deadline_ms or deadline_ms),
    }


def longest_ms(head_ms: int | None, config: NodeConfig) -> int:
    """The deadline of a query whose body may name an earlier one."""
    own_ms = config.query_deadline_ms
    return own_ms if head_ms is None else min(own_ms, head_ms)


def _may_use_cache(request: Request) -> bool:
    """Whether a measurement did not ask for the whole work."""
    return "no-cache" not in request.headers.get("cache-control", "")


def _log_texts(runtime: Runtime, texts: list[str]) -> None:
    """Only where the operator asked for it, and never above debug level."""
    if runtime.config.log_queries:
        runtime.log.debug("queries", texts=texts)


def _refusal(error: ValidationError) -> InvalidQuery:
    found = field_errors(error)
    return InvalidQuery(first_message(found, "the query is malformed"), errors=found)
