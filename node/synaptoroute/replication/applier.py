"""The applier: the one thread that owns the replica and the writing side of the database.

It takes a group of entries, applies each to the replica, commits all changes of the group in
one transaction, and only then hands them on to be made visible.  If the commit fails, the
replica is reverted and nothing was visible: a full disk costs writes, but never answers, and
memory and disk never disagree.

The order is fixed: commit, tensor, ``advance``, answer.  Group commit is the usual technique
of databases: one fsync pays for all entries that arrived during the previous one.

A promise to a ballot, as in Paxos, is durable before it is reported.  A node that promised a
ballot applies no entry of an older epoch any more.  If it reported the promise before it was on
disk and then crashed, it could come back, apply such an entry, and the majority that the recovery
counted would not exist.
"""

from __future__ import annotations

import copy
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Commit, Outcome
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.imports import encoder_of
from synaptoroute.core.mutation import (
    Ballot,
    Mutation,
    OpenEpoch,
    Position,
    Proposal,
    SwitchEncoder,
    vectors_of,
)
from synaptoroute.core.recovery import may_promise
from synaptoroute.core.replica import Replica
from synaptoroute.core.validation import VECTOR_ITEM_BYTES
from synaptoroute.errors import EncoderMismatch, Overloaded, StorageUnavailable, SynaptoRouteError
from synaptoroute.failpoints import failpoint
from synaptoroute.ports import AppliedState, IncomingEntry, ReceivedEntry
from synaptoroute.replication.content_roots import ContentRoots
from synaptoroute.storage import SQLiteStorage
from synaptoroute.threads import Inbox, lower_priority, refuse, run_into

GROUP_ENTRIES_MAX: Final = 128
INBOX_ENTRIES_MAX: Final = 16_384

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class _Task:
    run: Callable[[AppliedState], Any]
    future: Future[Any]


_Item: TypeAlias = "Proposal | IncomingEntry | _Task"
_EMPTY: Final = object()


class Applier:
    """Owner of the replica and of the storage's writing side."""

    def __init__(
        self,
        replica: Replica,
        storage: SQLiteStorage,
        *,
        founding: OpenEpoch,  # First entry of a log that this node sequences itself
        publish: Callable[[Sequence[Commit]], None],  # Makes durable commits visible
        switch_encoder: Callable[[Commit], None],  # Makes a durable change of the encoder visible
        # Fails the writers of a proposal that was not taken
        fail_write: Callable[[bytes, Exception], None],
        has_encoder: Callable[[str], bool],  # Whether an encoder is loaded, by fingerprint
        # Called with the steps of incoming entries
        on_received: Callable[[Sequence[ReceivedEntry]], None],
        on_failed: Callable[[Exception], None],  # Called if entries could not be applied
        nice: int = 0,
    ) -> None:
        self.replica = replica
        self.storage = storage
        # ``ok``, or why the last commit failed
        self.storage_state = "disk_full" if storage.is_read_only else "ok"
        self.commit_count = 0
        self.is_applying = False
        self.content_roots = ContentRoots()
        self._founding = founding
        self._publish = publish
        self._switch_encoder = switch_encoder
        self._fail_write = fail_write
        self._has_encoder = has_encoder
        self._nice = nice
        self._on_received = on_received
        self._on_failed = on_failed
        self._inbox: Inbox[_Item] = Inbox()
        self._thread: threading.Thread | None = None

    # --- any thread ---------------------------------------------------------------

    @property
    def backlog_entries(self) -> int:
        return len(self._inbox)

    def propose(self, proposals: Sequence[Proposal]) -> None:
        """Queue proposals that this node numbers itself.

        Raises:
            Overloaded: More than ``INBOX_ENTRIES_MAX`` entries would wait.
            NotReady: The applier has stopped.
        """
        waiting = len(self._inbox)
        if waiting + len(proposals) > INBOX_ENTRIES_MAX:
            raise Overloaded(f"{waiting} writes wait to be applied", retry_after_seconds=1.0)
        self._inbox.put_all(proposals)

    def deliver(self, entries: Sequence[IncomingEntry]) -> None:
        """Queue entries of a shared log, in the order in which they were read."""
        self._inbox.put_all(entries)

    def run(self, task: Callable[[AppliedState], ResultT]) -> Future[ResultT]:
        """Run a function on the applier's thread, between two groups."""
        future: Future[ResultT] = Future()
        self._inbox.put(_Task(task, future))
        return future

    @property
    def state(self) -> AppliedState:
        """State for tasks.  Only for the applier's thread, or before ``start``."""
        return AppliedState(self.replica, self.storage)

    # --- the thread ---------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; until then the caller's thread applies."""
        self._thread = threading.Thread(target=self._run, name="synaptoroute-applier", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Apply what is queued, then end the thread."""
        self._inbox.close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        lower_priority(self._nice)
        try:
            self._serve()
        finally:
            # If the thread dies of a bug, callers that wait for a task must not wait forever.
            for item in self._inbox.close_and_drop():
                if isinstance(item, _Task):
                    refuse(item.future)

    def _serve(self) -> None:
        item: _Item | object | None = _EMPTY
        while item is not None:
            item = self._inbox.get()
            group: list[Proposal | IncomingEntry] = []
            # Take what waits already.  A task ends the group, because it has to see its result;
            # so does the end of the inbox.
            while isinstance(item, Proposal | IncomingEntry):
                group.append(item)
                try:
                    item = self._inbox.get_nowait() if len(group) < GROUP_ENTRIES_MAX else _EMPTY
                except queue.Empty:
                    item = _EMPTY
            if group:
                # The scorer postpones background work while this flag is set.
                self.is_applying = True
                try:
                    self.apply(group)
                finally:
                    self.is_applying = False
            if isinstance(item, _Task):
                run_into(item.future, item.run, self.state)

    def apply(self, group: Sequence[Proposal | IncomingEntry]) -> None:
        """Apply, commit and publish a group.  Runs on the applier's thread.

        A storage that fails would fail every entry.  Any other error belongs to one entry, so
        each is tried alone then.
        """
        error = self._apply_all(group)
        if error is None:
            return
        if isinstance(error, StorageUnavailable) or len(group) == 1:
            self._reject(group, error)
            return
        for each in group:
            own_error = self._apply_all([each])
            if own_error is not None:
                self._reject([each], own_error)

    def _apply_all(self, group: Sequence[Proposal | IncomingEntry]) -> Exception | None:
        """Make a group durable and visible; on an error return it, with nothing applied."""
        commits: list[Commit] = []
        received: list[ReceivedEntry] = []
        try:
            for each in group:
                if isinstance(each, Proposal):
                    if self.replica.position.epoch == 0:
                        self._found_log(each, commits)
                    step = self.replica.append(encode_proposal(each), each, time.time_ns() // 1_000)
                else:
                    mutation = each.entry.proposal.mutation
                    if isinstance(mutation, SwitchEncoder):
                        self._check_encoder(mutation)
                    step = self.replica.receive(each.entry, each.source, each.log_epoch)
                    received.append(ReceivedEntry(each, step))
                commits.extend(step.commits)
                # A change of the encoder is committed alone: what follows it is of another
                # dimension, so it needs the new tensor.
                if commits and commits[-1].change.encoder is not None:
                    self._commit(commits)
                    commits = []
            if commits:
                self._commit(commits)
        except Exception as error:
            # Only what ``advance`` has not confirmed is reverted; a committed encoder change of
            # this group stays.
            self.replica.revert(tuple(commits))
            return error
        if received:
            self._on_received(received)
        if self.storage.owes_checkpoint:
            self.storage.settle()
        return None

    def _commit(self, commits: list[Commit]) -> None:
        failpoint("apply.received")
        self.storage.commit(commits)
        failpoint("commit.done")
        # From here on the entries are durable: nothing below may fail and revert them.
        self.storage_state = "ok"
        self.replica.advance()
        self.commit_count += len(commits)
        self.content_roots.extend(commits)
        if commits[-1].change.encoder is None:
            self._publish(commits)
        else:
            self._publish(commits[:-1])
            self._switch_encoder(commits[-1])

    def _found_log(self, proposal: Proposal, commits: list[Commit]) -> None:
        """Put the founding entry before the first proposal of a node that is its own log."""
        if not isinstance(proposal.mutation, OpenEpoch):
            founding = Proposal(os.urandom(16), self._founding)
            now_us = time.time_ns() // 1_000
            commits.extend(self.replica.append(encode_proposal(founding), founding, now_us).commits)

    def _check_encoder(self, mutation: SwitchEncoder) -> None:
        """Refuse a change to an encoder that this node has not loaded.

        The entry is not skipped: the node halts in front of it, since it could not encode a
        query for the rows that follow.
        """
        encoder = encoder_of(mutation.import_id)
        if encoder is not None and not self._has_encoder(encoder[0]):
            raise EncoderMismatch(
                f"the cluster changes to the encoder {encoder[0][:12]}, which this node does "
                "not have: set next_model to it and restart the node",
                expected=encoder[0],
            )

    def _reject(self, group: Sequence[Proposal | IncomingEntry], error: Exception) -> None:
        if isinstance(error, StorageUnavailable):
            self.storage_state = str(error.fields.get("reason", "failing"))
        for each in group:
            # An entry of a shared log keeps its place there and is applied later, so its
            # writer continues to wait.  A proposal has no place: its writer gets the error.
            if isinstance(each, Proposal):
                self._fail_write(each.op_id, error)
        self._on_failed(error)


def check_vectors(mutation: Mutation) -> str | None:
    """Return what is wrong with a mutation's vectors, or None.

    All nodes must come to the same result, or their states would differ.  Finiteness is exact.
    The norm is only checked where a write enters the node, because the last bit of a sum of
    squares differs between CPUs.  The table checks the dimension.
    """
    vectors = vectors_of(mutation)
    if not vectors:
        return None
    for vector in vectors:
        if len(vector) % VECTOR_ITEM_BYTES:
            return "a vector is not a row of float32"
    if not np.isfinite(np.frombuffer(b"".join(vectors), dtype="<f4")).all():
        return "a vector holds a value that is not finite"
    return None


def as_rows(vectors: Sequence[bytes], dim: int) -> NDArray[np.float32]:
    """Join vectors' bytes to float32[n, dim]."""
    return np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), dim)


# --- promises ---------------------------------------------------------------------


PROMISE_KEY: Final = "promise"


@dataclass(frozen=True, slots=True)
class VoterState:
    """A node's report to a ballot, read between two groups of entries."""

    position: Position  # durable
    promised: Ballot  # The newest promised ballot
    epoch_id: str  # The ballot that opened the current epoch; empty before the first
    voters: tuple[str, ...]


def stored_promise(storage: SQLiteStorage) -> Ballot:
    """Read the newest promise from disk; the lowest ballot if there is none."""
    text = storage.meta_get(PROMISE_KEY)
    return Ballot.parse(text) if text else Ballot()


def voter_state(replica: Replica) -> VoterState:
    """Read the state that a ballot asks for.  Runs on the applier's thread."""
    return VoterState(replica.position, replica.promised, replica.epoch_id, replica.voters)


def promise(replica: Replica, storage: SQLiteStorage, ballot: Ballot) -> VoterState | None:
    """Promise a ballot; None if this or a higher epoch is promised to another ballot.

    From then on the position cannot grow in epochs below the ballot.  Runs on the applier's
    thread.

    Raises:
        StorageUnavailable: The promise is not durable, so it does not bind.
    """
    if not may_promise(replica.promised, ballot):
        return None
    if replica.promised != ballot:
        failpoint("promise.begun")
        # Disk first: the replica must not enforce, and the node must not report, a promise
        # that a crash would undo.
        storage.meta_set(PROMISE_KEY, str(ballot))
        failpoint("promise.kept")
        replica.promise(ballot)
    return voter_state(replica)


# --- writers ----------------------------------------------------------------------


class PendingWrites:
    """Futures by op_id; several writers may wait for the same op_id.

    A write is complete when its entry is applied on this node, not when it is sent.  The first
    entry with an op_id decides for every writer that waits for it: it may be the entry of
    another writer, here or on another node.  So each writer gets the outcome for its own
    request hash.

    Writers register on the event loop; the scorer resolves them and the applier fails them,
    each on its own thread.
    """

    def __init__(self) -> None:
        self._futures: dict[bytes, list[tuple[Future[Outcome], bytes]]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._futures)

    def expect(self, op_id: bytes, request_hash: bytes = b"") -> Future[Outcome]:
        """Register a writer.  Call this before the write is sent, or its entry may be missed."""
        future: Future[Outcome] = Future()
        # A running future cannot be cancelled, so only this class ever ends it: without this
        # line a caller's cancellation could race with ``set_result``.
        future.set_running_or_notify_cancel()
        with self._lock:
            self._futures.setdefault(op_id, []).append((future, request_hash))
        return future

    def forget(self, op_id: bytes, future: Future[Outcome]) -> None:
        with self._lock:
            waiting = self._futures.get(op_id)
            if waiting is None:
                return
            waiting[:] = [each for each in waiting if each[0] is not future]
            if not waiting:
                del self._futures[op_id]

    def resolve(self, commits: Sequence[Commit]) -> None:
        """Answer the writers of commits that are durable and visible."""
        for commit in commits:
            op_id = commit.entry.proposal.op_id
            # Most entries of a cluster are written on other nodes.  Reading a dictionary is
            # atomic, and a writer registers before it sends, so only a hit needs the lock.
            if op_id not in self._futures:
                continue
            with self._lock:
                waiting = self._futures.pop(op_id, [])
            for future, request_hash in waiting:
                future.set_result(commit.outcome_for(request_hash))

    def fail(self, op_id: bytes, error: Exception) -> None:
        """Fail the writers of a write that was not taken, each with its own copy of the error."""
        with self._lock:
            waiting = self._futures.pop(op_id, [])
        for future, _ in waiting:
            # One exception raised in two tasks would collect both tracebacks.
            own = copy.copy(error) if isinstance(error, SynaptoRouteError) else error
            if own is not error:
                own.__cause__ = error
            future.set_exception(own)

    def fail_all(self, error: Exception) -> None:
        """Fail every writer, because the engine stops."""
        for op_id in list(self._futures):
            self.fail(op_id, error)
