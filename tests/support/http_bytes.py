"""One connection without sockets: bytes in, bytes out.

``exchange`` feeds bytes to the protocol of node and coordinator through a transport that
only remembers, and returns what would have been sent.  It needs no server, so a test or a
fuzzer may call it thousands of times a second.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, cast

from starlette.types import Receive, Scope, Send

from synaptoroute.web.client_address import TrustedProxies
from synaptoroute.web.connections import HttpLimits, ServerState
from synaptoroute.web.http_parser import HttpRequest, ParserLimits, RequestParser, RequestRefused
from synaptoroute.web.http_protocol import DirectHandler, HttpProtocol
from synaptoroute.web.problems import Problem

SETTLE_TURNS_MAX = 10_000
_VOLATILE = re.compile(rb"(date: )[^\r]*|(\"incident\":\")[0-9a-f]+")


class MemoryTransport(asyncio.Transport):
    """A transport that keeps what is written to it.

    Attributes:
        sent: What was written.
        is_closed: Whether the connection was closed or aborted.
        has_ended: Whether this side has stopped sending.
    """

    def __init__(self, peer: tuple[str, int]) -> None:
        super().__init__({"peername": peer, "sockname": ("127.0.0.1", 8080)})
        self.sent = bytearray()
        self.is_closed = self.has_ended = self.is_reading_paused = False
        self.unsent_bytes = 0

    def write(self, data: Any) -> None:
        assert not self.is_closed, "nothing is written after the end"
        assert not self.has_ended, "nothing is written after the end"
        self.sent += data

    def write_eof(self) -> None:
        self.has_ended = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with the path and the whole body."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    headers = [
        (b"x-saw", f"{scope['method']} {scope['path']}".encode().hex().encode()),
        (b"content-length", b"%d" % len(body)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(body)})


class MemoryConnection:
    """A connection of the protocol to ``echo``, or to another application."""

    def __init__(
        self,
        app: Any = echo,
        limits: HttpLimits | None = None,
        direct: DirectHandler | None = None,
        peer: tuple[str, int] = ("192.0.2.1", 50_000),
        proxies: TrustedProxies | None = None,
        state: ServerState | None = None,
    ) -> None:
        self.state = state or ServerState(limits or HttpLimits(), set(), set(), proxies)
        self.transport = MemoryTransport(peer)
        self.protocol = HttpProtocol(app, self.state, direct)
        self.protocol.connection_made(self.transport)

    async def feed(self, data: bytes) -> None:
        """Deliver bytes, as soon as the protocol reads, and wait until it has dealt with them."""
        await self.settle()
        if not self.transport.is_closed:
            self.protocol.data_received(data)
        await self.settle()

    async def settle(self) -> None:
        """Wait until no task of the connection can go on by itself."""
        for _ in range(SETTLE_TURNS_MAX):
            await asyncio.sleep(0)
            is_idle = not self.transport.is_reading_paused or self.transport.is_closed
            if is_idle and all(_waits(task) for task in self.state.tasks):
                return

    async def end(self) -> bytes:
        """Hang up; return what was sent."""
        self.protocol.connection_lost(None)
        for _ in range(10):
            await asyncio.sleep(0)
        for task in list(self.state.tasks):
            task.cancel()
        await asyncio.gather(*self.state.tasks, return_exceptions=True)
        return bytes(self.transport.sent)


def _waits(task: asyncio.Task[None]) -> bool:
    waiter = cast(Any, task)._fut_waiter
    return waiter is not None and not waiter.done()


async def exchange(pieces: Sequence[bytes], **settings: Any) -> tuple[bytes, bool]:
    """Send pieces over one connection.

    Returns:
        All that was sent back, with dates and incidents blanked, and whether the connection
        was ended by the server.
    """
    connection = MemoryConnection(**settings)
    for piece in pieces:
        await connection.feed(piece)
    is_ended = connection.transport.is_closed or connection.transport.has_ended
    sent = await connection.end()
    return _VOLATILE.sub(rb"\1\2", sent), is_ended


def exchange_bytes(data: bytes, cut: int | None = None) -> tuple[bytes, bool]:
    """Send bytes, in one piece or in two; for fuzzers."""
    pieces = [data] if cut is None else [data[:cut], data[cut:]]
    return asyncio.run(exchange([piece for piece in pieces if piece]))


class Parsed:
    """What the parser alone finds in bytes."""

    def __init__(self, limits: ParserLimits | None = None) -> None:
        self.requests: list[HttpRequest] = []
        self.problem: Problem | None = None
        self._parser = RequestParser(self, limits or ParserLimits())

    def feed(self, data: bytes) -> None:
        if self.problem is None:
            try:
                self._parser.feed(data)
            except RequestRefused as refused:
                self.problem = refused.problem

    def on_request(self, request: HttpRequest) -> None:
        self.requests.append(request)

    def on_body(self, piece: bytes) -> None:
        self.requests[-1].body += piece

    def on_end(self) -> None:
        self.requests[-1].is_whole = True

    def outcome(self) -> tuple[Any, ...]:
        """Everything that must not depend on how the bytes were cut."""
        found = [
            (
                each.method,
                each.raw_path,
                each.query_string,
                each.version,
                each.headers,
                each.keep_alive,
                bytes(each.body),
                each.is_whole,
            )
            for each in self.requests
        ]
        # The body of a refused request may be known up to another place.
        if self.problem is not None and found and not found[-1][-1]:
            found[-1] = (*found[-1][:-2], b"", False)
        return found, self.problem


def parse(pieces: Sequence[bytes], limits: ParserLimits | None = None) -> tuple[Any, ...]:
    """Parse pieces of one connection; for fuzzers."""
    parsed = Parsed(limits)
    for piece in pieces:
        parsed.feed(piece)
    return parsed.outcome()
