"""Conflicts: near-duplicate utterances of different routes.

A query that means what both say goes to either by a hair.  Compared are the rows of
one position, copied out between two batches, in blocks and off the threads that answer.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.tensor import Tensor

ROWS_MAX: Final = 10_000
"""More rows are not compared: the work grows with their square."""
CONFLICTS_MAX: Final = 500
_ROWS_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows copied out of the tensor.

    Attributes:
        vectors: float32[n, dim].
        owners: int64[n], index in ``routes``.
        utterances: Texts.
        routes: Names.
        total: Rows that the tensor holds.
    """

    vectors: NDArray[np.float32]
    owners: NDArray[np.int64]
    utterances: tuple[str, ...]
    routes: tuple[str, ...]
    total: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two utterances that say nearly the same for different routes."""

    route: str
    utterance: str
    other_route: str
    other_utterance: str
    similarity: float


def copy_rows(tensor: Tensor) -> Rows:
    """Copy up to ``ROWS_MAX`` rows, whole routes in order of name.  On the scorer's thread."""
    slots: list[int] = []
    owners: list[int] = []
    texts: list[str] = []
    names: list[str] = []
    for name in sorted(tensor.routes):
        record = tensor.routes[name]
        if len(slots) + len(record.slots) > ROWS_MAX:
            break
        owners += [len(names)] * len(record.slots)
        names.append(name)
        slots += record.slots
        texts += record.utterances
    vectors = tensor.vectors_of(np.asarray(slots, np.int64))
    return Rows(
        vectors, np.asarray(owners, np.int64), tuple(texts), tuple(names), tensor.slots_used
    )


def find_conflicts(rows: Rows, similarity_min: float, limit: int) -> list[Conflict]:
    """Find the most similar pairs of utterances of different routes; blocks.

    Args:
        rows: From ``copy_rows``.
        similarity_min: Least cosine similarity.
        limit: Most pairs to give, highest first.
    """
    best: list[tuple[float, int, int]] = []
    for start in range(0, len(rows.vectors), _ROWS_AT_ONCE):
        part = rows.vectors[start : start + _ROWS_AT_ONCE]
        similarities = part @ rows.vectors[start:].T
        is_other = rows.owners[start : start + len(part), np.newaxis] != rows.owners[start:]
        is_later = np.arange(len(part))[:, np.newaxis] < np.arange(len(rows.vectors) - start)
        first, second = np.nonzero((similarities >= similarity_min) & is_other & is_later)
        values = similarities[first, second]
        if len(values) > limit:
            kept = np.argpartition(-values, limit)[:limit]
            first, second, values = first[kept], second[kept], values[kept]
        pairs = zip(
            values.tolist(), (first + start).tolist(), (second + start).tolist(), strict=True
        )
        best = heapq.nlargest(limit, [*best, *pairs])
    return [
        Conflict(
            rows.routes[int(rows.owners[one])],
            rows.utterances[one],
            rows.routes[int(rows.owners[two])],
            rows.utterances[two],
            round(min(1.0, value), 4),
        )
        for value, one, two in best
    ]
