"""The scorer: the one thread that owns the tensor.

It makes changes visible and scores batches, one after the other, so a batch sees
exactly one position.  While it waits for work, a lane may take its turn to answer the
one query that is on its way (ADR 0026).  A large change is filled in
slices into rows that nobody can see yet, between batches, and then becomes visible
in one short step.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Commit
from synaptoroute.core.mutation import Position, Revision
from synaptoroute.encoder import TextEncoder
from synaptoroute.encoder.integer_product import integer_product
from synaptoroute.errors import EncoderError
from synaptoroute.failpoints import failpoint
from synaptoroute.models import Match
from synaptoroute.ports import Published
from synaptoroute.scoring import Scratch, rank
from synaptoroute.serving.encoder_workers import Batch
from synaptoroute.serving.query import FirstStage, Query, match_of
from synaptoroute.serving.queue import Batcher
from synaptoroute.serving.unmatched import Unmatched
from synaptoroute.serving.version_waiters import VersionWaiters
from synaptoroute.tensor import Tensor
from synaptoroute.threads.inbox import Inbox, refuse

FILL_ROWS_MAX: Final = 512
FILL_SECONDS_MAX: Final = 30.0
IDLE_SECONDS: Final = 0.002
"""With nothing to do for so long, the scorer does what was left for later."""
DELAYS_KEPT: Final = 2_048
"""Pairs of seq and microseconds from the sequencer's clock to visible on this one's."""
Answer: TypeAlias = "tuple[Query, Match | Exception]"


@dataclass(frozen=True, slots=True)
class _Fill:
    """A slice of a change's rows, to be written before anyone can see them."""

    slots: NDArray[np.int64]
    route_ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    at: Revision
    done: threading.Event


@dataclass(frozen=True, slots=True)
class _Show:
    """Commits to be made visible; ``filled`` where their rows are written already."""

    commits: tuple[Commit, ...]
    filled: bool
    static_rows: tuple[Mapping[int, Any], ...] = ()
    built: Any = None


@dataclass(frozen=True, slots=True)
class _Call:
    task: Callable[[Tensor], Any]
    future: Future[Any]


_Item: TypeAlias = "Batch | _Fill | _Show | _Call"


class Scorer:
    """Owner of the tensor."""

    def __init__(
        self,
        tensor: Tensor,
        encoder: TextEncoder,
        batcher: Batcher,
        position: Position,
        digest: str,
        *,
        node: str = "",
        unmatched: Unmatched | None = None,
        first_stage: FirstStage | None = None,
        resolve_writers: Callable[[Sequence[Commit]], None] = lambda commits: None,
        on_visible: Callable[[Position], None] = lambda position: None,
        is_applying: Callable[[], bool] = lambda: False,
    ) -> None:
        self.tensor = tensor
        self.node = node
        self.versions = VersionWaiters()
        self.delays: deque[tuple[int, int]] = deque(maxlen=DELAYS_KEPT)
        self.encoder = encoder
        self.unmatched = unmatched or Unmatched()
        self._first_stage = first_stage
        self._resolve_writers = resolve_writers
        self._on_visible = on_visible
        self._is_applying = is_applying
        self._scratch = Scratch(integer_product())
        self._batcher = batcher
        self._inbox: Inbox[_Item] = Inbox()
        self._turn = threading.Lock()  # held by whoever reads or writes the tensor
        self._thread: threading.Thread | None = None
        self.published = self._publication(position, digest)

    # --- from any thread -------------------------------------------------------

    def deliver(self, batch: Batch) -> None:
        """Hand over an embedded batch, or answer it here in the scorer's stead."""
        is_lone = self._batcher.queue_requests == 1 and self.is_alive and not len(self._inbox)
        if not (is_lone and self._turn.acquire(blocking=False)):
            self._inbox.put(batch)
            return
        try:
            self._answer(batch)
        finally:
            self._turn.release()

    def show(self, commits: Sequence[Commit]) -> None:
        """Hand over durable commits, in order, to be made visible.

        Rows of a large one are handed over slice by slice, each when the one before is
        written, so that queries that come meanwhile wait for one slice at most.
        """
        small: list[Commit] = []
        for commit in commits:
            if self._first_stage is not None and self._first_stage.is_rebuilt_by(commit.change):
                self._put_shown(small, filled=False)
                self._put_shown([commit], filled=False, built=self._built_for(commit))
                small = []
                continue
            if len(commit.change.writes) <= FILL_ROWS_MAX:
                small.append(commit)
                continue
            self._put_shown(small, filled=False)
            small = []
            for part in _slices(commit, self.tensor.dim):
                self._inbox.put(part)
                if self.is_alive:
                    part.done.wait(FILL_SECONDS_MAX)
            self._put_shown([commit], filled=True)
        if small:
            self._put_shown(small, filled=False)

    def _put_shown(self, commits: Sequence[Commit], *, filled: bool, built: Any = None) -> None:
        """Hand over commits, with what the cascade can prepare on this thread."""
        static_rows: tuple[Mapping[int, Any], ...] = ()
        if self._first_stage is not None:
            static_rows = tuple(
                self._first_stage.embed(each.change, self.encoder) for each in commits
            )
        self._inbox.put(_Show(tuple(commits), filled, static_rows, built))

    def _built_for(self, commit: Commit) -> Any:
        """Embed or turn the route set for a change, here rather than between batches."""
        settings, first_stage = commit.change.settings, self._first_stage
        if not self.is_alive or first_stage is None or settings is None:
            return None
        records = self.call(lambda tensor: tuple(tensor.routes.values())).result()
        return first_stage.rebuilt(self.encoder, settings, records, commit.entry.position.revision)

    def call(self, task: Callable[[Tensor], Any]) -> Future[Any]:
        """Run a function on the tensor, between two batches.

        Raises:
            NotReady: The scorer has stopped.
        """
        future: Future[Any] = Future()
        self._inbox.put(_Call(task, future))
        return future

    # --- the thread --------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; until then the caller's thread does its work."""
        self._thread = threading.Thread(target=self._run, name="synaptoroute-scorer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Do what has been handed over, then end the thread."""
        self._inbox.close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def is_alive(self) -> bool:
        """Whether the thread turns."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                with self._turn:
                    self._do(item)
        finally:
            for left in self._inbox.close_and_drop():
                if isinstance(left, _Call):
                    refuse(left.future)
                elif isinstance(left, _Fill):
                    left.done.set()

    def _next(self) -> _Item | None:
        """Wait for the next item; what was left for later is done while there is none.

        Not at once: whoever was answered shall have the interpreter first, and so shall a
        write that is on its way here.
        """
        while self.tensor.is_behind:
            try:
                return self._inbox.get(IDLE_SECONDS)
            except queue.Empty:
                if not self._is_applying():
                    with self._turn:
                        self.tensor.prepare()
        return self._inbox.get()

    def drain(self) -> None:
        """Do what has been handed over, on the caller's thread, before ``start``."""
        while len(self._inbox):
            item = self._inbox.get()
            if item is not None:
                self._do(item)

    def _do(self, item: _Item) -> None:
        match item:
            case Batch():
                self._answer(item)
            case _Fill(slots, route_ids, vectors, at, done):
                self.tensor.fill(slots, vectors, at, route_ids)
                done.set()
            case _Show():
                self._make_visible(item)
            case _Call(task, future):
                _fulfil(self.tensor, task, future)

    def _make_visible(self, shown: _Show) -> None:
        commits = shown.commits
        if not commits:
            return
        for index, commit in enumerate(commits):
            at = commit.entry.position.revision
            self.tensor.apply(commit.change, at, filled=shown.filled)
            if self._first_stage is not None:
                written = shown.static_rows[index] if shown.static_rows else {}
                self._first_stage.follow(commit.change, at, written, self.tensor, shown.built)
            failpoint("tensor.begun")
        last = commits[-1]
        self.published = self._publication(last.entry.position, last.digest)
        self.tell(commits)
        self._announce(last.entry.position)

    def tell(self, commits: Sequence[Commit]) -> None:
        """Answer the writers of what is visible now.  Runs on the scorer's thread."""
        visible_us = time.time_ns() // 1_000
        self.delays.extend((c.entry.seq, visible_us - c.entry.time_us) for c in commits)
        self._resolve_writers(commits)

    def adopt(
        self,
        tensor: Tensor,
        position: Position,
        digest: str,
        encoder: TextEncoder,
        routes: Any = None,
    ) -> None:
        """Serve another tensor from now on, maybe of another encoder.

        Runs on the scorer's thread.
        """
        self.tensor = tensor
        self.encoder = encoder
        if self._first_stage is not None:
            self._first_stage.install(routes, encoder, tensor.settings)
        self.published = self._publication(position, digest)
        self._announce(position)

    def _announce(self, position: Position) -> None:
        """Tell those who wait for a version that it is visible."""
        self.versions.reach(position.seq)
        self._on_visible(position)

    def _publication(self, position: Position, digest: str) -> Published:
        tensor = self.tensor
        return Published(
            position,
            digest,
            len(tensor.routes),
            tensor.slots_used,
            tensor.settings,
        )

    def _answer(self, batch: Batch) -> None:
        """Score a batch and hand the answers to their event loops."""
        if batch.encoder is not self.encoder:
            self._batcher.give_back(batch.flights)  # it was encoded before the encoder changed
            return
        answers = self.score(batch)
        if self.unmatched.is_on:
            self.unmatched.note(
                (query.text, answer)
                for query, answer in answers
                if query.routes is None and isinstance(answer, Match)
            )
        by_loop: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
        for answer in answers:
            loop = answer[0].loop
            if loop is not None:
                by_loop.setdefault(loop, []).append(answer)
        for loop, group in by_loop.items():
            try:
                loop.call_soon_threadsafe(_settle, group)
            except RuntimeError:
                continue  # the loop was closed while its query was on its way

    def score(self, batch: Batch) -> list[Answer]:
        """Close a batch to newcomers and answer all its queries."""
        return self._score(batch, self._batcher.land(batch.flights))

    def score_now(self, batch: Batch) -> list[Answer]:
        """Answer a batch that never was in the queue, on the caller's thread."""
        return self._score(batch, [flight.waiters for flight in batch.flights])

    def _score(self, batch: Batch, waiters: Sequence[Sequence[object]]) -> list[Answer]:
        """Score every query against the tensor's one position."""
        queries = [query for group in waiters for query in group if isinstance(query, Query)]
        if batch.error is not None:
            return [(query, _encoder_failed(batch.error)) for query in queries]
        try:
            embeddings = batch.embeddings
            if len(queries) > len(waiters):  # of one text each has the same row
                rows = np.repeat(np.arange(len(waiters)), [len(group) for group in waiters])
                embeddings = embeddings[rows]
            specs = [query.spec(self.tensor.routes) for query in queries]
            rankings = rank(self.tensor, embeddings, specs, self._scratch)
            version = str(self.tensor.revision)
            sure = (
                self._first_stage.answer_again(queries, self.node)
                if self._first_stage
                else repeat(None)
            )
            return [
                (query, known or match_of(query, ranking, self.tensor, version, self.node))
                for query, ranking, known in zip(queries, rankings, sure, strict=False)
            ]
        except Exception as error:  # the callers get it; the scorer must live on
            return [(query, error) for query in queries]


def _settle(answers: Sequence[Answer]) -> None:
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
    """One error a caller, so that no two share a traceback."""
    failed = EncoderError(f"the encoder failed on this batch: {error}")
    failed.__cause__ = error
    return failed


def _slices(commit: Commit, dim: int) -> Iterator[_Fill]:
    """Cut a change's rows into fills; done by the applier, not by the scorer."""
    writes, at = commit.change.writes, commit.entry.position.revision
    for start in range(0, len(writes), FILL_ROWS_MAX):
        part = writes[start : start + FILL_ROWS_MAX]
        slots = np.fromiter((write.slot for write in part), np.int64, len(part))
        route_ids = np.fromiter((write.route_id for write in part), np.int64, len(part))
        vectors = as_rows([write.vector for write in part], dim)
        yield _Fill(slots, route_ids, vectors, at, threading.Event())


def as_rows(vectors: Sequence[bytes], dim: int) -> NDArray[np.float32]:
    """Join the bytes of vectors to float32[n, dim]."""
    return np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), dim)


def _fulfil(tensor: Tensor, task: Callable[[Tensor], Any], future: Future[Any]) -> None:
    """Run a task and keep its result or its error; skip it if nobody waits any more."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = task(tensor)
    except BaseException as error:  # whoever asked gets it
        future.set_exception(error)
    else:
        future.set_result(result)
