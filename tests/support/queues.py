"""The query queue and callers, for tests without workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synaptoroute.serving.fair_queue import InFlightQuery
from synaptoroute.serving.queue import EncodeJob, QueryQueue


@dataclass
class Caller:
    """A caller that waits for an answer."""

    is_abandoned: bool = False
    flow: str = ""


def query_queue(
    *, workers: int = 1, queue: int = 100, texts: int = 100, window_ms: float = 0.0
) -> QueryQueue:
    """Build a queue with room for so many callers and texts."""
    return QueryQueue(
        workers=workers, queue_requests_max=queue, write_texts_max=texts, batch_window_ms=window_ms
    )


def job(*texts: str) -> EncodeJob:
    """A write that encodes these texts."""
    return EncodeJob(texts, list, lambda: True, lambda _: None)


def take_texts(queue: QueryQueue) -> list[str]:
    """Take queries as a worker does; returns their texts."""
    return [query.text for query in take_queries(queue)]


def take_queries(queue: QueryQueue) -> Sequence[InFlightQuery]:
    """Take queries as a worker does."""
    work = queue.take()
    assert isinstance(work, tuple)
    return work
