"""Curves of answers by limit: coverage, accuracy, calibration.

A *judged* text is a labelled text with the best route that the router found and the value by
which that route is accepted or refused: its confidence, or its score.  A *limit* is the lowest
value that is answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CURVE_POINTS: Final = 21
BINS: Final = 10
"""Bins of a reliability diagram, of equal width."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A labelled text, the best route for it, and the value of that route."""

    expected: str | None  # None for a text that no route should get
    best: str | None  # None if there are no routes
    value: float

    @property
    def is_right(self) -> bool:
        """Whether answering with the best route is right."""
        return self.best is not None and self.best == self.expected


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Figures of a limit on judged texts."""

    limit: float
    coverage: float  # Share of all texts that are answered
    accuracy: float | None  # Share of the answered texts that are right; None if none is answered
    right: float  # Share of all texts with the right outcome, "no route" included
    in_scope_right: float | None  # Share of the in-scope texts that are answered right
    out_of_scope_refused: float | None  # Share of the out-of-scope texts without an answer


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Texts whose confidence lies in one interval."""

    low: float
    high: float
    count: int
    confidence: float  # Mean
    accuracy: float  # Share for which the best route is right


def point_at(judged: Sequence[Judged], limit: float) -> CurvePoint:
    """Evaluate one limit; there must be at least one text."""
    in_scope = sum(each.expected is not None for each in judged)
    answered = [each for each in judged if each.best is not None and each.value >= limit]
    right = sum(each.is_right for each in answered)
    accepted = sum(each.expected is None for each in answered)
    refused = len(judged) - in_scope - accepted
    return CurvePoint(
        limit=limit,
        coverage=len(answered) / len(judged),
        accuracy=_share(right, len(answered)),
        right=(right + refused) / len(judged),
        in_scope_right=_share(right, in_scope),
        out_of_scope_refused=_share(refused, len(judged) - in_scope),
    )


def curve_of(
    judged: Sequence[Judged], *, is_confidence: bool, points: int = CURVE_POINTS
) -> list[CurvePoint]:
    """Evaluate limits from the lowest to the highest.

    Confidences get limits at equal steps from 0 to 1.  Scores have no common range, so they get
    quantiles of the values that occur.
    """
    if not judged:
        return []
    if is_confidence:
        limits = [step / (points - 1) for step in range(points)]
    else:
        values = sorted(each.value for each in judged)
        last = len(values) - 1
        limits = sorted({values[round(step * last / (points - 1))] for step in range(points)})
    return [point_at(judged, limit) for limit in limits]


def reliability_of(judged: Sequence[Judged], bins: int = BINS) -> list[ReliabilityBin]:
    """Compare confidence and accuracy, bin by bin; empty bins are left out."""
    groups: list[list[Judged]] = [[] for _ in range(bins)]
    for each in judged:
        groups[min(bins - 1, max(0, int(each.value * bins)))].append(each)
    return [
        ReliabilityBin(
            low=place / bins,
            high=(place + 1) / bins,
            count=len(group),
            confidence=sum(each.value for each in group) / len(group),
            accuracy=sum(each.is_right for each in group) / len(group),
        )
        for place, group in enumerate(groups)
        if group
    ]


def calibration_error(judged: Sequence[Judged], bins: int = 15) -> float | None:
    """Expected calibration error (ECE): mean distance of confidence and accuracy over bins.

    None without texts.
    """
    found = reliability_of(judged, bins)
    total = sum(each.count for each in found)
    gaps = sum(each.count * abs(each.confidence - each.accuracy) for each in found)
    return gaps / total if total else None


def in_scope_of(judged: Sequence[Judged]) -> list[Judged]:
    """Return the texts that some route should get."""
    return [each for each in judged if each.expected is not None]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
