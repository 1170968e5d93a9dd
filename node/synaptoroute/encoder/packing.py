"""Which texts share one run of the packed graph, and how their tokens are laid out.

The packed graph multiplies the tokens of all texts end to end, so texts of any
length may meet; attention alone lays them out by text.  Its width for a text is
the text's own length rounded up to ``WIDTH_STEP``, never its neighbour's: the
shape of a text's arithmetic is then the same in every company.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

WIDTH_STEP: Final = 16
KEPT_WIDTH_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """What shapes a graph takes.

    Attributes:
        heads: Heads of attention.
        widths: Groups of texts of one width each that share a run.
        rows_step: Rows of a run are a multiple of this.
        texts_step: Texts of a group are a multiple of this.
    """

    heads: int
    widths: int = 1
    rows_step: int = 1
    texts_step: int = 1


@dataclass(frozen=True, slots=True)
class Group:
    """How the heads of n texts of one width stand in attention.

    A product gives each row the queries of all heads, then the keys, then the values:
    seen as rows of one head, it is row ``(row * 3 + part) * heads + head``.

    Attributes:
        queries: int32[n, heads, width], row of one head at each place; a place beyond
            the text's end repeats the text's own first row, and is masked.
        keys: int32[n, heads, width], the same of the keys.
        values: int32[n, heads, width], the same of the values.
        mask: float32[n, 1, 1, width], 1 at a token, 0 beyond the text's end.
    """

    queries: NDArray[np.int32]
    keys: NDArray[np.int32]
    values: NDArray[np.int32]
    mask: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Packing:
    """How the tokens of some texts stand in a run of t rows.

    What is there only to make a multiple of a step stands at the end, looks at the
    first row, and is read by nobody.

    Attributes:
        positions: int64[t], place of each row in its own text.
        places: int64[tokens], where in texts * width each token's id stands.
        starts: int64[texts], first row of each text.
        groups: As many as the layout has widths; the last ones may be empty.
        heads: int32[t, heads], where each head of a row stands among those of all groups.
    """

    positions: NDArray[np.int64]
    places: NDArray[np.int64]
    starts: NDArray[np.int64]
    groups: tuple[Group, ...]
    heads: NDArray[np.int32]


def width_of(count: int) -> int:
    """Give the width of attention for a text of ``count`` tokens."""
    return -(-count // WIDTH_STEP) * WIDTH_STEP


def plan(counts: Sequence[int], tokens_max: int, widths_max: int) -> list[list[int]]:
    """Cut a batch into runs: texts of so many widths, at most ``tokens_max`` tokens.

    Returns:
        Indexes into ``counts``, each exactly once, widths ascending; a longer text
        runs alone.
    """
    runs: list[list[int]] = []
    widths: set[int] = set()
    size = 0
    for index in sorted(range(len(counts)), key=lambda index: (width_of(counts[index]), index)):
        count, width = counts[index], width_of(counts[index])
        has_room = width in widths or len(widths) < widths_max
        if runs and has_room and size + count <= tokens_max:
            runs[-1].append(index)
            widths.add(width)
            size += count
        else:
            runs.append([index])
            widths = {width}
            size = count
    return runs


def pack(counts: NDArray[np.int64], width: int, layout: Layout) -> Packing:
    """Lay out texts of ``counts`` tokens, widths ascending, none longer than ``width``."""
    if len(counts) == 1 and width <= KEPT_WIDTH_MAX:
        return _pack_one(int(counts[0]), width, layout)
    return _pack(counts, width, layout)


@lru_cache(2 * KEPT_WIDTH_MAX)
def _pack_one(count: int, width: int, layout: Layout) -> Packing:
    """Keep the layout of a short text alone: making it is a thirtieth of such a run."""
    packed = _pack(np.array([count]), width, layout)
    arrays: list[NDArray[Any]] = [packed.positions, packed.places, packed.starts, packed.heads]
    for group in packed.groups:
        arrays += [group.queries, group.keys, group.values, group.mask]
    for array in arrays:
        array.flags.writeable = False
    return packed


def _pack(counts: NDArray[np.int64], width: int, layout: Layout) -> Packing:
    starts = np.cumsum(counts) - counts
    is_real = np.arange(width) < counts[:, None]
    places = np.flatnonzero(is_real)
    positions = places % width
    groups: list[Group] = []
    heads: list[NDArray[np.int64]] = []
    before = 0
    for texts, own_width in _by_width(counts, width, layout.widths):
        group = _group(starts[texts], is_real[texts, :own_width], layout)
        firsts, own_positions = np.divmod(np.flatnonzero(is_real[texts]), width)
        firsts = firsts * (layout.heads * own_width) + own_positions + before
        heads.append(firsts[:, None] + np.arange(layout.heads) * own_width)
        groups.append(group)
        before += group.queries.size
    more = -len(places) % layout.rows_step
    if more:
        positions = np.concatenate([positions, np.zeros(more, np.int64)])
        heads.append(np.zeros((more, layout.heads), np.int64))
    return Packing(
        positions=positions,
        places=places,
        starts=starts,
        groups=tuple(groups),
        heads=np.concatenate(heads).astype(np.int32),
    )


def _by_width(
    counts: NDArray[np.int64], width: int, groups_count: int
) -> Iterator[tuple[slice, int]]:
    """Cut texts into groups of one width each; what is left over has one that is empty."""
    start = 0
    for _ in range(groups_count - 1):
        own_width = width_of(int(counts[start])) if start < len(counts) else WIDTH_STEP
        stop = start + int(np.count_nonzero(counts[start:] <= own_width))
        yield slice(start, stop), own_width
        start = stop
    yield slice(start, len(counts)), width if start < len(counts) else WIDTH_STEP


def _group(starts: NDArray[np.int64], is_real: NDArray[np.bool_], layout: Layout) -> Group:
    """Lay out texts of one width, given where each starts and which places are tokens."""
    texts, width = is_real.shape
    rows = np.zeros((texts + -texts % layout.texts_step, width), dtype=np.int64)
    rows[:texts] = starts[:, None] + np.where(is_real, np.arange(width), 0)
    mask = np.ones(rows.shape, dtype=np.float32)
    mask[:texts] = is_real
    heads = np.arange(layout.heads)
    queries = (rows[:, None] * (3 * layout.heads) + heads[:, None]).astype(np.int32)
    return Group(
        queries=queries,
        keys=queries + np.int32(layout.heads),
        values=queries + np.int32(2 * layout.heads),
        mask=mask[:, None, None],
    )
