"""The queue before the lanes, and those who stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from synaptoroute.serving.in_flight import Flight, Job
from synaptoroute.serving.queue import Batcher


@dataclass
class Caller:
    """Someone who waits."""

    is_abandoned: bool = False


def batcher(
    *, lanes: int = 1, queue: int = 100, texts: int = 100, window_ms: float = 0.0
) -> Batcher:
    """A queue with room for so many callers and texts."""
    return Batcher(
        lanes=lanes, queue_requests_max=queue, write_texts_max=texts, batch_window_ms=window_ms
    )


def job(*texts: str) -> Job:
    """A write that encodes these texts."""
    return Job(texts, list, lambda: True, lambda _: None)


def taken(batching: Batcher) -> list[str]:
    """The texts that a lane takes."""
    work = batching.take()
    assert isinstance(work, tuple)
    return [flight.text for flight in work]


def take_flights(batching: Batcher) -> Sequence[Flight]:
    """The flights that a lane takes."""
    work = batching.take()
    assert isinstance(work, tuple)
    return work
