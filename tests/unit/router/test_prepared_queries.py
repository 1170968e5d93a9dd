"""Queries are prepared before they are encoded: words are repaired."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Mapping

import pytest

from routers import HeldEncoder, bundled_router, route, running
from synaptoroute.inputs.repair import Lexicon
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.serving.preparation import TextPreparation
from synaptoroute.serving.slices import LARGE_ROWS_MIN

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


async def stream(word: str, routes: int = 8) -> AsyncIterator[Route]:
    """Routes of an import with more rows than a small change has."""
    each = LARGE_ROWS_MIN // routes + 1
    for number in range(routes):
        texts = [f"{word} thing{row} of part{number}" for row in range(each)]
        yield Route(name=f"r{number}", utterances=texts)


def words_of(router: AdaptiveRouter) -> Mapping[str, int]:
    served = router._engine().scorer.sets.default
    kept, made = served.preparation._lexicon, TextPreparation(served.tensor, served.encoder)
    assert kept is not None
    assert made._lexicon is not None
    assert kept._counts == made._lexicon._counts
    return kept._counts


async def test_no_query_waits_while_the_words_of_a_large_change_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An import, one that replaces it, and a start of word repair count beside the scorer."""
    counted: list[int] = []

    def watched(lexicon: Lexicon, utterances: Iterable[str]) -> None:
        texts = list(utterances)
        if threading.current_thread().name == "synaptoroute-scorer":
            counted.append(len(texts))
        add(lexicon, texts)

    add = Lexicon.add
    async with running(encoder=WordEncoder()) as router:
        await router.aput_route(route("a", "cancel this"))
        monkeypatch.setattr(Lexicon, "add", watched)
        monkeypatch.setattr(Lexicon, "remove", None)
        await router.aimport(stream("former"))
        assert words_of(router)["former"] > LARGE_ROWS_MIN
        await router.aimport(stream("later"), replace=True)
        found = words_of(router)
        assert "former" not in found
        assert found["later"] > LARGE_ROWS_MIN
        settings = await router.aget_settings()
        await router.aput_settings(settings.model_copy(update={"repair_words": False}))
        await router.aput_settings(settings)
        assert words_of(router) == found
        assert (await router.aquery("latre", explain=True)).encoded_text == "later"

    assert max(counted, default=0) <= LARGE_ROWS_MIN
