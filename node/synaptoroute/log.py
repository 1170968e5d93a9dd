"""The log: where a write gets its place in the order.

A log takes proposals and, sooner or later, hands every entry, in order, to the
router that follows it.  ``LocalLog`` is the log of a node without Redis: its
entries are numbered by the engine at the moment they are applied, so the only
copy of the order is the node's own database.  ``cluster.RedisLog`` is the log
of a cluster.  Both walk the same path: what a node applies is what it hears.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from synaptoroute.core.mutation import Proposal, Revision


@dataclass(frozen=True, slots=True)
class Appended:
    """A proposal's place in the log, where the log knows it at once."""

    at: Revision | None


class Log(Protocol):
    """What a router needs of any log."""

    @property
    def is_local(self) -> bool:
        """Whether the engine numbers the proposals itself."""
        ...

    async def append(
        self, proposals: Sequence[Proposal], fingerprint: str | None = None
    ) -> Appended:
        """Give the proposals consecutive places in the log.

        Args:
            proposals: What to write.
            fingerprint: Encoder of their vectors; None takes this node's of now.

        Raises:
            SequencerUnavailable: Not taken, or the outcome is unknown (the
                error's fields say which).
        """
        ...


class LocalLog:
    """The log of a node without Redis; the engine numbers what it is given."""

    is_local = True

    def __init__(self) -> None:
        self._deliver: Callable[[Sequence[Proposal]], None] | None = None

    def attach(self, deliver: Callable[[Sequence[Proposal]], None]) -> None:
        """Connect the engine that numbers the proposals."""
        self._deliver = deliver

    async def append(
        self, proposals: Sequence[Proposal], fingerprint: str | None = None
    ) -> Appended:
        """Pass the proposals to the engine, which numbers them when it applies them."""
        assert self._deliver is not None, "a LocalLog is attached before it is used"
        self._deliver(proposals)
        return Appended(at=None)
