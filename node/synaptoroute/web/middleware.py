"""The middleware that every request passes.

In this order: a request id, the program's policy (API keys, origin), the endpoint; then one
response, one line of the access log and one count in the metrics.  Every error becomes a
problem document here.  Pure ASGI: nothing is buffered.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from random import getrandbits
from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synaptoroute.author import AUTHOR, AUTHOR_ADDRESS, NOTE
from synaptoroute.errors import SynaptoRouteError, TooLarge
from synaptoroute.tracing import SPAN, Span
from synaptoroute.trust.requests import PROOF_HEADER, Proven
from synaptoroute.web.api_keys import KEY_CHARACTERS_MAX, ApiKey
from synaptoroute.web.client_address import client_network
from synaptoroute.web.dialects import render_error
from synaptoroute.web.http_parser import Address, Header
from synaptoroute.web.logs import ServerLog
from synaptoroute.web.prefixes import prefix_of, with_prefix
from synaptoroute.web.problems import (
    FIELD_CHARACTERS_MAX,
    FIELD_ERRORS_MAX,
    ClientGone,
    EndpointNotFound,
    InvalidParameter,
    MalformedBody,
    MethodNotAllowed,
    Problem,
    Unauthorized,
    first_message,
    internal_problem,
    problem_of,
    shorten,
)
from synaptoroute.web.tracing import RequestTracer

PATH_CHARACTERS_MAX: Final = 200
NOTE_KEY: Final = b"sr-note"
SETS_PREFIX: Final = "/v1/sets/"
"""Before the paths of route sets, which ``RequestPolicy.locate`` understands."""
PROOF_KEY: Final = PROOF_HEADER.lower().encode()
CONTEXT: Final = "synaptoroute.context"
"""Key of the request's context in its ASGI scope."""
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._\-]{1,128}")
_CODE_BY_STATUS: Final = {
    400: MalformedBody.code,
    404: EndpointNotFound.code,
    405: MethodNotAllowed.code,
}


class RequestContext:
    """One request on its way to its response."""

    __slots__ = (
        "actor",
        "base",
        "client_address",
        "client_certificate",
        "endpoint",
        "has_started",
        "is_held",
        "is_write",
        "key",
        "path",
        "presented_key",
        "proven",
        "request_id",
        "route_set",
        "span",
        "started_at",
        "status",
    )

    def __init__(
        self, given_id: bytes | None, endpoint: str = "unmatched", client: Address | None = None
    ) -> None:
        if given_id is not None and _REQUEST_ID.fullmatch(given_id):
            self.request_id = given_id.decode()
        else:
            # It tells requests apart and protects nothing.  The entropy of the system would
            # cost a call that lets another thread take the interpreter.
            self.request_id = f"{getrandbits(64):016x}"
        self.started_at = time.perf_counter()
        self.endpoint = endpoint
        self.path = endpoint  # as it was asked for; decides the shape of an error
        self.key: ApiKey | None = None
        self.presented_key: str | None = None  # which the log must not show
        # The client's own address, where a trusted proxy names it; empty if there is none.
        self.client_address = "" if client is None else client[0]
        self.proven: Proven | None = None  # the proof that came instead of a key
        self.actor = ""  # user on whose behalf a proven request is made
        self.client_certificate: str | None = None  # name in it, if one was verified
        self.has_started = False
        self.is_write = False  # whether it asks for a change
        self.route_set = ""  # the set or alias that its path names; empty for none
        self.base = "/v1/"  # before the paths of the endpoints of that set
        self.is_held = False  # whether it counts among the queries of its key
        self.status = 499  # while there is no response
        self.span: Span | None = None  # if the process is traced

    @property
    def instance(self) -> str:
        """Name of this one occurrence of a problem."""
        return f"urn:synaptoroute:request:{self.request_id}"

    @property
    def author(self) -> str:
        """Author of what the request writes; empty without a key.

        ``user/key`` for a request that a coordinator proves on behalf of a user.
        """
        if self.key is None:
            return ""
        return f"{self.actor}/{self.key.name}" if self.actor else self.key.name

    @property
    def key_name(self) -> str | None:
        return None if self.key is None else self.key.name


class RequestPolicy(ABC):
    """The decisions of one program about each of its requests."""

    log: ServerLog
    tracer: RequestTracer | None = None
    body_bytes_max: int | None = None
    default_name = b""  # Header whose absence asks for ``default_headers``

    @abstractmethod
    def authorize(
        self, method: str, path: str, headers: Mapping[bytes, bytes], context: RequestContext
    ) -> None:
        """Find the key of a request and decide whether it may go on.

        Raises:
            Unauthorized: No key, or an unknown one.
            Forbidden: The key lacks the scope, or the origin is another site.
        """

    @abstractmethod
    def common_headers(self, context: RequestContext) -> list[Header]: ...

    @abstractmethod
    def finished(
        self, method: str, path: str, client: Address | None, context: RequestContext
    ) -> None: ...

    def is_in_force(self, context: RequestContext) -> bool:
        """Whether the key of a request is still valid; asked while a stream goes on."""
        return True

    def locate(self, path: str, context: RequestContext) -> str:
        """Path of the endpoint that serves a path; the context keeps what else the path says."""
        return path

    def note_of(self, headers: Mapping[bytes, bytes]) -> str:
        """What the client says about the change that it asks for; empty for nothing.

        Raises:
            InvalidParameter: It is malformed.
        """
        return ""

    def default_headers(self) -> list[Header]:
        """Headers of a response whose endpoint did not set ``default_name`` itself."""
        return []

    async def admit(
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        context: RequestContext,
        receive: Receive,
        send: Send,
    ) -> tuple[Receive, Send]:
        """Verify the proof of a request instead of an API key; see ``trust.requests``.

        Returns:
            Where the application reads its body, and where it sends the answer.

        Raises:
            Unauthorized: The proof is not valid.
        """
        return receive, send

    def started(self) -> None:  # noqa: B027  (most policies count nothing here)
        ...

    def problem_of(self, error: SynaptoRouteError) -> Problem:
        return problem_of(error)

    def problem_response(
        self, error: Exception, context: RequestContext
    ) -> tuple[int, list[Header], bytes]:
        """Status, headers and body for an error; an unexpected one is logged as an incident."""
        if isinstance(error, SynaptoRouteError):
            problem = self.problem_of(error)
        else:
            problem = internal_problem()
        if problem.status == 500:
            self.log.error(
                "request_failed",
                incident=problem.fields.get("incident"),
                code=problem.code,
                request_id=context.request_id,
                hidden=context.presented_key,
                exc_info=error,
            )
        kind, body = render_error(problem, context.path, context.instance)
        headers = [(b"content-type", kind.encode())]
        headers += [
            (name.lower().encode(), value.encode("latin-1"))
            for name, value in problem.headers.items()
        ]
        headers.append((b"content-length", b"%d" % len(body)))
        return problem.status, headers, body

    def log_request(
        self,
        level: int,
        method: str,
        path: str,
        client: Address | None,
        context: RequestContext,
    ) -> None:
        self.log.log(
            level,
            "request",
            method=method,
            path=path[:PATH_CHARACTERS_MAX],
            status=context.status,
            duration_ms=round((time.perf_counter() - context.started_at) * 1_000, 3),
            request_id=context.request_id,
            client=client[0] if client else None,
            key=context.key_name,
            **({"actor": context.actor} if context.actor else {}),
        )


class Middleware:
    """ASGI middleware around every endpoint of a program."""

    def __init__(self, app: ASGIApp, policy: RequestPolicy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        policy = self._policy
        # Of a header that is sent twice the first counts, as in the framework.
        headers = dict(reversed(scope["headers"]))
        context = RequestContext(headers.get(b"x-request-id"), client=scope.get("client"))
        context.path = scope["path"]
        method = scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}
        scope[CONTEXT] = context
        path, located = scope["path"], scope
        if path.startswith(SETS_PREFIX) and (path := policy.locate(path, context)) != scope["path"]:
            located = {**scope, "path": path}
        if (tls := scope.get("extensions", {}).get("tls")) is not None:
            context.client_certificate = tls["client_cert_name"]
        receive_bounded = receive

        async def receive_in_force() -> Message:
            message = await receive_bounded()
            if message.get("more_body") and not policy.is_in_force(context):
                raise Unauthorized("the API key was revoked or has expired")
            return message

        async def send_with_headers(message: Message) -> None:
            if message.get("more_body") and not policy.is_in_force(context):
                # Nothing but the end of the connection can tell the client by now.
                raise ClientGone("the API key was revoked or has expired")
            if message["type"] == "http.response.start":
                context.status, context.has_started = message["status"], True
                own = list(message.get("headers", ()))
                prefix = prefix_of(scope)
                if prefix or context.base != "/v1/":
                    own = with_prefix(own, prefix, context.base)
                if policy.default_name not in dict(own):
                    own += policy.default_headers()
                message["headers"] = [*own, *policy.common_headers(context)]
            await send(message)

        AUTHOR_ADDRESS.set(context.client_address)
        if policy.tracer is not None:
            _begin_span(policy.tracer, scope, headers, context)
        policy.started()
        send_answer: Send = send_with_headers
        try:
            if PROOF_KEY in headers:
                receive, send_answer = await policy.admit(
                    scope, headers, context, receive, send_with_headers
                )
                receive_bounded = receive
            policy.authorize(scope["method"], path, headers, context)
            AUTHOR.set(context.author)
            NOTE.set(policy.note_of(headers) if NOTE_KEY in headers else "")
            if policy.body_bytes_max is not None:
                receive_bounded = _bounded(receive, policy.body_bytes_max)
            await self._app(located, receive_in_force, send_answer)
        except ClientGone:
            pass
        except Exception as error:
            status, own, body = policy.problem_response(error, context)
            # Once a response has begun, only a broken connection tells the client.
            if context.has_started:
                raise
            await send_answer({"type": "http.response.start", "status": status, "headers": own})
            await send_answer({"type": "http.response.body", "body": body})
        finally:
            context.endpoint = getattr(located.get("route"), "path", context.endpoint)
            policy.finished(scope["method"], scope["path"], scope.get("client"), context)


def _begin_span(
    tracer: RequestTracer, scope: Scope, headers: Mapping[bytes, bytes], context: RequestContext
) -> None:
    context.span = tracer.begin(scope["method"], scope["path"], headers, scope.get("client"))
    SPAN.set(context.span)


def _bounded(receive: Receive, bytes_max: int) -> Receive:
    """Refuse a body once more than ``bytes_max`` of it have arrived."""
    received_bytes = 0

    async def receive_bounded() -> Message:
        nonlocal received_bytes
        message = await receive()
        received_bytes += len(message.get("body", b""))
        if received_bytes > bytes_max:
            raise TooLarge(f"a body has at most {bytes_max} bytes", limit=bytes_max)
        return message

    return receive_bounded


def context_of(scope: Scope) -> RequestContext:
    context: RequestContext = scope[CONTEXT]
    return context


def request_flow(request: Request) -> str:
    return flow_of(context_of(request.scope), request.scope.get("client"))


def flow_of(context: RequestContext, client: Address | None) -> str:
    """Name of the client among which capacity is shared: its key's name, or its address."""
    if context.key is not None:
        return context.key.name
    if client is None:
        return ""
    # No name of a key has a slash.
    return f"/{client_network(client[0])}" if ":" in client[0] else f"/{client[0]}"


# --- rules that policies share -----------------------------------------------------------


def presented_key(headers: Mapping[bytes, bytes]) -> str | None:
    value = headers.get(b"authorization")
    if value is not None:
        scheme, _, rest = value.partition(b" ")
        key = rest.strip() if scheme.lower() == b"bearer" else b""
    else:
        key = headers.get(b"x-api-key", b"").strip()
    return key.decode("latin-1") if 0 < len(key) <= KEY_CHARACTERS_MAX else None


# --- errors that the framework raises ----------------------------------------------------


def add_error_handlers(app: FastAPI) -> None:
    """Answer the framework's own errors with problem documents."""
    app.add_exception_handler(RequestValidationError, _on_invalid_parameters)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_invalid_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        {
            # The first part says where a parameter stands; users know it by its name.
            "field": shorten(".".join(map(str, item["loc"][1:])), FIELD_CHARACTERS_MAX),
            "message": shorten(str(item["msg"]), FIELD_CHARACTERS_MAX * 2),
        }
        for item in error.errors()[:FIELD_ERRORS_MAX]
    ]
    detail = first_message(found, "a parameter is wrong")
    return _problem(request, Problem(422, InvalidParameter.code, detail, {"errors": found}))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {
        404: "no endpoint has this path; see /v1/openapi.json",
        405: f"the endpoint does not take {request.method}",
    }
    code = _CODE_BY_STATUS.get(error.status_code, "http_error")
    detail = details.get(error.status_code, "the request was refused")
    headers = dict(error.headers or {})
    return _problem(request, Problem(error.status_code, code, detail, headers=headers))


def _problem(request: Request, problem: Problem) -> Response:
    context = context_of(request.scope)
    kind, body = render_error(problem, context.path, context.instance)
    headers = {"Content-Type": kind, **problem.headers}
    return Response(body, status_code=problem.status, headers=headers)
