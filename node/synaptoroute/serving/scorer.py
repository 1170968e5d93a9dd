"""The scorer: the thread that owns the tensor.

It publishes changes and scores batches, one after the other, so a batch sees exactly one
position.  While it waits for work, an encoder worker may take the tensor lock and answer a
query that is alone in the queue (ADR 0026).  The rows of a large change are written in
slices, between batches, into slots that queries cannot see yet; then the change becomes visible
in one short step.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Commit
from synaptoroute.core.mutation import Position, Revision
from synaptoroute.core.same_text import same_text_form
from synaptoroute.encoder import TextEncoder, Tokens
from synaptoroute.encoder.integer_product import integer_product
from synaptoroute.errors import EncoderError, InvalidQuery
from synaptoroute.failpoints import failpoint
from synaptoroute.models import Match
from synaptoroute.ports import Published
from synaptoroute.questions import OptionScores
from synaptoroute.scoring import DecisionRule, QuerySpec, Ranking, Scratch, rank, rule_of
from synaptoroute.serving.encoder_workers import Batch
from synaptoroute.serving.option_scoring import score_options
from synaptoroute.serving.preparation import TextPreparation
from synaptoroute.serving.prior import rank_with_prior
from synaptoroute.serving.query import (
    DecisionCounts,
    FirstStage,
    Query,
    RecentDecisions,
    UnmatchedQueries,
    match_of,
)
from synaptoroute.serving.queue import QueryQueue
from synaptoroute.tensor import Tensor, TensorView
from synaptoroute.tensor.score_terms import ScoreTerms
from synaptoroute.tensor.text_index import text_keys
from synaptoroute.threads import Inbox, refuse, run_into

FILL_ROWS_MAX: Final = 512
FILL_SECONDS_MAX: Final = 30.0
IDLE_SECONDS: Final = 0.002
"""After so long without work the scorer does deferred work of the tensor."""
DELAYS_KEPT: Final = 2_048
_ROUTES_AT_ONCE: Final = 1_024
"""Routes whose sums are copied between two batches, in about a millisecond."""
Answer: TypeAlias = "tuple[Query, Match | OptionScores | Exception]"


class VersionWaiters:
    """Readers that wait until a version is visible here.

    A client that wrote through one node and reads through another sends the version of its
    write.  Futures are registered from any thread and resolved by the scorer; a lock guards
    the heap.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Future[None]]] = []
        self._tickets = itertools.count()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._heap)

    def expect(self, seq: int) -> Future[None]:
        """Wait until the entry at ``seq`` is visible; check the position afterwards."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # so that only this class ends it
        with self._lock:
            heapq.heappush(self._heap, (seq, next(self._tickets), future))
        return future

    def forget(self, future: Future[None]) -> None:
        with self._lock:
            kept = [each for each in self._heap if each[2] is not future]
            if len(kept) != len(self._heap):
                heapq.heapify(kept)
                self._heap = kept

    def reach(self, seq: int) -> None:
        """Resolve the futures of everything up to ``seq``."""
        heap = self._heap  # read once: ``forget`` may replace it
        if not heap or heap[0][0] > seq:
            return
        due = []
        with self._lock:
            while self._heap and self._heap[0][0] <= seq:
                due.append(heapq.heappop(self._heap)[2])
        for future in due:
            future.set_result(None)


@dataclass(frozen=True, slots=True)
class _Fill:
    """A slice of a change's rows, to be written before anyone can see them."""

    slots: NDArray[np.int64]
    owners: NDArray[np.int64]
    vectors: NDArray[np.float32]
    at: Revision
    done: threading.Event
    keys: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Publish:
    """Commits to be made visible."""

    commits: tuple[Commit, ...]
    is_filled: bool
    static_rows: tuple[Mapping[int, Any], ...] = ()
    built: Any = None
    terms: ScoreTerms | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    task: Callable[[Tensor], Any]
    future: Future[Any]


_Item: TypeAlias = "Batch | _Fill | _Publish | _Call"


class Scorer:
    """Owns the tensor.

    Attributes:
        version_waiters: Readers that wait for a version.
        preparation: Prepares texts for encoder and tensor; replaced with them.
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
    ) -> None:
        tensor.use_encoder(encoder.fingerprint)
        self.tensor = tensor
        self.encoder = encoder
        self.preparation = preparation or TextPreparation(tensor, encoder)
        self.node = node
        self.version_waiters = VersionWaiters()
        self.delays: deque[tuple[int, int]] = deque(maxlen=DELAYS_KEPT)
        self.unmatched = unmatched or UnmatchedQueries()
        self.decision_counts = DecisionCounts()
        self.decisions = decisions or RecentDecisions()
        self._first_stage = first_stage
        self._resolve_writers = resolve_writers
        self._on_visible = on_visible
        self._is_applying = is_applying
        self._scratch = Scratch(integer_product())
        self._rule: DecisionRule | None = None
        self._rule_view: TensorView | None = None
        self._has_negatives = False
        self._queries = queries
        self._inbox: Inbox[_Item] = Inbox()
        self._tensor_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.published = self._describe(position, digest)

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
            if self._first_stage is not None and self._first_stage.needs_rebuild(commit.change):
                self._put(small)
                self._put([commit], built=self._rebuild_for(commit))
                small = []
            elif commit.change.decision is not None:
                self._put(small)
                self._put([commit], terms=self._derive_terms(commit.change.decision.payload))
                small = []
            elif len(commit.change.writes) <= FILL_ROWS_MAX:
                small.append(commit)
            else:
                self._put(small)
                small = []
                for part in _slices(commit, self.tensor.dim):
                    self._inbox.put(part)
                    if self.is_alive:
                        part.done.wait(FILL_SECONDS_MAX)
                self._put([commit], is_filled=True)
        self._put(small)

    def _put(
        self,
        commits: Sequence[Commit],
        *,
        is_filled: bool = False,
        built: Any = None,
        terms: ScoreTerms | None = None,
    ) -> None:
        """Queue commits, with what the first stage can prepare on this thread."""
        if not commits:
            return
        stage, encoder = self._first_stage, self.encoder
        prepared = tuple(stage.embed(each.change, encoder) for each in commits) if stage else ()
        self._inbox.put(_Publish(tuple(commits), is_filled, prepared, built, terms))

    def _derive_terms(self, payload: bytes) -> ScoreTerms | None:
        """Compute the score terms of all routes under new numbers, on the applier's thread.

        The applier is the only one that changes routes, so they stay as they are until the
        numbers become visible.
        """
        if not payload or not self.is_alive:
            return None
        found: tuple[ScoreTerms, NDArray[np.int64]] | None
        found = self.call(lambda tensor: tensor.derive_terms(payload)).result()
        if found is None:
            return None
        terms, route_ids = found
        for start in range(0, len(route_ids), _ROUTES_AT_ONCE):
            part = route_ids[start : start + _ROUTES_AT_ONCE]
            terms.write(part, *self.call(partial(Tensor.sums_of, route_ids=part)).result())
        terms.is_complete = True
        return terms

    def _rebuild_for(self, commit: Commit) -> Any:
        """Rebuild the first stage here, on the applier's thread, rather than between batches."""
        settings, stage = commit.change.settings, self._first_stage
        if not self.is_alive or stage is None or settings is None:
            return None
        records = self.call(lambda tensor: tuple(tensor.routes.values())).result()
        return stage.rebuild(self.encoder, settings, records, commit.entry.position.revision)

    def call(self, task: Callable[[Tensor], Any]) -> Future[Any]:
        """Run a function on the tensor, between two batches."""
        future: Future[Any] = Future()
        self._inbox.put(_Call(task, future))
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

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                with self._tensor_lock:
                    self._do(item)
        finally:
            for left in self._inbox.close_and_drop():
                if isinstance(left, _Call):
                    refuse(left.future)
                elif isinstance(left, _Fill):
                    left.done.set()  # the applier waits for it

    def _next(self) -> _Item | None:
        """Wait for the next item; do deferred work of the tensor while there is none."""
        while self.tensor.is_behind:
            try:
                return self._inbox.get(IDLE_SECONDS)
            except queue.Empty:
                # Not at once, and not while a write is applied: the threads that were just
                # answered, and the write on its way here, need the interpreter first.
                if not self._is_applying():
                    with self._tensor_lock:
                        self.tensor.prepare()
        return self._inbox.get()

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
            case _Fill(slots, owners, vectors, at, done, keys):
                self.tensor.fill(slots, vectors, at, owners, keys)
                done.set()
            case _Publish():
                self._make_visible(item)
            case _Call(task, future):
                run_into(future, task, self.tensor)

    def _make_visible(self, item: _Publish) -> None:
        for index, commit in enumerate(item.commits):
            at = Revision(commit.entry.epoch, commit.entry.seq)
            removed = self.preparation.begin(commit.change, self.tensor)
            self.tensor.apply(commit.change, at, filled=item.is_filled, terms=item.terms)
            if self._first_stage is not None:
                written = item.static_rows[index] if item.static_rows else {}
                self._first_stage.apply(commit.change, at, written, self.tensor, item.built)
            self.preparation.finish(commit.change, self.tensor, removed)
            failpoint("tensor.begun")
        # Published before writers are resolved: a writer must read its own write at once.
        last = item.commits[-1]
        position = last.entry.position
        self.published = self._describe(position, last.digest)
        # Writers last: their thread takes over as soon as it has its answer.
        self._announce(position)
        self.resolve_writers(item.commits)

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
        """Serve another tensor from now on, perhaps of another encoder.

        Runs on the scorer's thread.
        """
        tensor.use_encoder(encoder.fingerprint)
        self.tensor = tensor
        self.encoder = encoder
        self.preparation = preparation
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
        version = self.preparation.version
        for query in batch.queries:
            if query.prepared is not None and query.prepared.version is not version:
                if self._give_back_outdated(batch):
                    return
                break
        # Completed first: a caller that joined later would miss the answer.
        answers = self._score(batch, self._queries.complete(batch.queries))
        if self.unmatched.is_on:
            self.unmatched.add(answers)
        if self.tensor.settings.feedback:
            self.decisions.add(answers)
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

    def _give_back_outdated(self, batch: Batch) -> bool:
        """Have a batch encoded again if a change since altered how one of its texts is read."""
        is_outdated = False
        for query in batch.queries:
            before = query.prepared
            if before is not None:
                query.prepared = self.preparation.prepare(query.text)
                after = query.prepared
                if (after.text, after.turns) != (before.text, before.turns):
                    query.tokens_of, is_outdated = None, True
        if is_outdated:
            self._queries.give_back(batch.queries)
        return is_outdated

    def score_now(self, batch: Batch) -> list[Answer]:
        """Answer a batch that was never queued, on the caller's thread."""
        return self._score(batch, [query.waiters for query in batch.queries])

    def _score(self, batch: Batch, callers: Sequence[Sequence[object]]) -> list[Answer]:
        """Score every query against the tensor's one position."""
        queries = [query for group in callers for query in group if isinstance(query, Query)]
        if batch.error is not None:
            return [(query, _encoder_failed(batch.error)) for query in queries]
        try:
            embeddings = batch.embeddings
            tokens = [each.tokens for each in batch.queries]
            if len(queries) > len(callers):  # callers of one text share its row
                counts = [len(group) for group in callers]
                embeddings = embeddings[np.repeat(np.arange(len(callers)), counts)]
                tokens = [own for own, n in zip(tokens, counts, strict=True) for _ in range(n)]
            for flight, group in zip(batch.queries, callers, strict=True):
                for query in group:
                    if not isinstance(query, Query):
                        continue
                    query.was_cached = flight.was_cached
                    if query.prepared is not flight.prepared:
                        query.prepared = flight.prepared
                        query.tokens, query.tokens_of = flight.tokens, flight.tokens_of
            specs = [query.spec(self.tensor.routes) for query in queries]
            rule = self._current_rule()
            rankings = rank(self.tensor, embeddings, specs, self._scratch, rule)
            stage = self._first_stage
            sure = stage.answer_if_moved(queries, self.node) if stage else repeat(None)
            answers: list[Answer] = []
            matches: list[Match] = []
            tensor, version = self.tensor, self.published.version
            for query, spec, ranking, vector, own, known in zip(
                queries, specs, rankings, embeddings, tokens, sure, strict=False
            ):
                if query.options is not None:
                    answers.append((query, self._option_scores(query, ranking, vector, own, rule)))
                    continue
                weights: dict[int, float] = {}
                if query.prior:
                    weights, unknown = self._weights(query.prior)
                    if unknown is not None:
                        answers.append((query, unknown))
                        continue
                    if weights:
                        ranking = rank_with_prior(
                            tensor, vector, spec, weights, rule, self._scratch
                        )
                slot = None
                text = query.text if query.prepared is None else query.prepared.kept
                if slots := tensor.texts.find(text):
                    ranking, slot = self._exact(text, slots, spec, ranking, vector, rule)
                if self._has_negatives and ranking.best is not None:
                    ranking, slot = self._unless_barred(
                        text, (ranking, slot), spec, weights, vector, rule
                    )
                match = known or match_of(query, ranking, tensor, version, self.node, own, slot)
                answers.append((query, match))
                matches.append(match)
            self.decision_counts.count(matches)
            return answers
        except Exception as error:  # the callers get it; the scorer must live on
            return [(query, error) for query in queries]

    def _option_scores(
        self,
        query: Query,
        ranking: Ranking,
        vector: NDArray[np.float32],
        tokens: Tokens | None,
        rule: DecisionRule,
    ) -> OptionScores:
        """Score the options of a query's questions."""
        tensor = self.tensor
        text = query.text if query.prepared is None else query.prepared.kept
        barred: frozenset[str] = frozenset()
        if self._has_negatives:
            form = same_text_form(text)
            barred = frozenset(
                name
                for name in query.routes or ()
                if name in tensor.routes and form in _forms(tensor.routes[name].negatives)
            )
        return score_options(
            query, ranking, tensor, vector, tokens, rule,
            text=text, barred=barred, version=self.published.version, node=self.node,
        )  # fmt: skip

    def _weights(self, prior: Mapping[str, float]) -> tuple[dict[int, float], InvalidQuery | None]:
        """Weights of a prior by route id, or the error that it names a route that is not there."""
        weights = {}
        for name, weight in prior.items():
            record = self.tensor.routes.get(name)
            if record is None:
                return {}, InvalidQuery(f"prior: there is no route {name!r}", route=name)
            if weight:
                weights[record.route_id] = weight
        return weights, None

    def _current_rule(self) -> DecisionRule:
        """The decision rule at the tensor's position."""
        view = self.tensor.view()
        if view is not self._rule_view:
            self._rule = rule_of(self.tensor, self.encoder.fingerprint)
            self._rule_view = view
            self._has_negatives = view.negatives is not None
        assert self._rule is not None
        return self._rule

    def _unless_barred(
        self,
        text: str,
        answer: tuple[Ranking, int | None],
        spec: QuerySpec,
        weights: Mapping[int, float],
        embedding: NDArray[np.float32],
        rule: DecisionRule,
    ) -> tuple[Ranking, int | None]:
        """Leave out routes of which the text is a negative, whatever else speaks for them."""
        tensor, form = self.tensor, same_text_form(text)
        left: frozenset[int] | None = None
        ranking, slot = answer
        while ranking.best is not None:
            route_id = ranking.best.route_id
            if form not in _forms(tensor.record_of(route_id).negatives):
                break
            if left is None:
                every = frozenset(each.route_id for each in tensor.routes.values())
                left = every if spec.routes is None else every & spec.routes
            left -= {route_id}
            rest = QuerySpec(spec.limit, left)
            if weights:
                ranking = rank_with_prior(tensor, embedding, rest, weights, rule, self._scratch)
            else:
                (ranking,) = rank(tensor, embedding[np.newaxis], [rest], self._scratch, rule)
            slot = None
        if left is not None and not left:
            # Nothing is left to choose from: what is shown does not pass.
            shown = tuple(
                replace(each, confidence=0.0, confidence_min=each.confidence_min or 1.0)
                for each in answer[0].top
            )
            ranking = Ranking(None, shown, None, answer[0].route_count, 1.0)
        return ranking, slot

    def _exact(
        self,
        text: str,
        slots: Sequence[int],
        spec: QuerySpec,
        ranking: Ranking,
        embedding: NDArray[np.float32],
        rule: DecisionRule,
    ) -> tuple[Ranking, int | None]:
        """Put the route first that has a text, if one has; and the slot of the text."""
        tensor = self.tensor
        found = tensor.exact_match(text, slots, spec.routes)
        if found is None:
            return ranking, None
        route_id, slot = found
        best, top = ranking.best, ranking.top
        if best is not None and best.route_id == top[0].route_id == route_id:
            return ranking, slot
        others = frozenset(each.route_id for each in tensor.routes.values()) - {route_id}
        if spec.routes is not None:
            others &= spec.routes
        specs = [QuerySpec(1, frozenset({route_id})), QuerySpec(spec.limit, others)]
        both = np.stack([embedding, embedding])
        own, rest = rank(tensor, both, specs, self._scratch, rule)
        top = (own.top[0], *rest.top)
        return Ranking(
            top[0], top[: spec.limit], top[1] if rest.top else None, ranking.route_count
        ), slot


@lru_cache(maxsize=1_024)
def _forms(texts: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(same_text_form, texts))


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


def _slices(commit: Commit, dim: int) -> Iterator[_Fill]:
    """Cut the rows of a change into slices.  Runs on the applier's thread."""
    writes, at = commit.change.writes, commit.entry.position.revision
    for start in range(0, len(writes), FILL_ROWS_MAX):
        part = writes[start : start + FILL_ROWS_MAX]
        slots = np.fromiter((write.slot for write in part), np.int64, len(part))
        owners = np.fromiter((write.owner for write in part), np.int64, len(part))
        vectors = as_rows([write.vector for write in part], dim)
        keys = text_keys([write.utterance for write in part])
        yield _Fill(slots, owners, vectors, at, threading.Event(), keys)


def as_rows(vectors: Sequence[bytes], dim: int) -> NDArray[np.float32]:
    """Join the bytes of vectors to float32[n, dim]."""
    return np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), dim)
