"""Fitted thresholds improve accuracy where they can and never reduce it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.learning.limits import (
    CONFIDENCE_MIN,
    ROUTE_QUERIES_MIN,
    RankedQuery,
    Thresholds,
    accuracy,
    decide,
    fit_thresholds,
)
from synaptoroute.learning.objectives import Objective, parse_objective

pytestmark = pytest.mark.unit

ROUTES = ("a", "b", "c")


def ranked(expected: str | None, **scores: float) -> RankedQuery:
    """A query by the scores of routes."""
    order = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return RankedQuery(expected, tuple(order))


def test_answer_is_the_best_route_that_reaches_its_threshold() -> None:
    """A strict route with a higher score does not hide a lenient one."""
    query = ranked("b", a=0.8, b=0.6)

    assert decide(query, Thresholds(0.5, {"a": 0.9})) == "b"
    assert decide(query, Thresholds(0.7, {"a": 0.9})) is None


def test_default_that_rejects_everything_is_lowered() -> None:
    """In-scope queries score 0.3 to 0.45, out-of-scope queries below 0.2."""
    queries = [ranked("a", a=0.30 + i / 100, b=0.1) for i in range(15)]
    queries += [ranked(None, a=0.05 + i / 100, b=0.0) for i in range(15)]
    found = fit_thresholds(queries, ("a", "b"), Thresholds(0.5, {"b": 0.5}))

    assert found.accuracy_before == 0.5
    assert found.accuracy_after == 1.0
    assert 0.19 < found.after.of("a") <= 0.30


def test_route_with_high_out_of_scope_scores_gets_its_own_threshold() -> None:
    """One threshold for all routes cannot separate them, and there are enough queries."""
    queries = [ranked("a", a=0.90 + i / 1_000) for i in range(40)]
    queries += [ranked(None, a=0.60 + i / 1_000) for i in range(40)]
    queries += [ranked("b", b=0.45 + i / 1_000) for i in range(40)]
    queries += [ranked(None, b=0.20 + i / 1_000) for i in range(40)]
    found = fit_thresholds(queries, ("a", "b"), Thresholds(0.4))

    assert found.held_out_after == 1.0
    assert 0.639 < found.after.of("a") <= 0.9
    assert 0.239 < found.after.of("b") <= 0.45


def test_route_without_queries_keeps_its_threshold() -> None:
    """This holds for its own threshold and for the default."""
    queries = [ranked("a", a=0.30 + i / 100) for i in range(15)]
    queries += [ranked(None, a=0.05 + i / 100) for i in range(15)]
    before = Thresholds(0.5, {"c": 0.77})
    found = fit_thresholds(queries, ROUTES, before)

    assert found.after.default != before.default
    assert (found.after.of("b"), found.after.of("c")) == (0.5, 0.77)


def test_route_with_few_queries_follows_the_default() -> None:
    queries = [ranked("a", a=0.9)] * 20 + [ranked(None, a=0.1)] * 20
    queries += [ranked("b", b=0.2)] * (ROUTE_QUERIES_MIN - 1)
    found = fit_thresholds(queries, ("a", "b"), Thresholds(0.5))

    assert "b" not in found.after.own


def test_perfect_thresholds_are_not_changed() -> None:
    queries = [ranked("a", a=0.9, b=0.1), ranked("b", b=0.8), ranked(None, a=0.2)] * 10
    before = Thresholds(0.512_345, {"a": 0.654_321})

    assert fit_thresholds(queries, ("a", "b"), before).after == before


def test_random_labels_do_not_reduce_accuracy() -> None:
    draw = random.Random(5)
    queries = [
        ranked(draw.choice(["a", "b", None]), a=draw.random(), b=draw.random()) for _ in range(60)
    ]
    found = fit_thresholds(queries, ("a", "b"), Thresholds(0.5))

    assert found.held_out_after >= found.accuracy_before


def test_missing_out_of_scope_queries_give_a_warning() -> None:
    found = fit_thresholds([ranked("a", a=0.9)] * 5, ("a",), Thresholds(0.5))

    assert any("out of scope" in warning for warning in found.warnings)


SCORES = st.floats(-1, 1, allow_nan=False).map(lambda value: round(value, 2))
QUERIES = st.lists(
    st.builds(
        ranked,
        st.sampled_from([*ROUTES, None]),
        a=SCORES,
        b=SCORES,
        c=SCORES,
    ),
    min_size=1,
    max_size=60,
)
BEFORE = st.builds(Thresholds, SCORES, st.dictionaries(st.sampled_from(ROUTES), SCORES, max_size=3))


@given(QUERIES, BEFORE)
def test_calibration_never_reduces_accuracy(queries: list[RankedQuery], before: Thresholds) -> None:
    """On the given queries, the proposal is at least as good as the present thresholds."""
    found = fit_thresholds(queries, ROUTES, before)

    assert found.accuracy_after >= found.accuracy_before
    assert found.accuracy_after == accuracy(queries, found.after)


@given(QUERIES, BEFORE)
def test_calibration_never_switches_a_route_off(
    queries: list[RankedQuery], before: Thresholds
) -> None:
    """Half of the queries that a route should win still reach a raised threshold."""
    found = fit_thresholds(queries, ROUTES, before)
    for route in ROUTES:
        won = [
            query.scores[0][1]
            for query in queries
            if query.expected == route and query.scores[0][0] == route
        ]
        is_raised = found.after.of(route) > before.of(route)

        assert not is_raised or won
        if is_raised:
            assert 2 * sum(score >= found.after.of(route) for score in won) >= len(won)


@given(QUERIES, BEFORE)
def test_thresholds_stay_in_range(queries: list[RankedQuery], before: Thresholds) -> None:
    after = fit_thresholds(queries, ROUTES, before).after

    assert all(-1.0 <= value <= 1.0 for value in (after.default, *after.own.values()))


def test_gain_of_one_threshold_is_reported_and_proposed() -> None:
    """It gains 2 of 52 queries; held-out queries do not contradict it."""
    queries = [ranked("a", a=0.6 + i / 1_000) for i in range(40)]
    queries += [ranked("a", a=0.45), ranked("a", a=0.46)]
    queries += [ranked(None, a=0.2 + i / 100) for i in range(10)]
    found = fit_thresholds(queries, ("a",), Thresholds(0.49))
    tried = found.tried[0]

    assert (52, 50, 52) == (found.count, found.right_before, tried.right)
    assert (True, True) == (tried.is_better, tried.is_proposed)
    assert 0.29 < found.after.default <= 0.45
    assert tried.gained >= tried.lost


def test_gain_that_held_out_queries_contradict_is_reported_but_not_proposed() -> None:
    draw = random.Random(11)
    for _ in range(20):
        queries = [
            ranked(draw.choice(["a", "b", None]), a=draw.random(), b=draw.random())
            for _ in range(40)
        ]
        found = fit_thresholds(queries, ("a", "b"), Thresholds(0.5))
        for tried in found.tried:
            right = found.right_before + tried.gained - tried.lost
            assert tried.held_out_right == right
            if tried.gained < tried.lost:
                assert not tried.is_proposed


@pytest.mark.parametrize("bound", [0.9, 1.0])
def test_precision_is_bounded(bound: float) -> None:
    queries = [ranked("a", a=0.5 + i / 100, b=0.1) for i in range(40)]
    queries += [ranked("b", a=0.3 + i / 100, b=0.1) for i in range(30)]
    objective = Objective("precision", bound)
    found = fit_thresholds(queries, ("a", "b"), Thresholds(0.2), objective)
    answered = [each for each in queries if decide(each, found.after) is not None]

    assert found.after.default > 0.2
    assert sum(decide(each, found.after) == each.expected for each in answered) >= bound * len(
        answered
    )


def test_cost_of_wrong_answers_raises_the_limit() -> None:
    queries = [ranked("a", a=i / 40) for i in range(40)]
    queries += [ranked("b", a=i / 60) for i in range(20)]
    cheap = parse_objective("cost:wrong=1,none=1")
    dear = parse_objective("cost:wrong=9,none=1")
    limits = [
        fit_thresholds(queries, ("a", "b"), Thresholds(0.1), each, lowest=CONFIDENCE_MIN).after
        for each in (cheap, dear)
    ]

    assert limits[0].of("a") < limits[1].of("a")
