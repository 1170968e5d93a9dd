"""Shortlists of a batch: the same bits as each query has by the definition of its score."""

from __future__ import annotations

import numpy as np
import pytest

from synaptoroute.cascade.lda_projection import LdaProjection
from synaptoroute.cascade.shortlists import SHORTLIST_ROUTES, column_product, product
from synaptoroute.cascade.static_routes import (
    NEAR_ROWS_MAX,
    MarginGuard,
    StaticRoutes,
    centroid_of,
)
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import Revision, Settings

pytestmark = pytest.mark.unit

DIM = 24
AT = Revision(1, 1)
EASY = MarginGuard(margin=0.0, slope=0.0, floor=-1.0, scale=1.0, offset=0.0)


def some_rows(random: np.random.Generator, count: int) -> np.ndarray:
    return random.integers(-100, 100, (count, DIM)).astype(np.int8)


def record_of(number: int, slot: int, count: int) -> RouteRecord:
    texts = tuple(f"{number}-{at}" for at in range(count))
    slots = tuple(range(slot, slot + count))
    return RouteRecord(number, f"r{number}", slots, texts, None, "{}", "null", AT)


def loaded(
    counts: list[int], random: np.random.Generator, projection: LdaProjection | None = None
) -> tuple[StaticRoutes, list[np.ndarray]]:
    routes = StaticRoutes(DIM, Settings(threshold=-1.0), AT, projection)
    rows = [some_rows(random, count) for count in counts]
    slots = np.cumsum([0, *counts]).tolist()
    routes.load(map(record_of, range(len(counts)), slots, counts), rows)
    return routes, rows


def by_definition(query: np.ndarray, rows: dict[int, np.ndarray]) -> list[tuple[float, int]]:
    """Scores of the routes with the nearest centroids, highest first, with whole numbers."""
    length = np.sqrt(float((query.astype(np.int64) ** 2).sum()))

    def cosines(others: np.ndarray) -> np.ndarray:
        whole = others.astype(np.int64)
        products: np.ndarray = whole @ query.astype(np.int64)
        found: np.ndarray = products / np.sqrt((whole**2).sum(axis=1).astype(float))
        return found

    centred = {number: cosines(centroid_of(own)[None])[0] for number, own in rows.items()}
    least = sorted(centred.values())[-SHORTLIST_ROUTES:][0]
    found = [
        (((cosines(own) / length).max() + centred[number] / length) / 2.0, number)
        for number, own in rows.items()
        if centred[number] >= least
    ]
    return sorted(found, key=lambda each: (-each[0], each[1]))


@pytest.mark.parametrize("is_projected", [False, True])
def test_scores_have_the_bits_of_the_definition(is_projected: bool) -> None:
    """In batches of any size, also with free ids, large routes and equal centroids."""
    random = np.random.default_rng(3)
    factors = some_rows(random, DIM)[:, :10]
    projection = LdaProjection(factors) if is_projected else None
    routes, rows = loaded([3, 1, 500, 4, 9, 2, 7, 1, 12, 5], random, projection)
    twin = record_of(10, 544, 3)
    routes.load([twin], [rows[0]])
    routes._drop(record_of(3, 0, 1))
    kept = {number: own for number, own in enumerate([*rows, rows[0]]) if number != 3}
    queries = some_rows(random, 41)
    if projection is not None:
        kept = {number: projection.apply(own) for number, own in kept.items()}
    seen = queries if projection is None else projection.apply(queries)

    for size in (1, 2, 7, 41):
        for start in range(0, len(queries), size):
            found = routes._shortlists(queries[start : start + size])
            for query, row in enumerate(seen[start : start + size]):
                expected = by_definition(row, kept)
                assert found.scores_of(query) == [score for score, _ in expected]
                ids = [found.route_ids[pair] for pair in found.pairs_of(query)]
                assert ids == [number for _, number in expected]


def test_rows_that_are_kept_are_bounded_and_follow_the_routes() -> None:
    random = np.random.default_rng(4)
    counts = [NEAR_ROWS_MAX // 4] * 6
    routes, _ = loaded(counts, random)
    for number in range(6):
        routes._near_of(number)
    assert routes._near_rows <= NEAR_ROWS_MAX
    assert routes._near_rows == sum(map(len, routes._near.values())) > 0

    for number in range(6):
        routes._put(record_of(number, 0, 2), some_rows(random, 2))
    assert routes._near_rows == 0
    assert routes._rows_count == 12


def test_query_without_a_direction_is_not_answered() -> None:
    """Nor do the others of its batch get other answers."""
    random = np.random.default_rng(5)
    routes, _ = loaded([2, 3, 4], random)
    queries = some_rows(random, 3)
    queries[1] = 0

    found = routes.evaluate(queries, EASY, [1, 1, 1])

    assert [each.is_sure for each in found] == [True, False, True]
    assert found[1].margin is None
    assert found[2] == routes.evaluate(queries[2:], EASY, [1])[0]
    assert not routes.evaluate(queries[1:2], EASY, [1])[0].is_sure


def test_products_are_the_same_in_blocks() -> None:
    random = np.random.default_rng(6)
    rows = random.integers(-127, 128, (300, 96)).astype(np.float32)
    queries = random.integers(-127, 128, (40, 96)).astype(np.float32)

    whole = queries.astype(np.int64) @ rows.astype(np.int64).T

    assert (product(queries, rows.T) == whole).all()
    assert (column_product(rows, queries[0]) == whole[0]).all()
