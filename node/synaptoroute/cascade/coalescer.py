"""Brings the queries of one event loop iteration to the first stage together.

``QueryCoalescer`` evaluates the queries of one event loop iteration together, because callers
that wait for one batch ask again in the same iteration.  Evaluated one by one, each would pay
for every call into the arrays, and what is left to the encoder would reach an idle worker
alone.  A query waits for the end of its iteration, never for another query.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from synaptoroute.errors import SynaptoRouteError
from synaptoroute.models import Match
from synaptoroute.serving.query import Query

QUERIES_PER_ITERATION_MAX: Final = 32
"""After so many queries, other callbacks of the event loop run."""


class Stage(Protocol):
    """First stages that answer the queries of one iteration: one, or those of named sets."""

    @property
    def is_on(self) -> bool: ...

    def answer(self, queries: Sequence[Query], node: str) -> list[Match | None]: ...


class QueryCoalescer:
    """Queries on their way to the first stage.

    Invariant: an event loop has a list here exactly while a call of ``_flush`` is scheduled.
    """

    def __init__(
        self,
        cascade: Stage,
        submit: Callable[[Query], None],
        node: str,
        check_queue: Callable[[Sequence[object], bool, float, str, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cascade = cascade
        self._check_queue = check_queue
        self._clock = clock
        self._submit = submit
        self._node = node
        self._waiting: dict[asyncio.AbstractEventLoop, list[Query]] = {}
        self._left_at = 0.0  # when the last slice began, if it left queries; monotonic
        self._turn_seconds = 0.0

    @property
    def wait_seconds(self) -> float:
        """Predicted wait of a query that comes now; 0 if it is less than an iteration.

        Under overload the event loop reads more queries an iteration than are evaluated in one.
        """
        longest = max(map(len, self._waiting.values()), default=0)
        return longest // QUERIES_PER_ITERATION_MAX * self._turn_seconds

    def add(self, query: Query) -> bool:
        """Evaluate a query soon, if the first stage is on; its future gets the answer.

        Raises:
            Overloaded: The answer would come too late.
        """
        if not query.is_plain or not self._cascade.is_on:
            return False
        if ahead := self.wait_seconds:
            self._check_queue(
                (query.text,), query.use_cache, query.deadline_seconds, query.flow, ahead
            )
            # What is left of its deadline when the first stage hands it to the queue.
            query.deadline_seconds -= ahead
        loop = query.loop
        assert loop is not None, "a query without an event loop: this is a bug"
        waiting = self._waiting.get(loop)
        if waiting is None:
            self._waiting[loop] = [query]
            loop.call_soon(self._flush, loop)
        else:
            waiting.append(query)
        return True

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the queries that are sure, and queue the others."""
        waiting = self._waiting.pop(loop)
        now = self._clock()
        if self._left_at:
            # An iteration lasts from slice to slice: what it read counts, too.
            self._turn_seconds = (self._turn_seconds + now - self._left_at) / 2.0
            self._left_at = 0.0
        if len(waiting) > QUERIES_PER_ITERATION_MAX:
            self._waiting[loop] = waiting[QUERIES_PER_ITERATION_MAX:]
            self._left_at = now
            loop.call_soon(self._flush, loop)
        queries = [each for each in waiting[:QUERIES_PER_ITERATION_MAX] if not each.is_abandoned]
        answers: list[Match | None]
        try:
            answers = self._cascade.answer(queries, self._node)
        except SynaptoRouteError:  # the workers find out which text is at fault
            answers = [None] * len(queries)
        except Exception as error:  # the callers get it; the event loop must live on
            for query in queries:
                if query.future is not None and not query.future.done():
                    query.future.set_exception(error)
            return
        for query, answer in zip(queries, answers, strict=True):
            future = query.future
            assert future is not None, "a query without a future: this is a bug"
            if answer is not None:
                future.set_result(answer)
                continue
            try:
                self._submit(query)
            except SynaptoRouteError as error:
                future.set_exception(error)
