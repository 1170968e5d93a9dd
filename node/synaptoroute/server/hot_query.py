"""``POST /v1/query`` without the framework around it.

Nearly every request of a node is this one, and the framework's routing, dependencies
and response object cost more than a query that is answered from the cache.  So the
door gives it straight to ``HotQuery``, which parses and renders with the functions of
``query_endpoints``: contract, errors and document are those of the endpoint there, which
answers whatever is out of the ordinary (a version to wait for, parameters in the URL).

An answer is a function of the body's bytes and of the position: what was asked before at
the position that is visible now gets the same bytes again.  ``Cache-Control: no-cache``
asks for the whole work.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synaptoroute.errors import TooLarge
from synaptoroute.models import Match
from synaptoroute.server.answers import render_match
from synaptoroute.server.bodies import BODY_IDLE_SECONDS, read_body, require_json
from synaptoroute.server.query_endpoints import DEADLINE_HEADER, ask, parse_deadline, parse_query
from synaptoroute.server.runtime import Runtime
from synaptoroute.web.refusals import ClientGone, RequestTimeout

PATH: Final = "/v1/query"
ANSWERS_MAX: Final = 8_192
ANSWERS_BYTES_MAX: Final = 33_554_432
BODY_BYTES_KEPT_MAX: Final = 4_096
"""Longer bodies are seldom sent twice."""
_PLAIN_JSON: Final = b"application/json"
_DEADLINE: Final = DEADLINE_HEADER.lower().encode()
_WATCHED: Final = frozenset(
    {b"content-type", b"content-encoding", b"content-length", b"cache-control", b"sr-min-version"}
    | {_DEADLINE}
)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Bytes that were an answer at a position, and what says that it is still visible."""

    seen: object
    version: bytes
    content: bytes


class AnswerCache:
    """The newest answers, by the bytes of what was asked; used on the event loop only.

    Invariants: every answer is of the position that ``seen`` stands for; at most
    ``ANSWERS_MAX`` answers, of ``ANSWERS_BYTES_MAX`` with their questions.
    """

    def __init__(self, answers_max: int = ANSWERS_MAX, bytes_max: int = ANSWERS_BYTES_MAX) -> None:
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()
        self._answers_max = answers_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self.hits = 0

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, body: bytes, seen: object) -> _Answer | None:
        """Give the answer to these bytes, if it is of what is visible now."""
        found = self._answers.get(body)
        if found is None or found.seen is not seen:
            return None
        self._answers.move_to_end(body)
        self.hits += 1
        return found

    def put(self, body: bytes, answer: _Answer) -> None:
        """Keep an answer; the ones that were not asked for the longest go."""
        if len(body) > BODY_BYTES_KEPT_MAX:
            return
        former = self._answers.pop(body, None)
        if former is not None:
            self._bytes -= len(body) + len(former.content)
        self._answers[body] = answer
        self._bytes += len(body) + len(answer.content)
        while len(self._answers) > self._answers_max or self._bytes > self._bytes_max:
            oldest, dropped = self._answers.popitem(last=False)
            self._bytes -= len(oldest) + len(dropped.content)


class HotQuery:
    """ASGI application for the plain form of one request; all else goes to the framework."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime
        self._answers = AnswerCache()
        runtime.metrics.watch_answers(lambda: self._answers.hits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ``POST /v1/query``.

        Raises:
            SynaptoRouteError: What the endpoint would raise; the door answers it.
        """
        # Of a header that is sent twice the first counts, as it does in the framework.
        sent = reversed(scope["headers"])
        headers = {name: value for name, value in sent if name in _WATCHED}
        declared = headers.get(b"content-length", b"")
        # A body that says it is too long is refused before any of it arrives.
        is_long = declared.isdigit() and int(declared) > self._runtime.config.body_bytes_max
        if is_long or scope["query_string"] or b"sr-min-version" in headers:
            await self._app(scope, receive, send)
            return
        if headers.get(b"content-type") != _PLAIN_JSON or b"content-encoding" in headers:
            require_json(Request(scope))
        runtime = self._runtime
        may_use_cache = b"no-cache" not in headers.get(b"cache-control", b"")
        deadline = headers[_DEADLINE].decode("latin-1") if _DEADLINE in headers else None
        parse_deadline(deadline)
        with runtime.bodies.lease() as lease:
            first = await _first_piece(receive)
            body: bytes = first.get("body", b"")
            if first.get("more_body", False):
                request = Request(scope, _after(first, receive))
                body = await read_body(request, lease, runtime.config.body_bytes_max)
            elif len(body) > runtime.config.body_bytes_max:
                limit = runtime.config.body_bytes_max
                raise TooLarge(f"the body must be at most {limit} bytes", limit=limit)
            else:
                lease.take(len(body))
            seen = runtime.router.visible
            is_kept = may_use_cache and not runtime.config.log_queries
            found = self._answers.get(body, seen) if is_kept else None
            if found is None:
                asked = parse_query(body)
                match = await ask(runtime, asked, use_cache=may_use_cache, deadline=deadline)
                found = _Answer(seen, match.version.encode(), render_match(match).encode())
                # Where unmatched queries are counted, each of them must reach the scorer.
                is_counted = match.route is None and runtime.config.unmatched_kept > 0
                if is_kept and not is_counted and _is_of(match, runtime, seen):
                    self._answers.put(body, found)
        await send({"type": "http.response.start", "status": 200, "headers": _headers(found)})
        await send({"type": "http.response.body", "body": found.content})


def _is_of(match: Match, runtime: Runtime, seen: object) -> bool:
    """Whether a match is of the position that was visible before it, and still is."""
    router = runtime.router
    return router.visible is seen and match.version == router.visible_version


def _headers(answer: _Answer) -> list[tuple[bytes, bytes]]:
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
