"""Least confidences refuse what thresholds refused, as far as one number can."""

from __future__ import annotations

import pytest

from synaptoroute.learning.conversion import TEXTS_MIN, ComparedText, convert, convert_limit

pytestmark = pytest.mark.unit


def texts(route: str, *pairs: tuple[bool, float]) -> list[ComparedText]:
    return [ComparedText(route, is_answered, confidence) for is_answered, confidence in pairs]


def test_limit_separates_what_the_threshold_separated() -> None:
    found = convert_limit(texts("a", (True, 0.9), (True, 0.7), (False, 0.6), (False, 0.1)))

    assert (4, 4) == (found.texts, found.same)
    assert 0.6 < found.confidence_min <= 0.7


def test_limit_nearest_to_the_centre_is_taken() -> None:
    assert 0.5 == convert_limit(texts("a", (True, 0.9), (False, 0.1))).confidence_min
    assert 0.5 == convert_limit(texts("a", (True, 0.9), (True, 0.8))).confidence_min
    assert 0.5 == convert_limit([]).confidence_min


def test_contradictions_are_counted() -> None:
    found = convert_limit(texts("a", (True, 0.9), (False, 0.95), (True, 0.8)))

    assert (3, 2) == (found.texts, found.same)


def test_route_with_few_texts_gets_the_default() -> None:
    many = texts("a", *[(index > 2, 0.1 * index) for index in range(TEXTS_MIN + 1)])
    few = texts("b", *[(True, 0.9)] * (TEXTS_MIN - 1))
    found = convert([*many, *few, *texts("c", (False, 0.6))], ["a", "b"])

    assert (["a"], ("b",)) == (list(found.own), found.dropped)
    assert TEXTS_MIN == found.default.texts


def test_default_without_a_threshold_stays() -> None:
    found = convert(texts("a", (True, 0.9), (False, 0.7)), [], 0.5)

    assert (0.5, 2, 1) == (found.default.confidence_min, found.default.texts, found.default.same)
