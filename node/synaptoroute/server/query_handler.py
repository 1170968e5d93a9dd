"""``POST /v1/query``: from the bytes of a request to the bytes of its response.

Nearly every request of a node is this one.  ``QueryHandler`` makes all decisions about it,
for both ways in:

- as the direct handler of a connection, for a plain query whose body has arrived whole.
  Tasks, events and ASGI messages would cost several times what a cached or refused query
  costs, and an overloaded node mostly refuses;
- behind the FastAPI endpoint, for everything else: a version to wait for, parameters in the
  URL, other media types, a body in pieces.

The response to the same bytes is cached until the visible state changes.  A query that
would wait too long is refused before its JSON is parsed.  ``Cache-Control: no-cache`` asks
for the whole work.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.config import NodeConfig
from synaptoroute.errors import InvalidQuery, NotReady
from synaptoroute.models import Match
from synaptoroute.ports import Published
from synaptoroute.router import AdaptiveRouter, answered
from synaptoroute.server.bodies import parse_json, read_body, require_json
from synaptoroute.server.metrics import parse_version
from synaptoroute.server.middleware import QUERY_PATH, NodePolicy
from synaptoroute.server.runtime import Runtime
from synaptoroute.server.schemas import (
    QUERY_DEADLINE_MS_MAX,
    SESSION_CHARACTERS_MAX,
    BatchRequest,
    QueryFields,
    QueryRequest,
)
from synaptoroute.server.traffic import Tally
from synaptoroute.tracing import SPAN
from synaptoroute.web.http_parser import Header, HttpRequest
from synaptoroute.web.http_protocol import DirectHandler, Respond
from synaptoroute.web.middleware import (
    PROOF_KEY,
    RequestContext,
    context_of,
    flow_of,
    request_flow,
)
from synaptoroute.web.problems import InvalidParameter, field_errors, first_message

PATH: Final = QUERY_PATH
DEADLINE_HEADER: Final = "SR-Deadline-Ms"
SESSION_HEADER: Final = "SR-Session"
_OF_A_SET: Final = "/query"
RESPONSES_MAX: Final = 8_192
RESPONSES_BYTES_MAX: Final = 33_554_432
CACHED_BODY_BYTES_MAX: Final = 4_096
"""Longer bodies are seldom sent twice."""
_DEADLINE_KEY: Final = DEADLINE_HEADER.lower().encode()
_SESSION_KEY: Final = SESSION_HEADER.lower().encode()
MIN_VERSION: Final = b"sr-min-version"
_VERSION: Final = re.compile(rb"[0-9]{1,16}\.[0-9]{1,16}")
_DEADLINE: Final = re.compile(r"[1-9][0-9]{0,5}")
_JSON: Final = b"application/json"
_QUERY: Final = TypeAdapter(QueryRequest)
_BATCH: Final = TypeAdapter(BatchRequest)
_OF_SPLIT: Final = {"span"}
_OF_SET: Final = {"route_set"}
_WITH_DECISION: Final = {*_OF_SPLIT, *_OF_SET}
_WITHOUT_DECISION: Final = {"decision_id", *_WITH_DECISION}
_OF_CASCADE: Final = {"stage", "static_margin", "guard_margin"}
_OF_PREPARATION: Final = {"encoded_text", "repairs"}
_OF_CONTEXT: Final = {"context_weight"}
_WITHOUT_EXPLAIN: Final = {
    "candidates",
    "p_none",
    *_OF_CASCADE,
    *_OF_PREPARATION,
    *_OF_CONTEXT,
}
ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class QueryOptions:
    use_cache: bool
    deadline_ms: int | None
    session: str | None = None  # Where the body names none


@dataclass(frozen=True, slots=True)
class QueryResponse:
    """A rendered match, of one visible state; without the common headers.

    Attributes:
        counted: Where its matches are counted, and their confidences.
    """

    visible: object
    headers: Sequence[Header]
    body: bytes
    counted: Sequence[tuple[Tally, float]] = ()


@dataclass(frozen=True, slots=True)
class PendingQuery:
    """A query on its way.

    Attributes:
        router: The router that answers it.
        answer: The match, or a future of it; of one match a part for a query to split.
        body: Bytes of the request.
        key: What the response is cached under.
        options: What its headers say.
        visible: State of the router when the query began.
        is_first: Whether later queries with the same bytes may join this one.
        flow: Name of the client.
    """

    router: AdaptiveRouter
    answer: Match | asyncio.Future[Match] | asyncio.Future[list[Match]]
    body: bytes
    key: bytes
    options: QueryOptions
    visible: Published
    is_first: bool
    flow: str


class ResponseCache:
    """The newest responses by the bytes of their requests; used on the event loop only.

    A response is a function of the request and of the visible state, so it counts only
    while that state is the visible one.
    """

    def __init__(
        self, responses_max: int = RESPONSES_MAX, bytes_max: int = RESPONSES_BYTES_MAX
    ) -> None:
        self._responses: OrderedDict[bytes, QueryResponse] = OrderedDict()
        self._responses_max = responses_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self.hits = 0

    def __len__(self) -> int:
        return len(self._responses)

    def get(self, body: bytes, visible: object) -> QueryResponse | None:
        """Return the response to these bytes, if it belongs to the visible state."""
        found = self._responses.get(body)
        if found is None or found.visible is not visible:
            return None
        self._responses.move_to_end(body)
        self.hits += 1
        return found

    def put(self, body: bytes, response: QueryResponse) -> None:
        if len(body) > CACHED_BODY_BYTES_MAX:
            return
        former = self._responses.pop(body, None)
        if former is not None:
            self._bytes -= len(body) + len(former.body)
        self._responses[body] = response
        self._bytes += len(body) + len(response.body)
        while len(self._responses) > self._responses_max or self._bytes > self._bytes_max:
            oldest, dropped = self._responses.popitem(last=False)
            self._bytes -= len(oldest) + len(dropped.body)


class QueryHandler:
    """Answers queries; used on the event loop only.

    ``others`` is the direct handler of requests to other paths.
    """

    def __init__(
        self, runtime: Runtime, policy: NodePolicy, others: DirectHandler | None = None
    ) -> None:
        self._others = others
        self._runtime = runtime
        self.policy = policy
        self._cache = ResponseCache()
        self._in_flight: set[bytes] = set()
        runtime.metrics.watch_cached_responses(lambda: self._cache.hits)

    # --- between parser and socket ---------------------------------------------------

    def __call__(self, request: HttpRequest, respond: Respond) -> bool:
        """Answer a plain query; the direct handler of a connection.

        Returns:
            False for every other request, which goes to the application.
        """
        path = request.path
        if path != PATH and not path.endswith(_OF_A_SET):
            return self._others is not None and self._others(request, respond)
        if request.method != "POST" or request.query_string:
            return False
        # Of a header that is sent twice the first counts, as in the framework.
        headers = dict(reversed(request.headers))
        body = bytes(request.body)
        if (
            headers.get(b"content-type") != _JSON
            or b"content-encoding" in headers
            or (
                b"sr-min-version" in headers
                and must_wait(self._runtime, headers[b"sr-min-version"])
            )
            or PROOF_KEY in headers
            or len(body) > self._runtime.config.body_bytes_max
        ):
            return False
        context = RequestContext(headers.get(b"x-request-id"), PATH, request.client)
        if path != PATH and self.policy.locate(path, context) != PATH:
            return False
        if (tracer := self.policy.tracer) is not None:
            context.span = tracer.begin("POST", PATH, headers, request.client)
            SPAN.set(context.span)
        self.policy.started()
        try:
            self.policy.authorize("POST", PATH, headers, context)
            flow = flow_of(context, request.client)
            pending = self.begin(body, options_of(headers), flow, context)
        except Exception as error:
            self._send_problem(request, respond, context, error)
            return True
        if isinstance(pending, QueryResponse):
            self._send(request, respond, context, 200, pending.headers, pending.body)
        elif isinstance(pending.answer, Match):
            self.release(pending)
            response = self.complete(pending, pending.answer)
            self._send(request, respond, context, 200, response.headers, response.body)
        else:
            # A client that goes away takes its query out of the queue.
            request.on_disconnect = pending.answer.cancel
            pending.answer.add_done_callback(
                partial(self._on_answer, request, respond, context, pending)
            )
        return True

    def _on_answer(
        self,
        request: HttpRequest,
        respond: Respond,
        context: RequestContext,
        pending: PendingQuery,
        future: asyncio.Future[Any],
    ) -> None:
        """Send what became of a query; nothing to a client that has gone."""
        self.release(pending)
        if future.cancelled():
            self.policy.finished("POST", request.path, request.client, context)
            return
        try:
            response = self.complete(pending, future.result())
        except Exception as error:
            self._send_problem(request, respond, context, error)
        else:
            self._send(request, respond, context, 200, response.headers, response.body)

    def _send_problem(
        self, request: HttpRequest, respond: Respond, context: RequestContext, error: Exception
    ) -> None:
        status, headers, body = self.policy.problem_response(error, context)
        if not any(name == b"sr-version" for name, _ in headers):
            headers += self.policy.default_headers()
        self._send(request, respond, context, status, headers, body)

    def _send(
        self,
        request: HttpRequest,
        respond: Respond,
        context: RequestContext,
        status: int,
        headers: Sequence[Header],
        body: bytes,
    ) -> None:
        context.status = status
        self.policy.finished("POST", request.path, request.client, context)
        respond(request, status, [*headers, *self.policy.common_headers(context)], body)

    # --- behind the framework --------------------------------------------------------

    async def serve(self, request: Request) -> Response:
        """Answer any query; the middleware has authorized it."""
        require_json(request)
        options = options_of(dict(reversed(request.scope["headers"])))
        runtime = self._runtime
        with runtime.bodies.lease(request_flow(request)) as lease:
            body = await read_body(request, lease, runtime.config.body_bytes_max)
        found = self.begin(body, options, request_flow(request), context_of(request.scope))
        if isinstance(found, PendingQuery):
            try:
                match: Any = await answered(found.answer)  # type: ignore[arg-type]
            finally:
                self.release(found)
            found = self.complete(found, match)
        headers = {name.decode(): value.decode() for name, value in found.headers}
        return Response(found.body, headers=headers)

    # --- decisions -------------------------------------------------------------------

    def begin(
        self,
        body: bytes,
        options: QueryOptions,
        flow: str = "",
        context: RequestContext | None = None,
    ) -> QueryResponse | PendingQuery:
        """Answer a query from the cache, or begin to answer it.

        ``flow`` names the client, see ``flow_of``.  The caller releases a pending query in the end.
        """
        runtime = self._runtime
        router = runtime.serving_router
        visible = router.visible
        use_cache = options.use_cache
        key, cache_scope = body, ""
        if context is not None:
            if name := context.route_set:
                # No JSON text has a zero byte, so no body of another path gives this key.
                key = b"\0".join((name.encode(), (options.session or "").encode(), body))
                router = router.set(name)
            if context.key is not None:
                cache_scope = context.key.cache_scope
        if use_cache and not runtime.config.log_queries:
            cached = self._cache.get(key, visible)
            if cached is not None:
                for tally, confidence in cached.counted:
                    tally.answers += 1
                    tally.confidence_sum += confidence
                return cached
        is_first = use_cache and key not in self._in_flight
        deadline_ms = longest_deadline_ms(options.deadline_ms, runtime.config)
        if is_first or not use_cache:
            # Parsing costs more than refusing, and an overloaded node mostly refuses.  A
            # query that is on its way may be joined at any load.
            router.check_queue(deadline_ms, flow)
        if context is not None and context.key is not None:
            # Before the body is parsed, so that a malformed query counts as a text as well.
            self.policy.take_texts(context, 1)
        query = parse_query(body)
        if runtime.config.log_queries:
            runtime.log.debug("queries", texts=[query.text])
        runtime.bodies.take(len(body), flow)
        answer: Match | asyncio.Future[Match] | asyncio.Future[list[Match]]
        arguments = query_arguments(query, deadline_ms, options.session, cache_scope)
        try:
            if query.split:
                # Spans count from the text as it was sent, before it was trimmed.
                work = router.aquery_splits(
                    [parse_json(body, takes_last=True)["text"]],
                    use_cache=use_cache,
                    flow=flow,
                    **arguments,
                )
                answer = asyncio.ensure_future(_only(work))
            else:
                answer = router.begin_query(
                    query.text, use_cache=use_cache, is_checked=True, flow=flow, **arguments
                )
        except BaseException:
            runtime.bodies.release(len(body), flow)
            raise
        if is_first:
            self._in_flight.add(key)
        return PendingQuery(router, answer, body, key, options, visible, is_first, flow)

    def complete(self, pending: PendingQuery, answer: Match | list[Match]) -> QueryResponse:
        """Render the answer of a pending query, and cache it where it may come again."""
        config, visible = self._runtime.config, pending.visible
        counted = self._runtime.traffic.count(answer)
        if isinstance(answer, Match):
            match, body = answer, render_match(answer).encode()
        else:
            # Of several the one that says least: of the oldest position, or without a route.
            match = min(answer, key=_how_much)
            body = render_matches(answer).encode()
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", _JSON)]
        if match.version:
            headers.append((b"sr-version", match.version.encode()))
        if match.route_set is not None:
            headers.append((b"sr-route-set", quote(match.route_set, safe=" @:").encode()))
        response = QueryResponse(visible, headers, body, counted)
        # Where unmatched queries are counted, each of them must reach the scorer.
        is_counted = match.route is None and config.unmatched_kept > 0
        # The state may have changed between begin and answer: then the match belongs to
        # neither state for certain.
        is_current = pending.router.visible is visible and match.version == visible.version
        if pending.options.use_cache and is_current and not (config.log_queries or is_counted):
            self._cache.put(pending.key, response)
        return response

    def release(self, pending: PendingQuery) -> None:
        """End a pending query, answered or not."""
        self._runtime.bodies.release(len(pending.body), pending.flow)
        if pending.is_first:
            self._in_flight.discard(pending.key)


async def _only(work: Awaitable[list[list[Match]]]) -> list[Match]:
    """The answer to the only text of a batch."""
    (found,) = await work
    return found


def _how_much(match: Match) -> tuple[tuple[int, int], bool]:
    return parse_version(match.version), match.route is not None


def must_wait(runtime: Runtime, version: bytes) -> bool:
    """Whether a request has to wait for the version that its client asks for, or is wrong.

    Versions of earlier epochs may be lost, so the application looks at them as well.
    """
    if not _VERSION.fullmatch(version):
        return True
    try:
        visible = runtime.router.visible.position.revision
    except NotReady:
        return True
    asked = parse_version(version.decode())
    return asked.epoch != visible.epoch or asked.seq > visible.seq


# --- parsing -----------------------------------------------------------------------------


def options_of(headers: Mapping[bytes, bytes]) -> QueryOptions:
    deadline = headers.get(_DEADLINE_KEY)
    deadline_ms = None if deadline is None else parse_deadline(deadline.decode("latin-1"))
    session = headers.get(_SESSION_KEY)
    return QueryOptions(
        b"no-cache" not in headers.get(b"cache-control", b""),
        deadline_ms,
        None if session is None else parse_session(session.decode("latin-1")),
    )


def parse_session(value: str) -> str:
    if not 1 <= len(value) <= SESSION_CHARACTERS_MAX or not value.isprintable():
        raise InvalidParameter(
            f"{SESSION_HEADER} must be 1 to {SESSION_CHARACTERS_MAX} printable characters"
        )
    return value


def parse_deadline(value: str) -> int:
    if not _DEADLINE.fullmatch(value) or int(value) > QUERY_DEADLINE_MS_MAX:
        raise InvalidParameter(
            f"SR-Deadline-Ms must be a whole number from 1 to {QUERY_DEADLINE_MS_MAX}"
        )
    return int(value)


def longest_deadline_ms(header_ms: int | None, config: NodeConfig) -> int:
    """The deadline of a query whose body may name an earlier one."""
    own_ms = config.query_deadline_ms
    return own_ms if header_ms is None else min(own_ms, header_ms)


def query_arguments(
    query: QueryFields, deadline_ms: int, session: str | None = None, cache_scope: str = ""
) -> dict[str, Any]:
    """Arguments for the router, out of a request.

    Args:
        deadline_ms: The longest deadline.
        session: The session where the body names none.
        cache_scope: See ``QueryArguments``.
    """
    return {
        "session": query.session or session,
        "cache_scope": cache_scope,
        "limit": query.limit,
        "routes": query.routes,
        "explain": query.explain,
        "context": query.context,
        "prior": query.prior,
        "deadline_ms": min(deadline_ms, query.deadline_ms or deadline_ms),
    }


def parse_query(body: bytes) -> QueryRequest:
    return _validated(_QUERY, body)


def parse_batch(body: bytes) -> BatchRequest:
    return _validated(_BATCH, body)


def _validated(adapter: TypeAdapter[ModelT], body: bytes) -> ModelT:
    try:
        return adapter.validate_python(parse_json(body, takes_last=True), strict=True)
    except ValidationError as error:
        found = field_errors(error)
        message = first_message(found, "the query is malformed")
        raise InvalidQuery(message, errors=found) from None


def render_match(match: Match) -> str:
    """A match as JSON, with candidates and stage only if the query asked for them."""
    left_out = _WITH_DECISION if match.decision_id else _WITHOUT_DECISION
    if match.route_set is not None:
        left_out = left_out - _OF_SET
    if match.candidates is None:
        left_out = left_out | _WITHOUT_EXPLAIN
    else:
        if match.stage is None:
            left_out = left_out | _OF_CASCADE
        if match.encoded_text is None:
            left_out = left_out | _OF_PREPARATION
        if match.context_weight is None:
            left_out = left_out | _OF_CONTEXT
    if match.span is not None:
        left_out = left_out - _OF_SPLIT
    return match.model_dump_json(exclude=left_out)


def render_matches(matches: Sequence[Match]) -> str:
    return f'{{"matches":[{",".join(map(render_match, matches))}]}}'
