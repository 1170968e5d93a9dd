"""Drift of the use of a route set: raised on a large and lasting change, not on chance."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from fleet_views import fleet, policy
from synaptoroute_coordinator.config import Policy
from synaptoroute_coordinator.drift import Drift, DriftWatch, drift_sets, judge
from synaptoroute_coordinator.events import find_alarms
from synaptoroute_coordinator.traffic import RANGES, Figures, TrafficHistory

pytestmark = pytest.mark.unit

WEEK = RANGES["7d"].buckets
HOUR = 3_600.0


def figures(answers: float, unmatched: float, confidence: float) -> Figures:
    """Answers with a share without a route and a mean confidence."""
    return Figures(answers, answers * unmatched, answers * confidence)


def judged(
    recent: Figures,
    week: Callable[[int], Figures],
    limits: Policy | None = None,
    *,
    was: bool = False,
) -> Drift:
    """Judge a week, oldest bucket first, whose newest bucket has the recent answers as well."""
    buckets = [week(n) for n in range(WEEK)]
    buckets[-1] += recent
    return judge("support", recent, buckets, limits or policy(), was_drifting=was)


def steady(unmatched: float = 0.05, confidence: float = 0.85) -> Callable[[int], Figures]:
    return lambda _: figures(500, unmatched, confidence)


def test_rise_of_unmatched_answers_is_drift() -> None:
    drift = judged(figures(400, 0.25, 0.85), steady())

    assert drift.is_drifting
    assert math.isclose(0.2, drift.unmatched_rise)
    assert "support: without a route 25% (5% before)" in drift.message


def test_fall_of_confidence_is_drift() -> None:
    drift = judged(figures(400, 0.05, 0.6), steady())

    assert drift.is_drifting
    assert math.isclose(0.25, drift.confidence_fall)


@pytest.mark.parametrize(
    "recent",
    [
        figures(400, 0.05, 0.85),
        figures(400, 0.0, 0.99),  # better than before
        figures(100_000, 0.08, 0.82),  # certain, but small
        figures(150, 0.9, 0.1),  # too few to judge
    ],
)
def test_small_change_and_few_answers_are_no_drift(recent: Figures) -> None:
    assert not judged(recent, steady()).is_drifting


def test_large_change_of_few_answers_that_chance_explains_is_no_drift() -> None:
    limits = policy(drift_answers_min=20)
    drift = judged(figures(20, 0.45, 0.85), lambda _: figures(20, 0.3, 0.85), limits)

    assert drift.is_judged
    assert drift.unmatched_rise > 0.1
    assert not drift.is_drifting


def test_usual_change_of_the_day_is_no_drift() -> None:
    """Each night a fifth of the answers has no route, by day a twentieth."""

    def week(n: int) -> Figures:
        return figures(300, 0.2 if n % 12 in (0, 1, 2) else 0.05, 0.85)

    assert not judged(figures(300, 0.2, 0.85), week).is_drifting
    assert judged(figures(300, 0.6, 0.85), week).is_drifting


def test_set_without_a_day_of_history_is_not_judged() -> None:
    def young(n: int) -> Figures:
        return figures(5_000, 0.05, 0.85) if n >= WEEK - 5 else Figures()

    assert not judged(figures(400, 0.9, 0.1), young).is_judged


def test_drift_ends_well_below_its_limit() -> None:
    """A share that goes up and down at the limit makes one alarm."""
    near = figures(2_000, 0.13, 0.85)

    assert not judged(near, steady()).is_drifting
    assert judged(near, steady(), was=True).is_drifting
    assert not judged(figures(2_000, 0.08, 0.85), steady(), was=True).is_drifting


def test_chance_alone_almost_never_is_drift() -> None:
    chance = random.Random(7)

    def asked(answers: int) -> Figures:
        unmatched = sum(chance.random() < 0.1 for _ in range(answers))
        return Figures(answers, unmatched, 0.8 * answers)

    assert not any(judged(asked(200), lambda _: asked(50)).is_drifting for _ in range(50))


def counted(answers: int, unmatched: int) -> dict[str, object]:
    pairs = [
        {"set": "shop", "route": "x", "answers": answers, "confidence_sum": 0.9 * answers},
        {"set": "shop", "route": None, "answers": unmatched, "confidence_sum": 0.0},
    ]
    return {"began_at_ms": 0, "pairs": pairs}


def test_watch_finds_drift_in_the_history_and_forgets_it_when_it_is_usual() -> None:
    history = TrafficHistory(0.0)
    watch = DriftWatch(policy(), history)
    seconds, answers, unmatched = 0.0, 0, 0
    history.add({"a": counted(0, 0)}, seconds)
    found = []
    for hour in range(24 * 14):
        is_new = hour >= 24 * 7
        answers += 300 if is_new else 380
        unmatched += 100 if is_new else 20
        seconds += HOUR
        history.add({"a": counted(answers, unmatched)}, seconds - 1.0)
        watch.update(seconds - 1.0)
        found.append([each.route_set for each in watch.drifts if each.is_drifting])
    before, after = found[: 24 * 7], found[24 * 7 :]

    assert all(each == [] for each in before)
    assert all(each == ["shop"] for each in after[1:24])
    assert [] == after[-1]


def test_drift_can_be_switched_off() -> None:
    history = TrafficHistory(0.0)
    watch = DriftWatch(policy(drift_share=0), history)
    watch.update(10.0)

    assert () == watch.drifts


def test_drifting_sets_raise_one_alarm() -> None:
    drifts = [
        Drift("a", figures(9, 0.3, 0.8), figures(9, 0.1, 0.8), is_drifting=True),
        Drift("b", figures(9, 0.9, 0.8), figures(9, 0.1, 0.8), is_drifting=True),
        Drift("c", figures(9, 0.1, 0.8), figures(9, 0.1, 0.8)),
    ]
    messages = {name: each.message for name, each in drift_sets(drifts).items()}
    (alarm,) = find_alarms(fleet(), policy(), drifts=messages)

    assert ("drift", "warning", ("b", "a")) == (alarm.code, alarm.severity, alarm.sets)
    assert "2 route sets" in alarm.message
