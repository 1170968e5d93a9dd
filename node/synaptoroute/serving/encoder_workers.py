"""Lanes: the threads that turn texts into embeddings.

They hold no state of the route set.  A lane takes its share of what has queued,
tokenizes it, serves what the cache knows, encodes the rest up to the token budget
and passes the batch on to the scorer; the inference runtime releases the
interpreter lock meanwhile, so L lanes use L cores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder import TextEncoder
from synaptoroute.serving.admission import characters_of
from synaptoroute.serving.encodings import Encoding
from synaptoroute.serving.in_flight import Flight, Job
from synaptoroute.serving.query import Query
from synaptoroute.serving.queue import Batcher
from synaptoroute.threads.priority import give_way


class Observer(Protocol):
    """Receives measurements; called on a lane, so it must be quick and thread-safe."""

    def batch(self, texts: int, tokens: int, encode_seconds: float) -> None:
        """One batch was encoded."""
        ...


class Silent:
    """An observer that keeps nothing."""

    def batch(self, texts: int, tokens: int, encode_seconds: float) -> None:
        """Forget it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Embedded queries, ready to be scored.

    Attributes:
        flights: The queries.
        embeddings: float32[n, dim], one row a flight; empty where ``error`` is set.
        encoder: Whose they are.
        error: Why the encoder failed, if it did.
    """

    flights: tuple[Flight, ...]
    embeddings: NDArray[np.float32]
    encoder: TextEncoder
    error: Exception | None = None


class Lanes:
    """A fixed number of encoding threads over one encoder.

    Attributes:
        encoding: What queries are encoded with; exchanged by the scorer as a whole.
    """

    def __init__(
        self,
        encoding: Encoding,
        batcher: Batcher,
        deliver: Callable[[Batch], None],
        *,
        batch_tokens_max: int,
        nice: int = 0,
        observer: Observer | None = None,
    ) -> None:
        self.observer = observer or Silent()
        self.encoding = encoding
        self._batcher = batcher
        self._deliver = deliver
        self._batch_tokens_max = batch_tokens_max
        self._nice = nice
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start one thread a lane."""
        for index in range(self._batcher.lanes):
            thread = threading.Thread(
                target=self._run, name=f"synaptoroute-lane-{index}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def join(self) -> None:
        """Wait until the lanes have drained a closed batcher."""
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    @property
    def are_alive(self) -> bool:
        """Whether every lane still turns."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        give_way(self._nice)
        while (work := self._batcher.take()) is not None:
            if isinstance(work, Job):
                self._run_job(work)
            else:
                self._run_flights(work)

    def _run_job(self, job: Job) -> None:
        if not job.begin():
            return
        try:
            result: Any = job.encode(job.texts)
        except Exception as error:  # the writer gets it; the lane must live on
            result = error
        job.done(result)

    def _run_flights(self, taken: tuple[Flight, ...]) -> None:
        flights = self._batcher.drop_abandoned(taken)
        encoding = self.encoding  # one look: the scorer may exchange it meanwhile
        encoder = encoding.encoder
        try:
            self._tokenize(flights, encoder)
            flights = self._fit_budget(flights)
            batch = self._encode(flights, encoding)
        except Exception as error:  # the callers get it; the lane must live on
            empty = np.empty((0, encoder.dim), dtype=np.float32)
            batch = Batch(tuple(flights), empty, encoder, error)
        if batch.flights:
            self._deliver(batch)

    @staticmethod
    def _tokenize(flights: Sequence[Flight], encoder: TextEncoder) -> None:
        for flight in flights:  # what the static stage tokenized needs it no more
            asked = flight.waiters[0]
            if flight.tokens is None and isinstance(asked, Query) and asked.tokens is not None:
                flight.tokens, flight.tokens_of = asked.tokens, asked.tokens_of
        fresh = [flight for flight in flights if flight.tokens_of is not encoder]
        tokens = encoder.tokenize([flight.text for flight in fresh]) if fresh else []
        for flight, tokenized in zip(fresh, tokens, strict=True):
            flight.tokens, flight.tokens_of = tokenized, encoder

    def _encode(self, flights: list[Flight], encoding: Encoding) -> Batch:
        encoder = encoding.encoder
        embeddings = np.empty((len(flights), encoder.dim), dtype=np.float32)
        missing = []
        for row, flight in enumerate(flights):
            cached = encoding.cache.get(flight.tokens.key) if flight.is_shared else None
            if cached is None:
                missing.append(row)
            else:
                embeddings[row] = cached
        if missing:
            self._encode_missing(flights, missing, embeddings, encoding)
        return Batch(tuple(flights), embeddings, encoder)

    def _encode_missing(
        self,
        flights: list[Flight],
        missing: list[int],
        embeddings: NDArray[np.float32],
        encoding: Encoding,
    ) -> None:
        started = time.perf_counter()
        tokens = [flights[row].tokens for row in missing]
        encoded = encoding.encoder.encode_tokens(tokens)
        embeddings[missing] = encoded
        for each, vector in zip(tokens, encoded, strict=True):
            encoding.cache.put(each.key, vector)
        count = sum(each.count for each in tokens)
        seconds = time.perf_counter() - started
        self.observer.batch(len(missing), count, seconds)
        characters = sum(characters_of(flights[row].text) for row in missing)
        self._batcher.learn(count, characters, seconds)

    def _fit_budget(self, flights: list[Flight]) -> list[Flight]:
        """Keep what the token budget allows; the rest goes back to the queue's head."""
        budget = self._batch_tokens_max
        for index, flight in enumerate(flights):
            budget -= flight.tokens.count
            if budget < 0 and index:
                self._batcher.give_back(flights[index:])
                return flights[:index]
        return flights
