"""The guarantee holds in simulation, and is refused where evidence is missing."""

from __future__ import annotations

import math
import random

import pytest

from synaptoroute.learning.curves import Judged
from synaptoroute.learning.guarantee import (
    TEXTS_MIN,
    TooFewTexts,
    binomial_tail,
    guaranteed_limit,
    min_answered,
)

pytestmark = pytest.mark.unit


def traffic(draw: random.Random, count: int) -> list[Judged]:
    """Texts that are wrong with probability (1 - confidence) / 2."""
    found = []
    for _ in range(count):
        value = draw.random()
        is_right = draw.random() >= (1.0 - value) / 2.0
        found.append(Judged("a", "a" if is_right else "b", value))
    return found


def test_tail_is_exact() -> None:
    expected = sum(math.comb(20, k) * 0.1**k * 0.9 ** (20 - k) for k in range(3))

    assert binomial_tail(20, 2, 0.1) == pytest.approx(expected, rel=1e-12)
    assert binomial_tail(5, 5, 0.1) == 1.0
    assert binomial_tail(20_000, 1_000, 0.05) == pytest.approx(0.5, abs=0.02)


def test_few_texts_are_refused() -> None:
    judged = [Judged("a", "a", 0.9)] * (TEXTS_MIN - 1)
    with pytest.raises(TooFewTexts, match="200"):
        guaranteed_limit(judged, 0.1, 0.1)


@pytest.mark.parametrize(("alpha", "delta"), [(0.0, 0.1), (1.0, 0.1), (0.1, 0.0), (math.nan, 0.1)])
def test_levels_out_of_range_are_refused(alpha: float, delta: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        guaranteed_limit([Judged("a", "a", 0.9)] * TEXTS_MIN, alpha, delta)


def test_perfect_answers_are_all_accepted() -> None:
    found = guaranteed_limit([Judged("a", "a", 0.9)] * TEXTS_MIN, 0.05, 0.1)

    assert found is not None
    assert (found.limit, found.answered, found.wrong) == (0.0, TEXTS_MIN, 0)


def test_random_answers_have_no_guarantee() -> None:
    judged = [Judged("a", "ab"[index % 2], index / 400) for index in range(400)]

    assert guaranteed_limit(judged, 0.1, 0.1) is None


def test_limit_starts_where_answers_are_enough_for_evidence() -> None:
    """The highest limits answer too few texts to show anything; they do not end the search."""
    judged = [Judged("a", "a", 0.5)] * TEXTS_MIN + [Judged("a", "b", 0.99)]
    found = guaranteed_limit(judged, 0.1, 0.1)

    assert found is not None
    assert found.limit == 0.0
    assert min_answered(0.1, 0.1) == 22


def test_error_of_new_texts_is_above_alpha_no_more_often_than_delta() -> None:
    """200 draws of 500 labelled texts; the true error at each limit is known."""
    draw, alpha, delta, missed, found_count = random.Random(7), 0.1, 0.1, 0, 0
    for _ in range(200):
        found = guaranteed_limit(traffic(draw, 500), alpha, delta)
        if found is None:
            continue
        found_count += 1
        missed += (1.0 - found.limit) / 4.0 > alpha
    assert found_count > 100
    # Three standard deviations of a binomial share of 0.1 in 200 draws.
    assert missed <= 200 * delta + 3 * math.sqrt(200 * delta * (1 - delta))
