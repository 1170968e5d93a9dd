"""Goal: fitted thresholds help where they can and can never hurt."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.cli.calibration import (
    ROUTE_QUERIES_MIN,
    Ranked,
    Thresholds,
    accuracy,
    calibrate,
    decide,
)

pytestmark = pytest.mark.unit

ROUTES = ("a", "b", "c")


def ranked(expected: str | None, **scores: float) -> Ranked:
    """A query by the scores of routes."""
    order = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return Ranked(expected, tuple(order))


def test_the_best_route_that_passes_is_the_answer() -> None:
    """A strict route above does not hide a lenient one below it."""
    query = ranked("b", a=0.8, b=0.6)

    assert decide(query, Thresholds(0.5, {"a": 0.9})) == "b"
    assert decide(query, Thresholds(0.7, {"a": 0.9})) is None


def test_a_default_that_rejects_everything_is_lowered() -> None:
    """All right answers lie between 0.3 and 0.45, strangers below 0.2."""
    queries = [ranked("a", a=0.30 + i / 100, b=0.1) for i in range(15)]
    queries += [ranked(None, a=0.05 + i / 100, b=0.0) for i in range(15)]
    found = calibrate(queries, ("a", "b"), Thresholds(0.5, {"b": 0.5}))

    assert found.accuracy_before == 0.5
    assert found.accuracy_after == 1.0
    assert 0.19 < found.after.of("a") <= 0.30


def test_a_route_whose_strangers_score_high_gets_a_threshold_of_its_own() -> None:
    """One value for all cannot tell them apart, and there are queries enough."""
    queries = [ranked("a", a=0.90 + i / 1_000) for i in range(40)]
    queries += [ranked(None, a=0.60 + i / 1_000) for i in range(40)]
    queries += [ranked("b", b=0.45 + i / 1_000) for i in range(40)]
    queries += [ranked(None, b=0.20 + i / 1_000) for i in range(40)]
    found = calibrate(queries, ("a", "b"), Thresholds(0.4))

    assert found.held_out_after == 1.0
    assert 0.639 < found.after.of("a") <= 0.9
    assert 0.239 < found.after.of("b") <= 0.45


def test_a_route_without_queries_keeps_its_threshold() -> None:
    """Whether it is its own or the default: nothing is known about it."""
    queries = [ranked("a", a=0.30 + i / 100) for i in range(15)]
    queries += [ranked(None, a=0.05 + i / 100) for i in range(15)]
    before = Thresholds(0.5, {"c": 0.77})
    found = calibrate(queries, ROUTES, before)

    assert found.after.default != before.default
    assert (found.after.of("b"), found.after.of("c")) == (0.5, 0.77)


def test_a_route_with_few_queries_follows_the_default() -> None:
    """Fewer than the least number give no threshold of its own."""
    queries = [ranked("a", a=0.9)] * 20 + [ranked(None, a=0.1)] * 20
    queries += [ranked("b", b=0.2)] * (ROUTE_QUERIES_MIN - 1)
    found = calibrate(queries, ("a", "b"), Thresholds(0.5))

    assert "b" not in found.after.own


def test_nothing_changes_where_nothing_is_better() -> None:
    """Perfect thresholds stay as they are, to the digit."""
    queries = [ranked("a", a=0.9, b=0.1), ranked("b", b=0.8), ranked(None, a=0.2)] * 10
    before = Thresholds(0.512_345, {"a": 0.654_321})

    assert calibrate(queries, ("a", "b"), before).after == before


def test_luck_is_not_learned() -> None:
    """Labels that have nothing to do with the scores do not move the thresholds by much."""
    draw = random.Random(5)
    queries = [
        ranked(draw.choice(["a", "b", None]), a=draw.random(), b=draw.random()) for _ in range(60)
    ]
    found = calibrate(queries, ("a", "b"), Thresholds(0.5))

    assert found.held_out_after >= found.accuracy_before


def test_without_strangers_there_is_a_warning() -> None:
    """Nothing shows when a threshold is too low."""
    found = calibrate([ranked("a", a=0.9)] * 5, ("a",), Thresholds(0.5))

    assert any("belongs to no route" in warning for warning in found.warnings)


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
def test_calibration_never_loses_a_right_answer_overall(
    queries: list[Ranked], before: Thresholds
) -> None:
    """On the queries it was given, the proposal is at least as good as what was there."""
    found = calibrate(queries, ROUTES, before)

    assert found.accuracy_after >= found.accuracy_before
    assert found.accuracy_after == accuracy(queries, found.after)


@given(QUERIES, BEFORE)
def test_calibration_never_switches_a_route_off(queries: list[Ranked], before: Thresholds) -> None:
    """A raised threshold still admits half of the queries that its route should win."""
    found = calibrate(queries, ROUTES, before)
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
def test_thresholds_stay_in_range(queries: list[Ranked], before: Thresholds) -> None:
    """Every proposal is one that a node takes."""
    after = calibrate(queries, ROUTES, before).after

    assert all(-1.0 <= value <= 1.0 for value in (after.default, *after.own.values()))
