"""The engine: lanes, applier and scorer as one whole.

Before ``start`` the caller's thread runs the same code inline, as in release 0.2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from synaptoroute.cascade.cascade import Cascade
from synaptoroute.cascade.coalescer import Gathering
from synaptoroute.config import EngineConfig, cpu_limit
from synaptoroute.core.change import Commit, Outcome, StagedImport
from synaptoroute.core.mutation import OpenEpoch, Position, Proposal
from synaptoroute.core.replica import Replica
from synaptoroute.encoder import TextEncoder
from synaptoroute.engine.counters import EngineCounters, counted
from synaptoroute.engine.tensor_builder import derived_of, switched_tensor, tensor_of
from synaptoroute.errors import NotReady
from synaptoroute.failpoints import failpoint
from synaptoroute.models import Match
from synaptoroute.replication.applier import Applier, Heard, check_vectors
from synaptoroute.replication.ballot_store import stored_promise
from synaptoroute.replication.pending_writes import Waiters
from synaptoroute.serving.admission import Admission
from synaptoroute.serving.encoder_workers import Batch, Lanes, Observer
from synaptoroute.serving.encodings import Encodings, submit_utterances
from synaptoroute.serving.in_flight import Flight
from synaptoroute.serving.query import Query
from synaptoroute.serving.queue import Batcher
from synaptoroute.serving.scorer import Published, Scorer
from synaptoroute.serving.unmatched import Unmatched
from synaptoroute.storage import SQLiteStorage, Stored, gc_paused
from synaptoroute.tensor import Tensor

ResultT = TypeVar("ResultT")


class Engine:
    """Owner of the threads; every state behind it has exactly one of them."""

    def __init__(
        self,
        encoder: TextEncoder,
        storage: SQLiteStorage,
        config: EngineConfig,
        observer: Observer | None = None,
        spare: TextEncoder | None = None,
        cascade: Cascade | None = None,
    ) -> None:
        self.encodings = Encodings(
            [encoder, *([spare] if spare else [])], config.embedding_cache_rows
        )
        self.storage = storage
        self.cascade = cascade
        self.lane_count = config.lanes or cpu_limit()
        self.waiters = Waiters()
        self.moved_aside: str | None = None
        self.running_imports: set[str] = set()
        self._batcher = Batcher(
            lanes=self.lane_count,
            queue_requests_max=config.queue_requests_max,
            write_texts_max=config.write_texts_max,
            batch_window_ms=config.batch_window_ms,
        )
        self.applier, self.scorer = self._boot(encoder, config.node_name)
        self.scorer.unmatched = Unmatched(config.unmatched_kept)
        self.applier.nice = config.lanes_nice
        self._lanes = Lanes(
            self.encodings.of(self.encoder.fingerprint),
            self._batcher,
            self.scorer.deliver,
            batch_tokens_max=config.batch_tokens_max,
            nice=config.lanes_nice,
            observer=observer,
        )
        self._gathering = Gathering(cascade, self._queue, self.scorer)
        self._is_started = self._is_stopped = False

    def _boot(self, encoder: TextEncoder, node_name: str) -> tuple[Applier, Scorer]:
        """Read the database into a replica and a tensor, with whichever encoder it is of."""
        fingerprint, spares = encoder.fingerprint, self.encodings.known
        with gc_paused():
            stored = self.storage.open(
                fingerprint=fingerprint, dim=encoder.dim, standby_encoders=spares
            )
            try:
                return self._wire(stored, node_name)
            except BaseException:
                self.storage.close()
                raise

    def _wire(self, stored: Stored, node_name: str) -> tuple[Applier, Scorer]:
        """Give the state that was read to its owners."""
        fingerprint, dim = self.storage.encoder
        self.moved_aside = str(stored.moved_aside) if stored.moved_aside else None
        snapshot = stored.snapshot
        tensor = tensor_of(stored, dim)
        replica = Replica(snapshot, dim=dim, check=check_vectors, digest=stored.sums)
        replica.promise(stored_promise(self.storage))
        encoder = self.encodings.of(fingerprint).encoder
        at, digest = replica.position, replica.digest
        scorer = Scorer(tensor, encoder, self._batcher, self.waiters, at, digest)
        scorer.node = node_name or self.storage.node_id
        scorer.cascade = self.cascade
        self.storage.derive = partial(derived_of, scorer)
        if self.cascade is not None:
            self.cascade.install(self.cascade.built_of(tensor, encoder), encoder, tensor.settings)
        node_id = self.storage.node_id
        founding = OpenEpoch(node_id, 0, (node_id,), fingerprint, dim)
        applier = Applier(replica, self.storage, scorer.show, self.waiters.fail, founding)
        applier.knows = self.encodings.known.__contains__
        applier.on_switched = self._switch
        scorer.is_applying = lambda: applier.is_applying
        return applier, scorer

    # --- life --------------------------------------------------------------------

    @property
    def encoder(self) -> TextEncoder:
        """The encoder that serves; changes where the cluster changes it.  Any thread."""
        return self.scorer.encoder

    @property
    def is_started(self) -> bool:
        """Whether the threads turn."""
        return self._is_started

    @property
    def are_threads_alive(self) -> bool:
        """Whether every thread that was started still turns."""
        return self._lanes.are_alive and self.applier.is_alive and self.scorer.is_alive

    def start(self) -> None:
        """Start the threads."""
        self.storage.start_maintenance()
        self.scorer.start()
        self.applier.start()
        self._lanes.start()
        self._is_started = True

    def stop(self) -> None:
        """Drain what was accepted, end the threads, close the database."""
        self._is_stopped = True
        self._batcher.close()
        if self._is_started:
            self._lanes.join()
        self.applier.stop()
        self.scorer.stop()
        self._is_started = False
        self.waiters.fail_all(NotReady("the router was stopped before the write was applied"))
        self.storage.close()

    def _check_open(self) -> None:
        if self._is_stopped:
            raise NotReady("the router has stopped")

    # --- queries -------------------------------------------------------------------

    def check_queue(self, texts: Sequence[object], share: bool, deadline_seconds: float) -> None:
        """Refuse who would be refused whatever is asked; see ``Batcher.check_queue``.

        The cascade may answer without the queue, so where there is one nobody is refused here.
        """
        if self.cascade is None:
            self._batcher.check_queue(texts, share, deadline_seconds)

    def submit(self, query: Query) -> None:
        """Answer a query, or queue it; its future is resolved on its event loop.

        Raises:
            Overloaded: The queue is full, or the predicted wait over the deadline.
            NotReady: The engine is stopping.
        """
        if not self._gathering.takes(query):
            self._queue(query)

    def _queue(self, asked: Query) -> None:
        seconds = asked.deadline_seconds
        self._batcher.submit(asked.text, asked, share=asked.use_cache, deadline_seconds=seconds)

    def submit_all(self, queries: Sequence[Query]) -> None:
        """Queue several queries, all or none; see ``submit``."""
        if queries:
            asked, seconds = [(each.text, each) for each in queries], queries[0].deadline_seconds
            self._batcher.submit_all(asked, queries[0].use_cache, deadline_seconds=seconds)

    def answer_now(self, queries: Sequence[Query]) -> list[Match]:
        """Encode and score on the caller's thread, before ``start``.

        Raises:
            NotReady: The engine has stopped.
        """
        self._check_open()
        embeddings = self.encoder.encode([query.text for query in queries])
        flights = tuple(Flight(query.text, [query], 0.0) for query in queries)
        answers: list[Match] = []
        for _, answer in self.scorer.score_now(Batch(flights, embeddings, self.encoder)):
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
        return answers

    # --- writes ----------------------------------------------------------------------

    def encode_utterances(
        self, texts: Sequence[str], encoder: TextEncoder | None = None
    ) -> list[Future[NDArray[np.float32]]]:
        """Encode utterances in the lanes, behind the queries; one future a job.

        A future that is cancelled before its turn costs nothing.

        Args:
            texts: The utterances.
            encoder: With which one; None takes the one that serves now.

        Raises:
            Overloaded: Too many utterances wait.
            NotReady: The engine is stopping.
        """
        encode = (encoder or self.encoder).encode_utterances
        if not self._is_started:
            self._check_open()
            (done := Future[NDArray[np.float32]]()).set_result(encode(texts))
            return [done]
        return submit_utterances(self._batcher, encode, texts)

    def propose(self, proposals: Sequence[Proposal]) -> None:
        """Number, apply and show proposals of a node that is its own log.

        Raises:
            Overloaded: Too many writes wait.
            NotReady: The engine has stopped.
        """
        if self._is_started:
            self.applier.propose(proposals)
        else:
            self._check_open()
            self.applier.apply(list(proposals))
            self.scorer.drain()

    def hear(self, heard: Sequence[Heard]) -> None:
        """Take in entries of a log, in order.

        Raises:
            NotReady: The engine has stopped.
        """
        if self._is_started:
            self.applier.hear(heard)
        else:
            self._check_open()
            self.applier.apply(list(heard))
            self.scorer.drain()

    # --- looking ---------------------------------------------------------------------

    def read(self, task: Callable[[Tensor], ResultT]) -> Future[ResultT]:
        """Run a function on the tensor between two batches, at one position.

        Raises:
            NotReady: The engine has stopped.
        """
        future = self.scorer.call(task)
        if not self._is_started:
            self.scorer.drain()
        return future

    def look_up(self, op_id: bytes) -> Future[Outcome | None]:
        """Find the outcome of a write inside the idempotency window."""

        def task() -> Outcome | None:
            known = self.applier.replica.outcome_of(op_id)
            return known.outcome if known else None

        return self._call_applier(task)

    def staged_imports(self) -> Future[tuple[StagedImport, ...]]:
        """Look at the imports that are open."""
        return self._call_applier(lambda: tuple(self.applier.replica.table.imports.values()))

    def settled(self, task: Callable[[], ResultT]) -> Future[ResultT]:
        """Run a function on the applier's thread, between two groups.

        What it reads there of replica, storage and, by ``read``, of the tensor is of one
        position; writes wait meanwhile, so it must be short.

        Raises:
            NotReady: The engine has stopped.
        """
        return self._call_applier(task)

    def _call_applier(self, task: Callable[[], ResultT]) -> Future[ResultT]:
        """Run a function where the replica is at home, between two groups."""
        if self._is_started:
            return self.applier.call(task)
        self._check_open()
        future: Future[ResultT] = Future()
        future.set_result(task())
        return future

    @property
    def published(self) -> Published:
        """What is visible now."""
        return self.scorer.published

    @property
    def queue_requests(self) -> int:
        """Queries on their way."""
        return self._batcher.queue_requests

    @property
    def admission(self) -> Admission:
        """What the door expects."""
        return self._batcher.admission

    @property
    def counters(self) -> EngineCounters:
        """Totals since the start."""
        return counted(self._batcher.counters, self.encodings.counts, self.cascade, self.applier)

    # --- whole states ------------------------------------------------------------------

    def install(self, source: Path, *, orphans_after_seq: int | None = None) -> Future[Position]:
        """Take over a peer's snapshot file: database, replica and tensor.

        The tensor is built beside the one that serves, and exchanged between two
        batches, so queries go on.

        Args:
            source: The file; nobody may change it meanwhile.
            orphans_after_seq: Keep own entries after this place as orphans.
        """

        def task() -> Position:
            now_us = time.time_ns() // 1_000
            failpoint("install.fetched")
            stored = self.storage.install(
                source, orphans_after_seq=orphans_after_seq, now_us=now_us
            )
            failpoint("install.stored")
            self.adopt(stored)
            return self.applier.replica.position

        return self.applier.call(task)

    def adopt(self, stored: Stored) -> None:
        """Exchange the replica and the tensor.  Runs on the applier's thread."""
        (fingerprint, dim), old = self.storage.encoder, self.applier.replica
        replica = Replica(stored.snapshot, dim=dim, check=check_vectors, digest=stored.sums)
        replica.promise(old.promised)
        tensor = tensor_of(stored, dim)
        self.applier.replica = replica
        self._serve(tensor, replica.position, replica.digest, fingerprint).result()

    def _switch(self, commit: Commit) -> None:
        """Serve with another encoder from an entry on.  Runs on the applier's thread.

        Its change rewrote every row, so the tensor is made of it alone, beside the one
        that serves; queries go on with the former encoder until the exchange.
        """
        encoder = commit.change.encoder
        assert encoder is not None, "nothing was switched: this is a bug"
        tensor = switched_tensor(commit, self.applier.replica.table)
        position = commit.entry.position
        done = self._serve(tensor, position, commit.digest, encoder.fingerprint, [commit])
        if self._is_started:
            done.result()  # what follows is cut to the new tensor's rows

    def _serve(
        self,
        tensor: Tensor,
        position: Position,
        digest: str,
        fingerprint: str,
        commits: Sequence[Commit] = (),
    ) -> Future[None]:
        """Exchange tensor and encoder together, between two batches."""
        encoding = self.encodings.of(fingerprint)
        routes = self.cascade.built_of(tensor, encoding.encoder) if self.cascade else None

        def exchange(_: Tensor) -> None:
            self._lanes.encoding = encoding
            self.scorer.adopt(tensor, position, digest, encoding.encoder, routes)
            self.scorer.tell(commits)

        return self.scorer.call(exchange)

    def watch(self, on_visible: Callable[[Position], None]) -> None:
        """Be told on the scorer's thread of every position that became visible."""
        self.scorer.on_visible = on_visible
