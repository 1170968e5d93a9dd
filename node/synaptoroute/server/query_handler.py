"""``POST /v1/query`` without the framework around it.

Nearly every request of a node is this one, and the framework's routing, dependencies
and response object cost more than a query that is answered from the cache.  So the
door gives it straight to ``HotQuery``, which parses and renders with the functions of
``query_endpoints``: contract, errors and document are those of the endpoint there, which
answers whatever is out of the ordinary (a version to wait for, parameters in the URL).

What was asked before at the position that is visible now gets the same bytes again, and
what the queue alone makes too late is refused before its JSON is parsed.
``Cache-Control: no-cache`` asks for the whole work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synaptoroute.errors import TooLarge
from synaptoroute.models import Match
from synaptoroute.router import answered
from synaptoroute.server.bodies import BODY_IDLE_SECONDS, read_body, require_json
from synaptoroute.server.query_endpoints import (
    DEADLINE_HEADER,
    begin,
    longest_ms,
    parse_deadline,
    parse_query,
)
from synaptoroute.server.response_cache import AnswerCache, KeptAnswer
from synaptoroute.server.responses import render_match
from synaptoroute.server.runtime import Runtime
from synaptoroute.server.schemas import QueryRequest
from synaptoroute.web.refusals import ClientGone, RequestTimeout

PATH: Final = "/v1/query"
_PLAIN_JSON: Final = b"application/json"
_DEADLINE: Final = DEADLINE_HEADER.lower().encode()


@dataclass(frozen=True, slots=True)
class Wish:
    """What the head of a plain query says about it.

    Attributes:
        may_use_cache: Whether bytes that were kept may be the answer.
        deadline_ms: The deadline in the head.
    """

    may_use_cache: bool
    deadline_ms: int | None


@dataclass(frozen=True, slots=True)
class Begun:
    """A query on its way.

    Attributes:
        answer: The match, or what will be it.
        body: The bytes of the question.
        wish: What its head says.
        seen: What was visible before it.
        is_first: Whether it is the one of these bytes that others may join.
    """

    answer: Match | asyncio.Future[Match]
    body: bytes
    wish: Wish
    seen: object
    is_first: bool


def is_plain(headers: Mapping[bytes, bytes], query_string: bytes, body_bytes_max: int) -> bool:
    """Whether a head asks for nothing that only the framework's way does.

    A body that says it is too long is refused there, before any of it arrives.
    """
    declared = headers.get(b"content-length", b"")
    is_long = declared.isdigit() and int(declared) > body_bytes_max
    return not (is_long or query_string or b"sr-min-version" in headers)


def is_plain_json(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the body is said to be JSON in the usual words."""
    return headers.get(b"content-type") == _PLAIN_JSON and b"content-encoding" not in headers


def wish_of(headers: Mapping[bytes, bytes]) -> Wish:
    """Read what a head wishes.

    Raises:
        InvalidParameter: The deadline is malformed.
    """
    deadline = headers[_DEADLINE].decode("latin-1") if _DEADLINE in headers else None
    may_use_cache = b"no-cache" not in headers.get(b"cache-control", b"")
    return Wish(may_use_cache, parse_deadline(deadline))


class HotQuery:
    """Answers the plain form of one request; used on the event loop only."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._answers = AnswerCache()
        self._on_their_way: set[bytes] = set()
        runtime.metrics.watch_answers(lambda: self._answers.hits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, *, app: ASGIApp) -> None:
        """Answer one ``POST /v1/query``; ``app`` answers what is not plain.

        Raises:
            SynaptoRouteError: What the endpoint would raise; the door answers it.
        """
        # Of a header that is sent twice the first counts, as it does in the framework.
        headers = dict(reversed(scope["headers"]))
        bytes_max = self._runtime.config.body_bytes_max
        if not is_plain(headers, scope["query_string"], bytes_max):
            await app(scope, receive, send)
            return
        if not is_plain_json(headers):
            require_json(Request(scope))
        wish = wish_of(headers)
        with self._runtime.bodies.lease() as lease:
            first = await _first_piece(receive)
            body: bytes = first.get("body", b"")
            if first.get("more_body", False):
                body = await read_body(Request(scope, _after(first, receive)), lease, bytes_max)
            elif len(body) > bytes_max:
                raise TooLarge(f"the body must be at most {bytes_max} bytes", limit=bytes_max)
            else:
                lease.take(len(body))
            found = self.kept(body, wish)
            if found is None:
                self.check_queue(body, wish)
                begun = self.begin(parse_query(body), body, wish)
                try:
                    found = self.end(begun, await answered(begun.answer))
                finally:
                    self.leave(begun)
        await send({"type": "http.response.start", "status": 200, "headers": headers_of(found)})
        await send({"type": "http.response.body", "body": found.content})

    def kept(self, body: bytes, wish: Wish) -> KeptAnswer | None:
        """Give the bytes that are the answer still.

        Raises:
            NotReady: The router has not started.
        """
        if not self._keeps(wish):
            return None
        return self._answers.get(body, self._runtime.router.visible)

    def _keeps(self, wish: Wish) -> bool:
        return wish.may_use_cache and not self._runtime.config.log_queries

    def check_queue(self, body: bytes, wish: Wish) -> None:
        """Refuse a query for what waits already; one that is on its way may be joined.

        Raises:
            Overloaded: Whatever the body says.
        """
        if not (wish.may_use_cache and body in self._on_their_way):
            self._runtime.router.check_queue(longest_ms(wish.deadline_ms, self._runtime.config))

    def begin(self, asked: QueryRequest, body: bytes, wish: Wish) -> Begun:
        """Begin to answer a query; call ``leave`` in the end.

        Raises:
            SynaptoRouteError: See ``AdaptiveRouter.aquery``.
        """
        runtime = self._runtime
        seen = runtime.router.visible
        answer = begin(runtime, asked, use_cache=wish.may_use_cache, head_ms=wish.deadline_ms)
        is_first = wish.may_use_cache and body not in self._on_their_way
        if is_first:
            self._on_their_way.add(body)
        return Begun(answer, body, wish, seen, is_first)

    def leave(self, begun: Begun) -> None:
        """Know that a query is not on its way any more."""
        if begun.is_first:
            self._on_their_way.discard(begun.body)

    def end(self, begun: Begun, match: Match) -> KeptAnswer:
        """Render an answer, and keep it where it may come again."""
        runtime, seen = self._runtime, begun.seen
        found = KeptAnswer(seen, match.version.encode(), render_match(match).encode())
        # Where unmatched queries are counted, each of them must reach the scorer.
        is_counted = match.route is None and runtime.config.unmatched_kept > 0
        if self._keeps(begun.wish) and not is_counted and _is_of(match, runtime, seen):
            self._answers.put(begun.body, found)
        return found


def _is_of(match: Match, runtime: Runtime, seen: object) -> bool:
    """Whether a match is of the position that was visible before it, and still is."""
    router = runtime.router
    return router.visible is seen and match.version == router.visible_version


def headers_of(answer: KeptAnswer) -> list[tuple[bytes, bytes]]:
    """Headers of an answer, without those of the door."""
    headers = [
        (b"content-length", b"%d" % len(answer.content)),
        (b"content-type", _PLAIN_JSON),
    ]
    if answer.version:
        headers.append((b"sr-version", answer.version))
    return headers


async def _first_piece(receive: Receive) -> Message:
    """Wait for the first piece of the body; of most bodies it is all.

    Raises:
        RequestTimeout, ClientGone: See ``body_pieces``.
    """
    try:
        async with asyncio.timeout(BODY_IDLE_SECONDS):
            message = await receive()
    except TimeoutError:
        raise RequestTimeout(
            f"the body paused for more than {BODY_IDLE_SECONDS:g} seconds"
        ) from None
    if message["type"] == "http.disconnect":
        raise ClientGone("the client closed the connection inside the body")
    return message


def _after(first: Message, receive: Receive) -> Receive:
    """Give a message once more, then what follows it."""
    waiting = [first]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again
