"""The direct handler of queries on a socket: connections, limits, disconnects and logs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import httpx
import pytest

from http_node import HttpNode, Wire, http_node, logged, on_socket, overloaded, request
from routers import HeldEncoder
from synaptoroute.server.query_handler import QueryHandler
from synaptoroute.web.api_keys import key_line, make_key
from synaptoroute.web.http_parser import HttpRequest
from synaptoroute.web.http_protocol import Respond

pytestmark = pytest.mark.unit

BODY = b'{"text": "I want my money back"}'
JSON = {"content-type": "application/json"}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """A node with two routes."""
    async with http_node(tmp_path) as started:
        await started.fill()
        yield started


@pytest.fixture
async def client(node: HttpNode) -> AsyncIterator[httpx.AsyncClient]:
    """A client of its socket."""
    async with on_socket(node) as found:
        yield found


def direct_answers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request was answered by the direct handler."""
    found: list[bool] = []
    begin = QueryHandler.__call__

    def watched(self: QueryHandler, request: HttpRequest, respond: Respond) -> bool:
        found.append(begin(self, request, respond))
        return found[-1]

    monkeypatch.setattr(QueryHandler, "__call__", watched)
    return found


async def test_connection_stays_open_after_every_kind_of_response(
    node: HttpNode, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoded, cached, refused, malformed, and another endpoint, all on one connection."""
    short = direct_answers(monkeypatch)
    wire = await Wire.open(client)
    statuses = []
    for body in (BODY, BODY, b"[1, 2"):
        await wire.send(request(body))
        statuses.append((await wire.answer())[0])
    with overloaded(node):
        await wire.send(request(BODY, "Cache-Control: no-cache"))
        statuses.append((await wire.answer())[0])
    await wire.send(b"GET /livez HTTP/1.1\r\nHost: node\r\n\r\n")
    statuses.append((await wire.answer())[0])
    await wire.send(request(BODY))
    statuses.append((await wire.answer())[0])
    await wire.close()

    assert [200, 200, 400, 429, 200, 200] == statuses
    assert [True, True, True, True, False, True] == short


async def test_version_that_is_visible_needs_no_waiting(
    node: HttpNode, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a version for which a query has to wait, or a malformed one, goes to the application."""
    version = node.router.visible.version
    epoch, _, seq = version.partition(".")
    asked = [version, f"{epoch}.1", f"{epoch}.{int(seq) + 1}", f"{int(epoch) + 1}.1", "1", "1.x"]
    short = direct_answers(monkeypatch)
    statuses = [
        (
            await client.post(
                "/v1/query",
                content=BODY,
                headers={**JSON, "SR-Min-Version": each, "SR-Min-Version-Timeout": "0.05"},
            )
        ).status_code
        for each in asked
    ]

    assert [200, 200, 503, 503, 422, 422] == statuses
    assert [True, True, False, False, False, False] == short


async def test_pipelined_requests_are_answered_in_order(client: httpx.AsyncClient) -> None:
    """Several requests in one segment get one response each, in order."""
    texts = ["I want my money back", "where is my parcel", "I want my money back"]
    wire = await Wire.open(client)
    await wire.send(b"".join(request(json.dumps({"text": text}).encode()) for text in texts))
    routes = [json.loads((await wire.answer())[2])["route"] for _ in texts]
    await wire.close()

    assert ["refund", "parcel", "refund"] == routes


@pytest.mark.parametrize("cut", [10, 60, 140, -1])
async def test_split_request_is_answered(client: httpx.AsyncClient, cut: int) -> None:
    """The request may be split at any byte."""
    whole = request(BODY)
    wire = await Wire.open(client)
    await wire.send(whole[:cut])
    await asyncio.sleep(0.02)
    await wire.send(whole[cut:])
    status, _, body = await wire.answer()
    await wire.close()

    assert (200, "refund") == (status, json.loads(body)["route"])


async def test_connection_closes_after_its_last_request(
    node: HttpNode, client: httpx.AsyncClient
) -> None:
    """The client asks for it by header or by version; a refusal closes as well."""
    bypass = "Cache-Control: no-cache"
    for lines, version in (([bypass, "Connection: close"], "1.1"), ([bypass], "1.0")):
        for status in (200, 429):
            wire = await Wire.open(client)
            with overloaded(node) if status == 429 else nullcontext():
                await wire.send(request(BODY, *lines, version=version))
                answer = await wire.answer()
            assert (status, "close") == (answer[0], answer[1]["connection"])
            assert b"" == await wire.rest()
            await wire.close()


async def test_expect_continue_is_answered(client: httpx.AsyncClient) -> None:
    """The application handles ``Expect: 100-continue``."""
    wire = await Wire.open(client)
    whole = request(BODY, "Expect: 100-continue")
    await wire.send(whole[: -len(BODY)])
    interim = await wire.answer()
    await wire.send(BODY)
    final = await wire.answer()
    await wire.close()

    assert (100, 200) == (interim[0], final[0])


async def test_draining_node_closes_the_connection_after_the_response(
    node: HttpNode, client: httpx.AsyncClient
) -> None:
    """A load balancer then sends the next request elsewhere."""
    wire = await Wire.open(client)
    node.runtime.drain()
    await wire.send(request(BODY))
    status, headers, _ = await wire.answer()
    rest = await wire.rest()
    await wire.close()

    assert (200, "close", b"") == (status, headers["connection"], rest)


async def test_response_begun_before_the_drain_closes_the_connection(tmp_path: Path) -> None:
    """The response has one ``connection: close`` header, and the connection closes."""
    encoder = HeldEncoder()
    async with http_node(tmp_path, encoder=encoder) as node, on_socket(node) as client:
        wire = await Wire.open(client)
        encoder.hold()
        await wire.send(request(BODY))
        await encoder.held_up()
        node.runtime.drain()
        encoder.gate.set()
        status, headers, _ = await wire.answer()
        rest = await wire.rest()
        await wire.close()

    assert (200, "close", b"") == (status, headers["connection"], rest)


async def test_query_of_a_disconnected_client_is_cancelled(tmp_path: Path) -> None:
    """Its text is not encoded, and the request is counted as 499."""
    encoder = HeldEncoder()
    async with http_node(tmp_path, encoder=encoder) as node, on_socket(node) as client:
        encoder.hold()
        first, second = await Wire.open(client), await Wire.open(client)
        await first.send(request(b'{"text": "first"}'))
        await encoder.held_up()
        await second.send(request(b'{"text": "second"}'))
        while node.router.status().queue_requests < 2:
            await asyncio.sleep(0.005)
        await second.close()
        while 'status="499"} 1.0' not in (await node.http.get("/metrics")).text:
            await asyncio.sleep(0.005)
        encoder.gate.set()
        status, _, _ = await first.answer()
        await first.close()
        while node.router.status().counters.abandoned < 1:
            await asyncio.sleep(0.005)
        metrics = (await node.http.get("/metrics")).text

    assert 200 == status
    assert 0 == encoder.count_of("second")
    assert "synaptoroute_requests_in_flight 1.0" in metrics, "the scrape itself"
    assert 0 == node.runtime.bodies.held_bytes


async def test_encoder_failure_is_an_incident(tmp_path: Path) -> None:
    """The client gets an incident number; the connection and its memory stay usable."""
    encoder = HeldEncoder()
    encoder.fails_on = "broken"
    async with http_node(tmp_path, encoder=encoder) as node, on_socket(node) as client:
        with logged() as lines:
            failed = await client.post("/v1/query", json={"text": "broken"})
        sound = await client.post("/v1/query", json={"text": "sound"})

    assert (500, "encoder_error") == (failed.status_code, failed.json()["code"])
    assert failed.json()["incident"] in lines.getvalue()
    assert 200 == sound.status_code
    assert 0 == node.runtime.bodies.held_bytes


async def test_request_over_the_body_budget_is_refused(
    node: HttpNode, client: httpx.AsyncClient
) -> None:
    """The direct handler uses the same budget of bodies."""
    node.runtime.bodies.bytes_max = 10
    answer = await client.post("/v1/query", content=BODY, headers=JSON)
    node.runtime.bodies.bytes_max = 1_000
    again = await client.post("/v1/query", content=BODY, headers=JSON)

    assert (429, 200) == (answer.status_code, again.status_code)
    assert 0 == node.runtime.bodies.held_bytes


async def test_query_without_a_valid_key_is_refused(tmp_path: Path) -> None:
    """A missing, wrong or insufficient key is refused, also for cached responses."""
    reader, writer = make_key(), make_key()
    lines = [key_line(reader, ["read"], "reader"), key_line(writer, ["write"], "writer")]
    (tmp_path / "keys").write_text("\n".join(lines))
    async with (
        http_node(tmp_path, api_keys_file=tmp_path / "keys") as node,
        on_socket(node) as client,
    ):
        with logged() as log_lines:
            statuses = [
                (await client.post("/v1/query", content=BODY, headers=JSON | key)).status_code
                for key in (
                    {"x-api-key": reader},
                    {},
                    {"x-api-key": make_key()},
                    {"authorization": f"Bearer {writer}"},
                    {"authorization": f"Bearer {reader}"},
                )
            ]

    assert [200, 401, 401, 403, 200] == statuses
    assert 2 == log_lines.getvalue().count('"key": "reader"')


async def test_refused_queries_are_logged_once_a_second(
    node: HttpNode, client: httpx.AsyncClient
) -> None:
    """Each refusal has a line at debug level; above it there is one line a second."""
    with logged() as lines, overloaded(node):
        for _ in range(20):
            await client.post("/v1/query", content=BODY, headers=JSON)
    found = [json.loads(line) for line in lines.getvalue().splitlines()]
    told = [line for line in found if line["message"] == "queries_refused"]
    each = [line for line in found if line["message"] == "request"]

    assert 1 == told[0]["count"]
    assert len(told) < 20
    assert ["debug"] * 20 == [line["level"] for line in each]


async def test_valid_request_id_is_echoed(node: HttpNode, client: httpx.AsyncClient) -> None:
    """It is in the response headers and in the problem document."""
    given = await client.post("/v1/query", content=BODY, headers=JSON | {"x-request-id": "abc-1"})
    with overloaded(node):
        bypass = JSON | {"x-request-id": "no good", "cache-control": "no-cache"}
        made = await client.post("/v1/query", content=BODY, headers=bypass)

    assert "abc-1" == given.headers["x-request-id"]
    assert 16 == len(made.headers["x-request-id"])
    assert f"urn:synaptoroute:request:{made.headers['x-request-id']}" == made.json()["instance"]
