"""Erasure of texts: from the state, from the memory of the node, and from its files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from http_node import HttpNode, http_node
from synaptoroute.core.mutation import ForkSet
from synaptoroute.router import WriteOptions

pytestmark = pytest.mark.unit

SECRET = "my name is Ann Smith"
ROUTES: dict[str, dict[str, Any]] = {
    "ann": {"utterances": [SECRET]},
    "names": {
        "utterances": ["who are you", "My name is  Ann Smith!"],
        "negatives": ["my name is ann smith"],
    },
    "other": {"utterances": ["something else"], "description": SECRET},
}


async def fill(node: HttpNode) -> None:
    for name, body in ROUTES.items():
        answer = await node.http.put(f"/v1/routes/{name}", json=body)
        assert 201 == answer.status_code, answer.text
    tests = [{"text": SECRET, "route": "names"}, {"text": "hello", "route": None}]
    await node.http.put("/v1/tests", json={"tests": tests})


async def erase(node: HttpNode, *texts: str, **headers: str) -> httpx.Response:
    return await node.http.post("/v1/erase", json={"texts": list(texts)}, headers=headers)


async def clean(node: HttpNode) -> None:
    """Wait until the op log holds nothing from before the erasure."""
    for _ in range(200):
        found = (await node.http.get("/v1/erase")).json()
        if found["is_clean"]:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"not clean: {found}")


async def test_erasure_removes_a_text_everywhere(tmp_path: Path) -> None:
    """In every set, whatever its case, its spaces and its punctuation."""
    async with http_node(tmp_path, unmatched_kept=10) as node:
        await fill(node)
        writer = node.router._writer()
        await writer.write(ForkSet("default", "copy"), WriteOptions())
        await node.http.post("/v1/query", json={"text": f"{SECRET}, he said, who are you anyway"})
        answer = await erase(node, SECRET)
        routes = (await node.http.get("/v1/routes")).json()["routes"]
        tests = (await node.http.get("/v1/tests")).json()["tests"]
        sets = node.router._engine().applier.replica.sets
        copied = sets.table_of("copy")

    assert 200 == answer.status_code, answer.text
    assert {
        "utterances": 4,
        "descriptions": 2,
        "negatives": 2,
        "tests": 2,
        "feedback": 0,
        "routes_deleted": 2,
        "unmatched": 0,
    } == answer.json()["found"]
    assert {"names": ["who are you"], "other": ["something else"]} == {
        each["name"]: each["utterances"] for each in routes
    }
    assert [None, []] == [routes[1].get("description"), routes[0].get("negatives", [])]
    assert [{"text": "hello", "route": None}] == tests
    assert copied is not None
    assert {"names", "other"} == copied.routes.keys()
    assert {"hello"} == copied.tests.keys()


async def test_files_of_the_node_hold_no_byte_of_it(tmp_path: Path) -> None:
    """Neither the database nor its WAL nor its checkpoint, also in pages that are free."""
    async with http_node(tmp_path) as node:
        await fill(node)
        many = [f"{SECRET} number {number}" for number in range(300)]
        await node.http.put("/v1/routes/many", json={"utterances": many})
        await node.http.delete("/v1/routes/many")
        await node.http.put("/v1/routes/ann", json={"utterances": ["nobody"]})
        await asyncio.to_thread(node.router._engine().database.checkpoint)
        assert any(b"Ann Smith" in path.read_bytes() for path in tmp_path.iterdir())
        answer = await erase(node, SECRET)
        await clean(node)
        history = (await node.http.get("/v1/history")).json()["entries"]
        held = [path.name for path in tmp_path.iterdir() if b"Ann Smith" in path.read_bytes()]

    assert 200 == answer.status_code, answer.text
    assert [] == held
    assert ["erase_texts"] == [each["action"] for each in history]
    held = [path.name for path in tmp_path.iterdir() if b"Ann Smith" in path.read_bytes()]
    assert [] == held


async def test_memory_of_the_node_holds_no_query_with_it(tmp_path: Path) -> None:
    async with http_node(tmp_path, unmatched_kept=10) as node:
        await node.http.put("/v1/routes/other", json={"utterances": ["something else"]})
        settings = (await node.http.get("/v1/settings")).json()
        await node.http.put("/v1/settings", json={**settings, "confidence_min": 0.99})
        for text in (SECRET, f"{SECRET.upper()} !", "where is it"):
            await node.http.post("/v1/query", json={"text": text})
        engine = node.router._engine()
        before = len(engine.unmatched.newest)
        answer = await erase(node, SECRET)
        left = [each.text for each in engine.unmatched.newest]

    assert 3 == before
    assert 2 == answer.json()["found"]["unmatched"]
    assert ["where is it"] == left


async def test_erased_text_may_be_put_again(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await fill(node)
        await erase(node, SECRET)
        await clean(node)
        again = await node.http.put("/v1/routes/ann", json={"utterances": [SECRET]})
        found = (await node.http.get("/v1/routes/ann")).json()

    assert 201 == again.status_code
    assert [SECRET] == found["utterances"]


async def test_text_that_is_nowhere_is_erased_from_the_logs(tmp_path: Path) -> None:
    """It may have been deleted before."""
    async with http_node(tmp_path) as node:
        await fill(node)
        await node.http.delete("/v1/tests")
        for name in ROUTES:
            await node.http.delete(f"/v1/routes/{name}")
        answer = await erase(node, SECRET)
        await clean(node)
        held = [path.name for path in tmp_path.iterdir() if b"Ann Smith" in path.read_bytes()]

    assert 200 == answer.status_code, answer.text
    assert [] == held


async def test_repeated_erasure_has_one_effect(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await fill(node)
        key = {"Idempotency-Key": "erase-1"}
        first = await erase(node, SECRET, **key)
        second = await erase(node, SECRET, **key)
        other = await erase(node, "another text", **key)

    assert first.json()["version"] == second.json()["version"]
    assert (422, "idempotency_conflict") == (other.status_code, other.json()["code"])


@pytest.mark.parametrize("body", [{}, {"texts": []}, {"texts": [""]}, {"texts": ["x"] * 1_000}])
async def test_malformed_erasure_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    async with http_node(tmp_path) as node:
        answer = await node.http.post("/v1/erase", json=body)

    assert 422 == answer.status_code
