"""The cost model for any batches: always bounded, and right where there is a true cost."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.serving.admission import (
    BATCH_SECONDS_MAX,
    OUTLIER,
    STRETCH_MAX,
    STRETCH_MIN,
    TOKEN_SECONDS_MAX,
    TOKEN_SECONDS_MIN,
    CompletionRate,
    CostModel,
)

pytestmark = pytest.mark.property

BATCHES = st.tuples(
    st.integers(-5, 100_000),
    st.integers(-5, 1_000_000),
    st.floats(allow_nan=True, allow_infinity=True),
)
TRUTHS = st.tuples(st.floats(1e-5, 1e-3), st.floats(0.0, 0.02))
SIZES = st.lists(st.integers(8, 768), min_size=60, max_size=120).filter(
    lambda sizes: max(sizes) > 2 * min(sizes)
)


@given(st.lists(BATCHES, max_size=80), st.lists(st.tuples(st.floats(), st.floats()), max_size=40))
def test_calibration_figures_stay_within_their_bounds(
    batches: list[tuple[int, int, float]], waits: list[tuple[float, float]]
) -> None:
    """Impossible values and outliers never give a negative or infinite wait."""
    model = CostModel()
    for batch in batches:
        model.learn(*batch)
    for wait in waits:
        model.compare(*wait)

    assert TOKEN_SECONDS_MIN <= model.token_seconds <= TOKEN_SECONDS_MAX
    assert 0.0 <= model.batch_seconds <= BATCH_SECONDS_MAX
    assert STRETCH_MIN <= model.stretch <= STRETCH_MAX
    wait = model.wait_seconds(1_000_000, 10_000, 2, 64)
    assert 0.0 < wait < math.inf


@given(TRUTHS, SIZES)
def test_costs_are_learned(truth: tuple[float, float], sizes: list[int]) -> None:
    """Batches of exact costs give these costs."""
    token_seconds, batch_seconds = truth
    model = CostModel()
    for size in sizes:
        model.learn(size, 4 * size, batch_seconds + token_seconds * size)

    for size in (min(sizes), max(sizes)):
        assert pytest.approx(batch_seconds + token_seconds * size, rel=0.05) == (
            model.batch_cost(size)
        )


@given(TRUTHS, st.integers(8, 768))
def test_cost_is_learned_from_batches_of_one_size(truth: tuple[float, float], size: int) -> None:
    """The two costs cannot be told apart, but their sum is right."""
    model = CostModel()
    for _ in range(30):
        model.learn(size, size, truth[1] + truth[0] * size)

    assert pytest.approx(truth[1] + truth[0] * size, rel=1e-6) == model.batch_cost(size)


@given(SIZES, st.floats(1.0, 1e9))
def test_one_outlier_changes_the_cost_little(sizes: list[int], pause_seconds: float) -> None:
    """A process that was stopped during a batch does not refuse queries afterwards."""
    model = CostModel()
    for size in sizes:
        model.learn(size, size, 1e-4 * size)
    middle = sum(sizes) // len(sizes)
    before = model.batch_cost(middle)

    model.learn(middle, middle, pause_seconds)

    assert model.batch_cost(middle) <= before * OUTLIER / 2


@given(st.floats(1.5, 50.0))
def test_slower_machine_raises_the_cost(times: float) -> None:
    """The model follows after some tens of batches."""
    model = CostModel()
    for turn in range(400):
        size = 8 + 37 * turn % 700
        model.learn(size, size, 1e-4 * size * (times if turn >= 100 else 1.0))

    assert pytest.approx(1e-4 * times * 300, rel=0.1) == model.batch_cost(300)


@given(st.integers(0, 10_000), st.integers(0, 200), st.integers(1, 64))
def test_more_queued_work_never_lowers_the_forecast(
    characters: int, texts: int, lanes: int
) -> None:
    """It grows with characters, and falls with workers."""
    model = CostModel()
    for size in (8, 64, 512) * 10:
        model.learn(size, 4 * size, 0.002 + 1e-4 * size)
    wait = model.wait_seconds(characters, texts, lanes, 64)

    assert wait <= model.wait_seconds(characters + 10, texts, lanes, 64)
    assert model.wait_seconds(characters, texts, lanes + 1, 64) <= wait


def test_measured_waits_correct_the_forecast() -> None:
    """Waits twice as long as predicted double the prediction."""
    model = CostModel()
    for size in (8, 64, 512) * 10:
        model.learn(size, size, 1e-4 * size)
    truth = 2 * model.wait_seconds(1_000, 10, 1, 64)
    for _ in range(200):
        model.compare(model.wait_seconds(1_000, 10, 1, 64), truth)

    assert pytest.approx(truth, rel=0.01) == model.wait_seconds(1_000, 10, 1, 64)


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0.0, 1e6)), max_size=50))
def test_rate_is_never_below_one(completions: list[tuple[int, float]]) -> None:
    """A retry-after is always finite."""
    rate, now = CompletionRate(0.0), 0.0
    for count, pause in completions:
        now += pause
        rate.completed(count, now - 0.5, now)

    assert 1.0 <= rate.per_second < math.inf
