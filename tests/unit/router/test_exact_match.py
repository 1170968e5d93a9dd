"""A query that is an utterance gets its route, whatever the encoder thinks of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from http_node import http_node
from routers import ConfusedEncoder, route, running
from synaptoroute.encoder import HashEncoder, Tokens
from synaptoroute.models import Match
from synaptoroute.router import AdaptiveRouter

pytestmark = pytest.mark.unit


def decided(match: Match) -> tuple[str | None, str, float | None]:
    """What a caller acts on."""
    return match.route, match.reason, match.confidence


async def filled(router: AdaptiveRouter) -> None:
    """Three routes that the encoder cannot tell apart."""
    await router.aput_route(route("a", "all of it", "\U0001f44d", "Both"))
    await router.aput_route(route("b", "\U0001f44e", "both", threshold=1.0))
    await router.aput_route(route("c", "last one", threshold=1.0))


async def test_exact_text_wins_over_every_similarity() -> None:
    """The tie of equal vectors, a threshold and an unknown text do not matter."""
    async with running(encoder=ConfusedEncoder()) as router:
        await filled(router)
        found = {
            text: decided(await router.aquery(text))
            for text in ("\U0001f44d", "\U0001f44e", "LAST  one!", "Both", "both", "all of it")
        }

    exact = ("exact", 1.0)
    assert {
        "\U0001f44d": ("a", *exact),
        "\U0001f44e": ("b", *exact),
        "LAST  one!": ("c", *exact),
        "Both": ("a", *exact),
        "both": ("b", *exact),
        "all of it": ("a", *exact),
    } == found


async def test_unknown_text_matches_nothing_by_similarity() -> None:
    """Its vector equals that of every utterance; the answer shows no nearest one."""
    async with running(encoder=ConfusedEncoder()) as router:
        empty = await router.aquery("\U0001f4a9")
        await filled(router)
        match = await router.aquery("\U0001f4a9", limit=3, explain=True)
        filtered = await router.aquery("\U0001f4a9", routes=["none"])

    assert (None, "not_understood", 0.0) == decided(match)
    assert (None, None, None, []) == (match.score, match.utterance, match.margin, match.candidates)
    assert (None, "no_routes", 0.0) == decided(empty)
    assert (None, "filter_empty", 0.0) == decided(filtered)


async def test_exact_match_respects_the_filter() -> None:
    """An utterance of a route that is not asked for is no exact match."""
    async with running(encoder=ConfusedEncoder()) as router:
        await filled(router)
        other = await router.aquery("\U0001f44d", routes=["b", "c"])
        own = await router.aquery("both", routes=["a", "c"])

    assert (None, "not_understood") == (other.route, other.reason)
    assert ("a", "exact") == (own.route, own.reason)


async def test_exact_match_comes_first_among_the_candidates() -> None:
    """The others follow by score; the runner-up is the best of them."""
    async with running(encoder=HashEncoder(64)) as router:
        await router.aput_route(route("near", "where is my parcel today", "where is my parcel now"))
        await router.aput_route(route("far", "blue", "green", "where is my parcel", "red"))
        await router.aput_route(route("other", "violin"))
        match = await router.aquery("Where is my parcel?", limit=3)
        lone = await router.aquery("Where is my parcel?")

    assert match.candidates is not None
    assert ["far", "near", "other"] == [each.route for each in match.candidates]
    assert match.candidates[0].passed
    for each in (match, lone):
        assert ("far", "exact", "near") == (each.route, each.reason, each.runner_up)
        assert "where is my parcel" == each.utterance
    assert match.margin == match.candidates[0].score - match.candidates[1].score == lone.margin


async def test_batch_equals_single_answers() -> None:
    """Exact, unknown and other texts stand beside each other."""
    texts = ["\U0001f44d", "\U0001f4a9", "both", "word " * 80, "last one"]
    async with running(encoder=ConfusedEncoder()) as router:
        await filled(router)
        batch = await router.aquery_batch(texts)
        alone = [await router.aquery(text) for text in texts]

    assert alone == batch
    assert [False, False, False, True, False] == [match.truncated for match in batch]


def test_router_that_is_not_started_answers_alike() -> None:
    """The library's inline path makes the same decisions."""
    router = AdaptiveRouter(ConfusedEncoder())
    router.add_route(route("a", "all of it", "\U0001f44d"))
    found = [decided(router.query(text)) for text in ("\U0001f44d", "\U0001f4a9", "ALL of it.")]
    router.close()

    assert [("a", "exact", 1.0), (None, "not_understood", 0.0), ("a", "exact", 1.0)] == found


async def test_index_follows_writes_and_restarts(tmp_path: Path) -> None:
    """A removed utterance is no match any more; a restart finds the rest."""
    path = tmp_path / "node.sqlite"
    async with running(path, encoder=ConfusedEncoder()) as router:
        await filled(router)
        await router.aremove_utterances("a", ["\U0001f44d"])
        await router.adelete_route("b")
        await router.aadd_utterances("c", ["\U0001f44e"])
        before = [await router.aquery(text) for text in ("\U0001f44d", "\U0001f44e", "both")]
    async with running(path, encoder=ConfusedEncoder()) as router:
        after = [await router.aquery(text) for text in ("\U0001f44d", "\U0001f44e", "both")]

    assert [None, "c", "a"] == [match.route for match in before]
    assert before == after


async def test_cached_response_follows_a_write(tmp_path: Path) -> None:
    """The response to the same bytes is kept until an utterance changes it."""
    async with http_node(tmp_path, encoder=ConfusedEncoder()) as node:
        await node.http.put("/v1/routes/a", json={"utterances": ["one", "\U0001f44d"]})
        body = {"text": "\U0001f44e"}
        answers = [(await node.http.post("/v1/query", json=body)).json() for _ in range(2)]
        await node.http.put("/v1/routes/b", json={"utterances": ["\U0001f44e"]})
        answers += [(await node.http.post("/v1/query", json=body)).json() for _ in range(2)]

    assert ["not_understood"] * 2 + ["exact"] * 2 == [each["reason"] for each in answers]
    assert [0.0, 0.0, 1.0, 1.0] == [each["confidence"] for each in answers]
    assert [False] * 4 == [each["truncated"] for each in answers]


class LongEncoder(HashEncoder):
    """An encoder whose vectors are a little longer than one."""

    def encode_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        return (super().encode_tokens(tokens) * np.float32(1.0000002)).astype(np.float32)


@pytest.mark.parametrize("aggregation", ["blend", "max", "mean", "centroid", "topk"])
async def test_cosines_are_at_most_one(aggregation: str) -> None:
    """Vectors are unit only within rounding; a cosine is not above 1."""
    async with running(encoder=LongEncoder(64)) as router:
        settings = await router.aget_settings()
        await router.aput_settings(settings.model_copy(update={"aggregation": aggregation}))
        await router.aput_route(route("a", "one text"))
        alone = await router.aquery("one text", explain=True)
        batch = await router.aquery_batch(["one text", "another"], explain=True)

    assert 1.0 == alone.similarity == batch[0].similarity
    assert alone.score is not None
    assert alone.score <= 1.0
    assert alone == batch[0]


async def test_decisions_are_counted_by_reason_and_confidence(tmp_path: Path) -> None:
    """A response from the cache is not counted again."""
    async with http_node(tmp_path, encoder=ConfusedEncoder()) as node:
        await node.http.put("/v1/routes/a", json={"utterances": ["one", "\U0001f44d"]})
        for text in ("one", "One!", "\U0001f44e", "\U0001f44e", "another"):
            await node.http.post("/v1/query", json={"text": text})
        text = (await node.http.get("/metrics")).text

    assert 'synaptoroute_decisions_total{reason="exact"} 2.0' in text
    assert 'synaptoroute_decisions_total{reason="not_understood"} 1.0' in text
    assert 'synaptoroute_decisions_total{reason="matched"} 1.0' in text
    assert 'synaptoroute_decision_confidence_bucket{le="0.1"} 1.0' in text
