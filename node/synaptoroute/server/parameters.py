"""Parameters of requests beside their bodies: names, preconditions, durability, consistency.

A write may be made safe to repeat (``Idempotency-Key``) and conditional (``If-Match``,
``If-None-Match: *``).  Its conditions are decided at its place in the order of the log,
never here.  A read may ask for a version that the client has seen (``SR-Min-Version``), or
for the newest entry of the log (``consistency=head``); ``SR-Version`` says what it got.

Sources: RFC 9110 section 13 (conditional requests) and the IETF draft on the
Idempotency-Key header.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from fastapi import Depends, Header, Path, Query
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.core.mutation import DEFAULT_SET, OP_ID_BYTES, Revision
from synaptoroute.errors import (
    HeadNotConfirmed,
    InvalidRoute,
    PreconditionFailed,
    RouteError,
)
from synaptoroute.models import NAME_CHARACTERS_MAX, NAME_PATTERN, check_name
from synaptoroute.router import WriteOptions
from synaptoroute.router.op_ids import scoped_op_id
from synaptoroute.server.bodies import parse_json, read_body, require_json
from synaptoroute.server.runtime import runtime_of
from synaptoroute.web.key_limits import NO_LIMITS
from synaptoroute.web.middleware import CONTEXT, RequestContext, context_of, request_flow
from synaptoroute.web.problems import InvalidParameter, field_errors, first_message

Ack = Literal["accepted", "applied", "quorum", "all"]
ACKS: Final[tuple[Ack, ...]] = get_args(Ack)
ACK_TIMEOUT_SECONDS_MAX: Final = 60.0
READ_TIMEOUT_SECONDS_DEFAULT: Final = 2.0
READ_TIMEOUT_SECONDS_MAX: Final = 30.0
IDEMPOTENCY_KEY_PATTERN: Final = r"^[!-~][ -~]{0,254}$"
VERSION_PATTERN: Final = r"^[0-9]{1,16}\.[0-9]{1,16}$"
_IDEMPOTENCY_KEY: Final = re.compile(IDEMPOTENCY_KEY_PATTERN)
_VERSION: Final = re.compile(VERSION_PATTERN)
_OUR_TAG: Final = re.compile(r'"(\d{1,18})\.(\d{1,18})"')
_ENTITY_TAG: Final = re.compile(r'(?:W/)?"[!#-~\x80-\xff]*"')
_READING_POSTS: Final = frozenset(
    {
        "/v1/query",
        "/v1/query/batch",
        "/v1/decisions",
        "/v1/systemone",
        "/v1/evaluation",
        "/v1/diff",
    }
)
ModelT = TypeVar("ModelT", bound=BaseModel)

# --- declarations for the OpenAPI document ----------------------------------------------

RouteName = Annotated[
    str,
    Path(
        description="Name of the route.",
        min_length=1,
        max_length=NAME_CHARACTERS_MAX,
        pattern=NAME_PATTERN,
        examples=["refund"],
    ),
    AfterValidator(check_name),
]
AckLevel = Annotated[
    Ack,
    Query(description="Level of durability to wait for; the answer is 202 until it is reached."),
]
AckTimeout = Annotated[
    float | None,
    Query(
        description="Seconds for the whole write: encoding, the log, and that level. Without "
        "it, 5 and 0.05 for each utterance, at most 60, from the end of the encoding.",
        gt=0,
        le=ACK_TIMEOUT_SECONDS_MAX,
        allow_inf_nan=False,
    ),
]
# Declared for the OpenAPI document; ``WriteRequest`` reads the headers and checks them.
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 printable characters; a repeated key with the same request has "
        "the effect of one. A UUID becomes the write's `op_id`.",
        json_schema_extra={"pattern": IDEMPOTENCY_KEY_PATTERN},
    ),
]
IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description='What is changed must stand at this ETag, such as "1.42".',
        json_schema_extra={"pattern": r'^(\*|"[0-9]{1,18}\.[0-9]{1,18}")$'},
    ),
]
IfNoneMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match",
        description="`*`: the route must not exist.",
        json_schema_extra={"pattern": r"^\*$"},
    ),
]
MinVersion = Annotated[
    str | None,
    Header(
        alias="SR-Min-Version",
        description="Answer at this version or a later one; 503 `not_caught_up` if this node "
        "does not come so far in time.",
        json_schema_extra={"pattern": VERSION_PATTERN},
        examples=["1.42"],
    ),
]
MinVersionTimeout = Annotated[
    float,
    Header(
        alias="SR-Min-Version-Timeout",
        description="Seconds to wait for that version.",
        gt=0,
        le=READ_TIMEOUT_SECONDS_MAX,
        allow_inf_nan=False,
    ),
]
Consistency = Annotated[
    Literal["local", "head"],
    Query(description="`head` asks the log for its newest entry first and waits for it."),
]


# --- reads ---------------------------------------------------------------------------


async def await_consistency(
    request: Request,
    min_version: MinVersion = None,
    timeout_seconds: MinVersionTimeout = READ_TIMEOUT_SECONDS_DEFAULT,
    consistency: Consistency = "local",
) -> None:
    """Wait until this node is as new as a read asks; a dependency of endpoints that read.

    Raises:
        InvalidParameter: The version is malformed.
        NotReady: The node has not caught up since its start.
        NotCaughtUp: Not in time.
        HeadNotConfirmed: No majority of the voters confirms the head of the log.
        VersionLost: A later epoch left the version behind.
        SequencerUnavailable: The log does not answer.
    """
    if min_version is not None and not _VERSION.fullmatch(min_version):
        raise InvalidParameter("SR-Min-Version must be epoch.seq, such as 1.42")
    if request.method not in ("GET", "HEAD") and request.url.path not in _READING_POSTS:
        return  # a write is ordered by the log, whatever this node has applied
    router = runtime_of(request).serving_router
    if min_version is not None:
        epoch, _, seq = min_version.partition(".")
        version = Revision(int(epoch), int(seq))
        await router.await_version(version, timeout_seconds)
    if consistency == "head":
        request.state.confirmed = await router.await_head(timeout_seconds)


class ReadingRoute(APIRoute):
    """An endpoint whose answer to ``consistency=head`` is confirmed as well.

    The node may have gone on between the confirmation and the answer, and a failover may lose
    what only this node has applied: such an answer would show a state that never was.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            response = await handler(request)
            confirmed: Revision | None = getattr(request.state, "confirmed", None)
            if confirmed is not None and response.status_code < 400:
                router = runtime_of(request).serving_router
                answered = router.visible.position.revision
                if answered > confirmed and await router.await_head() < answered:
                    raise HeadNotConfirmed("the log holds less than this node answered")
            return response

        return handle


# --- writes --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """Parameters and headers of one write."""

    request: Request
    ack: Ack
    ack_timeout_seconds: float | None

    def options(self, document: Any = None) -> WriteOptions:
        """Make the options of a write whose body said ``document``."""
        request, headers = self.request, self.request.headers
        namespace = runtime_of(request).config.namespace
        op_id = parse_op_id(headers.get("idempotency-key"), namespace)
        if op_id is not None:
            op_id = own_op_id(request, op_id)
        # A reused key with another request must be noticed; without a key there is nothing
        # to compare.
        asked = request_hash(request.method, request.url.path, document) if op_id else b""
        return WriteOptions(
            op_id=op_id,
            request_hash=asked,
            if_match=parse_if_match(headers.get("if-match")),
            if_none_match=parse_if_none_match(headers.get("if-none-match")),
            ack=self.ack,
            ack_timeout_seconds=self.ack_timeout_seconds,
        )


async def write_request(
    request: Request,
    ack: AckLevel = "applied",
    ack_timeout: AckTimeout = None,
    idempotency_key: IdempotencyKey = None,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> WriteRequest:
    """A dependency of every endpoint that writes.

    A coroutine although it awaits nothing: the framework would run a plain function, or a
    class, in a thread pool.
    """
    del idempotency_key, if_match, if_none_match
    return WriteRequest(request, ack, ack_timeout)


WriteParameters = Annotated[WriteRequest, Depends(write_request)]


def own_op_id(request: Request, op_id: bytes) -> bytes:
    """The op_id of a request that names one.

    In ``default`` it is the write's, unless the key holds in some route sets only: of two such
    keys, each would learn what the other did with an identity that it can guess.
    """
    context = context_of(request.scope)
    if context.route_set or context.key is None or not context.key.is_scoped:
        return op_id
    return scoped_op_id(op_id, DEFAULT_SET)


def etag(revision: str) -> str:
    return f'"{revision}"'


def parse_if_match(value: str | None) -> Revision | None:
    """Read ``If-Match``; None without the header or for ``*``.

    Every write that takes ``If-Match`` requires its route to exist, as ``*`` does.
    """
    if value is None or value.strip() == "*":
        return None
    found = _OUR_TAG.fullmatch(value.strip())
    if found:
        return Revision(int(found[1]), int(found[2]))
    if _ENTITY_TAG.fullmatch(value.strip()):
        raise PreconditionFailed("If-Match names a revision that the route never had")
    raise InvalidParameter('If-Match must be one entity tag, such as "1.42" with its quotes')


def parse_if_none_match(value: str | None) -> bool:
    """Read ``If-None-Match`` of a write: only ``*``, "the route must not exist"."""
    if value is None:
        return False
    if value.strip() != "*":
        raise InvalidParameter("If-None-Match of a write must be *")
    return True


def is_unchanged(value: str | None, revision: str) -> bool:
    """Whether ``If-None-Match`` of a read names the current revision (a 304)."""
    if value is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in value.split(",")]
    return "*" in tags or etag(revision) in tags


def parse_op_id(value: str | None, namespace: str) -> bytes | None:
    """Turn ``Idempotency-Key`` into the identity of the write."""
    if value is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(value):
        raise InvalidParameter("Idempotency-Key must be 1 to 255 printable ASCII characters")
    try:
        return uuid.UUID(value).bytes
    except ValueError:
        pass
    named = f"{namespace}\n{value}".encode()
    return hashlib.blake2b(named, digest_size=OP_ID_BYTES).digest()


def request_hash(method: str, path: str, document: Any) -> bytes:
    """Sixteen bytes over what was asked, so that a reused key is noticed."""
    body = json.dumps(document, sort_keys=True, separators=(",", ":"))
    asked = "\n".join((method, path, body))
    return hashlib.blake2b(asked.encode(), digest_size=OP_ID_BYTES).digest()


def reached(ack: Ack, asked: Ack) -> bool:
    """Whether the level of durability reached is at least the one asked for."""
    return ACKS.index(ack) >= ACKS.index(asked)


# --- limits of the key ---------------------------------------------------------------


def take_texts(request: Request, count: int) -> None:
    """Count texts that a request has encoded against the limit of its key.

    Raises:
        LimitExceeded: The key is over its limit.
    """
    context: RequestContext = request.scope[CONTEXT]
    if context.key is not None and context.key.limits is not NO_LIMITS:
        request.app.state.policy.take_texts(context, count)


def check_texts(request: Request) -> None:
    """Check, before a body is parsed, that the key of a request may have texts encoded.

    Raises:
        LimitExceeded: The key is over its limit.
    """
    context: RequestContext = request.scope[CONTEXT]
    if context.key is not None and context.key.limits is not NO_LIMITS:
        request.app.state.policy.check_texts(context)


# --- bodies --------------------------------------------------------------------------


async def read_texts(request: Request) -> Any:
    """The document of a body that has texts to encode; not read from a key over its limit."""
    check_texts(request)
    return await read_document(request)


async def read_document(request: Request) -> Any:
    runtime = runtime_of(request)
    require_json(request)
    with runtime.bodies.lease(request_flow(request)) as lease:
        return parse_json(await read_body(request, lease, runtime.config.body_bytes_max))


def checked(model: type[ModelT], document: Any, refusal: type[RouteError] = InvalidRoute) -> ModelT:
    """Check a body against its model, strictly."""
    try:
        return model.model_validate(document, strict=True)
    except ValidationError as error:
        found = field_errors(error)
        raise refusal(first_message(found, "the body is malformed"), errors=found) from None
