"""The queue between the event loop and the encoder workers.

A free worker takes its share of what is queued.  By default there is no batching window:
batches form by themselves while the workers are busy.  Equal texts in flight to one
route set share one encoding.  The queue is bounded.  It refuses a query when it is full, or when
the predicted wait (``admission``) exceeds the caller's deadline.  A query whose caller has gone is
dropped before it costs anything.

Queries of different clients are served in turn (``fair_queue``), and a client below its equal
share is not refused because of another's: it counts as alone with its own work, served at
its share of the speed.  Utterances of writes are encoded by the same workers behind the
queries, but every fourth take is theirs, so neither starves.

Threads: ``submit`` and ``submit_jobs`` run on the event loop, ``take`` and ``give_back`` on a
worker, ``complete`` on the thread that scores.  One condition guards the state.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from synaptoroute.errors import NotReady, Overloaded
from synaptoroute.ports import Admission
from synaptoroute.serving.admission import (
    CHARACTERS_MAX,
    CompletionRate,
    WaitForecast,
    characters_of,
    retry_after,
    too_late,
)
from synaptoroute.serving.fair_queue import (
    CHARACTERS_PER_TOKEN,
    FairQueue,
    InFlightQuery,
    Waiter,
)

REQUESTS_PER_TAKE_MAX: Final = 64
REQUESTS_PER_TAKE_MIN: Final = 8
"""A batch of so many is not cut short for other clients."""
REQUESTS_PER_BUSY_TAKE_MIN: Final = 24
"""Taken at least while no worker is idle: shares would shrink, and a text of a batch of 8 costs a
tenth more than one of 24."""
QUERY_TAKES_PER_JOB: Final = 4
SWEEP_SECONDS_MIN: Final = 0.05
"""Least time between two searches of a full queue for callers that have gone."""

CONTENDED_TAKE_SECONDS: Final = 0.05
"""Predicted time of a batch while several clients wait, of at least the minimum of queries;
a client alone has larger batches."""
LIMIT_MULTIPLE_MAX: Final = 2
"""Clients below their share may exceed the limit of the queue together, up to this multiple."""

_queued_at = attrgetter("queued_at")
_is_abandoned = attrgetter("is_abandoned")


@dataclass(slots=True, eq=False)
class EncodeJob:
    """Utterances of a write, to be encoded together.

    Attributes:
        encode: Encodes them.
        begin: Called first, on the worker; false if the writer has gone.
        done: Called with the vectors or the error, on the worker.
    """

    texts: Sequence[str]
    encode: Callable[[Sequence[str]], Any]
    begin: Callable[[], bool]
    done: Callable[[Any], None]


class JobQueue:
    """The encoding of writes, a job of each client in turn.

    Attributes:
        flows: The jobs that wait, by the name of their client; the first client is next.
    """

    def __init__(self) -> None:
        self.flows: dict[str, deque[EncodeJob]] = {}
        self._texts: dict[str, int] = {}

    def texts_of(self, flow: str) -> int:
        return self._texts.get(flow, 0)

    def put(self, flow: str, jobs: Sequence[EncodeJob], texts: int) -> None:
        if jobs:
            self.flows.setdefault(flow, deque()).extend(jobs)
            self._texts[flow] = self._texts.get(flow, 0) + texts

    def take(self) -> EncodeJob:
        flow = next(iter(self.flows))
        jobs = self.flows.pop(flow)
        job = jobs.popleft()
        self._texts[flow] -= len(job.texts)
        if jobs:
            self.flows[flow] = jobs  # at the end: the other clients are next
        else:
            del self._texts[flow]
        return job


@dataclass(slots=True)
class QueueCounters:
    """Totals since the start; ``too_late`` is part of ``overloaded``."""

    requests: int = 0
    shared: int = 0
    overloaded: int = 0
    too_late: int = 0
    abandoned: int = 0
    completed: int = 0


class QueryQueue:
    """Bounded queue of queries, and of write jobs behind them.

    Invariants: ``queue_requests`` is at most ``queue_requests_max``, and above it, up to twice
    as much, only by callers of flows below their share; a text is in ``_in_flight`` exactly
    while callers may still join it.

    Attributes:
        queue_requests: Callers in the queue or being answered.
        queue_texts: Utterances of writes that wait for a worker.
        idle_workers: Workers that wait for work.
    """

    def __init__(
        self,
        *,
        workers: int,
        queue_requests_max: int,
        write_texts_max: int,
        batch_window_ms: float = 0.0,
    ) -> None:
        self.workers = workers
        self.queue_requests_max = queue_requests_max
        self.write_texts_max = write_texts_max
        self.counters = QueueCounters()
        self.queue_requests = 0
        self.queue_texts = 0
        self.idle_workers = 0
        self._forecast = WaitForecast(workers, REQUESTS_PER_TAKE_MAX)
        self._rate = CompletionRate(time.monotonic())
        self._window_seconds = batch_window_ms / 1_000
        self._condition = threading.Condition()
        self._fair = FairQueue()
        self._in_flight: dict[Hashable, InFlightQuery] = {}
        self._jobs = JobQueue()
        self._takes_since_job = 0
        self._swept_at = 0.0
        self._is_closed = False

    @property
    def admission(self) -> Admission:
        with self._condition:
            return self._forecast.admission

    def learn(self, tokens: int, characters: int, seconds: float) -> None:
        """Fit the cost model to a batch that was encoded; called on a worker."""
        with self._condition:
            self._forecast.cost.learn(tokens, characters, seconds)
            self._forecast.refresh()

    # --- admission, on the event loop ------------------------------------------------

    def check_queue(
        self,
        texts: Sequence[object],
        share: bool,
        deadline_seconds: float,
        flow: str = "",
        ahead_seconds: float = 0.0,
    ) -> None:
        """Refuse queries of a flow that no text could make acceptable now.

        It is asked before a request is parsed, so that refusing costs little.  Admitting
        remains the decision of ``submit``.

        Args:
            ahead_seconds: Predicted wait before the queue.
        """
        # Read without the lock: the forecast replaces ``wait_seconds`` as a whole, and a
        # decision that is one query old is as good.
        wait, count = ahead_seconds + self._forecast.wait_seconds, len(texts)
        longest = self._forecast.longest_wait(deadline_seconds)
        late = wait > longest
        if not late and self.queue_requests + count <= self.queue_requests_max:
            return
        with self._condition:
            if self._is_closed:
                return
            self._check_room(count, flow)
            if late and self._fair.active:
                wait = min(wait, ahead_seconds + self._fair_wait((), flow))
                late = wait > longest
            # A text in flight may still be joined, however long the queue is.
            if late and not (share and all(map(self._is_in_flight, texts))):
                self._count_late(count)
                raise too_late(wait, deadline_seconds)

    def _is_in_flight(self, text: object) -> bool:
        return isinstance(text, str) and text.strip() in self._in_flight

    def submit(
        self,
        text: str,
        waiter: Waiter,
        *,
        share: bool = True,
        deadline_seconds: float = math.inf,
        key: Hashable = None,
    ) -> None:
        """Queue a query, or join the same one in flight; without ``share`` it is encoded alone.

        Args:
            key: What makes two queries the same; None for the text.
        """
        with self._condition:
            is_new = not (share and (key or text) in self._in_flight)
            self._admit(1, (text,) if is_new else (), deadline_seconds, waiter.flow)
            self._enqueue(text, waiter, share, key or text)

    def submit_all(
        self,
        queries: Sequence[tuple[str, Waiter]],
        share: bool = True,
        *,
        deadline_seconds: float = math.inf,
        keys: Sequence[Hashable] | None = None,
    ) -> None:
        """Queue several queries of one flow, all or none; see ``submit``."""
        with self._condition:
            keys = keys or [text for text, _ in queries]
            new = [
                text
                for (text, _), key in zip(queries, keys, strict=True)
                if not (share and key in self._in_flight)
            ]
            flow = queries[0][1].flow if queries else ""
            self._admit(len(queries), new, deadline_seconds, flow)
            for (text, waiter), key in zip(queries, keys, strict=True):
                self._enqueue(text, waiter, share, key)

    def _admit(self, count: int, new: Sequence[str], deadline_seconds: float, flow: str) -> None:
        """Count callers in, or refuse them."""
        if self._is_closed:
            raise NotReady("the router is stopping", retry_after_seconds=1.0)
        if self.queue_requests + count > self.queue_requests_max:
            self._check_room(count, flow)
        # With nothing queued there is no predicted wait and no refusal: a model that is wrong is
        # corrected by the next batch.
        if new and self._forecast.wait_seconds > 0.0:
            wait = self._forecast.wait_with(new)
            longest = self._forecast.longest_wait(deadline_seconds)
            if wait > longest:
                wait = min(wait, self._fair_wait(new, flow))
            if wait > longest:
                self._count_late(count)
                raise too_late(wait, deadline_seconds)
        self.counters.requests += count
        self.queue_requests += count

    def _fair_wait(self, new: Sequence[str], flow: str) -> float:
        """Predict the wait of texts of a flow that gets its share of the speed."""
        known = self._fair.flows.get(flow)
        own, characters = (known.texts, known.characters) if known else (0, 0)
        # The flow itself counts, whether it has queries already or not.
        flows = self._fair.active + (known is None or not known.requests)
        characters += sum(map(characters_of, new))
        return self._forecast.wait_of(flows * characters, flows * (own + len(new)))

    def _is_below_share(self, count: int, flow: str) -> bool:
        """Whether a flow would have no more callers than its share of a full queue."""
        known = self._fair.flows.get(flow)
        own = known.requests if known else 0
        share = self.queue_requests_max // (self._fair.active + (own == 0))
        limit = LIMIT_MULTIPLE_MAX * self.queue_requests_max
        return own + count <= share and self.queue_requests + count <= limit

    def _check_room(self, count: int, flow: str) -> None:
        if self.queue_requests + count > self.queue_requests_max:
            self._sweep()
        if self.queue_requests + count > self.queue_requests_max and not self._is_below_share(
            count, flow
        ):
            self.counters.requests += count
            self.counters.overloaded += count
            raise Overloaded(
                f"{self.queue_requests} queries wait, the limit is {self.queue_requests_max}",
                retry_after_seconds=retry_after(self.queue_requests / self._rate.per_second),
            )

    def _count_late(self, count: int) -> None:
        self.counters.requests += count
        self.counters.overloaded += count
        self.counters.too_late += count

    def _enqueue(self, text: str, waiter: Waiter, share: bool, key: Hashable) -> None:
        fair = self._fair
        flow = fair.flows.get(waiter.flow) or fair.add_flow(waiter.flow)
        fair.active += flow.requests == 0
        flow.requests += 1
        query = self._in_flight.get(key) if share else None
        if query is not None:
            self.counters.shared += 1
            query.waiters.append(waiter)
            if flow is not query.flow:
                fair.join(query, flow)
            return
        predicted = self._forecast.enter(text)
        flow.texts += 1
        flow.characters += min(len(text), CHARACTERS_MAX)
        if fair.active > 1 and predicted:
            predicted = min(predicted, self._fair_wait((), waiter.flow))
        query = InFlightQuery(
            text, [waiter], time.monotonic(), is_shared=share, predicted_seconds=predicted, key=key
        )
        if share:
            self._in_flight[key] = query
        fair.push(query, flow)
        self._condition.notify()

    def _sweep(self) -> None:
        """Free the places of queued callers that have gone."""
        now = time.monotonic()
        if now - self._swept_at < SWEEP_SECONDS_MIN:
            return
        self._swept_at = now
        for query in self._fair.remove(_is_abandoned):
            self._forget(query)
        self._forecast.refresh()

    def submit_jobs(self, jobs: Sequence[EncodeJob], flow: str = "") -> None:
        """Queue all utterances of a client's write or none; it may have any number at first."""
        with self._condition:
            if self._is_closed:
                raise NotReady("the router is stopping", retry_after_seconds=1.0)
            count = 0
            for job in jobs:
                count += len(job.texts)
            if self.queue_texts + count > self.write_texts_max and not self._has_room(flow, count):
                self.counters.overloaded += 1
                raise Overloaded(
                    f"{self.queue_texts} utterances wait to be encoded, "
                    f"the limit is {self.write_texts_max}",
                    retry_after_seconds=1.0,
                )
            self._jobs.put(flow, jobs, count)
            self.queue_texts += count
            self._condition.notify(len(jobs))

    def _has_room(self, flow: str, count: int) -> bool:
        """Whether a client may queue utterances although the limit is reached.

        A client without any may, up to twice the limit of all together; so may one that
        stays within its equal share.
        """
        own, flows = self._jobs.texts_of(flow), len(self._jobs.flows)
        if not self.queue_texts:
            return True
        if self.queue_texts + count > LIMIT_MULTIPLE_MAX * self.write_texts_max:
            return False
        return own + count <= self.write_texts_max // (flows + (own == 0))

    # --- a query that is answered on the thread that asks -----------------------------

    @property
    def is_empty(self) -> bool:
        """Whether nothing is queued or being answered, and nothing is to wait for others."""
        return not self.queue_requests and not self._window_seconds and not self._is_closed

    def begin_alone(self) -> bool:
        """Count one query in that is answered at once; false if it must be queued."""
        with self._condition:
            if not self.is_empty:
                return False
            self.queue_requests = 1
            return True

    def end_alone(self, *, is_answered: bool) -> None:
        """Count it out."""
        with self._condition:
            self.queue_requests -= 1
            self.counters.requests += is_answered
            self.counters.completed += is_answered

    # --- on a worker -----------------------------------------------------------------

    def take(self) -> tuple[InFlightQuery, ...] | EncodeJob | None:
        """Wait for work and take a fair share of it; None once closed and empty."""
        with self._condition:
            fair = self._fair
            while True:
                # Read once: the window may end between two reads of the clock.
                window_left = self._window_left_seconds() if self._window_seconds else None
                work = self._next_work(fair.count > 0 and window_left is None)
                if work is not None:
                    if fair.count or self._jobs.flows:
                        self._condition.notify()  # one notification may have stood for more
                    return work
                if self._is_closed and not fair.count and not self._jobs.flows:
                    return None
                self.idle_workers += 1
                self._condition.wait(window_left)
                self.idle_workers -= 1

    def _next_work(self, has_queries: bool) -> tuple[InFlightQuery, ...] | EncodeJob | None:
        """Choose between queries and jobs, without waiting."""
        first = None
        if has_queries and not (self._jobs.flows and self._takes_since_job >= QUERY_TAKES_PER_JOB):
            first = self._fair.pop()
            # An abandoned query must not open a batch.
            while first is not None and first.is_abandoned:
                self._forget(first)
                self._forecast.refresh()
                first = self._fair.pop()
        if first is None:
            if not self._jobs.flows:
                return None
            self._takes_since_job, job = 0, self._jobs.take()
            self.queue_texts -= len(job.texts)
            return job
        self._takes_since_job += 1
        queued = self._fair.count + 1
        sharers = 1 + self.idle_workers if self.idle_workers else self.workers
        least = 1 if self.idle_workers else min(queued, REQUESTS_PER_BUSY_TAKE_MIN)
        count = min(max(least, math.ceil(queued / sharers)), REQUESTS_PER_TAKE_MAX)
        taken = [first]
        characters_left = math.inf
        if self._fair.active > 1:
            # Who comes next waits for this batch, so other clients' batches are kept short.
            characters_left = self._forecast.characters_in(CONTENDED_TAKE_SECONDS)
        while len(taken) < count and (query := self._fair.pop()) is not None:
            taken.append(query)
            characters_left -= len(query.text)
            if characters_left < 0 and len(taken) >= REQUESTS_PER_TAKE_MIN:
                break
        return tuple(taken)

    def _window_left_seconds(self) -> float | None:
        """Time that the oldest query may still wait for others; None for no time."""
        head = self._fair.head()
        # An abandoned query must not open a window.
        while head is not None and head.is_abandoned:
            self._fair.pop()
            self._forget(head)
            self._forecast.refresh()
            head = self._fair.head()
        if self._is_closed or head is None or self._fair.count >= REQUESTS_PER_TAKE_MAX:
            return None
        left = head.queued_at + self._window_seconds - time.monotonic()
        return left if left > 0 else None

    def _forget(self, query: InFlightQuery) -> None:
        self.counters.abandoned += 1
        self.queue_requests -= len(query.waiters)
        self._close_to_newcomers(query)

    def _close_to_newcomers(self, query: InFlightQuery) -> None:
        self._forecast.leave(query.text)
        fair = self._fair
        if query.flow is not None:
            query.flow.texts -= 1
            query.flow.characters -= min(len(query.text), CHARACTERS_MAX)
        for waiter in query.waiters:
            flow = fair.flows.get(waiter.flow)
            if flow is not None and flow.requests:
                flow.requests -= 1
                fair.active -= flow.requests == 0
        if query.is_shared:
            del self._in_flight[query.key]

    def give_back(self, queries: Sequence[InFlightQuery]) -> None:
        """Return queries to the head of the queue: they did not fit, or must be encoded again."""
        with self._condition:
            fair = self._fair
            fair.give_back(reversed(queries), fair.flows.get("") or fair.add_flow(""))
            self._condition.notify()

    def drop_abandoned(self, queries: Sequence[InFlightQuery]) -> list[InFlightQuery]:
        """Keep the queries that still have a caller."""
        with self._condition:
            # Under the lock: a caller may join a query until it is forgotten here.
            kept = []
            for query in queries:
                if query.is_abandoned:
                    self._forget(query)
                else:
                    kept.append(query)
            if len(kept) < len(queries):
                self._forecast.refresh()
            return kept

    # --- on the thread that scores -----------------------------------------------------

    def complete(self, queries: Sequence[InFlightQuery]) -> list[list[Waiter]]:
        """Close queries to newcomers and return the callers of each."""
        with self._condition:
            callers = []
            for query in queries:
                self._close_to_newcomers(query)
                callers.append(query.waiters)
                if query.served_by is not None and query.tokens is not None:
                    known = query.tokens.count * CHARACTERS_PER_TOKEN
                    for turn in query.turn_tokens:
                        known += turn.count * CHARACTERS_PER_TOKEN
                    query.served_by.time += known - min(len(query.text), CHARACTERS_MAX)
            count = sum(map(len, callers))
            self.queue_requests -= count
            self.counters.completed += count
            if queries:
                first = min(queries, key=_queued_at)
                now = time.monotonic()
                self._rate.completed(count, first.queued_at, now)
                self._forecast.cost.compare(first.predicted_seconds, now - first.queued_at)
                self._forecast.refresh()
            return callers

    def close(self) -> None:
        """Refuse newcomers; the workers encode what is queued and then end."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
