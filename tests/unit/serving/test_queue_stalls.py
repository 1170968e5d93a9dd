"""The queue on a machine that stalls: what it admits is answered in time."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace

import pytest

from queues import Caller, query_queue
from synaptoroute.errors import Overloaded
from synaptoroute.serving import queue as queue_module
from synaptoroute.serving.admission import (
    DEADLINE_SHARE,
    DEADLINE_SHARE_MIN,
    ERROR_SECONDS_MAX,
    WaitForecast,
)

pytestmark = pytest.mark.unit

WORKERS = 2
TEXTS_PER_BATCH = 8
TEXT_SECONDS = 0.008
CAPACITY_PER_SECOND = WORKERS / TEXT_SECONDS
OVERLOAD = 4.0
DEADLINE_SECONDS = 0.5
SECONDS = 30.0
Stall = Callable[[float], float]  # From a moment to the one at which the machine goes on


@dataclass(eq=False)
class Arrived(Caller):
    """A caller whose query has come at a moment."""

    at: float = 0.0


def goes_on(moment: float) -> float:
    """A machine that never stalls."""
    return moment


def stalls(moment: float) -> float:
    """The last 0.3 of every two seconds nothing runs."""
    return moment if moment % 2.0 < 1.7 else moment - moment % 2.0 + 2.0


def offer(monkeypatch: pytest.MonkeyPatch, stall: Stall) -> tuple[float, float]:
    """Offer four times the capacity; return good and late answers, as shares of the capacity."""
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(queue_module, "time", clock)
    queue, draw, order = query_queue(workers=WORKERS), random.Random(7), count()
    events: list[tuple[float, int, tuple[object, ...]]] = [(0.0, next(order), ())]
    idle, good, late = WORKERS, 0, 0
    while events[0][0] < SECONDS:
        due, _, done = heapq.heappop(events)
        now = max(now, stall(due))
        if done:
            batch, seconds = done
            queue.learn(10 * len(batch), 10 * len(batch), seconds)  # type: ignore[arg-type]
            for (caller,) in queue.complete(batch):  # type: ignore[arg-type]
                assert isinstance(caller, Arrived)
                is_good = now - caller.at <= DEADLINE_SECONDS
                good, late = good + is_good, late + (not is_good)
            idle += 1
        else:
            caller = Arrived(at=due)
            with suppress(Overloaded):
                queue.submit("0123456789", caller, share=False, deadline_seconds=DEADLINE_SECONDS)
            gap = draw.expovariate(OVERLOAD * CAPACITY_PER_SECOND)
            heapq.heappush(events, (due + gap, next(order), ()))
        while idle and queue._fair.count:
            idle -= 1
            queue.idle_workers = idle
            taken = queue.take()
            assert isinstance(taken, tuple)
            queue.give_back(taken[TEXTS_PER_BATCH:])
            batch = taken[:TEXTS_PER_BATCH]
            ends_at = stall(now + TEXT_SECONDS * len(batch) * draw.uniform(0.9, 1.1))
            heapq.heappush(events, (ends_at, next(order), (batch, ends_at - now)))
    return good / SECONDS / CAPACITY_PER_SECOND, late / SECONDS / CAPACITY_PER_SECOND


def test_few_answers_are_late_where_the_machine_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries that wait during a stall are answered within their deadline."""
    good, late = offer(monkeypatch, stalls)

    assert late < 0.04
    assert 0.8 < good, "it runs 85 % of the time"


def test_nothing_is_lost_where_the_machine_never_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    good, late = offer(monkeypatch, goes_on)

    assert 0.0 == late
    assert 0.95 < good


def test_room_for_errors_grows_at_once_and_shrinks_slowly() -> None:
    forecast = WaitForecast(WORKERS, TEXTS_PER_BATCH)
    assert DEADLINE_SHARE == forecast.longest_wait(1.0)

    forecast.cost.compare(0.1, 0.1 + 3_600.0)  # the process was stopped for an hour
    assert forecast.cost.error_seconds <= ERROR_SECONDS_MAX
    for _ in range(10):
        forecast.cost.compare(0.1, 0.9)
    assert DEADLINE_SHARE_MIN == forecast.longest_wait(1.0)

    for _ in range(20):
        forecast.cost.compare(0.1, 0.1)
    assert DEADLINE_SHARE_MIN == forecast.longest_wait(1.0)
    for _ in range(1_000):
        forecast.cost.compare(0.1, 0.1)
    assert DEADLINE_SHARE == forecast.longest_wait(1.0)
