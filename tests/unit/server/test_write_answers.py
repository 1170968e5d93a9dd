"""Answers to writes: the version in each, and what is known of a write that failed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from http_node import HttpNode, http_node, on_socket
from routers import HeldEncoder
from synaptoroute.errors import SequencerUnavailable, StorageUnavailable
from synaptoroute.log import Appended
from synaptoroute.router import writes

pytestmark = pytest.mark.unit

ANSWER_SECONDS_MAX = 2.0


@pytest.fixture
def encoder() -> HeldEncoder:
    return HeldEncoder()


@pytest.fixture
async def node(tmp_path: Path, encoder: HeldEncoder) -> AsyncIterator[HttpNode]:
    """A node with two routes."""
    async with http_node(tmp_path, encoder=encoder) as started:
        await started.fill()
        yield started


@pytest.mark.parametrize(
    ("method", "path", "more", "status"),
    [
        ("GET", "/v1/routes/refund", {}, 200),
        ("GET", "/v1/routes/refund", {"headers": {"If-None-Match": "*"}}, 304),
        ("GET", "/v1/routes/nobody", {}, 404),
        ("GET", "/v1/nothing", {}, 404),
        ("GET", f"/v1/ops/{'0' * 32}", {}, 404),
        ("GET", "/v1/routes?limit=0", {}, 422),
        ("GET", "/v1/settings", {}, 200),
        ("GET", "/v1/conflicts", {}, 200),
        ("GET", "/v1/cluster", {}, 200),
        ("POST", "/v1/routes", {}, 405),
        ("POST", "/v1/query", {"json": {"text": "x"}}, 200),
        ("POST", "/v1/query", {"json": {"text": ""}}, 422),
        ("POST", "/v1/query/batch", {"json": {"texts": ["x"]}}, 200),
        ("PUT", "/v1/routes/refund", {"json": {"utterances": []}}, 422),
        ("PUT", "/v1/routes/refund", {"json": {"utterances": ["a"]}}, 200),
        (
            "PUT",
            "/v1/routes/refund",
            {"json": {"utterances": ["a"]}, "headers": {"If-Match": '"9.9"'}},
            412,
        ),
        ("PATCH", "/v1/routes/nobody", {"json": {"threshold": 0.5}}, 404),
        ("DELETE", "/v1/routes/nobody", {}, 404),
        ("DELETE", "/v1/routes/refund", {}, 200),
    ],
)
async def test_every_answer_carries_the_version(
    node: HttpNode, method: str, path: str, more: dict[str, object], status: int
) -> None:
    """Also errors of reads, writes, parameters and unknown paths."""
    answer = await node.http.request(method, path, **more)  # type: ignore[arg-type]
    async with on_socket(node) as client:
        on_wire = await client.request(method, path, **more)  # type: ignore[arg-type]

    assert status == answer.status_code
    for each in (answer, on_wire):
        assert 1 == len(each.headers.get_list("SR-Version")), (each.status_code, each.text)
        assert each.headers["SR-Version"].startswith("1.")


async def test_rejected_write_names_its_place(node: HttpNode) -> None:
    """The header is the place at which it was rejected; the answer has its identity."""
    answer = await node.http.delete("/v1/routes/nobody")
    shown = await node.http.get(f"/v1/ops/{answer.headers['SR-Op-Id']}")

    assert answer.json()["version"] == answer.headers["SR-Version"]
    assert answer.json()["version"] == shown.headers["SR-Version"]
    assert ("rejected", "route_not_found") == (shown.json()["status"], shown.json()["code"])


async def test_encoding_counts_towards_the_timeout(node: HttpNode, encoder: HeldEncoder) -> None:
    """A write that was not encoded in time was not taken."""
    encoder.write_gate.clear()
    started = time.monotonic()
    answer = await node.http.put(
        "/v1/routes/slow?ack_timeout=0.2", json={"utterances": ["slow words"]}
    )
    seconds = time.monotonic() - started
    encoder.write_gate.set()
    later = await node.http.get("/v1/routes/slow")

    assert (504, "deadline_exceeded") == (answer.status_code, answer.json()["code"])
    assert "not_taken" == answer.json()["outcome"]
    assert seconds < ANSWER_SECONDS_MAX
    assert 404 == later.status_code


async def test_write_without_a_timeout_waits_for_its_encoding(
    node: HttpNode, encoder: HeldEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default counts from the end of the encoding: a large route on a slow machine."""
    monkeypatch.setattr(writes, "ACK_SECONDS_DEFAULT", 0.3)
    encoder.write_gate.clear()
    writing = asyncio.create_task(node.http.put("/v1/routes/a", json={"utterances": ["slow"]}))
    await asyncio.sleep(0.6)
    encoder.write_gate.set()
    answer = await writing

    assert answer.status_code in (201, 202)  # a busy machine may be late after the encoding


async def test_repeated_key_with_ack_accepted_gets_the_same_answer(node: HttpNode) -> None:
    """The place of the first write, not of the repeat."""
    answers = [
        await node.http.put(
            "/v1/routes/a?ack=accepted",
            json={"utterances": ["a"]},
            headers={"Idempotency-Key": "once"},
        )
        for _ in range(3)
    ]

    assert {202} == {each.status_code for each in answers}
    assert 1 == len({each.text for each in answers})
    assert 1 == len({each.headers["SR-Version"] for each in answers})
    assert answers[0].json()["version"] == answers[0].headers["SR-Version"]


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (SequencerUnavailable("away", outcome="unknown"), 503, "unknown"),
        (SequencerUnavailable("away", outcome="not_taken"), 503, "not_taken"),
        (SequencerUnavailable("away"), 503, "not_taken"),
    ],
)
async def test_failed_write_says_what_is_known_of_it(
    node: HttpNode,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    outcome: str,
) -> None:
    async def fail(*_: object) -> Appended:
        raise error

    monkeypatch.setattr(node.router._log, "append", fail)
    answers = [
        await node.http.put("/v1/routes/a", json={"utterances": ["a"]}),
        await node.http.delete("/v1/routes/refund"),
        await node.http.patch("/v1/routes/refund", json={"threshold": 0.1}),
    ]

    for answer in answers:
        assert (status, outcome) == (answer.status_code, answer.json()["outcome"])
        assert answer.headers["SR-Op-Id"] == answer.json()["op_id"]


@pytest.mark.parametrize(("reason", "outcome"), [("disk_full", "not_taken"), ("io", "unknown")])
async def test_write_that_the_disk_refuses_says_what_is_known_of_it(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch, reason: str, outcome: str
) -> None:
    def fail(*_: object) -> None:
        raise StorageUnavailable("the disk fails", reason=reason)

    monkeypatch.setattr(node.router._storage, "commit", fail)
    answer = await node.http.delete("/v1/routes/refund")

    assert (503, outcome) == (answer.status_code, answer.json()["outcome"])


async def test_lost_answer_is_not_forgotten_by_a_later_refusal(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of another node with the same key answers one whose own append failed."""
    put = node.http.put(
        "/v1/routes/a", json={"utterances": ["a"]}, headers={"Idempotency-Key": "twin"}
    )
    log = node.router._log
    append = log.append

    async def fail(*given: object) -> Appended:
        await append(*given)  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            while "a" not in await names(node):
                await asyncio.sleep(0.01)
        raise SequencerUnavailable("away", outcome="unknown")

    monkeypatch.setattr(log, "append", fail)
    answer = await put

    assert 201 == answer.status_code


async def names(node: HttpNode) -> set[str]:
    """Names of the routes."""
    page: httpx.Response = await node.http.get("/v1/routes")
    return {each["name"] for each in json.loads(page.text)["routes"]}


@pytest.mark.parametrize(("ack", "held_by"), [("applied", None), ("quorum", "1/1"), ("all", "1/1")])
async def test_quorum_says_how_many_disks_it_was(
    node: HttpNode, ack: str, held_by: str | None
) -> None:
    """A quorum of one voter is one disk, and the answer says so."""
    path = f"/v1/routes/held?ack={ack}"
    answer = await node.http.put(path, json={"name": "held", "utterances": ["a"]})
    assert answer.is_success
    assert held_by == answer.headers.get("SR-Held-By")
