"""HTTP/1.1 with limits: uvicorn's protocol, which has none on heads and silence.

A head has a size, a number of headers and a time; a process has a number of
connections.  What breaks a limit here is answered with a problem document, too,
and its connection is closed.

A head and its body leave in one piece: a node that is killed between the two would
leave half an answer with its client, which no load balancer can ask for again.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from synaptoroute.models import Match
from synaptoroute.server.fast_path import Express, PlainHead
from synaptoroute.server.head_cache import KnownHead, known_head
from synaptoroute.server.query_handler import PATH
from synaptoroute.web.problems import PROBLEM_JSON, Problem

URL_BYTES_MAX: Final = 8_192
HEAD_BYTES_MAX: Final = 32_768
HEADERS_MAX: Final = 100
HEAD_SECONDS: Final = 10.0
CONNECTIONS_MAX: Final = 8_192
_HOT_TARGET: Final = PATH.encode()

_MALFORMED: Final = Problem(400, "malformed_request", "the request is not valid HTTP/1.1")
_LONG_URL: Final = Problem(414, "too_large", f"the URL must be at most {URL_BYTES_MAX} bytes")
_LONG_HEAD: Final = Problem(
    431,
    "too_large",
    f"the headers must be at most {HEADERS_MAX}, of {HEAD_BYTES_MAX} bytes together",
)
_SLOW_HEAD: Final = Problem(
    408, "request_timeout", f"the headers did not arrive within {HEAD_SECONDS:g} seconds"
)
_FULL: Final = Problem(
    503,
    "overloaded",
    f"the node has {CONNECTIONS_MAX} connections, as many as it takes",
    headers={"Retry-After": "1"},
)


class _LimitBroken(Exception):
    """Carries a refusal out of the parser's callbacks."""


class JoinedWrites:
    """A transport whose writes of one turn of the event loop leave together.

    Everything else is the transport's own; runs on the event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """What is not about writing."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Take bytes; they leave before the loop's next turn ends."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)

    def send(self, data: bytes) -> None:
        """Send a whole answer now, after what was written."""
        self._parts.append(data)
        self.flush()

    def close(self) -> None:
        """Send what was written, then close."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport.is_closing()

    def flush(self) -> None:
        """Send what was written; nothing to a connection that is gone."""
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))


class LimitedProtocol(HttpToolsProtocol):
    """One connection; everything runs on the event loop.

    Args:
        args: uvicorn's own.
        express: Gets plain queries first; None sends all through the application.
        kwargs: uvicorn's own.
    """

    def __init__(self, *args: Any, express: Express | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refusal = _MALFORMED
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_in_head = False
        self._express = express
        self._is_parsing = False
        self._held: tuple[RequestResponseCycle, Any] | None = None
        self._answering: asyncio.Future[Match] | None = None
        self._known: KnownHead | None = None
        self._is_between = False
        self._is_tried = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or say that there are too many."""
        self._joined = JoinedWrites(transport, self.loop)
        super().connection_made(cast(asyncio.Transport, self._joined))
        if len(self.connections) > CONNECTIONS_MAX:
            self._refuse(_FULL)
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and the query that nobody waits for any more."""
        self._head_arrived()
        if self._answering is not None:
            self._answering.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, unless the connection was refused already."""
        if self.transport.is_closing():
            return
        known, self._known, self._is_tried = self._known, None, False
        if known is not None and self._is_answered_again(known, data):
            self._known = known
            return
        self._is_parsing = True
        try:
            super().data_received(data)
        finally:
            self._is_parsing = False
        if self._held is not None:
            cycle, app = self._held
            if self._release(cycle, app) and self._is_between and self._express is not None:
                done, read = self.on_response_complete, self._express.read
                self._known = known_head(data, cycle, done, read)
        if self._is_in_head and self._head_timer is None:
            self._await_head()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Begin to answer; a plain query is held until all that has arrived is parsed."""
        may_hold = self._is_parsing and not self._is_tried and self._express is not None
        if may_hold and Express.is_for(cycle):
            self._held = (cycle, app)
        else:
            super()._start_asgi_task(cycle, app)

    def _release(self, cycle: RequestResponseCycle, app: Any) -> bool:
        """Answer a held query the short way if it is whole, else the usual one."""
        self._held = None
        is_whole = not (cycle.more_body or cycle.waiting_for_100_continue)
        if is_whole and not self.flow.write_paused and self._is_taken(cycle):
            return True
        super()._start_asgi_task(cycle, app)
        return False

    def _is_taken(self, cycle: RequestResponseCycle, head: PlainHead | None = None) -> bool:
        """Whether a whole query is answered the short way, or will be."""
        taken: asyncio.Future[Match] | bool = False
        if self._express is not None:
            taken = self._express.take(cycle, self._joined.send, head)
        if not isinstance(taken, bool):
            self._answering = taken
        return taken is not False

    def _is_answered_again(self, known: KnownHead, data: bytes) -> bool:
        """Whether these bytes are a query with a head that is known, and were taken.

        Only where the parser stands between two requests and nothing waits for an answer,
        and only the short way; else nothing has happened.
        """
        is_free = self._is_between and self.cycle.response_complete and not self.pipeline
        body = known.body_in(data) if is_free and not self.flow.write_paused else None
        if body is None:
            return False
        before = self.cycle
        self.cycle = known.renew(body, self.server_state.default_headers)
        self._unset_keepalive_if_required()
        if self._is_taken(self.cycle, known.plain):
            return True
        known.cycle.response_complete = self._is_tried = True
        self.cycle = before
        return False

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head_bytes = 0
        self._is_in_head = True
        self._is_between = False

    def on_message_complete(self) -> None:
        """A request was parsed to its end."""
        super().on_message_complete()
        self._is_between = True

    def on_url(self, url: bytes) -> None:
        """Count the URL."""
        super().on_url(url)
        if len(self.url) > URL_BYTES_MAX:
            self._refusal = _LONG_URL
            raise _LimitBroken

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the headers."""
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES_MAX or len(self.headers) > HEADERS_MAX:
            self._refusal = _LONG_HEAD
            raise _LimitBroken

    def on_headers_complete(self) -> None:
        """The head is there in time; only the target's form is left to judge."""
        self._head_arrived()
        if self.url != _HOT_TARGET and httptools.parse_url(self.url).path is None:
            raise _LimitBroken
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused; uvicorn's own answer is not a problem document."""
        self._refuse(self._refusal)

    def _refuse(self, problem: Problem) -> None:
        if self.transport.is_closing():
            return
        body = problem.render("urn:synaptoroute:request:none")
        lines = [
            f"HTTP/1.1 {problem.status} {_PHRASES[problem.status]}",
            f"Content-Type: {PROBLEM_JSON}",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in problem.headers.items()),
            "Connection: close",
        ]
        self.transport.write("\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body)
        self.transport.close()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._refuse, _SLOW_HEAD)

    def _head_arrived(self) -> None:
        self._is_in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


_PHRASES: Final = {
    400: "Bad Request",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
