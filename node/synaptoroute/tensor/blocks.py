"""Blocks: the rows of a few thousand slots, grouped by route.

The best utterance of every route is found by folding: the rows of a block are taken in
pairs of one route, the larger of each pair is kept, until one row a route is left.  The
pairs depend on the owners only.  They are kept a block and computed again only for blocks
whose owners changed, so a hot add costs the same beside five hundred utterances as beside
a million.  A query that is scored alone needs no pairs; they are computed when queries
are first scored together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.rows import ROUTE_ID_BITS, RowKind
from synaptoroute.tensor.rows import ChunkedArray, Slots

Indexes: TypeAlias = NDArray[np.intp]

BLOCK_SLOTS: Final = 4_096
ROWS_ALIGNED: Final = 128
"""``Block.rows`` holds a multiple of this, for the small products of a scan."""
FREE: Final = -1
_NEGATIVE: Final = -2
"""Owner of the negatives of route 0; those of route n have ``_NEGATIVE - n``."""
_RADIX_ROUTES_MAX: Final = 65_535


@dataclass(slots=True, eq=False)
class Block:
    """The owned rows of up to ``BLOCK_SLOTS`` consecutive slots.

    Attributes:
        base_slot: First slot.
        rows: View of the tensor, float32[n, dim], n a multiple of ``ROWS_ALIGNED``;
            free slots among them hold finite numbers that no fold reads.  Fewer, a power of two,
            if the tensor has no more.
        order: Owned indexes of ``rows`` by route, then by slot.
        starts: Where each route of ``route_ids`` starts in ``order``.
        route_ids: Routes of the block, ascending.
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

        The first level indexes ``rows``, each further level the result of the one before.
        """
        self._folds = self._folds or plan_folds(self.order, self.starts)
        return self._folds


def tensor_owners(owners: Slots) -> NDArray[np.int32]:
    """Owners as the tensor holds them, int32[n].

    Examples (utterances and descriptions) have the number of their route, negatives a number
    below ``FREE``, so that no scan takes them for examples.
    """
    route_ids = owners & ((1 << ROUTE_ID_BITS) - 1)
    is_negative = owners >> ROUTE_ID_BITS == RowKind.NEGATIVE
    return np.where(is_negative, _NEGATIVE - route_ids, route_ids).astype(np.int32)


def routes_of(owners: NDArray[np.int32]) -> NDArray[np.int32]:
    """Route of each owned row, int32[n]."""
    return np.where(owners < FREE, _NEGATIVE - owners, owners)


def group_by_route(
    owners: NDArray[np.int32], route_id_max: int
) -> tuple[Indexes, Indexes, Indexes]:
    """Group the owned rows of a block by route.

    Args:
        owners: int32[n], owner of each slot of the block, ``FREE`` for none.
        route_id_max: No route id is above this.

    Returns:
        Indexes of examples by route, then by slot; where each route starts among them; and the
        routes, ascending.
    """
    owners = np.maximum(owners, FREE)  # negatives are nobody's examples
    owned_count = int(np.count_nonzero(owners != FREE))
    # Numpy sorts 16 bits by radix, in linear time.  As unsigned, ``FREE`` is the largest
    # number, so free slots come last and are cut off.
    dtype = np.uint16 if route_id_max < _RADIX_ROUTES_MAX else np.uint32
    order = np.argsort(owners.astype(dtype), kind="stable")[:owned_count]
    by_route = owners[order]
    starts = np.flatnonzero(np.diff(by_route, prepend=FREE - 1))
    return order, starts, by_route[starts].astype(np.intp)


def plan_folds(order: Indexes, starts: Indexes) -> tuple[tuple[Indexes, Indexes], ...]:
    """Compute the pairs that fold the rows of a block into one row a route.

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
    """Pair the first half of every run with its second; an odd last row with any other."""
    halves = (lengths + 1) // 2
    next_starts = np.cumsum(halves) - halves
    run = np.repeat(np.arange(len(starts)), halves)
    left = np.arange(len(run)) - next_starts[run] + starts[run]
    last = starts + lengths - 1
    right = np.minimum(left + halves[run], last[run])
    return left, right, next_starts, halves


class BlockIndex:
    """The blocks of a tensor; a block is built again once its owners changed.

    Attributes:
        stale: Numbers of the blocks to build.
    """

    def __init__(self) -> None:
        self.stale: set[int] = set()
        self._blocks: list[Block | None] = []
        self._present: list[Block] | None = []

    def mark_stale(self, slots: Slots) -> None:
        """Build the blocks of these slots again before the next query."""
        if len(slots) == 0:
            return
        self.stale.update((slots // BLOCK_SLOTS).tolist())
        self._present = None

    def mark_all_stale(self) -> None:
        """Build all blocks again before the next query: the rows have moved."""
        self.stale.update(number for number, each in enumerate(self._blocks) if each is not None)
        self._present = None

    def copy(self, rows: ChunkedArray[np.float32]) -> BlockIndex:
        """Copy the blocks for a copy of their rows; none may be stale."""
        copied = BlockIndex()
        copied._present = None
        for block in self._blocks:
            if block is None:
                copied._blocks.append(None)
                continue
            base = block.base_slot
            span = rows.span(base, base + min(len(block.rows), rows.chunk_rows))
            kept = Block(base, span, block.order, block.starts, block.route_ids, block.slot_stop)
            kept._folds = block._folds
            copied._blocks.append(kept)
        return copied

    def build_one(
        self, owners: NDArray[np.int32], rows: ChunkedArray[np.float32], route_id_max: int
    ) -> None:
        """Build one stale block."""
        number = self.stale.pop()
        while len(self._blocks) <= number:
            self._blocks.append(None)
        self._blocks[number] = build_block(number, owners, rows, route_id_max)

    def present(
        self, owners: NDArray[np.int32], rows: ChunkedArray[np.float32], route_id_max: int
    ) -> Sequence[Block]:
        """Blocks with at least one owned row, in slot order; builds the stale ones."""
        if self._present is None:
            while self.stale:
                self.build_one(owners, rows, route_id_max)
            self._present = [block for block in self._blocks if block is not None]
        return self._present


def build_block(
    number: int, owners: NDArray[np.int32], rows: ChunkedArray[np.float32], route_id_max: int
) -> Block | None:
    """Group the examples of a block by route; None if it has none."""
    base = number * BLOCK_SLOTS
    own = owners[base : base + BLOCK_SLOTS]
    owned = np.flatnonzero(own > FREE)
    if len(owned) == 0:
        return None
    # Free slots behind the last owned one need not be sorted or scanned.
    stop = int(owned[-1]) + 1
    aligned = min(-(-stop // ROWS_ALIGNED) * ROWS_ALIGNED, rows.chunk_rows)
    order, starts, route_ids = group_by_route(own[:stop], route_id_max)
    return Block(base, rows.span(base, base + aligned), order, starts, route_ids, base + stop)


def checksum(
    rows: ChunkedArray[np.float32],
    owners: NDArray[np.int32],
    route_ids: Slots,
    centroids: NDArray[np.float32],
) -> str:
    """SHA-256 over owned rows, their owners and the routes' centroids, hexadecimal."""
    digest = hashlib.sha256()
    for base in range(0, len(owners), BLOCK_SLOTS):
        own = owners[base : base + BLOCK_SLOTS]
        owned = np.flatnonzero(own != FREE)
        if len(owned) == 0:
            continue
        # A fixed byte order, so that nodes on any machine agree.
        digest.update((owned + base).astype("<i8").tobytes())
        digest.update(own[owned].astype("<i4").tobytes())
        digest.update(rows.read(owned + base).astype("<f4").tobytes())
    digest.update(route_ids.astype("<i8").tobytes())
    digest.update(centroids.astype("<f4").tobytes())
    return digest.hexdigest()
