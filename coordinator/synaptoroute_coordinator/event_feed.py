"""Events for those who watch the fleet: the newest are kept, and each subscriber has a queue."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from synaptoroute_coordinator.alarms import Event

EVENTS_KEPT_MAX: Final = 500
QUEUE_MAX: Final = 256
SUBSCRIBERS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """An event with its number and its time."""

    number: int
    at_ms: int
    event: Event


class EventFeed:
    """Events of one coordinator.  Used on one event loop."""

    def __init__(self) -> None:
        self.view_number = 0
        self._kept: deque[FeedEvent] = deque(maxlen=EVENTS_KEPT_MAX)
        self._number = 0
        self._subscribers: set[asyncio.Queue[FeedEvent | None]] = set()

    @property
    def newest(self) -> list[FeedEvent]:
        return list(self._kept)

    @property
    def is_full(self) -> bool:
        return len(self._subscribers) >= SUBSCRIBERS_MAX

    def after(self, number: int) -> list[FeedEvent]:
        return [each for each in self._kept if each.number > number]

    def add(self, event: Event) -> None:
        self._number += 1
        feed_event = FeedEvent(self._number, int(time.time() * 1_000), event)
        self._kept.append(feed_event)
        self._publish(feed_event)

    def notify_view(self) -> None:
        self.view_number += 1
        self._publish(None)

    def _publish(self, item: FeedEvent | None) -> None:
        for queue in list(self._subscribers):
            try:
                queue.put_nowait(item)
            except asyncio.QueueFull:
                # A subscriber that does not read loses its subscription; otherwise its
                # queue would grow until the coordinator has no memory left.
                self._subscribers.discard(queue)

    @contextmanager
    def subscribe(self) -> Iterator[asyncio.Queue[FeedEvent | None]]:
        """Receive events from now on; None stands for a new fleet view."""
        queue: asyncio.Queue[FeedEvent | None] = asyncio.Queue(QUEUE_MAX)
        self._subscribers.add(queue)
        try:
            yield queue
        finally:
            self._subscribers.discard(queue)

    def is_subscribed(self, queue: asyncio.Queue[FeedEvent | None]) -> bool:
        return queue in self._subscribers
