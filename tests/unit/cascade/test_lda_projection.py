"""Goal: a turn brings a route's texts together, exactly, and survives the log."""

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
def test_turned_rows_tell_routes_apart_better(routes: int) -> None:
    """On rows that it was not fitted to; with fewer routes than it has directions, too."""
    rows, owners = small_talk(routes, 2 * max(8, 120 // routes))
    known = np.arange(len(owners)) % 2 == 0
    turn = fit_projection(rows[known], owners[known])
    turned = turn.apply(rows)

    before = right_share(rows[known], owners[known], rows[~known])
    after = right_share(turned[known], owners[known], turned[~known])

    assert before < 0.9
    assert after > 0.97


def test_row_is_turned_alike_alone_and_in_company() -> None:
    """Bit for bit, and as whole numbers say; a row of zeros stays one."""
    rows, owners = small_talk(9, 5)
    rows[7] = 0
    turn = fit_projection(rows, owners)
    sums = rows.astype(np.int64) @ turn.factors.astype(np.int64)
    lengths = np.sqrt((sums**2).sum(axis=1).astype(float))
    expected = np.clip(np.rint(sums * (254 / np.maximum(lengths, 1))[:, np.newaxis]), -127, 127)

    turned = turn.apply(rows)

    assert np.int8 == turned.dtype
    assert (expected == turned).all()
    for row, found in zip(rows, turned, strict=True):
        assert (turn.apply(row[np.newaxis])[0] == found).all()


def test_products_stay_whole_numbers_at_the_worst() -> None:
    """The greatest sum of products, and the greatest sum of squares."""
    turn = LdaProjection(np.full((STATIC_DIM_MAX, PROJECTED_DIM_MAX), -127, np.int8))
    row = np.full(STATIC_DIM_MAX, 127, np.int8)
    sum_max = 127 * 127 * STATIC_DIM_MAX

    assert sum_max < 2**24
    assert sum_max**2 * PROJECTED_DIM_MAX < 2**53
    assert {round(-254 / PROJECTED_DIM_MAX**0.5)} == set(turn.apply(row[np.newaxis])[0].tolist())


def test_equal_route_sets_give_equal_turns() -> None:
    """On one machine; gaps in the routes' numbers change nothing."""
    rows, owners = small_talk(6, 8)

    assert fit_projection(rows, owners).dump() == fit_projection(rows, 3 * owners + 1).dump()


def test_turn_survives_the_log() -> None:
    """As text."""
    turn = fit_projection(*small_talk(6, 8))
    found = read_projection(turn.dump(), DIM)

    assert found is not None
    assert (turn.factors == found.factors).all()
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
def test_what_is_no_turn_is_told_apart(text: str) -> None:
    """Whoever wrote it."""
    assert read_projection(text, DIM) is None


def test_rows_without_differences_give_a_turn_of_zeros() -> None:
    """Nothing to tell apart is no error."""
    turn = fit_projection(np.zeros((6, DIM), np.int8), np.repeat(np.arange(3), 2))

    assert not turn.apply(np.ones((1, DIM), np.int8)).any() or turn.factors.any()
