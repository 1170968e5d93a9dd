"""Goal: with the bundled encoder and default settings, answers are right, and refusals honest.

Method: the example routes and those of ``tests/data/unk_emoji.yaml``, imported over HTTP by a
real node.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from http_node import HttpNode, http_node
from repository import ROOT
from synaptoroute.cli.questions import QUESTIONS
from synaptoroute.encoder import Encoder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

EMOJI_ROUTES = """\
routes:
- name: thumbs-up
  utterances: ["\U0001f44d", "\U0001f389"]
- name: thumbs-down
  utterances: ["\U0001f44e", "\U0001f4a9"]
"""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    """A node with the example routes and default settings."""
    encoder = await asyncio.to_thread(Encoder, providers=["CPUExecutionProvider"])
    async with http_node(tmp_path, encoder=encoder) as started:  # type: ignore[arg-type]
        text = await asyncio.to_thread((ROOT / "examples/routes.yaml").read_bytes)
        await imported(started, text)
        async with asyncio.timeout(60.0):
            while await fit_state(started) != "fitted":
                await asyncio.sleep(0.2)
        yield started


async def fit_state(node: HttpNode) -> str:
    """State of the numbers behind the confidence."""
    return str((await node.http.get("/v1/settings/calibration")).json()["state"])


async def imported(node: HttpNode, body: bytes | str) -> dict[str, Any]:
    """Import a YAML document."""
    answer = await node.http.post(
        "/v1/import", content=body, headers={"Content-Type": "application/yaml"}
    )
    assert 200 == answer.status_code, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ask(node: HttpNode, text: str, **options: Any) -> dict[str, Any]:
    """The match of a text."""
    answer = await node.http.post("/v1/query", json={"text": text, **options})
    assert 200 == answer.status_code, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_emoji_match_their_equals_only(node: HttpNode) -> None:
    """All emoji have one vector; the import says that the encoder does not understand them."""
    result = await imported(node, EMOJI_ROUTES)
    found = {
        text: await ask(node, text) for text in "\U0001f44d\U0001f389\U0001f44e\U0001f4a9\U0001f600"
    }

    assert 4 == len(result["warnings"])
    assert ["thumbs-up", "thumbs-up", "thumbs-down", "thumbs-down", None] == [
        match["route"] for match in found.values()
    ]
    assert ["exact"] * 4 + ["not_understood"] == [match["reason"] for match in found.values()]
    assert all(match["score"] is None or match["score"] <= 1.0 for match in found.values())


UNREADABLE = (
    "\U0001f44d",
    "\u0e04\u0e37\u0e19\u0e2a\u0e34\u0e19\u0e04\u0e49\u0e32",
    "\u6211\u60f3\u9000\u8d27",
    "\u0623\u0631\u064a\u062f \u0627\u0633\u062a\u0631\u062f\u0627\u062f",
    "\ubc18\ud488\ud558\uace0 \uc2f6\uc5b4\uc694",
    "a" * 110,
)


async def test_text_that_the_encoder_cannot_read_gets_no_route(node: HttpNode) -> None:
    """Emoji, Thai, Chinese, Arabic, Korean and a word of 110 letters; and a long text is cut."""
    for text in UNREADABLE:
        match = await ask(node, text, explain=True)
        assert (None, "not_understood", 0.0, []) == (
            match["route"],
            match["reason"],
            match["confidence"],
            match["candidates"],
        ), text
    long = await ask(node, "I want my money back. " + "It was a long day. " * 100)
    short = await ask(node, "I want my money back please")

    assert (True, False) == (long["truncated"], short["truncated"])


async def test_questions_of_the_tour_are_answered_rightly(node: HttpNode) -> None:
    """Five right routes and three refusals, each with a confidence."""
    found = {text: await ask(node, text) for text, _ in QUESTIONS}

    assert dict(QUESTIONS) == {text: match["route"] for text, match in found.items()}
    for text, route in QUESTIONS:
        assert (found[text]["confidence"] >= 0.5) is (route is not None), text


async def test_readme_shows_the_answers(node: HttpNode) -> None:
    """Route and nearest example as they are; a confidence may differ by rounding."""
    readme = await asyncio.to_thread((ROOT / "README.md").read_text, encoding="utf-8")
    block = readme.split("```text\nquestion ", 1)[1].split("```", 1)[0]
    _, *rows = [re.split(r"\s{2,}", line.strip()) for line in block.strip().splitlines()]
    found = {text: await ask(node, text) for text, _ in QUESTIONS}

    assert list(found) == [row[0] for row in rows]
    for text, route, confidence, nearest in rows:
        match = found[text]
        no_route = "not understood" if match["reason"] == "not_understood" else "no route"
        assert (match["route"] or no_route, match["utterance"] or "\u2013") == (route, nearest)
        assert float(confidence) == pytest.approx(match["confidence"], abs=0.02)
