"""The door: what every request passes.

A request id, then who asks (an API key or a session of the dashboard), then the
endpoint; every error becomes a problem document.  A session and a coordinator without
keys are reachable by a browser, so both refuse what another site's page sends.
Pure ASGI: streams pass unbuffered.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import time
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synaptoroute.errors import SynaptoRouteError, TooLarge
from synaptoroute.web import keys
from synaptoroute.web.problems import PROBLEM_JSON, Problem, internal_problem, problem_of
from synaptoroute.web.refusals import Forbidden, Unauthorized
from synaptoroute_coordinator.alarms import Event
from synaptoroute_coordinator.app import responses
from synaptoroute_coordinator.app.runtime import Runtime, cookie_of
from synaptoroute_coordinator.reconciler import NotActive

OPEN: Final = frozenset({"/livez", "/readyz", "/metrics", "/v1/session", "/"})
ASSETS: Final = "/assets/"
LOOKED_AFTER: Final = frozenset({"/v1/unmatched", "/v1/orphans"})
"""What people wrote is for those who look after the routes, not for everybody who reads."""
_READING_POSTS: Final = frozenset(
    {"/v1/query", "/v1/query/batch", "/v1/preview", "/v1/encoders/trial"}
)
BODY_BYTES_MAX: Final = 8_388_608
_OWN_STATUSES: Final = {
    responses.ActionFailed.code: 409,
    responses.NodeNotFound.code: 404,
    NotActive.code: 409,
}
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._\-]{1,128}")
_WANTED: Final = frozenset(
    {
        b"authorization",
        b"x-api-key",
        b"x-request-id",
        b"cookie",
        b"host",
        b"origin",
        b"sec-fetch-site",
    }
)
CONTENT_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FIXED_HEADERS: Final = (
    (b"content-security-policy", CONTENT_POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
ANYBODY: Final = keys.ApiKey("anybody", b"", frozenset({"admin"}))
"""Who asks where no keys are set."""


class Visit:
    """One request on its way through the door."""

    __slots__ = ("began_at", "has_started", "key", "request_id", "status")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.began_at = time.perf_counter()
        self.has_started = False
        self.key: keys.ApiKey | None = None
        self.status = 499


class Door:
    """ASGI middleware around every endpoint."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in and its answer out."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wanted = {name: value for name, value in scope["headers"] if name in _WANTED}
        visit = Visit(_request_id(wanted.get(b"x-request-id")))
        scope["synaptoroute.visit"] = visit

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status, visit.has_started = message["status"], True
                headers = message["headers"] = list(message.get("headers", ()))
                headers.extend(_FIXED_HEADERS)
                headers.append((b"x-request-id", visit.request_id.encode()))
            await send(message)

        try:
            await self._admit(scope, receive, send_marked, wanted, visit)
        finally:
            self._note(scope, visit)

    async def _admit(
        self, scope: Scope, receive: Receive, send: Send, wanted: dict[bytes, bytes], visit: Visit
    ) -> None:
        size_bytes = 0

        async def receive_bounded() -> Message:
            nonlocal size_bytes
            message = await receive()
            size_bytes += len(message.get("body", b""))
            if size_bytes > BODY_BYTES_MAX:
                raise TooLarge(f"a body has at most {BODY_BYTES_MAX} bytes", limit=BODY_BYTES_MAX)
            return message

        try:
            self._authorize(scope, wanted, visit)
            await self._app(scope, receive_bounded, send)
        except SynaptoRouteError as error:
            await self._answer(send, visit, _problem_of(error), error)
        except Exception as error:
            await self._answer(send, visit, internal_problem(), error)

    def _authorize(self, scope: Scope, wanted: dict[bytes, bytes], visit: Visit) -> None:
        """Find who asks and whether they may.

        Raises:
            Unauthorized: Nobody, or somebody unknown.
            Forbidden: The key lacks the scope, or another site's page asks.
        """
        method, path = scope["method"], scope["path"]
        needed = scope_needed(method, path)
        runtime = self._runtime
        presented = _presented(wanted)
        is_browser = presented is None
        if is_browser and method not in _SAFE:
            _check_site(wanted)
        if runtime.keys is None:
            _check_host(wanted, runtime.config.insecure)
            visit.key = ANYBODY
            return
        if presented is not None:
            visit.key = runtime.keys.find(presented)
        else:
            visit.key = runtime.sessions.find(cookie_of(wanted.get(b"cookie", b"")))
        if needed is None:
            return
        if visit.key is None:
            raise Unauthorized("an API key is needed: Authorization: Bearer KEY, or X-API-Key")
        if not visit.key.may(needed):
            raise Forbidden(f"the API key {visit.key.name!r} lacks the scope {needed!r}")

    def _note(self, scope: Scope, visit: Visit) -> None:
        """Write a line of the access log; a refusal is an event as well."""
        name = visit.key.name if visit.key else None
        path, method = scope["path"][:200], scope["method"]
        self._runtime.log.info(
            "request",
            method=method,
            path=path,
            status=visit.status,
            duration_ms=round((time.perf_counter() - visit.began_at) * 1_000, 3),
            request_id=visit.request_id,
            client=scope["client"][0] if scope.get("client") else None,
            key=name,
        )
        if visit.status in (401, 403) and method not in _SAFE:
            message = f"{method} {path} by {name or 'nobody known'} was refused"
            self._runtime.reconciler.feed.add(Event("refused", "warn", message))

    async def _answer(self, send: Send, visit: Visit, problem: Problem, error: Exception) -> None:
        """Send a problem; once an answer has begun, only breaking it off tells the client."""
        if problem.status == 500:
            self._runtime.log.error(
                "request_failed", incident=problem.fields.get("incident"), exc_info=error
            )
        if visit.has_started:
            raise error
        body = problem.render(f"urn:synaptoroute:request:{visit.request_id}")
        headers: list[tuple[bytes, bytes]] = [(b"content-type", PROBLEM_JSON.encode())]
        headers += [(n.lower().encode(), v.encode("latin-1")) for n, v in problem.headers.items()]
        headers.append((b"content-length", str(len(body)).encode()))
        start: dict[str, Any] = {
            "type": "http.response.start",
            "status": problem.status,
            "headers": headers,
        }
        await send(start)
        await send({"type": "http.response.body", "body": body})


def scope_needed(method: str, path: str) -> keys.Scope | None:
    """Say which scope a request needs; None for what is open to all."""
    if path in OPEN or path.startswith(ASSETS):
        return None
    if path in LOOKED_AFTER or (path.startswith("/v1/actions") and method not in _SAFE):
        return "admin"
    if method in _SAFE or path in _READING_POSTS:
        return "read"
    return "write"


def visit_of(scope: Any) -> Visit:
    """The visit of a request."""
    visit: Visit = scope["synaptoroute.visit"]
    return visit


def actor_of(scope: Any) -> str:
    """Name of the key by which a request was allowed."""
    key = visit_of(scope).key
    return key.name if key else "anybody"


def _problem_of(error: SynaptoRouteError) -> Problem:
    status = _OWN_STATUSES.get(error.code)
    return problem_of(error) if status is None else Problem(status, error.code, error.message)


def _presented(wanted: dict[bytes, bytes]) -> str | None:
    """Find an API key among the headers."""
    value = wanted.get(b"authorization")
    if value is not None:
        scheme, _, rest = value.partition(b" ")
        key = rest.strip() if scheme.lower() == b"bearer" else b"-"
    else:
        key = wanted.get(b"x-api-key", b"").strip()
    if not 0 < len(key) <= keys.KEY_CHARACTERS_MAX:
        return None
    return key.decode("latin-1")


def _check_site(wanted: dict[bytes, bytes]) -> None:
    """Refuse what a page of another site sends.

    Raises:
        Forbidden: It comes from another site.
    """
    site, origin = wanted.get(b"sec-fetch-site"), wanted.get(b"origin")
    is_foreign = site is not None and site not in (b"same-origin", b"none")
    if origin is not None:
        netloc = urlsplit(origin.decode("latin-1")).netloc
        is_foreign |= netloc != wanted.get(b"host", b"").decode("latin-1")
    if is_foreign:
        raise Forbidden("a page of another site may not do this")


def _check_host(wanted: dict[bytes, bytes], is_insecure: bool) -> None:
    """Refuse names that another site may have pointed at the loopback.

    Raises:
        Forbidden: The Host header is not the loopback's.
    """
    if is_insecure:
        return
    name = urlsplit(f"//{wanted.get(b'host', b'').decode('latin-1')}").hostname or ""
    if name == "localhost":
        return
    try:
        if ipaddress.ip_address(name).is_loopback:
            return
    except ValueError:
        pass
    raise Forbidden("without API keys only the loopback is served")


def _request_id(given: bytes | None) -> str:
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return secrets.token_hex(8)
