"""The history shows what was before and after, and a revert restores it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from http_node import PARCEL, REFUND, HttpNode, http_node
from synaptoroute.web.api_keys import key_line, make_key

pytestmark = pytest.mark.unit


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    async with http_node(tmp_path) as node:
        yield node


async def put(node: HttpNode, name: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await node.http.put(f"/v1/routes/{name}", json=body)
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


async def newest(node: HttpNode, **query: Any) -> dict[str, Any]:
    answer = await node.http.get("/v1/history", params={"limit": 1, **query})
    found: dict[str, Any] = answer.json()["entries"][0]
    return found


async def change(node: HttpNode, **query: Any) -> dict[str, Any]:
    """The only change of the newest entry."""
    (found,) = (await newest(node, **query))["changes"]
    assert found["is_known"]
    result: dict[str, Any] = found
    return result


async def revert(node: HttpNode, version: str, **headers: str) -> httpx.Response:
    return await node.http.post(f"/v1/history/{version}/revert", headers=headers)


async def route(node: HttpNode, name: str) -> dict[str, Any] | None:
    answer = await node.http.get(f"/v1/routes/{name}")
    if answer.status_code == 404:
        return None
    found: dict[str, Any] = answer.json()
    return {
        key: value
        for key, value in found.items()
        if key not in ("revision", "version", "effective_threshold", "effective_confidence_min")
    }


async def test_entries_show_what_was_before_and_after(node: HttpNode) -> None:
    await put(node, "refund", REFUND)
    created = await change(node)
    await node.http.post("/v1/routes/refund/utterances", json={"utterances": ["money please"]})
    added = await change(node)
    await node.http.patch("/v1/routes/refund", json={"threshold": 0.4, "description": "money"})
    patched = await change(node)
    await node.http.request(
        "DELETE", "/v1/routes/refund/utterances", json={"utterances": ["money please"]}
    )
    removed = await change(node)
    await node.http.delete("/v1/routes/refund")
    deleted = await change(node)

    assert ("route", "refund", "default") == tuple(
        created[name] for name in ("kind", "name", "route_set")
    )
    assert created["before"] is None
    assert created["after"]["utterances"] == REFUND["utterances"]
    assert created["after"]["payload"] == REFUND["payload"]
    assert added["before"] == created["after"]
    assert added["after"]["utterances"] == [*REFUND["utterances"], "money please"]
    assert patched["before"] == added["after"]
    assert (0.4, "money") == (patched["after"]["threshold"], patched["after"]["description"])
    assert removed["before"] == patched["after"]
    assert removed["after"] == {**patched["after"], "utterances": REFUND["utterances"]}
    assert deleted["before"] == removed["after"]
    assert deleted["after"] is None


async def test_import_shows_each_route_that_it_changed(node: HttpNode) -> None:
    await node.fill()
    routes = [{"name": "refund", "utterances": ["x"]}, {"name": "other", "utterances": ["y"]}]
    answer = await node.http.post("/v1/import?replace=true", json=routes)
    found = await newest(node)

    assert answer.status_code == 200, answer.text
    assert found["action"] == "import_commit"
    shown = {each["name"]: (each["before"], each["after"]) for each in found["changes"]}
    assert {"refund", "other", "parcel"} == set(shown)
    assert shown["parcel"][0]["utterances"] == PARCEL["utterances"]
    assert shown["parcel"][1] is None
    assert shown["other"][0] is None
    assert (REFUND["utterances"], ["x"]) == tuple(each["utterances"] for each in shown["refund"])


async def test_large_write_shows_its_route(node: HttpNode) -> None:
    """It is staged in several entries and committed by one."""
    many = [f"utterance number {number} " + "x" * 4_000 for number in range(400)]
    await put(node, "refund", REFUND)
    await node.http.post("/v1/routes/refund/utterances", json={"utterances": many})
    found = await change(node)

    assert found["before"]["utterances"] == REFUND["utterances"]
    assert len(found["after"]["utterances"]) == len(many) + 2


async def test_revision_shows_its_routes_and_settings(node: HttpNode) -> None:
    await node.fill()
    settings = (await node.http.get("/v1/settings")).json()
    body = {
        "routes": [
            {"name": "gift", "utterances": ["gift cards"], "create": True},
            {"name": "refund", "utterances": ["money please"], "negatives": ["no money"]},
        ],
        "settings": {**settings, "topk": 5},
    }
    answer = await node.http.post("/v1/revisions", json=body)
    found = (await newest(node))["changes"]

    assert answer.status_code == 200, answer.text
    assert [("route", "gift"), ("route", "refund"), ("settings", "")] == sorted(
        (each["kind"], each["name"]) for each in found
    )
    shown = {each["name"]: each for each in found}
    assert shown["gift"]["before"] is None
    assert shown["refund"]["after"]["negatives"] == ["no money"]
    assert (3, 5) == (shown[""]["before"]["topk"], shown[""]["after"]["topk"])
    assert shown[""]["before"]["aggregation"] == settings["aggregation"]


async def test_changes_are_left_out_on_request(node: HttpNode) -> None:
    await put(node, "refund", REFUND)

    assert (await newest(node, changes=False))["changes"] is None


async def test_state_that_is_not_kept_is_unknown(node: HttpNode) -> None:
    await put(node, "refund", REFUND)
    added = {"utterances": ["money please"]}
    await node.http.post("/v1/routes/refund/utterances", json=added)
    version = (await newest(node))["version"]
    seq = int(version.partition(".")[2])
    await trim_op_log(node, seq)
    (found,) = (await newest(node))["changes"]
    refused = await revert(node, version)

    assert (False, None, None) == (found["is_known"], found["before"], found["after"])
    assert (409, "not_revertible") == (refused.status_code, refused.json()["code"])


async def trim_op_log(node: HttpNode, floor: int) -> None:
    """Trim the op log below a place."""
    trim = node.router._engine().run_on_applier(lambda state: state.storage.trim_log(floor))
    await asyncio.wrap_future(trim)


async def test_revert_restores_what_each_kind_of_change_changed(node: HttpNode) -> None:
    """Replaced, extended, patched, cut and deleted: the route is as before each time."""
    await put(node, "refund", {**REFUND, "negatives": ["no refund"], "description": "money"})
    first = await route(node, "refund")
    changes: list[tuple[str, str, Any]] = [
        ("PUT", "/v1/routes/refund", PARCEL),
        ("POST", "/v1/routes/refund/utterances", {"utterances": ["money please"]}),
        ("PATCH", "/v1/routes/refund", {"threshold": 0.4, "payload": 1, "negatives": []}),
        (
            "DELETE",
            "/v1/routes/refund/utterances",
            {"utterances": ["how do I get a refund"]},
        ),
        ("DELETE", "/v1/routes/refund", None),
    ]
    for method, path, body in changes:
        wrote = await node.http.request(method, path, json=body)
        assert wrote.status_code == 200, wrote.text
        changed = await route(node, "refund")
        answer = await revert(node, wrote.json()["version"])
        found = await route(node, "refund")

        assert answer.status_code in (200, 201), answer.text
        assert changed != first
        assert found is not None
        assert first is not None
        assert sorted(found.pop("utterances")) == sorted(first["utterances"])
        assert found == {name: value for name, value in first.items() if name != "utterances"}
        entry = await newest(node)
        assert entry["status"] == "applied"


async def test_revert_of_a_creation_deletes_the_route(node: HttpNode) -> None:
    wrote = await put(node, "refund", REFUND)
    answer = await revert(node, wrote["version"])

    assert answer.status_code == 200, answer.text
    assert await route(node, "refund") is None


async def test_revert_of_a_revert_restores_the_change(node: HttpNode) -> None:
    await put(node, "refund", REFUND)
    wrote = await put(node, "refund", PARCEL)
    back = await revert(node, wrote["version"])
    again = await revert(node, back.json()["version"])
    found = await route(node, "refund")

    assert again.status_code == 200, again.text
    assert found is not None
    assert found["utterances"] == PARCEL["utterances"]


async def test_later_change_of_the_route_is_not_lost(node: HttpNode) -> None:
    """Not of another route; and the present revision in If-Match replaces it on purpose."""
    await put(node, "refund", REFUND)
    wrote = await put(node, "refund", PARCEL)
    other = await put(node, "parcel", PARCEL)
    later = await put(node, "refund", {"utterances": ["later"]})
    refused = await revert(node, wrote["version"])
    kept = await route(node, "refund")
    stale = await revert(node, wrote["version"], **{"If-Match": f'"{other["version"]}"'})
    forced = await revert(node, wrote["version"], **{"If-Match": f'"{later["version"]}"'})
    found = await route(node, "refund")

    assert (409, "change_superseded") == (refused.status_code, refused.json()["code"])
    assert refused.json()["current"] == later["version"]
    assert kept is not None
    assert found is not None
    assert kept["utterances"] == ["later"]
    assert 412 == stale.status_code, stale.text
    assert 200 == forced.status_code, forced.text
    assert found["utterances"] == REFUND["utterances"]


async def test_route_that_was_created_again_is_not_overwritten(node: HttpNode) -> None:
    await put(node, "refund", REFUND)
    gone = await node.http.delete("/v1/routes/refund")
    await put(node, "refund", PARCEL)
    refused = await revert(node, gone.json()["version"])

    assert (409, "change_superseded") == (refused.status_code, refused.json()["code"])


async def test_revert_of_an_import_restores_every_route(node: HttpNode) -> None:
    await node.fill()
    before = [await route(node, name) for name in ("refund", "parcel", "other")]
    routes = [{"name": "refund", "utterances": ["x"]}, {"name": "other", "utterances": ["y"]}]
    await node.http.post("/v1/import?replace=true", json=routes)
    answer = await revert(node, (await newest(node))["version"])

    assert answer.status_code == 200, answer.text
    assert 3 == answer.json()["count"]
    assert before == [await route(node, name) for name in ("refund", "parcel", "other")]


async def test_revert_of_settings(node: HttpNode) -> None:
    await put(node, "refund", REFUND)  # the first write founds the log with its settings
    settings = (await node.http.get("/v1/settings")).json()
    wrote = await node.http.put("/v1/settings", json={**settings, "topk": 7})
    answer = await revert(node, wrote.json()["version"])
    found = (await node.http.get("/v1/settings")).json()
    again = await revert(node, wrote.json()["version"])

    assert answer.status_code == 200, answer.text
    assert settings == found
    assert (409, "change_superseded") == (again.status_code, again.json()["code"])


async def test_revert_of_tests(node: HttpNode) -> None:
    """Those that the change did not touch stay, whatever they are by now."""
    tests = [{"text": "a", "route": "refund"}, {"text": "b", "route": None}]
    await node.http.put("/v1/tests", json={"tests": tests})
    body = {"tests": [{"text": "a", "route": None}, {"text": "c", "route": None}]}
    wrote = await node.http.patch("/v1/tests", json={**body, "removed": ["b"]})
    await node.http.patch("/v1/tests", json={"tests": [{"text": "d", "route": None}]})
    answer = await revert(node, wrote.json()["version"])
    found = (await node.http.get("/v1/tests")).json()["tests"]
    again = await revert(node, wrote.json()["version"])

    assert 200 == answer.status_code, answer.text
    assert [*tests, {"text": "d", "route": None}] == found
    assert (409, "change_superseded") == (again.status_code, again.json()["code"])


async def test_revert_of_an_import_is_one_entry_or_nothing(node: HttpNode) -> None:
    await node.fill()
    routes = [{"name": "refund", "utterances": ["x"]}, {"name": "other", "utterances": ["y"]}]
    await node.http.post("/v1/import?replace=true", json=routes)
    version = (await newest(node))["version"]
    await put(node, "other", {"utterances": ["z"]})
    before = await node.digest()
    refused = await revert(node, version)
    kept = await node.digest()
    await node.http.post("/v1/import?replace=true", json=[{"name": "new", "utterances": ["n"]}])
    answer = await revert(node, (await newest(node))["version"])
    found = (await node.http.get("/v1/routes")).json()["routes"]

    assert (409, "change_superseded") == (refused.status_code, refused.json()["code"])
    assert before == kept
    assert 200 == answer.status_code, answer.text
    assert {"refund": ["x"], "other": ["z"]} == {each["name"]: each["utterances"] for each in found}
    assert {answer.json()["version"]} == {each["revision"] for each in found}


async def test_revert_of_a_promotion(node: HttpNode) -> None:
    await put(node, "refund", REFUND)
    created = await node.http.put("/v1/aliases/support", json={"set": "default"})
    gone = await revert(node, created.json()["version"])
    restored = await revert(node, gone.json()["version"])
    record = await node.router.changes.promotions.alias("support")

    assert (200, 200) == (gone.status_code, restored.status_code), restored.text
    assert "default" == record.target


async def test_revert_does_not_name_a_set_that_was_created_again(node: HttpNode) -> None:
    await node.http.put("/v1/sets/draft")
    await node.http.put("/v1/aliases/support", json={"set": "draft"})
    moved = await node.http.put("/v1/aliases/support", json={"set": "default"})
    assert 200 == (await node.http.delete("/v1/sets/draft")).status_code
    await node.http.put("/v1/sets/draft")
    refused = await revert(node, moved.json()["version"])
    record = await node.router.changes.promotions.alias("support")

    assert (409, "change_superseded") == (refused.status_code, refused.json()["code"])
    assert "default" == record.target


async def test_repeated_revert_has_one_effect(node: HttpNode) -> None:
    await put(node, "refund", REFUND)
    wrote = await put(node, "refund", PARCEL)
    key = {"Idempotency-Key": "revert-1"}
    first = await revert(node, wrote["version"], **key)
    second = await revert(node, wrote["version"], **key)

    assert (200, 200) == (first.status_code, second.status_code), second.text
    assert first.json()["version"] == second.json()["version"]


@pytest.mark.parametrize(
    ("version", "status", "code"),
    [
        ("1.999999", 404, "change_not_found"),
        ("7.2", 404, "change_not_found"),
        ("1.1", 409, "not_revertible"),
        ("first", 422, "invalid_parameter"),
    ],
)
async def test_change_that_cannot_be_reverted(
    node: HttpNode, version: str, status: int, code: str
) -> None:
    await put(node, "refund", REFUND)
    answer = await revert(node, version)

    assert (status, code) == (answer.status_code, answer.json()["code"])


async def test_write_key_reverts_routes_and_not_settings(tmp_path: Path) -> None:
    """Settings need the scope admin, whichever way they are changed."""
    writer, admin = make_key(), make_key()
    lines = [key_line(writer, ["read", "write"], "w"), key_line(admin, ["admin"], "a")]
    (tmp_path / "keys").write_text("\n".join(lines))
    by_writer, by_admin = {"X-API-Key": writer}, {"X-API-Key": admin}
    async with http_node(tmp_path, api_keys_file=tmp_path / "keys") as node:
        http = node.http
        wrote = await http.put("/v1/routes/refund", json=REFUND, headers=by_admin)
        settings = (await http.get("/v1/settings", headers=by_admin)).json()
        body = {**settings, "topk": 7}
        changed = await http.put("/v1/settings", json=body, headers=by_admin)
        refused = await revert(node, changed.json()["version"], **by_writer)
        kept = (await http.get("/v1/settings", headers=by_admin)).json()
        allowed = await revert(node, wrote.json()["version"], **by_writer)

    assert (403, "forbidden") == (refused.status_code, refused.json()["code"])
    assert 7 == kept["topk"]
    assert 200 == allowed.status_code
