"""Objectives of a limit, each a value that is maximized.

An objective gives each labelled text a reward for the answer that it gets.  ``precision>=x`` and
``coverage>=x`` add a condition on all texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from synaptoroute.learning.curves import CurvePoint, Judged, point_at

Kind: TypeAlias = Literal["accuracy", "balanced", "cost", "precision", "coverage"]
_BOUND: Final = re.compile(r"(precision|coverage)>=(0(?:\.\d+)?|1(?:\.0+)?|\.\d+)")
_COST: Final = re.compile(r"cost:wrong=(\d+(?:\.\d+)?),none=(\d+(?:\.\d+)?)")
COST_MAX: Final = 1e6
FORMS: Final = "accuracy, balanced, precision>=X, coverage>=X or cost:wrong=X,none=Y"


@dataclass(frozen=True, slots=True)
class Objective:
    """The figure to maximize, and its condition."""

    kind: Kind = "accuracy"
    bound: float = 0.0  # Of ``precision`` and ``coverage``
    cost_wrong: float = 1.0  # Of an answer that is wrong
    cost_none: float = 1.0  # Of no answer where a route is right

    @property
    def is_bounded(self) -> bool:
        """Whether it is a condition on all texts, which no text can meet alone."""
        return self.kind in ("precision", "coverage")

    def __str__(self) -> str:
        if self.is_bounded:
            return f"{self.kind}>={self.bound:g}"
        if self.kind == "cost":
            return f"cost:wrong={self.cost_wrong:g},none={self.cost_none:g}"
        return self.kind


def parse_objective(text: str) -> Objective:
    """Parse an objective.

    Raises:
        ValueError: It has none of the ``FORMS``.
    """
    plain = text.replace(" ", "")
    if plain in ("accuracy", "balanced"):
        return Objective(plain)  # type: ignore[arg-type]
    if found := _BOUND.fullmatch(plain):
        return Objective(found[1], bound=float(found[2]))  # type: ignore[arg-type]
    if found := _COST.fullmatch(plain):
        wrong, none = float(found[1]), float(found[2])
        if max(wrong, none) > COST_MAX or max(wrong, none) == 0.0:
            raise ValueError(f"costs are at most {COST_MAX:g} and not both 0")
        return Objective("cost", cost_wrong=wrong, cost_none=none)
    raise ValueError(f"an objective is {FORMS}, not {text!r}")


@dataclass(frozen=True, slots=True)
class Rewards:
    """The reward of each outcome of one text, for a set of labelled texts."""

    right: float = 1.0  # The right route
    refused: float = 1.0  # No route, where none is right
    wrong: float = 0.0  # A wrong route where one is right
    accepted: float = 0.0  # A route where none is right
    missing: float = 0.0  # No route where one is right

    def of(self, expected: str | None, given: str | None) -> float:
        """Reward of an answer."""
        if expected is None:
            return self.refused if given is None else self.accepted
        if given is None:
            return self.missing
        return self.right if given == expected else self.wrong


def rewards_for(objective: Objective, expected: Sequence[str | None]) -> Rewards:
    """Rewards for texts with these labels; of a bounded objective those of accuracy."""
    if objective.kind == "balanced":
        outside = sum(label is None for label in expected)
        inside = len(expected) - outside
        if inside and outside:
            return Rewards(right=1.0 / inside, refused=1.0 / outside)
    if objective.kind == "cost":
        wrong, none = -objective.cost_wrong, -objective.cost_none
        return Rewards(right=0.0, refused=0.0, wrong=wrong, accepted=wrong, missing=none)
    return Rewards()


def best_limit(judged: Sequence[Judged], objective: Objective, present: float) -> float | None:
    """Choose one limit for a bounded objective; None if no limit meets the condition.

    ``precision>=x`` answers as many texts as possible with at least that accuracy among the
    answered ones.  ``coverage>=x`` is right as often as possible among the answered ones and
    answers at least that share.  Of equal limits the one nearest to the present one is taken.
    """
    values = sorted({each.value for each in judged})
    best: tuple[float, float] | None = None
    chosen: float | None = None
    for limit in values:
        point = point_at(judged, limit)
        value = _value(point, objective)
        if value is None:
            continue
        key = (value, -abs(limit - present))
        if best is None or key > best:
            best, chosen = key, limit
    return chosen


def _value(point: CurvePoint, objective: Objective) -> float | None:
    accuracy = point.accuracy if point.accuracy is not None else 1.0
    if objective.kind == "precision":
        return point.coverage if accuracy >= objective.bound else None
    return accuracy if point.coverage >= objective.bound else None
