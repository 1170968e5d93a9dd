"""HTTP/1.1 connections, with limits, in front of an ASGI application.

``HttpProtocol`` parses requests with httptools and answers them in order.  A request whose
body has arrived whole is offered to the direct handler first, which answers without tasks,
events and ASGI messages.  Every other request runs as an ordinary ASGI 3 cycle: streamed
bodies and responses, disconnect events, flow control in both directions.

A request that breaks a limit gets a problem document, and its connection is closed.

Sources: RFC 9110 and 9112 (HTTP/1.1), the ASGI specification 3.0, and the public API of
httptools (``HttpRequestParser`` and ``parse_url``).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, Protocol, TypeAlias, cast
from urllib.parse import unquote

import httptools
from starlette.types import ASGIApp, Message, Scope

from synaptoroute.web.logs import server_log
from synaptoroute.web.problems import PROBLEM_JSON, Problem, internal_problem

Header: TypeAlias = tuple[bytes, bytes]
Address: TypeAlias = tuple[str, int]
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_BAD_NAME: Final = re.compile(rb"[^!#$%&'*+.^_`|~0-9A-Za-z-]")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BODILESS_STATUSES: Final = frozenset({204, 304})
_CLOSE: Final = (b"connection", b"close")
_TLS_END_SECONDS: Final = 1.0
_NO_INSTANCE: Final = "urn:synaptoroute:request:none"
_MALFORMED: Final = Problem(400, "malformed_request", "the request is not valid HTTP/1.1")


class HttpRequest:
    """One request; header names are in lower case, in the order in which they were sent."""

    __slots__ = (
        "body",
        "client",
        "expects_continue",
        "has_begun",
        "headers",
        "is_answered",
        "is_whole",
        "keep_alive",
        "method",
        "on_body",
        "on_disconnect",
        "path",
        "query_string",
        "raw_path",
        "version",
    )

    def __init__(self, client: Address | None, headers: list[Header]) -> None:
        self.method = self.path = self.version = ""
        self.raw_path = self.query_string = b""
        self.headers = headers
        self.client = client
        self.keep_alive = True
        self.expects_continue = False
        self.body = bytearray()  # not read yet
        self.is_whole = False  # whether the body has arrived to its end
        self.has_begun = self.is_answered = False  # the response
        # Called if the client goes away before the response.
        self.on_disconnect: Callable[[], object] | None = None
        # Called when more of the body has arrived, and when the client goes away.
        self.on_body: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class HttpLimits:
    url_bytes_max: int = 8_192
    head_bytes_max: int = 32_768
    headers_max: int = 100
    head_seconds: float = 10.0  # also for the first head of a connection
    keep_alive_seconds: float = 75.0
    connections_max: int = 8_192  # of the process
    buffer_bytes_max: int = 65_536  # of a body that waits for the application


Respond: TypeAlias = Callable[[HttpRequest, int, Sequence[Header], bytes], None]


class DirectHandler(Protocol):
    """Answers whole requests between parser and socket."""

    def __call__(self, request: HttpRequest, respond: Respond) -> bool:
        """Answer a request, now or later, by calling ``respond`` once.

        Returns:
            False to leave the request to the application; nothing has happened then.
        """
        ...


class ServerState:
    """State that the connections of one server share."""

    def __init__(self, connections: set[HttpProtocol], tasks: set[asyncio.Task[None]]) -> None:
        self.connections = connections
        self.tasks = tasks
        self.date: Header = (b"date", b"")
        self.renew_date()

    def renew_date(self) -> None:
        self.date = (b"date", formatdate(usegmt=True).encode("ascii"))


class _Refused(Exception):
    """Stops the parser from inside one of its callbacks."""


class HttpProtocol(asyncio.Protocol):
    """One connection; everything runs on the event loop.

    Requests are parsed into a queue, and answered one at a time in the order in which they
    came.  ``_incoming`` is being parsed, ``_active`` is being answered; they are the same
    request while its body arrives.
    """

    def __init__(
        self,
        app: ASGIApp,
        state: ServerState,
        limits: HttpLimits,
        direct: DirectHandler | None = None,
    ) -> None:
        self._app = app
        self._state = state
        self._limits = limits
        self._direct = direct
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._client: Address | None = None
        self._local: Address | None = None
        self._certificate: str | None = None  # name in the client's verified certificate
        self._url = b""
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._is_in_head = False
        self._incoming: HttpRequest | None = None
        self._active: HttpRequest | None = None
        self._queue: deque[HttpRequest] = deque()
        self._upgrade_body_bytes = 0
        self._problem = _MALFORMED
        self._refusal: Problem | None = None
        self._deadline: float | None = None
        self._is_advancing = False
        self._is_ending = self._saw_last = self._has_answered = False
        self._is_reading_paused = False
        self._is_writing_paused = False
        self._drained: asyncio.Future[None] | None = None

    # --- the connection --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._client = _address(transport.get_extra_info("peername"))
        self._local = _address(transport.get_extra_info("sockname"))
        connections = self._state.connections
        connections.add(self)
        self._deadline = self._loop.time() + self._limits.head_seconds
        if len(connections) > self._limits.connections_max:
            self._refuse(_full(self._limits))

    def secure(self, transport: asyncio.Transport, certificate: str | None) -> None:
        """Continue on the encrypted transport after the TLS handshake."""
        self._transport = transport
        self._certificate = certificate

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and cancel the request that is being answered."""
        self._state.connections.discard(self)
        self._deadline = None
        self._queue.clear()
        if (active := self._active) is not None:
            if active.on_disconnect is not None:
                active.on_disconnect()
            if active.on_body is not None:
                active.on_body()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived and answer the requests that are complete."""
        # Bytes after a refused request, or after one that asked to close, mean nothing.
        if self._refusal is not None or self._saw_last or self._transport.is_closing():
            return
        try:
            if self._upgrade_body_bytes:
                self._parse_after_upgrade(data)
            else:
                self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_in_order()
        self._advance()
        if self._is_in_head and self._deadline is None:
            self._deadline = self._loop.time() + self._limits.head_seconds

    def _parse_after_upgrade(self, data: bytes) -> None:
        """Parse what follows the head of a request to upgrade, where the parser stops.

        No other protocol is offered, so such a request is answered over HTTP/1.1 (RFC 9110
        section 7.8).  The parser takes its body for another protocol: it is read here, or
        it would pass for the next request.
        """
        try:
            while data:
                if (count := self._upgrade_body_bytes) == 0:
                    self._parser.feed_data(data)
                    return
                piece, data = data[:count], data[count:]
                self.on_body(piece)
                self._upgrade_body_bytes -= len(piece)
                if self._upgrade_body_bytes == 0:
                    self.on_message_complete()
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_in_order()

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None
        self._advance()

    def check_deadline(self, now: float) -> None:
        """Close a connection whose head is late or that has been idle for too long.

        The server calls this for all connections once a second: a timer for each request
        would cost more than the parsing.
        """
        if self._deadline is None or now < self._deadline or self._active is not None:
            return
        self._deadline = None
        if self._is_in_head or not self._has_answered:
            self._refuse(_slow_head(self._limits))
        else:
            self._transport.close()

    def shutdown(self) -> None:
        """Close as soon as the request that is being answered has its response."""
        self._is_ending = True
        if self._active is None:
            self._transport.close()
            if self._transport.get_extra_info("sslcontext") is not None:
                # An idle client may read, and answer the end of TLS, only with its next request.
                self._loop.call_later(_TLS_END_SECONDS, self._transport.abort)

    def abort(self) -> None:
        self._transport.abort()

    # --- callbacks of the parser -----------------------------------------------------

    def on_url(self, url: bytes) -> None:
        if not self._is_in_head:
            self._is_in_head, self._headers, self._head_bytes = True, [], 0
            # From here on the limit of the head holds instead of that of an idle connection.
            self._deadline = None
        self._url += url
        if len(self._url) > self._limits.url_bytes_max:
            self._problem = _long_url(self._limits)
            raise _Refused

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        # Trailers count against the same limit, and are ignored.
        if self._is_in_head:
            self._headers.append((name.lower(), value))
        limits = self._limits
        if self._head_bytes > limits.head_bytes_max or len(self._headers) > limits.headers_max:
            self._problem = _long_head(limits)
            raise _Refused

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._deadline = None
        request = HttpRequest(self._client, self._headers)
        parser = self._parser
        request.method = parser.get_method().decode("ascii")
        request.version = parser.get_http_version()
        request.keep_alive = request.version != "1.0" and parser.should_keep_alive()
        url, self._url = self._url, b""
        if not url.startswith(b"/") or b"?" in url or b"#" in url:
            parsed = httptools.parse_url(url)
            if parsed.path is None:  # such as the target of CONNECT
                raise _Refused
            url, request.query_string = parsed.path, parsed.query or b""
        request.raw_path = url
        path = url.decode("ascii")
        request.path = unquote(path) if "%" in path else path
        for name, value in self._headers:
            if name == b"expect" and value.lower() == b"100-continue":
                request.expects_continue = True
        if parser.should_upgrade():
            self._upgrade_body_bytes = _declared_bytes(self._headers)
        self._incoming = request
        self._queue.append(request)

    def on_body(self, body: bytes) -> None:
        """Add a piece of the body, unless its request has been answered already."""
        request = self._incoming
        if request is None or request.is_answered:
            return
        request.body += body
        if request.on_body is not None:
            request.on_body()

    def on_message_complete(self) -> None:
        if self._upgrade_body_bytes:
            return
        request, self._incoming = self._incoming, None
        if request is not None:
            request.is_whole = True
            self._saw_last = not request.keep_alive
            if request.on_body is not None:
                request.on_body()

    # --- answering in order ----------------------------------------------------------

    def _advance(self) -> None:
        """Answer the requests of the queue until one of them has to wait."""
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            # A client that does not read its responses gets no further ones.
            while (
                self._active is None
                and self._queue
                and not self._is_writing_paused
                and not self._transport.is_closing()
            ):
                request = self._active = self._queue.popleft()
                direct = self._direct if request.is_whole else None
                if direct is None or not direct(request, self.respond):
                    self._start_app(request)
        except Exception as error:  # a bug of the direct handler costs one connection
            server_log().error("direct_handler_failed", exc_info=error)
            self._refuse(internal_problem())
        finally:
            self._is_advancing = False
        if self._active is None and self._refusal is not None:
            self._refuse(self._refusal)
        if self._queue or self._incoming is not None or self._is_reading_paused:
            self.update_reading()

    def _start_app(self, request: HttpRequest) -> None:
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.version,
            "server": self._local,
            "client": request.client,
            "scheme": "https" if self._transport.get_extra_info("sslcontext") else "http",
            "method": request.method,
            "root_path": "",
            "path": request.path,
            "raw_path": request.raw_path,
            "query_string": request.query_string,
            "headers": request.headers,
            "extensions": {"tls": {"client_cert_name": self._certificate}},
        }
        task = self._loop.create_task(AsgiCycle(self, request).run(self._app, scope))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def respond(
        self, request: HttpRequest, status: int, headers: Sequence[Header], body: bytes
    ) -> None:
        """Send a whole response in one write.

        One write, because a process that is killed between head and body would leave half a
        response with its client, which no load balancer can ask for again.
        """
        if self._active is not request:
            return
        is_last = not request.keep_alive or self._is_ending or _CLOSE in headers
        self._transport.write(self.head(status, headers, is_last=is_last) + body)
        self.finish(request, is_last=is_last)

    def is_last(self, request: HttpRequest, headers: Sequence[Header]) -> bool:
        return not request.keep_alive or self._is_ending or _CLOSE in headers

    def head(self, status: int, headers: Sequence[Header], *, is_last: bool) -> bytes:
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        lines = [line, b"%b: %b\r\n" % self._state.date]
        for header in headers:
            lines.append(b"%b: %b\r\n" % header)  # noqa: PERF401  (a call less a request)
        if is_last and _CLOSE not in headers:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def finish(self, request: HttpRequest, *, is_last: bool) -> None:
        """End a request whose response is complete, and turn to the next."""
        request.has_begun = request.is_answered = True
        if self._active is not request:
            return
        self._active = None
        if is_last:
            self._transport.close()
            return
        self._has_answered = True
        if not self._queue and not self._is_in_head:
            self._deadline = self._loop.time() + self._limits.keep_alive_seconds
        if not self._is_advancing:
            self._advance()

    def update_reading(self) -> None:
        """Read no further while requests or a body wait; the kernel then slows the client."""
        incoming = self._incoming
        must_pause = bool(self._queue) or self._is_writing_paused
        if incoming is not None and not incoming.is_answered:
            must_pause |= len(incoming.body) > self._limits.buffer_bytes_max
        if must_pause != self._is_reading_paused and not self._transport.is_closing():
            self._is_reading_paused = must_pause
            if must_pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # --- refusals --------------------------------------------------------------------

    def _refuse_in_order(self) -> None:
        """Refuse what cannot be parsed, after the responses of the requests before it."""
        if self._saw_last:
            return
        broken, self._incoming = self._incoming, None
        if broken is not None and broken in self._queue:
            self._queue.remove(broken)
        self._refusal = self._problem
        if broken is not None and broken is self._active:
            # Its body is broken, so the application can never read it to the end.
            self._refuse(self._refusal)

    def _refuse(self, problem: Problem) -> None:
        """Send a problem document, unless a response has begun, and close."""
        if self._transport.is_closing():
            return
        if self._active is None or not self._active.has_begun:
            body = problem.render(_NO_INSTANCE)
            headers: list[Header] = [
                (b"content-type", PROBLEM_JSON.encode()),
                (b"content-length", b"%d" % len(body)),
                *(
                    (name.lower().encode(), value.encode())
                    for name, value in problem.headers.items()
                ),
            ]
            self._transport.write(self.head(problem.status, headers, is_last=True) + body)
        self._transport.close()

    # --- for the ASGI cycle ----------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def write_now(self, data: bytes) -> None:
        """Write the end of a response, unless the client has disconnected."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def write(self, data: bytes) -> None:
        """Write a part of a response, and wait while the client reads more slowly."""
        self.write_now(data)
        while self._is_writing_paused and not self._transport.is_closing():
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def fail(self, request: HttpRequest, problem: Problem) -> None:
        if self._active is request:
            self._refuse(problem)


class AsgiCycle:
    """One request and its response, as an ASGI application sees them."""

    def __init__(self, connection: HttpProtocol, request: HttpRequest) -> None:
        self._connection = connection
        self._request = request
        self._has_news = asyncio.Event()
        self._was_body_read = False
        self._start: tuple[int, list[Header]] | None = None
        self._is_last = self._is_chunked = self._is_bodiless = False
        self._left_bytes: int | None = None
        request.on_body = self._has_news.set

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Call the application, and close the connection if it leaves no whole response."""
        request, connection = self._request, self._connection
        try:
            await app(scope, self.receive, self.send)
        except Exception as error:
            server_log().error("application_failed", path=request.path[:200], exc_info=error)
        finally:
            if not request.is_answered:
                connection.fail(request, internal_problem())

    async def receive(self) -> Message:
        request, connection = self._request, self._connection
        if request.expects_continue and not request.has_begun and not request.is_whole:
            request.expects_continue = False
            await connection.write(_CONTINUE)
        while not (request.is_answered or connection.is_closing):
            if request.body or (request.is_whole and not self._was_body_read):
                body = bytes(request.body)
                request.body.clear()
                self._was_body_read = request.is_whole
                connection.update_reading()
                return {"type": "http.request", "body": body, "more_body": not request.is_whole}
            self._has_news.clear()
            await self._has_news.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        request, connection = self._request, self._connection
        if message["type"] == "http.response.start" and self._start is None:
            # The head waits for the first part of the body, as ASGI demands, so that a
            # response of one part leaves in one write.
            self._start = (message["status"], _checked(message.get("headers", ())))
            return
        is_expected = self._start is not None and not request.is_answered
        if message["type"] != "http.response.body" or not is_expected:
            raise RuntimeError(f"unexpected ASGI message {message['type']}")
        body, more_body = message.get("body", b""), message.get("more_body", False)
        head = b"" if request.has_begun else self._head()
        request.has_begun = True
        data = head + self._framed(body, more_body=more_body)
        if more_body:
            await connection.write(data)
            return
        connection.write_now(data)
        connection.finish(request, is_last=self._is_last)
        self._has_news.set()

    def _head(self) -> bytes:
        """Choose how the body is delimited, and make the head."""
        assert self._start is not None
        status, headers = self._start
        request = self._request
        length = dict(reversed(headers)).get(b"content-length")
        if request.method == "HEAD" or status in _BODILESS_STATUSES:
            self._is_bodiless = True
        elif length is not None:
            self._left_bytes = int(length)
        elif request.version == "1.0":
            request.keep_alive = False  # the end of the connection ends the body
        else:
            self._is_chunked = True
            if (b"transfer-encoding", b"chunked") not in headers:
                headers.append((b"transfer-encoding", b"chunked"))
        self._is_last = self._connection.is_last(request, headers)
        return self._connection.head(status, headers, is_last=self._is_last)

    def _framed(self, body: bytes, *, more_body: bool) -> bytes:
        if self._is_bodiless:
            return b""
        if self._is_chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more_body else chunk + b"0\r\n\r\n"
        if self._left_bytes is not None:
            self._left_bytes -= len(body)
            if self._left_bytes < 0 or (self._left_bytes and not more_body):
                raise RuntimeError("the body does not have the length of Content-Length")
        return body


def _checked(headers: Iterable[Header]) -> list[Header]:
    checked = []
    for name, value in headers:
        if not name or _BAD_NAME.search(name) or _BAD_VALUE.search(value):
            raise RuntimeError(f"malformed response header {name!r}")
        checked.append((name.lower(), value))
    return checked


def _declared_bytes(headers: Sequence[Header]) -> int:
    """Length of the body of a request to upgrade, which must declare it."""
    found = dict(headers)
    if b"transfer-encoding" in found:
        raise _Refused
    return int(found.get(b"content-length", b"0"))


def _address(found: object) -> Address | None:
    """The host and port of a socket; None for one that has none or is closed already."""
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None


_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


def _full(limits: HttpLimits) -> Problem:
    detail = f"the server has {limits.connections_max} connections, which is its limit"
    return Problem(503, "overloaded", detail, headers={"Retry-After": "1"})


def _long_url(limits: HttpLimits) -> Problem:
    return Problem(414, "too_large", f"the URL must be at most {limits.url_bytes_max} bytes")


def _long_head(limits: HttpLimits) -> Problem:
    return Problem(
        431,
        "too_large",
        f"a request has at most {limits.headers_max} headers, "
        f"of {limits.head_bytes_max} bytes together",
    )


def _slow_head(limits: HttpLimits) -> Problem:
    detail = f"the headers did not arrive within {limits.head_seconds:g} seconds"
    return Problem(408, "request_timeout", detail)
