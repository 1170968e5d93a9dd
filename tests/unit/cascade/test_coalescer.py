"""Goal: queries of one turn are judged together, and nobody waits longer for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from synaptoroute.cascade.cascade import Cascade
from synaptoroute.cascade.coalescer import QUERIES_A_TURN_MAX, Gathering
from synaptoroute.errors import EncoderError, Overloaded
from synaptoroute.models import Match
from synaptoroute.serving.query import Query

pytestmark = pytest.mark.unit

NODE = "n1"


class Stage(Cascade):
    """A static stage that is sure of every text that begins with ``sure``."""

    def __init__(self) -> None:
        super().__init__([])
        self.asked: list[list[str]] = []
        self.failure: Exception | None = None
        self.is_switched_on = True

    @property
    def is_on(self) -> bool:
        return self.is_switched_on

    def answer(self, queries: Sequence[Query], node: str) -> list[Match | None]:
        if self.failure is not None:
            raise self.failure
        self.asked.append([query.text for query in queries])
        return [
            Match(route=query.text, reason="matched", version="1.1", node=node)
            if query.text.startswith("sure")
            else None
            for query in queries
        ]


class Lanes:
    """What is left to the encoder."""

    node = NODE

    def __init__(self) -> None:
        self.queued: list[str] = []

    def submit(self, query: Query) -> None:
        if "refused" in query.text:
            raise Overloaded("full", retry_after_seconds=1.0)
        self.queued.append(query.text)
        assert query.future is not None
        query.future.set_result(Match(route=None, reason="no_routes", version="1.1", node=NODE))


class World:
    """A gathering between a stage and lanes."""

    def __init__(self) -> None:
        self.stage, self.lanes = Stage(), Lanes()
        self.gathering = Gathering(self.stage, self.lanes.submit, self.lanes)

    def ask(self, text: str, routes: frozenset[str] | None = None) -> Query:
        loop = asyncio.get_running_loop()
        query = Query(text, 1, routes, explain=False, future=loop.create_future(), loop=loop)
        self.taken = self.gathering.takes(query)
        return query


async def answered(query: Query) -> Match:
    assert query.future is not None
    return await query.future


async def test_queries_of_one_turn_are_judged_together() -> None:
    """The sure ones are answered; the others go on to the encoder, in their order."""
    world = World()
    asked = [world.ask(text) for text in ("sure 1", "what", "sure 2", "why")]
    assert [] == world.stage.asked
    answers = [await answered(query) for query in asked]

    assert [["sure 1", "what", "sure 2", "why"]] == world.stage.asked
    assert ["sure 1", None, "sure 2", None] == [match.route for match in answers]
    assert ["what", "why"] == world.lanes.queued
    assert NODE == answers[0].node


async def test_query_of_a_later_turn_is_judged_in_that() -> None:
    """None waits for another."""
    world = World()
    await answered(world.ask("sure 1"))
    await answered(world.ask("sure 2"))

    assert [["sure 1"], ["sure 2"]] == world.stage.asked


async def test_many_queries_let_others_have_their_turn() -> None:
    """In slices, and none is lost between them."""
    world = World()
    count = 2 * QUERIES_A_TURN_MAX + 1
    asked = [world.ask(f"sure {number}") for number in range(count)]
    turns = []
    asyncio.get_running_loop().call_soon(lambda: turns.append(len(world.stage.asked)))
    answers = [await answered(query) for query in asked]

    assert [QUERIES_A_TURN_MAX, QUERIES_A_TURN_MAX, 1] == list(map(len, world.stage.asked))
    assert [f"sure {number}" for number in range(count)] == [match.route for match in answers]
    assert [1] == turns


async def test_callers_that_have_gone_cost_nothing() -> None:
    """Their query is not judged."""
    world = World()
    gone, other = world.ask("sure 1"), world.ask("sure 2")
    assert gone.future is not None
    gone.future.cancel()
    await answered(other)

    assert [["sure 2"]] == world.stage.asked


async def test_refusal_reaches_its_caller_alone() -> None:
    """Others of the same turn are answered."""
    world = World()
    refused, other = world.ask("refused"), world.ask("what")

    with pytest.raises(Overloaded):
        await answered(refused)
    assert "no_routes" == (await answered(other)).reason


async def test_stage_that_fails_leaves_all_to_the_encoder() -> None:
    """Which says whose fault it was."""
    world = World()
    world.stage.failure = EncoderError("closed")
    await answered(world.ask("sure 1"))

    assert ["sure 1"] == world.lanes.queued


async def test_bug_of_the_stage_reaches_all_callers() -> None:
    """None waits for its deadline."""
    world = World()
    world.stage.failure = ZeroDivisionError("a bug")
    asked = [world.ask("sure 1"), world.ask("what")]

    for query in asked:
        with pytest.raises(ZeroDivisionError):
            await answered(query)
    assert [] == world.lanes.queued


async def test_what_is_the_encoders_anyway_is_not_gathered() -> None:
    """A filtered query, a cascade that is not on, and a node without one."""
    world = World()
    world.ask("sure 1", frozenset({"a"}))
    assert not world.taken
    world.stage.is_switched_on = False
    world.ask("sure 1")
    assert not world.taken
    world.gathering = Gathering(None, world.lanes.submit, world.lanes)
    world.ask("sure 1")
    assert not world.taken

    assert [] == world.stage.asked
