"""Drift: whether users ask otherwise than in the week before.

Of each route set, the answers of the last hour are compared with those of the week before: the
share without a route, and the mean confidence.  Both are means of values between 0 and 1.  A
difference counts if it is large, and larger than chance and the usual change from one time of the
day to another explain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from synaptoroute_coordinator.config import Policy
from synaptoroute_coordinator.traffic import Figures, TrafficHistory

BASELINE_FACTOR: Final = 5
"""The week before must have this many times the answers that the last hour must have."""
BASELINE_BUCKETS_MIN: Final = 12
"""Buckets of the week with answers: a whole day, if queries come all the time."""
STANDARD_ERRORS: Final = 4.0
CLEAR_SHARE: Final = 0.5
"""Share of the limit below which a set no longer drifts."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Use of a route set now and in the week before.

    Attributes:
        recent: Figures of the last hour, or of what the settings say.
        week: Figures of the week before.
        unmatched_errors: Rise of the share without a route, in standard errors.
        confidence_errors: Fall of the mean confidence, in standard errors.
        is_judged: Whether there are enough answers to judge.
        is_drifting: Whether the set drifts.
    """

    route_set: str
    recent: Figures
    week: Figures
    unmatched_errors: float = 0.0
    confidence_errors: float = 0.0
    is_judged: bool = False
    is_drifting: bool = False

    @property
    def unmatched_rise(self) -> float:
        return _ratio(self.recent.unmatched, self.recent) - _ratio(self.week.unmatched, self.week)

    @property
    def confidence_fall(self) -> float:
        before = _ratio(self.week.confidence_sum, self.week)
        return before - _ratio(self.recent.confidence_sum, self.recent)

    @property
    def message(self) -> str:
        """Sentence for an operator about the difference."""
        said = []
        for what, after, before in (
            ("without a route", self.recent.unmatched, self.week.unmatched),
            ("mean confidence", self.recent.confidence_sum, self.week.confidence_sum),
        ):
            share = f"{_ratio(after, self.recent):.0%} ({_ratio(before, self.week):.0%} before)"
            said.append(f"{what} {share}")
        return f"{self.route_set}: {', '.join(said)}"


class DriftWatch:
    """Judges the route sets again and again; used on one event loop."""

    def __init__(self, policy: Policy, history: TrafficHistory) -> None:
        self._policy = policy
        self._history = history
        self._drifting: frozenset[str] = frozenset()
        self.drifts: tuple[Drift, ...] = ()

    def restore(self, drifting: Iterable[str]) -> None:
        """Take the sets that drifted before a restart."""
        self._drifting |= frozenset(drifting)

    def update(self, now_seconds: float) -> None:
        """Judge all sets.

        Args:
            now_seconds: Seconds since 1970.
        """
        policy = self._policy
        if not policy.drift_share:
            self.drifts, self._drifting = (), frozenset()
            return
        recent = self._history.recent(policy.drift_window_seconds, now_seconds)
        week = self._history.buckets_by_set("7d", now_seconds)
        self.drifts = tuple(
            judge(
                name,
                recent.get(name, Figures()),
                buckets,
                policy,
                was_drifting=name in self._drifting,
            )
            for name, buckets in week.items()
        )
        self._drifting = frozenset(each.route_set for each in self.drifts if each.is_drifting)


def judge(
    name: str,
    recent: Figures,
    buckets: Sequence[Figures],
    policy: Policy,
    *,
    was_drifting: bool = False,
) -> Drift:
    """Judge one route set.

    Args:
        recent: Figures of the newest span of time.
        buckets: Figures of the buckets of a week, with that span in the newest ones.
        was_drifting: Whether it drifted when it was judged last: then a smaller difference keeps
            it so.
    """
    before = _without(recent, buckets)
    week = sum(before, Figures())
    busy = [each for each in before if each.answers >= 1]
    is_judged = (
        recent.answers >= policy.drift_answers_min
        and week.answers >= BASELINE_FACTOR * policy.drift_answers_min
        and len(busy) >= BASELINE_BUCKETS_MIN
    )
    if not is_judged:
        # Too quiet to be judged again: what was found stays until more is known.
        return Drift(name, recent, week, is_drifting=was_drifting and recent.answers > 0)
    unmatched_errors = _errors(
        (recent.unmatched, recent.answers), [(each.unmatched, each.answers) for each in busy]
    )
    confidence_errors = -_errors(
        (recent.confidence_sum, recent.answers),
        [(each.confidence_sum, each.answers) for each in busy],
    )
    drift = Drift(name, recent, week, unmatched_errors, confidence_errors, is_judged=True)
    ease = CLEAR_SHARE if was_drifting else 1.0
    is_drifting = any(
        change >= ease * policy.drift_share and errors >= ease * STANDARD_ERRORS
        for change, errors in (
            (drift.unmatched_rise, unmatched_errors),
            (drift.confidence_fall, confidence_errors),
        )
    )
    return Drift(
        name, recent, week, unmatched_errors, confidence_errors, True, is_drifting=is_drifting
    )


def _without(recent: Figures, buckets: Sequence[Figures]) -> list[Figures]:
    """Take the newest answers out of the newest buckets."""
    left, before = recent, []
    for each in reversed(buckets):
        share = min(1.0, left.answers / each.answers) if each.answers else 0.0
        if share >= 1.0:
            taken = each
        else:  # the rest of them is in this bucket
            taken = Figures(
                min(left.answers, each.answers),
                min(left.unmatched, each.unmatched),
                min(left.confidence_sum, each.confidence_sum),
            )
        left, kept = _minus(left, taken), _minus(each, taken)
        before.append(kept)
    return before


def _minus(one: Figures, other: Figures) -> Figures:
    return Figures(
        max(0.0, one.answers - other.answers),
        max(0.0, one.unmatched - other.unmatched),
        max(0.0, one.confidence_sum - other.confidence_sum),
    )


def _ratio(part: float, of: Figures) -> float:
    return part / of.answers if of.answers else 0.0


def _errors(recent: tuple[float, float], buckets: Sequence[tuple[float, float]]) -> float:
    """Difference of two means of values between 0 and 1, in standard errors.

    The variance of such a value is at most ``m (1 - m)``, and is that for shares.  The means of
    the buckets vary by more than that where the use of a set changes with the time of the day;
    what they vary by beyond chance is added (method of moments).

    Args:
        recent: Sum and number of the values.
        buckets: The same of each bucket of the baseline, none empty.
    """
    total = sum(count for _, count in buckets)
    mean = sum(value for value, _ in buckets) / total
    own = recent[0] / recent[1]
    pooled = (mean * total + own * recent[1]) / (total + recent[1])
    chance = max(pooled * (1.0 - pooled), 1e-9)
    spread = sum(count * (value / count - mean) ** 2 for value, count in buckets)
    squares = sum(count * count for _, count in buckets)
    weight = total - squares / total
    excess = (spread - (len(buckets) - 1) * chance) / weight if weight > 0 else 0.0
    variance = chance * (1.0 / total + 1.0 / recent[1]) + max(0.0, excess)
    return (own - mean) / math.sqrt(variance)


def drift_sets(drifts: Iterable[Drift]) -> Mapping[str, Drift]:
    """The sets that drift, the one that changed most first."""
    found = [each for each in drifts if each.is_drifting]
    found.sort(key=lambda each: -max(each.unmatched_rise, each.confidence_fall))
    return {each.route_set: each for each in found}
