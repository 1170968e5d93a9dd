"""The applier: the one thread that owns the replica and the database's writer.

It takes what has arrived, gives each entry to the replica, commits all changes of
a group in one transaction, and only then passes them on to be made visible.  When
the commit fails, the replica is reverted and nothing was visible: a full disk
costs writes, never answers, and never agreement between memory and disk.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from synaptoroute.core.change import Commit
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.imports import encoder_of
from synaptoroute.core.mutation import (
    AddUtterances,
    ImportChunk,
    Mutation,
    OpenEpoch,
    Proposal,
    PutRoute,
    SwitchEncoder,
)
from synaptoroute.core.replica import Replica
from synaptoroute.core.validation import VECTOR_ITEM_BYTES
from synaptoroute.errors import EncoderMismatch, Overloaded, StorageUnavailable
from synaptoroute.failpoints import failpoint
from synaptoroute.ports import IncomingEntry, ReceivedEntry
from synaptoroute.storage import SQLiteStorage
from synaptoroute.threads.inbox import Inbox, refuse
from synaptoroute.threads.priority import give_way

GROUP_ENTRIES_MAX: Final = 128
INBOX_ENTRIES_MAX: Final = 16_384


@dataclass(frozen=True, slots=True)
class Nothing:
    """The inbox is empty."""


Task: TypeAlias = Callable[[], Any]
_Item: TypeAlias = "Proposal | IncomingEntry | tuple[Task, Future[Any]] | Nothing"


class Applier:
    """Owner of the replica and of the storage's writing side."""

    def __init__(
        self,
        replica: Replica,
        storage: SQLiteStorage,
        publish: Callable[[Sequence[Commit]], None],
        refuse: Callable[[bytes, Exception], None],
        founding: OpenEpoch,
        *,
        knows: Callable[[str], bool],
        switch: Callable[[Commit], None],
        on_received: Callable[[Sequence[ReceivedEntry]], None],
        on_failed: Callable[[Exception], None],
        nice: int = 0,
    ) -> None:
        self.replica = replica
        self.storage = storage
        self.storage_state = "ok"
        self.commit_count = 0
        self.is_applying = False
        self._publish = publish
        self._refuse = refuse
        self._founding = founding
        self._knows = knows
        self._switch = switch
        self._on_received = on_received
        self._on_failed = on_failed
        self._nice = nice
        self._inbox: Inbox[_Item] = Inbox()
        self._thread: threading.Thread | None = None

    # --- from any thread -------------------------------------------------------

    @property
    def backlog_entries(self) -> int:
        """Entries that wait to be applied."""
        return len(self._inbox)

    def propose(self, proposals: Sequence[Proposal]) -> None:
        """Hand over proposals that this node numbers itself.

        Raises:
            Overloaded: ``INBOX_ENTRIES_MAX`` entries wait.
            NotReady: The applier has stopped.
        """
        self._check_room(len(proposals))
        self._inbox.put_all(proposals)

    def deliver(self, entries: Sequence[IncomingEntry]) -> None:
        """Hand over entries of a log, in the order in which they were read.

        Raises:
            NotReady: The applier has stopped.
        """
        self._inbox.put_all(entries)

    def call(self, task: Task) -> Future[Any]:
        """Run a function on the applier's thread, between two groups.

        Raises:
            NotReady: The applier has stopped.
        """
        future: Future[Any] = Future()
        self._inbox.put((task, future))
        return future

    def _check_room(self, count: int) -> None:
        waiting = len(self._inbox)
        if waiting + count > INBOX_ENTRIES_MAX:
            raise Overloaded(f"{waiting} writes wait to be applied", retry_after_seconds=1.0)

    # --- the thread --------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; until then the caller's thread does its work."""
        self._thread = threading.Thread(target=self._run, name="synaptoroute-applier", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Apply what has been handed over, then end the thread."""
        self._inbox.close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def is_alive(self) -> bool:
        """Whether the thread turns."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        give_way(self._nice)
        try:
            self._serve()
        finally:
            for item in self._inbox.close_and_drop():
                if isinstance(item, tuple):
                    refuse(item[1])

    def _serve(self) -> None:
        item = self._inbox.get()
        while item is not None:
            if isinstance(item, tuple):
                _fulfil(*item)
                item = Nothing()
            elif not isinstance(item, Nothing):
                group: list[Proposal | IncomingEntry] = [item]
                item = self._collect(group)
                self.is_applying = True
                try:
                    self.apply(group)
                finally:
                    self.is_applying = False
            if isinstance(item, Nothing):
                item = self._inbox.get()

    def _collect(self, group: list[Proposal | IncomingEntry]) -> _Item | None:
        """Add what waits to the group; return the first item that is not an entry."""
        while len(group) < GROUP_ENTRIES_MAX:
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                return Nothing()
            if item is None or isinstance(item, tuple | Nothing):
                return item
            group.append(item)
        return Nothing()

    def apply(self, group: Sequence[Proposal | IncomingEntry]) -> None:
        """Receive, commit and publish a group; if it fails, what is sound of it.

        A storage that fails fails all of them; any other error is one entry's own, so
        each is tried alone.  Runs on the applier's thread.
        """
        error = self._try(group)
        if error is None:
            return
        if isinstance(error, StorageUnavailable) or len(group) == 1:
            self._give_up(group, error)
            return
        for each in group:
            own_error = self._try([each])
            if own_error is not None:
                self._give_up([each], own_error)

    def _try(self, group: Sequence[Proposal | IncomingEntry]) -> Exception | None:
        """Make a group durable and visible, or say why nothing of it is."""
        commits: list[Commit] = []
        received: list[ReceivedEntry] = []
        try:
            for each in group:
                if isinstance(each, Proposal):
                    self._number(each, commits)
                else:
                    self._check_known(each.entry.proposal.mutation)
                    step = self.replica.receive(each.entry, each.source, each.log_epoch)
                    commits.extend(step.commits)
                    received.append(ReceivedEntry(each, step))
                if commits and commits[-1].change.encoder is not None:
                    self._finish(commits)
                    commits = []
            self._finish(commits)
        except Exception as error:
            self.replica.revert(tuple(commits))
            return error
        if received:
            self._on_received(received)
        return None

    def _finish(self, commits: list[Commit]) -> None:
        """Make commits durable, then visible; a change of the encoder is the last of them."""
        if not commits:
            return
        failpoint("apply.received")
        self.storage.commit(commits)
        failpoint("commit.done")
        self.storage_state = "ok"
        self.replica.advance()
        self.commit_count += len(commits)
        if commits[-1].change.encoder is None:
            self._publish(commits)
        else:
            self._publish(commits[:-1])
            self._switch(commits[-1])

    def _check_known(self, mutation: Mutation) -> None:
        """Stand still before a change to an encoder that this node does not have.

        Raises:
            EncoderMismatch: It is not here.
        """
        encoder = encoder_of(mutation.import_id) if isinstance(mutation, SwitchEncoder) else None
        if encoder is not None and not self._knows(encoder[0]):
            raise EncoderMismatch(
                f"the cluster changes to the encoder {encoder[0][:12]}, which this node does "
                "not have: set next_model to it and restart the node",
                expected=encoder[0],
            )

    def _number(self, proposal: Proposal, commits: list[Commit]) -> None:
        """Give a proposal the next place; the very first founds the log."""
        if self.replica.position.epoch == 0 and not isinstance(proposal.mutation, OpenEpoch):
            self._number(Proposal(os.urandom(16), self._founding), commits)
        now_us = time.time_ns() // 1_000
        step = self.replica.append(encode_proposal(proposal), proposal, now_us)
        commits.extend(step.commits)

    def _give_up(self, group: Sequence[Proposal | IncomingEntry], error: Exception) -> None:
        """Tell the writers of proposals that nothing was done.

        An entry of a shared log keeps its place there, so its writer goes on waiting:
        it will be applied later.
        """
        if isinstance(error, StorageUnavailable):
            self.storage_state = str(error.fields.get("reason", "failing"))
        for each in group:
            if isinstance(each, Proposal):
                self._refuse(each.op_id, error)
        self._on_failed(error)


def _fulfil(task: Task, future: Future[Any]) -> None:
    """Run a task and keep its result or its error; skip it if nobody waits any more."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = task()
    except BaseException as error:  # whoever asked gets it
        future.set_exception(error)
    else:
        future.set_result(result)


def check_vectors(mutation: Mutation) -> str | None:
    """Keep vectors that are not numbers out of every replica.

    Finiteness is exact, so every node judges alike.  The norm is judged at the
    door only: a sum of squares may differ in its last bit between machines.  The
    dimension is the table's to judge.
    """
    if isinstance(mutation, PutRoute | AddUtterances):
        return _wrong(mutation.vectors)
    if isinstance(mutation, ImportChunk):
        return _wrong(tuple(v for part in mutation.parts for v in part.vectors))
    return None


def _wrong(vectors: tuple[bytes, ...]) -> str | None:
    if any(len(vector) % VECTOR_ITEM_BYTES for vector in vectors):
        return "a vector is not a row of float32"
    if not np.isfinite(np.frombuffer(b"".join(vectors), dtype="<f4")).all():
        return "a vector holds a value that is not finite"
    return None
