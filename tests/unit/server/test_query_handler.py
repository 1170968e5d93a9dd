"""The direct handler and its cache give the same responses as the framework."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from http_node import HttpNode, http_node, on_socket, overloaded, seen
from synaptoroute.server.query_handler import (
    CACHED_BODY_BYTES_MAX,
    QueryResponse,
    ResponseCache,
)

pytestmark = pytest.mark.unit

HOT, FRAMED = "/v1/query", "/v1/query?consistency=local"
JSON = {"content-type": "application/json"}
LONG_TEXT = "x" * 40_000


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """A node with two routes."""
    async with http_node(tmp_path) as started:
        await started.fill()
        yield started


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        ('{"text": "I want my money back"}', JSON),
        ('{"text": "I want my money back", "limit": 3}', JSON),
        ('{"text": "money", "routes": ["parcel"], "explain": true}', JSON),
        ('{"text": "I want my money back"}', {"content-type": "application/json; charset=utf-8"}),
        ('{"text": ""}', JSON),
        ('{"text": "a", "unknown": 1}', JSON),
        ('{"text": 7}', JSON),
        ('{"text": "a", "text": "b"}', JSON),
        ('{"text": "I want my money back"}', {**JSON, "sr-deadline-ms": "5000"}),
        ('{"text": "a"}', {**JSON, "sr-deadline-ms": "0"}),
        ('{"text": "a"}', {**JSON, "sr-deadline-ms": "600001"}),
        ('{"text": "a"}', {**JSON, "sr-deadline-ms": "soon"}),
        ("[1, 2", JSON),
        ("", JSON),
        ('{"text": "a"}', {"content-type": "text/plain"}),
        ('{"text": "a"}', {}),
        ('{"text": "a"}', {**JSON, "content-encoding": "gzip"}),
        (json.dumps({"text": LONG_TEXT}), JSON),
        (json.dumps({"text": LONG_TEXT * 30}), JSON),
    ],
)
async def test_all_query_paths_give_the_same_response(
    node: HttpNode, content: str, headers: dict[str, str]
) -> None:
    """Status, headers and document are the same, encoded or cached."""
    framed = await node.http.post(FRAMED, content=content, headers=headers)
    async with on_socket(node) as socket:
        express = [await socket.post(HOT, content=content, headers=headers) for _ in range(2)]
    node.app.state.query_handler._cache = ResponseCache()
    hot = [await node.http.post(HOT, content=content, headers=headers) for _ in range(2)]

    for answer in (*express, *hot):
        assert seen(framed) == seen(answer)


@pytest.mark.parametrize("bypass", [{}, {"cache-control": "no-cache"}])
@pytest.mark.parametrize("deadline", [{}, {"sr-deadline-ms": "500"}])
async def test_all_query_paths_give_the_same_refusal(
    node: HttpNode, bypass: dict[str, str], deadline: dict[str, str]
) -> None:
    """An overloaded node gives the same refusal and the same counts on every path."""
    asked = {"content": '{"text": "I want my money back"}', "headers": JSON | bypass | deadline}
    with overloaded(node):
        framed = await node.http.post(FRAMED, **asked)
        hot = await node.http.post(HOT, **asked)
        async with on_socket(node) as socket:
            express = [await socket.post(HOT, **asked) for _ in range(2)]
        counters = node.router.status().counters
        metrics = (await node.http.get("/metrics")).text

    assert (429, "overloaded") == (framed.status_code, framed.json()["code"])
    for answer in (hot, *express):
        assert seen(framed) == seen(answer)
    assert (4, 4) == (counters.overloaded, counters.too_late)
    labels = 'endpoint="/v1/query",method="POST",status="429"'
    assert f"synaptoroute_request_count_total{{{labels}}} 4.0" in metrics
    assert 'duration_seconds_count{endpoint="/v1/query",method="POST"} 4.0' in metrics


async def test_overloaded_node_serves_cached_responses(node: HttpNode) -> None:
    """Cached queries are answered and queries in flight are joined; others are refused unread."""
    asked = {"text": "I want my money back"}
    async with on_socket(node) as socket:
        before = await socket.post(HOT, json=asked)
        with overloaded(node):
            kept = [await way.post(HOT, json=asked) for way in (node.http, socket)]
            torn = [
                await way.post(HOT, content="[1, 2", headers=JSON) for way in (node.http, socket)
            ]

    assert [before.content] * 2 == [answer.content for answer in kept]
    assert [429, 429] == [answer.status_code for answer in torn]


@pytest.mark.parametrize(("values", "status"), [(("5000", "soon"), 200), (("soon", "5000"), 422)])
async def test_first_of_two_headers_counts_on_both_paths(
    node: HttpNode, values: tuple[str, str], status: int
) -> None:
    """A repeated deadline header is read the same on both paths."""
    headers = [*JSON.items(), *(("sr-deadline-ms", value) for value in values)]
    content = '{"text": "I want my money back"}'
    framed = await node.http.post(FRAMED, content=content, headers=headers)
    hot = await node.http.post(HOT, content=content, headers=headers)

    assert status == framed.status_code
    assert seen(framed) == seen(hot)


async def test_body_in_pieces_is_read_whole(node: HttpNode) -> None:
    """The client sends the body byte by byte."""

    async def pieces() -> AsyncIterator[bytes]:
        for byte in b'{"text": "I want my money back"}':
            yield bytes([byte])

    whole = await node.http.post(HOT, json={"text": "I want my money back"})
    cut = await node.http.post(HOT, content=pieces(), headers=JSON)

    assert 200 == cut.status_code
    assert whole.json() == cut.json()


async def test_cached_response_expires_with_its_version(node: HttpNode) -> None:
    """Every write makes cached responses stale."""
    asked = {"text": "I want my money back"}
    before = await node.http.post(HOT, json=asked)
    again = await node.http.post(HOT, json=asked)
    await node.http.delete("/v1/routes/refund")
    after = await node.http.post(HOT, json=asked)

    assert before.content == again.content
    assert "refund" == before.json()["route"]
    assert "refund" != after.json()["route"]
    assert before.headers["sr-version"] != after.headers["sr-version"]


async def test_no_cache_skips_the_response_cache(node: HttpNode) -> None:
    """The metrics count cached and computed responses separately."""
    asked = {"text": "I want my money back"}
    for headers in ({}, {}, {"cache-control": "no-cache"}):
        await node.http.post(HOT, json=asked, headers=headers)
    metrics = (await node.http.get("/metrics")).text

    assert "synaptoroute_answers_cached_total 1.0" in metrics
    assert "synaptoroute_queries_total 2.0" in metrics


async def test_unmatched_queries_are_not_cached_when_recorded(tmp_path: Path) -> None:
    """A repeated unmatched query is recorded again."""
    async with http_node(tmp_path, unmatched_kept=10) as node:
        await node.fill()
        for _ in range(3):
            await node.http.post(HOT, json={"text": "xyzzy"})
            await node.http.post(HOT, json={"text": "I want my money back"})
        metrics = (await node.http.get("/metrics")).text

    assert "synaptoroute_answers_cached_total 2.0" in metrics
    assert "synaptoroute_queries_total 4.0" in metrics


def test_response_cache_has_limits_in_number_and_bytes() -> None:
    """The least recently used response goes first; a long query is never cached."""
    now = object()
    answer = QueryResponse(now, (), b"x" * 10)
    few = ResponseCache(responses_max=2)
    for body in (b"a", b"b"):
        few.put(body, answer)
    few.get(b"a", now)
    few.put(b"c", answer)
    small = ResponseCache(bytes_max=25)
    for body in (b"a", b"b", b"c"):
        small.put(body, answer)
    small.put(b"y" * (CACHED_BODY_BYTES_MAX + 1), answer)

    assert few.get(b"b", now) is None
    assert few.get(b"a", now) is few.get(b"c", now) is answer
    assert few.get(b"a", object()) is None
    assert 2 == len(small)
    assert small.get(b"a", now) is None
