"""What the scorer does while there is nothing to score."""

from __future__ import annotations

import threading

import pytest

from route_sets import START
from synaptoroute.core.mutation import Position
from synaptoroute.encoder import HashEncoder
from synaptoroute.serving.queue import QueryQueue
from synaptoroute.serving.scorer import Scorer
from synaptoroute.tensor import Tensor

pytestmark = pytest.mark.unit

DIM = 8


class Behind(Tensor):
    """A tensor with one thing left for later."""

    def __init__(self, events: list[str]) -> None:
        super().__init__(DIM)
        self.events = events
        self.done = threading.Event()

    @property
    def is_behind(self) -> bool:
        """Until it was prepared."""
        return not self.done.is_set()

    def prepare(self) -> None:
        """Do that thing."""
        self.events.append("prepared")
        self.done.set()


def test_what_was_left_for_later_waits_for_writes_on_their_way() -> None:
    """While a write is being applied nothing else takes the interpreter from it."""
    events: list[str] = []
    tensor = Behind(events)
    batcher = QueryQueue(workers=1, queue_requests_max=8, write_texts_max=8, batch_window_ms=0.0)

    def is_applying() -> bool:
        events.append("asked")
        return len(events) < 4

    scorer = Scorer(
        tensor, HashEncoder(DIM), batcher, Position(*START), "0" * 32, is_applying=is_applying
    )
    scorer.start()
    assert tensor.done.wait(10.0)
    scorer.stop()

    assert ["asked", "asked", "asked", "asked", "prepared"] == events
