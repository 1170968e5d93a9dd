"""Evaluates queries of one event loop iteration in the first stage together.

Callers that wait for one batch ask again in the same iteration.  Evaluated one by one, each
would pay for every call into the arrays, and what is left to the encoder would reach an idle
worker alone, as a batch of one.

A query waits for the end of the iteration in which it came, never for another query.  Event
loops share nothing here but the lock of the cascade.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from synaptoroute.cascade.cascade import Cascade
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.models import Match
from synaptoroute.serving.query import Query

QUERIES_PER_ITERATION_MAX: Final = 32
"""After so many queries, other callbacks of the event loop run."""


class QueryCoalescer:
    """Queries on their way to the first stage.

    Invariant: an event loop has a list here exactly while a call of ``_flush`` is scheduled.
    """

    def __init__(self, cascade: Cascade, submit: Callable[[Query], None], node: str) -> None:
        self._cascade = cascade
        self._submit = submit
        self._node = node
        self._waiting: dict[asyncio.AbstractEventLoop, list[Query]] = {}

    def add(self, query: Query) -> bool:
        """Evaluate a query soon, if the first stage is on; its future gets the answer."""
        if query.routes is not None or not self._cascade.is_on:
            return False
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
        if len(waiting) > QUERIES_PER_ITERATION_MAX:
            self._waiting[loop] = waiting[QUERIES_PER_ITERATION_MAX:]
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
