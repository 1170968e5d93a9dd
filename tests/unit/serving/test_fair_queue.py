"""Capacity is shared among clients; a client below its share is not refused for others."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from queues import Caller, job, query_queue, take_texts
from synaptoroute.errors import Overloaded
from synaptoroute.serving import queue as queue_module
from synaptoroute.serving.fair_queue import IDLE_FLOWS_MAX
from synaptoroute.serving.queue import (
    LIMIT_MULTIPLE_MAX,
    REQUESTS_PER_TAKE_MIN,
    EncodeJob,
    QueryQueue,
)

pytestmark = pytest.mark.unit

TOKEN_SECONDS = 0.001


def timed_queue(**sizes: int) -> QueryQueue:
    """A queue that has learnt that a character costs a millisecond, and a batch nothing."""
    queue = query_queue(**sizes)
    for tokens in (50, 100, 150, 200) * 10:
        queue.learn(tokens, tokens, tokens * TOKEN_SECONDS)
    return queue


def test_one_flow_is_served_in_order_of_arrival() -> None:
    queue = query_queue()
    for number in range(8):
        queue.submit("x" * (8 - number), Caller(flow="a"))

    assert ["x" * (8 - number) for number in range(8)] == take_texts(queue)


def test_newcomer_is_served_before_the_backlog_of_another() -> None:
    """Equal costs are served in turn."""
    queue = query_queue(queue=1_000)
    for number in range(100):
        queue.submit(f"heavy {number:02}", Caller(flow="heavy"))
    for number in range(3):
        queue.submit(f"light {number:02}", Caller(flow="light"))
    order = take_texts(queue)

    assert ["heavy 00", "light 00", "heavy 01", "light 01", "heavy 02", "light 02"] == order[:6]


def test_long_texts_count_for_more() -> None:
    """Texts of 92 characters cost four times as much as those of 17: shares are of work."""
    queue = query_queue(queue=1_000)
    for number in range(40):
        queue.submit(f"{number:02}" + "l" * 90, Caller(flow="long"))
        queue.submit(f"{number:02}" + "s" * 15, Caller(flow="short"))
    order = [text[2] for text in take_texts(queue)[:25]]

    assert (5, 20) == (order.count("l"), order.count("s"))


def test_texts_with_many_tokens_count_for_more_once_they_are_known() -> None:
    """A script with a token a character is not four times as cheap as another."""
    queue = query_queue(queue=1_000)
    served = {"dense": 0, "plain": 0}
    for number in range(60):
        for flow in served:
            queue.submit(f"{number:02}" + flow * 20, Caller(flow=flow))
    while queue._fair.count > 60:
        query = queue._fair.pop()
        assert query is not None
        flow = query.waiters[0].flow
        query.tokens = SimpleNamespace(count=len(query.text) // (1 if flow == "dense" else 4))
        served[flow] += query.tokens.count
        queue.complete([query])

    assert 0.8 < served["dense"] / served["plain"] < 1.25


def test_flow_that_was_idle_has_no_claim_on_the_past() -> None:
    """It is served in turn, not for as long as the other was served alone."""
    queue = query_queue(queue=1_000)
    for number in range(200):
        queue.submit(f"a{number:03}", Caller(flow="a"))
    for _ in range(2):
        take_texts(queue)
    for number in range(100):
        queue.submit(f"b{number:03}", Caller(flow="b"))
    order = "".join(text[0] for text in take_texts(queue)[:20])

    assert "ab" * 10 == order or "ba" * 10 == order


def test_flow_that_asks_one_at_a_time_does_not_starve_another() -> None:
    """A flow whose queue is empty in between keeps its place in the virtual time."""
    served: list[str] = []
    queue = query_queue(queue=1_000)
    for number in range(50):
        queue.submit(f"a{number:02}", Caller(flow="a"))
    for number in range(20):
        queue.submit(f"b{number:02}", Caller(flow="b"))
        query = queue._fair.pop()
        assert query is not None
        served.append(query.text[0])

    assert served.count("a") >= 9


def test_flow_below_its_share_is_admitted_at_any_backlog_of_another() -> None:
    """The other is refused; the same deadline holds for both."""
    queue = timed_queue(queue=10_000)
    refused = 0
    for number in range(16):
        try:
            queue.submit(f"{number:02}" + "h" * 98, Caller(flow="heavy"), deadline_seconds=1.0)
        except Overloaded:
            refused += 1
    with pytest.raises(Overloaded):
        queue.check_queue((None,), False, 0.5, "heavy")
    for number in range(3):
        queue.check_queue((None,), False, 1.0, "light")
        queue.submit(f"{number:02}" + "l" * 98, Caller(flow="light"), deadline_seconds=1.0)
    with pytest.raises(Overloaded):
        queue.submit("x" * 400, Caller(flow="light"), deadline_seconds=1.0)

    assert 8 <= refused <= 9
    assert {"l"} == {text[2] for text in take_texts(queue)[1:6:2]}


def test_full_queue_has_room_for_flows_below_their_share() -> None:
    """Together they may exceed its limit, but never double it."""
    queue = query_queue(queue=12)
    for number in range(12):
        queue.submit(f"h{number}", Caller(flow="heavy"))
    with pytest.raises(Overloaded):
        queue.submit("h12", Caller(flow="heavy"))
    for number in range(6):
        queue.check_queue((None,), False, 10.0, "light")
        queue.submit(f"l{number}", Caller(flow="light"))
    with pytest.raises(Overloaded):
        queue.submit("l6", Caller(flow="light"))
    admitted = 0
    for number in range(30):
        try:
            queue.submit(f"o{number}", Caller(flow=f"other {number}"))
        except Overloaded:
            break
        admitted += 1

    assert LIMIT_MULTIPLE_MAX * 12 >= queue.queue_requests
    assert admitted >= 1


def test_places_are_counted_by_caller_and_given_back() -> None:
    """Joined, abandoned and completed callers leave nothing behind."""
    queue = query_queue(queue=100)
    gone = Caller(flow="b")
    queue.submit("a", Caller(flow="a"))
    queue.submit("a", Caller(flow="b"))
    queue.submit("b", gone)
    gone.is_abandoned = True

    assert 2 == queue._fair.active

    work = queue.take()
    assert isinstance(work, tuple)
    queue.complete(queue.drop_abandoned(work))

    assert 0 == queue._fair.active == queue._fair.count == queue.queue_requests
    assert {0} == {flow.requests for flow in queue._fair.flows.values()}
    assert {0} == {flow.texts for flow in queue._fair.flows.values()}
    assert {0} == {flow.characters for flow in queue._fair.flows.values()}


def test_caller_that_joins_a_text_of_a_long_backlog_does_not_wait_behind_it() -> None:
    """The text comes up when either flow is served, and once only."""
    queue = query_queue(queue=1_000)
    for number in range(100):
        queue.submit(f"h{number:02}", Caller(flow="heavy"))
    queue.submit("h77", Caller(flow="light"))
    taken: list[str] = []
    while queue._fair.count:
        taken += take_texts(queue)

    assert "h77" in taken[:2]
    assert sorted(taken) == [f"h{number:02}" for number in range(100)]
    assert 1 == queue.counters.shared


def test_returned_queries_come_first_and_are_not_charged_twice() -> None:
    queue = query_queue(queue=100)
    for number in range(REQUESTS_PER_TAKE_MIN):
        queue.submit(f"a{number}", Caller(flow="a"))
        queue.submit(f"b{number}", Caller(flow="b"))
    work = queue.take()
    assert isinstance(work, tuple)
    queue.give_back(work[3:])
    again = queue.take()

    assert isinstance(again, tuple)
    assert [query.text for query in work[3:]] == [query.text for query in again]


def test_idle_flows_are_forgotten() -> None:
    """Any number of addresses may ask one after another."""
    queue = query_queue(queue=100)
    for number in range(5 * IDLE_FLOWS_MAX):
        queue.submit("text", Caller(flow=f"/{number}"))
        work = queue.take()
        assert isinstance(work, tuple)
        queue.complete(work)

    assert IDLE_FLOWS_MAX >= len(queue._fair.flows)


class Clock:
    """Time that only the test moves."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("multiple", [2, 16, 64])
def test_client_within_its_share_succeeds_always(
    monkeypatch: pytest.MonkeyPatch, multiple: int
) -> None:
    """A worker of simulated speed: one client asks for a multiple of its share, the other
    for 90 percent of its own; every query of the latter is answered in time.
    """
    clock = Clock()
    monkeypatch.setattr(queue_module, "time", SimpleNamespace(monotonic=clock.monotonic))
    queue = timed_queue(queue=2_048)
    deadline_seconds, query_seconds = 2.0, 100 * TOKEN_SECONDS
    # Each client's share is half of the worker: a query every two times its cost.
    next_light, next_heavy = 0.0, 0.0
    asked_at: dict[str, float] = {}
    refused = {"light": 0, "heavy": 0}
    late = answered = number = 0

    def ask(flow: str) -> None:
        nonlocal number
        number += 1
        text = f"{flow[0]}{number:07}" + "x" * 92
        try:
            queue.check_queue((None,), False, deadline_seconds, flow)
            queue.submit(text, Caller(flow=flow), deadline_seconds=deadline_seconds)
        except Overloaded:
            refused[flow] += 1
        else:
            asked_at[text] = clock.now

    while clock.now < 200.0:
        while next_light <= clock.now:
            ask("light")
            next_light += 2 * query_seconds / 0.9
        while next_heavy <= clock.now:
            ask("heavy")
            next_heavy += 2 * query_seconds / multiple
        if not queue._fair.count:
            clock.now = min(next_light, next_heavy)
            continue
        work = queue.take()
        assert isinstance(work, tuple)
        queue.give_back(work[4:])
        clock.now += query_seconds * len(work[:4])
        queue.complete(work[:4])
        for query in work[:4]:
            if query.text[0] == "l":
                answered += 1
                late += clock.now - asked_at[query.text] > deadline_seconds

    assert 0 == refused["light"] == late
    assert answered >= 0.85 * 200.0 / (2 * query_seconds)
    assert refused["heavy"] > 0 or multiple == 2


def test_writes_of_clients_are_encoded_in_turn() -> None:
    """A single write does not wait for the backlog of another client."""
    queue = query_queue(texts=100)
    for number in range(30):
        queue.submit_jobs([job(f"heavy {number}")], "heavy")
    queue.submit_jobs([job("light 0"), job("light 1")], "light")
    order = [work.texts[0] for _ in range(4) if isinstance(work := queue.take(), EncodeJob)]

    assert ["heavy 0", "light 0", "heavy 1", "light 1"] == order


def test_full_queue_of_writes_has_room_for_clients_below_their_share() -> None:
    """Together they may exceed its limit, but never double it."""
    queue = query_queue(texts=12)
    queue.submit_jobs([job(*"abcdefghijkl")], "heavy")
    with pytest.raises(Overloaded):
        queue.submit_jobs([job("m")], "heavy")
    queue.submit_jobs([job(*"abcdef")], "light")
    with pytest.raises(Overloaded):
        queue.submit_jobs([job("g")], "light")
    admitted = 0
    for number in range(30):
        try:
            queue.submit_jobs([job("a")], f"other {number}")
        except Overloaded:
            break
        admitted += 1

    assert 1 <= admitted <= 6
    assert LIMIT_MULTIPLE_MAX * 12 >= queue.queue_texts
