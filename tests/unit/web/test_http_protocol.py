"""HTTP/1.1 connections: order, limits, upgrades, flow control and shutdown."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from starlette.types import Receive, Scope, Send

from synaptoroute.config import NodeConfig
from synaptoroute.web.connections import HttpLimits
from synaptoroute.web.http_protocol import DISCARDED_BYTES_MAX
from synaptoroute.web.http_server import HttpServer, bind

pytestmark = pytest.mark.unit

GET = b"GET /%b HTTP/1.1\r\nHost: n\r\n\r\n"


class App:
    """An application that answers with what it was sent, or as its path says."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.disconnected = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/fail":
            raise ZeroDivisionError
        if path == "/wait":
            waiting = asyncio.ensure_future(self._wait_disconnect(receive))
            await self.gate.wait()
            waiting.cancel()
        body = bytearray()
        more_body = path != "/wait"
        while more_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected.set()
                return
            body += message["body"]
            more_body = message["more_body"]
        headers = [(b"x-path", path.encode())]
        if path == "/bad-header":
            headers.append((b"x-bad", b"a\r\nb"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if path == "/stream":
            for _ in range(3):
                await send({"type": "http.response.body", "body": b"part", "more_body": True})
        if path == "/large":
            for _ in range(1_000):
                await send({"type": "http.response.body", "body": bytes(65_536), "more_body": True})
        await send({"type": "http.response.body", "body": bytes(body)})

    async def _wait_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.disconnected.set()


class Client:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def exchange(self, *parts: bytes) -> bytes:
        """Send bytes in parts, and read until the server closes or is silent."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0.01)
        return await self.read()

    async def read(self, silence_seconds: float = 0.3) -> bytes:
        """Read until the server closes or is silent."""
        received = bytearray()
        try:
            while piece := await asyncio.wait_for(self.reader.read(65_536), silence_seconds):
                received += piece
        except TimeoutError:
            pass
        return bytes(received)

    async def is_closed(self) -> bool:
        """Whether the server has closed the connection."""
        return await asyncio.wait_for(self.reader.read(1), 3) == b""


class Served:
    """A server of one application."""

    def __init__(self, app: App, server: HttpServer, port: int) -> None:
        self.app = app
        self.server = server
        self.port = port
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        """Open a connection."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    def expire(self, seconds: float) -> None:
        """Advance the time of every connection."""
        now = asyncio.get_running_loop().time() + seconds
        for connection in list(self.server.state.connections):
            connection.check_deadline(now)


@asynccontextmanager
async def served(limits: HttpLimits | None = None) -> AsyncIterator[Served]:
    """Serve the application."""
    app = App()
    server = HttpServer(app, limits=limits)
    (url,) = await server.listen("127.0.0.1", 0)
    found = Served(app, server, int(url.rpartition(":")[2]))
    try:
        yield found
    finally:
        app.gate.set()
        await server.close(seconds=1)
        for client in found.clients:
            client.writer.close()
            await asyncio.gather(client.writer.wait_closed(), return_exceptions=True)


def post(body: bytes, *lines: bytes) -> bytes:
    """A request with a body."""
    head = [b"POST /echo HTTP/1.1", b"Host: n", b"Content-Length: %d" % len(body), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with served() as found:
        client = await found.connect()
        received = await client.exchange(b"".join(GET % b"%d" % number for number in range(50)))

    places = [received.index(b"x-path: /%d\r\n" % number) for number in range(50)]
    assert sorted(places) == places


async def test_chunked_body_and_trailers_are_read() -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with served() as found:
        client = await found.connect()
        received = await client.exchange(
            head + b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\nX-Tail: 1\r\n\r\n"
        )

    assert b"abcde" in received


async def test_body_larger_than_the_buffer_arrives_whole() -> None:
    body = bytes(range(256)) * 4_096
    async with served() as found:
        client = await found.connect()
        received = await client.exchange(post(body))

    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(body + b"\r\n0\r\n\r\n")


async def test_stream_is_chunked_over_http_1_1_only() -> None:
    async with served() as found:
        modern = await (await found.connect()).exchange(GET % b"stream")
        old = await (await found.connect()).exchange(b"GET /stream HTTP/1.0\r\n\r\n")

    assert modern.endswith(b"4\r\npart\r\n4\r\npart\r\n4\r\npart\r\n0\r\n\r\n")
    assert old.endswith(b"connection: close\r\n\r\npartpartpart")


async def test_head_request_gets_no_body() -> None:
    async with served() as found:
        received = await (await found.connect()).exchange(GET.replace(b"GET", b"HEAD") % b"stream")

    assert received.endswith(b"\r\n\r\n")
    assert b"part" not in received


@pytest.mark.parametrize("cut", [20, -3, None])
async def test_request_to_upgrade_is_answered_with_its_body(cut: int | None) -> None:
    whole = post(b"the body", b"Connection: Upgrade", b"Upgrade: h2c")
    parts = [whole] if cut is None else [whole[:cut], whole[cut:]]
    async with served() as found:
        received = await (await found.connect()).exchange(*parts, GET % b"next")

    assert 2 == received.count(b"HTTP/1.1 200 OK")
    assert b"the body" in received
    assert b"x-path: /next" in received


async def test_chunked_request_to_upgrade_is_answered_with_its_body() -> None:
    head = (
        b"POST /echo HTTP/1.1\r\nHost: n\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    async with served() as found:
        client = await found.connect()
        received = await client.exchange(head + b"3\r\nabc\r\n0\r\n\r\n" + GET % b"next")

    assert 2 == received.count(b"HTTP/1.1 200 OK")
    assert b"abc" in received
    assert b"x-path: /next" in received


async def test_malformed_request_is_refused_after_the_responses_before_it() -> None:
    async with served() as found:
        client = await found.connect()
        received = await client.exchange(GET % b"wait" + b"nonsense\r\n\r\n")
        assert b"" == received
        found.app.gate.set()
        received = await client.read()

    assert received.index(b"HTTP/1.1 200 ") < received.index(b"HTTP/1.1 400 ")


async def test_broken_body_is_refused_and_the_application_notified() -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with served() as found:
        received = await (await found.connect()).exchange(head, b"not a size\r\n")
        await asyncio.wait_for(found.app.disconnected.wait(), 3)

    assert received.startswith(b"HTTP/1.1 400 ")


async def test_bytes_after_the_last_request_are_ignored() -> None:
    last = b"GET /last HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n"
    async with served() as found:
        client = await found.connect()
        received = await client.exchange(last + GET % b"more")

    assert 1 == received.count(b"HTTP/1.1 ")
    assert b"connection: close" in received


@pytest.mark.parametrize(
    ("change", "request_bytes", "status"),
    [
        ({"url_bytes_max": 10}, GET % (b"a" * 20), 414),
        ({"head_bytes_max": 10}, GET.replace(b"Host: n", b"Host: " + b"n" * 20) % b"", 431),
        ({"headers_max": 1}, GET.replace(b"Host: n", b"Host: n\r\nX-A: b") % b"", 431),
        ({"connections_max": 0}, b"", 503),
    ],
)
async def test_exceeded_limit_is_a_problem_document(
    change: dict[str, int], request_bytes: bytes, status: int
) -> None:
    async with served(replace(HttpLimits(), **change)) as found:
        client = await found.connect()
        received = await client.exchange(request_bytes)

    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in received


async def test_late_head_is_refused_and_an_idle_connection_closed() -> None:
    async with served() as found:
        silent, partial, idle = [await found.connect() for _ in range(3)]
        await partial.exchange(GET[:9])
        await idle.exchange(GET % b"first")
        found.expire(11)
        late = [await silent.read(), await partial.read()]
        found.expire(76)
        is_closed = await idle.is_closed()

    assert [True, True] == [each.startswith(b"HTTP/1.1 408 ") for each in late]
    assert is_closed


async def test_failed_application_is_a_500_and_the_connection_closes() -> None:
    async with served() as found:
        failed = await (await found.connect()).exchange(GET % b"fail")
        split = await (await found.connect()).exchange(GET % b"bad-header")

    for received in (failed, split):
        assert received.startswith(b"HTTP/1.1 500 ")
        assert b"connection: close" in received


async def test_application_is_notified_of_a_disconnect() -> None:
    async with served() as found:
        client = await found.connect()
        await client.exchange(GET % b"wait")
        client.writer.close()
        await asyncio.wait_for(found.app.disconnected.wait(), 3)


async def test_slow_client_holds_only_its_own_response() -> None:
    async with served() as found:
        client = await found.connect()
        client.writer.write(GET % b"large")
        await asyncio.sleep(0.2)
        (connection,) = found.server.state.connections
        waiting_bytes = connection._transport.get_write_buffer_size()
        received = len(await client.read(1.0))

    assert waiting_bytes < 1_000_000
    assert received > 65_536_000


async def test_close_waits_for_requests_in_flight() -> None:
    async with served() as found:
        busy, idle = await found.connect(), await found.connect()
        await busy.exchange(GET % b"wait")
        await idle.exchange(GET % b"first")
        closing = asyncio.create_task(found.server.close(seconds=5))
        is_idle_closed = await idle.is_closed()
        found.app.gate.set()
        received = await busy.read()
        await closing

    assert is_idle_closed
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in received


def test_address_family_that_is_absent_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name keeps its other addresses; a host without any is an error."""
    absent = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0))
    present = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [absent, present])
    (listener,) = bind("both.test", 0)
    with listener:
        assert "127.0.0.1" == listener.getsockname()[0]

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [absent])
    with pytest.raises(OSError, match=r"assign|not supported"):
        bind("absent.test", 0)


def test_rest_of_any_body_that_a_node_takes_by_default_is_read() -> None:
    """A client that is refused for its key keeps its connection, however large the body is."""
    assert NodeConfig(model="test-hash-64").body_bytes_max <= DISCARDED_BYTES_MAX
