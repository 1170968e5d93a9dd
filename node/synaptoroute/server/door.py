"""The door: what every request passes, whichever endpoint it is for.

In this order: a request id, the API key, the endpoint, and then, whatever happened,
one answer, one line of the access log and one count in the metrics.  Every error
becomes a problem document here.  Pure ASGI: nothing is buffered.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterable
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synaptoroute.errors import SynaptoRouteError
from synaptoroute.server import hot_query
from synaptoroute.server.hot_query import HotQuery
from synaptoroute.server.runtime import Runtime
from synaptoroute.web import keys
from synaptoroute.web.logs import is_at
from synaptoroute.web.problems import PROBLEM_JSON, Problem, internal_problem, problem_of
from synaptoroute.web.refusals import ClientGone, Forbidden, Unauthorized

PEER_PREFIX: Final = "/peer/"
PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})
_ADMIN_PATHS = frozenset({"/v1/cluster/recover", "/v1/cluster/orphans", "/v1/cluster/voters"})
_READING_POSTS: Final = frozenset({"/v1/query", "/v1/query/batch", "/v1/preview"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._\-]{1,128}")
_PATH_CHARACTERS_MAX: Final = 200
_FIXED_HEADERS: Final = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-cache"))
_WANTED: Final = frozenset({b"authorization", b"x-api-key", b"x-request-id"})


class Visit:
    """One request on its way through the door."""

    __slots__ = ("began_at", "endpoint", "has_started", "key_name", "request_id", "status")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.began_at = time.perf_counter()
        self.endpoint = "unmatched"
        self.has_started = False
        self.key_name: str | None = None
        self.status = 499


class Door:
    """ASGI middleware around every endpoint of a node."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app = app
        self._hot_query = HotQuery(app, runtime)
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in and its answer out."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        wanted = {name: value for name, value in scope["headers"] if name in _WANTED}
        visit = Visit(_request_id(wanted.get(b"x-request-id")))
        scope["synaptoroute.visit"] = visit
        gauge = self._runtime.metrics.in_flight
        gauge.inc()
        try:
            await self._admit(scope, receive, self._sender(visit, send), wanted, visit)
        finally:
            gauge.dec()
            self._note(scope, visit)

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
            if self._runtime.keys is not None:
                visit.key_name = self._authorize(scope, wanted)
            if scope["path"] == hot_query.PATH and scope["method"] == "POST":
                visit.endpoint = hot_query.PATH
                await self._hot_query(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        except ClientGone:
            return
        except SynaptoRouteError as error:
            problem = problem_of(error)
            if problem.status == 500:
                self._log_incident(visit, problem, error)
            await _answer(send, visit, problem, error)
        except Exception as error:
            problem = internal_problem()
            self._log_incident(visit, problem, error)
            await _answer(send, visit, problem, error)

    def _authorize(self, scope: Scope, wanted: dict[bytes, bytes]) -> str | None:
        """Give the name of the key that allows the request.

        Raises:
            Unauthorized: No key, or an unknown one.
            Forbidden: The key lacks the scope.
        """
        needed = scope_needed(scope["method"], scope["path"])
        if needed is None:
            return None
        assert self._runtime.keys is not None
        presented = presented_key(wanted)
        if presented is None:
            raise Unauthorized("an API key is needed: Authorization: Bearer KEY, or X-API-Key")
        key = self._runtime.keys.find(presented)
        if key is None:
            raise Unauthorized("the API key is not known here")
        if not key.may(needed):
            raise Forbidden(f"the API key {key.name!r} lacks the scope {needed!r}")
        return key.name

    def _sender(self, visit: Visit, send: Send) -> Send:
        """Wrap ``send`` so that every answer carries the headers of the door."""
        runtime = self._runtime

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                visit.has_started = True
                headers = message["headers"] = list(message.get("headers", ()))
                headers.extend(_FIXED_HEADERS)
                headers.append((b"x-request-id", visit.request_id.encode()))
                if runtime.node:
                    headers.append((b"sr-node", runtime.node.encode("ascii", "replace")))
                if (staleness_ms := runtime.staleness_ms) is not None:
                    headers.append((b"sr-staleness-ms", str(staleness_ms).encode()))
                if runtime.is_draining:
                    headers.append((b"connection", b"close"))
            await send(message)

        return send_marked

    def _note(self, scope: Scope, visit: Visit) -> None:
        """Count the request and write its line of the access log."""
        seconds = time.perf_counter() - visit.began_at
        endpoint = getattr(scope.get("route"), "path", visit.endpoint)
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._runtime.metrics.answered(method, endpoint, visit.status, seconds)
        is_usual = endpoint in PROBES or (endpoint == hot_query.PATH and visit.status == 200)
        level = logging.DEBUG if is_usual else logging.INFO
        if is_at(level):
            self._runtime.log.log(
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

    def _log_incident(self, visit: Visit, problem: Problem, error: Exception) -> None:
        self._runtime.log.error(
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


def presented_key(headers: dict[bytes, bytes]) -> str | None:
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
    body = problem.render(f"urn:synaptoroute:request:{visit.request_id}")
    headers: list[tuple[bytes, bytes]] = [
        (name.lower().encode(), value.encode("latin-1")) for name, value in problem_headers(problem)
    ]
    headers.append((b"content-length", str(len(body)).encode()))
    start: dict[str, Any] = {
        "type": "http.response.start",
        "status": problem.status,
        "headers": headers,
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _request_id(given: bytes | None) -> str:
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return secrets.token_hex(8)
