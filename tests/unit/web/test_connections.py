"""Timers and places of connections: a client that is late or greedy costs only itself."""

from __future__ import annotations

import asyncio
import resource
from dataclasses import replace

import pytest
from starlette.types import Receive, Scope, Send

from http_bytes import MemoryConnection, echo
from synaptoroute.web.client_address import TrustedProxies, parse_networks
from synaptoroute.web.connections import HttpLimits, ServerState, raise_file_limit
from synaptoroute.web.http_parser import HttpRequest
from synaptoroute.web.http_protocol import Respond

pytestmark = pytest.mark.unit

GET = b"GET /a HTTP/1.1\r\nHost: n\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: n\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMITS = HttpLimits()


async def check(connection: MemoryConnection, seconds: float) -> None:
    """Let the server look at the connection after a time."""
    connection.protocol.check_deadline(asyncio.get_running_loop().time() + seconds)
    await connection.settle()


def statuses(connection: MemoryConnection) -> list[int]:
    parts = bytes(connection.transport.sent).split(b"HTTP/1.1 ")[1:]
    return [int(part[:3]) for part in parts]


# --- a timer at every moment -----------------------------------------------------------


@pytest.mark.parametrize(
    "stray", [b"\r\n", b"\r", b"G", b" ", b"GET /", b"\r\nGET", b"GET / HTTP/1.1\r\nA"]
)
@pytest.mark.parametrize("is_answered", [False, True])
async def test_stray_bytes_leave_a_timer(stray: bytes, is_answered: bool) -> None:
    """Whatever follows an answer, the connection ends by itself."""
    connection = MemoryConnection()
    if is_answered:
        await connection.feed(GET)
    await connection.feed(stray)
    for _ in range(3):
        await check(connection, LIMITS.keep_alive_seconds + 1)
        await check(connection, LIMITS.keep_alive_seconds + LIMITS.linger_seconds + 2)

    assert connection.transport.is_closed


async def test_partial_head_gets_408_and_its_bytes_do_not_extend_the_time() -> None:
    connection = MemoryConnection()
    await connection.feed(GET)
    for at in range(10):
        await connection.feed(GET[at : at + 1])
    await check(connection, LIMITS.head_seconds - 1)
    assert [200] == statuses(connection)
    await check(connection, LIMITS.head_seconds + 1)

    assert [200, 408] == statuses(connection)
    assert connection.transport.has_ended


async def test_empty_line_does_not_extend_the_time_of_an_idle_connection() -> None:
    connection = MemoryConnection()
    await connection.feed(GET)
    loop = asyncio.get_running_loop()
    connection.protocol._waits_at = loop.time() - LIMITS.keep_alive_seconds + 1
    await connection.feed(b"\r\n")
    await check(connection, 2)

    assert connection.transport.is_closed


@pytest.mark.parametrize(
    "head", [POST % 1_000, POST.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked")]
)
async def test_trickled_body_has_a_total_deadline(head: bytes) -> None:
    """Bytes that arrive in time, one by one, do not extend it beyond their share."""
    connection = MemoryConnection()
    await connection.feed(head)
    await connection.feed(b"1\r\na\r\n" if b"chunked" in head else b"a")
    protocol = connection.protocol
    protocol._body_at -= LIMITS.body_seconds - 1
    await check(connection, 0)
    assert [] == statuses(connection)
    protocol._piece_at += 5
    await check(connection, 5)

    assert [408] == statuses(connection)
    assert connection.transport.has_ended


async def test_body_that_pauses_is_refused() -> None:
    connection = MemoryConnection()
    await connection.feed(POST % 100 + b"abc")
    await check(connection, LIMITS.body_pause_seconds - 1)
    assert [] == statuses(connection)
    await check(connection, LIMITS.body_pause_seconds + 1)

    assert [408] == statuses(connection)


async def test_body_that_waits_for_the_application_is_not_late() -> None:
    """The time in which this side does not read is not the client's."""
    gate = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await echo(scope, receive, send)

    body = bytes(LIMITS.buffer_bytes_max + 10)
    connection = MemoryConnection(slow)
    protocol = connection.protocol
    protocol.data_received(POST % (len(body) + 1) + body)
    await asyncio.sleep(0)
    assert connection.transport.is_reading_paused
    await_seconds = LIMITS.body_seconds * 2
    protocol.check_deadline(asyncio.get_running_loop().time() + await_seconds)
    protocol._body_at -= await_seconds
    protocol._paused_at -= await_seconds
    gate.set()
    await connection.settle()
    await check(connection, 1)
    await connection.feed(b"x")

    assert [200] == statuses(connection)


async def test_client_that_waits_for_100_continue_is_not_late() -> None:
    gate = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await echo(scope, receive, send)

    connection = MemoryConnection(slow)
    await connection.feed(POST.replace(b"Host", b"Expect: 100-continue\r\nHost") % 3)
    await check(connection, LIMITS.body_seconds * 3)
    gate.set()
    await connection.settle()
    await connection.feed(b"abc")

    assert [100, 200] == statuses(connection)


async def test_client_that_waits_for_100_continue_and_is_refused_is_disconnected() -> None:
    """Whether it sends the body after all is unknown, so nothing may follow."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    connection = MemoryConnection(refuse)
    await connection.feed(POST.replace(b"Host", b"Expect: 100-continue\r\nHost") % 3)
    await connection.feed(GET)

    assert [401] == statuses(connection)
    assert connection.transport.has_ended


async def test_rest_of_a_small_body_is_read_after_an_early_response() -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    connection = MemoryConnection(refuse)
    await connection.feed(POST % len(GET))
    await connection.feed(GET)
    assert [401] == statuses(connection)
    await connection.feed(GET)
    assert [401, 401] == statuses(connection)

    # The rest is bound by the time of a body as well.
    await connection.feed(POST % 1_000 + b"a")
    await check(connection, LIMITS.body_pause_seconds + 1)
    assert connection.transport.has_ended


async def test_client_that_does_not_read_is_disconnected() -> None:
    """Also where the connection is closing already."""
    for request in (GET, GET.replace(b"Host", b"Connection: close\r\nHost")):
        connection = MemoryConnection()
        connection.transport.is_closing = lambda: False  # type: ignore[method-assign]
        await connection.feed(request)
        connection.transport.is_closed = False
        connection.transport.unsent_bytes = len(connection.transport.sent)
        await check(connection, 1)
        await check(connection, LIMITS.write_seconds)
        assert not connection.transport.is_closed
        await check(connection, LIMITS.write_seconds + 2)
        assert connection.transport.is_closed


async def test_client_that_reads_slowly_but_steadily_stays() -> None:
    connection = MemoryConnection()
    await connection.feed(GET)
    protocol, transport = connection.protocol, connection.transport
    protocol._written_bytes = transport.unsent_bytes = 1_000_000
    protocol._active = HttpRequest("GET", "1.1", [])
    for window in range(1, 10):
        await check(connection, window * LIMITS.write_seconds)
        transport.unsent_bytes -= LIMITS.write_bytes_min

    assert not transport.is_closed
    protocol._active = None


async def test_refused_client_may_send_for_a_while_and_not_for_ever() -> None:
    connection = MemoryConnection(limits=replace(LIMITS, linger_bytes_max=1_000))
    await connection.feed(b"nonsense\r\n\r\n")
    assert connection.transport.has_ended
    assert not connection.transport.is_closed
    await connection.feed(bytes(900))
    assert not connection.transport.is_closed
    await connection.feed(bytes(200))
    assert connection.transport.is_closed

    late = MemoryConnection()
    await late.feed(b"nonsense\r\n\r\n")
    await check(late, LIMITS.linger_seconds + 1)
    assert late.transport.is_closed


async def test_flood_of_pipelined_requests_leaves_turns_to_others() -> None:
    """No more than some tens of requests are answered in one turn of the loop."""
    answered = 0

    def direct(request: HttpRequest, respond: Respond) -> bool:
        nonlocal answered
        answered += 1
        respond(request, 200, [(b"content-length", b"0")], b"")
        return True

    connection = MemoryConnection(direct=direct)
    connection.protocol.data_received(GET * 1_000)
    assert 0 < answered <= 64
    await connection.settle()
    while connection.transport.is_reading_paused:
        await asyncio.sleep(0)

    assert 1_000 == answered == len(statuses(connection))


# --- places ----------------------------------------------------------------------------


def server(**limits: int) -> ServerState:
    proxies = TrustedProxies(parse_networks("10.0.0.0/8, fd00::/8"), proxy_protocol=True)
    return ServerState(replace(LIMITS, **limits), set(), set(), proxies)


def connect(state: ServerState, host: str) -> MemoryConnection:
    return MemoryConnection(state=state, peer=(host, 1))


async def test_full_server_closes_the_connection_that_is_idle_longest() -> None:
    state = server(connections_max=4)
    idle = [connect(state, f"192.0.2.{number}") for number in range(4)]
    for number, connection in enumerate(idle):
        await connection.feed(GET)
        connection.protocol._waits_at = number
    newcomer = connect(state, "192.0.2.9")
    await newcomer.feed(GET)

    assert [True, False, False, False] == [each.transport.is_closed for each in idle]
    assert [200] == statuses(newcomer)


async def test_connections_that_never_sent_a_request_make_room_first() -> None:
    state = server(connections_max=3)
    used = connect(state, "192.0.2.1")
    await used.feed(GET)
    used.protocol._waits_at = 0.0
    silent, partial = connect(state, "192.0.2.2"), connect(state, "192.0.2.3")
    await partial.feed(b"GET /")
    connect(state, "192.0.2.4")
    connect(state, "192.0.2.5")

    assert not used.transport.is_closed
    assert silent.transport.is_closed
    assert partial.transport.is_closed


async def test_connection_with_a_request_in_flight_never_makes_room() -> None:
    gate = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await echo(scope, receive, send)

    state = server(connections_max=1)
    busy = MemoryConnection(wait, state=state, peer=("192.0.2.1", 1))
    await busy.feed(GET)
    refused = connect(state, "192.0.2.2")
    assert [503] == statuses(refused)
    assert refused.transport.is_closed
    refused.protocol.connection_lost(None)
    gate.set()
    await busy.settle()

    assert [200] == statuses(busy)


async def test_address_over_its_limit_loses_its_own_idle_connections_only() -> None:
    state = server(connections_per_address_max=3)
    other = connect(state, "192.0.2.1")
    await other.feed(GET)
    other.protocol._waits_at = 0.0
    greedy = [connect(state, "192.0.2.2") for _ in range(50)]

    assert not other.transport.is_closed
    assert 3 == sum(not each.transport.is_closed for each in greedy)
    await greedy[-1].feed(GET)
    assert [200] == statuses(greedy[-1])


async def test_address_whose_connections_are_all_busy_is_refused() -> None:
    state = server(connections_per_address_max=2)
    busy = [connect(state, "192.0.2.2") for _ in range(2)]
    for connection in busy:
        await connection.feed(POST % 10)
    refused = connect(state, "192.0.2.2")

    assert [429] == statuses(refused)
    assert b'"code":"overloaded"' in refused.transport.sent
    assert [] == statuses(connect(state, "192.0.2.3"))


async def test_trusted_proxy_has_the_total_limit_only() -> None:
    state = server(connections_per_address_max=2, connections_max=10)
    proxied = [connect(state, "10.0.0.1") for _ in range(10)]
    assert not any(each.transport.is_closed for each in proxied)
    connect(state, "10.0.0.1")

    assert 1 == sum(each.transport.is_closed for each in proxied)


async def test_requests_that_a_proxy_forwards_count_for_the_client() -> None:
    state = server(connections_per_address_max=2)
    proxied = [connect(state, "10.0.0.1") for _ in range(4)]
    forwarded = POST.replace(b"Host", b"X-Forwarded-For: %b\r\nHost")
    for connection in proxied[:2]:
        await connection.feed(forwarded % (b"192.0.2.7", 3))
    await proxied[2].feed(forwarded % (b"192.0.2.7", 3) + b"abc")
    await proxied[3].feed(forwarded % (b"192.0.2.8", 3) + b"abc")
    assert [429] == statuses(proxied[2])
    assert [200] == statuses(proxied[3])

    for connection in proxied[:2]:
        await connection.feed(b"abc")
    await proxied[2].feed(forwarded % (b"192.0.2.7", 3) + b"abc")
    assert [429, 200] == statuses(proxied[2])
    assert {} == state._requests_by_address


async def test_connection_with_a_proxy_header_counts_for_its_client() -> None:
    state = server(connections_per_address_max=2)
    for _ in range(2):
        await connect(state, "10.0.0.1").feed(b"PROXY TCP4 192.0.2.7 10.0.0.2 5 80\r\n" + POST % 3)
    refused, other = connect(state, "10.0.0.1"), connect(state, "10.0.0.1")
    await refused.feed(b"PROXY TCP4 192.0.2.7 10.0.0.2 5 80\r\n" + GET)
    await other.feed(b"PROXY TCP4 192.0.2.8 10.0.0.2 5 80\r\n" + GET)

    assert [429] == statuses(refused)
    assert [200] == statuses(other)


async def test_proxy_header_of_anybody_else_is_a_malformed_request() -> None:
    stranger = connect(server(), "192.0.2.1")
    await stranger.feed(b"PROXY TCP4 192.0.2.7 10.0.0.2 5 80\r\n" + GET)
    broken = connect(server(), "10.0.0.1")
    await broken.feed(b"PROXY TCP4 x y 5 80\r\n" + GET)

    assert [400] == statuses(stranger)
    assert [400] == statuses(broken)


async def test_proxy_header_may_be_cut_anywhere() -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["client"])
        await echo(scope, receive, send)

    v1 = b"PROXY TCP6 2001:db8::1 2001:db8::2 5 80\r\n"
    v2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes([192, 0, 2, 7, 10, 0, 0, 2, 0, 5, 0, 80])
    for header, client in ((v1, ("2001:db8::1", 5)), (v2, ("192.0.2.7", 5))):
        for cut in range(1, len(header) + 3):
            connection = MemoryConnection(app, state=server(), peer=("10.0.0.1", 1))
            await connection.feed((header + GET)[:cut])
            await connection.feed((header + GET)[cut:])
            assert [200] == statuses(connection)
        assert {client} == set(seen)
        seen.clear()


@pytest.mark.parametrize(
    ("soft", "hard", "possible", "raised"),
    [
        (1_024, 4_096, 3_584, 4_096),
        (1_024, 100_000, 8_192, 8_704),
        (100_000, 100_000, 8_192, None),
        (256, 256, 128, 256),
        (-1, -1, 8_192, None),
    ],
)
def test_limit_of_open_files_is_raised_and_kept(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, possible: int, raised: int | None
) -> None:
    changes: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: changes.append(limits))

    assert possible == raise_file_limit(8_192)
    assert ([] if raised is None else [(raised, hard)]) == changes
