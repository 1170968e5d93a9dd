"""Which texts share one run of the packed graph, and how their tokens are laid out.

The packed graph multiplies the tokens of all texts end to end, so texts of any
length may meet; attention alone lays them out by text.  Its width for a text is
the text's own length rounded up to ``WIDTH_STEP``, never its neighbour's: the
shape of a text's arithmetic is then the same in every company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

WIDTH_STEP: Final = 16
KEPT_WIDTH_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Packing:
    """How t rows stand in the n * width places of attention, and its heads in those.

    A product gives each row the queries of all heads, then the keys, then the values:
    seen as rows of one head, it is row ``(row * 3 + part) * heads + head``.

    Attributes:
        positions: int64[t], place of each row in its own text.
        places: int64[t], where in n * width each row stands.
        starts: int64[n], first row of each text.
        queries: int32[n, heads, width], row of one head at each place; a place beyond
            the text's end repeats the text's own first row, and is masked.
        keys: int32[n, heads, width], the same of the keys.
        values: int32[n, heads, width], the same of the values.
        heads: int32[t, heads], where in n * heads * width each head of a row stands.
        mask: float32[n, 1, 1, width], 1 at a token, 0 beyond the text's end.
    """

    positions: NDArray[np.int64]
    places: NDArray[np.int64]
    starts: NDArray[np.int64]
    queries: NDArray[np.int32]
    keys: NDArray[np.int32]
    values: NDArray[np.int32]
    heads: NDArray[np.int32]
    mask: NDArray[np.float32]


def width_of(count: int) -> int:
    """Give the width of attention for a text of ``count`` tokens."""
    return -(-count // WIDTH_STEP) * WIDTH_STEP


def plan(counts: Sequence[int], tokens_max: int) -> list[list[int]]:
    """Cut a batch into runs: texts of one width, at most ``tokens_max`` tokens.

    Returns:
        Indexes into ``counts``, each exactly once; a longer text runs alone.
    """
    runs: list[list[int]] = []
    size = 0
    for index in sorted(range(len(counts)), key=lambda index: (width_of(counts[index]), index)):
        count = counts[index]
        fits = runs and size + count <= tokens_max
        if fits and width_of(counts[runs[-1][-1]]) == width_of(count):
            runs[-1].append(index)
            size += count
        else:
            runs.append([index])
            size = count
    return runs


def pack(counts: NDArray[np.int64], width: int, heads_count: int) -> Packing:
    """Lay out texts of ``counts`` tokens, none of which is longer than ``width``."""
    if len(counts) == 1 and width <= KEPT_WIDTH_MAX:
        return _pack_one(int(counts[0]), width, heads_count)
    return _pack(counts, width, heads_count)


@lru_cache(KEPT_WIDTH_MAX)
def _pack_one(count: int, width: int, heads_count: int) -> Packing:
    """Keep the layout of a short text alone: making it is a thirtieth of such a run."""
    packed = _pack(np.array([count]), width, heads_count)
    for field in fields(packed):
        getattr(packed, field.name).flags.writeable = False
    return packed


def _pack(counts: NDArray[np.int64], width: int, heads_count: int) -> Packing:
    places = np.arange(width)
    is_real = places < counts[:, None]
    starts = np.cumsum(counts) - counts
    rows = starts[:, None] + np.where(is_real, places, 0)
    heads = np.arange(heads_count)
    queries = (rows[:, None] * (3 * heads_count) + heads[:, None]).astype(np.int32)
    flat = np.flatnonzero(is_real)
    texts, positions = np.divmod(flat, width)
    firsts = texts * (heads_count * width) + positions
    return Packing(
        positions=positions,
        places=flat,
        starts=starts,
        queries=queries,
        keys=queries + np.int32(heads_count),
        values=queries + np.int32(2 * heads_count),
        heads=(firsts[:, None] + heads * width).astype(np.int32),
        mask=is_real[:, None, None].astype(np.float32),
    )
