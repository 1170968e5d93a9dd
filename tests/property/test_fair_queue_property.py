"""The fair queue under any sequence of calls: nothing is lost, and backlogged flows stay even."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from queues import Caller
from synaptoroute.serving.fair_queue import (
    CHARACTERS_MAX,
    QUERY_CHARACTERS,
    FairQueue,
    InFlightQuery,
)

pytestmark = pytest.mark.property

FLOWS = ("a", "b", "c", "d")
LENGTHS = st.integers(1, 3_000)


def cost_of(query: InFlightQuery) -> int:
    return min(len(query.text), CHARACTERS_MAX) + QUERY_CHARACTERS


def pushed(fair: FairQueue, name: str, length: int) -> InFlightQuery:
    """Push a text of a length; return its query."""
    flow = fair.flows.get(name) or fair.add_flow(name)
    query = InFlightQuery("x" * length, [Caller(flow=name)], 0.0)
    fair.push(query, flow)
    return query


@given(st.lists(st.tuples(st.sampled_from(FLOWS), LENGTHS), min_size=1, max_size=80))
@settings(deadline=None)
def test_flows_with_a_backlog_are_served_evenly(items: list[tuple[str, int]]) -> None:
    """Of two flows that both wait, neither gets ahead by more than one query of each."""
    fair = FairQueue()
    left: dict[str, int] = dict.fromkeys(FLOWS, 0)
    owner: dict[int, str] = {}
    longest: dict[str, int] = dict.fromkeys(FLOWS, 0)
    for name, length in items:
        query = pushed(fair, name, length)
        owner[id(query)] = name
        left[name] += 1
        longest[name] = max(longest[name], cost_of(query))
    served: dict[str, int] = dict.fromkeys(FLOWS, 0)
    while (query := fair.pop()) is not None:
        name = owner[id(query)]
        left[name] -= 1
        served[name] += cost_of(query)
        waiting = [each for each in FLOWS if left[each]]
        for one in waiting:
            for other in waiting:
                assert abs(served[one] - served[other]) <= longest[one] + longest[other]

    assert not any(left.values())


class FairQueueMachine(RuleBasedStateMachine):
    """Pushes, joins, takes, returns and removals in any order."""

    @initialize()
    def begin(self) -> None:
        self.fair = FairQueue()
        self.waiting: dict[int, Any] = {}
        self.taken: list[Any] = []

    @rule(name=st.sampled_from(FLOWS), length=LENGTHS)
    def push(self, name: str, length: int) -> None:
        query = pushed(self.fair, name, length)
        self.waiting[id(query)] = query

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), name=st.sampled_from(FLOWS))
    def join(self, data: st.DataObject, name: str) -> None:
        query = self.waiting[data.draw(st.sampled_from(sorted(self.waiting)))]
        self.fair.join(query, self.fair.flows.get(name) or self.fair.add_flow(name))

    @rule(count=st.integers(1, 5))
    def take(self, count: int) -> None:
        for _ in range(count):
            head = self.fair.head()
            query = self.fair.pop()
            assert query is head
            if query is None:
                assert not self.waiting
                return
            del self.waiting[id(query)]
            self.taken.append(query)

    @precondition(lambda self: self.taken)
    @rule(count=st.integers(1, 5))
    def give_back(self, count: int) -> None:
        returned, self.taken = self.taken[-count:], self.taken[:-count]
        self.fair.give_back(reversed(returned), returned[0].flow)
        self.waiting.update({id(query): query for query in returned})

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = self.waiting[data.draw(st.sampled_from(sorted(self.waiting)))]
        assert [gone] == self.fair.remove(lambda query: query is gone)
        del self.waiting[id(gone)]

    @invariant()
    def every_waiting_query_is_counted(self) -> None:
        if hasattr(self, "fair"):
            assert len(self.waiting) == self.fair.count


TestFairQueueMachine = FairQueueMachine.TestCase
TestFairQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
