"""Route names in letters of all scripts over HTTP: one name in NFC, from level 4 of the log on."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest

from http_node import REFUND, HttpNode, http_node
from synaptoroute.engine import engine as engine_module

pytestmark = [pytest.mark.unit, pytest.mark.asyncio]

NAMES = ("退款", "возврат денег", "été", "हिन्दी", "สวัสดี")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    async with http_node(tmp_path) as made:
        yield made


@pytest.mark.parametrize("name", NAMES)
async def test_such_a_name_works_everywhere(node: HttpNode, name: str) -> None:
    path = f"/v1/routes/{quote(name)}"
    body = {"utterances": ["I want my money back"], "payload": name}
    assert (await node.http.put(path, json=body)).is_success
    assert 200 == (await node.http.patch(path, json={"threshold": 0.5})).status_code
    added = await node.http.post(f"{path}/utterances", json={"utterances": ["zwei"]})
    assert 200 == added.status_code
    assert [name] == [each["name"] for each in (await node.http.get("/v1/routes")).json()["routes"]]
    asked = {"text": "I want my money back", "routes": [name], "prior": {name: 1.0}}
    found = (await node.http.post("/v1/query", json=asked)).json()
    assert (name, "exact") == (found["route"], found["reason"])
    assert name == json.loads((await node.http.get("/v1/export")).text)["name"]
    history = (await node.http.get("/v1/history", params={"route": name})).json()["entries"]
    assert {name} == {each["route"] for each in history}
    assert 200 == (await node.http.delete(path)).status_code


async def test_composed_and_decomposed_forms_are_one_name(node: HttpNode) -> None:
    name = "été"
    decomposed = unicodedata.normalize("NFD", name)
    path = f"/v1/routes/{quote(decomposed)}"
    assert decomposed != name
    body = {"name": decomposed, "utterances": ["I want my money back"]}
    assert (await node.http.put(path, json=body)).is_success
    assert name == (await node.http.get(path)).json()["name"]
    imported = [{"name": decomposed, "utterances": ["hello"]}]
    assert 200 == (await node.http.post("/v1/import", json=imported)).status_code
    assert [name] == [each["name"] for each in (await node.http.get("/v1/routes")).json()["routes"]]
    asked = {"text": "hello", "routes": [decomposed], "prior": {decomposed: 1.0}}
    assert name == (await node.http.post("/v1/query", json=asked)).json()["route"]
    twice = [{"name": each, "utterances": ["hello"]} for each in (name, decomposed)]
    refused = await node.http.post("/v1/import", json=twice)
    assert (422, True) == (refused.status_code, "already" in refused.json()["detail"])
    prior = {"text": "hello", "prior": {name: 1.0, decomposed: 2.0}}
    assert 422 == (await node.http.post("/v1/query", json=prior)).status_code


@pytest.mark.parametrize("name", ["a\u200db", "👍", "-ü", "ü ", "ㅤ", "ü\u034f"])
async def test_refused_name_is_shown(node: HttpNode, name: str) -> None:
    refused = await node.http.put(f"/v1/routes/{quote(name)}", json=REFUND)
    assert 422 == refused.status_code
    imported = await node.http.post("/v1/import", json=[{"name": name, **REFUND}])
    assert 422 == imported.status_code
    if name[0] != "-" and name[-1] != " ":
        assert "U+" in imported.json()["detail"]


async def test_name_is_refused_until_the_log_is_finalized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "LEVEL", 3)
    path = f"/v1/routes/{quote('退款')}"
    async with http_node(tmp_path) as node:
        await node.http.put("/v1/routes/refund", json=REFUND)
        answers = [
            await node.http.put(path, json=REFUND),
            await node.http.post("/v1/import", json=[{"name": "退款", **REFUND}]),
            await node.http.delete(path),
        ]
        assert [(409, "not_finalized")] * 3 == [
            (each.status_code, each.json()["code"]) for each in answers
        ]
        assert all("cluster finalize" in each.text for each in answers)
        await node.http.post("/v1/cluster/finalize", json={"apply": True})
        assert (await node.http.put(path, json=REFUND)).is_success
    async with http_node(tmp_path) as node:
        assert "退款" == (await node.http.get(path)).json()["name"]
