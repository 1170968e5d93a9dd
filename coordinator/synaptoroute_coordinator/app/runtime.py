"""State that the endpoints share: settings, reconciler, keys, sessions, policy.

A session replaces the API key in the dashboard: the key is sent once, and a random cookie
stands for it afterwards.  A session ends with its key: at each request the key is looked up
in the present ring, by its hash.  Sessions are kept in memory and end with the process.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from starlette.requests import Request

from synaptoroute.errors import SynaptoRouteError
from synaptoroute.web.api_keys import ApiKey, ApiKeys
from synaptoroute.web.http_parser import Address, Header
from synaptoroute.web.key_grants import Scope
from synaptoroute.web.logs import ServerLog
from synaptoroute.web.middleware import (
    PATH_CHARACTERS_MAX,
    RequestContext,
    RequestPolicy,
    context_of,
    presented_key,
)
from synaptoroute.web.problems import Forbidden, Problem, Unauthorized, problem_of
from synaptoroute.web.set_paths import base_of, split_set_path
from synaptoroute.web.site_rules import SAFE_METHODS, SiteRules
from synaptoroute.web.tls import ClientTls, ServerTls
from synaptoroute.web.tracing import RequestTracer, end_request
from synaptoroute_coordinator.app import responses
from synaptoroute_coordinator.config import CoordinatorConfig
from synaptoroute_coordinator.events import Event
from synaptoroute_coordinator.fleet import NodeView
from synaptoroute_coordinator.reconciler import NotActive, Reconciler

LOGGER_NAME: Final = "synaptoroute.coordinator"

COOKIE: Final = "sr_session"
COOKIE_CHARACTERS_MAX: Final = 128
SESSIONS_MAX: Final = 10_000
ATTEMPTS_MAX: Final = 10  # with keys that begin alike
ATTEMPTS_PER_ADDRESS_MAX: Final = 100
ATTEMPTS_SECONDS: Final = 60.0
ATTEMPTS_KEPT_MAX: Final = 10_000
KEY_START_CHARACTERS: Final = 8
GRANTS_SHOWN_MAX: Final = 8
REFUSALS_RECORDED_MAX: Final = 4
"""Refusals that may wait for the disk at one time; further ones are in the access log only."""


class Runtime:
    def __init__(
        self,
        config: CoordinatorConfig,
        reconciler: Reconciler,
        keys: ApiKeys | None,
        tls: ServerTls | None = None,
        peer_tls: ClientTls | None = None,
    ) -> None:
        self.config = config
        self.reconciler = reconciler
        self.keys = keys
        self.sessions = Sessions(config.session_seconds, self.is_in_force)
        self.is_stopping = asyncio.Event()
        self.log: ServerLog = structlog.stdlib.get_logger(LOGGER_NAME)
        self.tls = tls
        self.peer_tls = peer_tls
        self._watches: list[asyncio.Task[None]] = []
        self._recording: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        await asyncio.to_thread(self.reconciler.audit_log.load)
        self.reconciler.start()
        if self.keys is not None:
            self._watches.append(asyncio.create_task(self.keys.watch(self.log), name="keys"))
        for certificates in (self.tls, self.peer_tls):
            if certificates is not None:
                watch = asyncio.create_task(certificates.watch(), name="certificates")
                self._watches.append(watch)

    def is_in_force(self, key: ApiKey | None) -> bool:
        """Whether a key that was found before still counts, with the same rights."""
        return self.keys is None or key is None or self.keys.is_in_force(key)

    def record_refusal(self, actor: str, action: str) -> None:
        """Write to the audit log that a key lacked a right; what a flood adds is left out."""
        if len(self._recording) < REFUSALS_RECORDED_MAX:
            record = self.reconciler.audit_log.add(
                actor, action[:PATH_CHARACTERS_MAX], "refused", "the request was not allowed"
            )
            task = asyncio.create_task(record, name="record-refusal")
            self._recording.add(task)
            task.add_done_callback(self._recording.discard)

    async def ask_live(self, path: str) -> list[tuple[NodeView, dict[str, Any]]]:
        """Read the same JSON document of every live node; those that fail give an empty one."""
        live = [node for node in self.reconciler.view.live if node.url]
        targets = [(node.node, node.url) for node in live]
        found = await self.reconciler.client.documents(targets, path)
        return [(node, found.get(node.node, {})) for node in live]

    async def stop(self) -> None:
        self.is_stopping.set()
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await self.reconciler.stop()
        await self.reconciler.client.close()
        await self.reconciler.backups.close()
        await self.reconciler.log.close()


def runtime_of(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


def path_at_node(request: Request, endpoint: str) -> str:
    """Path of a node's endpoint for the route set that a request names.

    Args:
        endpoint: Path of the endpoint for the set ``default``, below ``/v1/`` or ``/-/``.
    """
    name = context_of(request.scope).route_set
    return base_of(name) + endpoint.split("/", 2)[2] if name else endpoint


@dataclass(frozen=True, slots=True)
class Session:
    key: ApiKey
    ends_at: float


class Sessions:
    """The sessions of one process.  Used on one event loop."""

    def __init__(self, seconds: float, is_in_force: Callable[[ApiKey], bool]) -> None:
        self.seconds = seconds
        self._is_in_force = is_in_force
        self._sessions: dict[str, Session] = {}
        self._attempts: dict[tuple[str, str], tuple[int, float]] = {}

    def open(self, key: ApiKey) -> str:
        now = time.monotonic()
        if len(self._sessions) >= SESSIONS_MAX:
            self._sessions = {
                cookie: session
                for cookie, session in self._sessions.items()
                if session.ends_at > now and self._is_in_force(session.key)
            }
        # Still full: the oldest sessions go, so that one client cannot lock others out.
        while len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        cookie = secrets.token_urlsafe(32)
        self._sessions[cookie] = Session(key, now + self.seconds)
        return cookie

    def find(self, cookie: str) -> ApiKey | None:
        session = self._sessions.get(cookie)
        if session is None:
            return None
        if session.ends_at <= time.monotonic() or not self._is_in_force(session.key):
            del self._sessions[cookie]
            return None
        return session.key

    def close(self, cookie: str) -> None:
        self._sessions.pop(cookie, None)

    def allow_failure(self, address: str, key: str) -> bool:
        """Count a wrong key from an address; return False after too many of them.

        Only wrong keys count and only they are refused, by address and by how the key
        begins: many users may share the address of a proxy, and one of them must not lock
        the others out.  A key of 256 random bits needs no limit of guesses; the limit keeps
        the log short.
        """
        is_alike = self._count_failure((address, key[:KEY_START_CHARACTERS]), ATTEMPTS_MAX)
        is_few = self._count_failure((address, ""), ATTEMPTS_PER_ADDRESS_MAX)
        return is_alike and is_few

    def _count_failure(self, who: tuple[str, str], count_max: int) -> bool:
        now = time.monotonic()
        count, since = self._attempts.pop(who, (0, now))
        if now - since > ATTEMPTS_SECONDS:
            count, since = 0, now
        self._attempts[who] = (count + 1, since)
        while len(self._attempts) > ATTEMPTS_KEPT_MAX:
            del self._attempts[next(iter(self._attempts))]
        return count < count_max


def cookie_of(header: bytes) -> str:
    """Find the session cookie in a Cookie header; empty if it is absent."""
    for part in header.decode("latin-1").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value[:COOKIE_CHARACTERS_MAX]
    return ""


# --- the policy of requests ------------------------------------------------------------

PUBLIC_PATHS: Final = frozenset({"/livez", "/readyz", "/metrics", "/v1/session", "/"})
ASSETS: Final = "/assets/"
ADMIN_PATHS: Final = frozenset(
    {
        "/v1/diagnostics",
        "/v1/unmatched",
        "/v1/unmatched/clusters",
        "/v1/unmatched/dismiss",
        "/v1/orphans",
        "/v1/feedback/resolve",
        "/v1/revisions/preview",
    }
)
"""These show what people wrote, which is for administrators and not for every reader."""
_READING_POSTS: Final = frozenset(
    {
        "/v1/query",
        "/v1/query/batch",
        "/v1/preview",
        "/v1/preview/texts",
        "/v1/encoders/trial",
        "/v1/evaluation",
        "/v1/diff",
    }
)
BODY_BYTES_MAX: Final = 16_777_216  # As much as a node takes
_STATUS_BY_CODE: Final = {
    responses.ActionFailed.code: 409,
    responses.NodeNotFound.code: 404,
    NotActive.code: 409,
}
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
ANYBODY: Final = ApiKey("anybody", b"", frozenset({"admin"}))
"""The key of every request where no keys are set."""


class CoordinatorPolicy(RequestPolicy):
    """The request policy of a coordinator."""

    body_bytes_max = BODY_BYTES_MAX

    def __init__(self, runtime: Runtime, tracer: RequestTracer | None = None) -> None:
        self.log = runtime.log
        self.tracer = tracer
        self._runtime = runtime
        config = runtime.config
        self._sites = SiteRules.of(config, has_keys=runtime.keys is not None, urls=[config.url])

    def locate(self, path: str, context: RequestContext) -> str:
        found = split_set_path(path)
        if found is None:
            return path
        # ``context.base`` stays: nodes answer with the paths of the set already.
        context.route_set, endpoint = found
        # Unmatched queries are below ``/-/`` on a node, and part of the fleet API here.
        return endpoint.replace("/-/", "/v1/", 1)

    def authorize(
        self, method: str, path: str, headers: Mapping[bytes, bytes], context: RequestContext
    ) -> None:
        runtime = self._runtime
        presented = context.presented_key = presented_key(headers)
        # A browser sends cookies to every site, but no page can add an API key to a request
        # to another site: only requests without one can be forged.
        is_browser = presented is None and b"authorization" not in headers
        self._sites.check(method, headers, is_keyless=is_browser)
        if runtime.keys is None:
            context.key = ANYBODY
            return
        why = "an API key is needed: Authorization: Bearer KEY, or X-API-Key"
        if presented is not None:
            why = "the API key is not known here"
            context.key = runtime.keys.find(presented)
            if context.key is None and runtime.keys.look_up(presented) is not None:
                # Only who holds the key gets here, so this tells nothing to a guesser.
                why = "the API key has expired"
        elif is_browser:
            context.key = runtime.sessions.find(cookie_of(headers.get(b"cookie", b"")))
        needed = scope_needed(method, path)
        if needed is None:
            return
        if context.key is None:
            raise Unauthorized(why)
        if not context.key.may(needed):
            raise Forbidden(_refusal(context.key, needed))

    def is_in_force(self, context: RequestContext) -> bool:
        return self._runtime.is_in_force(context.key)

    def common_headers(self, context: RequestContext) -> list[Header]:
        return [*_FIXED_HEADERS, (b"x-request-id", context.request_id.encode())]

    def finished(
        self, method: str, path: str, client: Address | None, context: RequestContext
    ) -> None:
        """Write a line of the access log; a refused change is an event as well."""
        if context.span is not None:
            end_request(context.span, method, context.endpoint, context.status)
        self.log_request(logging.INFO, method, path, client, context)
        if context.status in (401, 403) and method not in SAFE_METHODS:
            if context.key is not None and self._runtime.keys is not None:
                self._runtime.record_refusal(context.key.name, f"{method} {path}")
            actor = context.key_name or "nobody known"
            message = f"{method} {path[:PATH_CHARACTERS_MAX]} by {actor} was refused"
            self._runtime.reconciler.feed.add(Event("refused", "warn", message))

    def problem_of(self, error: SynaptoRouteError) -> Problem:
        status = _STATUS_BY_CODE.get(error.code)
        return problem_of(error) if status is None else Problem(status, error.code, error.message)


def scope_needed(method: str, path: str) -> Scope | None:
    """The scope that a request needs; None for what is open to all."""
    if path in PUBLIC_PATHS or path.startswith(ASSETS):
        return None
    if path in ADMIN_PATHS or (path.startswith("/v1/actions") and method not in SAFE_METHODS):
        return "admin"
    if path.startswith("/v1/sets/") and method in ("PUT", "PATCH"):
        return "admin"
    is_reading = method in SAFE_METHODS
    # The node sees the key of the coordinator, which is an administrator's.
    if not is_reading and (path.startswith("/v1/aliases/") or path.endswith("/revert")):
        return "admin"
    if path == "/v1/erase":
        return "admin"
    if (path == "/v1/feedback" and is_reading) or (path == "/v1/settings" and not is_reading):
        return "admin"
    if method in SAFE_METHODS or path in _READING_POSTS:
        return "read"
    return "write"


def _refusal(key: ApiKey, needed: Scope) -> str:
    if not any(grant.scope in (needed, "admin") for grant in key.grants):
        return f"the API key {key.name!r} lacks the scope {needed!r}"
    shown = ", ".join(map(str, key.grants[:GRANTS_SHOWN_MAX]))
    return (
        f"the API key {key.name!r} is for some route sets only ({shown}); the coordinator needs "
        f"the scope {needed!r} for all of them. Use the key at a node, below /v1/sets/"
    )


def actor_of(scope: Any) -> str:
    return context_of(scope).key_name or "anybody"
