"""``POST /v1/decisions`` and ``POST /v1/systemone``: two dialects of one question model.

Like ``query_handler``, one handler decides everything, for both ways in: as a direct handler of
the connection for a plain request, and behind the FastAPI endpoints for everything else.  The
response to the same bytes is cached until the visible state changes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.author import AUTHOR, AUTHOR_ADDRESS
from synaptoroute.config import NodeConfig
from synaptoroute.core.names import is_set_name
from synaptoroute.errors import InvalidQuery, UnsupportedQuestion
from synaptoroute.models import QUERY_BYTES_MAX, check_text, normal_name
from synaptoroute.questions import (
    Answer,
    ChoiceQuestion,
    Option,
    Question,
    SidesAnswer,
    SidesQuestion,
    plain_text,
    sides_in,
    state_text,
)
from synaptoroute.questions.question import OPTION_CHARACTERS_MAX
from synaptoroute.questions.states import UnreadableState
from synaptoroute.router.decider import Decision
from synaptoroute.server.bodies import parse_json, read_body, require_json
from synaptoroute.server.decision_schemas import (
    DecisionChoiceQuestion,
    DecisionPredicateQuestion,
    DecisionRequest,
    SystemOneChoice,
    SystemOneNoul,
    SystemOneRequest,
)
from synaptoroute.server.middleware import NodePolicy
from synaptoroute.server.query_handler import (
    CACHED_BODY_BYTES_MAX,
    QueryOptions,
    QueryResponse,
    ResponseCache,
    longest_deadline_ms,
    must_wait,
    options_of,
)
from synaptoroute.server.responses import unless_gone
from synaptoroute.server.runtime import Runtime
from synaptoroute.tracing import SPAN
from synaptoroute.web.http_parser import Header, HttpRequest
from synaptoroute.web.http_protocol import Respond
from synaptoroute.web.middleware import (
    PROOF_KEY,
    SETS_PREFIX,
    RequestContext,
    context_of,
    flow_of,
    request_flow,
)
from synaptoroute.web.problems import Forbidden, field_errors, first_message
from synaptoroute.web.set_paths import set_not_found, set_of, split_set_path

OPENAI_PATH: Final = "/v1/decisions"
SYSTEM_ONE_PATH: Final = "/v1/systemone"
DEFAULT_MODEL: Final = "default"
MODEL_NAMES: Final = (DEFAULT_MODEL, "synaptoroute")
"""Names that every node's route set has."""
PROVIDERS: Final = ("openai", "hosted_vllm", "typesafe", "litellm_proxy", "synaptoroute")
"""Prefixes of LiteLLM that a model's name may have."""
_JSON: Final = b"application/json"
_BYTES_HERE_MAX: Final = 65_536
"""A longer body is parsed, and its answer written, on another thread."""
_NO_SIDES: Final = (
    "without a description of both sides, true and false: the probabilities of a statement "
    "alone are off by more than 0.10"
)
_NO_LEVELS: Final = "here: no labelled set shows how good the answers are"
RequestT = TypeVar("RequestT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request in the common model.

    Attributes:
        model: The caller's name for the route set.
        text: What the questions are about.
        questions: All of them.
    """

    model: str
    text: str
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Dialect(Generic[RequestT]):
    """How one protocol writes requests and answers.

    Attributes:
        requests: Validates a request.
        read: Brings a request into the common model.
        write: Makes the document of a response.
    """

    requests: TypeAdapter[RequestT]
    read: Callable[[RequestT], Asked]
    write: Callable[[Asked, Decision], dict[str, Any]]


# --- OpenAI ------------------------------------------------------------------------------


def _read_openai(request: DecisionRequest) -> Asked:
    questions: list[Question] = []
    for place, question in enumerate(request.questions):
        where = f"questions[{place}]"
        if isinstance(question, DecisionPredicateQuestion):
            sides = sides_in(question.instructions)
            if sides is None:
                raise _unsupported(question.type, where, _NO_SIDES)
            questions.append(SidesQuestion.of(*sides, question.name))
            continue
        if not isinstance(question, DecisionChoiceQuestion):
            raise _unsupported(question.type, where, _NO_LEVELS)
        options = [
            Option.of(each.value, _description(each.description, f"{where}.choices[{at}]"))
            for at, each in enumerate(question.choices)
        ]
        questions.append(ChoiceQuestion(tuple(options), question.name))
    return Asked(_model(request.model), _text(request.input, "input"), tuple(questions))


def _write_openai(asked: Asked, found: Decision) -> dict[str, Any]:
    return {
        "object": "decision",
        "model": asked.model,
        "answers": [
            _openai_answer(question, answer)
            for question, answer in zip(asked.questions, found.answers, strict=True)
        ],
        "usage": {
            "input_tokens": found.input_tokens,
            "input_tokens_details": {
                "cached_tokens": found.cached_tokens,
                "cache_write_tokens": 0,
            },
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": found.input_tokens,
        },
    }


def _openai_answer(question: Question, answer: Answer) -> dict[str, Any]:
    if isinstance(answer, SidesAnswer):
        return {
            "type": "predicate",
            "name": question.name,
            "probability": answer.probability,
        }
    return {
        "type": "choice",
        "name": question.name,
        "choice": answer.choice,
        "confidence": answer.confidence,
        "probabilities": [
            {"value": option.value, "probability": probability}
            for option, probability in zip(question.options, answer.probabilities, strict=True)
        ],
    }


# --- System One --------------------------------------------------------------------------


def _read_system_one(request: SystemOneRequest) -> Asked:
    questions: list[Question] = []
    for name, question in request.questions.items():
        where = f"questions.{name}"
        if isinstance(question, SystemOneNoul):
            questions.append(_sides_of(question.criteria, name, where))
            continue
        if not isinstance(question, SystemOneChoice):
            raise _unsupported(question.type, where, _NO_LEVELS)
        options = [
            Option.of(value, _description(text, f"{where}.criteria.{value}"))
            for value, text in question.criteria.items()
        ]
        questions.append(ChoiceQuestion(tuple(options), name))
    return Asked(_model(request.model), _text(request.state, "state"), tuple(questions))


def _write_system_one(asked: Asked, found: Decision) -> dict[str, Any]:
    return {
        "model": asked.model,
        "answers": {
            question.name: _system_one_answer(question, answer)
            for question, answer in zip(asked.questions, found.answers, strict=True)
        },
        "usage": {"input_tokens": found.input_tokens, "output_tokens": 0},
    }


def _system_one_answer(question: Question, answer: Answer) -> dict[str, Any]:
    if isinstance(answer, SidesAnswer):
        return {"type": "noul", "noul": answer.probability}
    spread = zip(question.options, answer.probabilities, strict=True)
    return {
        "type": "choice",
        "choice": answer.choice,
        "confidence": answer.confidence,
        "probabilities": {str(option.value): probability for option, probability in spread},
    }


def _sides_of(criteria: Any, name: str, where: str) -> SidesQuestion:
    """Read the two sides of a yes-no question; a statement alone is not answered."""
    if isinstance(criteria, dict) and {"true", "false"} <= criteria.keys():
        texts = [
            _description(criteria[side], f"{where}.criteria.{side}") for side in ("true", "false")
        ]
        if all(texts):
            return SidesQuestion.of(texts[0], texts[1], name)
    raise _unsupported("noul", where, _NO_SIDES)


DIALECTS: Final[Mapping[str, Dialect[Any]]] = {
    OPENAI_PATH: Dialect(TypeAdapter(DecisionRequest), _read_openai, _write_openai),
    SYSTEM_ONE_PATH: Dialect(TypeAdapter(SystemOneRequest), _read_system_one, _write_system_one),
}


def _model(name: str | None) -> str:
    return name or DEFAULT_MODEL


def _text(state: Any, field: str) -> str:
    try:
        return check_text(state_text(state), QUERY_BYTES_MAX)
    except (UnreadableState, ValueError) as error:
        raise _invalid(field, str(error)) from None


def _description(value: Any, field: str) -> str:
    if value is None:
        return ""
    try:
        # Cut first: the options that were read are kept.
        return plain_text(value).strip()[:OPTION_CHARACTERS_MAX]
    except UnreadableState as error:
        raise _invalid(field, str(error)) from None


def _invalid(field: str, message: str) -> InvalidQuery:
    return InvalidQuery(f"{field}: {message}", errors=[{"field": field, "message": message}])


def _unsupported(kind: str, field: str, why: str) -> UnsupportedQuestion:
    message = f"no question of type {kind!r} is answered {why}"
    return UnsupportedQuestion(f"{field}: {message}", errors=[{"field": field, "message": message}])


def parse_request(dialect: Dialect[Any], body: bytes) -> Asked:
    """Read a body.

    Raises:
        MalformedBody: It is not JSON.
        InvalidQuery: A field is malformed, or a limit exceeded.
        UnsupportedQuestion: A question is of a kind that is not answered.
    """
    try:
        request = dialect.requests.validate_python(parse_json(body))
    except ValidationError as error:
        found = field_errors(error)
        raise InvalidQuery(first_message(found, "the request is malformed"), errors=found) from None
    return dialect.read(request)


def set_of_model(name: str, config: NodeConfig, context: RequestContext) -> str:
    """The set, or the alias, that a ``model`` means; empty for ``default``.

    The set of the path counts; there ``model`` may be its name, or one of those that every set
    has.

    Raises:
        SetNotFound: The key may not know it, or it is another one than that of the path.
        Forbidden: The key must not query it.
    """
    provider, _, rest = name.partition("/")
    bare = normal_name(rest if rest and provider in PROVIDERS else name)
    further = [each.strip() for each in config.model_names.split(",")]
    is_any = bool(bare) and bare in (*MODEL_NAMES, config.namespace, *further)
    named = "" if is_any else bare
    if context.route_set:
        if named not in ("", context.route_set):
            raise set_not_found(name)
        return context.route_set
    if not is_any and not is_set_name(bare):
        raise set_not_found(name)
    key = context.key
    if key is not None and not key.may_in("read", set_of(named)):
        if named and not key.sees(named):
            raise set_not_found(name)
        raise Forbidden(f"the API key {key.name!r} lacks the scope 'read' in {set_of(named)!r}")
    return named


def _cache_key(body: bytes, options: QueryOptions, context: RequestContext) -> bytes:
    """What a response is cached under: the body names the set, but not who may see it."""
    scope = "" if context.key is None else context.key.cache_scope
    if not (scope or context.route_set or options.session):
        return body
    parts = (scope, context.route_set, options.session or "")
    return b"\0".join((*(each.encode() for each in parts), body))


def _texts_in(asked: Asked) -> int:
    """Texts of options, which are encoded unless they are routes."""
    return sum(len(question.options) for question in asked.questions)


class DecisionHandler:
    """Answers questions in both dialects; used on the event loop only."""

    def __init__(self, runtime: Runtime, policy: NodePolicy) -> None:
        self._runtime = runtime
        self._policy = policy
        self._caches = {path: ResponseCache() for path in DIALECTS}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- between parser and socket ---------------------------------------------------

    def __call__(self, request: HttpRequest, respond: Respond) -> bool:
        """Answer a plain request; a direct handler of a connection, see ``QueryHandler``."""
        path = request.path
        if path not in DIALECTS:
            found_set = split_set_path(path) if path.startswith(SETS_PREFIX) else None
            if found_set is None or found_set[1] not in DIALECTS:
                return False
            path = found_set[1]
        if request.method != "POST" or request.query_string:
            return False
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
        context = RequestContext(headers.get(b"x-request-id"), path, request.client)
        self._policy.locate(request.path, context)
        if (tracer := self._policy.tracer) is not None:
            context.span = tracer.begin("POST", path, headers, request.client)
            SPAN.set(context.span)
        self._policy.started()
        try:
            self._policy.authorize("POST", path, headers, context)
            options = options_of(headers)
            found = self._cached(path, body, options, context)
        except Exception as error:
            self._send_problem(request, respond, context, error)
            return True
        if found is not None:
            self._send(request, respond, context, 200, found.headers, found.body)
            return True
        work = self._answer_later(request, respond, context, body, options)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        request.on_disconnect = task.cancel
        return True

    async def _answer_later(
        self,
        request: HttpRequest,
        respond: Respond,
        context: RequestContext,
        body: bytes,
        options: QueryOptions,
    ) -> None:
        flow, path = flow_of(context, request.client), context.endpoint
        # The texts of options are encoded on behalf of the client.
        AUTHOR.set(context.author)
        AUTHOR_ADDRESS.set(context.client_address)
        try:
            with self._runtime.bodies.lease(flow) as lease:
                lease.take(len(body))
                found = await self._answer(path, body, options, flow, context)
        except asyncio.CancelledError:
            self._policy.finished("POST", request.path, request.client, context)
            raise
        except Exception as error:
            self._send_problem(request, respond, context, error)
        else:
            self._send(request, respond, context, 200, found.headers, found.body)

    def _send_problem(
        self, request: HttpRequest, respond: Respond, context: RequestContext, error: Exception
    ) -> None:
        status, headers, body = self._policy.problem_response(error, context)
        if not any(name == b"sr-version" for name, _ in headers):
            headers += self._policy.default_headers()
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
        self._policy.finished("POST", request.path, request.client, context)
        respond(request, status, [*headers, *self._policy.common_headers(context)], body)

    # --- behind the framework --------------------------------------------------------

    async def serve(self, request: Request, path: str) -> Response:
        """Answer any request; the middleware has authorized it."""
        require_json(request)
        options = options_of(dict(reversed(request.scope["headers"])))
        runtime, flow = self._runtime, request_flow(request)
        context = context_of(request.scope)
        with runtime.bodies.lease(flow) as lease:
            body = await read_body(request, lease, runtime.config.body_bytes_max)
            found = self._cached(path, body, options, context)
            if found is None:
                work = self._answer(path, body, options, flow, context)
                found = await unless_gone(request, work)
        headers = {name.decode(): value.decode() for name, value in found.headers}
        return Response(found.body, headers=headers)

    # --- decisions -------------------------------------------------------------------

    def _cached(
        self, path: str, body: bytes, options: QueryOptions, context: RequestContext
    ) -> QueryResponse | None:
        runtime = self._runtime
        if not options.use_cache or runtime.config.log_queries:
            return None
        key = _cache_key(body, options, context)
        return self._caches[path].get(key, runtime.serving_router.visible)

    async def _answer(
        self, path: str, body: bytes, options: QueryOptions, flow: str, context: RequestContext
    ) -> QueryResponse:
        runtime = self._runtime
        config, router, dialect = runtime.config, runtime.serving_router, DIALECTS[path]
        visible = router.visible
        deadline_ms = longest_deadline_ms(options.deadline_ms, config)
        # As for queries: refusing must cost less than parsing.
        router.check_queue(deadline_ms, flow)
        self._policy.check_texts(context)
        if len(body) <= _BYTES_HERE_MAX:
            asked = parse_request(dialect, body)
        else:
            asked = await asyncio.to_thread(parse_request, dialect, body)
        route_set = set_of_model(asked.model, config, context)
        if route_set:
            router = router.set(route_set)
        self._policy.take_texts(context, 1 + _texts_in(asked))
        if config.log_queries:
            runtime.log.debug("queries", texts=[asked.text])
        found = await router.decider.decide(
            asked.text,
            asked.questions,
            deadline_ms=deadline_ms,
            flow=flow,
            use_cache=options.use_cache,
            session=options.session,
            cache_scope="" if context.key is None else context.key.cache_scope,
        )
        sides = sum(isinstance(each, SidesAnswer) for each in found.answers)
        runtime.metrics.count_questions(path, "choice", len(found.answers) - sides)
        runtime.metrics.count_questions(path, "sides", sides)
        if len(body) > _BYTES_HERE_MAX:
            return await asyncio.to_thread(_rendered, visible, dialect, asked, found)
        response = _rendered(visible, dialect, asked, found)
        is_current = router.visible is visible and found.version == visible.version
        if (
            options.use_cache
            and is_current
            and len(body) <= CACHED_BODY_BYTES_MAX
            and not config.log_queries
        ):
            # Whoever gets this response again pays for no token.
            known = replace(found, cached_tokens=found.input_tokens)
            key = _cache_key(body, options, context)
            self._caches[path].put(key, _rendered(visible, dialect, asked, known))
        return response


def _rendered(
    visible: object, dialect: Dialect[Any], asked: Asked, found: Decision
) -> QueryResponse:
    document = dialect.write(asked, found)
    body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", _JSON)]
    if found.version:
        headers.append((b"sr-version", found.version.encode()))
    return QueryResponse(visible, headers, body)
