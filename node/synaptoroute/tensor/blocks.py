"""How the rows of a few thousand slots are brought together by route.

The best utterance of every route is found by folding: the rows of a block are
taken in pairs of one route, the larger of each pair is kept, and so on until one
row a route is left.  The pairs depend on the owners only.  They are kept per
block and made again only for blocks whose owners changed, so that a hot add
costs the same beside five hundred utterances as beside a million.  A query that is
scored alone needs no pairs, so they are made when queries are first scored together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.tensor.chunked_array import Slabs, Slots

Indexes: TypeAlias = NDArray[np.intp]

BLOCK_SLOTS: Final = 4_096
ROWS_ALIGNED: Final = 128
"""Rows of a block are offered in multiples of this, for the scan's small products."""

FREE: Final = -1
_RADIX_ROUTES_MAX: Final = 65_535


@dataclass(slots=True, eq=False)
class Block:
    """The owned rows of up to ``BLOCK_SLOTS`` consecutive slots.

    Attributes:
        base_slot: First slot.
        rows: View of the tensor, float32[n, dim], n a multiple of ``ROWS_ALIGNED``;
            free slots among them hold finite numbers that no fold takes.
        order: Owned indexes of ``rows`` by route, then by slot.
        starts: Where each route of ``route_ids`` starts in ``order``.
        route_ids: Routes of what the last level of ``folds`` leaves, ascending.
        slot_stop: One past the last owned slot.
    """

    base_slot: int
    rows: NDArray[np.float32]
    order: Indexes
    starts: Indexes
    route_ids: Indexes
    slot_stop: int
    _folds: tuple[tuple[Indexes, Indexes], ...] = field(init=False, default=())

    @property
    def folds(self) -> tuple[tuple[Indexes, Indexes], ...]:
        """Pairs of row indexes, level by level.

        The first level indexes ``rows``, each further one what the level before left.
        """
        self._folds = self._folds or plan_folds(self.order, self.starts)
        return self._folds


def order_by_route(owners: NDArray[np.int32], route_ids_max: int) -> Indexes:
    """List the owned indexes of a block by route, then by slot."""
    owned_count = int(np.count_nonzero(owners != FREE))
    if route_ids_max < _RADIX_ROUTES_MAX:  # 16 bits are sorted by radix; free is 65,535: last
        return np.argsort(owners.astype(np.uint16), kind="stable")[:owned_count]
    return np.argsort(owners.view(np.uint32), kind="stable")[:owned_count]


def runs_by_route(
    owners: NDArray[np.int32], route_ids_max: int
) -> tuple[Indexes, Indexes, Indexes]:
    """Bring the rows of one block together by route.

    Args:
        owners: int32[n], route of each slot of the block, ``FREE`` for none.
        route_ids_max: No route id is above this.

    Returns:
        Owned indexes by route, then by slot; where each route starts among them; and
        the routes, ascending.
    """
    order = order_by_route(owners, route_ids_max)
    by_route = owners[order]
    starts = np.flatnonzero(np.diff(by_route, prepend=FREE - 1))
    return order, starts, by_route[starts].astype(np.intp)


def plan_folds(order: Indexes, starts: Indexes) -> tuple[tuple[Indexes, Indexes], ...]:
    """Plan how the rows of one block fold into one row a route.

    Args:
        order: Indexes of rows, those of a route beside each other.
        starts: Where each route starts in ``order``.

    Returns:
        The levels of pairs, at least one.
    """
    lengths = np.diff(starts, append=len(order))
    levels: list[tuple[Indexes, Indexes]] = []
    while not levels or lengths.max(initial=1) > 1:
        left, right, starts, lengths = _halve(starts, lengths)
        levels.append((left, right) if levels else (order[left], order[right]))
    return tuple(levels)


def _halve(starts: Indexes, lengths: Indexes) -> tuple[Indexes, Indexes, Indexes, Indexes]:
    """Pair the first half of every run with its second; the odd one with itself or another."""
    halves = (lengths + 1) // 2
    next_starts = np.cumsum(halves) - halves
    run = np.repeat(np.arange(len(starts)), halves)
    left = np.arange(len(run)) - next_starts[run] + starts[run]
    last = starts + lengths - 1
    right = np.minimum(left + halves[run], last[run])
    return left, right, next_starts, halves


class BlockPlans:
    """The blocks of a tensor, each planned again once its owners changed."""

    def __init__(self) -> None:
        self._blocks: list[Block | None] = []
        self._stale: set[int] = set()
        self._present: list[Block] | None = []

    def mark_stale(self, slots: Slots) -> None:
        """Note which blocks must be planned again before the next query."""
        if len(slots) == 0:
            return
        numbers = set((slots // BLOCK_SLOTS).tolist())
        while len(self._blocks) <= max(numbers):
            self._blocks.append(None)
        self._stale.update(numbers)
        self._present = None

    @property
    def is_behind(self) -> bool:
        """Whether a block must be planned again."""
        return bool(self._stale)

    def plan_one(
        self, owners: NDArray[np.int32], rows: Slabs[np.float32], route_ids_max: int
    ) -> None:
        """Plan one of those blocks now, so that no query has to."""
        number = self._stale.pop()
        self._blocks[number] = plan_block(number, owners, rows, route_ids_max)

    def planned(
        self, owners: NDArray[np.int32], rows: Slabs[np.float32], route_ids_max: int
    ) -> Sequence[Block]:
        """Blocks that hold at least one owned row, in slot order; to be read at once."""
        if self._present is None:
            for number in self._stale:
                self._blocks[number] = plan_block(number, owners, rows, route_ids_max)
            self._stale.clear()
            self._present = [block for block in self._blocks if block is not None]
        return self._present


def plan_block(
    number: int, owners: NDArray[np.int32], rows: Slabs[np.float32], route_ids_max: int
) -> Block | None:
    """Plan one block from its owners; None when all of it is free."""
    base = number * BLOCK_SLOTS
    own = owners[base : base + BLOCK_SLOTS]
    owned = np.flatnonzero(own != FREE)
    if len(owned) == 0:
        return None
    stop = int(owned[-1]) + 1
    aligned = -(-stop // ROWS_ALIGNED) * ROWS_ALIGNED
    order, starts, route_ids = runs_by_route(own[:stop], route_ids_max)
    span = rows.span(base, base + aligned)
    return Block(base, span, order, starts, route_ids, base + stop)


def checksum(
    blocks: Sequence[Block],
    owners: NDArray[np.int32],
    route_ids: Slots,
    centroids: NDArray[np.float32],
) -> str:
    """SHA-256 over owned rows, their owners and the routes' centroids, hexadecimal."""
    digest = hashlib.sha256()
    for block in blocks:
        own = owners[block.base_slot : block.slot_stop]
        owned = np.flatnonzero(own != FREE)
        digest.update((owned + block.base_slot).astype("<i8").tobytes())
        digest.update(own[owned].astype("<i4").tobytes())
        digest.update(block.rows[owned].astype("<f4").tobytes())
    digest.update(route_ids.astype("<i8").tobytes())
    digest.update(centroids.astype("<f4").tobytes())
    return digest.hexdigest()
