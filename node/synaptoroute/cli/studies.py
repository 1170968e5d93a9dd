"""Studies of labelled answers: curves of limits, calibration, and refused queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from synaptoroute.cli.curve_views import print_curve, print_reliability, svg_of
from synaptoroute.cli.exit_codes import BadUsage, FileRejected
from synaptoroute.cli.query_backend import Answer
from synaptoroute.cli.terminal import note, number, print_line, print_table
from synaptoroute.learning.curves import (
    CurvePoint,
    Judged,
    ReliabilityBin,
    calibration_error,
    curve_of,
    in_scope_of,
    point_at,
    reliability_of,
)
from synaptoroute.learning.objectives import (
    Objective,
    best_limit,
    parse_objective,
    rewards_for,
)


@dataclass(frozen=True, slots=True)
class Study:
    """Curves of labelled answers by confidence, or by score where none is reported."""

    by: str  # ``confidence`` or ``threshold``
    objective: Objective
    judged: tuple[Judged, ...]
    points: tuple[CurvePoint, ...]
    bins: tuple[ReliabilityBin, ...]  # None for scores, which are no probabilities
    error: float | None  # Expected calibration error, all texts
    in_scope_error: float | None
    limit: float | None  # The limit in use, if all answers have the same
    best: CurvePoint | None  # The limit that the objective prefers
    refused: tuple[Answer, ...]  # In-scope texts without an answer
    confusions: tuple[tuple[str, str, int], ...]  # In-scope texts with another best route

    def document(self) -> dict[str, Any]:
        """Everything for JSON."""
        return {
            "by": self.by,
            "objective": str(self.objective),
            "limit": self.limit,
            "best": None if self.best is None else asdict(self.best),
            "curve": [asdict(each) for each in self.points],
            "reliability": [asdict(each) for each in self.bins],
            "calibration_error": {"mixed": self.error, "in_scope": self.in_scope_error},
            "refused": [asdict(each) for each in self.refused],
            "confusion_pairs": [
                {"expected": expected, "best": best, "count": count}
                for expected, best, count in self.confusions
            ],
        }


def read_objective(text: str) -> Objective:
    """Parse ``--objective``."""
    try:
        return parse_objective(text)
    except ValueError as error:
        raise BadUsage(f"--objective: {error}") from error


def study(answers: Sequence[Answer], objective: Objective) -> Study:
    """Study labelled answers; there must be at least one."""
    has_confidences = all(each.confidence is not None for each in answers if each.best is not None)
    judged = tuple(_judged(each, has_confidences) for each in answers)
    name = "confidence_min" if has_confidences else "threshold"
    limits = {getattr(each, name) for each in answers} - {None}
    pairs = Counter(
        (each.expected, each.best)
        for each in answers
        if each.expected is not None and each.best not in (None, each.expected)
    )
    return Study(
        by="confidence" if has_confidences else "threshold",
        objective=objective,
        judged=judged,
        points=tuple(curve_of(judged, is_confidence=has_confidences)),
        bins=tuple(reliability_of(judged)) if has_confidences else (),
        error=calibration_error(judged) if has_confidences else None,
        in_scope_error=calibration_error(in_scope_of(judged)) if has_confidences else None,
        limit=limits.pop() if len(limits) == 1 else None,
        best=_best_point(judged, objective),
        refused=tuple(each for each in answers if each.expected is not None and each.given is None),
        confusions=tuple(
            (str(expected), str(best), count)
            for (expected, best), count in sorted(
                pairs.items(), key=lambda item: (-item[1], str(item[0]))
            )
        ),
    )


def _judged(answer: Answer, has_confidences: bool) -> Judged:
    value = answer.confidence if has_confidences else answer.score
    return Judged(answer.expected, answer.best, 0.0 if value is None else value)


def _best_point(judged: Sequence[Judged], objective: Objective) -> CurvePoint | None:
    """The limit that is best for an objective on these very texts."""
    if objective.is_bounded:
        limit = best_limit(judged, objective, 0.5)
        return None if limit is None else point_at(judged, limit)
    rewards = rewards_for(objective, [each.expected for each in judged])

    def worth(limit: float) -> float:
        return sum(
            rewards.of(each.expected, each.best if each.value >= limit else None) for each in judged
        )

    limits = sorted({each.value for each in judged})
    return point_at(judged, max(limits, key=lambda limit: (worth(limit), -limit)))


def _why(answer: Answer) -> str:
    """Why a text was refused."""
    if answer.reason == "below_threshold":
        return f"score below {number(answer.threshold)}"
    if answer.reason == "below_confidence":
        return f"confidence below {number(answer.confidence_min)}"
    return answer.reason.replace("_", " ")


def write_svg(path: Path, found: Study) -> None:
    """Draw a study into a file."""
    title = f"{len(found.judged)} labelled queries"
    drawing = svg_of(found.points, found.bins, name=found.by, title=title, marked=found.limit)
    try:
        path.write_text(drawing, encoding="utf-8")
    except OSError as error:
        raise FileRejected(f"{path} cannot be written: {error.strerror}") from error
    note(f"{path} has the curves")


def show_study(found: Study, refused_max: int) -> None:
    """Print a study."""
    print_curve(found.points, found.by)
    if found.bins:
        print_reliability(found.bins)
    if found.refused:
        print_table(
            ("query", "expected", "best route", "score", "confidence", "why"),
            (
                (
                    each.text,
                    each.expected or "-",
                    (each.best or "-", "ok" if each.best == each.expected else "fail"),
                    number(each.score),
                    number(each.confidence),
                    _why(each),
                )
                for each in found.refused[:refused_max]
            ),
            title="Refused although a route is right",
            right=("score", "confidence"),
        )
    if found.confusions:
        print_table(
            ("expected", "best route", "times"),
            ((expected, best, str(count)) for expected, best, count in found.confusions[:15]),
            title="Pairs of routes that are confused, answered or not",
            right=("times",),
        )
    if found.error is not None:
        print_line(
            f"calibration    error {found.error:.3f} of all, "
            f"{number(found.in_scope_error)} of those in scope"
        )
    if found.best is not None:
        best = found.best
        print_line(
            f"objective      {found.objective}: a least {found.by} of {best.limit:.3f} answers "
            f"{best.coverage:.3f}, right {number(best.accuracy)} of these and {best.right:.3f} of "
            "all, on these very queries; `calibrate` checks it on held-out ones"
        )
    elif found.objective.is_bounded:
        print_line(f"objective      {found.objective}: no limit reaches it")
