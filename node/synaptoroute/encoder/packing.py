"""Which texts share one run of the packed graph, and how their tokens are laid out.

The packed graph multiplies the tokens of all texts end to end, so texts of any
length may meet; attention alone lays them out by text.  Its width for a text is
the text's own length rounded up to ``WIDTH_STEP``, never its neighbour's: the
shape of a text's arithmetic is then the same in every company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

WIDTH_STEP: Final = 16


@dataclass(frozen=True, slots=True)
class Packing:
    """How t rows stand in the n * width places of attention.

    Attributes:
        positions: int64[t], place of each row in its own text.
        rows: int64[n, width], row at each place; a place beyond the text's end
            repeats the text's own first row, and is masked.
        places: int64[t], where in n * width each row stands.
        starts: int64[n], first row of each text.
    """

    positions: NDArray[np.int64]
    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    starts: NDArray[np.int64]


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


def pack(counts: NDArray[np.int64], width: int) -> Packing:
    """Lay out texts of ``counts`` tokens, none of which is longer than ``width``."""
    places = np.arange(width)
    is_real = places < counts[:, None]
    starts = np.cumsum(counts) - counts
    return Packing(
        positions=np.broadcast_to(places, is_real.shape)[is_real],
        rows=starts[:, None] + np.where(is_real, places, 0),
        places=np.flatnonzero(is_real),
        starts=starts,
    )
