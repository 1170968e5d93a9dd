"""One way to ask a router in the process and the clients of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from synaptoroute.client import BadRequest, Overloaded, Unavailable
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import ConfigError, InvalidQuery, NotReady
from synaptoroute.integrations.asking import Asker, is_of_the_text
from synaptoroute.models import Match, Route
from synaptoroute.router import AdaptiveRouter

pytestmark = pytest.mark.unit


def match(text: str) -> Match:
    return Match(route=text, reason="matched", version="1.1")


class SyncClient:
    """Answers with the text as the route, and remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def query(self, text: str, **_: Any) -> Match:
        return match(text)

    def query_batch(self, texts: Sequence[str], **_: Any) -> list[Match]:
        self.sizes.append(len(texts))
        return [match(text) for text in texts]


class AsyncOnlyClient(SyncClient):
    async def query(self, text: str, **_: Any) -> Match:
        return match(text)

    async def query_batch(self, texts: Sequence[str], **_: Any) -> list[Match]:
        return super().query_batch(texts)


def asker(router: object) -> Asker:
    return Asker(cast(Any, router))


async def test_every_router_answers_coroutines() -> None:
    embedded = AdaptiveRouter(HashEncoder(64))
    await embedded.start()
    await embedded.aput_route(Route(name="a", utterances=["a"]))
    try:
        for router in (embedded, SyncClient(), AsyncOnlyClient()):
            assert "a" == (await asker(router).aquery("a")).route
            assert ["a", "a"] == [m.route for m in await asker(router).aquery_batch(["a", "a"])]
    finally:
        await embedded.stop()


def test_async_client_does_not_answer_synchronous_calls() -> None:
    for call in (asker(AsyncOnlyClient()).query, asker(AsyncOnlyClient()).query_batch):
        with pytest.raises(ConfigError, match="Client"):
            call("a")
    with pytest.raises(ConfigError):
        asker(object())


def test_large_batches_are_sent_in_parts() -> None:
    """A node takes 1,024 texts; order is kept, and an empty batch is not sent."""
    client = SyncClient()
    texts = [str(number) for number in range(2_050)]

    assert texts == [found.route for found in asker(client).query_batch(texts)]
    assert [1_024, 1_024, 2] == client.sizes
    assert [] == asker(client).query_batch([])
    found = asyncio.run(asker(AsyncOnlyClient()).aquery_batch(texts))
    assert texts == [each.route for each in found]


def test_only_errors_of_the_text_ask_for_each_text_alone() -> None:
    """An overloaded node must not get a thousand queries for the batch that it refused."""
    of_the_text = [InvalidQuery("x"), BadRequest("x", status=400), BadRequest("x", status=422)]
    others = [NotReady("x"), Overloaded("x", status=429), Unavailable("x", status=503)]

    assert all(map(is_of_the_text, of_the_text))
    assert not any(map(is_of_the_text, [*others, RuntimeError()]))
