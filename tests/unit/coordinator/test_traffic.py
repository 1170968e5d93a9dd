"""Answers of all nodes over time, as the coordinator adds them up."""

from __future__ import annotations

from typing import Any

import pytest

from synaptoroute_coordinator.app.responses import traffic_document
from synaptoroute_coordinator.traffic import RANGES, SERIES_MAX, TrafficHistory, parse_counts

pytestmark = pytest.mark.unit

NOON = 1_767_268_800.0
MADE_MS = int(NOON * 1_000) - 60_000


def counted(*pairs: tuple[str, str | None, int, float], began_at_ms: int = MADE_MS) -> Any:
    names = ("set", "route", "answers", "confidence_sum")
    return {
        "began_at_ms": began_at_ms,
        "pairs": [dict(zip(names, pair, strict=True)) for pair in pairs],
        "others": 0,
    }


def answers(history: TrafficHistory, at: float, name: str = "1h") -> dict[str | None, float]:
    found = history.traffic_of("default", name, at)
    return {each.route: sum(each.answers) for each in found.routes}


def test_differences_of_all_nodes_are_added_up() -> None:
    """What a node counted before the first reading belongs to no known time."""
    history = TrafficHistory(NOON)
    history.add({"a": counted(("default", "x", 100, 90.0)), "b": counted()}, NOON)
    both = {
        "a": counted(("default", "x", 104, 93.0), ("default", None, 1, 0.2)),
        "b": counted(("default", "x", 6, 5.0), ("other", "x", 7, 7.0)),
    }
    history.add(both, NOON + 5)
    found = history.traffic_of("default", "1h", NOON + 5).routes

    assert {"x": 10, None: 1} == answers(history, NOON + 5)
    assert ["x", None] == [each.route for each in found]
    assert 8.0 == sum(found[0].confidence_sums)
    sets = history.sets("24h", NOON + 5)
    assert {"default": 11, "other": 7} == {name: each.answers for name, each in sets.items()}
    assert (1, 8.2) == (sets["default"].unmatched, round(sets["default"].confidence_sum, 6))


def test_restarted_node_counts_from_its_start() -> None:
    history = TrafficHistory(NOON)
    history.add({"a": counted(("default", "x", 100, 90.0))}, NOON)
    again = counted(("default", "x", 3, 3.0), began_at_ms=int(NOON * 1_000) + 2_000)
    history.add({"a": again}, NOON + 5)
    history.add({}, NOON + 10)
    late = counted(("default", "x", 8, 8.0), began_at_ms=int(NOON * 1_000) + 2_000)
    new = counted(("default", "y", 2, 2.0), began_at_ms=int(NOON * 1_000) + 11_000)
    history.add({"a": late, "b": new}, NOON + 15)

    assert {"x": 8, "y": 2} == answers(history, NOON + 15)


def test_node_that_forgot_a_route_counts_it_from_zero() -> None:
    """A route that is removed and put again has fewer answers than before."""
    history = TrafficHistory(NOON)
    history.add({"a": counted(("default", "x", 100, 90.0))}, NOON)
    history.add({"a": counted()}, NOON + 5)
    history.add({"a": counted(("default", "x", 3, 2.0))}, NOON + 10)
    history.add({"a": counted(("default", "x", 2, 1.0))}, NOON + 15)

    assert {"x": 5} == answers(history, NOON + 15)


def test_document_tells_matched_and_unmatched_answers_of_each_bucket() -> None:
    """Routes beyond the limit, and those that a node does not tell apart, are shown together."""
    history = TrafficHistory(NOON)
    history.add({"a": counted()}, NOON)
    found = counted(("default", "x", 6, 6.0), ("default", "y", 2, 1.0), ("default", None, 2, 0.5))
    found["set_others"] = [{"set": "default", "answers": 4, "confidence_sum": 1.0}]
    history.add({"a": found}, NOON + 1)
    traffic, sets = history.traffic_of("default", "7d", NOON + 2), history.sets("7d", NOON + 2)
    document = traffic_document("default", traffic, sets, history, limit=1)

    assert len(document["confidence_series"]) == RANGES["7d"].buckets <= 360
    assert [12, 2] == [document[name]["series"][-1] for name in ("matched", "unmatched")]
    assert [0.6667, 0.25] == [
        document[name]["confidence_series"][-1] for name in ("matched", "unmatched")
    ]
    assert ["x"] == [each["route"] for each in document["routes"]]
    assert 6 == document["others"]["answers"]
    (own,) = document["sets"]
    assert (14, 12, 2) == (own["answers"], own["matched"], own["unmatched"])
    assert round(8.5 / 14, 4) == own["mean_confidence"] == document["confidence"]


@pytest.mark.parametrize("name", list(RANGES))
def test_bucket_leaves_the_range_when_it_is_too_old(name: str) -> None:
    history = TrafficHistory(NOON)
    history.add({"a": counted()}, NOON)
    history.add({"a": counted(("default", "x", 4, 4.0))}, NOON + 1)
    before = NOON + RANGES[name].seconds - 1

    assert {"x": 4} == answers(history, before, name)
    found = history.traffic_of("default", name, before)
    assert 4 == found.routes[0].answers[0]
    assert found.from_seconds <= NOON + 1 < found.from_seconds + found.bucket_seconds
    assert {} == answers(history, before + RANGES[name].bucket_seconds, name)


def test_number_of_series_is_bounded() -> None:
    """New routes are kept again once others have had no answer for the longest range."""
    history = TrafficHistory(NOON)
    history.add({"a": counted(), "b": counted()}, NOON)
    pairs = [("default", str(n), 1, 1.0) for n in range(SERIES_MAX)]
    history.add({"a": counted(*pairs), "b": counted(("default", "late", 1, 1.0))}, NOON + 1)
    full = answers(history, NOON + 1)
    later = NOON + 2 * RANGES["7d"].seconds
    history.add({"b": counted(("default", "late", 2, 2.0))}, later)

    assert SERIES_MAX == len(full)
    assert "late" not in full
    assert {"late": 1} == answers(history, later)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"pairs": []},
        {"began_at_ms": 1, "pairs": 3},
        {"began_at_ms": 1, "pairs": [{"set": "a"}]},
        counted(("default", "x", -1, 0.0)),
        counted(("default", "x", 1, float("nan"))),
        counted() | {"set_others": 3},
        counted() | {"set_others": [{"set": "a", "answers": -1, "confidence_sum": 0.0}]},
    ],
)
def test_malformed_counts_are_left_out(document: Any) -> None:
    assert parse_counts(document) is None
