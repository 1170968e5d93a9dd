"""Queries over HTTP: responses, limits and refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from http_node import HttpNode, http_node
from synaptoroute.errors import Overloaded
from synaptoroute.server.bodies import BodyBudget

pytestmark = pytest.mark.unit


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """A node with two routes."""
    async with http_node(tmp_path) as started:
        await started.fill()
        yield started


async def refused(node: HttpNode, body: bytes | str, **headers: str) -> tuple[int, str]:
    """Send a body to the query endpoint; give the status and code of the problem."""
    before = await node.digest()
    answer = await node.http.post(
        "/v1/query", content=body, headers={"Content-Type": "application/json", **headers}
    )
    problem = answer.json()
    assert "application/problem+json" == answer.headers["content-type"]
    assert answer.status_code == problem["status"]
    assert f"urn:synaptoroute:error:{problem['code']}" == problem["type"]
    assert before == await node.digest()
    return answer.status_code, problem["code"]


async def test_query_names_the_route_and_why(node: HttpNode) -> None:
    """A match carries score, utterance, margin, runner-up, payload and version."""
    answer = await node.http.post("/v1/query", json={"text": "today i want my money back"})
    match = answer.json()

    assert 200 == answer.status_code
    assert "refund" == match["route"]
    assert "I want my money back" == match["utterance"]
    assert "matched" == match["reason"]
    assert {"tool": "refund"} == match["payload"]
    assert "parcel" == match["runner_up"]
    assert match["score"] >= match["threshold"]
    assert "candidates" not in match
    assert match["version"] == answer.headers["sr-version"]
    assert match["node"] == answer.headers["sr-node"]


async def test_query_without_a_match_has_a_reason(node: HttpNode) -> None:
    """The route is null and the reason is named; the best score is still shown."""
    answer = await node.http.post("/v1/query", json={"text": "zebra quantum violin"})

    assert 200 == answer.status_code
    assert (None, "below_threshold") == (answer.json()["route"], answer.json()["reason"])


async def test_explain_lists_candidates_best_first(node: HttpNode) -> None:
    """Each candidate has its score, its threshold and its most similar utterance."""
    answer = await node.http.post("/v1/query", json={"text": "where is my parcel", "explain": True})
    candidates = answer.json()["candidates"]

    assert ["parcel", "refund"] == [each["route"] for each in candidates]
    assert [True, False] == [each["passed"] for each in candidates]
    assert "where is my parcel" == candidates[0]["utterance"]


async def test_filter_leaves_only_the_named_routes(node: HttpNode) -> None:
    """A route outside the filter cannot match."""
    body = {"text": "where is my parcel", "routes": ["refund"], "limit": 5}
    answer = await node.http.post("/v1/query", json=body)

    assert ["refund"] == [each["route"] for each in answer.json()["candidates"]]


async def test_batch_answers_each_text_as_if_alone(node: HttpNode) -> None:
    """The matches stand in the order of the texts and equal the single answers."""
    texts = ["i want my money back", "where is my parcel", "zebra quantum violin"]
    batch = (await node.http.post("/v1/query/batch", json={"texts": texts})).json()["matches"]
    alone = [(await node.http.post("/v1/query", json={"text": each})).json() for each in texts]

    assert alone == batch


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "malformed_body")),
        (b"{", (400, "malformed_body")),
        (b'{"text": NaN}', (400, "malformed_body")),
        (b'{"text": Infinity}', (400, "malformed_body")),
        (b'{"text": "\\ud800"}', (400, "malformed_body")),
        (b'{"text": "\xff"}', (400, "malformed_body")),
        (b"[" * 100_000, (400, "malformed_body")),
        (b'{"text":' * 5_000, (400, "malformed_body")),
        (b"[]", (422, "invalid_query")),
        (b"null", (422, "invalid_query")),
        (b"{}", (422, "invalid_query")),
        (b'{"text": ""}', (422, "invalid_query")),
        (b'{"text": " \\t "}', (422, "invalid_query")),
        (b'{"text": "a\\u0000b"}', (422, "invalid_query")),
        (b'{"text": 5}', (422, "invalid_query")),
        (b'{"text": "a", "limit": 0}', (422, "invalid_query")),
        (b'{"text": "a", "limit": 101}', (422, "invalid_query")),
        (b'{"text": "a", "limit": "3"}', (422, "invalid_query")),
        (b'{"text": "a", "limit": true}', (422, "invalid_query")),
        (b'{"text": "a", "deadline_ms": 0}', (422, "invalid_query")),
        (b'{"text": "a", "routes": ["/"]}', (422, "invalid_query")),
        (b'{"text": "a", "colour": 1}', (422, "invalid_query")),
    ],
)
async def test_malformed_query_is_refused_with_its_code(
    node: HttpNode, body: bytes, expected: tuple[int, str]
) -> None:
    """Every malformed query gets a 4xx with a stable code, and nothing changes."""
    assert expected == await refused(node, body)


async def test_long_text_is_refused(node: HttpNode) -> None:
    """32 KiB of UTF-8 are the limit, counted in bytes."""
    assert (422, "invalid_query") == await refused(node, '{"text": "%s"}' % ("é" * 16_385))


async def test_repeated_key_takes_the_last_value(node: HttpNode) -> None:
    """RFC 8259 leaves the behaviour open."""
    answer = await node.http.post(
        "/v1/query",
        content=b'{"text": "zebra", "text": "where is my parcel"}',
        headers={"Content-Type": "application/json"},
    )

    assert "parcel" == answer.json()["route"]


async def test_problem_lists_fields_and_repeats_no_body(node: HttpNode) -> None:
    """The problem never echoes what the client sent, not even as the name of a field."""
    secret = "s3cr3t" * 2_000
    answer = await node.http.post("/v1/query", json={"text": ["s3cr3t-value"], secret: 1})

    assert 422 == answer.status_code
    assert "text" == answer.json()["errors"][0]["field"]
    assert "s3cr3t-value" not in answer.text
    assert len(answer.content) < 2_000


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json; charset=latin-1"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "Application/JSON; charset=UTF-8"}, 200),
        ({"Content-Type": "application/vnd.x+json"}, 200),
    ],
)
async def test_body_must_be_json_in_utf8(
    node: HttpNode, headers: dict[str, str], status: int
) -> None:
    """A page of another origin needs a preflight request to send JSON."""
    answer = await node.http.post("/v1/query", content=b'{"text": "a"}', headers=headers)

    assert status == answer.status_code


async def test_body_without_a_type_is_refused(node: HttpNode) -> None:
    """A body without a content type is refused with 415."""
    answer = await node.http.post("/v1/query", content=b'{"text": "a"}')

    assert (415, "unsupported_media_type") == (answer.status_code, answer.json()["code"])


async def test_batch_has_a_limit_on_texts_and_on_bytes(node: HttpNode) -> None:
    """1,024 texts, and two mebibytes together."""
    many = await node.http.post("/v1/query/batch", json={"texts": ["a"] * 1_025})
    large = await node.http.post("/v1/query/batch", json={"texts": ["a" * 30_000] * 100})
    none: dict[str, Any] = {"texts": []}
    empty = await node.http.post("/v1/query/batch", json=none)

    assert [422, 422, 422] == [many.status_code, large.status_code, empty.status_code]


async def test_full_queue_is_429_with_retry_after(tmp_path: Path) -> None:
    """A batch that does not fit now gets 429 with Retry-After; one that never fits gets 413."""
    async with http_node(tmp_path, queue_requests_max=4) as node:
        batch = {"texts": ["a", "b", "c", "d"]}
        answers = await asyncio.gather(
            *(node.http.post("/v1/query/batch", json=batch) for _ in range(16))
        )
        never = await node.http.post("/v1/query/batch", json={"texts": ["a"] * 5})
    refusals = [answer for answer in answers if answer.status_code != 200]

    assert 1 <= len(refusals) < 16
    for refusal in refusals:
        assert (429, "overloaded") == (refusal.status_code, refusal.json()["code"])
        assert int(refusal.headers["retry-after"]) >= 1
    assert (413, "too_large") == (never.status_code, never.json()["code"])


async def test_body_over_the_budget_is_429(node: HttpNode) -> None:
    """All bodies in memory share one budget; a refused request releases its part."""
    node.runtime.bodies.bytes_max = 10
    answer = await node.http.post("/v1/query", json={"text": "where is my parcel"})
    node.runtime.bodies.bytes_max = 1_000
    again = await node.http.post("/v1/query", json={"text": "where is my parcel"})

    assert (429, 200) == (answer.status_code, again.status_code)
    assert 0 == node.runtime.bodies.held_bytes


async def test_client_holds_at_most_half_of_the_memory_for_bodies() -> None:
    """Or one body of the largest size; what it releases is free again."""
    budget = BodyBudget(100, body_bytes_max=60)
    with budget.lease("heavy") as one, budget.lease("heavy") as two:
        one.take(50)
        with pytest.raises(Overloaded):
            two.take(11)
        budget.take(40, "light")
        with pytest.raises(Overloaded):
            budget.take(11, "light")
    budget.take(60, "heavy")

    assert 100 == budget.held_bytes

    budget.release(60, "heavy")
    budget.release(40, "light")

    assert 0 == budget.held_bytes


async def test_no_cache_encodes_again(node: HttpNode) -> None:
    """``no-cache`` skips the embedding cache."""
    body = {"text": "where is my parcel"}
    await node.http.post("/v1/query", json=body)
    before = node.router.status().counters.cache_hits
    await node.http.post("/v1/query", json=body, headers={"Cache-Control": "no-cache"})
    unchanged = node.router.status().counters.cache_hits
    await node.http.post("/v1/query", json={**body, "limit": 2})

    assert before == unchanged
    assert before + 1 == node.router.status().counters.cache_hits
