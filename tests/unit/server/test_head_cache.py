"""Heads that came before: the same answers as if each was parsed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from http_node import HttpNode, Wire, http_node, on_socket, overloaded, request

pytestmark = pytest.mark.unit

TEXTS = ("I want my money back", "where is my parcel", "track my order")
FRESH = "Cache-Control: no-cache"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """A node with two routes."""
    async with http_node(tmp_path) as started:
        await started.fill()
        yield started


@pytest.fixture
async def wire(node: HttpNode) -> AsyncIterator[Wire]:
    """A connection to its socket."""
    async with on_socket(node) as client:
        opened = await Wire.open(client)
        yield opened
        await opened.close()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of every piece that is parsed."""
    found: list[int] = []
    feed = HttpToolsProtocol.data_received

    def watched(self: HttpToolsProtocol, data: bytes) -> None:
        found.append(len(data))
        feed(self, data)

    monkeypatch.setattr(HttpToolsProtocol, "data_received", watched)
    return found


def query(text: str, *lines: str) -> bytes:
    """A query as bytes."""
    return request(json.dumps({"text": text}).encode(), *lines)


async def routes(wire: Wire, *requests: bytes) -> list[object]:
    """Ask one after the other; give statuses or routes."""
    found: list[object] = []
    for each in requests:
        await wire.send(each)
        status, _, body = await wire.answer()
        found.append(json.loads(body)["route"] if status == 200 else status)
    return found


async def test_head_is_parsed_once(wire: Wire, parsed: list[int]) -> None:
    """Whatever the texts and their lengths, encoded or kept."""
    found = await routes(wire, *(query(text) for text in TEXTS * 2))

    assert ["refund", "parcel", "parcel"] * 2 == found
    assert 1 == len(parsed)


async def test_refusals_differ_in_their_identity_only(node: HttpNode, wire: Wire) -> None:
    """A refusal of a known head has all the headers and fields of the first."""
    answers = []
    with overloaded(node):
        for _ in range(3):
            await wire.send(query(TEXTS[0], FRESH))
            answers.append(await wire.answer())
    first, *others = answers

    assert 429 == first[0]
    for other in others:
        assert (first[0], list(first[1])) == (other[0], list(other[1]))
        assert json.loads(first[2]) | {"instance": ""} == json.loads(other[2]) | {"instance": ""}
        assert json.loads(first[2])["instance"] != json.loads(other[2])["instance"]


async def test_another_head_is_parsed(wire: Wire, parsed: list[int]) -> None:
    """One line more is another head; so is one less."""
    found = await routes(
        wire,
        query(TEXTS[0]),
        query(TEXTS[0], "SR-Deadline-Ms: 0"),
        query(TEXTS[1]),
        query(TEXTS[1], "Content-Encoding: br"),
        b"GET /v1/nowhere HTTP/1.1\r\nHost: node\r\n\r\n",
        query(TEXTS[2]),
    )

    assert ["refund", 422, "parcel", 415, 404, "parcel"] == found
    assert 6 == len(parsed)


@pytest.mark.parametrize("cut", [10, 60, 120, -1])
async def test_known_head_in_two_pieces_is_parsed(wire: Wire, cut: int) -> None:
    """Only a whole request is taken without the parser."""
    assert ["refund"] == await routes(wire, query(TEXTS[0]))
    whole = query(TEXTS[1])
    await wire.send(whole[:cut])
    await asyncio.sleep(0.02)

    assert ["parcel"] == await routes(wire, whole[cut:])
    assert ["refund"] == await routes(wire, query(TEXTS[0]))


async def test_requests_behind_a_query_that_waits_are_answered_after_it(wire: Wire) -> None:
    """A known head does not overtake, alone or in one piece with others."""
    assert ["refund"] == await routes(wire, query(TEXTS[0]))
    for sent in ([query(TEXTS[1], FRESH), query(TEXTS[0])], [query(TEXTS[0]), query(TEXTS[1])]):
        await wire.send(sent[0])
        await wire.send(sent[1])
        answers = [json.loads((await wire.answer())[2])["route"] for _ in sent]

        assert ["parcel", "refund"] == (answers if FRESH.encode() in sent[0] else answers[::-1])
    await wire.send(b"".join(query(text) for text in TEXTS))

    assert ["refund", "parcel", "parcel"] == [
        json.loads((await wire.answer())[2])["route"] for _ in TEXTS
    ]


async def test_malformed_bodies_and_lengths_are_the_parsers(wire: Wire) -> None:
    """A known head with a body that is not JSON, and a length that is no number."""
    known, length = query(TEXTS[0]), b"Content-Length: 32"
    assert length in known
    assert ["refund", 400] == await routes(wire, known, request(b"[1, 2"))
    assert ["refund", "refund"] == await routes(wire, known, known)
    assert [400] == await routes(wire, known.replace(length, b"Content-Length: +32"))


async def test_own_name_of_a_request_is_taken_each_time(wire: Wire, parsed: list[int]) -> None:
    """Clients that number their requests get their numbers back."""
    for number in range(3):
        await wire.send(query(TEXTS[0], f"X-Request-Id: number-{number}"))
        _, headers, _ = await wire.answer()

        assert f"number-{number}" == dict(headers)["x-request-id"]
    assert 3 == len(parsed)


async def test_connection_that_drains_is_closed_after_its_answer(
    node: HttpNode, wire: Wire
) -> None:
    """A known head on a node that goes takes the usual way."""
    assert ["refund"] == await routes(wire, query(TEXTS[0]))
    node.runtime.is_draining = True
    await wire.send(query(TEXTS[1]))
    status, headers, _ = await wire.answer()
    node.runtime.is_draining = False

    assert (200, "close") == (status, dict(headers)["connection"])


async def test_headers_of_the_server_are_those_of_now(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The date above all, which the server puts there anew each second."""
    connections: list[HttpToolsProtocol] = []
    made = HttpToolsProtocol.on_response_complete

    def watched(self: HttpToolsProtocol) -> None:
        connections.append(self)
        made(self)

    monkeypatch.setattr(HttpToolsProtocol, "on_response_complete", watched)
    dates = []
    for second in (b"1", b"2", b"3"):
        for connection in connections[:1]:
            connection.server_state.default_headers = [(b"date", second)]
        await wire.send(query(TEXTS[0]))
        _, headers, _ = await wire.answer()
        dates.append(dict(headers).get("date"))

    assert [None, "2", "3"] == dates


async def test_key_is_checked_each_time(
    node: HttpNode, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was withdrawn opens nothing, however often its head came before."""
    assert ["refund"] == await routes(wire, query(TEXTS[0]))

    class Empty:
        def find(self, presented: str) -> None:
            return None

    monkeypatch.setattr(node.runtime, "keys", Empty())

    assert [401] == await routes(wire, query(TEXTS[0]))
