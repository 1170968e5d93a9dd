"""Tests of the confidence of routes."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from synaptoroute.decision.batch_confidences import batch_confidences
from synaptoroute.decision.calibration import DecisionCalibration
from synaptoroute.decision.many_confidences import many_confidences
from synaptoroute.decision.probability import (
    BEST_ROUTES,
    confidences,
    exp,
    log,
    none_odds,
)

LEVELS = DecisionCalibration("1.1", "f", "blend", 10, 100, 25.0, 0.75, 0.12, 0.38, 0.16, 0.5, 0.4)


def test_exp_and_log_are_those_of_the_library_within_some_last_places() -> None:
    draw = random.Random(0)
    for _ in range(2_000):
        power = draw.uniform(-600.0, 600.0)
        assert exp(power) == pytest.approx(math.exp(power), rel=1e-14)
        number = math.exp(draw.uniform(-30.0, 30.0))
        assert log(number) == pytest.approx(math.log(number), rel=1e-14, abs=1e-15)
    assert exp(0.0) == 1.0
    assert log(1.0) == 0.0
    assert exp(-1e9) == 0.0
    assert math.isfinite(exp(1e9))


def test_confidences_are_a_softmax_and_a_density_ratio() -> None:
    scores = [0.8, 0.6, 0.55, 0.3]
    found, p_none = confidences(scores, LEVELS, 0.1)
    weights = [math.exp(25.0 * score) for score in scores]
    level = math.log(sum(weights)) / 25.0

    def density(at: float, mean: float, deviation: float) -> float:
        return math.exp(-0.5 * ((at - mean) / deviation) ** 2) / deviation

    inside, outside = 0.9 * density(level, 0.75, 0.12), 0.1 * density(level, 0.38, 0.16)
    # The odds do not rise again beyond the level where they are least.
    turn = (0.75 / 0.12**2 - 0.38 / 0.16**2) / (1.0 / 0.12**2 - 1.0 / 0.16**2)
    assert level < turn
    odds = outside / inside
    assert p_none == pytest.approx(odds / (1.0 + odds))
    expected = [weight / sum(weights) * (1.0 - p_none) for weight in weights]
    assert found == pytest.approx(expected)


def test_confidences_and_p_none_add_up_to_one() -> None:
    draw = random.Random(1)
    for _ in range(200):
        scores = sorted((draw.uniform(-0.5, 1.3) for _ in range(BEST_ROUTES)), reverse=True)
        found, p_none = confidences(scores, LEVELS, draw.uniform(0.001, 0.9))
        assert sum(found) + p_none == pytest.approx(1.0)
        assert found == sorted(found, reverse=True)
        assert all(0.0 <= each <= 1.0 for each in (*found, p_none))


def test_routes_beyond_the_best_do_not_change_the_others() -> None:
    scores = [0.9 - 0.02 * place for place in range(BEST_ROUTES + 20)]
    found, p_none = confidences(scores, LEVELS, 0.1)
    best, p_best = confidences(scores[:BEST_ROUTES], LEVELS, 0.1)
    assert found[:BEST_ROUTES] == best
    assert p_none == p_best
    assert found[BEST_ROUTES] < found[BEST_ROUTES - 1]


def test_odds_of_none_never_rise_with_the_level() -> None:
    draw = random.Random(2)
    for _ in range(100):
        outside = draw.uniform(-0.2, 0.5)
        levels = DecisionCalibration(
            "", "", "blend", 0, 0, 20.0,
            outside + draw.uniform(0.0, 0.6), draw.uniform(0.01, 0.4),
            outside, draw.uniform(0.01, 0.4),
        )  # fmt: skip
        odds = [none_odds(step / 100.0, levels, 0.1) for step in range(-200, 300)]
        assert all(low >= high - 1e-9 for low, high in pairwise(odds))


def test_more_expected_strangers_lower_the_confidence() -> None:
    low, high = (confidences([0.6, 0.3], LEVELS, share)[1] for share in (0.05, 0.5))
    assert low < high


def test_wide_route_needs_a_lower_level() -> None:
    wide, _ = confidences([0.6, 0.3], LEVELS, 0.1, cohesion=0.2)
    narrow, _ = confidences([0.6, 0.3], LEVELS, 0.1, cohesion=0.8)
    assert wide[0] > narrow[0]


def test_no_route_is_certainly_none() -> None:
    assert confidences([], LEVELS, 0.1) == ([], 1.0)


@pytest.mark.parametrize("deviations", [(0.12, 0.16), (0.2, 0.1), (0.15, 0.15)])
def test_confidences_of_many_queries_are_those_of_each(deviations: tuple[float, float]) -> None:
    near, far = deviations
    levels = replace(LEVELS, inside_deviation=near, outside_deviation=far)
    draw = np.random.default_rng(1)
    scores = -np.sort(-draw.uniform(-0.5, 1.3, (200, BEST_ROUTES)), axis=1)
    scores[:50, 3:] = -np.inf
    cohesion = np.where(draw.random(200) < 0.3, np.nan, draw.random(200))

    found = many_confidences(scores, levels, 0.2, cohesion)

    for row, values, own in zip(found, scores.tolist(), cohesion.tolist(), strict=True):
        kept = [value for value in values if value > -math.inf]
        expected, _ = confidences(kept, levels, 0.2, None if math.isnan(own) else own)
        assert row[: len(kept)] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert not row[len(kept) :].any()
    without = many_confidences(scores, levels, 0.2)[:, 0]
    assert without[0] == pytest.approx(confidences(scores[0, :3].tolist(), levels, 0.2)[0][0])


@pytest.mark.parametrize("deviations", [(0.12, 0.16), (0.2, 0.1), (0.15, 0.15), (1e-9, 3.0)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_confidences_of_a_batch_have_the_bits_of_each(
    deviations: tuple[float, float], scale: float
) -> None:
    near, far = deviations
    levels = replace(LEVELS, inside_deviation=near, outside_deviation=far)
    draw = np.random.default_rng(3)
    scores = -np.sort(-scale * draw.normal(size=(120, BEST_ROUTES + 4)), axis=1)
    counts = draw.integers(1, BEST_ROUTES + 5, 120).tolist()
    for row, count in zip(scores, counts, strict=True):
        row[count:] = -np.inf
    cohesion = np.where(draw.random(120) < 0.3, np.nan, draw.random(120))

    with np.errstate(all="raise", under="ignore"):
        shares, p_none = batch_confidences(scores, levels, 0.2, cohesion)

    for place, (count, own) in enumerate(zip(counts, cohesion.tolist(), strict=True)):
        listed = scores[place, :count].tolist()
        expected = confidences(listed, levels, 0.2, None if math.isnan(own) else own)
        assert (shares[place, :count].tolist(), p_none.item(place)) == expected
        assert not shares[place, count:].any()
