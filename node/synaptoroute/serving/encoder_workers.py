"""Encoder workers: the threads that turn texts into embeddings.

They hold no state of the route set.  A worker takes its share of the queue, tokenizes it,
reads known embeddings from the cache, encodes the rest up to the token budget and hands the
batch to the scorer.  The inference runtime releases the interpreter lock meanwhile, so N
workers use N cores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from synaptoroute.author import AUTHOR, AUTHOR_ADDRESS
from synaptoroute.encoder import TextEncoder
from synaptoroute.serving.admission import CHARACTERS_MAX
from synaptoroute.serving.context import turn_to_context
from synaptoroute.serving.embedding_cache import CachedEncoder
from synaptoroute.serving.fair_queue import InFlightQuery
from synaptoroute.serving.query import Query
from synaptoroute.serving.queue import EncodeJob, QueryQueue
from synaptoroute.serving.served_sets import ServedSets
from synaptoroute.threads import lower_priority

UTTERANCES_PER_JOB_MAX: Final = 16


class Observer(Protocol):
    """Receives measurements; called on a worker, so it must be quick and thread-safe."""

    def batch(self, texts: int, tokens: int, encode_seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Embedded queries, ready to be scored.

    Attributes:
        embeddings: float32[n, dim], one row a query; empty if ``error`` is set.
        encoder: The encoder of the embeddings.
        error: Why the encoder failed, if it did.
    """

    queries: tuple[InFlightQuery, ...]
    embeddings: NDArray[np.float32]
    encoder: TextEncoder
    error: Exception | None = None


class BatchScorer(Protocol):
    """Takes encoded batches, and says how their texts are read."""

    @property
    def sets(self) -> ServedSets: ...

    def submit(self, batch: Batch) -> None: ...


class EncoderWorkers:
    """A fixed number of encoding threads over one encoder."""

    def __init__(
        self,
        serving: CachedEncoder,
        queue: QueryQueue,
        scorer: BatchScorer,
        *,
        batch_tokens_max: int,
        nice: int = 0,
        observer: Observer | None = None,
    ) -> None:
        self.serving = serving
        self._observer = observer
        self._queue = queue
        self._scorer = scorer
        self._batch_tokens_max = batch_tokens_max
        self._nice = nice
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        for index in range(self._queue.workers):
            thread = threading.Thread(
                target=self._run, name=f"synaptoroute-encoder-{index}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def join(self) -> None:
        """Wait until the workers have emptied a closed queue."""
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    @property
    def are_alive(self) -> bool:
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    def report(self, texts: int, tokens: int, characters: int, seconds: float) -> None:
        """Report texts that were encoded together; any thread."""
        if self._observer is not None:
            self._observer.batch(texts, tokens, seconds)
        self._queue.learn(tokens, characters, seconds)

    def _run(self) -> None:
        lower_priority(self._nice)
        while (work := self._queue.take()) is not None:
            if isinstance(work, EncodeJob):
                self._run_job(work)
            else:
                self._encode_queries(work)

    @staticmethod
    def _run_job(job: EncodeJob) -> None:
        if not job.begin():
            return
        try:
            result: Any = job.encode(job.texts)
        except Exception as error:  # the writer gets it; the worker must live on
            result = error
        job.done(result)

    def _encode_queries(self, taken: tuple[InFlightQuery, ...]) -> None:
        # A lone query was checked when it was taken; those behind the first one were not.
        queries = self._queue.drop_abandoned(taken) if len(taken) > 1 else list(taken)
        serving = self.serving  # read once: the scorer may exchange it meanwhile
        taken_ns = time.time_ns()
        try:
            self._tokenize(queries, serving.encoder)
            if len(queries) > 1:
                queries = self._fit_budget(queries)
            tokenized_ns = time.time_ns()
            batch = self._encode(queries, serving)
            times = (taken_ns, tokenized_ns, time.time_ns())
            for query in queries:
                query.times = times
        except Exception as error:  # the callers get it; the worker must live on
            empty = np.empty((0, serving.encoder.dim), dtype=np.float32)
            batch = Batch(tuple(queries), empty, serving.encoder, error)
        if batch.queries:
            self._scorer.submit(batch)

    def _tokenize(self, queries: Sequence[InFlightQuery], encoder: TextEncoder) -> None:
        missing, texts = [], []
        sets = self._scorer.sets
        default = sets.default.preparation  # read once: it is replaced with the encoder
        for query in queries:
            first = query.waiters[0]
            if isinstance(first, Query) and (first.route_set or first.cache_scope):
                query.route_set, query.session = first.route_set, first.session
                query.cache_scope = first.cache_scope
            # The first stage may have tokenized the text already.
            if query.tokens is None and isinstance(first, Query) and first.tokens is not None:
                query.tokens, query.tokens_of = first.tokens, first.tokens_of
                query.prepared = first.prepared
            # Tokens of the former encoder are useless after a change of the encoder.
            if query.tokens_of is not encoder:
                preparation = default
                if query.route_set:
                    preparation = sets.preparation_of(query.route_set, query.session)
                query.prepared = preparation.prepare(query.text)
                missing.append(query)
                texts.append(query.prepared.text)
        if missing:
            for query, tokenized in zip(missing, encoder.tokenize(texts), strict=True):
                query.tokens, query.tokens_of = tokenized, encoder
                if query.prepared.turns:
                    query.turn_tokens = tuple(encoder.tokenize(query.prepared.turns))

    def _fit_budget(self, queries: list[InFlightQuery]) -> list[InFlightQuery]:
        """Keep what the token budget allows; the rest returns to the head of the queue."""
        budget = self._batch_tokens_max
        for index, query in enumerate(queries):
            budget -= query.tokens.count
            for turn in query.turn_tokens:
                budget -= turn.count
            if budget < 0 and index:  # the first text is encoded however long it is
                self._queue.give_back(queries[index:])
                return queries[:index]
        return queries

    def _encode(self, queries: list[InFlightQuery], serving: CachedEncoder) -> Batch:
        encoder, cache = serving.encoder, serving.cache
        texts = [(query, query.tokens) for query in queries]
        row_of: dict[bytes, int] = {}
        for query in queries:
            for turn in query.turn_tokens:
                if turn.key not in row_of:
                    row_of[turn.key] = len(texts)
                    texts.append((query, turn))
        embeddings = np.empty((len(texts), encoder.dim), dtype=np.float32)
        missing, tokenized, keys = [], [], []
        first_of: dict[bytes, int] = {}  # Two sets may have the same text in one batch
        equal: list[tuple[int, int]] = []
        for row, (query, tokens) in enumerate(texts):
            key = _cache_key(query, tokens) if query.cache_scope else tokens.key
            if query.is_shared and key in first_of:
                equal.append((row, first_of[key]))
                continue
            cached = cache.get(key) if query.is_shared else None
            if cached is None:
                missing.append(row)
                keys.append(key)
                tokenized.append(tokens)
                if query.is_shared:
                    first_of[key] = row
            else:
                embeddings[row] = cached
                if row < len(queries):
                    query.was_cached = True
        if missing:
            started = time.perf_counter()
            encoded = encoder.encode_tokens(tokenized)
            embeddings[missing] = encoded
            count = characters = 0
            for row, key, vector in zip(missing, keys, encoded, strict=True):
                query, tokens = texts[row]
                cache.put(key, vector)
                count += tokens.count
                if row < len(queries):  # the text of a flight includes its context
                    characters += min(len(query.text), CHARACTERS_MAX)
            seconds = time.perf_counter() - started
            self.report(len(missing), count, characters, seconds)
        for row, first in equal:
            embeddings[row] = embeddings[first]
        if row_of:
            embeddings = turn_to_context(queries, embeddings, row_of)
        return Batch(tuple(queries), embeddings, encoder)


def _cache_key(query: InFlightQuery, tokens: Any) -> bytes:
    """Key of an embedding that is shared inside a scope alone."""
    scope = query.cache_scope.encode("utf-8", "surrogatepass")
    return blake2b(scope, digest_size=16).digest() + bytes(tokens.key)


def submit_utterances(
    queue: QueryQueue, encode: Callable[[Sequence[str]], NDArray[np.float32]], texts: Sequence[str]
) -> list[Future[NDArray[np.float32]]]:
    """Queue utterances of the present author to be encoded; one future a job."""
    futures: list[Future[NDArray[np.float32]]] = []
    jobs = []
    for start in range(0, len(texts), UTTERANCES_PER_JOB_MAX):
        future: Future[NDArray[np.float32]] = Future()
        part = texts[start : start + UTTERANCES_PER_JOB_MAX]
        begin = future.set_running_or_notify_cancel
        jobs.append(EncodeJob(part, encode, begin, partial(_resolve, future)))
        futures.append(future)
    queue.submit_jobs(jobs, AUTHOR.get() or f"/{AUTHOR_ADDRESS.get()}")
    return futures


def _resolve(future: Future[NDArray[np.float32]], result: Any) -> None:
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
