"""Shortlists of queries: the routes with the nearest centroids, compared utterance by utterance.

Queries of a batch share the calls into the arrays; each gets what it would get alone.  Rows are
whole numbers, and float32 adds a product of two rows without error in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Int8s: TypeAlias = NDArray[np.int8]
Float32s: TypeAlias = NDArray[np.float32]
Float64s: TypeAlias = NDArray[np.float64]
Indexes: TypeAlias = NDArray[np.intp]

SHORTLIST_ROUTES: Final = 6
EMPTY: Final = -9.0
"""Below every score; unlike minus infinity, two of them have a difference."""
QUERIES_A_PRODUCT: Final = 8
"""OpenBLAS splits larger products among threads, and the caller would wait for them."""
_TERMS_A_PRODUCT_MAX: Final = 262_144
_TERMS_A_COLUMN_MAX: Final = 9_000
"""The same of a product with one column."""
_GROWTH: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class Shortlists:
    """The shortlists of a batch of queries.

    A pair is a query and a route of its shortlist; pairs are in the order of the queries, then of
    the ids of the routes.

    Attributes:
        firsts: First pair of each query, then the number of pairs.
        route_ids: Route of each pair.
        scores: Score of each pair.
        ordered: Scores of each query, highest first; ``EMPTY`` for an empty place.
        similarities: Products of the queries with the rows of the pairs, divided by the lengths of
            the rows, float64[rows].
        starts: First row of each pair, then the number of rows.
        lengths: Length of each query.
    """

    firsts: list[int]
    route_ids: list[int]
    scores: list[float]
    ordered: list[list[float]]
    similarities: Float64s
    starts: list[int]
    lengths: list[float]

    def is_listed(self, query: int) -> bool:
        """Whether a query has a shortlist."""
        return self.firsts[query] < self.firsts[query + 1]

    def pairs_of(self, query: int) -> list[int]:
        """Pairs of a query, the highest score first, of equals the lowest id."""
        pairs = range(self.firsts[query], self.firsts[query + 1])
        return sorted(pairs, key=self.scores.__getitem__, reverse=True)

    def scores_of(self, query: int) -> list[float]:
        """Scores of a query, highest first."""
        return self.ordered[query][: self.firsts[query + 1] - self.firsts[query]]

    def nearest_row(self, query: int, pair: int) -> tuple[int, float]:
        """Find the most similar row of a pair, the first of equals, and its similarity."""
        own = self.similarities[self.starts[pair] : self.starts[pair + 1]] / self.lengths[query]
        at = int(own.argmax())
        return at, own.item(at)


class RouteCentroids:
    """Centroids by the ids of their routes; one thread at a time."""

    def __init__(self, dim: int) -> None:
        self._centroids: Float32s = np.zeros((0, dim), np.float32)
        self._lengths: Float64s = np.zeros(0)
        self._lowest: Float64s = np.zeros(0)
        self._free = 0  # Ids without a route

    def copy(self) -> RouteCentroids:
        copied = RouteCentroids(self._centroids.shape[1])
        copied._centroids, copied._lengths = self._centroids.copy(), self._lengths.copy()
        copied._lowest, copied._free = self._lowest.copy(), self._free
        return copied

    def put(self, route_id: int, centroid: Float32s) -> None:
        self._reserve(route_id + 1)
        self._free -= self._lowest.item(route_id) != 0.0
        self._centroids[route_id] = centroid
        self._lengths[route_id] = lengths_of(centroid[np.newaxis])[0]
        self._lowest[route_id] = 0.0

    def drop(self, route_id: int) -> None:
        self._centroids[route_id] = 0.0
        # An infinite length and a lowest score of minus infinity keep the free id off every
        # shortlist without a branch.
        self._lengths[route_id] = np.inf
        self._lowest[route_id] = -np.inf
        self._free += 1

    def near(self, queries: Float32s) -> tuple[Float64s, NDArray[np.bool_]]:
        """Compare queries with all centroids.

        Args:
            queries: float32[n, dim].

        Returns:
            Products divided by the lengths of the centroids, float64[n, ids], and the shortlist of
            each query, bool[n, ids].
        """
        centred = product(queries, self._centroids.T) / self._lengths
        return centred, nearest_routes(centred + self._lowest if self._free else centred)

    def nearest(self, query: Float32s) -> tuple[Float64s, list[int]]:
        """As ``near`` for one query, float32[dim], and the ids of its shortlist."""
        centred: Float64s = product(query[np.newaxis], self._centroids.T)[0] / self._lengths
        if self._free or len(centred) <= SHORTLIST_ROUTES:
            chosen = nearest_routes(centred + self._lowest)
        else:
            leading = centred.copy()
            leading.partition(len(leading) - SHORTLIST_ROUTES)
            chosen = centred >= leading.item(len(leading) - SHORTLIST_ROUTES)
        ids: list[int] = chosen.nonzero()[0].tolist()
        return centred, ids

    def _reserve(self, routes: int) -> None:
        missing = routes - len(self._lengths)
        if missing > 0:
            missing = max(missing, len(self._lengths) * (_GROWTH - 1))
            empty = np.zeros((missing, self._centroids.shape[1]), np.float32)
            self._centroids = np.concatenate([self._centroids, empty])
            self._lengths = np.concatenate([self._lengths, np.full(missing, np.inf)])
            self._lowest = np.concatenate([self._lowest, np.full(missing, -np.inf)])
            self._free += missing


def shortlists_of(
    query_of: Indexes,
    route_of: Indexes,
    centred: Float64s,
    queries: Float32s,
    lengths: Float64s,
    rows: Sequence[tuple[Float32s, Float64s]],
) -> Shortlists:
    """Compare queries with the utterances of their shortlists.

    Args:
        query_of: Query of each pair, ascending.
        route_of: Route of each pair.
        centred: See ``RouteCentroids.near``.
        queries: float32[n, dim].
        lengths: Of the queries, float64[n].
        rows: Of the routes of all pairs in their order: float32[count, dim] and their lengths.
    """
    count, owners = len(queries), query_of.tolist()
    firsts = [0, *accumulate(np.bincount(query_of, minlength=count).tolist())]
    if not owners:
        ordered = [[EMPTY, EMPTY]] * count
        return Shortlists(firsts, [], [], ordered, np.zeros(0), [0], lengths.tolist())
    counts, vectors = [len(near) for near, _ in rows], list(queries)
    if max(counts) <= _TERMS_A_COLUMN_MAX // queries.shape[1]:
        products = [near.dot(vectors[at]) for at, (near, _) in zip(owners, rows, strict=True)]
    else:
        products = [
            column_product(near, vectors[at]) for at, (near, _) in zip(owners, rows, strict=True)
        ]
    similarities = np.concatenate(products) / np.concatenate([each for _, each in rows])
    starts = [0, *accumulate(counts)]
    # The largest is divided, not each: division by a positive number keeps their order.
    scores = np.maximum.reduceat(similarities, starts[:-1])
    length_of = lengths.take(query_of)
    scores /= length_of
    scores += centred[query_of, route_of] / length_of
    scores /= 2.0
    return Shortlists(
        firsts,
        route_of.tolist(),
        scores.tolist(),
        _ordered(scores, query_of, firsts),
        similarities,
        starts,
        lengths.tolist(),
    )


def shortlist_of(
    route_ids: list[int],
    centred: Float64s,
    query: Float32s,
    length: float,
    rows: Sequence[tuple[Float32s, Float64s]],
) -> Shortlists:
    """As ``shortlists_of`` for one query, the same bits in fewer calls.

    Args:
        route_ids: Its shortlist, ascending, not empty.
        centred: See ``RouteCentroids.nearest``.
        query: float32[dim].
    """
    counts = [len(near) for near, _ in rows]
    if max(counts) <= _TERMS_A_COLUMN_MAX // len(query):
        products = [near.dot(query) for near, _ in rows]
    else:
        products = [column_product(near, query) for near, _ in rows]
    similarities = np.concatenate(products) / np.concatenate([each for _, each in rows])
    starts = [0, *accumulate(counts)]
    scores = [
        (largest / length + centred.item(route_id) / length) / 2.0
        for largest, route_id in zip(
            np.maximum.reduceat(similarities, starts[:-1]).tolist(), route_ids, strict=True
        )
    ]
    return Shortlists(
        [0, len(route_ids)],
        route_ids,
        scores,
        [sorted(scores, reverse=True)],
        similarities,
        starts,
        [length],
    )


def _ordered(scores: Float64s, query_of: Indexes, firsts: list[int]) -> list[list[float]]:
    """Sort the scores of each query; see ``Shortlists``."""
    count, listed = len(firsts) - 1, max(stop - start for start, stop in pairwise(firsts))
    if len(scores) == count * listed:
        ordered = scores.reshape(count, listed).copy()
    else:
        ordered = np.full((count, listed), EMPTY)
        ordered[query_of, np.arange(len(scores)) - np.array(firsts)[query_of]] = scores
    ordered.sort(axis=1)
    found: list[list[float]] = ordered[:, ::-1].tolist()
    return found


def nearest_routes(centred: Float64s) -> NDArray[np.bool_]:
    """Choose the routes with the nearest centroids, and all that tie with the last of them.

    Args:
        centred: Similarity to each centroid, float64[..., routes]; minus infinity for
            an id without a route.
    """
    if centred.shape[-1] <= SHORTLIST_ROUTES:
        return centred > -np.inf
    leading = centred.copy()
    leading.partition(-SHORTLIST_ROUTES)
    least = leading[..., -SHORTLIST_ROUTES, np.newaxis]
    chosen: NDArray[np.bool_] = centred >= least
    if least.min(initial=0.0) == -np.inf:
        chosen &= centred > -np.inf
    return chosen


def product(rows: Float32s, factors: Float32s) -> Float32s:
    """Multiply ``rows @ factors`` on this thread alone."""
    block = max(1, min(QUERIES_A_PRODUCT, _TERMS_A_PRODUCT_MAX // max(1, factors.size)))
    if len(rows) <= block:
        return rows @ factors
    found = np.empty((len(rows), factors.shape[1]), np.float32)
    for start in range(0, len(rows), block):
        np.matmul(rows[start : start + block], factors, out=found[start : start + block])
    return found


def column_product(rows: Float32s, query: Float32s) -> Float32s:
    """Multiply ``rows @ query`` on this thread alone: float32[n]."""
    block = max(1, _TERMS_A_COLUMN_MAX // len(query))
    if len(rows) <= block:
        found: Float32s = rows.dot(query)
        return found
    starts = range(0, len(rows), block)
    return np.concatenate([rows[start : start + block].dot(query) for start in starts])


def lengths_of(rows: Int8s | Float32s) -> Float64s:
    """Lengths of rows of integers, float64[n]; infinite for a row of zeros."""
    whole = rows.astype(np.float64)
    lengths: Float64s = np.sqrt(np.einsum("ij,ij->i", whole, whole))
    lengths[lengths == 0.0] = np.inf
    return lengths
