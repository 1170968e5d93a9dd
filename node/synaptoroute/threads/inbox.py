"""What one thread is handed by the others.

Once closed nothing comes in any more, so that nobody waits for an answer that a
thread which has ended cannot give.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, Final, Generic, TypeVar

from synaptoroute.errors import NotReady

ItemT = TypeVar("ItemT")
_STOPPED: Final = "the router has stopped"


class Inbox(Generic[ItemT]):
    """A queue with an end; any thread puts, one thread gets."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[ItemT | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False

    def __len__(self) -> int:
        return self._queue.qsize()

    def put(self, item: ItemT) -> None:
        """Hand over one item.

        Raises:
            NotReady: The inbox is closed.
        """
        self.put_all((item,))

    def put_all(self, items: Iterable[ItemT]) -> None:
        """Hand over items in order, all or none; see ``put``."""
        with self._lock:
            if self._is_closed:
                raise NotReady(_STOPPED)
            for item in items:
                self._queue.put(item)

    def get(self, seconds_max: float | None = None) -> ItemT | None:
        """Wait for the next item; None at the end.

        Raises:
            queue.Empty: None came for ``seconds_max``.
        """
        return self._queue.get(timeout=seconds_max)

    def get_nowait(self) -> ItemT | None:
        """Take the next item without waiting; None at the end.

        Raises:
            queue.Empty: There is none now.
        """
        return self._queue.get_nowait()

    def close(self) -> None:
        """Let nothing in any more; what is in it can still be taken."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)

    def close_and_drop(self) -> list[ItemT]:
        """Close it and take out what nobody will take any more."""
        self.close()
        left: list[ItemT] = []
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return left
            if item is not None:
                left.append(item)


def refuse(future: Future[Any]) -> None:
    """Tell whoever waits for a call that it will not be made."""
    if future.set_running_or_notify_cancel():
        future.set_exception(NotReady(_STOPPED))
