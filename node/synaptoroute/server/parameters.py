"""Parameters and headers that several endpoints take, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Path, Query
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request

from synaptoroute.errors import InvalidRoute, RouteError
from synaptoroute.models import NAME_CHARACTERS_MAX, NAME_PATTERN
from synaptoroute.router import WriteOptions
from synaptoroute.server.bodies import parse_json, read_body, require_json
from synaptoroute.server.preconditions import (
    ACK_TIMEOUT_SECONDS_DEFAULT,
    ACK_TIMEOUT_SECONDS_MAX,
    IDEMPOTENCY_KEY_PATTERN,
    Ack,
    parse_guard,
    request_hash,
)
from synaptoroute.server.responses import runtime_of
from synaptoroute.web.problems import field_errors, first_message

ModelT = TypeVar("ModelT", bound=BaseModel)

RouteName = Annotated[
    str,
    Path(
        description="Name of the route.",
        min_length=1,
        max_length=NAME_CHARACTERS_MAX,
        pattern=NAME_PATTERN,
        examples=["refund"],
    ),
]
AckLevel = Annotated[
    Ack,
    Query(description="Level of durability to wait for; the answer is 202 until it is reached."),
]
AckTimeout = Annotated[
    float,
    Query(
        description="Seconds to wait for that level.",
        gt=0,
        le=ACK_TIMEOUT_SECONDS_MAX,
        allow_inf_nan=False,
    ),
]
# Declared for the document; ``parse_guard`` reads the headers and judges their form.
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
        description='The route must stand at this ETag, such as "1.42".',
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


class WriteTerms:
    """The conditions of one write; a dependency of every endpoint that writes."""

    def __init__(
        self,
        request: Request,
        ack: AckLevel = "applied",
        ack_timeout: AckTimeout = ACK_TIMEOUT_SECONDS_DEFAULT,
        idempotency_key: IdempotencyKey = None,
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> None:
        del idempotency_key, if_match, if_none_match
        self._request = request
        self._ack: Ack = ack
        self._ack_timeout_seconds = ack_timeout

    def guard(self, document: Any = None) -> WriteOptions:
        """Make the guard of a write whose body said ``document``.

        Raises:
            InvalidParameter, PreconditionFailed: A header that cannot be followed.
        """
        request = self._request
        return parse_guard(
            request.headers,
            namespace=runtime_of(request).config.namespace,
            asked=request_hash(request.method, request.url.path, document),
            ack=self._ack,
            ack_timeout_seconds=self._ack_timeout_seconds,
        )


Terms = Annotated[WriteTerms, Depends()]


async def read_document(request: Request) -> Any:
    """Read a JSON body.

    Raises:
        UnsupportedMediaType, TooLarge, MalformedBody: It is no such body.
    """
    runtime = runtime_of(request)
    require_json(request)
    with runtime.bodies.lease() as lease:
        return parse_json(await read_body(request, lease, runtime.config.body_bytes_max))


def checked(
    adapter: TypeAdapter[ModelT], document: Any, refusal: type[RouteError] = InvalidRoute
) -> ModelT:
    """Check a body against its model, strictly.

    Raises:
        RouteError: ``refusal``, with a list of the fields that are wrong.
    """
    try:
        return adapter.validate_python(document, strict=True)
    except ValidationError as error:
        found = field_errors(error)
        raise refusal(first_message(found, "the body is malformed"), errors=found) from None
