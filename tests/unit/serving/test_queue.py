"""The queue before the workers, without workers: every decision is taken by hand."""

from __future__ import annotations

import threading
import time

import pytest

from queues import Caller, job, query_queue, take_queries, take_texts
from synaptoroute.errors import NotReady, Overloaded
from synaptoroute.serving.admission import RETRY_AFTER_SECONDS_MAX, RETRY_AFTER_SECONDS_MIN
from synaptoroute.serving.queue import (
    QUERY_TAKES_PER_JOB,
    REQUESTS_PER_TAKE_MAX,
    EncodeJob,
    InFlightQuery,
    QueryQueue,
)

pytestmark = pytest.mark.unit


def test_what_has_queued_is_taken_at_once() -> None:
    """A free worker takes everything that waits, in the order of arrival."""
    queue = query_queue()
    for text in "abc":
        queue.submit(text, Caller())

    assert ["a", "b", "c"] == take_texts(queue)


def test_lanes_share_what_has_queued() -> None:
    """Busy ones take their part of what is left, and no few of it."""
    queue = query_queue(workers=2)
    for number in range(40):
        queue.submit(str(number), Caller())

    assert [20, 10, 8, 2] == [len(take_texts(queue)) for _ in range(4)]


def test_idle_lanes_share_little() -> None:
    """Where two wait for work, eight queries are encoded on both."""
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
    """One worker never takes more than it can encode in a fair time."""
    queue = query_queue(queue=1_000)
    for number in range(REQUESTS_PER_TAKE_MAX + 1):
        queue.submit(str(number), Caller())

    assert [REQUESTS_PER_TAKE_MAX, 1] == [len(take_texts(queue)), len(take_texts(queue))]


def test_identical_texts_share_a_flight_until_it_lands() -> None:
    """A text in flight takes newcomers on, also while it is being encoded."""
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


def test_unshared_text_flies_alone() -> None:
    """A measurement neither joins a flight nor is joined."""
    queue = query_queue()
    queue.submit("a", Caller(), share=False)
    queue.submit("a", Caller())
    queue.submit("a", Caller(), share=False)
    queries = take_queries(queue)

    assert [1, 1, 1] == [len(flight.waiters) for flight in queries]
    assert 3 == len(queue.complete(queries))
    assert 0 == queue.queue_requests


def test_full_queue_refuses_and_says_when_to_return() -> None:
    """One caller too many is refused, whether it would queue or join a flight."""
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


def test_landing_makes_room() -> None:
    """Callers count until their answer is on its way, not until they are taken."""
    queue = query_queue(queue=1)
    queue.submit("a", Caller())
    queries = take_queries(queue)
    with pytest.raises(Overloaded):
        queue.submit("b", Caller())
    queue.complete(queries)
    queue.submit("b", Caller())

    assert ["b"] == take_texts(queue)


def test_several_are_admitted_all_or_none() -> None:
    """A batch that does not fit leaves nothing behind."""
    queue = query_queue(queue=3)
    queue.submit("a", Caller())
    with pytest.raises(Overloaded):
        queue.submit_all([(text, Caller()) for text in "xyz"])
    queue.submit_all([(text, Caller()) for text in "xx"])
    queries = take_queries(queue)

    assert [("a", 1), ("x", 2)] == [(flight.text, len(flight.waiters)) for flight in queries]


def test_callers_that_have_gone_are_dropped_before_they_cost() -> None:
    """Abandoned queries are forgotten at the take and again after it."""
    queue = query_queue()
    gone, late, stays = Caller(is_abandoned=True), Caller(), Caller()
    queue.submit("gone", gone)
    queue.submit("late", late)
    queue.submit("stays", stays)
    queries = take_queries(queue)
    late.is_abandoned = True
    kept = queue.drop_abandoned(queries)

    assert ["late", "stays"] == [flight.text for flight in queries]
    assert ["stays"] == [flight.text for flight in kept]
    assert (2, 1) == (queue.counters.abandoned, queue.queue_requests)


def test_flight_with_one_caller_left_is_encoded() -> None:
    """A flight is abandoned only when all its callers are."""
    queue = query_queue()
    queue.submit("a", Caller(is_abandoned=True))
    queue.submit("a", Caller())
    queries = queue.drop_abandoned(take_queries(queue))

    assert [2] == [len(flight.waiters) for flight in queries]


def test_full_queue_of_the_gone_takes_newcomers() -> None:
    """Callers that have gone do not keep others out while the workers are busy."""
    queue = query_queue(queue=3)
    queue.submit("a", Caller())
    queue.submit("b", Caller(is_abandoned=True))
    queue.submit("c", Caller(is_abandoned=True))
    queue.submit("d", Caller())

    assert ["a", "d"] == take_texts(queue)


def test_abandoned_text_can_be_asked_again() -> None:
    """Forgetting a flight frees its text."""
    queue = query_queue()
    queue.submit("a", Caller(is_abandoned=True))
    queue.submit("b", Caller())
    take_texts(queue)
    queue.submit("a", Caller())

    assert ["a"] == take_texts(queue)


def test_what_is_given_back_is_taken_first() -> None:
    """Queries over a worker's budget keep their place and can still be joined."""
    queue = query_queue()
    for text in "abc":
        queue.submit(text, Caller())
    queries = take_queries(queue)
    queue.submit("d", Caller())
    queue.give_back(queries[1:])
    queue.submit("b", Caller())

    assert ["b", "c", "d"] == take_texts(queue)
    assert 1 == queue.counters.shared


def test_every_fourth_turn_is_a_job() -> None:
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
    """An idle worker does not wait to encode a write."""
    queue = query_queue()
    queue.submit_jobs([job("a", "b")])

    assert 2 == queue.queue_texts
    assert isinstance(queue.take(), EncodeJob)
    assert 0 == queue.queue_texts


def test_jobs_are_admitted_all_or_none() -> None:
    """A write that finds no room queues nothing; the largest one is let in when it is quiet."""
    queue = query_queue(texts=4)
    queue.submit_jobs([job("a", "b", "c"), job("d", "e", "f")])
    with pytest.raises(Overloaded):
        queue.submit_jobs([job("g"), job("h")])
    jobs = [queue.take(), queue.take()]
    queue.submit_jobs([job("g"), job("h")])

    assert all(isinstance(each, EncodeJob) for each in jobs)
    assert 2 == queue.queue_texts


def test_closed_batcher_refuses_and_drains() -> None:
    """After the close newcomers are refused, and what had queued is still handed out."""
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


def test_close_wakes_every_lane() -> None:
    """Lanes that wait for work end at the close."""
    queue = query_queue(workers=4)
    workers = [threading.Thread(target=queue.take) for _ in range(4)]
    for worker in workers:
        worker.start()
    queue.close()
    for worker in workers:
        worker.join(10)

    assert not any(worker.is_alive() for worker in workers)


def test_window_keeps_the_first_for_company() -> None:
    """Inside the window a worker waits; at its end it takes all who came."""
    queue = query_queue(window_ms=80)
    queue.submit("a", Caller())
    threading.Timer(0.01, queue.submit, ("b", Caller())).start()

    assert ["a", "b"] == take_texts(queue)


def test_window_ends_early_for_a_full_take() -> None:
    """A window of a second does not hold up what fills a take already."""
    queue = query_queue(queue=1_000, window_ms=1_000_000)
    for number in range(REQUESTS_PER_TAKE_MAX):
        queue.submit(str(number), Caller())

    assert REQUESTS_PER_TAKE_MAX == len(take_texts(queue))


def test_window_that_ends_between_two_looks_is_not_slept_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock is read once a decision, so that no worker waits for ever on an open window."""
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


def test_rest_of_the_queue_wakes_the_next_lane() -> None:
    """What one worker leaves behind does not wait for the next newcomer."""
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


def test_many_threads_lose_nobody() -> None:
    """Every caller of a storm lands exactly once, with workers that give back and drop."""
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
