"""Clusters of texts by their embeddings: what kinds of queries no route takes.

Texts are merged bottom-up by the cosine of the clusters' centroids, nearest pair first, until
no pair is as similar as ``similarity_min``.  Equal inputs give equal clusters: ties go to the
pair of the lowest indices, and texts are put in a fixed order first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

TEXTS_MAX: Final = 1_000
"""More texts are not clustered at once: the work grows with their square."""
SIMILARITY_MIN: Final = 0.55
SHOWN_MAX: Final = 5
_DIGITS: Final = 5
"""Similarities are rounded, so that the last bits of a product decide nothing."""


@dataclass(frozen=True, slots=True)
class TextCluster:
    """Texts that mean nearly the same."""

    members: tuple[int, ...]  # Indices of its texts, nearest to the centroid first
    similarity: float  # Mean cosine of its members to the centroid


def cluster(
    vectors: NDArray[np.float32],
    weights: Sequence[int],
    similarity_min: float = SIMILARITY_MIN,
) -> list[TextCluster]:
    """Cluster texts, the largest cluster first.

    Args:
        vectors: float32[n, dim], unit rows, at most ``TEXTS_MAX``.
        weights: How often each text occurs, for the size of a cluster.
        similarity_min: Lowest cosine of two centroids that are merged.
    """
    count = len(vectors)
    if count == 0:
        return []
    sums = vectors.astype(np.float64)
    members: list[list[int]] = [[index] for index in range(count)]
    similar = np.round(sums @ sums.T, _DIGITS)
    np.fill_diagonal(similar, -np.inf)
    nearest = similar.argmax(axis=1)
    highest = similar[np.arange(count), nearest]
    while True:
        first = int(highest.argmax())
        if highest[first] < similarity_min:
            break
        second = int(nearest[first])
        first, second = min(first, second), max(first, second)
        members[first] += members[second]
        members[second] = []
        sums[first] += sums[second]
        _merge(sums, similar, members, first, second)
        # Only rows whose nearest cluster changed are searched again.
        changed = [
            row
            for row in range(count)
            if members[row] and (row == first or nearest[row] in (first, second))
        ]
        highest[second] = -np.inf
        for row in changed:
            nearest[row] = int(similar[row].argmax())
            highest[row] = similar[row, nearest[row]]
        better = (similar[:, first] > highest) & np.array([bool(each) for each in members])
        nearest[better], highest[better] = first, similar[better, first]
    found = [_described(vectors, sums[row], each) for row, each in enumerate(members) if each]
    size = [sum(weights[index] for index in each.members) for each in found]
    order = sorted(range(len(found)), key=lambda at: (-size[at], min(found[at].members)))
    return [found[at] for at in order]


def _merge(
    sums: NDArray[np.float64],
    similar: NDArray[np.float64],
    members: list[list[int]],
    first: int,
    second: int,
) -> None:
    """Update the similarities after the cluster ``second`` was merged into ``first``."""
    norms = np.maximum(np.linalg.norm(sums, axis=1), 1e-12)
    row = np.round(sums @ sums[first] / (norms * norms[first]), _DIGITS)
    row[[not each for each in members]] = -np.inf
    row[first] = -np.inf
    similar[first], similar[:, first] = row, row
    similar[second], similar[:, second] = -np.inf, -np.inf


def _described(
    vectors: NDArray[np.float32], total: NDArray[np.float64], members: list[int]
) -> TextCluster:
    centroid = total / max(float(np.linalg.norm(total)), 1e-12)
    near = np.round(vectors[members].astype(np.float64) @ centroid, _DIGITS)
    order = sorted(range(len(members)), key=lambda at: (-near[at], members[at]))
    return TextCluster(tuple(members[at] for at in order), round(float(near.mean()), _DIGITS))
