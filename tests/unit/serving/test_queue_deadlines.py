"""The queue refuses queries whose predicted wait is too long."""

from __future__ import annotations

import pytest

from queues import Caller, query_queue, take_queries
from synaptoroute.errors import Overloaded
from synaptoroute.serving.queue import QueryQueue

pytestmark = pytest.mark.unit


def slow(queue: QueryQueue, token_seconds: float = 0.01) -> None:
    """Teach the queue what a token costs; each character is one token."""
    for count in (8, 16, 24, 32) * 4:
        queue.learn(count, count, count * token_seconds)


def test_query_with_too_long_a_wait_is_refused() -> None:
    """The error names the wait, and nothing of the query stays in the queue."""
    queue = query_queue()
    slow(queue)
    queue.submit("a" * 100, Caller(), deadline_seconds=0.1)

    with pytest.raises(Overloaded, match="deadline is 500 ms") as refused:
        queue.submit("b" * 100, Caller(), deadline_seconds=0.5)

    assert pytest.approx(1.5, rel=0.1) == refused.value.retry_after_seconds
    assert (1, 1) == (queue.counters.overloaded, queue.counters.too_late)
    assert 1 == queue.queue_requests
    queue.submit("c" * 100, Caller(), deadline_seconds=5.0)


def test_first_query_is_never_refused() -> None:
    """A wrong model cannot refuse everything: the next batch corrects it."""
    queue = query_queue()
    slow(queue, token_seconds=0.1)

    queue.submit("a" * 1_000, Caller(), deadline_seconds=0.001)

    assert 1 == queue.queue_requests


def test_joining_a_text_in_flight_is_not_refused() -> None:
    """A text in flight costs nothing more."""
    queue = query_queue()
    slow(queue)
    queue.submit("a" * 100, Caller())

    queue.submit("a" * 100, Caller(), deadline_seconds=0.1)

    with pytest.raises(Overloaded):
        queue.submit("a" * 100, Caller(), share=False, deadline_seconds=0.1)


def test_predicted_wait_ends_with_the_work() -> None:
    """Completed, dropped and returned queries are counted exactly once."""
    queue = query_queue()
    slow(queue)
    gone = Caller()
    for text, caller in (("a", Caller()), ("b", gone), ("c", Caller())):
        queue.submit(text * 100, caller)
    waiting = queue.admission.wait_seconds
    queries = take_queries(queue)
    queue.give_back(queries)
    gone.is_abandoned = True
    again = queue.drop_abandoned(take_queries(queue))
    fewer = queue.admission.wait_seconds
    queue.complete(again)

    assert pytest.approx(3.0, rel=0.1) == waiting
    assert pytest.approx(2.0, rel=0.1) == fewer
    assert 0.0 == queue.admission.wait_seconds
    assert pytest.approx(0.01, rel=0.1) == queue.admission.token_seconds


def test_batch_of_queries_is_refused_as_a_whole() -> None:
    """All of its texts count for the predicted wait and for the counters."""
    queue = query_queue()
    slow(queue)
    queue.submit("a" * 50, Caller())

    with pytest.raises(Overloaded):
        queue.submit_all([(text * 50, Caller()) for text in "bc"], deadline_seconds=1.6)

    assert 2 == queue.counters.too_late
    queue.submit("b" * 50, Caller(), deadline_seconds=1.6)


def test_check_queue_refuses_unvalidated_texts() -> None:
    """While the wait is too long, the texts do not matter."""
    queue = query_queue()
    slow(queue)
    queue.check_queue((b"no text",), True, 0.001)
    queue.submit("a" * 100, Caller())

    queue.check_queue((b"no text",), True, 5.0)
    with pytest.raises(Overloaded, match="the deadline is 500 ms") as refused:
        queue.check_queue((b"no text", ["neither"]), True, 0.5)

    assert pytest.approx(0.5, rel=0.2) == refused.value.retry_after_seconds
    assert (3, 2, 2) == (
        queue.counters.requests,
        queue.counters.overloaded,
        queue.counters.too_late,
    )
    assert 1 == queue.queue_requests


def test_wait_before_the_queue_counts() -> None:
    """Even of an empty queue."""
    queue = query_queue()
    queue.check_queue((None,), False, 0.5, ahead_seconds=0.3)
    with pytest.raises(Overloaded, match="about 400 ms, the deadline is 500 ms"):
        queue.check_queue((None,), False, 0.5, ahead_seconds=0.4)

    assert 1 == queue.counters.too_late


def test_check_queue_admits_texts_in_flight() -> None:
    """Texts that are all in flight pass, unless they must be encoded alone."""
    queue = query_queue()
    slow(queue)
    queue.submit("a" * 100, Caller())
    queue.submit("b" * 100, Caller())

    queue.check_queue((f" {'a' * 100}\n", "b" * 100), True, 0.1)

    for texts, share in ((("a" * 100,), False), (("a" * 100, "c"), True)):
        with pytest.raises(Overloaded):
            queue.check_queue(texts, share, 0.1)


def test_check_queue_admits_all_when_the_queue_empties() -> None:
    """The predicted wait follows completed and dropped queries and changed costs."""
    queue = query_queue()
    slow(queue)
    gone = Caller()
    queue.submit("a" * 100, Caller())
    queue.submit("b" * 100, gone)
    waits = [queue.admission.wait_seconds]
    for _ in range(200):
        queue.learn(10, 10, 0.01)
    waits.append(queue.admission.wait_seconds)
    gone.is_abandoned = True
    queue.complete(queue.drop_abandoned(take_queries(queue)))
    queue.check_queue(("c",), True, 0.001)

    assert pytest.approx(2.0, rel=0.1) == waits[0]
    assert pytest.approx(0.2, rel=0.2) == waits[1]
    assert 0.0 == queue.admission.wait_seconds


def test_check_queue_refuses_all_when_the_queue_is_full() -> None:
    """Texts in flight are refused, too: there is no room for their callers."""
    queue = query_queue(queue=2)
    queue.submit("a", Caller())
    queue.check_queue(("a",), True, 5.0)
    queue.submit("b", Caller())

    with pytest.raises(Overloaded, match="2 queries wait, the limit is 2"):
        queue.check_queue(("a",), True, 5.0)

    assert (3, 1, 0) == (
        queue.counters.requests,
        queue.counters.overloaded,
        queue.counters.too_late,
    )


def test_closed_queue_is_not_overloaded() -> None:
    """A router that stops reports that it stops."""
    queue = query_queue(queue=1)
    queue.submit("a", Caller())
    queue.close()

    queue.check_queue(("b",), True, 5.0)
