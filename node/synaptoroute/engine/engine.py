"""Composes the two planes of one node, and implements ``EnginePort``.

Before ``start`` the caller's thread runs the same code inline, as in release 0.2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from synaptoroute.cascade.cascade import Cascade, CascadeStatus, StageCounts
from synaptoroute.cascade.coalescer import QueryCoalescer
from synaptoroute.cascade.set_cascades import SetCascades
from synaptoroute.config import EngineConfig, cpu_limit
from synaptoroute.core.change import AliasRecord, Commit, Outcome, SetRecord, StagedImport
from synaptoroute.core.codec import LEVEL
from synaptoroute.core.mutation import DEFAULT_SET, OpenEpoch, Position, Proposal
from synaptoroute.core.replica import Replica
from synaptoroute.encoder import StaticTable, TextEncoder
from synaptoroute.engine.tensors import (
    other_switched_tensors,
    other_tensors_of,
    switched_tensor,
    tensor_of,
)
from synaptoroute.errors import NotReady, VersionLost
from synaptoroute.failpoints import failpoint
from synaptoroute.memory import bound_freed_memory, release_memory
from synaptoroute.models import Match
from synaptoroute.ports import (
    AppliedState,
    DecisionFigures,
    EngineCounters,
    EngineObserver,
    EngineStatus,
    IncomingEntry,
    Published,
    ReceivedEntry,
    ReplicaStatus,
    ShadowFigures,
)
from synaptoroute.replication.applier import Applier, PendingWrites, check_vectors, stored_promise
from synaptoroute.serving.context import turn_to_context
from synaptoroute.serving.embedding_cache import EncoderSet
from synaptoroute.serving.encoder_workers import Batch, EncoderWorkers, Observer, submit_utterances
from synaptoroute.serving.fair_queue import InFlightQuery
from synaptoroute.serving.lone_queries import LoneQueries
from synaptoroute.serving.preparation import PreparedText, TextPreparation
from synaptoroute.serving.query import Query, RecentDecisions, UnmatchedQueries
from synaptoroute.serving.queue import QueryQueue
from synaptoroute.serving.scorer import Scorer
from synaptoroute.serving.served_set import TensorSource
from synaptoroute.serving.served_sets import set_not_found
from synaptoroute.storage import SQLiteStorage, Stored, gc_paused
from synaptoroute.tensor import Tensor

ResultT = TypeVar("ResultT")


class Engine:
    """Owns the threads of one node.

    ``EnginePort`` and ``QueryEngine`` document its methods.

    Invariant: each mutable state behind it belongs to exactly one thread.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        storage: SQLiteStorage,
        config: EngineConfig,
        observer: Observer | None = None,
        spare: TextEncoder | None = None,
        cascade: Cascade | None = None,
    ) -> None:
        bound_freed_memory()
        held = [encoder, spare] if spare else [encoder]
        self.encoders = EncoderSet(held, config.embedding_cache_rows)
        self.storage = storage
        self._cascade = cascade
        self._config = config
        self._pending_writes = PendingWrites()
        self._observers: tuple[EngineObserver, ...] = ()
        self._moved_aside: str | None = None
        self._queue = QueryQueue(
            workers=config.lanes or cpu_limit(),
            queue_requests_max=config.queue_requests_max,
            write_texts_max=config.write_texts_max,
            batch_window_ms=config.batch_window_ms,
        )
        self.applier, self.scorer = self._boot(encoder)
        self._workers = EncoderWorkers(
            self.encoders.cached(self.encoder.fingerprint),
            self._queue,
            self.scorer,
            batch_tokens_max=config.batch_tokens_max,
            nice=config.lanes_nice,
            observer=observer,
        )
        paths = self._enqueue, self.scorer.node, self._queue.check_queue
        self._coalescer = QueryCoalescer(cascade, *paths) if cascade else None
        self._set_cascades = SetCascades(self.scorer.sets)
        self._set_coalescer = QueryCoalescer(self._set_cascades, *paths)
        self._lone_queries = LoneQueries(self._queue, self._workers, self.scorer, self._enqueue)
        self.is_started = False
        self._is_stopped = False

    def _boot(self, encoder: TextEncoder) -> tuple[Applier, Scorer]:
        """Read the database into a replica and a tensor, with the encoder that it belongs to."""
        fingerprint, spares = encoder.fingerprint, self.encoders.known
        with gc_paused():
            stored = self.storage.open(
                fingerprint=fingerprint, dim=encoder.dim, standby_encoders=spares
            )
            try:
                return self._compose(stored)
            except BaseException:
                self.storage.close()
                raise

    def _compose(self, stored: Stored) -> tuple[Applier, Scorer]:
        config, storage = self._config, self.storage
        fingerprint, dim = storage.encoder
        self._moved_aside = str(stored.moved_aside) if stored.moved_aside else None
        tensor = tensor_of(stored, dim)
        replica = Replica(stored.snapshot, dim=dim, check=check_vectors, sums=stored.sums)
        replica.promise(stored_promise(storage))
        encoder = self.encoders.find(fingerprint)
        preparation = TextPreparation(tensor, encoder)
        if self._cascade is not None:
            built = self._cascade.build_from(tensor, encoder)
            self._cascade.install(built, encoder, tensor, preparation)
        scorer = Scorer(
            tensor,
            encoder,
            self._queue,
            replica.position,
            replica.digest,
            node=config.node_name or storage.node_id,
            preparation=preparation,
            unmatched=UnmatchedQueries(config.unmatched_kept),
            decisions=None if self._cascade is None else self._cascade.decisions,
            first_stage=self._cascade,
            resolve_writers=self._pending_writes.resolve,
            on_visible=self._report_visible,
            new_unmatched=partial(UnmatchedQueries, config.unmatched_kept),
            # The applier is built below; the scorer asks only when its thread runs.
            is_applying=lambda: self.applier.is_applying,
        )
        others = [scorer.sets.make(*each, encoder) for each in other_tensors_of(stored)]
        scorer.sets.replace(others, stored.snapshot.aliases, stored.snapshot.record)
        storage.derive_with(partial(derived_of, scorer))
        founding = OpenEpoch(storage.node_id, 0, (storage.node_id,), fingerprint, dim, LEVEL)
        applier = Applier(
            replica,
            storage,
            founding=founding,
            publish=scorer.publish,
            switch_encoder=self._switch,
            fail_write=self._pending_writes.fail,
            has_encoder=self.encoders.known.__contains__,
            on_received=self._report_received,
            on_failed=self._report_failed,
            nice=config.writes_nice,
        )
        return applier, scorer

    # --- observers -----------------------------------------------------------------

    def subscribe(self, observer: EngineObserver) -> None:
        self._observers = (*self._observers, observer)

    def _report_received(self, received: Sequence[ReceivedEntry]) -> None:
        for observer in self._observers:
            observer.on_received(received)

    def _report_failed(self, error: Exception) -> None:
        for observer in self._observers:
            observer.on_failed(error)

    def _report_visible(self, position: Position) -> None:
        for observer in self._observers:
            observer.on_visible(position)

    # --- life cycle --------------------------------------------------------------

    def start(self) -> None:
        self.storage.start_maintenance()
        self.scorer.start()
        self.applier.start()
        self._workers.start()
        self.is_started = True
        if self._cascade is not None:
            self._cascade.total.is_booting = False
            if self._cascade.total.are_rows_late:
                self.applier.run(lambda _: self.scorer.renew_first_stages())
        self.applier.run(lambda _: release_memory())

    def stop(self) -> None:
        self._is_stopped = True
        # As work flows: workers hand batches to the scorer, for which the applier waits.
        self._queue.close()
        if self.is_started:
            self._workers.join()
        self.applier.stop()
        self.scorer.stop()
        self.is_started = False
        stopped = NotReady("the router was stopped before the write was applied")
        self._pending_writes.fail_all(stopped)
        self.storage.close()

    def _check_open(self) -> None:
        if self._is_stopped:
            raise NotReady("the router has stopped")

    # --- queries -------------------------------------------------------------------

    def check_queue(
        self, texts: Sequence[object], share: bool, deadline_seconds: float, flow: str = ""
    ) -> None:
        """Refuse queries of a client that no text could make acceptable now.

        Where a first stage is on it may answer without the queue: then queries are refused
        here only while others wait for that stage itself.
        """
        coalescer = self._coalescer
        ahead = coalescer.wait_seconds if coalescer is not None else 0.0
        ahead = ahead or self._set_coalescer.wait_seconds
        if ahead or not self.has_first_stage:
            self._queue.check_queue(texts, share, deadline_seconds, flow, ahead)

    def submit(self, query: Query) -> None:
        coalescer = self._coalescer
        if query.route_set and coalescer is not None:
            coalescer = self._set_coalescer if self._set_cascades.may_answer(query) else None
        if coalescer is not None and coalescer.add(query):
            return
        if not self._lone_queries.add(query):
            self._enqueue(query)

    def _enqueue(self, query: Query) -> None:
        text = query.key if query.context else query.text
        key = None
        if query.route_set or query.cache_scope:
            key = self._key_of(query)
        self._queue.submit(
            text, query, share=query.use_cache, deadline_seconds=query.deadline_seconds, key=key
        )

    def _key_of(self, query: Query) -> Hashable:
        """Key in the queue of a query that names a set or a scope."""
        # An unknown name would cost an encoding; the scorer looks it up again where it answers.
        self.scorer.sets.get(query.route_set)
        return query.in_flight_key

    def submit_all(self, queries: Sequence[Query]) -> None:
        if queries:
            first, pairs = queries[0], [(query.key, query) for query in queries]
            keys = [
                self._key_of(query) if query.route_set or query.cache_scope else text
                for text, query in pairs
            ]
            self._queue.submit_all(
                pairs, first.use_cache, deadline_seconds=first.deadline_seconds, keys=keys
            )

    @property
    def has_first_stage(self) -> bool:
        return self._cascade is not None and bool(self._cascade.total.on)

    def answer_sure(self, queries: Sequence[Query]) -> Sequence[Match | None]:
        if self._cascade is None:
            return [None] * len(queries)
        if queries and queries[0].route_set:
            return self._set_cascades.answer(queries, self.scorer.node)
        return self._cascade.answer(queries, self.scorer.node)

    def cascade_of(self, route_set: str) -> Cascade | None:
        return self._set_cascades.cascade_of(route_set)

    @property
    def cascades(self) -> Mapping[str, Cascade]:
        return self._set_cascades.by_name

    def static_table(self, fingerprint: str, name: str) -> StaticTable | None:
        found = None if self._cascade is None else self._cascade.tables.find(fingerprint, name)
        return found[0] if found is not None and found[1] == name else None

    def learn_table(self, table: StaticTable) -> Future[None]:
        def task(_: AppliedState) -> None:
            if self._cascade is not None:
                self._cascade.tables.add(table)
                if self.scorer.is_alive:
                    self.scorer.renew_first_stages()

        return self.run_on_applier(task)

    @property
    def unmatched(self) -> UnmatchedQueries:
        return self.scorer.sets.default.unmatched

    @property
    def decisions(self) -> RecentDecisions:
        return self.scorer.sets.default.decisions

    def unmatched_of(self, route_set: str) -> UnmatchedQueries:
        return self.scorer.sets.get(route_set).unmatched

    def decisions_of(self, route_set: str) -> RecentDecisions:
        return self.scorer.sets.get(route_set).decisions

    def shadow_figures(self, alias: str) -> ShadowFigures | None:
        return self.scorer.sets.shadow_figures(alias)

    def decision_figures_of(self, route_set: str) -> DecisionFigures:
        served, stage = self.scorer.sets.get(route_set), self.cascade_of(route_set)
        counted = served.decision_counts.figures
        return counted if stage is None else counted + stage.decision_counts.figures

    def prepare(
        self, text: str, ignore: tuple[str, ...] | None = None, route_set: str = ""
    ) -> PreparedText:
        return self.scorer.sets.get(route_set).preparation.prepare(text, ignore)

    def answer_now(self, queries: Sequence[Query]) -> list[Match]:
        self._check_open()
        if len(queries) == 1 and not queries[0].context:
            return [self._lone_queries.answer_now(queries[0])]
        encoder, sets = self.encoder, self.scorer.sets
        prepared = [
            sets.get(query.route_set, query.session).preparation.prepare(query.key)
            for query in queries
        ]
        tokens = encoder.tokenize([each.text for each in prepared])
        turns = [tuple(encoder.tokenize(each.turns)) for each in prepared]
        others = {turn.key: turn for turn in chain.from_iterable(turns)}
        row_of = {key: len(tokens) + row for row, key in enumerate(others)}
        in_flight = tuple(
            InFlightQuery(
                query.key,
                [query],
                0.0,
                own,
                encoder,
                each,
                earlier,
                route_set=query.route_set,
                session=query.session,
            )
            for query, own, each, earlier in zip(queries, tokens, prepared, turns, strict=True)
        )
        answers: list[Match] = []
        embeddings = encoder.encode_tokens([*tokens, *others.values()])
        batch = Batch(in_flight, turn_to_context(in_flight, embeddings, row_of), encoder)
        # Several sets answer one after the other, so the order may be another.
        found = {id(query): answer for query, answer in self.scorer.score_now(batch)}
        for query in queries:
            answer = found[id(query)]
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, Match), "options are scored after the start only"
            answers.append(answer)
        return answers

    def answer_alone(self, query: Query) -> Match | None:
        return self._lone_queries.answer(query)

    # --- writes ----------------------------------------------------------------------

    def encode_utterances(
        self, texts: Sequence[str], encoder: TextEncoder | None = None
    ) -> list[Future[NDArray[np.float32]]]:
        encode = (encoder or self.encoder).encode_utterances
        if not self.is_started:
            self._check_open()
            (done := Future[NDArray[np.float32]]()).set_result(encode(texts))
            return [done]
        return submit_utterances(self._queue, encode, texts)

    def propose(self, proposals: Sequence[Proposal]) -> None:
        if self.is_started:
            self.applier.propose(proposals)
        else:
            self._check_open()
            self.applier.apply(list(proposals))
            self.scorer.drain()

    def deliver(self, entries: Sequence[IncomingEntry]) -> None:
        if self.is_started:
            self.applier.deliver(entries)
        else:
            self._check_open()
            self.applier.apply(list(entries))
            self.scorer.drain()

    def expect_outcome(self, op_id: bytes, request_hash: bytes = b"") -> Future[Outcome]:
        return self._pending_writes.expect(op_id, request_hash)

    def forget_outcome(self, op_id: bytes, future: Future[Outcome]) -> None:
        self._pending_writes.forget(op_id, future)

    def expect_version(self, seq: int) -> Future[None]:
        return self.scorer.version_waiters.expect(seq)

    def forget_version(self, future: Future[None]) -> None:
        self.scorer.version_waiters.forget(future)

    # --- reads ---------------------------------------------------------------------

    def read(self, task: Callable[[Tensor], ResultT], route_set: str = "") -> Future[ResultT]:
        future = self.scorer.call(task, route_set)
        if not self.is_started:
            self.scorer.drain()
        return future

    def read_sets(self, task: Callable[[Mapping[str, Tensor]], ResultT]) -> Future[ResultT]:
        def read(_: Tensor) -> ResultT:
            served = sorted(self.scorer.sets.by_number.items())
            return task({each.name: each.tensor for _, each in served})

        return self.read(read)

    def forget_embeddings(self) -> None:
        """Forget the embeddings of queries; any thread."""
        self.encoders.clear()

    def reset_shadow(self, alias: str) -> None:
        """Count what a shadow would have answered from zero; any thread."""
        self.scorer.sets.shadow_log.drop(alias)

    def forget_shadowed(self) -> None:
        self.scorer.sets.shadow_log.forget_texts()

    def known_texts(self, texts: Sequence[str], route_set: str = "") -> list[str]:
        # Without the scorer's lock: a look-up in a dictionary is one step of the interpreter.
        sets = self.scorer.sets
        served = sets.get(route_set) if route_set else sets.default
        return served.tensor.texts.known(texts)

    def run_on_applier(self, task: Callable[[AppliedState], ResultT]) -> Future[ResultT]:
        if self.is_started:
            return self.applier.run(task)
        self._check_open()
        future: Future[ResultT] = Future()
        future.set_result(task(self.applier.state))
        return future

    def look_up(self, op_id: bytes, request_hash: bytes = b"") -> Future[Outcome | None]:
        def task(state: AppliedState) -> Outcome | None:
            known = state.replica.outcome_of(op_id)
            at = state.replica.position.revision
            return known.outcome_for(request_hash, at) if known else None

        return self.run_on_applier(task)

    def staged_imports(self, route_set: str = "") -> Future[tuple[StagedImport, ...]]:
        def task(state: AppliedState) -> tuple[StagedImport, ...]:
            table = state.replica.sets.table_of(route_set)
            if table is None:
                raise set_not_found(route_set)
            return tuple(table.imports.values())

        return self.run_on_applier(task)

    # --- status ----------------------------------------------------------------------

    @property
    def node_id(self) -> str:
        return self.storage.node_id

    @property
    def encoder(self) -> TextEncoder:
        return self.scorer.encoder

    @property
    def database(self) -> SQLiteStorage:
        return self.storage

    @property
    def published(self) -> Published:
        return self.scorer.published

    def published_of(self, route_set: str) -> Published:
        published, served = self.scorer.published, self.scorer.sets.get(route_set)
        if not served.number:
            return published
        tensor = served.tensor
        return replace(
            published,
            routes_count=len(tensor.routes),
            slots_used=tensor.slots_used,
            settings=tensor.settings,
        )

    @property
    def set_names(self) -> Mapping[str, int]:
        # A copy in one step: the scorer may change it meanwhile.
        return {name: served.number for name, served in self.scorer.sets.by_name.copy().items()}

    @property
    def aliases(self) -> Mapping[str, AliasRecord]:
        return self.scorer.sets.aliases.copy()

    @property
    def backlog_entries(self) -> int:
        return self.applier.backlog_entries

    @property
    def delays(self) -> tuple[tuple[int, int], ...]:
        return tuple(self.scorer.delays)

    def set_record(self, name: str) -> SetRecord | None:
        sets = self.applier.replica.sets
        number = sets.numbers.get(name or DEFAULT_SET)
        return None if number is None else sets.records.get(number)

    @property
    def replica_status(self) -> ReplicaStatus:
        replica = self.applier.replica
        # The applier may change the replica between two reads here.  Copying the list is one
        # step of the interpreter, so voters and epoch id always come from the same epoch.
        return ReplicaStatus(
            replica.state,
            replica.promised,
            tuple(replica.epochs),
            replica.level,
            replica.voter_keys,
        )

    def status(self) -> EngineStatus:
        queue, cascade = self._queue, self._cascade
        stage = cascade.status if cascade else CascadeStatus()
        hits, misses = self.encoders.cache_counts
        sets = self.scorer.sets
        decisions = sets.default.decision_counts.figures + sets.others_counts.figures
        if cascade is not None:
            decisions += cascade.decision_counts.figures + cascade.total.decisions.figures
        others = cascade.total if cascade else StageCounts()
        counters = EngineCounters(
            queries=queue.counters.requests + stage.static + others.static,
            shared=queue.counters.shared,
            cache_hits=hits,
            cache_misses=misses,
            overloaded=queue.counters.overloaded,
            too_late=queue.counters.too_late,
            abandoned=queue.counters.abandoned,
            entries=self.applier.commit_count,
            static=stage.static + others.static,
            deferred=stage.deferred + others.deferred,
            decisions=decisions,
        )
        is_alive = self._workers.are_alive and self.applier.is_alive and self.scorer.is_alive
        return EngineStatus(
            node=self.scorer.node,
            are_threads_alive=is_alive,
            queue_requests=queue.queue_requests,
            backlog_entries=self.applier.backlog_entries,
            lanes=queue.workers,
            storage_state=self.applier.storage_state,
            moved_aside=self._moved_aside,
            counters=counters,
            admission=queue.admission,
            tables=tuple(cascade.tables.names) if cascade else (),
        )

    # --- whole states ------------------------------------------------------------------

    def content_root(self, position: Position) -> str | None:
        roots = self.applier.content_roots
        if not roots.is_kept:
            with suppress(NotReady):
                self.run_on_applier(self._keep_roots)
        if roots.is_passed(position):
            raise VersionLost(
                f"the content at {position.revision} is not known any more",
                version=str(self.published.position.revision),
            )
        return roots.find(position)

    def _keep_roots(self, state: AppliedState) -> None:
        replica, applier = state.replica, self.applier
        fingerprint, dim = state.storage.encoder

        def later(task: Callable[[], None]) -> None:
            with suppress(NotReady):
                self.run_on_applier(lambda _: task())

        applier.content_roots.begin(
            replica.snapshot, fingerprint, dim, replica.table.hash_of_chunk, later
        )

    def install_snapshot(
        self, source: Path, *, orphans_after_seq: int | None = None, root: str | None = None
    ) -> Future[Position]:
        def task(_: AppliedState) -> Position:
            now_us = time.time_ns() // 1_000
            failpoint("install.fetched")
            stored = self.storage.install(
                source, orphans_after_seq=orphans_after_seq, now_us=now_us, root=root
            )
            failpoint("install.stored")
            self.adopt(stored)
            return self.applier.replica.position

        return self.applier.run(task)

    def adopt(self, stored: Stored) -> None:
        """Replace replica and tensor by what the database holds.  Runs on the applier's thread."""
        (fingerprint, dim), old = self.storage.encoder, self.applier.replica
        replica = Replica(
            stored.snapshot,
            dim=dim,
            check=check_vectors,
            sums=stored.sums,
        )
        if old.requires_seals:
            replica.require_seals(old.check_votes)
        # A promise is this node's own and outlives the state: without it, an installed snapshot
        # could make the node vote twice in one ballot.
        replica.promise(old.promised)
        tensor, others = tensor_of(stored, dim), list(other_tensors_of(stored))
        self.applier.replica = replica
        self.applier.content_roots.reset()
        self._serve(tensor, others, replica.position, replica.digest, fingerprint).result()

    def _switch(self, commit: Commit) -> None:
        """Serve with another encoder from an entry on.  Runs on the applier's thread.

        The change rewrote every row, so the tensor is built from it alone, beside the one that
        serves.  Queries use the former encoder until the exchange.
        """
        encoder = commit.change.encoder
        assert encoder is not None, "nothing was switched: this is a bug"
        sets = self.applier.replica.sets
        tensor = switched_tensor(commit, sets.default)
        others, position = list(other_switched_tensors(commit, sets)), commit.entry.position
        done = self._serve(tensor, others, position, commit.digest, encoder.fingerprint, [commit])
        if self.is_started:
            # Later commits are prepared for the rows of the new tensor.
            done.result()

    def _serve(
        self,
        tensor: Tensor,
        others: Sequence[tuple[SetRecord, TensorSource]],
        position: Position,
        digest: str,
        fingerprint: str,
        commits: Sequence[Commit] = (),
    ) -> Future[None]:
        """Exchange the tensors of all sets and the encoder together, between two batches.

        Args:
            others: Record and tensor of each set but the default one.
        """
        cached = self.encoders.cached(fingerprint)
        preparation = TextPreparation(tensor, cached.encoder)
        routes = self._cascade.build_from(tensor, cached.encoder) if self._cascade else None
        served = [self.scorer.sets.make(*each, cached.encoder) for each in others]
        sets = self.applier.replica.sets
        aliases, record = list(sets.aliases.values()), sets.records.get(0)

        def exchange(_: Tensor) -> None:
            # Batches encoded before are recognized by their encoder and given back.
            self._workers.serving = cached
            with self.scorer.sets.lock:
                self.scorer.sets.replace(served, aliases, record)
                self.scorer.adopt(tensor, position, digest, cached.encoder, preparation, routes)
            self.scorer.resolve_writers(commits)

        return self.scorer.call(exchange)


def derived_of(scorer: Scorer, position: Position, digest: str) -> bytes:
    """Dump what the tensor derived from its rows; empty if it is at another position.

    Runs on any thread but the scorer's, which it waits for.
    """

    def look(tensor: Tensor) -> bytes:
        published = scorer.published
        is_same = (published.position, published.digest) == (position, digest)
        return tensor.derived() if is_same else b""

    with suppress(NotReady):  # the scorer is stopping
        derived: bytes = scorer.call(look).result() if scorer.is_alive else look(scorer.tensor)
        return derived
    return b""
