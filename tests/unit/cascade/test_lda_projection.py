"""The projection brings texts of a route together, exactly, and is read back from the log."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from synaptoroute.cascade import LdaProjection, read_projection
from synaptoroute.cascade.lda_projection import PROJECTED_DIM_MAX, STATIC_DIM_MAX, fit_projection

pytestmark = pytest.mark.unit

DIM = STATIC_DIM_MAX


def small_talk(routes: int, each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Routes that differ a little, in texts that differ much in other directions."""
    random = np.random.default_rng(seed)
    owners = np.repeat(np.arange(routes), each)
    places = random.standard_normal((routes, DIM))[owners]
    noise = random.standard_normal((len(owners), 20)) @ random.standard_normal((20, DIM))
    rows = 6.0 * places + 9.0 * noise + random.standard_normal((len(owners), DIM))
    return np.clip(np.rint(rows), -127, 127).astype(np.int8), owners


def right_share(rows: np.ndarray, owners: np.ndarray, queries: np.ndarray) -> float:
    """Queries, one a row and of its route, whose nearest mean is their own."""
    rows, queries = rows.astype(float), queries.astype(float)
    means = np.stack([rows[owners == route].mean(axis=0) for route in range(owners[-1] + 1)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return float(((queries @ means.T).argmax(axis=1) == owners).mean())


@pytest.mark.parametrize("routes", [3, 12, 150])
def test_projection_separates_routes_better(routes: int) -> None:
    """It does on rows that it was not fitted to, also with few routes."""
    rows, owners = small_talk(routes, 2 * max(8, 120 // routes))
    known = np.arange(len(owners)) % 2 == 0
    projection = fit_projection(rows[known], owners[known])
    projected = projection.apply(rows)

    before = right_share(rows[known], owners[known], rows[~known])
    after = right_share(projected[known], owners[known], projected[~known])

    assert before < 0.9
    assert after > 0.97


def test_projection_of_a_row_does_not_depend_on_the_batch() -> None:
    """The result is exact, and a row of zeros stays zero."""
    rows, owners = small_talk(9, 5)
    rows[7] = 0
    projection = fit_projection(rows, owners)
    sums = rows.astype(np.int64) @ projection.factors.astype(np.int64)
    lengths = np.sqrt((sums**2).sum(axis=1).astype(float))
    expected = np.clip(np.rint(sums * (254 / np.maximum(lengths, 1))[:, np.newaxis]), -127, 127)

    projected = projection.apply(rows)

    assert np.int8 == projected.dtype
    assert (expected == projected).all()
    for row, found in zip(rows, projected, strict=True):
        assert (projection.apply(row[np.newaxis])[0] == found).all()


def test_largest_products_are_exact() -> None:
    """The largest sum of products and the largest sum of squares are exact."""
    projection = LdaProjection(np.full((STATIC_DIM_MAX, PROJECTED_DIM_MAX), -127, np.int8))
    row = np.full(STATIC_DIM_MAX, 127, np.int8)
    sum_max = 127 * 127 * STATIC_DIM_MAX

    assert sum_max < 2**24
    assert sum_max**2 * PROJECTED_DIM_MAX < 2**53
    assert {round(-254 / PROJECTED_DIM_MAX**0.5)} == set(
        projection.apply(row[np.newaxis])[0].tolist()
    )


def test_equal_route_sets_give_equal_projections() -> None:
    """Gaps in the route ids change nothing."""
    rows, owners = small_talk(6, 8)

    assert fit_projection(rows, owners).dump() == fit_projection(rows, 3 * owners + 1).dump()


def test_projection_round_trips_through_the_log() -> None:
    """It is written as text."""
    projection = fit_projection(*small_talk(6, 8))
    found = read_projection(projection.dump(), DIM)

    assert found is not None
    assert (projection.factors == found.factors).all()
    assert PROJECTED_DIM_MAX == found.dim


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not base64",
        "AAAA",
        base64.b64encode(bytes(DIM + 1)).decode(),
        base64.b64encode(bytes(DIM * (PROJECTED_DIM_MAX + 1))).decode(),
    ],
)
def test_malformed_projection_is_rejected(text: str) -> None:
    """The reader returns None."""
    assert read_projection(text, DIM) is None


def test_equal_rows_give_a_projection_of_zeros() -> None:
    """Routes without differences are no error."""
    projection = fit_projection(np.zeros((6, DIM), np.int8), np.repeat(np.arange(3), 2))

    assert not projection.apply(np.ones((1, DIM), np.int8)).any() or projection.factors.any()
