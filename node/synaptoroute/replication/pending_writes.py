"""Writers that wait for their own entry to come round.

A write is not done when it is sent but when its entry has been applied here, so
its author waits for its op_id.  Threads: registered on the event loop, resolved by
the applier and the scorer; every step is one dictionary operation.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from synaptoroute.core.change import Commit, Outcome
from synaptoroute.errors import SynaptoRouteError


class Waiters:
    """Futures by op_id; several writers may wait for one."""

    def __init__(self) -> None:
        self._futures: dict[bytes, list[Future[Outcome]]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._futures)

    def expect(self, op_id: bytes) -> Future[Outcome]:
        """Wait for a write; register before it is sent."""
        future: Future[Outcome] = Future()
        future.set_running_or_notify_cancel()  # so that only this class ends it
        with self._lock:
            self._futures.setdefault(op_id, []).append(future)
        return future

    def forget(self, op_id: bytes, future: Future[Outcome]) -> None:
        """Stop waiting."""
        with self._lock:
            futures = self._futures.get(op_id, [])
            if future in futures:
                futures.remove(future)
            if not futures:
                self._futures.pop(op_id, None)

    def resolve(self, commits: Sequence[Commit]) -> None:
        """Answer the writers of commits that are durable and visible."""
        for commit in commits:
            for future in self._pop(commit.entry.proposal.op_id):
                future.set_result(commit.change.outcome)

    def fail(self, op_id: bytes, error: Exception) -> None:
        """Answer the writers of a write that was not taken, each with an error of its own."""
        for future in self._pop(op_id):
            own = copy.copy(error) if isinstance(error, SynaptoRouteError) else error
            if own is not error:
                own.__cause__ = error
            future.set_exception(own)

    def fail_all(self, error: Exception) -> None:
        """Answer everyone, because the engine stops."""
        with self._lock:
            op_ids = list(self._futures)
        for op_id in op_ids:
            self.fail(op_id, error)

    def _pop(self, op_id: bytes) -> list[Future[Outcome]]:
        if op_id not in self._futures:
            return []
        with self._lock:
            return self._futures.pop(op_id, [])
