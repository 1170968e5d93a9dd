"""Events for whoever watches: the newest are kept, and each watcher has a queue.

A watcher that does not read loses its queue, not the coordinator its memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from synaptoroute_coordinator.fleet import Event

KEPT_MAX: Final = 500
QUEUE_MAX: Final = 256
WATCHERS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Happened:
    """An event with its number and its time.

    Attributes:
        number: Grows by one; starts anew with the process.
        at_ms: Wall clock, milliseconds since 1970.
        event: What happened.
    """

    number: int
    at_ms: int
    event: Event


class Feed:
    """Events of one coordinator.  Used on one event loop.

    Attributes:
        view_number: Grows with every view; watchers fetch the view itself.
    """

    def __init__(self) -> None:
        self.view_number = 0
        self._kept: deque[Happened] = deque(maxlen=KEPT_MAX)
        self._number = 0
        self._watchers: set[asyncio.Queue[Happened | None]] = set()

    @property
    def newest(self) -> list[Happened]:
        """What is kept, oldest first."""
        return list(self._kept)

    @property
    def is_full(self) -> bool:
        """Whether as many watch as may."""
        return len(self._watchers) >= WATCHERS_MAX

    def after(self, number: int) -> list[Happened]:
        """What is kept and newer than a number."""
        return [each for each in self._kept if each.number > number]

    def add(self, event: Event) -> None:
        """Keep an event and tell the watchers."""
        self._number += 1
        happened = Happened(self._number, int(time.time() * 1_000), event)
        self._kept.append(happened)
        self._tell(happened)

    def renew(self) -> None:
        """Tell the watchers that there is a new view."""
        self.view_number += 1
        self._tell(None)

    def _tell(self, what: Happened | None) -> None:
        for queue in list(self._watchers):
            try:
                queue.put_nowait(what)
            except asyncio.QueueFull:
                self._watchers.discard(queue)

    @contextmanager
    def watch(self) -> Iterator[asyncio.Queue[Happened | None]]:
        """Receive events from now on; None stands for a new view."""
        queue: asyncio.Queue[Happened | None] = asyncio.Queue(QUEUE_MAX)
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)

    def is_watching(self, queue: asyncio.Queue[Happened | None]) -> bool:
        """Whether a watcher still has its queue."""
        return queue in self._watchers
