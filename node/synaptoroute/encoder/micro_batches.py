"""Which texts share one run of the model.

A run costs a fixed price, about that of ``RUN_COST_TOKENS`` tokens, and then a
price for each token, padding included.  Texts sorted by length are cut into the
contiguous runs of least total price (dynamic programming over the cut points),
so that texts of equal length meet without padding and nearly equal lengths meet
only where the padding is cheaper than another run.  No run is padded by more
than ``PADDING_SHARE_MAX``, hence no batch is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

RUN_COST_TOKENS: Final = 8
PADDING_SHARE_MAX: Final = 0.09


def plan(counts: Sequence[int], tokens_max: int, texts_max: int | None = None) -> list[list[int]]:
    """Cut a batch into micro-batches.

    Args:
        counts: Tokens of each text.
        tokens_max: Tokens of one micro-batch, padding included; a longer text
            runs alone.
        texts_max: Texts of one micro-batch; None for no limit but the tokens.

    Returns:
        Indexes into ``counts``, each exactly once, lengths ascending.
    """
    order = sorted(range(len(counts)), key=lambda index: (counts[index], index))
    lengths = [counts[index] for index in order]
    starts = _cheapest_starts(lengths, tokens_max, texts_max or len(lengths))
    runs: list[list[int]] = []
    end = len(order)
    while end:
        runs.append(order[starts[end] : end])
        end = starts[end]
    return runs[::-1]


def _cheapest_starts(lengths: Sequence[int], tokens_max: int, texts_max: int) -> list[int]:
    """Say, for each end, where the last run of the cheapest cut of the head starts."""
    costs = [0] * (len(lengths) + 1)
    starts = [0] * (len(lengths) + 1)
    for end in range(1, len(lengths) + 1):
        longest = lengths[end - 1]
        costs[end] = costs[end - 1] + RUN_COST_TOKENS + longest
        starts[end] = end - 1
        padding = 0
        for start in range(end - 2, max(-1, end - 1 - texts_max), -1):
            padding += longest - lengths[start]
            size = (end - start) * longest
            if size > tokens_max or padding > PADDING_SHARE_MAX * size:
                break
            cost = costs[start] + RUN_COST_TOKENS + size
            if cost < costs[end]:
                costs[end], starts[end] = cost, start
    return starts
