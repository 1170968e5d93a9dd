"""The scorer: the thread that owns the tensor.

It publishes changes and scores batches, one after the other, so a batch sees exactly one
position.  While it waits for work, the thread that encoded a query that is alone may take the
tensor lock and answer it (ADR 0026, 0073).  The rows of a large change are written in slices,
between batches, into slots that queries cannot see yet; then it becomes visible in one step.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Change, Commit
from synaptoroute.core.mutation import Position, Revision
from synaptoroute.encoder import TextEncoder
from synaptoroute.encoder.fast_encoder import FastEncoder
from synaptoroute.encoder.integer_product import integer_product
from synaptoroute.errors import EncoderError
from synaptoroute.failpoints import failpoint
from synaptoroute.models import Match
from synaptoroute.ports import Published
from synaptoroute.questions import OptionScores
from synaptoroute.scoring import Scratch
from synaptoroute.serving.encoder_workers import Batch
from synaptoroute.serving.fair_queue import InFlightQuery
from synaptoroute.serving.first_stages import forget_first_stage, renew_first_stages
from synaptoroute.serving.preparation import ChangedWords, TextPreparation
from synaptoroute.serving.query import FirstStage, Query, RecentDecisions, UnmatchedQueries
from synaptoroute.serving.queue import QueryQueue
from synaptoroute.serving.served_set import Answer, Asked, ServedSet
from synaptoroute.serving.served_sets import ServedSets, set_not_found
from synaptoroute.serving.slices import LARGE_ROWS_MIN, Slice, slices_of
from synaptoroute.serving.version_waiters import VersionWaiters
from synaptoroute.tensor import Tensor
from synaptoroute.tensor.score_terms import ScoreTerms
from synaptoroute.threads import Inbox, refuse, run_into

FILL_SECONDS_MAX: Final = 30.0
IDLE_SECONDS: Final = 0.002
"""After so long without work the scorer does deferred work of the tensor."""
SHADOW_SECONDS: Final = 0.01
"""After so long without work the scorer scores shadows, those of several queries together.

At once, it would compete for the interpreter with the event loop that sends the answer.
"""
SHADOWS_WAITING_MAX: Final = 64
"""Queries whose shadows may wait; of more, some are scored before each further item."""
SHADOWS_AT_ONCE: Final = 16
"""Queries that are scored on shadows in one idle step; a query that comes meanwhile waits."""
DELAYS_KEPT: Final = 2_048
_ROUTES_AT_ONCE: Final = 1_024
"""Routes whose sums are copied between two batches, in about a millisecond."""


@dataclass(frozen=True, slots=True)
class _Publish:
    """Commits to be made visible."""

    commits: tuple[Commit, ...]
    is_filled: bool
    static_rows: tuple[Mapping[int, Any], ...] = ()
    built: Any = None
    terms: ScoreTerms | None = None
    copied: ServedSet | None = None
    words: ChangedWords | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    task: Callable[[Tensor], Any]
    future: Future[Any]
    route_set: str = ""
    set_number: int = 0


@dataclass(frozen=True, slots=True)
class _Wake:
    """Lets the thread see that shadows wait."""


_Item: TypeAlias = "Batch | Slice | _Publish | _Call | _Wake"


class Scorer:
    """Owns the tensors of all route sets.

    Attributes:
        sets: The route sets; any thread may look a name up.
        version_waiters: Readers that wait for a version.
        delays: Pairs of seq and microseconds from the sequencer's clock to visible here.
    """

    def __init__(
        self,
        tensor: Tensor,
        encoder: TextEncoder,
        queries: QueryQueue,
        position: Position,
        digest: str,
        *,
        node: str = "",
        preparation: TextPreparation | None = None,
        unmatched: UnmatchedQueries | None = None,
        decisions: RecentDecisions | None = None,
        first_stage: FirstStage | None = None,
        resolve_writers: Callable[[Sequence[Commit]], None] = lambda commits: None,
        on_visible: Callable[[Position], None] = lambda position: None,
        is_applying: Callable[[], bool] = lambda: False,
        new_unmatched: Callable[[], UnmatchedQueries] = UnmatchedQueries,
    ) -> None:
        self.encoder = encoder
        self._default = ServedSet(
            tensor,
            encoder,
            preparation,
            unmatched=unmatched,
            decisions=decisions,
            first_stage=first_stage,
        )
        self.sets = ServedSets(self._default, new_unmatched=new_unmatched)
        self.node = node
        self.version_waiters = VersionWaiters()
        self.delays: deque[tuple[int, int]] = deque(maxlen=DELAYS_KEPT)
        self._first_stage = first_stage
        self._resolve_writers = resolve_writers
        self._on_visible = on_visible
        self._is_applying = is_applying
        # To load the runtime for the product alone would cost more than the product saves.
        has_runtime = not isinstance(encoder, FastEncoder)
        self._scratch = Scratch(integer_product() if has_runtime else None)
        self._queries = queries
        self._inbox: Inbox[_Item] = Inbox()
        self._tensor_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.published = self._describe(position, digest)

    @property
    def tensor(self) -> Tensor:
        """The tensor of the default set."""
        return self._default.tensor

    # --- from any thread -------------------------------------------------------

    def submit(self, batch: Batch) -> None:
        """Score an embedded batch on this thread if it is alone, else queue it."""
        is_alone = self._queries.queue_requests == 1 and self._thread is not None
        # Never wait for the lock here: the worker is needed for encoding.
        if is_alone and not len(self._inbox) and self._tensor_lock.acquire(blocking=False):
            try:
                self._answer(batch)
            finally:
                self._tensor_lock.release()
        else:
            self._inbox.put(batch)

    def publish(self, commits: Sequence[Commit]) -> None:
        """Queue durable commits, in order, to be made visible.

        Rows of a large one are queued slice by slice, each when the one before is written,
        so queries wait for one slice at most.
        """
        small: list[Commit] = []
        for commit in commits:
            change, stage = commit.change, self._first_stage
            if stage is not None and change.set_number:
                stage = self.sets.stage_of(change)
            is_rebuilt = stage is not None and stage.needs_rebuild(change)
            if not is_rebuilt and not self._is_prepared(change):
                small.append(commit)
                continue
            # What is prepared on this thread depends on the commits before.
            self._put(small)
            small = []
            if is_large := len(change.writes) > LARGE_ROWS_MIN:
                self._fill(commit)
            self._put(
                [commit],
                is_filled=is_large,
                built=self._rebuild_for(commit) if is_rebuilt else None,
                terms=self._derive_terms(change),
                copied=self._copy_for(change),
                words=self._count_words(change),
            )
        self._put(small)

    def _is_prepared(self, change: Change) -> bool:
        """Whether parts of a change are prepared on the applier's thread."""
        return (
            len(change.writes) > LARGE_ROWS_MIN
            or len(change.replaced) > LARGE_ROWS_MIN
            or change.settings is not None
            or change.decision is not None
            or change.forked_from is not None
        )

    def _count_words(self, change: Change) -> ChangedWords | None:
        """Count the words of a large change, or all words if they are collected from it on."""
        served, number = self.sets.by_number.get(change.set_number), change.set_number
        if served is None or not self.is_alive:
            return None
        preparation, records = served.preparation, None
        if preparation.needs_lexicon(change.settings):
            records = self._call(lambda tensor: tuple(tensor.routes.values()), number).result()
        elif max(len(change.writes), len(change.replaced)) <= LARGE_ROWS_MIN:
            return None
        return preparation.words_of(change, records)

    def _fill(self, commit: Commit) -> None:
        """Queue the rows of a large commit slice by slice."""
        for part in slices_of(commit, self.tensor.dim):
            self._inbox.put(part)
            if self.is_alive:
                part.done.wait(FILL_SECONDS_MAX)

    def _put(
        self,
        commits: Sequence[Commit],
        *,
        is_filled: bool = False,
        built: Any = None,
        terms: ScoreTerms | None = None,
        copied: ServedSet | None = None,
        words: ChangedWords | None = None,
    ) -> None:
        """Queue commits, with what the first stage can prepare on this thread."""
        if not commits:
            return
        stage, encoder = self._first_stage, self.encoder
        prepared: tuple[Mapping[int, Any], ...] = ()
        if stage is not None:
            prepared = tuple(
                stage.embed(each.change, encoder)
                if not each.change.set_number
                else self._embed_in_set(each.change)
                for each in commits
            )
        item = _Publish(tuple(commits), is_filled, prepared, built, terms, copied, words)
        self._inbox.put(item)

    def _embed_in_set(self, change: Change) -> Mapping[int, Any]:
        stage = self.sets.stage_of(change)
        return {} if stage is None else stage.embed(change, self.encoder)

    def _derive_terms(self, change: Change) -> ScoreTerms | None:
        """Compute the score terms of all routes under new numbers, on the applier's thread.

        The applier is the only one that changes routes, so they stay as they are until the
        numbers become visible.
        """
        payload = b"" if change.decision is None else change.decision.payload
        if not payload or not self.is_alive:
            return None
        number = change.set_number
        found: tuple[ScoreTerms, NDArray[np.int64]] | None
        found = self._call(lambda tensor: tensor.derive_terms(payload), number).result()
        if found is None:
            return None
        terms, route_ids = found
        for start in range(0, len(route_ids), _ROUTES_AT_ONCE):
            part = route_ids[start : start + _ROUTES_AT_ONCE]
            terms.write(part, *self._call(partial(Tensor.sums_of, route_ids=part), number).result())
        terms.is_complete = True
        return terms

    def _copy_for(self, change: Change) -> ServedSet | None:
        """Copy the set that a change forks, on the applier's thread.

        The applier is the only one that changes sets, so the source stays as it is meanwhile, and
        queries go on.  Only what is deferred in the source is done between batches.
        """
        source = change.forked_from
        if not self.is_alive or source is None:
            return None  # the scorer copies it in the step in which it becomes visible
        while not self._call(_prepare_step, source).result():
            continue
        return self.sets.copy_of(change)

    def _rebuild_for(self, commit: Commit) -> Any:
        """Rebuild the first stage here, on the applier's thread, rather than between batches."""
        change = commit.change
        settings, number = change.settings, change.set_number
        if not self.is_alive or settings is None:
            return None
        records = self._call(lambda tensor: tuple(tensor.routes.values()), number).result()
        # Looked up now: a commit before may have put another set in the place of this one.
        stage = self.sets.stage_of(change) if number else self._first_stage
        if stage is None:
            return None
        return stage.rebuild(self.encoder, settings, records, commit.entry.position.revision)

    def renew_first_stages(self) -> None:
        """Build the first stages of all sets again; runs on the applier's thread."""
        renew_first_stages(self.sets, self._call, self.encoder)

    def call(self, task: Callable[[Tensor], Any], route_set: str = "") -> Future[Any]:
        """Run a function on the tensor of a set or an alias, between two batches.

        Raises:
            SetNotFound: By the future: there is none of that name.
        """
        future: Future[Any] = Future()
        self._inbox.put(_Call(task, future, route_set))
        return future

    def _call(self, task: Callable[[Tensor], Any], set_number: int) -> Future[Any]:
        future: Future[Any] = Future()
        self._inbox.put(_Call(task, future, set_number=set_number))
        return future

    # --- the thread --------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; until then the caller's thread does its work."""
        self._thread = threading.Thread(target=self._run, name="synaptoroute-scorer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Do what is queued, then end the thread."""
        self._inbox.close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_idle(self) -> bool:
        """Whether the thread waits for work, as far as another thread can tell."""
        return not len(self._inbox) and not self._tensor_lock.locked() and self.is_alive

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                with self._tensor_lock:
                    self._do(item)
                    if self.sets.shadows_waiting > SHADOWS_WAITING_MAX:
                        self._compare_shadows(SHADOWS_WAITING_MAX)
        finally:
            for left in self._inbox.close_and_drop():
                if isinstance(left, _Call):
                    refuse(left.future)
                elif isinstance(left, Slice):
                    left.done.set()  # the applier waits for it

    def _next(self) -> _Item | None:
        """Wait for the next item; do deferred work of the tensors while there is none."""
        sets = self.sets
        while self._default.tensor.is_behind or sets.behind or sets.shadows:
            try:
                return self._inbox.get(SHADOW_SECONDS if sets.shadows else IDLE_SECONDS)
            except queue.Empty:
                if sets.shadows:
                    with self._tensor_lock:
                        self._compare_shadows(SHADOWS_AT_ONCE)
                    continue
                # Not at once, and not while a write is applied: the threads that were just
                # answered, and the write on its way here, need the interpreter first.
                if not self._is_applying():
                    with self._tensor_lock:
                        if self._default.tensor.is_behind:
                            self._default.tensor.prepare()
                        else:
                            sets.prepare()
        return self._inbox.get()

    def _compare_shadows(self, count: int) -> None:
        """Score the queries that wait longest on the shadows of their aliases."""
        self.sets.compare_shadows((self.published.version, self.node), self._scratch, count)

    def drain(self) -> None:
        """Do what is queued on the caller's thread, before ``start``."""
        while len(self._inbox):
            item = self._inbox.get()
            if item is not None:
                self._do(item)

    def _do(self, item: _Item) -> None:
        match item:
            case Batch():
                self._answer(item)
            case Slice(slots, owners, vectors, at, done, keys, number):
                served = self.sets.by_number.get(number)
                if served is not None:
                    served.tensor.fill(slots, vectors, at, owners, keys)
                done.set()
            case _Publish():
                self._make_visible(item)
            case _Wake():
                pass
            case _Call(task, future, route_set, number):
                if route_set or number:
                    run_into(future, self._run_on_set, task, route_set, number)
                else:
                    run_into(future, task, self._default.tensor)

    def _run_on_set(self, task: Callable[[Tensor], Any], route_set: str, number: int) -> Any:
        served = self.sets.by_number[number] if number else self.sets.get(route_set)
        # A set that did not change is as of the same place as all others.
        served.tensor.revision = self.published.position.revision
        return task(served.tensor)

    def _make_visible(self, item: _Publish) -> None:
        for index, commit in enumerate(item.commits):
            at = Revision(commit.entry.epoch, commit.entry.seq)
            change = commit.change
            if change.set_number or change.others or change.alias or change.alias_before:
                self._apply_to_sets(item, index, at)
            else:
                self._default.apply(
                    change,
                    at,
                    is_filled=item.is_filled,
                    terms=item.terms,
                    written=item.static_rows[index] if item.static_rows else None,
                    built=item.built,
                    words=item.words,
                )
                self.sets.revision = at
            failpoint("tensor.begun")
        # Published before writers are resolved: a writer must read its own write at once.
        last = item.commits[-1]
        position = last.entry.position
        self.published = self._describe(position, last.digest)
        # Writers last: their thread takes over as soon as it has its answer.
        self._announce(position)
        self.resolve_writers(item.commits)

    def _apply_to_sets(self, item: _Publish, index: int, at: Revision) -> None:
        """Make a commit visible that alters more than ``default``, in one step for all sets."""
        change = item.commits[index].change
        rows = item.static_rows[index] if item.static_rows else None
        with self.sets.lock:
            if not change.set_number:
                self._default.apply(
                    change, at, is_filled=item.is_filled, terms=item.terms,
                    written=rows, built=item.built, words=item.words,
                )  # fmt: skip
            else:
                self._default.advance(at)
            self.sets.apply(
                change, at, is_filled=item.is_filled, terms=item.terms, copied=item.copied,
                written=rows, built=item.built, words=item.words,
            )  # fmt: skip
            self.sets.revision = at

    def resolve_writers(self, commits: Sequence[Commit]) -> None:
        """Answer the writers of commits that are visible now.  Runs on the scorer's thread."""
        visible_us = time.time_ns() // 1_000
        self.delays.extend([(c.entry.seq, visible_us - c.entry.time_us) for c in commits])
        self._resolve_writers(commits)

    def adopt(
        self,
        tensor: Tensor,
        position: Position,
        digest: str,
        encoder: TextEncoder,
        preparation: TextPreparation,
        routes: Any = None,
    ) -> None:
        """Serve another tensor of the default set from now on, perhaps of another encoder.

        Runs on the scorer's thread, in the step in which the other sets are replaced, under
        their lock.

        Args:
            routes: What the first stage serves beside it.
        """
        self.encoder = encoder
        self.sets.revision = position.revision
        self._default.use(tensor, encoder, preparation)
        if self._first_stage is not None:
            self._first_stage.install(routes, encoder, tensor, preparation)
        self.published = self._describe(position, digest)
        self._announce(position)

    def _announce(self, position: Position) -> None:
        self.version_waiters.reach(position.seq)
        self._on_visible(position)

    def _describe(self, position: Position, digest: str) -> Published:
        tensor, version = self.tensor, f"{position.epoch}.{position.seq}"
        return Published(
            position, digest, len(tensor.routes), tensor.slots_used, tensor.settings, version
        )

    # --- scoring -----------------------------------------------------------------

    def _answer(self, batch: Batch) -> None:
        """Score a batch and pass the answers to their event loops.  Holds the tensor lock."""
        if batch.encoder is not self.encoder:
            self._queries.give_back(batch.queries)  # encoded before the encoder changed
            return
        default = self._default
        version, has_names, is_outdated = default.preparation.version, False, False
        for query in batch.queries:
            if query.route_set:
                has_names = True
            elif query.prepared is not None and query.prepared.version is not version:
                is_outdated = True
        served = self._sets_of(batch) if has_names else None
        if (is_outdated or has_names) and self._give_back_outdated(batch, served):
            return
        # Completed first: a caller that joined later would miss the answer.
        callers = self._queries.complete(batch.queries)
        if served is not None or batch.error is not None:
            answers = self._score(batch, callers, served)
        else:  # a call less where most queries pass
            answers = self._score_on(default, batch.queries, batch.embeddings, callers)
            if default.unmatched.is_on or default.tensor.settings.feedback:
                _keep(default, answers)
        by_loop: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
        for answer in answers:
            loop = answer[0].loop
            if loop is not None:
                by_loop.setdefault(loop, []).append(answer)
        for loop, group in by_loop.items():
            try:
                loop.call_soon_threadsafe(_resolve, group)
            except RuntimeError:
                continue  # the loop was closed while its query was in flight
        if served is not None and batch.error is None and self._thread is not None:
            parts = zip(batch.queries, batch.embeddings, callers, served, strict=True)
            if self.sets.defer_shadows(parts, answers):
                self._inbox.put(_Wake())

    def _sets_of(self, batch: Batch) -> list[ServedSet | None]:
        """Find the set of each query at the position of the tensors; None for an unknown name."""
        find = self.sets.find
        return [find(query.route_set, query.session) for query in batch.queries]

    def _give_back_outdated(self, batch: Batch, served: Sequence[ServedSet | None] | None) -> bool:
        """Have a batch encoded again if one of its texts is read otherwise now.

        A change since may have altered how the set reads it, or the alias may name another set.
        """
        is_outdated = False
        for query, own in zip(batch.queries, served or repeat(self._default), strict=False):
            before = query.prepared
            if before is None or own is None or before.version is own.preparation.version:
                continue
            query.prepared = after = own.preparation.prepare(query.text)
            if (after.text, after.turns) != (before.text, before.turns):
                query.tokens_of, is_outdated = None, True
        if is_outdated:
            self._queries.give_back(batch.queries)
        return is_outdated

    def answer_alone(
        self, query: Query, vector: NDArray[np.float32], encoder: TextEncoder
    ) -> Match | None:
        """Answer a query that was never queued, on any thread.

        None if the tensor is in use, or if a change waits or came since the text was read.
        """
        if not self.is_idle or not self._tensor_lock.acquire(blocking=False):
            return None
        try:
            served = self.sets.named(query.route_set)
            read_by = None if query.prepared is None else query.prepared.version
            if served is None or (encoder, read_by) != (self.encoder, served.preparation.version):
                return None
            found = self.score_one(served, query, vector)
            _keep(served, ((query, found),))
            return found if isinstance(found, Match) else None
        finally:
            self._tensor_lock.release()

    def score_one(
        self, served: ServedSet, query: Query, vector: NDArray[np.float32]
    ) -> Match | OptionScores | Exception:
        """Score a query with its tokens on one set.  The caller owns the tensor."""
        if served.first_stage is None:
            query.first_stage, query.first_stage_at = None, None
        at = self.published.version, self.node
        asked = Asked((query,), vector[np.newaxis], (query.tokens,), *at)
        return served.score_one(asked, self._scratch)

    def score_now(self, batch: Batch) -> list[Answer]:
        """Answer a batch that was never queued, on the caller's thread."""
        callers = [query.waiters for query in batch.queries]
        return self._score(batch, callers, self._sets_of(batch), is_kept=False)

    def _score(
        self,
        batch: Batch,
        callers: Sequence[Sequence[object]],
        served: Sequence[ServedSet | None] | None,
        *,
        is_kept: bool = True,
    ) -> list[Answer]:
        """Score every query against the one position of its set.

        Args:
            callers: Of each query of the batch.
            served: The set of each; None only if the encoder failed.
            is_kept: Whether operators and reviewers may ask for the answers later.
        """
        if batch.error is not None:
            queries = [query for group in callers for query in group if isinstance(query, Query)]
            return [(query, _encoder_failed(batch.error)) for query in queries]
        places: dict[ServedSet | None, list[int]] = {}
        for place, own in enumerate(served or ()):
            places.setdefault(own, []).append(place)
        answers: list[Answer] = []
        for own, chosen in places.items():
            groups = [callers[place] for place in chosen]
            if own is None:
                answers += [
                    (query, set_not_found(query.route_set))
                    for group in groups
                    for query in group
                    if isinstance(query, Query)
                ]
                continue
            if own.first_stage is None:
                forget_first_stage(groups)  # of another set that an alias named before
            flights = [batch.queries[place] for place in chosen]
            found = self._score_on(own, flights, batch.embeddings[chosen], groups)
            if is_kept:
                _keep(own, found)
            answers += found
        return answers

    def _score_on(
        self,
        served: ServedSet,
        flights: Sequence[InFlightQuery],
        embeddings: NDArray[np.float32],
        callers: Sequence[Sequence[object]],
    ) -> list[Answer]:
        """Score queries of one set."""
        queries = [query for group in callers for query in group if isinstance(query, Query)]
        try:
            tokens = [each.tokens for each in flights]
            if len(queries) > len(callers):  # callers of one text share its row
                counts = [len(group) for group in callers]
                embeddings = embeddings[np.repeat(np.arange(len(callers)), counts)]
                tokens = [own for own, n in zip(tokens, counts, strict=True) for _ in range(n)]
            for flight, group in zip(flights, callers, strict=True):
                for query in group:
                    if not isinstance(query, Query):
                        continue
                    query.was_cached, query.times = flight.was_cached, flight.times
                    if query.prepared is not flight.prepared:
                        query.prepared = flight.prepared
                        query.tokens, query.tokens_of = flight.tokens, flight.tokens_of
            asked = Asked(queries, embeddings, tokens, self.published.version, self.node)
            return served.score(asked, self._scratch)
        except Exception as error:  # the callers get it; the scorer must live on
            return [(query, error) for query in queries]


def _keep(served: ServedSet, answers: Sequence[Answer]) -> None:
    """Keep what operators and reviewers ask for later."""
    if served.unmatched.is_on:
        served.unmatched.add(answers)
    if served.tensor.settings.feedback:
        served.decisions.add(answers)


def _prepare_step(tensor: Tensor) -> bool:
    """Do one step of deferred work; says whether there is none left."""
    if tensor.is_behind:
        tensor.prepare()
    return not tensor.is_behind


def _resolve(answers: Sequence[Answer]) -> None:
    """Resolve futures.  Runs on the event loop."""
    for query, answer in answers:
        future = query.future
        if future is None or future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def _encoder_failed(error: Exception) -> Exception:
    """Make one error per caller, so that no two share a traceback."""
    failed = EncoderError(f"the encoder failed on this batch: {error}")
    failed.__cause__ = error
    return failed
