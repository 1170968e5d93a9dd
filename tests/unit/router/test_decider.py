"""Questions about a text: passes, vectors of options, and one scale for routes and texts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from http_node import http_node
from routers import HeldEncoder
from synaptoroute.errors import DeadlineExceeded, InvalidQuery
from synaptoroute.questions import ChoiceAnswer, ChoiceQuestion, Option, OptionScores
from synaptoroute.router import decider as module
from synaptoroute.router.decider import _query, _score
from synaptoroute.serving.query import OptionSet

pytestmark = pytest.mark.unit

WORDS = "red blue green black white brown pink grey gold silver".split()
TEXT = "a plum thing and a red tart"


def question(*options: tuple[str, str] | str) -> ChoiceQuestion:
    return ChoiceQuestion(
        tuple(Option.of(*each) if isinstance(each, tuple) else Option.of(each) for each in options)
    )


async def put(node: Any, name: str, *utterances: str, **fields: Any) -> None:
    body = {"utterances": list(utterances), **fields}
    (await node.http.put(f"/v1/routes/{name}", json=body)).raise_for_status()


async def scores_of(node: Any, asked: ChoiceQuestion) -> OptionScores:
    """The figures of all options, with the vectors of their texts."""
    engine = node.router._engine()
    texts = [option.text for option in asked.options]
    options = OptionSet(
        engine.encoder.fingerprint,
        [option.route for option in asked.options],
        texts,
        engine.encoder.encode_utterances(texts),
    )
    return await _score(engine, _query(TEXT, [asked], options, use_cache=True), 5.0)


@pytest.mark.parametrize("aggregation", ["adaptive", "blend", "max", "topk", "centroid", "mean"])
async def test_option_by_text_scores_as_a_route_of_that_utterance(
    tmp_path: Path, aggregation: str
) -> None:
    """Under the same fit: bit for bit, and for the mean within the rounding of a unit vector."""
    asked = question("apple", "plum", ("tart", "plum tart with red fruit"))
    async with http_node(tmp_path, fit_confidence=False) as node:
        for name in ("apple", "pear", "plum", "fig"):
            await put(node, name, *(f"{name} thing number {n} {WORDS[n]}" for n in range(10)))
        settings = (await node.http.get("/v1/settings")).json()
        settings = {**settings, "aggregation": aggregation}
        (await node.http.put("/v1/settings", json=settings)).raise_for_status()
        (await node.http.post("/v1/settings/calibration")).raise_for_status()
        before = await scores_of(node, asked)
        await put(node, "tart", asked.options[2].text)
        after = await scores_of(node, asked)

    assert before.levels is not None
    assert {"apple", "plum"} == before.routes.keys()
    tolerance = 1e-7 if aggregation == "mean" else 0.0
    expected = pytest.approx(after.routes["tart"].score, abs=tolerance, rel=0.0)
    assert expected == before.texts[asked.options[2].text].score
    assert before.routes["plum"] == after.routes["plum"]
    assert {} == after.texts


async def test_route_that_is_deleted_between_two_passes_becomes_a_text(tmp_path: Path) -> None:
    """The scorer says at each pass which options are routes."""
    encoder = HeldEncoder()
    async with http_node(tmp_path, encoder=encoder) as node:
        await put(node, "plum", "plum thing")
        await put(node, "fig", "fig thing")
        encoder.write_gate.clear()
        asked = question("plum", "fig", "something new")
        work = asyncio.ensure_future(node.router.decider.decide(TEXT, [asked]))
        while ["something new"] not in encoder.utterances:
            await asyncio.sleep(0.01)
        (await node.http.delete("/v1/routes/fig")).raise_for_status()
        encoder.write_gate.set()
        found = await work
        (answer,) = found.answers

    assert isinstance(answer, ChoiceAnswer)
    assert "plum" == answer.choice
    assert ["fig"] in encoder.utterances


async def test_negative_of_a_route_is_not_chosen(tmp_path: Path) -> None:
    """As for a query."""
    async with http_node(tmp_path) as node:
        await put(node, "plum", "plum thing", negatives=[TEXT])
        await put(node, "fig", "fig thing")
        found = await node.router.decider.decide(TEXT, [question("plum", "fig", "none")])
        (answer,) = found.answers

    assert isinstance(answer, ChoiceAnswer)
    assert "plum" != answer.choice
    assert 0.0 == answer.probabilities[0]


async def test_deadline_counts_for_all_passes(tmp_path: Path) -> None:
    """Also while the texts of options are encoded."""
    encoder = HeldEncoder()
    async with http_node(tmp_path, encoder=encoder) as node:
        encoder.write_gate.clear()
        with pytest.raises(DeadlineExceeded):
            await node.router.decider.decide(TEXT, [question("a b", "c d")], deadline_ms=80)
        encoder.write_gate.set()


async def test_texts_of_a_request_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known ones do not count."""
    monkeypatch.setattr(module, "TEXTS_PER_REQUEST_MAX", 3)
    async with http_node(tmp_path) as node:
        decide = node.router.decider.decide
        await decide(TEXT, [question("one", "two", "three")])
        await decide(TEXT, [question("one", "two", "three", "four", "five")])
        with pytest.raises(InvalidQuery):
            await decide(TEXT, [question("six", "seven", "eight", "nine")])


async def test_answer_does_not_depend_on_what_is_cached(tmp_path: Path) -> None:
    """First, again, and in a request with other questions."""
    async with http_node(tmp_path) as node:
        await put(node, "plum", "plum thing")
        asked, other = question("plum", "red tart", "none"), question("x y", "red tart")
        decide = node.router.decider.decide
        first = (await decide(TEXT, [asked])).answers[0]
        again = (await decide(TEXT, [asked])).answers[0]
        beside = (await decide(TEXT, [other, asked], use_cache=False)).answers[1]

    assert first == again == beside
    assert isinstance(first, ChoiceAnswer)
    assert np.isclose(sum(first.probabilities), 1.0)
