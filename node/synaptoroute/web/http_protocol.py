"""HTTP/1.1 connections, with limits, in front of an ASGI application.

``HttpProtocol`` has requests parsed by ``http_parser`` and answers them in order.  A request
whose body has arrived whole is offered to the direct handler first, which answers without
tasks, events and ASGI messages.  Every other request runs as an ordinary ASGI 3 cycle:
streamed bodies and responses, disconnect events, flow control in both directions.

A request that breaks a limit gets a problem document, and its connection is closed.  At
every moment a connection either has a request that the application is answering, or a timer:
for the next head, for the body, for a client that does not read, for the end.  An offer to
upgrade is ignored (RFC 9110 section 7.8).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final, Protocol, TypeAlias, cast

from starlette.types import ASGIApp, Scope

from synaptoroute.web.asgi_cycle import AsgiCycle
from synaptoroute.web.client_address import BadProxyHeader, read_proxy_header
from synaptoroute.web.connections import HttpLimits, ServerState
from synaptoroute.web.dialects import render_error
from synaptoroute.web.http_parser import (
    Address,
    Header,
    HttpRequest,
    RequestParser,
    RequestRefused,
)
from synaptoroute.web.logs import server_log
from synaptoroute.web.prefixes import PREFIX, forwarded_prefix, remove_root_path
from synaptoroute.web.problems import (
    MalformedRequest,
    Problem,
    RequestTimeout,
    internal_problem,
    shutting_down,
)

PIPELINED_MAX: Final = 32
"""Requests of one connection that are parsed before others get their turn."""
DISCARDED_BYTES_MAX: Final = 16_777_216
"""Rest of a body that is read after its response, so that the connection can go on.

As much as a body may have by default: a client whose request was valid but for its key, say,
keeps its connection.  What is longer was too long, or is an import.
"""
_CLOSE: Final = (b"connection", b"close")
_TLS_END_SECONDS: Final = 1.0
_NO_INSTANCE: Final = "urn:synaptoroute:request:none"

Respond: TypeAlias = Callable[[HttpRequest, int, Sequence[Header], bytes], None]


class DirectHandler(Protocol):
    """Answers whole requests between parser and socket."""

    def __call__(self, request: HttpRequest, respond: Respond) -> bool:
        """Answer a request, now or later, by calling ``respond`` once.

        Returns:
            False to leave the request to the application; nothing has happened then.
        """
        ...


class HttpProtocol(asyncio.Protocol):
    """One connection; everything runs on the event loop.

    Requests are parsed into a queue, and answered one at a time in the order in which they
    came.  ``_incoming`` is being parsed, ``_active`` is being answered; they are the same
    request while its body arrives.
    """

    def __init__(self, app: ASGIApp, state: ServerState, direct: DirectHandler | None) -> None:
        self._app = app
        self._state = state
        self._limits = state.limits
        self._direct = direct
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser(self, state.limits)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._client: Address | None = None
        self._is_secure = False
        self._certificate: str | None = None  # name in the client's verified certificate
        self._is_proxied = False  # by a trusted proxy, whose headers name the client
        self._proxy_header: bytes | None = None  # what has arrived of it; None if none is due
        self._forwarded = ""  # address for which the active request is counted
        self._incoming: HttpRequest | None = None
        self._active: HttpRequest | None = None
        self._queue: deque[HttpRequest] = deque()
        self._refusal: Problem | None = None
        self._is_advancing = False
        self._is_ending = self._saw_last = self._has_answered = self._is_lingering = False
        self._is_reading_paused = False
        self._is_writing_paused = False
        self._drained: asyncio.Future[None] | None = None
        # Times of the loop, in seconds.
        self._waits_at = 0.0  # when the present wait for a head, or for the end, began
        self._body_at = self._piece_at = self._paused_at = 0.0
        self._body_bytes = self._discarded_bytes = 0
        self._written_bytes = 0
        self._sent_mark: tuple[float, int] | None = None  # time, and bytes sent until then

    # --- the connection --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._client = _address(transport.get_extra_info("peername"))
        self._is_secure = transport.get_extra_info("sslcontext") is not None
        self._waits_at = self._loop.time()
        state = self._state
        self._is_proxied = self._host in state.proxies
        if self._is_proxied and state.proxies.proxy_protocol:
            self._proxy_header = b""
        problem = state.add(self, self._host)
        if problem is not None:
            if state.may_answer_refused:
                self._write_problem(problem)
            # At once: under a flood, connections that end politely would fill the process.
            self._transport.close()

    def secure(self, transport: asyncio.Transport, certificate: str | None) -> None:
        """Continue on the encrypted transport after the TLS handshake."""
        self._transport = transport
        self._is_secure = True
        self._certificate = certificate

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, and cancel the request that is being answered."""
        self._state.remove(self, self._host)
        self._release_forwarded()
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
        if self._refusal is not None or self._saw_last or self._is_lingering:
            self._discard(data)
            return
        if self._transport.is_closing():
            return
        if self._proxy_header is not None:
            data = self._read_proxy_header(data)
        was_in_head = self._parser.is_in_head
        try:
            self._parser.feed(data)
        except RequestRefused as refused:
            self._refuse_in_order(refused.problem)
        if self._parser.is_in_head and not was_in_head:
            # From here on the limit of a head holds instead of that of an idle connection.
            self._waits_at = self._loop.time()
        self._advance()
        if self._incoming is not None:
            self._piece_at = self._loop.time()

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None
        self._advance()

    def shutdown(self) -> None:
        """Close as soon as the request that is being answered has its response."""
        self._is_ending = True
        if self._active is None:
            self._transport.close()
            if self._is_secure:
                # An idle client may read, and answer the end of TLS, only with its next request.
                self._loop.call_later(_TLS_END_SECONDS, self._transport.abort)

    def give_up(self) -> None:
        """Refuse the request that is being answered, because the process ends."""
        self._is_ending = True
        if self._active is not None:
            self._refuse(shutting_down(self._active.method))

    def abort(self) -> None:
        self._transport.abort()

    # --- time ------------------------------------------------------------------------

    def check_deadline(self, now: float) -> None:
        """Close a connection whose client is late.

        The server calls this for all connections once a second: a timer for each request
        would cost more than the parsing.
        """
        limits = self._limits
        if self._is_client_deaf(now):
            self._transport.abort()
        elif self._transport.is_closing() or self._is_reading_paused:
            pass
        elif self._is_lingering:
            if now - self._waits_at >= limits.linger_seconds:
                self._transport.abort()
        elif (incoming := self._incoming) is not None:
            self._check_body(incoming, now)
        elif self._active is None:
            if self._parser.is_in_head or not self._has_answered:
                if now - self._waits_at >= limits.head_seconds:
                    self._refuse(_slow_head(limits))
            elif now - self._waits_at >= limits.keep_alive_seconds:
                self._transport.close()

    def _check_body(self, incoming: HttpRequest, now: float) -> None:
        if incoming.expects_continue:  # the client waits for this side
            self._body_at = self._piece_at = now
            return
        limits = self._limits
        whole_seconds = limits.body_seconds + self._body_bytes / limits.body_bytes_per_second_min
        is_paused = now - self._piece_at >= limits.body_pause_seconds
        if is_paused or now - self._body_at >= whole_seconds:
            self._refuse(_slow_body(limits, is_paused=is_paused))

    def _is_client_deaf(self, now: float) -> bool:
        """Whether the client reads too little of what waits for it."""
        unsent_bytes = self._transport.get_write_buffer_size()
        if not unsent_bytes:
            self._sent_mark = None
            return False
        sent_bytes, limits = self._written_bytes - unsent_bytes, self._limits
        if self._sent_mark is None:
            self._sent_mark = now, sent_bytes
        elif now - self._sent_mark[0] >= limits.write_seconds:
            if sent_bytes - self._sent_mark[1] < min(limits.write_bytes_min, unsent_bytes):
                return True
            self._sent_mark = now, sent_bytes
        return False

    @property
    def waits_since(self) -> tuple[bool, float] | None:
        """Whether it has answered a request, and when its wait for one began.

        None while a request is being sent or answered.
        """
        if self._active is not None or self._queue or self._incoming is not None:
            return None
        return self._has_answered and not self._is_lingering, self._waits_at

    def evict(self) -> None:
        """Close at once, to make room for another connection."""
        self._state.remove(self, self._host)
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    # --- for whom --------------------------------------------------------------------

    @property
    def _host(self) -> str:
        return self._client[0] if self._client is not None else ""

    def _read_proxy_header(self, data: bytes) -> bytes:
        """Read the PROXY protocol header at the start; return what follows it."""
        assert self._proxy_header is not None
        data = self._proxy_header + data
        try:
            found = read_proxy_header(data)
        except BadProxyHeader:
            self._proxy_header = None
            self._refuse_in_order(_bad_proxy_header())
            return b""
        if found is None:
            self._proxy_header = data
            return b""
        self._proxy_header = None
        length, client = found
        if client is not None:
            self._client = client
            self._is_proxied = self._host in self._state.proxies
            if not self._is_proxied:
                problem = self._state.bind(self, self._host)
                if problem is not None:
                    self._refuse_in_order(problem)
                    return b""
        return data[length:]

    def _count_forwarded(self, request: HttpRequest) -> Problem | None:
        """Count the request for the client that the proxy names."""
        if not self._is_proxied or request.client is None or request.client == self._client:
            return None
        problem = self._state.begin_forwarded(request.client[0])
        if problem is None:
            self._forwarded = request.client[0]
        return problem

    def _release_forwarded(self) -> None:
        if self._forwarded:
            self._state.end_forwarded(self._forwarded)
            self._forwarded = ""

    # --- what the parser finds -------------------------------------------------------

    def on_request(self, request: HttpRequest) -> None:
        request.client, request.is_secure = self._client, self._is_secure
        if self._state.root_path:
            remove_root_path(request, self._state.root_path)
        if self._is_proxied and self._client is not None:
            proxies = self._state.proxies
            request.client, is_secure = proxies.client_of(self._client, request.headers)
            request.is_secure = self._is_secure if is_secure is None else is_secure
        self._queue.append(request)
        if request.is_whole:
            self._saw_last = not request.keep_alive
            # After the last request nothing is parsed; after many, others get their turn.
            if self._saw_last or len(self._queue) >= PIPELINED_MAX:
                self._parser.pause()
        else:
            self._incoming = request
            self._body_bytes, self._body_at = 0, self._loop.time()

    def on_body(self, piece: bytes) -> None:
        """Add a piece of the body, unless its request has been answered already."""
        request = self._incoming
        if request is None:
            return
        self._body_bytes += len(piece)
        # A client may send its body without waiting for 100 Continue.
        request.expects_continue = False
        if request.is_answered:
            return
        request.body += piece
        if request.on_body is not None:
            request.on_body()

    def on_end(self) -> None:
        request, self._incoming = self._incoming, None
        if request is not None:
            request.is_whole = True
            self._saw_last = not request.keep_alive
            if request.on_body is not None:
                request.on_body()
            if self._saw_last or len(self._queue) >= PIPELINED_MAX:
                self._parser.pause()

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
                and not self._is_lingering
                and not self._transport.is_closing()
            ):
                request = self._active = self._queue.popleft()
                if self._is_proxied and (problem := self._count_forwarded(request)) is not None:
                    self._respond_problem(request, problem)
                    continue
                direct = self._direct if request.is_whole else None
                if direct is None or not direct(request, self.respond):
                    self._start_app(request)
        except Exception as error:  # a bug of the direct handler costs one connection
            server_log().error("direct_handler_failed", exc_info=error)
            self._refuse(internal_problem())
        finally:
            self._is_advancing = False
        if self._active is None and not self._queue:
            if self._parser.is_paused and not self._saw_last:
                self._loop.call_soon(self._resume_parsing)
            elif self._refusal is not None:
                self._refuse(self._refusal)
        must_look = self._is_reading_paused or self._parser.is_paused
        if must_look or self._queue or self._incoming is not None:
            self.update_reading()

    def _resume_parsing(self) -> None:
        if self._parser.is_paused and not self._queue and not self.is_closing:
            try:
                self._parser.resume()
            except RequestRefused as refused:
                self._refuse_in_order(refused.problem)
            self._advance()

    def _start_app(self, request: HttpRequest) -> None:
        tls = {"tls": {"client_cert_name": self._certificate}}
        extensions = tls if self._is_secure else {}
        prefix = forwarded_prefix(request.headers) if self._is_proxied else ""
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.version,
            "server": _address(self._transport.get_extra_info("sockname")),
            "client": request.client,
            "scheme": "https" if request.is_secure else "http",
            "method": request.method,
            "root_path": "",
            PREFIX: prefix or self._state.root_path,
            "path": request.path,
            "raw_path": request.raw_path,
            "query_string": request.query_string,
            "headers": request.headers,
            "extensions": extensions,
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
        if self._active is not request or self._is_lingering or self._transport.is_closing():
            return
        is_last = not request.keep_alive or self._is_ending or _CLOSE in headers
        if not is_last and not request.is_whole:
            is_last = self.is_last(request, headers)
        data = self.head(status, headers, is_last=is_last) + body
        self._written_bytes += len(data)
        self._transport.write(data)
        self.finish(request, is_last=is_last)

    def is_last(self, request: HttpRequest, headers: Sequence[Header]) -> bool:
        """Whether the connection closes after the response."""
        if not request.keep_alive or self._is_ending or _CLOSE in headers:
            return True
        # A client that still waits for 100 Continue may send the body or leave it out.
        return not request.is_whole and (
            request.expects_continue
            or request.declared_bytes is None
            or self._parser.left_bytes > DISCARDED_BYTES_MAX
        )

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
        if self._forwarded:
            self._release_forwarded()
        if is_last:
            self._close(politely=not request.is_whole)
            return
        request.body.clear()
        self._has_answered = True
        self._waits_at = self._loop.time()
        if not self._is_advancing:
            self._advance()

    def update_reading(self) -> None:
        """Read no further while requests or a body wait; the kernel then slows the client."""
        incoming = self._incoming
        must_pause = bool(self._queue) or self._is_writing_paused
        must_pause |= self._parser.is_paused and not self._saw_last
        if incoming is not None and not incoming.is_answered:
            must_pause |= len(incoming.body) > self._limits.buffer_bytes_max
        if must_pause == self._is_reading_paused or self.is_closing:
            return
        self._is_reading_paused = must_pause
        now = self._loop.time()
        if must_pause:
            self._paused_at = now
            self._transport.pause_reading()
        else:
            # The time of the body is the client's; this pause was not.
            self._body_at += now - self._paused_at
            self._piece_at = now
            self._transport.resume_reading()

    # --- refusals and the end --------------------------------------------------------

    def _refuse_in_order(self, problem: Problem) -> None:
        """Refuse what cannot be parsed, after the responses of the requests before it."""
        if self._saw_last:
            return
        broken, self._incoming = self._incoming, None
        if broken is not None and broken in self._queue:
            self._queue.remove(broken)
        self._refusal = problem
        if broken is not None and broken is self._active:
            # Its body is broken, so the application can never read it to the end.
            self._refuse(problem)

    def _refuse(self, problem: Problem) -> None:
        """Send a problem document, unless a response has begun, and close."""
        if self.is_closing:
            return
        has_begun = self._active is not None and self._active.has_begun
        if not has_begun:
            self._write_problem(problem)
        self._close(politely=not has_begun)
        # The application learns that nobody waits for its response any more.
        if (active := self._active) is not None and active.on_body is not None:
            active.on_body()

    def _write_problem(self, problem: Problem) -> None:
        request = self._active or self._incoming
        headers, body = _render(problem, request.path if request is not None else "")
        data = self.head(problem.status, headers, is_last=True) + body
        self._written_bytes += len(data)
        self._transport.write(data)

    def _respond_problem(self, request: HttpRequest, problem: Problem) -> None:
        self.respond(request, problem.status, *_render(problem, request.path))

    def _close(self, *, politely: bool) -> None:
        """Close; politely where the client may be sending still.

        A socket that is closed with bytes unread resets the connection, and the client
        loses the response.  So this side only stops sending, and reads on for a while
        (RFC 9112 section 9.6).
        """
        if not politely:
            self._transport.close()
            return
        self._is_lingering = True
        self._incoming = None
        self._waits_at = self._loop.time()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def _discard(self, data: bytes) -> None:
        self._discarded_bytes += len(data)
        if self._is_lingering and self._discarded_bytes > self._limits.linger_bytes_max:
            self._transport.abort()

    # --- for the ASGI cycle ----------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        return self._is_lingering or self._transport.is_closing()

    def write_now(self, data: bytes) -> None:
        """Write the end of a response, unless the client has disconnected."""
        if not self.is_closing:
            self._written_bytes += len(data)
            self._transport.write(data)

    async def write(self, data: bytes) -> None:
        """Write a part of a response, and wait while the client reads more slowly."""
        self.write_now(data)
        while self._is_writing_paused and not self.is_closing:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def fail(self, request: HttpRequest, problem: Problem) -> None:
        if self._active is request:
            self._refuse(problem)


def _render(problem: Problem, path: str) -> tuple[list[Header], bytes]:
    kind, body = render_error(problem, path, _NO_INSTANCE)
    headers: list[Header] = [
        (b"content-type", kind.encode()),
        (b"content-length", b"%d" % len(body)),
        *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
    ]
    return headers, body


def _address(found: object) -> Address | None:
    """The host and port of a socket; None for one that has none or is closed already."""
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None


_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


def _slow_head(limits: HttpLimits) -> Problem:
    detail = f"the headers did not arrive within {limits.head_seconds:g} seconds"
    return Problem(408, RequestTimeout.code, detail)


def _slow_body(limits: HttpLimits, *, is_paused: bool) -> Problem:
    if is_paused:
        detail = f"the body paused for more than {limits.body_pause_seconds:g} seconds"
    else:
        detail = (
            f"the body did not arrive within {limits.body_seconds:g} seconds and a second for "
            f"each {limits.body_bytes_per_second_min} bytes"
        )
    return Problem(408, RequestTimeout.code, detail)


def _bad_proxy_header() -> Problem:
    return Problem(400, MalformedRequest.code, "the PROXY protocol header is malformed")
