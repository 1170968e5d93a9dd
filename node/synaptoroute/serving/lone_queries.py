"""Queries that are alone, answered on the thread that asks.

With an encoder that takes microseconds, the way to an encoder worker and back costs more than
the answer.  A query takes the short way while nothing else is queued or being answered.  Text and
route set are bounded, so an event loop is held up for a third of a millisecond at most.

Queries of one turn of an event loop are a batch and take the usual way; so does every query that
meets anything unusual here: a change of the route set, a tensor in use, an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from synaptoroute.encoder.fast_encoder import FastEncoder
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.models import Match
from synaptoroute.serving.encoder_workers import EncoderWorkers
from synaptoroute.serving.query import Query
from synaptoroute.serving.queue import QueryQueue
from synaptoroute.serving.scorer import Scorer

TEXT_CHARACTERS_MAX: Final = 512
ROWS_MAX: Final = 4_096
"""Rows of the route set; more take longer than an event loop should be held up."""


class LoneQueries:
    """Answers lone queries; any thread.

    Args:
        submit: Takes a query the usual way.
    """

    def __init__(
        self,
        queue: QueryQueue,
        workers: EncoderWorkers,
        scorer: Scorer,
        submit: Callable[[Query], None],
    ) -> None:
        self._queue = queue
        self._workers = workers
        self._scorer = scorer
        self._submit = submit
        # An event loop is a key exactly while a call of ``_flush`` is scheduled.
        self._waiting: dict[asyncio.AbstractEventLoop | None, Query | None] = {}

    def add(self, query: Query) -> bool:
        """Answer a query at the end of this turn of its event loop, if it is alone until then.

        Returns:
            Whether its future gets an answer here.
        """
        loop = query.loop
        if loop in self._waiting:  # two of one turn: both are queued
            earlier, self._waiting[loop] = self._waiting[loop], None
            if earlier is not None:
                self._queue_late(earlier)
            return False
        if loop is None or not self._may_answer(query):
            return False
        self._waiting[loop] = query
        loop.call_soon(self._flush, loop)
        return True

    def answer(self, query: Query) -> Match | None:
        """Answer a query on this thread; None where it must take the usual way."""
        if not self._may_answer(query) or not self._queue.begin_alone():
            return None
        found = None
        try:
            found = self._answer(query)
        except Exception:  # the usual way meets the same error and reports it
            found = None
        finally:
            self._queue.end_alone(is_answered=found is not None)
        return found

    def answer_now(self, query: Query) -> Match:
        """Answer a query without a context on the caller's thread, before the threads start."""
        scorer = self._scorer
        encoder, served = scorer.encoder, scorer.sets.get(query.route_set, query.session)
        query.prepared = served.preparation.prepare(query.text)
        (query.tokens,) = encoder.tokenize((query.prepared.text,))
        query.tokens_of = encoder
        vector = encoder.encode_tokens((query.tokens,))[0]
        answer = scorer.score_one(served, query, vector)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Match), "options are scored after the start only"
        return answer

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        query = self._waiting.pop(loop)
        if query is None or query.future is None or query.is_abandoned:
            return
        found = self.answer(query)
        if found is None:
            self._queue_late(query)
        else:
            query.future.set_result(found)

    def _queue_late(self, query: Query) -> None:
        future = query.future
        if future is None or future.done():
            return
        try:
            self._submit(query)
        except SynaptoRouteError as error:
            future.set_exception(error)

    def _may_answer(self, query: Query) -> bool:
        if not isinstance(self._workers.serving.encoder, FastEncoder) or not self._queue.is_empty:
            return False
        if not self._scorer.is_idle:
            return False
        if query.context or query.options is not None or query.cache_scope:
            return False
        served = self._scorer.sets.named(query.route_set)
        if served is None or len(query.text) > TEXT_CHARACTERS_MAX:
            return False
        rows = served.rows_count
        return rows is not None and rows <= ROWS_MAX

    def _answer(self, query: Query) -> Match | None:
        serving = self._workers.serving  # read once: the scorer may exchange it meanwhile
        encoder, cache = serving.encoder, serving.cache
        served = self._scorer.sets.named(query.route_set)
        if served is None:
            return None
        taken_ns = time.time_ns()
        query.prepared = prepared = served.preparation.prepare(query.text)
        (tokens,) = encoder.tokenize((prepared.text,))
        query.tokens, query.tokens_of = tokens, encoder
        tokenized_ns = time.time_ns()
        vector = cache.get(tokens.key) if query.use_cache else None
        query.was_cached = vector is not None
        if vector is None:
            vector = encoder.encode_tokens((tokens,))[0]
            cache.put(tokens.key, vector)
        encoded_ns = time.time_ns()
        query.times = (taken_ns, tokenized_ns, encoded_ns)
        found = self._scorer.answer_alone(query, vector, encoder)
        if found is not None and not query.was_cached:
            seconds = (encoded_ns - tokenized_ns) / 1e9
            self._workers.report(1, tokens.count, len(prepared.text), seconds)
        return found
