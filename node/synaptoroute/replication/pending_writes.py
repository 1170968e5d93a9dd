"""Writers that wait until their own entry is applied.

A write is complete when its entry is applied on this node, not when it is sent.  So a
writer waits for its op_id.  Writers register on the event loop; the scorer resolves them
and the applier fails them, each on its own thread.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from synaptoroute.core.change import Commit, Outcome
from synaptoroute.errors import SynaptoRouteError


class PendingWrites:
    """Futures by op_id; several writers may wait for the same op_id."""

    def __init__(self) -> None:
        self._futures: dict[bytes, list[Future[Outcome]]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._futures)

    def expect(self, op_id: bytes) -> Future[Outcome]:
        """Register a writer.  Call this before the write is sent, or its entry may be missed."""
        future: Future[Outcome] = Future()
        # A running future cannot be cancelled, so only this class ever ends it: without this
        # line a caller's cancellation could race with ``set_result``.
        future.set_running_or_notify_cancel()
        with self._lock:
            self._futures.setdefault(op_id, []).append(future)
        return future

    def forget(self, op_id: bytes, future: Future[Outcome]) -> None:
        with self._lock:
            futures = self._futures.get(op_id, [])
            if future in futures:
                futures.remove(future)
            if not futures:
                self._futures.pop(op_id, None)

    def resolve(self, commits: Sequence[Commit]) -> None:
        """Answer the writers of commits that are durable and visible."""
        # Most entries of a cluster are written on other nodes.  Reading a dictionary is atomic,
        # and a writer registers before it sends, so the lock is only needed for a hit.
        waiting = [each for each in commits if each.entry.proposal.op_id in self._futures]
        if not waiting:
            return
        with self._lock:
            found = [(self._futures.pop(e.entry.proposal.op_id, ()), e.change) for e in waiting]
        for futures, change in found:
            for future in futures:
                future.set_result(change.outcome)

    def fail(self, op_id: bytes, error: Exception) -> None:
        """Fail the writers of a write that was not taken, each with its own copy of the error."""
        with self._lock:
            futures = self._futures.pop(op_id, [])
        for future in futures:
            # One exception raised in two tasks would collect both tracebacks.
            own = copy.copy(error) if isinstance(error, SynaptoRouteError) else error
            if own is not error:
                own.__cause__ = error
            future.set_exception(own)

    def fail_all(self, error: Exception) -> None:
        """Fail every writer, because the engine stops."""
        for op_id in list(self._futures):
            self.fail(op_id, error)
