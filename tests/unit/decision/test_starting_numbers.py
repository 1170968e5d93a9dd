"""Tests of the numbers that hold before the first fit: shipped, scaled and corrected."""

from __future__ import annotations

import json
from typing import Any

import pytest

from synaptoroute.decision.calibration import DecisionCalibration
from synaptoroute.decision.starting_numbers import (
    COUNTS,
    KINDS,
    SIZES,
    Tables,
    corrected_tables,
    digest_of_tables,
    read_tables,
    scaled_tables,
    shipped_calibration,
    shipped_tables_of,
    use_tables,
)
from synaptoroute.encoder import open_encoder

CELLS = [f"{size}/{count}" for size in SIZES for count in COUNTS]


@pytest.fixture(scope="module")
def bundled() -> Tables:
    found = shipped_tables_of(open_encoder().fingerprint)
    assert found is not None
    return found


def as_json(tables: Tables) -> Any:
    """The tables as a file has them."""
    content = {
        kind: {name: [*cell] for name, cell in rows.items()} for kind, rows in tables.items()
    }
    return json.loads(json.dumps(content))


def test_scaling_keeps_the_score_of_equal_texts(bundled: Tables) -> None:
    """An encoder whose unrelated texts score .75 has a third of the distance to 1."""
    scaled = scaled_tables(bundled, 1 / 3)
    was, cell = bundled["blend"]["32/10"], scaled["blend"]["32/10"]

    assert cell.temperature == pytest.approx(3.0 * was.temperature)
    assert 1.0 - cell.inside_mean == pytest.approx((1.0 - was.inside_mean) / 3.0)
    assert 1.0 - cell.outside_mean == pytest.approx((1.0 - was.outside_mean) / 3.0)
    assert cell.outside_deviation == pytest.approx(was.outside_deviation / 3.0)
    same = scaled_tables(bundled, 1.0)["max"]["8/5"]
    assert tuple(same) == pytest.approx(tuple(bundled["max"]["8/5"]))


def test_corrected_cell_has_the_numbers_of_its_fit(bundled: Tables) -> None:
    fit = DecisionCalibration("", "ab", "max", 30, 270, 18.0, 0.8, 0.2, 0.6, 0.1)
    corrected = corrected_tables(bundled, {"max": fit})

    assert tuple(corrected["max"]["32/10"]) == pytest.approx((18.0, 0.8, 0.2, 0.6, 0.1))
    assert corrected["blend"] == bundled["blend"]
    assert all(cell.inside_mean > cell.outside_mean for cell in corrected["max"].values())


def test_tables_are_read_as_they_are_written(bundled: Tables) -> None:
    assert read_tables(as_json(bundled)) == bundled


@pytest.mark.parametrize(
    "number", [None, "1", True, float("nan"), float("inf"), -1.0, 0.0, 1e9, [1.0]]
)
def test_tables_with_an_impossible_temperature_are_refused(bundled: Tables, number: Any) -> None:
    content = as_json(bundled)
    content["mean"]["8/5"][0] = number

    assert read_tables(content) is None


def test_incomplete_tables_are_refused(bundled: Tables) -> None:
    for place in (("blend",), ("blend", "8/5"), ("blend", "8/5", 4)):
        content = as_json(bundled)
        at = content
        for key in place[:-1]:
            at = at[key]
        del at[place[-1]]
        assert read_tables(content) is None
    assert read_tables([]) is None
    assert read_tables(None) is None


def test_prepared_tables_hold_for_their_fingerprint_alone(bundled: Tables) -> None:
    assert shipped_calibration("0f" * 32, "blend", 10.0) is None
    assert digest_of_tables("0f" * 32) is None
    use_tables("0f" * 32, scaled_tables(bundled, 0.5))

    found = shipped_calibration("0f" * 32, "adaptive", 10.0)
    assert found is not None
    assert found.temperature == pytest.approx(2.0 * bundled["blend"]["32/10"].temperature)
    assert shipped_calibration("0e" * 32, "blend", 10.0) is None
    assert digest_of_tables("0f" * 32) != digest_of_tables(open_encoder().fingerprint)


def test_every_aggregation_has_every_cell(bundled: Tables) -> None:
    assert {kind: [*rows] for kind, rows in bundled.items()} == dict.fromkeys(KINDS, CELLS)
