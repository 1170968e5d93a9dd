"""Queries of one event loop iteration are evaluated together, and none waits longer for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest

from synaptoroute.cascade.cascade import Cascade
from synaptoroute.cascade.coalescer import QUERIES_PER_ITERATION_MAX, QueryCoalescer
from synaptoroute.errors import EncoderError, Overloaded
from synaptoroute.models import Match
from synaptoroute.serving.query import Query

pytestmark = pytest.mark.unit

NODE = "n1"


class Stage(Cascade):
    """A first stage that is sure of every text that begins with ``sure``."""

    def __init__(self) -> None:
        super().__init__([])
        self.asked: list[list[str]] = []
        self.failure: Exception | None = None
        self.is_switched_on = True
        self.now, self.seconds = 100.0, 0.0

    @property
    def is_on(self) -> bool:
        return self.is_switched_on

    def answer(self, queries: Sequence[Query], node: str) -> list[Match | None]:
        if self.failure is not None:
            raise self.failure
        self.now += self.seconds
        self.asked.append([query.text for query in queries])
        return [
            Match(route=query.text, reason="matched", version="1.1", node=node)
            if query.text.startswith("sure")
            else None
            for query in queries
        ]


class Encoder:
    """Receives what the first stage leaves."""

    def __init__(self) -> None:
        self.queued: list[str] = []

    def submit(self, query: Query) -> None:
        if "refused" in query.text:
            raise Overloaded("full", retry_after_seconds=1.0)
        self.queued.append(query.text)
        assert query.future is not None
        query.future.set_result(Match(route=None, reason="no_routes", version="1.1", node=NODE))


class World:
    """A coalescer between a first stage and the queue."""

    def __init__(self) -> None:
        self.stage, self.encoder = Stage(), Encoder()
        self.coalescer = QueryCoalescer(
            self.stage, self.encoder.submit, NODE, self.check_queue, lambda: self.stage.now
        )
        self.wait_max = math.inf

    def check_queue(
        self, texts: Sequence[object], share: bool, deadline: float, flow: str, seconds: float
    ) -> None:
        if seconds > self.wait_max:
            raise Overloaded("late")

    def ask(self, text: str, routes: frozenset[str] | None = None) -> Query:
        loop = asyncio.get_running_loop()
        query = Query(text, 1, routes, explain=False, future=loop.create_future(), loop=loop)
        self.taken = self.coalescer.add(query)
        return query


async def answered(query: Query) -> Match:
    assert query.future is not None
    return await query.future


async def test_queries_of_one_iteration_are_evaluated_together() -> None:
    """The sure ones are answered; the others go on to the encoder, in their order."""
    world = World()
    asked = [world.ask(text) for text in ("sure 1", "what", "sure 2", "why")]
    assert [] == world.stage.asked
    answers = [await answered(query) for query in asked]

    assert [["sure 1", "what", "sure 2", "why"]] == world.stage.asked
    assert ["sure 1", None, "sure 2", None] == [match.route for match in answers]
    assert ["what", "why"] == world.encoder.queued
    assert NODE == answers[0].node


async def test_query_of_a_later_iteration_is_evaluated_then() -> None:
    """No query waits for another."""
    world = World()
    await answered(world.ask("sure 1"))
    await answered(world.ask("sure 2"))

    assert [["sure 1"], ["sure 2"]] == world.stage.asked


async def test_many_queries_are_evaluated_in_slices() -> None:
    """Other callbacks run between the slices, and no query is lost."""
    world = World()
    count = 2 * QUERIES_PER_ITERATION_MAX + 1
    asked = [world.ask(f"sure {number}") for number in range(count)]
    turns = []
    asyncio.get_running_loop().call_soon(lambda: turns.append(len(world.stage.asked)))
    answers = [await answered(query) for query in asked]

    assert [QUERIES_PER_ITERATION_MAX, QUERIES_PER_ITERATION_MAX, 1] == list(
        map(len, world.stage.asked)
    )
    assert [f"sure {number}" for number in range(count)] == [match.route for match in answers]
    assert [1] == turns


async def test_wait_is_predicted_while_queries_outnumber_the_slices() -> None:
    """From the duration of an iteration; there is none for queries of one slice."""
    world = World()
    world.stage.seconds = 0.01
    await answered(world.ask("sure 0"))
    assert 0.0 == world.coalescer.wait_seconds
    asked = [world.ask(f"sure {number}") for number in range(12 * QUERIES_PER_ITERATION_MAX)]
    await answered(asked[6 * QUERIES_PER_ITERATION_MAX - 1])
    predicted = world.coalescer.wait_seconds
    world.wait_max = predicted / 2
    with pytest.raises(Overloaded, match="late"):
        world.ask("sure 1")
    await answered(asked[-1])
    await answered(world.ask("sure 1"))

    assert 5 * 0.009 < predicted < 6 * 0.01
    assert 0.0 == world.coalescer.wait_seconds


async def test_abandoned_query_is_not_evaluated() -> None:
    """Its caller cancelled it before the iteration ended."""
    world = World()
    gone, other = world.ask("sure 1"), world.ask("sure 2")
    assert gone.future is not None
    gone.future.cancel()
    await answered(other)

    assert [["sure 2"]] == world.stage.asked


async def test_overload_fails_only_the_refused_query() -> None:
    """Other queries of the same iteration are answered."""
    world = World()
    refused, other = world.ask("refused"), world.ask("what")

    with pytest.raises(Overloaded):
        await answered(refused)
    assert "no_routes" == (await answered(other)).reason


async def test_failing_stage_leaves_all_queries_to_the_encoder() -> None:
    """The encoder finds out which text is at fault."""
    world = World()
    world.stage.failure = EncoderError("closed")
    await answered(world.ask("sure 1"))

    assert ["sure 1"] == world.encoder.queued


async def test_bug_in_the_stage_fails_all_its_queries() -> None:
    """No caller waits for its deadline."""
    world = World()
    world.stage.failure = ZeroDivisionError("a bug")
    asked = [world.ask("sure 1"), world.ask("what")]

    for query in asked:
        with pytest.raises(ZeroDivisionError):
            await answered(query)
    assert [] == world.encoder.queued


async def test_filtered_queries_and_disabled_stage_are_not_coalesced() -> None:
    """The encoder answers a query with a filter, and all queries while the cascade is off."""
    world = World()
    world.ask("sure 1", frozenset({"a"}))
    assert not world.taken
    world.stage.is_switched_on = False
    world.ask("sure 1")
    assert not world.taken

    assert [] == world.stage.asked
