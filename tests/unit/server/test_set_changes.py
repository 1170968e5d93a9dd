"""``POST /v1/apply``: everything at one place of the log, or nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from http_node import HttpNode, http_node
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = pytest.mark.unit


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """A node with the routes ``refund`` and ``parcel``."""
    async with http_node(tmp_path) as node:
        await node.fill()
        yield node


async def apply(
    node: HttpNode, change: dict[str, Any], *routes: dict[str, Any], **query: str
) -> httpx.Response:
    body = "".join(json.dumps(each) + "\n" for each in (change, *routes))
    headers = {"content-type": "application/x-ndjson"}
    return await node.http.post("/v1/apply", content=body, params=query, headers=headers)


async def routes(node: HttpNode) -> dict[str, dict[str, Any]]:
    found = (await node.http.get("/v1/routes")).json()["routes"]
    return {each["name"]: each for each in found}


async def revision(node: HttpNode, name: str) -> str:
    found: str = (await routes(node))[name]["revision"]
    return found


def route(name: str, *texts: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "utterances": list(texts), **fields}


def labelled(node: HttpNode) -> dict[str, str | None]:
    return {
        text: test.route for text, test in node.router._engine().applier.replica.table.tests.items()
    }


async def wanted(node: HttpNode) -> dict[str, Any]:
    """A change that puts ``refund`` and ``new``, removes ``parcel``, and does the rest."""
    return {
        "seen": {
            "refund": await revision(node, "refund"),
            "new": None,
            "parcel": await revision(node, "parcel"),
        },
        "removed": ["parcel"],
        "settings": {"confidence_min": 0.7, "topk": 5},
        "settings_seen": {"confidence_min": 0.5, "topk": 3},
        "tests": {"money please": "refund", "rain?": None},
    }


PUT = (route("refund", "give it back", payload={"tool": 1}), route("new", "a new thing"))


async def test_everything_changes_at_one_version(node: HttpNode) -> None:
    answer = await apply(node, await wanted(node), *PUT)
    found, settings = await routes(node), (await node.http.get("/v1/settings")).json()

    assert (200, 3) == (answer.status_code, answer.json()["routes"]), answer.text
    assert {"refund", "new"} == found.keys()
    assert {answer.json()["version"]} == {each["revision"] for each in found.values()}
    assert ["give it back"] == found["refund"]["utterances"]
    assert (0.7, 5) == (settings["confidence_min"], settings["topk"])
    assert {"money please": "refund", "rain?": None} == labelled(node)
    assert [] == (await node.http.get("/v1/imports")).json()["imports"]


async def test_change_with_an_outdated_view_changes_nothing(node: HttpNode) -> None:
    """Of any of the things that it saw; the answer names them."""
    change = await wanted(node)
    before = await node.digest()
    for key, value, named in (
        ("seen", {**change["seen"], "refund": "1.1"}, "'refund' is at"),
        ("seen", {**change["seen"], "new": "1.1"}, "'new' is gone"),
        ("seen", {**change["seen"], "refund": None}, "'refund' exists now"),
        ("seen", {**change["seen"], "parcel": "1.1"}, "'parcel' is at"),
        ("settings_seen", {"confidence_min": 0.4}, "confidence_min is 0.5, not 0.4"),
        ("tests_seen", {"rain?": "refund"}, "'rain?' is gone"),
    ):
        answer = await apply(node, {**change, key: value}, *PUT)
        assert (412, "precondition_failed") == (answer.status_code, answer.json()["code"])
        assert named in answer.json()["detail"], answer.json()["detail"]

    assert before == await node.digest()


async def test_change_of_another_route_does_not_matter(node: HttpNode) -> None:
    change = await wanted(node)
    await node.http.put("/v1/routes/other", json={"utterances": ["something else"]})
    answer = await apply(node, change, *PUT)

    assert 200 == answer.status_code, answer.text
    assert {"refund", "new", "other"} == (await routes(node)).keys()


async def test_write_between_staging_and_commit_is_noticed(node: HttpNode) -> None:
    """The log decides: the body is held back until another client wrote."""
    change = await wanted(node)
    meanwhile = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield json.dumps(change).encode() + b"\n"
        yield json.dumps(PUT[0]).encode() + b"\n"
        await meanwhile.wait()
        yield json.dumps(PUT[1]).encode() + b"\n"

    sending = asyncio.create_task(
        node.http.post(
            "/v1/apply", content=body(), headers={"content-type": "application/x-ndjson"}
        )
    )
    await asyncio.sleep(0.05)
    await node.http.put("/v1/routes/refund", json={"utterances": ["what others wrote"]})
    meanwhile.set()
    answer = await sending

    assert (412, "precondition_failed") == (answer.status_code, answer.json()["code"])
    assert ["what others wrote"] == (await routes(node))["refund"]["utterances"]
    assert "new" not in await routes(node)
    assert [] == (await node.http.get("/v1/imports")).json()["imports"]


async def test_one_of_two_equal_views_wins(node: HttpNode) -> None:
    change = await wanted(node)
    answers = await asyncio.gather(
        *(apply(node, change, route("refund", f"text {n}"), route("new", "x")) for n in range(4))
    )

    assert [200, 412, 412, 412] == sorted(answer.status_code for answer in answers)


async def test_repeated_change_has_the_effect_of_one(node: HttpNode) -> None:
    change = await wanted(node)
    first = await apply(node, change, *PUT, import_id="one")
    again = await apply(node, change, *PUT, import_id="one")
    other = await apply(node, {**change, "tests": {}}, *PUT, import_id="one")

    assert first.json() == again.json()
    assert (422, "idempotency_conflict") == (other.status_code, other.json()["code"])


@pytest.mark.parametrize(
    ("change", "put", "code"),
    [
        ({"seen": {}}, route("a", "x"), "invalid_route"),
        ({"seen": {"a": None}, "removed": ["a"]}, None, "invalid_route"),
        ({"seen": {"refund": "x"}}, None, "invalid_route"),
        ({"colour": "red"}, None, "invalid_route"),
        ({"settings": {"colour": "red"}}, None, "invalid_route"),
        ({"settings": {"topk": 0}}, None, "invalid_route"),
        ({"settings": {"topk": "3"}}, None, "invalid_route"),
        ({"settings": {"ignore": ["("]}}, None, "invalid_route"),
        ({"tests": {"x": "a"}, "tests_removed": ["x"]}, None, "invalid_route"),
        ({"tests": {"": "a"}}, None, "invalid_route"),
        ({"seen": {"a": None}}, {"name": "a", "utterances": []}, "invalid_route"),
        ({"seen": {"a": None}}, {"name": "a", "utterances": ["x"], "b": 1}, "invalid_route"),
        ([], None, "invalid_route"),
    ],
)
async def test_malformed_change_changes_nothing(
    node: HttpNode, change: Any, put: dict[str, Any] | None, code: str
) -> None:
    before = await node.digest()
    answer = await apply(node, change, *([put] if put else []))

    assert (422, code) == (answer.status_code, answer.json()["code"]), answer.text
    assert before == await node.digest()


async def test_error_in_the_last_line_changes_nothing(node: HttpNode) -> None:
    """And names the line; nothing stays staged."""
    answer = await apply(node, await wanted(node), *PUT, {"name": "new", "utterances": ["x"]})

    assert 422 == answer.status_code
    assert "line 4" in answer.json()["detail"]
    assert {"refund", "parcel"} == (await routes(node)).keys()
    assert [] == (await node.http.get("/v1/imports")).json()["imports"]


async def test_settings_need_the_scope_admin(tmp_path: Path) -> None:
    keys = {scope: make_key() for scope in ("write", "admin")}
    path = tmp_path / "keys"
    path.write_text("".join(key_line(key, [name], name) + "\n" for name, key in keys.items()))
    path.chmod(0o600)
    async with http_node(tmp_path, api_keys_file=path) as node:
        for scope, settings, status in (
            ("write", {"topk": 4}, 403),
            ("write", {}, 200),
            ("admin", {"topk": 4}, 200),
        ):
            node.http.headers["authorization"] = f"Bearer {keys[scope]}"
            change = {"seen": {scope: None}, "settings": settings}
            answer = await apply(node, change, route(scope, "x"))
            assert status == answer.status_code, answer.text


async def test_first_write_of_a_database_takes_settings(tmp_path: Path) -> None:
    """It founds the log, which brings settings of its own."""
    async with http_node(tmp_path) as node:
        answer = await apply(node, {"seen": {"a": None}, "settings": {"topk": 4}}, route("a", "x"))
        settings = (await node.http.get("/v1/settings")).json()

    assert 200 == answer.status_code, answer.text
    assert (4, 0.5) == (settings["topk"], settings["confidence_min"])


async def test_many_texts_and_tests(node: HttpNode) -> None:
    """10,000 utterances in one change; tests beyond an entry follow."""
    given = [route(f"r{n}", *(f"route {n} text {m}" for m in range(100))) for n in range(100)]
    tests = {
        f"a query with the number {n} and some more words": f"r{n % 100}" for n in range(3_000)
    }
    answer = await apply(
        node, {"seen": {each["name"]: None for each in given}, "tests": tests}, *given
    )

    assert (200, 100) == (answer.status_code, answer.json()["routes"]), answer.text
    assert tests == labelled(node)


async def test_history_shows_what_a_change_did(node: HttpNode) -> None:
    version = (await apply(node, await wanted(node), *PUT)).json()["version"]
    (entry,) = (await node.http.get("/v1/history", params={"limit": 1})).json()["entries"]
    changes = {(each["kind"], each["name"]): each for each in entry["changes"]}

    assert ("commit_plan", version) == (entry["action"], entry["version"])
    assert {
        ("route", "refund"), ("route", "new"), ("route", "parcel"), ("settings", ""), ("tests", ""),
    } == changes.keys()  # fmt: skip
    assert changes["route", "parcel"]["after"] is None
    assert changes["route", "parcel"]["before"]["utterances"]
    assert changes["route", "new"]["before"] is None
    assert ["give it back"] == changes["route", "refund"]["after"]["utterances"]
    assert (0.5, 0.7) == tuple(
        changes["settings", ""][side]["confidence_min"] for side in ("before", "after")
    )
    assert {"money please": "refund", "rain?": None} == changes["tests", ""]["after"]
    for name in ("refund", "parcel", "new"):
        shown = (await node.http.get("/v1/history", params={"route": name})).json()["entries"]
        assert version in {each["version"] for each in shown}, name
