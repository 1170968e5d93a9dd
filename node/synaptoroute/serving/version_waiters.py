"""Readers that wait until a version is visible."""

from __future__ import annotations

import heapq
import itertools
import threading
from concurrent.futures import Future


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
