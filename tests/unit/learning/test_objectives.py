"""Objectives are parsed strictly, and choose limits that meet their condition."""

from __future__ import annotations

import pytest

from synaptoroute.learning.curves import Judged, point_at
from synaptoroute.learning.objectives import (
    Objective,
    best_limit,
    parse_objective,
    rewards_for,
)

pytestmark = pytest.mark.unit

JUDGED = [Judged("a", "a", 0.5 + i / 100) for i in range(40)]
JUDGED += [Judged("a", "b", 0.3 + i / 100) for i in range(20)]
JUDGED += [Judged(None, "a", 0.2 + i / 100) for i in range(40)]


@pytest.mark.parametrize(
    "text", ["accuracy", "balanced", "precision>=0.95", "coverage>=0.8", "cost:wrong=5,none=1"]
)
def test_objective_is_written_as_it_is_parsed(text: str) -> None:
    assert text == str(parse_objective(text))


@pytest.mark.parametrize(
    "text",
    ["", "best", "precision>=2", "precision>=nan", "precision>0.5", "coverage>=-1",
     "cost:wrong=5", "cost:wrong=-1,none=1", "cost:wrong=0,none=0", "cost:wrong=1e9,none=1",
     "cost:wrong=inf,none=1"],
)  # fmt: skip
def test_malformed_objective_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"objective|costs"):
        parse_objective(text)


def test_precision_is_reached_with_the_highest_coverage() -> None:
    limit = best_limit(JUDGED, parse_objective("precision>=0.9"), 0.5)

    assert limit is not None
    point = point_at(JUDGED, limit)
    assert point.accuracy is not None
    assert point.accuracy >= 0.9
    lower = [each.value for each in JUDGED if each.value < limit]
    assert all((point_at(JUDGED, each).accuracy or 1.0) < 0.9 for each in lower)


def test_coverage_is_reached_with_the_highest_accuracy() -> None:
    limit = best_limit(JUDGED, parse_objective("coverage>=0.5"), 0.5)

    assert limit is not None
    assert point_at(JUDGED, limit).coverage >= 0.5


def test_condition_that_no_limit_meets_gives_none() -> None:
    wrong = [Judged("a", "b", 0.9)] * 3

    assert best_limit(wrong, parse_objective("precision>=0.5"), 0.5) is None


def test_balanced_rewards_weigh_both_kinds_of_texts_equally() -> None:
    rewards = rewards_for(Objective("balanced"), ["a"] * 9 + [None])

    assert (rewards.of("a", "a"), rewards.of(None, None)) == (1 / 9, 1.0)
    assert (rewards.of("a", "b"), rewards.of("a", None), rewards.of(None, "a")) == (0.0, 0.0, 0.0)


def test_costs_are_negative_rewards() -> None:
    rewards = rewards_for(parse_objective("cost:wrong=5,none=1"), ["a"])

    assert (rewards.of("a", "a"), rewards.of("a", "b"), rewards.of("a", None)) == (0.0, -5.0, -1.0)
    assert (rewards.of(None, "a"), rewards.of(None, None)) == (-5.0, 0.0)
