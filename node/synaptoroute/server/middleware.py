"""The door: what every request passes, whichever endpoint it is for.

In this order: a request id, the API key, the endpoint, and then, whatever happened,
one answer, one line of the access log and one count in the metrics.  Every error
becomes a problem document here.  Pure ASGI: nothing is buffered.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping
from random import getrandbits
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synaptoroute.errors import Overloaded, SynaptoRouteError
from synaptoroute.server import query_handler
from synaptoroute.server.query_handler import HotQuery
from synaptoroute.server.runtime import Runtime
from synaptoroute.web import keys
from synaptoroute.web.logs import is_at
from synaptoroute.web.problems import (
    PROBLEM_JSON,
    Problem,
    internal_problem,
    problem_of,
    retry_after_header,
)
from synaptoroute.web.refusals import ClientGone, Forbidden, Unauthorized

PEER_PREFIX: Final = "/peer/"
PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})
_ADMIN_PATHS = frozenset({"/v1/cluster/recover", "/v1/cluster/orphans", "/v1/cluster/voters"})
_READING_POSTS: Final = frozenset({"/v1/query", "/v1/query/batch", "/v1/preview"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._\-]{1,128}")
_PATH_CHARACTERS_MAX: Final = 200
_FIXED_HEADERS: Final = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-cache"))
_PROBLEM_JSON: Final = PROBLEM_JSON.encode()
_WANTED: Final = frozenset({b"authorization", b"x-api-key", b"x-request-id"})


class Visit:
    """One request on its way through the door."""

    __slots__ = ("began_at", "endpoint", "has_started", "key_name", "request_id", "status")

    def __init__(self, request_id: str, endpoint: str = "unmatched") -> None:
        self.request_id = request_id
        self.began_at = time.perf_counter()
        self.endpoint = endpoint
        self.has_started = False
        self.key_name: str | None = None
        self.status = 499


class Door:
    """ASGI middleware around every endpoint of a node."""

    def __init__(self, app: ASGIApp, runtime: Runtime, hot_query: HotQuery) -> None:
        self._app = app
        self._hot_query = hot_query
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in and its answer out."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        wanted = {name: value for name, value in scope["headers"] if name in _WANTED}
        visit = Visit(request_id(wanted.get(b"x-request-id")))
        scope["synaptoroute.visit"] = visit
        gauge = self._runtime.metrics.in_flight
        gauge.inc()
        try:
            await self._admit(scope, receive, self._sender(visit, send), wanted, visit)
        finally:
            gauge.dec()
            note(self._runtime, scope, visit)

    async def _admit(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        wanted: dict[bytes, bytes],
        visit: Visit,
    ) -> None:
        """Check the key, run the endpoint, turn errors into problems."""
        try:
            visit.key_name = authorize(self._runtime.keys, scope["method"], scope["path"], wanted)
            if scope["path"] == query_handler.PATH and scope["method"] == "POST":
                visit.endpoint = query_handler.PATH
                await self._hot_query(scope, receive, send, app=self._app)
            else:
                await self._app(scope, receive, send)
        except ClientGone:
            return
        except SynaptoRouteError as error:
            problem = problem_of(error)
            if problem.status == 500:
                log_incident(self._runtime, visit, problem, error)
            await _answer(send, visit, problem, error)
        except Exception as error:
            problem = internal_problem()
            log_incident(self._runtime, visit, problem, error)
            await _answer(send, visit, problem, error)

    def _sender(self, visit: Visit, send: Send) -> Send:
        """Wrap ``send`` so that every answer carries the headers of the door."""
        runtime = self._runtime

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                visit.has_started = True
                headers = message["headers"] = list(message.get("headers", ()))
                headers.extend(marks(runtime, visit))
            await send(message)

        return send_marked


def authorize(
    ring: keys.KeyRing | None, method: str, path: str, headers: Mapping[bytes, bytes]
) -> str | None:
    """Give the name of the key that allows a request; None where none is needed.

    Raises:
        Unauthorized: No key, or an unknown one.
        Forbidden: The key lacks the scope.
    """
    if ring is None or (needed := scope_needed(method, path)) is None:
        return None
    presented = presented_key(headers)
    if presented is None:
        raise Unauthorized("an API key is needed: Authorization: Bearer KEY, or X-API-Key")
    key = ring.find(presented)
    if key is None:
        raise Unauthorized("the API key is not known here")
    if not key.may(needed):
        raise Forbidden(f"the API key {key.name!r} lacks the scope {needed!r}")
    return key.name


def marks(runtime: Runtime, visit: Visit) -> list[tuple[bytes, bytes]]:
    """Headers that every answer carries."""
    found = [*_FIXED_HEADERS, (b"x-request-id", visit.request_id.encode())]
    if runtime.node:
        found.append((b"sr-node", runtime.node.encode("ascii", "replace")))
    if (staleness_ms := runtime.staleness_ms) is not None:
        found.append((b"sr-staleness-ms", str(staleness_ms).encode()))
    if runtime.is_draining:
        found.append((b"connection", b"close"))
    return found


def note(runtime: Runtime, scope: Mapping[str, Any], visit: Visit) -> None:
    """Count a request and write its line of the access log.

    A flood of queries that are refused must not become a flood of lines, each of which
    costs more than the refusal: they have one line a second together.
    """
    seconds = time.perf_counter() - visit.began_at
    endpoint = getattr(scope.get("route"), "path", visit.endpoint)
    method = scope["method"] if scope["method"] in _METHODS else "OTHER"
    runtime.metrics.answered(method, endpoint, visit.status, seconds)
    is_refused = endpoint == query_handler.PATH and visit.status == 429
    if is_refused:
        runtime.note_refusal()
    is_usual = endpoint in PROBES or (endpoint == query_handler.PATH and visit.status == 200)
    level = logging.DEBUG if is_usual or is_refused else logging.INFO
    if is_at(level):
        runtime.log.log(
            level,
            "request",
            method=method,
            path=scope["path"][:_PATH_CHARACTERS_MAX],
            status=visit.status,
            duration_ms=round(seconds * 1_000, 3),
            request_id=visit.request_id,
            client=scope["client"][0] if scope.get("client") else None,
            key=visit.key_name,
        )


def log_incident(runtime: Runtime, visit: Visit, problem: Problem, error: Exception) -> None:
    """Write what the client is not told."""
    runtime.log.error(
        "request_failed",
        incident=problem.fields.get("incident"),
        code=problem.code,
        request_id=visit.request_id,
        exc_info=error,
    )


def scope_needed(method: str, path: str) -> keys.Scope | None:
    """Say which scope a request needs; None for probes, which are open, and for peers,
    which prove their membership instead.
    """
    if path in PROBES or path.startswith(PEER_PREFIX):
        return None
    if path.startswith("/-/") or path in _ADMIN_PATHS:
        return "admin"
    if path == "/v1/settings" and method != "GET":
        return "admin"
    if method in ("GET", "HEAD", "OPTIONS") or path in _READING_POSTS:
        return "read"
    return "write"


def presented_key(headers: Mapping[bytes, bytes]) -> str | None:
    """Find the API key among the headers of a request."""
    value = headers.get(b"authorization")
    if value is not None:
        scheme, _, rest = value.partition(b" ")
        key = rest.strip() if scheme.lower() == b"bearer" else b""
    else:
        key = headers.get(b"x-api-key", b"").strip()
    if not 0 < len(key) <= keys.KEY_CHARACTERS_MAX:
        return None
    return key.decode("latin-1")


def request_id_of(scope: Scope) -> str:
    """The request id that the door gave."""
    visit: Visit = scope["synaptoroute.visit"]
    return visit.request_id


def problem_headers(problem: Problem) -> Iterable[tuple[str, str]]:
    """Headers of a problem's answer, beside its length."""
    yield "Content-Type", PROBLEM_JSON
    yield from problem.headers.items()


async def _answer(send: Send, visit: Visit, problem: Problem, error: Exception) -> None:
    """Send a problem; once an answer has begun, only breaking it off can tell the client."""
    if visit.has_started:
        raise error
    headers, body = problem_parts(problem, visit)
    start: dict[str, Any] = {
        "type": "http.response.start",
        "status": problem.status,
        "headers": headers,
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


def problem_parts(problem: Problem, visit: Visit) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """A problem's headers, without those of the door, and its document."""
    body = problem.render(instance_of(visit))
    headers = [
        (name.lower().encode(), value.encode("latin-1")) for name, value in problem_headers(problem)
    ]
    headers.append((b"content-length", str(len(body)).encode()))
    return headers, body


def overloaded_headers(error: Overloaded, body: bytes) -> list[tuple[bytes, bytes]]:
    """The same headers for a refusal whose document is there."""
    return [
        (b"content-type", _PROBLEM_JSON),
        (b"retry-after", retry_after_header(error).encode()),
        (b"content-length", b"%d" % len(body)),
    ]


def instance_of(visit: Visit) -> str:
    """Name of this one occurrence of a problem."""
    return f"urn:synaptoroute:request:{visit.request_id}"


def request_id(given: bytes | None) -> str:
    """The client's own name of a request if it is sound, else a new one.

    It tells requests apart and proves nothing, so it needs no entropy of the system, whose
    call would give the interpreter away in the middle of a request.
    """
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"{getrandbits(64):016x}"
