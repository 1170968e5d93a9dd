"""Queries are prepared before they are encoded: words are repaired."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from routers import HeldEncoder, bundled_router, route, running
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter

pytestmark = pytest.mark.unit

ROUTES = [
    Route(name="refunds", utterances=["I want a refund", "How do I get my money back?"]),
    Route(name="orders", utterances=["Where is my parcel?", "When will my order arrive?"]),
]


class WordEncoder(HeldEncoder):
    """An encoder that knows some words."""

    def whole_words(self) -> Mapping[str, int]:
        return {"where": 0, "what": 1}


@pytest.mark.parametrize(
    ("text", "read", "expected"),
    [
        ("i wnat a refnud", "i want a refund", "refunds"),
        ("whre is my parecl", "where is my parcel", "orders"),
    ],
)
def test_misspelled_query_gets_its_route(text: str, read: str, expected: str) -> None:
    """With the real encoder, on the default path; ``explain`` shows what was read."""
    with bundled_router(ROUTES) as router:
        match = router.query(text, explain=True)
        clean = router.query(read)

        assert (match.route, match.encoded_text) == (expected, read)
        assert match.score == clean.score
        assert [(each.written, each.read) for each in match.repairs or ()] == [
            pair for pair in zip(text.split(), read.split(), strict=True) if pair[0] != pair[1]
        ]
        assert router.query(text).encoded_text is None


def test_repair_follows_the_words_of_the_route_set() -> None:
    router = AdaptiveRouter(WordEncoder())
    router.add_route(route("a", "cancel this subscription"))

    def read(text: str) -> str | None:
        return router.query(text, explain=True).encoded_text

    assert read("cancle it") == "cancel it"
    router.add_route(route("b", "the cancle"))
    assert read("cancle it") is None
    router.delete_route("b")
    assert read("cancle it") == "cancel it"
    router.add_route(route("a", "stop it"))
    assert read("cancle it") is None
    router.close()


async def test_a_word_that_arrives_while_a_query_is_encoded_counts() -> None:
    """The repair belongs to the position of the answer, not to that at which encoding began."""
    encoder = WordEncoder()
    async with running(encoder=encoder) as router:
        await router.aput_route(route("a", "cancel this"))
        encoder.hold()
        asked = asyncio.ensure_future(router.aquery("cancle", explain=True))
        await encoder.held_up()
        written = await router.aput_route(route("b", "cancle"))
        encoder.gate.set()
        match = await asked

    assert match.version == written.version
    assert (match.route, match.utterance, match.encoded_text) == ("b", "cancle", None)
