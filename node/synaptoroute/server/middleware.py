"""The rules that every request to a node passes: keys, common headers, counts and logs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from starlette.types import Receive, Scope, Send

from synaptoroute.core.mutation import DEFAULT_SET
from synaptoroute.core.set_validation import NOTE_BYTES_MAX
from synaptoroute.errors import ClusterError, NotReady, ProtocolError
from synaptoroute.sequencer.peers import CERTIFICATE_PATH, HEAD_PATH
from synaptoroute.sequencer.proven_http import NONCE_PATH, PEER_PREFIX
from synaptoroute.server.proven_requests import SignedAnswers, read_whole, replayed
from synaptoroute.server.runtime import Runtime
from synaptoroute.trust.requests import Proven
from synaptoroute.web.api_keys import ApiKey, ApiKeys
from synaptoroute.web.http_parser import Address, Header
from synaptoroute.web.key_grants import Scope as KeyScope
from synaptoroute.web.key_limits import NO_LIMITS, KeyLimiter
from synaptoroute.web.logs import LOGGER
from synaptoroute.web.middleware import (
    NOTE_KEY,
    PROOF_KEY,
    RequestContext,
    RequestPolicy,
    presented_key,
)
from synaptoroute.web.problems import Forbidden, InvalidParameter, Unauthorized
from synaptoroute.web.set_paths import (
    ALIASES_PATH,
    SETS_PATH,
    base_of,
    is_of_a_set,
    set_not_found,
    set_of,
    split_set_path,
)
from synaptoroute.web.site_rules import SAFE_METHODS, SiteRules
from synaptoroute.web.tracing import RequestTracer, end_request

QUERY_PATH: Final = "/v1/query"
DECISION_PATHS: Final = frozenset({"/v1/decisions", "/v1/systemone"})
_QUERY_PATHS: Final = frozenset({QUERY_PATH, *DECISION_PATHS})
METRICS_PATH: Final = "/metrics"
PROBES: Final = frozenset({"/livez", "/readyz", METRICS_PATH})
PEER_QUESTIONS: Final = frozenset({HEAD_PATH, NONCE_PATH, CERTIFICATE_PATH})
"""Paths that nodes ask each other all the time: logged only if a request is refused."""
REFUSALS_LOG_SECONDS: Final = 1.0
_ADMIN_PATHS: Final = frozenset(
    {"/v1/cluster/recover", "/v1/cluster/orphans", "/v1/cluster/voters", "/v1/cluster/finalize"}
)
_READING_POSTS: Final = frozenset(
    {
        *_QUERY_PATHS,
        "/v1/query/batch",
        "/v1/preview",
        "/v1/preview/texts",
        "/v1/clusters",
        "/v1/evaluation",
        "/v1/diff",
    }
)
_LIMITED_QUERIES: Final = frozenset({*_QUERY_PATHS, "/v1/query/batch"})
_OF_ANY_KEY: Final = frozenset({"/v1/key", "/v1/openapi.json"})
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
DIFF_PATH: Final = "/v1/diff"
_FIXED_HEADERS: Final = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-cache"))


@dataclass(slots=True)
class Refusals:
    """Refused requests that no line of the log tells yet."""

    count: int = 0
    logged_at: float = -REFUSALS_LOG_SECONDS  # Monotonic seconds


class NodePolicy(RequestPolicy):
    """The request policy of a node: authorization, headers, logs, metrics."""

    default_name = b"sr-version"

    def __init__(self, runtime: Runtime, tracer: RequestTracer | None = None) -> None:
        self.log = runtime.log
        self.tracer = tracer
        self._runtime = runtime
        config = runtime.config
        self._sites = SiteRules.of(
            config, has_keys=runtime.keys is not None, urls=[config.advertise_url]
        )
        self._refusals = {name: Refusals() for name in ("queries_refused", "requests_refused")}
        self._limiter = KeyLimiter()

    def started(self) -> None:
        self._runtime.metrics.in_flight_count += 1

    def authorize(
        self, method: str, path: str, headers: Mapping[bytes, bytes], context: RequestContext
    ) -> None:
        context.is_write = (
            method not in SAFE_METHODS and path not in _READING_POSTS and path.startswith("/v1/")
        )
        tls, keys = self._runtime.tls, self._runtime.keys
        self._sites.check(method, headers, is_keyless=keys is None)
        if (
            tls is not None
            and tls.asks_clients
            and context.client_certificate is None
            and path.startswith(PEER_PREFIX)
        ):
            raise Forbidden("a client certificate of the cluster is needed")
        if keys is None:
            return
        needed = scope_needed(method, path)
        if needed is None:
            if path == METRICS_PATH:
                self._note_key(keys, headers, context)
            return
        if context.proven is not None:
            key = self._proven_key(keys, context.proven)
        else:
            presented = context.presented_key = presented_key(headers)
            if presented is None:
                raise Unauthorized("an API key is needed: Authorization: Bearer KEY, or X-API-Key")
            key = keys.look_up(presented)
        if key is None:
            raise Unauthorized("the API key is not known here")
        if key.expires_at is not None and keys.is_expired(key):
            # Only who holds the key gets here, so this tells nothing to a guesser.
            raise Unauthorized("the API key has expired")
        if key.limits is not NO_LIMITS:
            # Requests beyond the key's scopes count as well: each of them costs an answer.
            context.is_held = self._limiter.admit(
                key.key_hash, key.limits, is_query=path in _LIMITED_QUERIES
            )
            context.key = key  # ``finished`` releases what is held, however the request ends
        if not key.may(needed):
            _check_set(key, needed, path, context.route_set)
        context.key = key

    def locate(self, path: str, context: RequestContext) -> str:
        found = split_set_path(path)
        if found is None:
            return path
        name, endpoint = found
        context.base = base_of(name)
        if name != DEFAULT_SET:
            context.route_set = name
        return endpoint

    def note_of(self, headers: Mapping[bytes, bytes]) -> str:
        value = headers[NOTE_KEY]
        try:
            note = value.decode()
        except UnicodeDecodeError:
            note = ""
        if not note.isprintable() or not note or len(value) > NOTE_BYTES_MAX:
            raise InvalidParameter(
                f"SR-Note must be 1 to {NOTE_BYTES_MAX} bytes of UTF-8 without control characters"
            )
        return note

    def take_texts(self, context: RequestContext, count: int) -> None:
        """Count texts that a request has encoded against the limit of its key.

        Raises:
            LimitExceeded: The key is over its limit.
        """
        key = context.key
        if key is not None and key.limits is not NO_LIMITS:
            self._limiter.take_texts(key.key_hash, key.limits, count)

    def check_texts(self, context: RequestContext) -> None:
        """Check, before a body is parsed, that the key of a request may have texts encoded.

        Raises:
            LimitExceeded: The key is over its limit.
        """
        key = context.key
        if key is not None and key.limits is not NO_LIMITS:
            self._limiter.check_texts(key.key_hash, key.limits)

    @staticmethod
    def _note_key(keys: ApiKeys, headers: Mapping[bytes, bytes], context: RequestContext) -> None:
        """Keep the key of a request that needs none, for what only some keys are shown."""
        presented = context.presented_key = presented_key(headers)
        context.key = None if presented is None else keys.find(presented)

    @staticmethod
    def _proven_key(keys: ApiKeys, proven: Proven) -> ApiKey | None:
        """The key whose knowledge a proof shows."""
        key = keys.with_id(proven.request.key_id)
        return key if key is not None and proven.has_key(key.key_hash) else None

    async def admit(
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        context: RequestContext,
        receive: Receive,
        send: Send,
    ) -> tuple[Receive, Send]:
        follower = self._runtime.follower
        if scope["path"].startswith(PEER_PREFIX):
            return receive, send  # the endpoints of peers verify it themselves
        if follower is None:
            raise Unauthorized("this node has no peers, so it takes no proofs")
        gatekeeper = follower.gatekeeper
        target = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        try:
            proven = gatekeeper.verify(
                headers[PROOF_KEY].decode("latin-1"), scope["method"], target.decode("latin-1")
            )
        except ProtocolError as error:
            raise Unauthorized(str(error)) from error
        body = await read_whole(receive, self._runtime.config.body_bytes_max)
        if sha256(body).hexdigest() != proven.request.sha256:
            raise Unauthorized("a proof of another body")
        context.proven, context.actor = proven, proven.request.actor
        return replayed(body, receive), SignedAnswers(gatekeeper, proven, send)

    def is_in_force(self, context: RequestContext) -> bool:
        keys = self._runtime.keys
        return keys is None or context.key is None or keys.is_in_force(context.key)

    def common_headers(self, context: RequestContext) -> list[Header]:
        runtime = self._runtime
        headers = [*_FIXED_HEADERS, (b"x-request-id", context.request_id.encode())]
        if runtime.node_header:
            headers.append((b"sr-node", runtime.node_header))
        if runtime.follower is not None:
            # Time since this node last knew that it was not behind.
            headers.append((b"sr-staleness-ms", b"%d" % runtime.follower.session.staleness_ms))
        if runtime.is_draining:
            headers.append((b"connection", b"close"))
        return headers

    def default_headers(self) -> list[Header]:
        try:
            version = self._runtime.router.visible.version
        except NotReady:  # the database is not open
            return []
        return [(b"sr-version", version.encode())]

    def problem_response(
        self, error: Exception, context: RequestContext
    ) -> tuple[int, list[Header], bytes]:
        if context.is_write and isinstance(error, ClusterError):
            # The writer says what it knows of a write that it sent.  Whatever fails before the
            # writer has sent nothing.
            error.fields.setdefault("outcome", "not_taken")
        return super().problem_response(error, context)

    def finished(
        self, method: str, path: str, client: Address | None, context: RequestContext
    ) -> None:
        metrics, endpoint, status = self._runtime.metrics, context.endpoint, context.status
        metrics.in_flight_count -= 1
        if context.is_held and context.key is not None:
            self._limiter.release(context.key.key_hash)
            context.is_held = False
        if context.span is not None:
            end_request(context.span, method, endpoint, status)
        method = method if method in _METHODS else "OTHER"
        metrics.count_response(method, endpoint, status, time.perf_counter() - context.started_at)
        is_query = endpoint in _QUERY_PATHS
        is_refused = status == 429
        if is_refused:
            self._log_refusals("queries_refused" if is_query else "requests_refused")
        # Lines of a flood of refusals would cost more than the refusals themselves.
        is_quiet = endpoint in PROBES or is_refused or (is_query and status == 200)
        is_quiet = is_quiet or (endpoint in PEER_QUESTIONS and status == 200)
        level = logging.DEBUG if is_quiet else logging.INFO
        if LOGGER.isEnabledFor(level):
            self.log_request(level, method, path, client, context)

    def _log_refusals(self, event: str) -> None:
        """Log refused requests of one kind: the first at once, then one line a second for all."""
        refusals = self._refusals[event]
        refusals.count += 1
        now = time.monotonic()
        if now - refusals.logged_at >= REFUSALS_LOG_SECONDS:
            self.log.warning(event, count=refusals.count)
            refusals.count, refusals.logged_at = 0, now


def _check_set(key: ApiKey, needed: KeyScope, path: str, route_set: str) -> None:
    """Check a key that does not hold for every route set.

    Raises:
        SetNotFound: The path names a set that the key may not know; no other answer tells it from
            a set that does not exist.
        Forbidden: The key lacks the scope.
    """
    if path in _OF_ANY_KEY and (key.scopes or key.grants):
        if key.is_scoped:
            return
    elif (
        path.startswith((SETS_PATH, ALIASES_PATH))
        or path == DIFF_PATH
        or (path in DECISION_PATHS and not route_set)
    ):
        # Those endpoints show and change only what the key holds for; of decisions, the body
        # names the set.
        if key.grants:
            return
    elif is_of_a_set(path) and key.grants:
        name = set_of(route_set)
        if route_set and not key.sees(name):
            raise set_not_found(route_set)
        if key.may_in(needed, name):
            return
        raise Forbidden(f"the API key {key.name!r} lacks the scope {needed!r} in {name!r}")
    raise Forbidden(f"the API key {key.name!r} lacks the scope {needed!r}")


def scope_needed(method: str, path: str) -> KeyScope | None:
    """The scope that a request needs.

    None for probes, which are open, and for peers, which prove their membership instead.
    """
    if path in PROBES or path.startswith(PEER_PREFIX):
        return None
    if path.startswith("/-/") or path in _ADMIN_PATHS:
        return "admin"
    # The queue holds what people wrote: giving feedback needs less than reading it.
    if path.startswith("/v1/feedback/") or (path == "/v1/feedback" and method != "POST"):
        return "admin"
    if path == "/v1/erase":
        return "admin"
    if path == "/v1/revisions/preview":  # it shows the texts of the queue
        return "admin"
    if path in ("/v1/settings", "/v1/settings/calibration") and method not in SAFE_METHODS:
        return "admin"
    if method in SAFE_METHODS or path in _READING_POSTS:
        return "read"
    return "write"
