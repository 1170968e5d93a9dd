"""Confidence of a static answer: fitted on the route set, on the scale of the encoder's.

The confidence is that of ``decision.probability``, from the static scores of the shortlist and
levels that were measured for them.  Static answers are given only where they are sure, and there
they are right more often than the levels of all queries say.  So the odds of the best route are
multiplied by ``odds``, which makes the mean confidence of the answers that the guard lets pass
equal to the share of right ones.  A monotone map keeps the order of two confidences.

All arithmetic of an answer is additions, multiplications and divisions of float64, so equal
scores give equal confidences on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.decision.fitting import level_of, softmax
from synaptoroute.decision.many_confidences import many_confidences
from synaptoroute.decision.probability import confidences

Float64s: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

STRAY_WEIGHT: Final = 0.06
"""Weight of a left-out route's utterance beside that of a judged one.  Less than the share of
queries that belong to no route: those left out resemble the routes more than most queries do."""
DEVIATIONS_BELOW: Final = 2.0
"""Deviations by which the blended score that is expected of a static answer is lowered before a
threshold is compared with it."""

_TEMPERATURE: Final = 20.0
_EVIDENCE: Final = 16.0
_ODDS_MAX: Final = 1e4
_NUMBER_MAX: Final = 1e6
_LOWEST: Final = -2.0
"""Stands in for a place of the shortlist that is empty."""
_DIGITS: Final = 6
_ROUNDS: Final = 60


@dataclass(frozen=True, slots=True)
class StaticLevels:
    """Numbers behind the confidence of static answers; those of ``probability.Levels``.

    Attributes:
        odds: Factor of the odds that the best route is right.
        blend_scale: A threshold is compared with ``blend_offset + blend_scale * score``.
        blend_offset: See ``blend_scale``.
    """

    temperature: float
    inside_mean: float
    inside_deviation: float
    outside_mean: float
    outside_deviation: float
    odds: float
    blend_scale: float
    blend_offset: float

    @property
    def cohesion_mean(self) -> float:
        return 0.0

    @property
    def cohesion_slope(self) -> float:
        return 0.0

    @property
    def is_sound(self) -> bool:
        """Whether every number has the right type and range: the log is external input."""
        numbers = [getattr(self, each.name) for each in fields(self)]
        above_zero = (self.temperature, self.inside_deviation, self.outside_deviation, self.odds)
        return all(
            isinstance(number, int | float) and abs(number) <= _NUMBER_MAX for number in numbers
        ) and all(number >= 10.0**-_DIGITS for number in above_zero)

    def least_blended(self, score: float) -> float:
        """Score of ``blend`` that the encoder would hardly fall short of."""
        return min(1.0, max(-1.0, self.blend_offset + self.blend_scale * score))

    def measured(
        self, scores: Sequence[float], unmatched_share: float
    ) -> tuple[list[float], float]:
        """Compute what the guard was measured with: confidences, highest first, and p(none)."""
        return confidences(scores, self, unmatched_share)

    def sharpened(self, shares: Sequence[float], p_none: float) -> tuple[list[float], float]:
        """Multiply the odds of the best route; the others and p(none) share the rest."""
        best = shares[0]
        rest = 1.0 - best
        if rest <= 0.0:
            return list(shares), p_none
        odds = best / rest * self.odds
        left = 1.0 / (1.0 + odds)
        factor = left / rest
        return [1.0 - left, *(share * factor for share in shares[1:])], p_none * factor


# --- fitting -----------------------------------------------------------------------------


def fit_levels(
    inside: Float64s, own: Numbers, outside: Float64s, blend_line: tuple[float, float]
) -> StaticLevels:
    """Fit temperature and levels; ``odds`` is 1.

    Args:
        inside: Scores on the shortlists of judged utterances, float64[n, listed], highest first;
            minus infinity for an empty place.
        own: Place of the utterance's own route, int64[n]; -1 if it is not listed.
        outside: As ``inside``, of utterances whose routes were left out.
        blend_line: ``blend_scale`` and ``blend_offset``.
    """
    inside, outside = np.maximum(inside, _LOWEST), np.maximum(outside, _LOWEST)
    is_listed = own >= 0
    temperature = _fit_temperature(inside[is_listed], own[is_listed])
    within, without = level_of(inside, temperature), level_of(outside, temperature)
    scale, offset = blend_line
    return StaticLevels(
        temperature=round(temperature, _DIGITS),
        inside_mean=round(float(within.mean()), _DIGITS),
        inside_deviation=round(max(float(within.std()), 1e-3), _DIGITS),
        outside_mean=round(float(without.mean()), _DIGITS),
        outside_deviation=round(max(float(without.std()), 1e-3), _DIGITS),
        odds=1.0,
        blend_scale=scale,
        blend_offset=offset,
    )


def _fit_temperature(scores: Float64s, own: Numbers) -> float:
    """Minimise the log loss with a prior, which is convex, by Newton's method."""
    found, every = _TEMPERATURE, np.arange(len(own))
    curve = _EVIDENCE / _TEMPERATURE**2
    for _ in range(_ROUNDS):
        chances = softmax(found * scores)
        expected = (chances * scores).sum(axis=1)
        slope = float((expected - scores[every, own]).sum()) + curve * (found - _TEMPERATURE)
        bend = float(((chances * scores**2).sum(axis=1) - expected**2).sum()) + curve
        step = slope / bend
        found = max(1.0, found - step)
        if abs(step) < 1e-6:
            break
    return found


def confidence_of(scores: Float64s, levels: StaticLevels, unmatched_share: float) -> Float64s:
    """Confidence of the best route of each shortlist, as the guard is measured: float64[n]."""
    return many_confidences(np.maximum(scores, _LOWEST), levels, unmatched_share)[:, 0]


def fit_odds(sure: Float64s, right: Mask, strays: Float64s) -> float:
    """Fit the factor of the odds on what the guard lets pass.

    Args:
        sure: Confidences of judged utterances.
        right: Whether they got their route.
        strays: Confidences of utterances whose routes were left out.
    """
    chances = np.clip(np.concatenate([sure, strays]), 1e-9, 1.0 - 1e-9)
    weights = np.concatenate([np.ones(len(sure)), np.full(len(strays), STRAY_WEIGHT)])
    # One more wrong answer than was seen: of a few answers all may be right by chance.
    wanted = float(right.sum()) - 1.0
    odds = chances / (1.0 - chances)
    low, high = -math.log(_ODDS_MAX), math.log(_ODDS_MAX)
    for _ in range(_ROUNDS):
        middle = (low + high) / 2.0
        lifted = odds * math.exp(middle)
        if float((weights * (lifted / (1.0 + lifted))).sum()) < wanted:
            low = middle
        else:
            high = middle
    return max(round(math.exp((low + high) / 2.0), _DIGITS), 10.0**-_DIGITS)
