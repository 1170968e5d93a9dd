"""Queries that are alone, of an encoder that takes microseconds: which thread answers, and what."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from routers import WAIT_SECONDS, route, until
from synaptoroute.config import EngineConfig
from synaptoroute.encoder import TextEncoder, open_encoder
from synaptoroute.engine import Engine
from synaptoroute.errors import ConfigError, EncoderError, InvalidQuery, NotReady
from synaptoroute.models import Match
from synaptoroute.router import AdaptiveRouter
from synaptoroute.scoring import Ranking, rank
from synaptoroute.serving import lone_queries
from synaptoroute.serving import served_set as served_set_module
from synaptoroute.tensor import Tensor

pytestmark = pytest.mark.unit

ROUTES = (
    route("parcels", "where is my parcel", "track an order"),
    route("money", "refund me", "I was charged twice"),
    route("weather", "will it rain", "how warm is it"),
)
TEXTS = ("where is the order", "charged two times", "rain today?", "parcel", "something else")


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return open_encoder("fast")


@pytest.fixture
def rankers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that ranked, in order, without their numbers."""
    names: list[str] = []

    def noted(*arguments: Any) -> Sequence[Ranking]:
        names.append(threading.current_thread().name.removesuffix("-0").removesuffix("-1"))
        return rank(*arguments)

    monkeypatch.setattr(served_set_module, "rank", noted)
    return names


@asynccontextmanager
async def started(encoder: TextEncoder, **settings: object) -> AsyncIterator[AdaptiveRouter]:
    given = {"lanes": 2, "fit_confidence": False, **settings}
    router = AdaptiveRouter(encoder, config=EngineConfig.model_validate(given))
    await router.start()
    try:
        for each in ROUTES:
            await router.aput_route(each)
        yield router
    finally:
        await router.stop()


@pytest.fixture
def wanted(encoder: TextEncoder) -> dict[str, Match]:
    """Answers of a router that was never started."""
    router = AdaptiveRouter(encoder)
    for each in ROUTES:
        router.add_route(each)
    found = {text: router.query(text) for text in TEXTS}
    router.close()
    return found


def said(match: Match) -> dict[str, Any]:
    return match.model_dump(exclude={"version", "node"})


async def test_event_loop_answers_a_lone_query(
    encoder: TextEncoder, wanted: dict[str, Match], rankers: list[str]
) -> None:
    async with started(encoder) as router:
        for text in TEXTS:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:  # a write may hold the rows at any moment
                    assert said(wanted[text]) == said(await router.aquery(text))
                    if rankers[-1] == "MainThread":
                        break
        asked = len(rankers)
        counters = router.status().counters

    assert asked == counters.queries
    assert asked == sum(count for _, count in counters.decisions.reasons)


async def test_queries_of_one_turn_are_a_batch(
    encoder: TextEncoder, wanted: dict[str, Match], rankers: list[str]
) -> None:
    async with started(encoder) as router:
        answers = await asyncio.gather(*map(router.aquery, TEXTS))

    assert [said(wanted[text]) for text in TEXTS] == [said(each) for each in answers]
    assert "MainThread" not in rankers


@pytest.mark.parametrize("case", ["long text", "large set", "window", "context"])
async def test_other_queries_are_left_to_the_workers(
    encoder: TextEncoder, rankers: list[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    text, options, settings = "where is the order", {}, {}
    if case == "long text":
        text = "order " * lone_queries.TEXT_CHARACTERS_MAX
    elif case == "large set":
        monkeypatch.setattr(lone_queries, "ROWS_MAX", 3)
    elif case == "window":
        settings = {"batch_window_ms": 1}
    else:
        options = {"context": ["my parcel is late"]}
    async with started(encoder, **settings) as router:
        for _ in range(3):
            answer = await router.aquery(text, **options)

    assert "parcels" == answer.route
    assert "MainThread" not in rankers


async def test_tensor_in_use_leaves_the_query_to_the_scorer(
    encoder: TextEncoder, rankers: list[str]
) -> None:
    async with started(encoder) as router:
        engine = router._engine()
        assert isinstance(engine, Engine)
        has_begun, may_end = threading.Event(), threading.Event()

        def hold(_: Tensor) -> None:
            has_begun.set()
            assert may_end.wait(WAIT_SECONDS)

        held = engine.scorer.call(hold)
        assert await asyncio.to_thread(has_begun.wait, WAIT_SECONDS)
        asked = asyncio.create_task(router.aquery("where is the order"))
        await until(lambda: len(engine.scorer._inbox))
        may_end.set()
        answer = await asked
        await asyncio.wrap_future(held)

    assert "parcels" == answer.route
    assert ["synaptoroute-scorer"] == rankers


async def test_cancelled_query_costs_nothing(encoder: TextEncoder, rankers: list[str]) -> None:
    async with started(encoder) as router:
        engine = router._engine()
        assert isinstance(engine, Engine)
        async with asyncio.timeout(WAIT_SECONDS):
            while True:  # a write may hold the rows at any moment; then the query is queued
                begun = router.begin_query("where is the order")
                assert isinstance(begun, asyncio.Future)
                is_alone, ranked = bool(engine._lone_queries._waiting), len(rankers)
                begun.cancel()
                await until(lambda: not router.status().queue_requests)
                if is_alone:
                    break

    assert len(rankers) == ranked


async def test_stop_answers_or_refuses_what_was_begun(encoder: TextEncoder) -> None:
    async with started(encoder) as router:
        begun = router.begin_query("where is the order")
        await router.stop()
        assert isinstance(begun, asyncio.Future)
        found = (await asyncio.wait_for(asyncio.gather(begun, return_exceptions=True), 60))[0]
        assert isinstance(found, NotReady) or found.route == "parcels"
        with pytest.raises(NotReady):
            await router.aquery("where is the order")


async def test_failure_is_reported_as_that_of_a_worker(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(encoder) as router:

        def fail(_: object) -> None:
            raise RuntimeError("the table broke")

        with monkeypatch.context() as patched:
            patched.setattr(encoder, "encode_tokens", fail)
            with pytest.raises(EncoderError, match="the table broke"):
                await router.aquery("where is the order")
        assert 0 == router.status().queue_requests


async def test_threads_that_ask_answer_their_queries(
    encoder: TextEncoder, wanted: dict[str, Match], rankers: list[str]
) -> None:
    """Of several at a time each gets its own answer, whichever thread gives it."""
    async with started(encoder) as router:

        def ask(first: int) -> list[tuple[str, Match]]:
            texts = [TEXTS[(first + number) % len(TEXTS)] for number in range(40)]
            return [(text, router.query(text)) for text in texts]

        answers = await asyncio.gather(*(asyncio.to_thread(ask, number) for number in range(4)))
        with pytest.raises(InvalidQuery):
            await asyncio.to_thread(router.query, "")
        with pytest.raises(ConfigError):
            router.query("parcel")

    assert all(said(wanted[text]) == said(match) for own in answers for text, match in own)
    assert any(name.startswith("asyncio") for name in rankers)


async def test_lone_queries_beside_writes_see_one_position(encoder: TextEncoder) -> None:
    """An answer is of the version that it names, and never of an older one than the last."""
    async with started(encoder) as router:
        first = await router.aput_route(route("alpha", "what is asked"))
        names = {first.version: "alpha"}

        async def write() -> None:
            for number in range(40):
                old, new = ("alpha", "beta") if number % 2 == 0 else ("beta", "alpha")
                gone = await router.adelete_route(old)
                names[gone.version] = ""
                put = await router.aput_route(route(new, "what is asked"))
                names[put.version] = new

        writing = asyncio.create_task(write())
        found = []
        while not writing.done():
            found.append(await router.aquery("what is asked"))
        await writing

    exact = [each.route if each.reason == "exact" else "" for each in found]
    assert [names[each.version] for each in found] == exact
    sequence = [int(each.version.rpartition(".")[2]) for each in found]
    assert sorted(sequence) == sequence
