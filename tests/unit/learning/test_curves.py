"""Curves, reliability and calibration error of judged texts."""

from __future__ import annotations

import pytest

from synaptoroute.learning.curves import (
    Judged,
    calibration_error,
    curve_of,
    in_scope_of,
    point_at,
    reliability_of,
)

pytestmark = pytest.mark.unit

JUDGED = [
    Judged("a", "a", 0.9),
    Judged("a", "b", 0.6),
    Judged("b", "b", 0.4),
    Judged(None, "a", 0.2),
    Judged(None, "b", 0.7),
]


def test_point_counts_answers_and_refusals() -> None:
    """Refusing an out-of-scope text is right, refusing an in-scope one is not."""
    point = point_at(JUDGED, 0.5)

    assert (point.coverage, point.accuracy) == (3 / 5, 1 / 3)
    assert (point.right, point.in_scope_right, point.out_of_scope_refused) == (2 / 5, 1 / 3, 1 / 2)


def test_nothing_answered_has_no_accuracy() -> None:
    point = point_at(JUDGED, 0.95)

    assert (point.coverage, point.accuracy, point.right) == (0.0, None, 2 / 5)


def test_text_without_any_route_is_never_answered() -> None:
    assert point_at([Judged(None, None, 0.0)], 0.0).right == 1.0


def test_curve_of_confidences_has_equal_steps() -> None:
    points = curve_of(JUDGED, is_confidence=True)

    assert [0.0, 0.05, 0.1] == pytest.approx([point.limit for point in points[:3]])
    assert (21, 1.0) == (len(points), points[-1].limit)
    coverage = [point.coverage for point in points]
    assert sorted(coverage, reverse=True) == coverage


def test_curve_of_scores_has_limits_that_occur() -> None:
    points = curve_of(JUDGED, is_confidence=False)

    assert {each.value for each in JUDGED} == {point.limit for point in points}
    assert [] == curve_of([], is_confidence=False)


def test_reliability_bins_cover_zero_and_one() -> None:
    found = reliability_of([Judged("a", "a", 1.0), Judged("a", "b", 0.0)])

    assert [(0.0, 0.0), (1.0, 1.0)] == [(each.confidence, each.accuracy) for each in found]


def test_calibration_error_is_zero_for_honest_confidences() -> None:
    honest = [Judged("a", "a", 0.75)] * 3 + [Judged("a", "b", 0.75)]

    assert calibration_error(honest) == 0.0
    assert calibration_error([Judged("a", "b", 0.75)] * 4) == 0.75
    assert calibration_error([]) is None


def test_in_scope_texts_have_a_route() -> None:
    assert 3 == len(in_scope_of(JUDGED))
