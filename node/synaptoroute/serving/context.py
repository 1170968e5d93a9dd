"""Context of a query: earlier turns of its conversation, weighted behind its text.

A follow-up such as ``and in blue?`` says little alone.  The turns before it lend it a direction:
the vector of the query is that of its text plus ``CONTEXT_WEIGHT`` times the direction of the
turns, the newest of which counts twice as much as the one before it.  A longer text speaks for
itself, so from ``WORDS_ALONE`` words on its context counts in inverse proportion to its words.

Measured on CLINC150 and Banking77 (ADR 0047): a text that changes the topic loses .3 points, the
last three words of a text after another text of the same route gain 24 and 29.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.serving.fair_queue import InFlightQuery

CONTEXT_WEIGHT: Final = 0.4
WORDS_ALONE: Final = 4
_TURN_DECAY: Final = 0.5


def context_weight(text: str) -> float:
    """Weight of the context of a text."""
    return CONTEXT_WEIGHT * min(1.0, WORDS_ALONE / max(1, len(text.split())))


def with_context(
    vector: NDArray[np.float32], turns: Sequence[NDArray[np.float32]], weight: float
) -> NDArray[np.float32]:
    """Turn the vector of a text towards its context.

    Equal vectors give equal bits, whatever else is in the batch: all sums are made component
    by component in order of the turns, or exactly.

    Args:
        vector: float32[dim], unit length.
        turns: The same of each turn, oldest first.

    Returns:
        float32[dim], unit length.
    """
    context = np.zeros(len(vector), np.float64)
    share = 1.0
    for turn in reversed(turns):
        context += share * turn.astype(np.float64)
        share *= _TURN_DECAY
    length = _length(context)
    if length == 0.0:
        return vector
    turned = vector.astype(np.float64) + (weight / length) * context
    unit: NDArray[np.float32] = (turned / (_length(turned) or 1.0)).astype(np.float32)
    return unit


def turn_to_context(
    queries: Sequence[InFlightQuery], embeddings: NDArray[np.float32], row_of: Mapping[bytes, int]
) -> NDArray[np.float32]:
    """Give each query its context.

    Args:
        queries: With their prepared texts and tokens.
        embeddings: float32[texts, dim], of the texts of all queries, then of turns.
        row_of: Row of each turn, by the key of its tokens.

    Returns:
        float32[queries, dim].
    """
    turned = embeddings[: len(queries)].copy()
    for row, query in enumerate(queries):
        turns = [embeddings[row_of[turn.key]] for turn in query.turn_tokens]
        if turns:
            turned[row] = with_context(turned[row], turns, context_weight(query.prepared.text))
    return turned


def _length(vector: NDArray[np.float64]) -> float:
    # ``fsum`` rounds once; the order in which numpy adds depends on the instruction set.
    return math.sqrt(math.fsum((vector * vector).tolist()))
