"""The content roots of a node's last positions, which it certifies to its peers.

Keeping begins when the first root is asked for, so a boot does not pay for it.  The tree is
built on a thread of its own from a frozen copy of the state; commits that are made meanwhile are
taken in afterwards.  From then on the applier extends it with every commit.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from synaptoroute.core.change import Commit, Snapshot
from synaptoroute.core.content import ContentRoot
from synaptoroute.core.mutation import ImportChunk, Position

ROOTS_KEPT_MAX: Final = 4_096
"""Positions whose roots are known; a peer that asks for an older one has to ask anew."""
PENDING_ENTRIES_MAX: Final = 65_536
"""Commits that wait while the tree is built; beyond that, the build is given up."""

_log = logging.getLogger(__name__)


class ContentRoots:
    """Roots by position.

    The applier's thread calls ``begin``, ``extend`` and ``reset``; any thread calls ``find``.
    """

    def __init__(self) -> None:
        self._root: ContentRoot | None = None
        self._known: dict[Position, str] = {}
        self._order: deque[Position] = deque()
        self._pending: list[Commit] | None = None  # Not None while the tree is built
        self._generation = 0  # Raised by ``reset``: a tree of an older state is dropped

    def find(self, position: Position) -> str | None:
        """Return the root at a position of this node's history, if it is kept."""
        return self._known.get(position)

    def is_passed(self, position: Position) -> bool:
        """Whether the root at a position cannot become known any more."""
        root = self._root
        return root is not None and root.position.seq >= position.seq and not self.find(position)

    @property
    def is_kept(self) -> bool:
        """Whether the roots of new positions become known."""
        return self._root is not None

    def begin(
        self,
        state: Callable[[], Snapshot],
        fingerprint: str,
        dim: int,
        hash_of_chunk: Callable[[ImportChunk], bytes],
        run: Callable[[Callable[[], None]], object],
    ) -> None:
        """Begin to keep roots, if that has not begun.

        Args:
            state: Returns the present state.
            fingerprint: Encoder of its rows.
            dim: Their dimension.
            hash_of_chunk: See ``ContentRoot``.
            run: Runs a function on the applier's thread, later.
        """
        if self._root is not None or self._pending is not None:
            return
        self._pending = []
        generation, snapshot = self._generation, state()

        def build() -> None:
            # Not with ``hash_of_chunk``: it reads the table of the applier's thread.
            root = ContentRoot(snapshot, fingerprint, dim)
            root.hex()
            root.hash_of_chunk = hash_of_chunk
            run(lambda: self._adopt(root, generation))

        threading.Thread(target=build, name="synaptoroute-content", daemon=True).start()

    def _adopt(self, root: ContentRoot, generation: int) -> None:
        if generation != self._generation or self._pending is None:
            return
        pending, self._pending = self._pending, None
        self._root = root
        self._note(root)
        self.extend(pending)

    def extend(self, commits: Sequence[Commit]) -> None:
        """Take in durable commits."""
        if self._pending is not None:
            self._pending.extend(commits)
            if len(self._pending) > PENDING_ENTRIES_MAX:
                _log.warning("the content root is given up: entries arrive faster than it is built")
                self.reset()
            return
        root = self._root
        if root is None:
            return
        for commit in commits:
            root.apply(commit)
            self._note(root)

    def _note(self, root: ContentRoot) -> None:
        if len(self._order) == ROOTS_KEPT_MAX:
            del self._known[self._order.popleft()]
        self._order.append(root.position)
        self._known[root.position] = root.hex()

    def reset(self) -> None:
        """Forget everything: the state was replaced."""
        self._generation += 1
        self._root = self._pending = None
        # A new dictionary, because other threads may read the old one.
        self._known = {}
        self._order.clear()
