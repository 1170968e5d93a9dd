"""The query queue without workers."""

from __future__ import annotations

import threading
import time

import pytest

from queues import Caller, job, query_queue, take_queries, take_texts
from synaptoroute.errors import NotReady, Overloaded
from synaptoroute.serving.admission import RETRY_AFTER_SECONDS_MAX, RETRY_AFTER_SECONDS_MIN
from synaptoroute.serving.fair_queue import InFlightQuery
from synaptoroute.serving.queue import (
    QUERY_TAKES_PER_JOB,
    REQUESTS_PER_BUSY_TAKE_MIN,
    REQUESTS_PER_TAKE_MAX,
    EncodeJob,
    QueryQueue,
)

pytestmark = pytest.mark.unit


def test_free_worker_takes_all_queued_queries() -> None:
    """They are taken in the order of arrival."""
    queue = query_queue()
    for text in "abc":
        queue.submit(text, Caller())

    assert ["a", "b", "c"] == take_texts(queue)


def test_busy_workers_share_the_queue() -> None:
    """Each takes its share of the rest, but at least the minimum."""
    queue = query_queue(workers=2)
    for number in range(64):
        queue.submit(str(number), Caller())

    assert [32, REQUESTS_PER_BUSY_TAKE_MIN, 8] == [len(take_texts(queue)) for _ in range(3)]


def test_idle_workers_share_a_short_queue() -> None:
    """With two idle workers, eight queries are split between them."""
    queue = query_queue(workers=2)
    took: list[int] = []
    idle = [threading.Thread(target=lambda: took.append(len(take_texts(queue)))) for _ in range(2)]
    for worker in idle:
        worker.start()
    while queue.idle_workers < 2:
        time.sleep(0.001)
    queue.submit_all([(str(number), Caller()) for number in range(8)])
    for worker in idle:
        worker.join()

    assert [4, 4] == took


def test_no_take_is_larger_than_the_limit() -> None:
    """A worker never takes more than the limit."""
    queue = query_queue(queue=1_000)
    for number in range(REQUESTS_PER_TAKE_MAX + 1):
        queue.submit(str(number), Caller())

    assert [REQUESTS_PER_TAKE_MAX, 1] == [len(take_texts(queue)), len(take_texts(queue))]


def test_equal_texts_share_one_query_until_it_completes() -> None:
    """Callers may join a text while it is queued and while it is encoded."""
    queue = query_queue()
    callers = [Caller() for _ in range(4)]
    queue.submit("a", callers[0])
    queue.submit("a", callers[1])
    queries = take_queries(queue)
    queue.submit("a", callers[2])
    callers_of = queue.complete(queries)
    queue.submit("a", callers[3])

    assert [callers[:3]] == callers_of
    assert ["a"] == take_texts(queue)
    assert (4, 2) == (queue.counters.requests, queue.counters.shared)


def test_unshared_text_is_encoded_alone() -> None:
    """A measurement neither joins another query nor is joined."""
    queue = query_queue()
    queue.submit("a", Caller(), share=False)
    queue.submit("a", Caller())
    queue.submit("a", Caller(), share=False)
    queries = take_queries(queue)

    assert [1, 1, 1] == [len(query.waiters) for query in queries]
    assert 3 == len(queue.complete(queries))
    assert 0 == queue.queue_requests


def test_full_queue_refuses_with_a_retry_after() -> None:
    """One caller too many is refused, even if its text is in flight."""
    queue = query_queue(queue=2)
    queue.submit("a", Caller())
    queue.submit("a", Caller())
    with pytest.raises(Overloaded) as joining:
        queue.submit("a", Caller())
    with pytest.raises(Overloaded) as queueing:
        queue.submit("b", Caller())
    hints = [caught.value.retry_after_seconds for caught in (joining, queueing)]

    assert all(
        hint is not None and RETRY_AFTER_SECONDS_MIN <= hint <= RETRY_AFTER_SECONDS_MAX
        for hint in hints
    )
    assert 2 == queue.counters.overloaded
    assert 2 == queue.queue_requests


def test_completing_makes_room() -> None:
    """Callers count until their query is completed, not only until it is taken."""
    queue = query_queue(queue=1)
    queue.submit("a", Caller())
    queries = take_queries(queue)
    with pytest.raises(Overloaded):
        queue.submit("b", Caller())
    queue.complete(queries)
    queue.submit("b", Caller())

    assert ["b"] == take_texts(queue)


def test_batch_is_admitted_as_a_whole() -> None:
    """A batch that does not fit leaves nothing in the queue."""
    queue = query_queue(queue=3)
    queue.submit("a", Caller())
    with pytest.raises(Overloaded):
        queue.submit_all([(text, Caller()) for text in "xyz"])
    queue.submit_all([(text, Caller()) for text in "xx"])
    queries = take_queries(queue)

    assert [("a", 1), ("x", 2)] == [(query.text, len(query.waiters)) for query in queries]


def test_abandoned_queries_are_dropped() -> None:
    """They are dropped when they are taken, and again before encoding."""
    queue = query_queue()
    gone, late, stays = Caller(is_abandoned=True), Caller(), Caller()
    queue.submit("gone", gone)
    queue.submit("late", late)
    queue.submit("stays", stays)
    queries = take_queries(queue)
    late.is_abandoned = True
    kept = queue.drop_abandoned(queries)

    assert ["late", "stays"] == [query.text for query in queries]
    assert ["stays"] == [query.text for query in kept]
    assert (2, 1) == (queue.counters.abandoned, queue.queue_requests)


def test_query_with_one_caller_left_is_encoded() -> None:
    """A query is abandoned only when all its callers have gone."""
    queue = query_queue()
    queue.submit("a", Caller(is_abandoned=True))
    queue.submit("a", Caller())
    queries = queue.drop_abandoned(take_queries(queue))

    assert [2] == [len(query.waiters) for query in queries]


def test_full_queue_drops_abandoned_queries_first() -> None:
    """Abandoned queries do not keep newcomers out while the workers are busy."""
    queue = query_queue(queue=3)
    queue.submit("a", Caller())
    queue.submit("b", Caller(is_abandoned=True))
    queue.submit("c", Caller(is_abandoned=True))
    queue.submit("d", Caller())

    assert ["a", "d"] == take_texts(queue)


def test_dropped_text_can_be_queued_again() -> None:
    """Dropping a query frees its text."""
    queue = query_queue()
    queue.submit("a", Caller(is_abandoned=True))
    queue.submit("b", Caller())
    take_texts(queue)
    queue.submit("a", Caller())

    assert ["a"] == take_texts(queue)


def test_returned_queries_are_taken_first() -> None:
    """Queries over the token budget keep their place and may still be joined."""
    queue = query_queue()
    for text in "abc":
        queue.submit(text, Caller())
    queries = take_queries(queue)
    queue.submit("d", Caller())
    queue.give_back(queries[1:])
    queue.submit("b", Caller())

    assert ["b", "c", "d"] == take_texts(queue)
    assert 1 == queue.counters.shared


def test_every_fourth_take_is_a_job() -> None:
    """Neither queries nor writes starve while both keep coming."""
    queue = query_queue()
    order = ""
    for number in range(12):
        queue.submit(str(number), Caller())
        queue.submit_jobs([job("w")])
        order += "J" if isinstance(queue.take(), EncodeJob) else "q"

    assert (
        "q" * QUERY_TAKES_PER_JOB + "J" + "q" * QUERY_TAKES_PER_JOB + "J"
        == order[: 2 * QUERY_TAKES_PER_JOB + 2]
    )


def test_job_runs_at_once_without_queries() -> None:
    """An idle worker starts a write job immediately."""
    queue = query_queue()
    queue.submit_jobs([job("a", "b")])

    assert 2 == queue.queue_texts
    assert isinstance(queue.take(), EncodeJob)
    assert 0 == queue.queue_texts


def test_jobs_of_a_write_are_admitted_as_a_whole() -> None:
    """A write that does not fit queues nothing; an empty queue takes any write."""
    queue = query_queue(texts=4)
    queue.submit_jobs([job("a", "b", "c"), job("d", "e", "f")])
    with pytest.raises(Overloaded):
        queue.submit_jobs([job("g"), job("h")])
    jobs = [queue.take(), queue.take()]
    queue.submit_jobs([job("g"), job("h")])

    assert all(isinstance(each, EncodeJob) for each in jobs)
    assert 2 == queue.queue_texts


def test_closed_queue_refuses_newcomers_and_drains() -> None:
    """Queued work is still handed out after the close."""
    queue = query_queue()
    queue.submit("a", Caller())
    queue.submit_jobs([job("w")])
    queue.close()
    with pytest.raises(NotReady):
        queue.submit("b", Caller())
    with pytest.raises(NotReady):
        queue.submit_jobs([job("x")])

    assert ["a"] == take_texts(queue)
    assert isinstance(queue.take(), EncodeJob)
    assert queue.take() is None


def test_close_wakes_every_worker() -> None:
    """Workers that wait for work end when the queue is closed."""
    queue = query_queue(workers=4)
    workers = [threading.Thread(target=queue.take) for _ in range(4)]
    for worker in workers:
        worker.start()
    queue.close()
    for worker in workers:
        worker.join(10)

    assert not any(worker.is_alive() for worker in workers)


def test_window_delays_the_first_query() -> None:
    """Inside the window a worker waits; at its end it takes all queued queries."""
    queue = query_queue(window_ms=80)
    queue.submit("a", Caller())
    threading.Timer(0.01, queue.submit, ("b", Caller())).start()

    assert ["a", "b"] == take_texts(queue)


def test_window_ends_early_for_a_full_take() -> None:
    """A window of one second does not delay a full batch."""
    queue = query_queue(queue=1_000, window_ms=1_000_000)
    for number in range(REQUESTS_PER_TAKE_MAX):
        queue.submit(str(number), Caller())

    assert REQUESTS_PER_TAKE_MAX == len(take_texts(queue))


def test_window_is_read_once_per_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A window that ends between two reads of the clock does not block a worker for ever."""
    queue = query_queue(window_ms=50)
    queue.submit("a", Caller())
    real = QueryQueue._window_left_seconds
    looks: list[float | None] = []

    def look(self: QueryQueue) -> float | None:
        # The first look finds the window open, every later one finds it closed.
        looks.append(1e-6 if not looks else None)
        return looks[-1] if len(looks) < 3 else real(self)

    monkeypatch.setattr(QueryQueue, "_window_left_seconds", look)
    worker = threading.Thread(target=queue.take, daemon=True)
    worker.start()
    worker.join(10)

    assert not worker.is_alive()


def test_rest_of_the_queue_wakes_the_next_worker() -> None:
    """Queries that one worker leaves do not wait for the next newcomer."""
    queue = query_queue(workers=3)
    got: list[int] = []
    lock = threading.Lock()

    def worker() -> None:
        count = len(take_texts(queue))
        with lock:
            got.append(count)

    queries = [InFlightQuery(str(number), [Caller()], 0.0, is_shared=False) for number in range(3)]
    workers = [threading.Thread(target=worker, daemon=True) for _ in range(3)]
    for each in workers:
        each.start()
    queue.give_back(queries)
    for each in workers:
        each.join(10)

    assert [1, 1, 1] == got


def test_no_caller_is_lost_with_many_threads() -> None:
    """Every caller is completed exactly once, with workers that return and drop queries."""
    queue = query_queue(workers=3, queue=100_000)
    callers = [[Caller() for _ in range(400)] for _ in range(8)]
    callers_of: list[Caller] = []
    lock = threading.Lock()

    def worker() -> None:
        while (work := queue.take()) is not None:
            assert isinstance(work, tuple)
            queries = queue.drop_abandoned(work)
            queue.give_back(queries[5:])
            found = queue.complete(queries[:5])
            with lock:
                callers_of.extend(
                    each for group in found for each in group if isinstance(each, Caller)
                )

    def ask(mine: list[Caller]) -> None:
        for number, caller in enumerate(mine):
            queue.submit(str(number % 17), caller, share=number % 5 > 0)

    workers = [threading.Thread(target=worker) for _ in range(3)]
    asking = [threading.Thread(target=ask, args=(mine,)) for mine in callers]
    for thread in workers + asking:
        thread.start()
    for thread in asking:
        thread.join()
    queue.close()
    for thread in workers:
        thread.join(20)

    assert not any(thread.is_alive() for thread in workers)
    assert sorted(map(id, callers_of)) == sorted(id(each) for mine in callers for each in mine)
    assert 0 == queue.queue_requests
    assert {} == queue._in_flight
