"""What the scorer does while it is idle."""

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
    """A tensor with deferred work."""

    def __init__(self, events: list[str]) -> None:
        super().__init__(DIM)
        self.events = events
        self.done = threading.Event()

    @property
    def is_behind(self) -> bool:
        """Whether the work is still to be done."""
        return not self.done.is_set()

    def prepare(self) -> None:
        """Do the work."""
        self.events.append("prepared")
        self.done.set()


def test_deferred_work_waits_while_a_write_is_applied() -> None:
    """The write needs the interpreter first."""
    events: list[str] = []
    tensor = Behind(events)
    queue = QueryQueue(workers=1, queue_requests_max=8, write_texts_max=8, batch_window_ms=0.0)

    def is_applying() -> bool:
        events.append("asked")
        return len(events) < 4

    scorer = Scorer(
        tensor, HashEncoder(DIM), queue, Position(*START), "0" * 32, is_applying=is_applying
    )
    scorer.start()
    assert tensor.done.wait(10.0)
    scorer.stop()

    assert ["asked", "asked", "asked", "asked", "prepared"] == events
