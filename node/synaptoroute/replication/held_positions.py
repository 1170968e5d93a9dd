"""Positions of other nodes that are in this node's own history.

A signed position names a hash chain.  Whoever controls Redis can show nodes of one epoch different
orders of genuine entries, so a higher number alone does not say that a node holds an entry.  A
position counts once this node has applied its place itself and found the same chain there; until
then it is remembered.  Runs on the event loop.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from synaptoroute.core.mutation import Position, Revision

UNKNOWN_MAX: Final = 64  # Positions of a node that are remembered until this node reaches them


class HeldPositions:
    """The parts of this node's history that other nodes hold.

    Args:
        position: Returns the position of this node.
        chains_at: Returns the hash chains of its history at some places; None where it knows none.
        history: Returns a number that changes when its history is replaced.
    """

    def __init__(
        self,
        position: Callable[[], Position],
        chains_at: Callable[[Sequence[int]], Awaitable[Sequence[str | None]]],
        history: Callable[[], int],
    ) -> None:
        self._position = position
        self._chains_at = chains_at
        self._history = history
        self._of_history = 0
        self._held: dict[str, Position] = {}
        self._unknown: dict[str, deque[Position]] = {}

    async def of(self, told: Mapping[str, Position]) -> dict[str, Position]:
        """Return the newest position of each node that is known to be in this history.

        Args:
            told: What each node told last, by its name.
        """
        if self._of_history != self._history():
            self._of_history = self._history()
            self._held.clear()
        for name, at in told.items():
            unknown = self._unknown.setdefault(name, deque(maxlen=UNKNOWN_MAX))
            is_new = not unknown or unknown[-1] != at
            if is_new and at != self._held.get(name):
                unknown.append(at)
        await self._compare(told)
        return {name: self._held[name] for name in told if name in self._held}

    async def contains(self, at: Position) -> bool:
        """Whether a position is in this node's own history."""
        return await self._chain_at(at.seq) == at.chain

    async def position_at(self, at: Revision) -> Position | None:
        """The position with the place of an entry that this node has applied."""
        chain = await self._chain_at(at.seq)
        return None if chain is None else Position(at.epoch, at.seq, chain)

    async def _chain_at(self, seq: int) -> str | None:
        own = self._position()
        return own.chain if seq == own.seq else (await self._chains_at([seq]))[0]

    async def _compare(self, names: Mapping[str, Position]) -> None:
        own = self._position()
        reached = [(name, at) for name in names for at in self._unknown[name] if at.seq <= own.seq]
        if not reached:
            return
        history = self._history()
        chains = await self._chains_at([at.seq for _, at in reached])
        if history != self._history():
            return
        for (name, at), chain in zip(reached, chains, strict=True):
            with contextlib.suppress(ValueError):  # another waiter was faster
                self._unknown[name].remove(at)
            before = self._held.get(name, Position())
            if chain == at.chain and at.revision > before.revision:
                self._held[name] = at
