"""Exact arithmetic: results that no machine, batch or order of work can change."""

from __future__ import annotations

import math

import numpy as np
import pytest

from naive_scoring import add_by_halving, naive_dot
from route_sets import unit_rows
from synaptoroute.exact import (
    GRID,
    FewDots,
    byte_error,
    byte_steps,
    dot_error,
    dots,
    row_dots,
    to_bytes,
    to_digits,
    to_grid,
    tree_sum,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 384, 385])
def test_tree_sum_adds_by_halving(width: int) -> None:
    terms = np.random.default_rng(0).standard_normal((4, width))
    expected = [add_by_halving(row.tolist()) for row in terms]

    assert expected == tree_sum(terms.copy()).tolist()


def test_dot_does_not_depend_on_other_rows() -> None:
    left, right = unit_rows(50, 384, 1), unit_rows(50, 384, 2)
    alone = [naive_dot(x, y) for x, y in zip(left, right, strict=True)]

    assert alone == dots(left, right).tolist()
    assert alone[::-3] == dots(left[::-3], right[::-3]).tolist()


def test_few_dots_equal_dots() -> None:
    """Reused arrays change no bit, nor do more shapes than are kept."""
    few_dots = FewDots()
    for seed, dim in enumerate((1, 2, 3, 5, 100, 384, 1)):
        query = unit_rows(1, dim, seed)
        for count in (*range(1, 41), 3, 7):
            rows = unit_rows(count, dim, 100 * seed + count)
            found = few_dots(rows, query.T.astype(np.float64))

            assert dots(rows, query).tolist() == found


def test_row_dots_equal_dots() -> None:
    for seed, dim in enumerate((1, 2, 5, 100, 130, 258, 384, 768, 1_023)):
        rows, asked = unit_rows(33, dim, seed), unit_rows(33, dim, 100 + seed)

        found = row_dots(rows, asked.astype(np.float64))

        assert found.tolist() == dots(rows, asked).tolist()
        assert (
            row_dots(rows, asked[:1].astype(np.float64)).tolist() == dots(rows, asked[:1]).tolist()
        )


def test_float32_products_stay_within_the_bound() -> None:
    """BLAS is within the proven error, which is small, in any batch size."""
    rows, queries = unit_rows(500, 384, 3), unit_rows(16, 384, 4)
    exact = dots(np.repeat(rows, 16, axis=0), np.tile(queries, (500, 1))).reshape(500, 16)
    bound = dot_error(384)

    assert bound < 3e-5
    for batch in (1, 2, 7, 16):
        assert np.abs(rows @ queries[:batch].T - exact[:, :batch]).max() < bound


def test_grid_sums_do_not_depend_on_history() -> None:
    """Rows that are added and subtracted again leave the exact sum."""
    rows = to_grid(unit_rows(300, 16, 5))
    total = rows.sum(axis=0)
    detour = np.zeros(16)
    for row in rows[::-1]:
        detour += row
    for row in rows[:100]:
        detour -= row
    for row in rows[:100]:
        detour += row

    assert total.tolist() == detour.tolist()
    assert [math.fsum(column) for column in rows.T] == total.tolist()


def test_grid_moves_a_component_by_half_a_step_at_most() -> None:
    rows = unit_rows(100, 16, 6)

    assert np.abs(to_grid(rows) - rows).max() <= GRID / 2


@pytest.mark.parametrize("dim", [1, 5, 384, 1_024])
@pytest.mark.parametrize("digit_max", [63, 127])
def test_byte_products_stay_within_the_bound(dim: int, digit_max: int) -> None:
    rows, queries = unit_rows(300, dim, 3), unit_rows(8, dim, 4)
    rows[0] = np.eye(1, dim)  # components that do not fit are cut off
    rows[1], queries[0] = -rows[0], rows[0]
    rounded = np.empty(rows.shape, np.int8)
    lost, sums = to_bytes(rows, rounded)
    digits, sizes, query_lost = to_digits(queries, digit_max)
    whole = rounded.astype(np.int64) @ digits.T.astype(np.int64)
    found = whole * (sizes / byte_steps(dim))
    exact = rows.astype(np.float64) @ queries.astype(np.float64).T
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)

    assert np.abs(digits).max() == digit_max
    assert rounded.sum(axis=1, dtype=np.int64).tolist() == sums.tolist()
    for row in range(len(rows)):
        bound = byte_error(float(lost[row]), lengths, query_lost)
        assert (np.abs(found[row] - exact[row]) <= bound).all()


def test_bytes_lose_little_of_a_typical_row() -> None:
    """About a hundredth: little enough to leave few candidates."""
    rows = unit_rows(500, 384, 3)
    lost, _ = to_bytes(rows, np.empty(rows.shape, np.int8))
    _, _, query_lost = to_digits(rows, 127)

    assert 0.01 < lost.max() < 0.03
    assert query_lost.max() < 0.015


def test_reported_loss_is_never_too_small() -> None:
    """The rounding of the measurement itself is included."""
    rows = unit_rows(2_000, 384, 8)
    rounded = np.empty(rows.shape, np.int8)
    lost, _ = to_bytes(rows, rounded)
    steps = byte_steps(384)
    back = rounded.astype(np.float64) / steps
    truth = np.linalg.norm(back - rows.astype(np.float64), axis=1)

    assert (truth <= lost).all()
    assert (lost <= truth * 1.001 + 1e-5).all()
