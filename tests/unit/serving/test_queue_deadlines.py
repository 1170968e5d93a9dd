"""The queue refuses queries whose predicted wait is too long."""

from __future__ import annotations

import pytest

from queues import Caller, query_queue, take_queries
from synaptoroute.errors import Overloaded
from synaptoroute.serving.queue import QueryQueue

pytestmark = pytest.mark.unit


def slow(queue: QueryQueue, token_seconds: float = 0.01) -> None:
    """Teach the batcher that a token costs so much; a character is a token."""
    for count in (8, 16, 24, 32) * 4:
        queue.learn(count, count, count * token_seconds)


def test_query_that_would_wait_too_long_is_refused_at_once() -> None:
    """The caller learns by how much, and nothing of it stays in the queue."""
    queue = query_queue()
    slow(queue)
    queue.submit("a" * 100, Caller(), deadline_seconds=0.1)

    with pytest.raises(Overloaded, match="deadline is 500 ms") as refused:
        queue.submit("b" * 100, Caller(), deadline_seconds=0.5)

    assert pytest.approx(1.5, rel=0.1) == refused.value.retry_after_seconds
    assert (1, 1) == (queue.counters.overloaded, queue.counters.too_late)
    assert 1 == queue.queue_requests
    queue.submit("c" * 100, Caller(), deadline_seconds=5.0)


def test_first_in_line_is_never_refused() -> None:
    """A model gone wrong cannot close the door: the next batch puts it right."""
    queue = query_queue()
    slow(queue, token_seconds=0.1)

    queue.submit("a" * 1_000, Caller(), deadline_seconds=0.001)

    assert 1 == queue.queue_requests


def test_who_joins_a_flight_waits_no_longer_than_it() -> None:
    """A text that is on its way costs nothing more."""
    queue = query_queue()
    slow(queue)
    queue.submit("a" * 100, Caller())

    queue.submit("a" * 100, Caller(), deadline_seconds=0.1)

    with pytest.raises(Overloaded):
        queue.submit("a" * 100, Caller(), share=False, deadline_seconds=0.1)


def test_predicted_wait_ends_with_the_work() -> None:
    """What has callers_of, was dropped or went back is counted once and no more."""
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
    """All of its texts are counted into the wait, and into the refusals."""
    queue = query_queue()
    slow(queue)
    queue.submit("a" * 50, Caller())

    with pytest.raises(Overloaded):
        queue.submit_all([(text * 50, Caller()) for text in "bc"], deadline_seconds=1.6)

    assert 2 == queue.counters.too_late
    queue.submit("b" * 50, Caller(), deadline_seconds=1.6)


def test_queue_alone_may_refuse_before_anything_is_looked_at() -> None:
    """Whatever is asked: while what waits takes too long, nothing about a text matters."""
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


def test_queue_alone_refuses_nobody_who_may_join() -> None:
    """Texts that are all on their way pass, unless they are to be encoded alone."""
    queue = query_queue()
    slow(queue)
    queue.submit("a" * 100, Caller())
    queue.submit("b" * 100, Caller())

    queue.check_queue((f" {'a' * 100}\n", "b" * 100), True, 0.1)

    for texts, share in ((("a" * 100,), False), (("a" * 100, "c"), True)):
        with pytest.raises(Overloaded):
            queue.check_queue(texts, share, 0.1)


def test_queue_that_empties_lets_all_pass() -> None:
    """The predicted wait follows what lands, what is dropped and what the costs become."""
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


def test_full_queue_refuses_before_anything_is_looked_at() -> None:
    """Also those whose text is on its way: there is no place to wait."""
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


def test_closed_queue_says_so_when_it_is_asked() -> None:
    """A router that stops is not overloaded."""
    queue = query_queue(queue=1)
    queue.submit("a", Caller())
    queue.close()

    queue.check_queue(("b",), True, 5.0)
