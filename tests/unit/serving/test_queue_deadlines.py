"""The queue before the lanes refuses who would wait too long: every decision is taken by hand."""

from __future__ import annotations

import pytest

from queues import Caller, batcher, take_flights
from synaptoroute.errors import Overloaded
from synaptoroute.serving.queue import Batcher

pytestmark = pytest.mark.unit


def slow(batching: Batcher, token_seconds: float = 0.01) -> None:
    """Teach the batcher that a token costs so much; a character is a token."""
    for count in (8, 16, 24, 32) * 4:
        batching.learn(count, count, count * token_seconds)


def test_query_that_would_wait_too_long_is_refused_at_once() -> None:
    """The caller learns by how much, and nothing of it stays in the queue."""
    batching = batcher()
    slow(batching)
    batching.submit("a" * 100, Caller(), deadline_seconds=0.1)

    with pytest.raises(Overloaded, match="deadline is 500 ms") as refused:
        batching.submit("b" * 100, Caller(), deadline_seconds=0.5)

    assert pytest.approx(1.5, rel=0.1) == refused.value.retry_after_seconds
    assert (1, 1) == (batching.counters.overloaded, batching.counters.too_late)
    assert 1 == batching.queue_requests
    batching.submit("c" * 100, Caller(), deadline_seconds=5.0)


def test_first_in_line_is_never_refused() -> None:
    """A model gone wrong cannot close the door: the next batch puts it right."""
    batching = batcher()
    slow(batching, token_seconds=0.1)

    batching.submit("a" * 1_000, Caller(), deadline_seconds=0.001)

    assert 1 == batching.queue_requests


def test_who_joins_a_flight_waits_no_longer_than_it() -> None:
    """A text that is on its way costs nothing more."""
    batching = batcher()
    slow(batching)
    batching.submit("a" * 100, Caller())

    batching.submit("a" * 100, Caller(), deadline_seconds=0.1)

    with pytest.raises(Overloaded):
        batching.submit("a" * 100, Caller(), share=False, deadline_seconds=0.1)


def test_predicted_wait_ends_with_the_work() -> None:
    """What has landed, was dropped or went back is counted once and no more."""
    batching = batcher()
    slow(batching)
    gone = Caller()
    for text, caller in (("a", Caller()), ("b", gone), ("c", Caller())):
        batching.submit(text * 100, caller)
    waiting = batching.admission.wait_seconds
    flights = take_flights(batching)
    batching.give_back(flights)
    gone.is_abandoned = True
    again = batching.drop_abandoned(take_flights(batching))
    fewer = batching.admission.wait_seconds
    batching.land(again)

    assert pytest.approx(3.0, rel=0.1) == waiting
    assert pytest.approx(2.0, rel=0.1) == fewer
    assert 0.0 == batching.admission.wait_seconds
    assert pytest.approx(0.01, rel=0.1) == batching.admission.token_seconds


def test_batch_of_queries_is_refused_as_a_whole() -> None:
    """All of its texts are counted into the wait, and into the refusals."""
    batching = batcher()
    slow(batching)
    batching.submit("a" * 50, Caller())

    with pytest.raises(Overloaded):
        batching.submit_all([(text * 50, Caller()) for text in "bc"], deadline_seconds=1.6)

    assert 2 == batching.counters.too_late
    batching.submit("b" * 50, Caller(), deadline_seconds=1.6)


def test_queue_alone_may_refuse_before_anything_is_looked_at() -> None:
    """Whatever is asked: while what waits takes too long, nothing about a text matters."""
    batching = batcher()
    slow(batching)
    batching.check_queue((b"no text",), True, 0.001)
    batching.submit("a" * 100, Caller())

    batching.check_queue((b"no text",), True, 5.0)
    with pytest.raises(Overloaded, match="the deadline is 500 ms") as refused:
        batching.check_queue((b"no text", ["neither"]), True, 0.5)

    assert pytest.approx(0.5, rel=0.2) == refused.value.retry_after_seconds
    assert (3, 2, 2) == (
        batching.counters.requests,
        batching.counters.overloaded,
        batching.counters.too_late,
    )
    assert 1 == batching.queue_requests


def test_queue_alone_refuses_nobody_who_may_join() -> None:
    """Texts that are all on their way pass, unless they are to be encoded alone."""
    batching = batcher()
    slow(batching)
    batching.submit("a" * 100, Caller())
    batching.submit("b" * 100, Caller())

    batching.check_queue((f" {'a' * 100}\n", "b" * 100), True, 0.1)

    for texts, share in ((("a" * 100,), False), (("a" * 100, "c"), True)):
        with pytest.raises(Overloaded):
            batching.check_queue(texts, share, 0.1)


def test_queue_that_empties_lets_all_pass() -> None:
    """The predicted wait follows what lands, what is dropped and what the costs become."""
    batching = batcher()
    slow(batching)
    gone = Caller()
    batching.submit("a" * 100, Caller())
    batching.submit("b" * 100, gone)
    waits = [batching.admission.wait_seconds]
    for _ in range(200):
        batching.learn(10, 10, 0.01)
    waits.append(batching.admission.wait_seconds)
    gone.is_abandoned = True
    batching.land(batching.drop_abandoned(take_flights(batching)))
    batching.check_queue(("c",), True, 0.001)

    assert pytest.approx(2.0, rel=0.1) == waits[0]
    assert pytest.approx(0.2, rel=0.2) == waits[1]
    assert 0.0 == batching.admission.wait_seconds


def test_full_queue_refuses_before_anything_is_looked_at() -> None:
    """Also those whose text is on its way: there is no place to wait."""
    batching = batcher(queue=2)
    batching.submit("a", Caller())
    batching.check_queue(("a",), True, 5.0)
    batching.submit("b", Caller())

    with pytest.raises(Overloaded, match="2 queries wait, the limit is 2"):
        batching.check_queue(("a",), True, 5.0)

    assert (3, 1, 0) == (
        batching.counters.requests,
        batching.counters.overloaded,
        batching.counters.too_late,
    )


def test_closed_queue_says_so_when_it_is_asked() -> None:
    """A router that stops is not overloaded."""
    batching = batcher(queue=1)
    batching.submit("a", Caller())
    batching.close()

    batching.check_queue(("b",), True, 5.0)
