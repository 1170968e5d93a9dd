"""The queue between the event loop and the lanes that encode.

A lane that is free takes what has queued: there is no window by default, since a
batch forms by itself while the lanes are busy.  Identical texts in flight share
one encoding.  The queue is bounded and refuses at the door, as it does where the wait
that ``admission`` predicts is longer than the caller's deadline; a query whose caller
has gone is dropped before it costs anything.  Writes encode in the same lanes
behind the queries, but every fourth turn is theirs, so neither starves.

Threads: ``submit`` and ``submit_jobs`` run on the event loop, ``take`` and
``give_back`` on a lane, ``land`` on the scorer; one condition guards the state.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from synaptoroute.errors import NotReady, Overloaded
from synaptoroute.ports import Admission
from synaptoroute.serving.admission import (
    Forecast,
    LandingRate,
    is_late,
    retry_after,
    too_late,
)
from synaptoroute.serving.in_flight import Flight, Job, Waiter

REQUESTS_PER_TAKE_MAX: Final = 64
REQUESTS_PER_TAKE_MIN: Final = 8
"""What a lane takes of as many while no other is idle: halves of halves end in batches of one."""
TURNS_PER_JOB: Final = 4
SWEEP_SECONDS_MIN: Final = 0.05
"""A full queue looks for callers that have gone, but not for every refusal."""


@dataclass(slots=True)
class BatcherCounters:
    """Totals since the start.

    Attributes:
        requests: Queries submitted.
        shared: Queries that joined a flight of the same text.
        overloaded: Queries and jobs refused.
        too_late: Queries among them whose predicted wait was over their deadline.
        abandoned: Flights dropped because their callers had gone.
        landed: Queries handed to the scorer.
    """

    requests: int = 0
    shared: int = 0
    overloaded: int = 0
    too_late: int = 0
    abandoned: int = 0
    landed: int = 0


class Batcher:
    """Bounded queue of queries, and of write jobs behind them.

    Invariants: at most ``queue_requests_max`` callers are on their way; a flight
    is in the index exactly while callers may still join it.

    Attributes:
        idle_lanes: Lanes that wait for work.
    """

    def __init__(
        self,
        *,
        lanes: int,
        queue_requests_max: int,
        write_texts_max: int,
        batch_window_ms: float = 0.0,
    ) -> None:
        self.lanes = lanes
        self.queue_requests_max = queue_requests_max
        self.write_texts_max = write_texts_max
        self.counters = BatcherCounters()
        self._forecast = Forecast(lanes, REQUESTS_PER_TAKE_MAX)
        self._window_seconds = batch_window_ms / 1_000
        self._condition = threading.Condition()
        self._queued: deque[Flight] = deque()
        self._in_flight: dict[str, Flight] = {}
        self._jobs: deque[Job] = deque()
        self._job_texts = 0
        self._requests = 0
        self.idle_lanes = 0
        self._turn = 0
        self._rate = LandingRate(time.monotonic())
        self._swept_at, self._is_closed = 0.0, False

    @property
    def queue_requests(self) -> int:
        """Callers that are on their way to an answer."""
        return self._requests

    @property
    def queue_texts(self) -> int:
        """Utterances of writes that wait for a lane."""
        return self._job_texts

    @property
    def admission(self) -> Admission:
        """What the door expects of the work that is on its way."""
        with self._condition:
            return self._forecast.admission

    def learn(self, tokens: int, characters: int, seconds: float) -> None:
        """Tell the cost model of a batch that ran; called on a lane."""
        with self._condition:
            self._forecast.cost.learn(tokens, characters, seconds)
            self._forecast.refresh()

    def check_queue(self, texts: Sequence[object], share: bool, deadline_seconds: float) -> None:
        """Refuse who would be refused whatever is asked, before anybody looks at it.

        What waits already would take too long, or fills the queue; only texts that are all
        on their way may still join them.  Others are let through: ``submit`` judges them.

        Args:
            texts: What is asked; not checked yet.
            share: As in ``submit``.
            deadline_seconds: The longest that the caller may yet name.

        Raises:
            Overloaded: See ``submit``.
        """
        count, wait = len(texts), self._forecast.wait_seconds
        if not (late := is_late(wait, deadline_seconds)) and self._has_room(count):
            return
        with self._condition:
            if self._is_closed:
                return
            self._check_room(count)
            if late and not (share and all(map(self._is_on_its_way, texts))):
                self._count_late(count)
                raise too_late(wait, deadline_seconds)

    def _is_on_its_way(self, text: object) -> bool:
        return isinstance(text, str) and text.strip() in self._in_flight

    def submit(
        self,
        text: str,
        waiter: Waiter,
        *,
        share: bool = True,
        deadline_seconds: float = math.inf,
    ) -> None:
        """Queue a query, or join the flight of the same text.

        Args:
            text: The query's text.
            waiter: Who waits for the answer.
            share: False encodes it alone, past flights and caches, to measure.
            deadline_seconds: Wait that is too long.

        Raises:
            Overloaded: ``queue_requests_max`` callers are on their way, or the predicted
                wait is too long.
            NotReady: The batcher is closed.
        """
        with self._condition:
            self._admit([text], share, deadline_seconds)
            self._enqueue(text, waiter, share)

    def submit_all(
        self,
        asked: Sequence[tuple[str, Waiter]],
        share: bool = True,
        *,
        deadline_seconds: float = math.inf,
    ) -> None:
        """Queue several queries, all or none; see ``submit``."""
        with self._condition:
            self._admit([text for text, _ in asked], share, deadline_seconds)
            for text, waiter in asked:
                self._enqueue(text, waiter, share)

    def _admit(self, texts: Sequence[str], share: bool, deadline_seconds: float) -> None:
        """Take callers in, or refuse them."""
        self._check_open()
        count = len(texts)
        self._check_room(count)
        self._check_wait(texts, share, deadline_seconds)
        self.counters.requests += count
        self._requests += count

    def _has_room(self, count: int) -> bool:
        return self._requests + count <= self.queue_requests_max

    def _check_room(self, count: int) -> None:
        """Refuse more callers than the queue holds."""
        if not self._has_room(count):
            self._sweep()
        if not self._has_room(count):
            self.counters.requests += count
            self.counters.overloaded += count
            raise Overloaded(
                f"{self._requests} queries wait, the limit is {self.queue_requests_max}",
                retry_after_seconds=retry_after(self._requests / self._rate.per_second),
            )

    def _check_wait(self, texts: Sequence[str], share: bool, deadline_seconds: float) -> None:
        """Refuse who would wait too long; where nobody is ahead the model may be wrong."""
        new = [text for text in texts if not (share and text in self._in_flight)]
        wait = self._forecast.wait_with(new) if new else 0.0
        if is_late(wait, deadline_seconds):
            self._count_late(len(texts))
            raise too_late(wait, deadline_seconds)

    def _count_late(self, count: int) -> None:
        self.counters.requests += count
        self.counters.overloaded += count
        self.counters.too_late += count

    def _enqueue(self, text: str, waiter: Waiter, share: bool) -> None:
        flight = self._in_flight.get(text) if share else None
        if flight is not None:
            self.counters.shared += 1
            flight.waiters.append(waiter)
            return
        predicted = self._forecast.enter(text)
        flight = Flight(
            text, [waiter], time.monotonic(), is_shared=share, predicted_seconds=predicted
        )
        if share:
            self._in_flight[text] = flight
        self._queued.append(flight)
        self._condition.notify()

    def _sweep(self) -> None:
        """Free the places of queued callers that have gone."""
        now = time.monotonic()
        if now - self._swept_at < SWEEP_SECONDS_MIN:
            return
        self._swept_at = now
        waiting: deque[Flight] = deque()
        for flight in self._queued:
            if flight.is_abandoned:
                self._forget(flight)
            else:
                waiting.append(flight)
        self._queued = waiting
        self._forecast.refresh()

    def submit_jobs(self, jobs: Sequence[Job]) -> None:
        """Queue all utterances of a write or none; where none waits they are admitted.

        Raises:
            Overloaded: ``write_texts_max`` utterances wait.
            NotReady: The batcher is closed.
        """
        with self._condition:
            self._check_open()
            count = sum(len(job.texts) for job in jobs)
            if self._job_texts and self._job_texts + count > self.write_texts_max:
                self.counters.overloaded += 1
                raise Overloaded(
                    f"{self._job_texts} utterances wait to be encoded, "
                    f"the limit is {self.write_texts_max}",
                    retry_after_seconds=1.0,
                )
            self._jobs.extend(jobs)
            self._job_texts += count
            self._condition.notify(len(jobs))

    def take(self) -> tuple[Flight, ...] | Job | None:
        """Wait for work and take a fair share of it; None once closed and drained."""
        with self._condition:
            while True:
                self._drop_abandoned()
                # Asked once: between two looks at the clock the window may end.
                window_left_seconds = self._window_left_seconds()
                work = self._next_work(bool(self._queued) and window_left_seconds is None)
                if work is not None:
                    if self._queued or self._jobs:
                        self._condition.notify()
                    return work
                if self._is_closed and not self._queued and not self._jobs:
                    return None
                self.idle_lanes += 1
                self._condition.wait(window_left_seconds)
                self.idle_lanes -= 1

    def _next_work(self, has_queries: bool) -> tuple[Flight, ...] | Job | None:
        """Choose between queries and jobs, without waiting."""
        if self._jobs and (not has_queries or self._turn >= TURNS_PER_JOB):
            self._turn, job = 0, self._jobs.popleft()
            self._job_texts -= len(job.texts)
            return job
        if not has_queries:
            return None
        self._turn += 1
        queued = len(self._queued)
        sharers = 1 + self.idle_lanes if self.idle_lanes else self.lanes
        least = 1 if self.idle_lanes else min(queued, REQUESTS_PER_TAKE_MIN)
        count = min(max(least, math.ceil(queued / sharers)), REQUESTS_PER_TAKE_MAX)
        return tuple(self._queued.popleft() for _ in range(count))

    def _window_left_seconds(self) -> float | None:
        """How long the oldest query may still wait for company; None for not at all."""
        if not self._window_seconds or self._is_closed:
            return None
        if not 0 < len(self._queued) < REQUESTS_PER_TAKE_MAX:
            return None
        left = self._queued[0].queued_at + self._window_seconds - time.monotonic()
        return left if left > 0 else None

    def _drop_abandoned(self) -> None:
        """Forget queued flights from the front whose callers have all gone."""
        while self._queued and self._queued[0].is_abandoned:
            self._forget(self._queued.popleft())
            self._forecast.refresh()

    def _forget(self, flight: Flight) -> None:
        self.counters.abandoned += 1
        self._requests -= len(flight.waiters)
        self._close(flight)

    def _close(self, flight: Flight) -> None:
        """Let nobody join any more."""
        self._forecast.leave(flight.text)
        if flight.is_shared:
            del self._in_flight[flight.text]

    def give_back(self, flights: Sequence[Flight]) -> None:
        """Return flights to the head of the queue: they did not fit, or must be encoded anew."""
        with self._condition:
            self._queued.extendleft(reversed(flights))
            self._condition.notify()

    def drop_abandoned(self, flights: Sequence[Flight]) -> list[Flight]:
        """Keep the flights that somebody still waits for."""
        with self._condition:
            kept = []
            for flight in flights:
                if flight.is_abandoned:
                    self._forget(flight)
                else:
                    kept.append(flight)
            self._forecast.refresh()
            return kept

    def land(self, flights: Sequence[Flight]) -> list[list[Waiter]]:
        """Close flights to newcomers and say who waits for each."""
        with self._condition:
            landed = [flight.waiters for flight in flights]
            for flight in flights:
                self._close(flight)
            count = sum(map(len, landed))
            self._requests -= count
            self.counters.landed += count
            if flights:
                first = min(flights, key=lambda flight: flight.queued_at)
                now = time.monotonic()
                self._rate.landed(count, first.queued_at, now)
                self._forecast.cost.came_true(first.predicted_seconds, now - first.queued_at)
                self._forecast.refresh()
            return landed

    def _check_open(self) -> None:
        if self._is_closed:
            raise NotReady("the router is stopping", retry_after_seconds=1.0)

    def close(self) -> None:
        """Refuse newcomers; lanes drain what is queued and then end."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
