"""`ignore` patterns and word repair over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from http_node import HttpNode, http_node
from synaptoroute.encoder import HashEncoder

pytestmark = pytest.mark.unit

REMINDER = r"(?s)<system-reminder>.*?</system-reminder>"
QUOTED = r"(?m)^>.*$"
STAMP = r"\[\d{4}-\d\d-\d\dT[0-9:]+Z?\]"
NOISE = (
    "<system-reminder>\nThe user opened parcel.py. Do not mention this reminder. Where is it?\n"
    "</system-reminder>\n[2026-01-01T10:00:00Z] I want my money back\n> where is my parcel\n> when"
)


class WordEncoder(HashEncoder):
    """An encoder that knows some words."""

    def whole_words(self) -> Mapping[str, int]:
        return {"where": 0, "what": 1}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    async with http_node(tmp_path, encoder=WordEncoder(64)) as started:
        await started.fill()
        yield started


async def set_settings(node: HttpNode, **changed: Any) -> Any:
    settings = (await node.http.get("/v1/settings")).json()
    return await node.http.put("/v1/settings", json={**settings, **changed})


async def ask(node: HttpNode, text: str, **more: Any) -> Any:
    answer = await node.http.post("/v1/query", json={"text": text, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_noise_of_a_harness_is_cut(node: HttpNode) -> None:
    """Cut before the exact match, and shown by ``explain``."""
    before = await ask(node, NOISE)
    assert (await set_settings(node, ignore=[REMINDER, QUOTED, STAMP])).status_code == 200
    after = await ask(node, NOISE, explain=True)

    assert before["reason"] != "exact"
    assert (after["route"], after["reason"]) == ("refund", "exact")
    assert after["encoded_text"] == "I want my money back"
    assert "encoded_text" not in await ask(node, NOISE)
    assert "encoded_text" not in await ask(node, "I want my money back", explain=True)
    assert (await node.http.get("/v1/settings")).json()["ignore"] == [REMINDER, QUOTED, STAMP]


async def test_a_text_of_noise_alone_is_not_understood(node: HttpNode) -> None:
    await set_settings(node, ignore=[QUOTED])
    found = await ask(node, "> where is my parcel", explain=True)
    assert (found["route"], found["reason"], found["encoded_text"]) == (None, "not_understood", "")


@pytest.mark.parametrize(
    "ignore", [["("], [r"(a)\1"], ["a*"], [""], ["x" * 257], ["x"] * 33, "x", [1], ["a\u0000"]]
)
async def test_malformed_patterns_are_refused_where_they_are_written(
    node: HttpNode, ignore: Any
) -> None:
    before = (await node.http.get("/v1/settings")).json()
    answers = [
        await set_settings(node, ignore=ignore),
        await node.http.post("/v1/preview/texts", json={"texts": ["x"], "ignore": ignore}),
    ]
    for answer, code in zip(answers, ("invalid_route", "invalid_query"), strict=True):
        assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
        assert answer.json()["errors"][0]["field"].startswith("ignore")
    assert (await node.http.get("/v1/settings")).json() == before


async def test_readings_are_previewed(node: HttpNode) -> None:
    """With the patterns of the settings, or with others."""
    texts = ["> old\n where is my parcle and give me my money back", "fine"]

    async def read(**more: Any) -> Any:
        answer = await node.http.post("/v1/preview/texts", json={"texts": texts, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()["texts"]

    plain, cut = await read(), await read(ignore=[QUOTED])
    assert plain[0]["encoded_text"].startswith("> old")
    assert cut[0]["encoded_text"] == "where is my parcel and give me my money back"
    assert cut[0]["repairs"] == [{"written": "parcle", "read": "parcel"}]
    assert cut[1] == {"text": "fine", "encoded_text": "fine", "repairs": [], "spans": [[0, 4]]}
    assert [texts[0][slice(*span)] for span in cut[0]["spans"]][-1] == "give me my money back"
    await set_settings(node, ignore=[QUOTED])
    assert await read() == cut
    assert await read(ignore=[]) == plain


async def test_repair_can_be_switched_off(node: HttpNode) -> None:
    """New route sets have it on."""
    assert (await node.http.get("/v1/settings")).json()["repair_words"] is True
    assert (await ask(node, "where is my parcle", explain=True))["repairs"]
    await set_settings(node, repair_words=False)
    assert "repairs" not in await ask(node, "where is my parcle", explain=True)
