"""Queries that come in one turn of an event loop are judged by the static stage together.

Callers that wait for one batch ask again in one turn.  Judged one by one each would pay
for every call into the arrays, and what is left to the encoder would reach an idle lane
alone: a batch of one, though its like follows at once.

Rule 1: a query waits for the end of the turn in which it came, never for another query.
Rule 2: a gathering is of one event loop; loops share nothing but the lock of the cascade.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from synaptoroute.cascade.cascade import Cascade
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.models import Match
from synaptoroute.serving.query import Query

QUERIES_A_TURN_MAX: Final = 32
"""After so many others of the event loop have their turn."""


class Named(Protocol):
    """Who answers."""

    node: str


class Gathering:
    """Queries on their way to the static stage.

    Invariants: an event loop has a list here exactly while a call of ``_judge`` is due.
    """

    def __init__(
        self, cascade: Cascade | None, submit: Callable[[Query], None], named: Named
    ) -> None:
        self._cascade = cascade
        self._submit = submit
        self._named = named
        self._waiting: dict[asyncio.AbstractEventLoop, list[Query]] = {}

    def takes(self, query: Query) -> bool:
        """Judge a query soon, if the static stage may answer such; its future gets the answer.

        Runs on the query's event loop.
        """
        if self._cascade is None or query.routes is not None or not self._cascade.is_on:
            return False
        loop = query.loop
        assert loop is not None, "a query without an event loop: this is a bug"
        waiting = self._waiting.get(loop)
        if waiting is None:
            self._waiting[loop] = [query]
            loop.call_soon(self._judge, loop, self._cascade)
        else:
            waiting.append(query)
        return True

    def _judge(self, loop: asyncio.AbstractEventLoop, cascade: Cascade) -> None:
        """Answer those that are sure, and pass the others on."""
        waiting = self._waiting.pop(loop)
        if len(waiting) > QUERIES_A_TURN_MAX:
            self._waiting[loop] = waiting[QUERIES_A_TURN_MAX:]
            loop.call_soon(self._judge, loop, cascade)
        asked = [each for each in waiting[:QUERIES_A_TURN_MAX] if not each.is_abandoned]
        answers: list[Match | None]
        try:
            answers = cascade.answer(asked, self._named.node)
        except SynaptoRouteError:  # whose text it was the lanes find out
            answers = [None] * len(asked)
        except Exception as error:  # the callers get it; the event loop must live on
            _fail(asked, error)
            return
        for query, answer in zip(asked, answers, strict=True):
            future = query.future
            assert future is not None, "a query without a future: this is a bug"
            if answer is not None:
                future.set_result(answer)
                continue
            try:
                self._submit(query)
            except SynaptoRouteError as error:
                future.set_exception(error)


def _fail(queries: Sequence[Query], error: Exception) -> None:
    """Hand an error to all who wait."""
    for query in queries:
        assert query.future is not None, "a query without a future: this is a bug"
        query.future.set_exception(error)
