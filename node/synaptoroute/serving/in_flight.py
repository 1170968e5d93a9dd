"""What is on its way through the lanes: queries with their callers, and utterances of writes.

Whoever holds one of these at a time may change it: the queue under its lock, then one lane,
then the scorer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Waiter(Protocol):
    """One caller that waits for an answer."""

    @property
    def is_abandoned(self) -> bool:
        """Whether the caller has gone."""
        ...


@dataclass(slots=True, eq=False)
class Flight:
    """One text on its way, with everyone who waits for it.

    Attributes:
        text: The query's text.
        waiters: Who waits; more may join until it lands.
        queued_at: Monotonic seconds.
        tokens: Set by the lane that tokenized it; opaque here.
        tokens_of: For which encoding it did; opaque here.
        is_shared: Whether others may join and caches may serve it.
        predicted_seconds: The wait that was predicted; 0 for none.
    """

    text: str
    waiters: list[Waiter]
    queued_at: float
    tokens: Any = None
    tokens_of: Any = None
    is_shared: bool = True
    predicted_seconds: float = 0.0

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits any more."""
        return all(waiter.is_abandoned for waiter in self.waiters)


@dataclass(slots=True, eq=False)
class Job:
    """Utterances of a write, to be encoded together.

    Attributes:
        texts: The utterances.
        encode: Makes their vectors.
        begin: Called on the lane first; false where the writer has gone.
        done: Called on the lane with the vectors, or with the error.
    """

    texts: Sequence[str]
    encode: Callable[[Sequence[str]], Any]
    begin: Callable[[], bool]
    done: Callable[[Any], None]
