"""The history: who wrote what and when, and nobody can write in another's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from http_node import PARCEL, REFUND, HttpNode, http_node
from synaptoroute.author import AUTHOR
from synaptoroute.core.codec import LEVEL
from synaptoroute.router.writes import AUTHOR_LEVEL
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = pytest.mark.unit


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """A key for each of two people, and their file."""
    made = {name: make_key() for name in ("alice", "bob")}
    lines = [key_line(key, ["read", "write", "admin"], name) for name, key in made.items()]
    (tmp_path / "keys").write_text("\n".join(lines))
    return made


async def history(node: HttpNode, key: str | None = None, **query: Any) -> list[dict[str, Any]]:
    """All pages of the history."""
    found: list[dict[str, Any]] = []
    headers = {"X-API-Key": key} if key else {}
    while True:
        answer = await node.http.get("/v1/history", params=query, headers=headers)
        assert answer.status_code == 200, answer.text
        found += answer.json()["entries"]
        if answer.json()["next_before"] is None:
            return found
        query["before"] = answer.json()["next_before"]


async def test_each_write_names_its_author(tmp_path: Path, keys: dict[str, str]) -> None:
    """Every way of writing; headers and bodies of a client cannot change the name."""
    assert AUTHOR_LEVEL <= LEVEL
    forged = {"SR-Author": "bob", "X-Author": "bob", "SR-Actor": "bob", "Authorization": ""}
    by = {name: {"X-API-Key": key} for name, key in keys.items()}
    async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
        http = node.http
        del forged["Authorization"]
        await http.put("/v1/routes/refund", json=REFUND, headers={**by["alice"], **forged})
        await http.put("/v1/routes/parcel", json=PARCEL, headers=by["bob"])
        added = {"utterances": ["money please"]}
        await http.post("/v1/routes/refund/utterances", json=added, headers=by["bob"])
        await http.patch("/v1/routes/refund", json={"threshold": 0.4}, headers=by["alice"])
        lines = b'{"name": "refund", "utterances": ["x"]}\n{"name": "other", "utterances": ["y"]}\n'
        ndjson = {**by["bob"], "Content-Type": "application/x-ndjson"}
        imported = await http.post("/v1/import", content=lines, headers=ndjson)
        settings = (await http.get("/v1/settings", headers=by["alice"])).json()
        await http.put("/v1/settings", json={**settings, "topk": 5}, headers=by["alice"])
        await http.delete("/v1/routes/parcel", headers=by["bob"])
        await http.delete("/v1/routes/absent", headers=by["alice"])
        everything = await history(node, keys["alice"], limit=2)
        of_refund = await history(node, keys["alice"], route="refund", limit=1)

    assert imported.status_code == 200
    assert [
        ("delete_route", "alice", "rejected"),
        ("delete_route", "bob", "applied"),
        ("put_settings", "alice", "applied"),
        ("import_commit", "bob", "applied"),
        ("import_begin", "bob", "applied"),
        ("patch_route", "alice", "applied"),
        ("add_utterances", "bob", "applied"),
        ("put_route", "bob", "applied"),
        ("put_route", "alice", "applied"),
        ("open_epoch", None, "applied"),
    ] == [(each["action"], each["author"], each["status"]) for each in everything]
    assert ["import_commit", "patch_route", "add_utterances", "put_route"] == [
        each["action"] for each in of_refund
    ]
    assert all(each["at"].startswith("20") for each in everything)


async def test_history_names_no_key_and_needs_one(tmp_path: Path, keys: dict[str, str]) -> None:
    async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
        headers = {"X-API-Key": keys["alice"]}
        await node.http.put("/v1/routes/refund", json=REFUND, headers=headers)
        bare = await node.http.get("/v1/history")
        shown = await node.http.get("/v1/history", headers=headers)

    assert bare.status_code == 401
    assert keys["alice"] not in shown.text


async def test_author_of_one_request_is_not_that_of_the_next(
    tmp_path: Path, keys: dict[str, str]
) -> None:
    """Nor does the name of a request reach the node's own writes."""
    async with http_node(tmp_path) as node:
        await node.http.put("/v1/routes/refund", json=REFUND)
        found = await history(node)

    assert {None} == {each["author"] for each in found}
    assert AUTHOR.get() == ""


async def test_replacing_import_changes_each_route(tmp_path: Path, keys: dict[str, str]) -> None:
    """The history of a route contains the import that deleted it."""
    headers = {"X-API-Key": keys["bob"]}
    async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
        await node.http.put("/v1/routes/refund", json=REFUND, headers=headers)
        await node.http.post(
            "/v1/import?replace=true",
            json=[{"name": "other", "utterances": ["x"]}],
            headers=headers,
        )
        found = await history(node, keys["bob"], route="refund")

    assert ["import_commit", "put_route"] == [each["action"] for each in found]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "before=0", "route=a/b", "before=x"])
async def test_malformed_question_is_refused(tmp_path: Path, query: str) -> None:
    async with http_node(tmp_path) as node:
        answer: httpx.Response = await node.http.get(f"/v1/history?{query}")

    assert (422, "invalid_parameter") == (answer.status_code, answer.json()["code"])
