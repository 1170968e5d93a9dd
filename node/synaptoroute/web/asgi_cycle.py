"""One request and its response, as an ASGI 3 application sees them.

Source: the ASGI specification 3.0, https://asgi.readthedocs.io/en/latest/specs/www.html.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Scope

from synaptoroute.web.http_parser import Header, HttpRequest
from synaptoroute.web.logs import server_log
from synaptoroute.web.problems import Problem, internal_problem, shutting_down

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_BAD_NAME: Final = re.compile(rb"[^!#$%&'*+.^_`|~0-9A-Za-z-]")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BODILESS_STATUSES: Final = frozenset({204, 304})


class ResponseWriter(Protocol):
    """The connection of a request."""

    @property
    def is_closing(self) -> bool: ...

    def is_last(self, request: HttpRequest, headers: Sequence[Header]) -> bool: ...

    def head(self, status: int, headers: Sequence[Header], *, is_last: bool) -> bytes: ...

    def write_now(self, data: bytes) -> None: ...

    async def write(self, data: bytes) -> None: ...

    def finish(self, request: HttpRequest, *, is_last: bool) -> None: ...

    def fail(self, request: HttpRequest, problem: Problem) -> None: ...

    def update_reading(self) -> None: ...


class AsgiCycle:
    """One request and its response, as an ASGI application sees them."""

    def __init__(self, connection: ResponseWriter, request: HttpRequest) -> None:
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
        except asyncio.CancelledError:
            connection.fail(request, shutting_down(request.method))
            raise
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
