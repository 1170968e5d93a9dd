"""Several intents in one text: through the library, over HTTP, and the rules that join clauses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from http_node import HttpNode, http_node
from routers import route, running
from synaptoroute.encoder import Encoder
from synaptoroute.errors import InvalidQuery, TooLarge
from synaptoroute.models import Match, Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.router.splits import SplitText

pytestmark = pytest.mark.unit

ROUTES = [
    Route(
        name="refunds",
        utterances=["I want a refund", "How do I get my money back?", "Give me my money back"],
    ),
    Route(name="cancel", utterances=["Cancel my order", "I do not want my order", "Stop my order"]),
    Route(
        name="weather", utterances=["What is the weather like?", "Will it rain?", "Is it sunny?"]
    ),
]
TWO = "  Please cancel my order and then tell me how I get my money back "


def match(name: str | None, score: float = 0.5) -> Match:
    return Match(route=name, score=score, reason="matched", version="1.1")


def combine(text: str, *names: str | None) -> list[tuple[str | None, str]]:
    """Give the text, its clauses and pairs these routes; show the parts."""
    split = SplitText.of(text)
    assert len(names) == len(split.texts)
    found = split.combine([match(name) for name in names])
    return [(each.route, text[slice(*(each.span or ()))]) for each in found]


AB = "cancel my order and tell me a joke"
ABC = "cancel my order, tell me a joke and show me my balance"


@pytest.mark.parametrize(
    ("text", "names", "parts"),
    [
        ("cancel my order", ["a"], [("a", "cancel my order")]),
        (AB, ["a", "a", "b", "a"], [("a", "cancel my order"), ("b", "tell me a joke")]),
        (AB, ["a", "a", "a", "b"], [("a", AB)]),
        (AB, ["a", None, None, "b"], [("a", AB)]),
        (AB, ["a", "a", None, "a"], [("a", AB)]),
        (AB, ["a", "a", None, None], [("a", "cancel my order"), (None, "tell me a joke")]),
        (AB, [None, "a", None, "c"], [("a", "cancel my order"), (None, "tell me a joke")]),
        (
            ABC,
            ["a", "a", None, "c", None, "c"],
            [("a", "cancel my order"), ("c", "tell me a joke and show me my balance")],
        ),
        (
            ABC,
            ["a", "a", "a", "c", "a", "c"],
            [("a", "cancel my order, tell me a joke"), ("c", "show me my balance")],
        ),
    ],
)
def test_clauses_are_joined(
    text: str, names: list[str | None], parts: list[tuple[str | None, str]]
) -> None:
    assert combine(text, *names) == parts


def test_the_better_match_speaks_for_joined_clauses() -> None:
    text = "cancel my order, stop my order and show me my balance"
    matches = [match("a"), match("a", 0.6), match("a", 0.9), match("b"), match("a"), match("b")]
    assert [each.score for each in SplitText.of(text).combine(matches)] == [0.9, 0.5]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder()


def test_two_intents_are_routed(encoder: Encoder) -> None:
    """With the real encoder, before ``start``."""
    router = AdaptiveRouter(encoder)
    for each in ROUTES:
        router.add_route(each)
    found = router.query(TWO, split=True)

    assert [each.route for each in found] == ["cancel", "refunds"]
    assert [TWO[slice(*(each.span or ()))] for each in found] == [
        "Please cancel my order",
        "tell me how I get my money back",
    ]
    alone = router.query("How do I get my money back?")
    (same,) = router.query("How do I get my money back?", split=True)
    assert same.model_copy(update={"span": None}) == alone
    assert same.span == (0, 27)
    router.close()


async def test_clauses_have_limits() -> None:
    many = " and ".join(f"tell me joke number {at}" for at in range(8))
    async with running(queue_requests_max=20) as router:
        await router.aput_route(route("a", "tell me a joke"))
        assert await router.aquery(many, split=True)
        with pytest.raises(TooLarge, match="clauses"):
            await router.aquery_splits([many, many])
        with pytest.raises(InvalidQuery):
            await router.aquery("  ", split=True)


async def test_probes_do_not_count_as_unmatched() -> None:
    """Nobody asked a pair of clauses."""
    async with running(unmatched_kept=100) as router:
        await router.aput_route(route("a", "zebra quantum violin"))
        await router.aquery(AB, split=True)
        assert {each.text for each in router.diagnostics.unmatched()[1]} == {
            "cancel my order",
            "tell me a joke",
        }


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[HttpNode]:
    async with http_node(tmp_path) as started:
        await started.fill()
        yield started


async def ask(node: HttpNode, path: str, **body: Any) -> Any:
    answer = await node.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_split_over_http(node: HttpNode) -> None:
    """One list a text; spans count from the text as it was sent."""
    two = "  give me my money back and where is my parcel"
    one = "give me my money back"
    plain = await ask(node, "/v1/query", text=one)
    single = await ask(node, "/v1/query", text=one, split=True)
    found = await ask(node, "/v1/query", text=two, split=True)
    again = await ask(node, "/v1/query", text=two, split=True)
    batch = await ask(node, "/v1/query/batch", texts=[one, two], split=True)

    assert single == {"matches": [{**plain, "span": [0, len(one)]}]}
    assert "span" not in plain
    assert [(each["route"], two[slice(*each["span"])]) for each in found["matches"]] == [
        ("refund", "give me my money back"),
        ("parcel", "where is my parcel"),
    ]
    assert again == found
    assert batch == {"texts": [single, found]}


async def test_split_must_be_a_boolean(node: HttpNode) -> None:
    answer = await node.http.post("/v1/query", json={"text": "x", "split": 1})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_query")
