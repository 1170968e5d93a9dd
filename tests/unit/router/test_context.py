"""Earlier turns behind a query's text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from http_node import HttpNode, http_node
from routers import HeldEncoder, bundled_router, route, running
from synaptoroute.errors import InvalidQuery
from synaptoroute.models import CONTEXT_BYTES_MAX, CONTEXT_TURNS_MAX, Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.serving.context import CONTEXT_WEIGHT, context_weight, with_context

pytestmark = pytest.mark.unit

ROUTES = [
    Route(
        name="weather",
        utterances=[
            "What is the weather in Paris?",
            "Will it rain tomorrow?",
            "Is it sunny today?",
        ],
    ),
    Route(
        name="flights",
        utterances=["Book a flight to Rome", "I need a plane ticket", "Find me a flight to Oslo"],
    ),
]


def test_weight_falls_with_the_words_of_the_text() -> None:
    assert context_weight("and tomorrow?") == CONTEXT_WEIGHT
    assert context_weight("one two three four five six seven eight") == CONTEXT_WEIGHT / 2


def test_the_newest_turn_counts_most() -> None:
    own, new, old = np.eye(3, dtype=np.float32)
    turned = with_context(own, [old, new], 0.4)
    assert turned[0] > turned[1] > turned[2] > 0
    assert np.linalg.norm(turned) == pytest.approx(1, abs=1e-6)
    assert turned[1] == pytest.approx(2 * turned[2])


def test_turns_that_cancel_out_change_nothing() -> None:
    own = np.array([1, 0], np.float32)
    other = np.array([0, 1], np.float32)
    assert with_context(own, [other, -other / 2], 0.4) is own


@pytest.fixture(scope="module")
def router() -> Iterator[AdaptiveRouter]:
    with bundled_router(ROUTES) as made:
        yield made


@pytest.mark.parametrize(
    ("turn", "expected"), [("Will it rain in Berlin?", "weather"), ("Fly me to Berlin", "flights")]
)
def test_a_short_text_follows_its_context(router: AdaptiveRouter, turn: str, expected: str) -> None:
    """With the real encoder; ``explain`` shows the weight."""
    found = router.query("and in Lisbon?", context=[turn], explain=True)
    assert found.candidates is not None
    assert (found.candidates[0].route, found.context_weight) == (expected, CONTEXT_WEIGHT)
    assert router.query("and in Lisbon?", explain=True).context_weight is None


def test_a_full_text_changes_the_topic(router: AdaptiveRouter) -> None:
    context = ["Will it rain in Berlin?", "Is it sunny in Rome today?"]
    found = router.query("I need a plane ticket to Lisbon", context=context, limit=2)
    assert found.candidates is not None
    assert found.candidates[0].route == "flights"


async def test_context_does_not_depend_on_the_batch() -> None:
    """Equal bits alone, in a batch, from the cache, and before ``start``."""
    texts = [f"text number {at}" for at in range(20)]
    context = ["the one before", "and the last"]
    encoder = HeldEncoder()
    fresh = AdaptiveRouter(HeldEncoder())
    fresh.add_route(route("a", "text number", "the last one"))
    before = [fresh.query(text, context=context).score for text in texts]
    async with running(encoder=encoder) as router:
        await router.aput_route(route("a", "text number", "the last one"))
        batch = await router.aquery_batch(texts, context=context)
        alone = [await router.aquery(text, context=context) for text in texts]
        plain = await router.aquery_batch(texts)
        # The turns were encoded once for all of them.
        assert encoder.count_of("and the last") <= 2
    assert [each.score for each in batch] == [each.score for each in alone] == before
    assert all(a.score != b.score for a, b in zip(batch, plain, strict=True))
    fresh.close()


@pytest.mark.parametrize(
    "context",
    [
        "text",
        ["x"] * (CONTEXT_TURNS_MAX + 1),
        ["x" * (CONTEXT_BYTES_MAX // 2), "y" * (CONTEXT_BYTES_MAX // 2 + 1)],
        [" "],
        [3],
        ["a\x00b"],
        7,
    ],
)
def test_malformed_context_is_refused(router: AdaptiveRouter, context: Any) -> None:
    with pytest.raises(InvalidQuery, match="context"):
        router.query("hello", context=context)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    async with http_node(tmp_path) as started:
        await started.fill()
        yield started


async def test_context_over_http(node: HttpNode) -> None:
    async def ask(path: str = "/v1/query", **body: Any) -> Any:
        answer = await node.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    asked = {"text": "and now", "context": ["where is my parcel"], "explain": True}
    found = await ask(**asked)
    assert found["candidates"][0]["route"] == "parcel"
    assert found["context_weight"] == CONTEXT_WEIGHT
    assert "context_weight" not in await ask(text="and now", explain=True)
    assert (await ask(text="and now", context=[]))["score"] == (await ask(text="and now"))["score"]
    batch = await ask("/v1/query/batch", texts=["and now"], context=asked["context"], explain=True)
    assert batch["matches"] == [found]


@pytest.mark.parametrize("context", ["x", ["x"] * 9, [""], [1], ["x" * 20_000, "y" * 20_000]])
async def test_malformed_context_is_422(node: HttpNode, context: Any) -> None:
    answer = await node.http.post("/v1/query", json={"text": "x", "context": context})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_query")
    assert problem["errors"][0]["field"].startswith("context")
