"""Studies of labelled answers, in the terminal and as SVG."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from synaptoroute.cli.exit_codes import BadUsage
from synaptoroute.cli.query_backend import Answer
from synaptoroute.cli.studies import read_objective, show_study, study, write_svg
from synaptoroute.learning.objectives import Objective

pytestmark = pytest.mark.unit


def answer(
    expected: str | None, best: str, score: float, confidence: float | None = None
) -> Answer:
    value = score if confidence is None else confidence
    return Answer(
        "a <text> & more",
        expected,
        best if value >= 0.5 else None,
        score=score,
        best=best,
        confidence=confidence,
        threshold=0.5,
        confidence_min=0.5 if confidence is not None else None,
        reason="matched" if value >= 0.5 else "below_threshold",
    )


SCORED = [answer("a", "a", 0.9), answer("a", "a", 0.4), answer("b", "a", 0.6)]
CONFIDENT = [
    answer("a", "a", 1.2, 0.9),
    answer("b", "a", 0.3, 0.2),
    answer(None, "b", 0.3, 0.6),
]


def test_scores_have_a_curve_and_no_reliability() -> None:
    found = study(SCORED, Objective())

    assert ("threshold", (), None) == (found.by, found.bins, found.error)
    assert [0.4, 0.6, 0.9] == [point.limit for point in found.points]
    assert ((("b", "a", 1),), 0.5) == (found.confusions, found.limit)
    assert [0.4] == [each.score for each in found.refused]


def test_confidences_have_calibration_errors() -> None:
    found = study(CONFIDENT, Objective("precision", 1.0))

    assert "confidence" == found.by
    assert found.error == pytest.approx((0.1 + 0.2 + 0.6) / 3)
    assert found.in_scope_error == pytest.approx((0.1 + 0.2) / 2)
    assert found.best is not None
    assert 0.9 == found.best.limit


def test_document_is_json() -> None:
    for answers in (SCORED, CONFIDENT):
        found = study(answers, Objective())
        again = json.loads(json.dumps(found.document(), allow_nan=False))
        assert len(found.points) == len(again["curve"])


def test_objective_that_nothing_reaches_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    show_study(study([answer("a", "b", 0.9)], Objective("precision", 0.5)), 5)

    assert "no limit reaches it" in capsys.readouterr().out


def test_terminal_shows_what_was_refused(capsys: pytest.CaptureFixture[str]) -> None:
    show_study(study(CONFIDENT, Objective()), 5)
    said = capsys.readouterr().out

    for part in ("Coverage against accuracy", "Reliability", "Refused", "calibration    error"):
        assert part in said


@pytest.mark.parametrize("answers", [SCORED, CONFIDENT, [SCORED[0]]])
def test_svg_is_well_formed(tmp_path: Path, answers: list[Answer]) -> None:
    path = tmp_path / "curve.svg"
    write_svg(path, study(answers, Objective()))
    drawing = ElementTree.fromstring(path.read_text(encoding="utf-8"))

    assert drawing.tag.endswith("svg")
    for line in drawing.iter("{http://www.w3.org/2000/svg}polyline"):
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= float(drawing.attrib["width"])
            assert 0 <= y <= float(drawing.attrib["height"])


def test_malformed_objective_is_bad_usage() -> None:
    with pytest.raises(BadUsage, match="objective"):
        read_objective("best")
