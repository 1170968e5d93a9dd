"""The fleet over time: buckets of views, gaps, bounds and the largest values."""

from __future__ import annotations

import json

import pytest

from fleet_views import fleet, head, seen
from synaptoroute_coordinator.fleet import FleetView, LogView
from synaptoroute_coordinator.fleet_history import RANGES, SERIES, FleetHistory

pytestmark = pytest.mark.unit

BEGAN = 1_800_000_000.0


def test_document_has_one_value_a_bucket_in_each_series() -> None:
    history = FleetHistory(BEGAN)
    history.add(fleet(seen("a"), seen("b")), BEGAN)
    for name, each in RANGES.items():
        document = history.document(name, BEGAN + 1)

        assert {each.buckets} == {len(document[series]) for series in SERIES}
        assert each.buckets <= 360
        assert document["from_ms"] <= BEGAN * 1_000
        assert 2 == document["live"][-1]
        assert [None] * (each.buckets - 1) == document["live"][:-1]


def test_largest_lag_of_a_bucket_is_kept_with_its_node() -> None:
    history = FleetHistory(BEGAN)
    for position in (97, 90, 99):
        history.add(fleet(seen("a"), seen("b"), seen("c", position)), BEGAN)
    document = history.document("1h", BEGAN)
    lags = [node.lag_entries for node in fleet(seen("a"), seen("b"), seen("c", 90)).nodes]

    assert max(lags) == document["lag_entries"][-1]
    assert document["behind"][-1]


def test_time_without_an_answer_of_redis_is_a_gap() -> None:
    history = FleetHistory(BEGAN)
    history.add(fleet(seen("a")), BEGAN)
    history.add(FleetView(LogView("away")), BEGAN + 60)
    history.add(fleet(seen("a")), BEGAN + 120)
    heads = history.document("1h", BEGAN + 120)["head"]

    assert [heads[-1], None, None, None, heads[-5]] == heads[:-6:-1]
    assert heads[-1] == heads[-5] == f"{head().epoch}.{head().seq}"


def test_memory_is_bounded_and_old_buckets_go() -> None:
    history = FleetHistory(BEGAN)
    view = fleet(seen("a"))
    for hour in range(400):
        history.add(view, BEGAN + hour * 3_600)
    document = history.document("7d", BEGAN + 399 * 3_600)

    assert None not in document["head"]
    assert 20_000 > len(json.dumps(document))


def test_clock_that_is_set_back_loses_nothing() -> None:
    history = FleetHistory(BEGAN)
    history.add(fleet(seen("a")), BEGAN)
    history.add(fleet(seen("a"), seen("b")), BEGAN - 7_200)

    assert 2 == history.document("1h", BEGAN)["nodes"][-1]
