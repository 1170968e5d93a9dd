"""The queue before the lanes, without lanes: every decision is taken by hand."""

from __future__ import annotations

import threading
import time

import pytest

from queues import Caller, batcher, job, take_flights, taken
from synaptoroute.errors import NotReady, Overloaded
from synaptoroute.serving.admission import RETRY_AFTER_SECONDS_MAX, RETRY_AFTER_SECONDS_MIN
from synaptoroute.serving.in_flight import Flight, Job
from synaptoroute.serving.queue import REQUESTS_PER_TAKE_MAX, TURNS_PER_JOB, Batcher

pytestmark = pytest.mark.unit


def test_what_has_queued_is_taken_at_once() -> None:
    """A free lane takes everything that waits, in the order of arrival."""
    batching = batcher()
    for text in "abc":
        batching.submit(text, Caller())

    assert ["a", "b", "c"] == taken(batching)


def test_lanes_share_what_has_queued() -> None:
    """Busy ones take their part of what is left, and no few of it."""
    batching = batcher(lanes=2)
    for number in range(40):
        batching.submit(str(number), Caller())

    assert [20, 10, 8, 2] == [len(taken(batching)) for _ in range(4)]


def test_idle_lanes_share_little() -> None:
    """Where two wait for work, eight queries are encoded on both."""
    batching = batcher(lanes=2)
    took: list[int] = []
    idle = [threading.Thread(target=lambda: took.append(len(taken(batching)))) for _ in range(2)]
    for lane in idle:
        lane.start()
    while batching.idle_lanes < 2:
        time.sleep(0.001)
    batching.submit_all([(str(number), Caller()) for number in range(8)])
    for lane in idle:
        lane.join()

    assert [4, 4] == took


def test_no_take_is_larger_than_the_limit() -> None:
    """One lane never takes more than it can encode in a fair time."""
    batching = batcher(queue=1_000)
    for number in range(REQUESTS_PER_TAKE_MAX + 1):
        batching.submit(str(number), Caller())

    assert [REQUESTS_PER_TAKE_MAX, 1] == [len(taken(batching)), len(taken(batching))]


def test_identical_texts_share_a_flight_until_it_lands() -> None:
    """A text in flight takes newcomers on, also while it is being encoded."""
    batching = batcher()
    callers = [Caller() for _ in range(4)]
    batching.submit("a", callers[0])
    batching.submit("a", callers[1])
    flights = take_flights(batching)
    batching.submit("a", callers[2])
    landed = batching.land(flights)
    batching.submit("a", callers[3])

    assert [callers[:3]] == landed
    assert ["a"] == taken(batching)
    assert (4, 2) == (batching.counters.requests, batching.counters.shared)


def test_unshared_text_flies_alone() -> None:
    """A measurement neither joins a flight nor is joined."""
    batching = batcher()
    batching.submit("a", Caller(), share=False)
    batching.submit("a", Caller())
    batching.submit("a", Caller(), share=False)
    flights = take_flights(batching)

    assert [1, 1, 1] == [len(flight.waiters) for flight in flights]
    assert 3 == len(batching.land(flights))
    assert 0 == batching.queue_requests


def test_full_queue_refuses_and_says_when_to_return() -> None:
    """One caller too many is refused, whether it would queue or join a flight."""
    batching = batcher(queue=2)
    batching.submit("a", Caller())
    batching.submit("a", Caller())
    with pytest.raises(Overloaded) as joining:
        batching.submit("a", Caller())
    with pytest.raises(Overloaded) as queueing:
        batching.submit("b", Caller())
    hints = [caught.value.retry_after_seconds for caught in (joining, queueing)]

    assert all(
        hint is not None and RETRY_AFTER_SECONDS_MIN <= hint <= RETRY_AFTER_SECONDS_MAX
        for hint in hints
    )
    assert 2 == batching.counters.overloaded
    assert 2 == batching.queue_requests


def test_landing_makes_room() -> None:
    """Callers count until their answer is on its way, not until they are taken."""
    batching = batcher(queue=1)
    batching.submit("a", Caller())
    flights = take_flights(batching)
    with pytest.raises(Overloaded):
        batching.submit("b", Caller())
    batching.land(flights)
    batching.submit("b", Caller())

    assert ["b"] == taken(batching)


def test_several_are_admitted_all_or_none() -> None:
    """A batch that does not fit leaves nothing behind."""
    batching = batcher(queue=3)
    batching.submit("a", Caller())
    with pytest.raises(Overloaded):
        batching.submit_all([(text, Caller()) for text in "xyz"])
    batching.submit_all([(text, Caller()) for text in "xx"])
    flights = take_flights(batching)

    assert [("a", 1), ("x", 2)] == [(flight.text, len(flight.waiters)) for flight in flights]


def test_callers_that_have_gone_are_dropped_before_they_cost() -> None:
    """Abandoned flights are forgotten at the take and again after it."""
    batching = batcher()
    gone, late, stays = Caller(is_abandoned=True), Caller(), Caller()
    batching.submit("gone", gone)
    batching.submit("late", late)
    batching.submit("stays", stays)
    flights = take_flights(batching)
    late.is_abandoned = True
    kept = batching.drop_abandoned(flights)

    assert ["late", "stays"] == [flight.text for flight in flights]
    assert ["stays"] == [flight.text for flight in kept]
    assert (2, 1) == (batching.counters.abandoned, batching.queue_requests)


def test_flight_with_one_caller_left_is_encoded() -> None:
    """A flight is abandoned only when all its callers are."""
    batching = batcher()
    batching.submit("a", Caller(is_abandoned=True))
    batching.submit("a", Caller())
    flights = batching.drop_abandoned(take_flights(batching))

    assert [2] == [len(flight.waiters) for flight in flights]


def test_full_queue_of_the_gone_takes_newcomers() -> None:
    """Callers that have gone do not keep others out while the lanes are busy."""
    batching = batcher(queue=3)
    batching.submit("a", Caller())
    batching.submit("b", Caller(is_abandoned=True))
    batching.submit("c", Caller(is_abandoned=True))
    batching.submit("d", Caller())

    assert ["a", "d"] == taken(batching)


def test_abandoned_text_can_be_asked_again() -> None:
    """Forgetting a flight frees its text."""
    batching = batcher()
    batching.submit("a", Caller(is_abandoned=True))
    batching.submit("b", Caller())
    taken(batching)
    batching.submit("a", Caller())

    assert ["a"] == taken(batching)


def test_what_is_given_back_is_taken_first() -> None:
    """Flights over a lane's budget keep their place and can still be joined."""
    batching = batcher()
    for text in "abc":
        batching.submit(text, Caller())
    flights = take_flights(batching)
    batching.submit("d", Caller())
    batching.give_back(flights[1:])
    batching.submit("b", Caller())

    assert ["b", "c", "d"] == taken(batching)
    assert 1 == batching.counters.shared


def test_every_fourth_turn_is_a_job() -> None:
    """Neither queries nor writes starve while both keep coming."""
    batching = batcher()
    order = ""
    for number in range(12):
        batching.submit(str(number), Caller())
        batching.submit_jobs([job("w")])
        order += "J" if isinstance(batching.take(), Job) else "q"

    assert "q" * TURNS_PER_JOB + "J" + "q" * TURNS_PER_JOB + "J" == order[: 2 * TURNS_PER_JOB + 2]


def test_job_runs_at_once_without_queries() -> None:
    """An idle lane does not wait to encode a write."""
    batching = batcher()
    batching.submit_jobs([job("a", "b")])

    assert 2 == batching.queue_texts
    assert isinstance(batching.take(), Job)
    assert 0 == batching.queue_texts


def test_jobs_are_admitted_all_or_none() -> None:
    """A write that finds no room queues nothing; the largest one is let in when it is quiet."""
    batching = batcher(texts=4)
    batching.submit_jobs([job("a", "b", "c"), job("d", "e", "f")])
    with pytest.raises(Overloaded):
        batching.submit_jobs([job("g"), job("h")])
    jobs = [batching.take(), batching.take()]
    batching.submit_jobs([job("g"), job("h")])

    assert all(isinstance(each, Job) for each in jobs)
    assert 2 == batching.queue_texts


def test_closed_batcher_refuses_and_drains() -> None:
    """After the close newcomers are refused, and what had queued is still handed out."""
    batching = batcher()
    batching.submit("a", Caller())
    batching.submit_jobs([job("w")])
    batching.close()
    with pytest.raises(NotReady):
        batching.submit("b", Caller())
    with pytest.raises(NotReady):
        batching.submit_jobs([job("x")])

    assert ["a"] == taken(batching)
    assert isinstance(batching.take(), Job)
    assert batching.take() is None


def test_close_wakes_every_lane() -> None:
    """Lanes that wait for work end at the close."""
    batching = batcher(lanes=4)
    lanes = [threading.Thread(target=batching.take) for _ in range(4)]
    for lane in lanes:
        lane.start()
    batching.close()
    for lane in lanes:
        lane.join(10)

    assert not any(lane.is_alive() for lane in lanes)


def test_window_keeps_the_first_for_company() -> None:
    """Inside the window a lane waits; at its end it takes all who came."""
    batching = batcher(window_ms=80)
    batching.submit("a", Caller())
    threading.Timer(0.01, batching.submit, ("b", Caller())).start()

    assert ["a", "b"] == taken(batching)


def test_window_ends_early_for_a_full_take() -> None:
    """A window of a second does not hold up what fills a take already."""
    batching = batcher(queue=1_000, window_ms=1_000_000)
    for number in range(REQUESTS_PER_TAKE_MAX):
        batching.submit(str(number), Caller())

    assert REQUESTS_PER_TAKE_MAX == len(taken(batching))


def test_window_that_ends_between_two_looks_is_not_slept_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock is read once a decision, so that no lane waits for ever on an open window."""
    batching = batcher(window_ms=50)
    batching.submit("a", Caller())
    real = Batcher._window_left_seconds
    looks: list[float | None] = []

    def look(self: Batcher) -> float | None:
        # The first look finds the window open, every later one finds it closed.
        looks.append(1e-6 if not looks else None)
        return looks[-1] if len(looks) < 3 else real(self)

    monkeypatch.setattr(Batcher, "_window_left_seconds", look)
    lane = threading.Thread(target=batching.take, daemon=True)
    lane.start()
    lane.join(10)

    assert not lane.is_alive()


def test_rest_of_the_queue_wakes_the_next_lane() -> None:
    """What one lane leaves behind does not wait for the next newcomer."""
    batching = batcher(lanes=3)
    got: list[int] = []
    lock = threading.Lock()

    def lane() -> None:
        count = len(taken(batching))
        with lock:
            got.append(count)

    flights = [Flight(str(number), [Caller()], 0.0, is_shared=False) for number in range(3)]
    lanes = [threading.Thread(target=lane, daemon=True) for _ in range(3)]
    for each in lanes:
        each.start()
    batching.give_back(flights)
    for each in lanes:
        each.join(10)

    assert [1, 1, 1] == got


def test_many_threads_lose_nobody() -> None:
    """Every caller of a storm lands exactly once, with lanes that give back and drop."""
    batching = batcher(lanes=3, queue=100_000)
    callers = [[Caller() for _ in range(400)] for _ in range(8)]
    landed: list[Caller] = []
    lock = threading.Lock()

    def lane() -> None:
        while (work := batching.take()) is not None:
            assert isinstance(work, tuple)
            flights = batching.drop_abandoned(work)
            batching.give_back(flights[5:])
            found = batching.land(flights[:5])
            with lock:
                landed.extend(each for group in found for each in group if isinstance(each, Caller))

    def ask(mine: list[Caller]) -> None:
        for number, caller in enumerate(mine):
            batching.submit(str(number % 17), caller, share=number % 5 > 0)

    lanes = [threading.Thread(target=lane) for _ in range(3)]
    asking = [threading.Thread(target=ask, args=(mine,)) for mine in callers]
    for thread in lanes + asking:
        thread.start()
    for thread in asking:
        thread.join()
    batching.close()
    for thread in lanes:
        thread.join(20)

    assert not any(thread.is_alive() for thread in lanes)
    assert sorted(map(id, landed)) == sorted(id(each) for mine in callers for each in mine)
    assert 0 == batching.queue_requests
    assert {} == batching._in_flight
