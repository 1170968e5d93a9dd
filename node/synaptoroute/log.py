"""The log: it gives every write its place in the order.

A log accepts proposals and later delivers every entry, in order, to the router that
follows it.  ``LocalLog`` is the log of a node without Redis: the engine numbers the entries
when it applies them, so the only copy of the order is the node's own database.
``cluster.RedisLog`` is the log of a cluster.  With either, a node applies only entries that
the log delivered, never a write that it only sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from synaptoroute.core.codec import FRAME_BYTES_MAX
from synaptoroute.core.mutation import Proposal, Revision


@dataclass(frozen=True, slots=True)
class Appended:
    """A proposal's place in the log; None if the log does not know it yet."""

    at: Revision | None


class Log(Protocol):
    """Interface of every log."""

    @property
    def is_local(self) -> bool:
        """Whether the engine numbers the proposals itself."""
        ...

    @property
    def entry_bytes_max(self) -> int:
        """Largest frame of one entry."""
        ...

    async def append(
        self,
        proposals: Sequence[Proposal],
        fingerprint: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Appended:
        """Append the proposals at consecutive places.

        Args:
            proposals: What to write.
            fingerprint: Encoder of their vectors; None for this node's current one.
            timeout_seconds: Longest time to wait; None for the log's own limits.

        Raises:
            SequencerUnavailable: The proposals were not accepted, or the outcome is
                unknown; the error's fields say which.
        """
        ...


class LocalLog:
    """The log of a node without Redis; the engine numbers the entries."""

    is_local = True
    entry_bytes_max = FRAME_BYTES_MAX

    def __init__(self) -> None:
        self._deliver: Callable[[Sequence[Proposal]], None] | None = None

    def attach(self, deliver: Callable[[Sequence[Proposal]], None]) -> None:
        """Set the function that takes the proposals: the engine's."""
        self._deliver = deliver

    async def append(
        self,
        proposals: Sequence[Proposal],
        fingerprint: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Appended:
        """Pass the proposals to the engine, which numbers them when it applies them."""
        assert self._deliver is not None, "a LocalLog is attached before it is used"
        self._deliver(proposals)
        # No place yet: the engine numbers entries in the order in which it applies them.
        return Appended(at=None)
