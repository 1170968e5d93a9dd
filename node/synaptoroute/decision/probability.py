"""Confidence: the probability that a route is right, from the scores of the best routes.

confidence = p(route | some route) (1 - p(none)).  The first factor is a softmax.  The second
compares two normal densities of the *level*, logsumexp(a s) / a: that of queries that belong
to a route, and that of queries that belong to none, in the expected shares.

Only the ``BEST_ROUTES`` best routes count.  ``exp`` and ``log`` of a C library may differ in
their last bits from machine to machine, and numpy's differ with the size of an array.  These
here are made of additions, multiplications and divisions of float64 only, so equal scores give
equal confidences on every machine.

Source: Cody and Waite, Software Manual for the Elementary Functions, 1980, ch. 5 and 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Protocol

BEST_ROUTES: Final = 8
"""Routes that share the probability.  More would change the calibration of a fit by less than
its error, and each costs a query."""
SHARE_MIN: Final = 0.001
SHARE_MAX: Final = 0.9

LN2_HIGH: Final = 0.693359375
LN2_LOW: Final = -2.121944400546905827679e-4
LOG2_E: Final = 1.4426950408889634
SMALLEST: Final = -700.0
LARGEST: Final = 700.0
FACTORIALS: Final = tuple(1.0 / math.factorial(power) for power in range(13, -1, -1))
ODDS: Final = tuple(1.0 / power for power in range(19, 0, -2))
SQRT_HALF: Final = 0.7071067811865476
OUTSIDE_SLOPE: Final = 0.7
"""Slope of the outside level with the cohesion, as a share of that of the inside level: a
foreign query too is less like a wide route."""
LEVELS_BEYOND: Final = 4.0
"""Deviations beyond which a level is taken as one at that distance."""


class Levels(Protocol):
    """The numbers of a calibration that a confidence needs."""

    @property
    def temperature(self) -> float: ...

    @property
    def inside_mean(self) -> float: ...

    @property
    def inside_deviation(self) -> float: ...

    @property
    def outside_mean(self) -> float: ...

    @property
    def outside_deviation(self) -> float: ...

    @property
    def cohesion_mean(self) -> float: ...

    @property
    def cohesion_slope(self) -> float: ...


def confidences(
    scores: Sequence[float],
    levels: Levels,
    unmatched_share: float,
    cohesion: float | None = None,
) -> tuple[list[float], float]:
    """Compute the confidence of each route, and p(none).

    Args:
        scores: Of the best routes, highest first; those beyond ``BEST_ROUTES`` get the
            confidence that they would have beside these.
        unmatched_share: Expected share of queries that no route should take.
        cohesion: Mean similarity of two utterances of the best route; None if it has one.

    Returns:
        One confidence a score, and the probability that no route is right.
    """
    if not scores:
        return [], 1.0
    top, scale = scores[0], levels.temperature
    # The first is e^0.
    weights = [1.0, *_exps([scale * (score - top) for score in scores[1:]])]
    total = 0.0
    for weight in weights[:BEST_ROUTES]:
        total += weight
    level = top + log(total) / scale
    p_none = 1.0 - 1.0 / (1.0 + exp(none_odds(level, levels, unmatched_share, cohesion)))
    factor = (1.0 - p_none) / total
    return [weight * factor for weight in weights], p_none


def none_odds(
    level: float, levels: Levels, unmatched_share: float, cohesion: float | None = None
) -> float:
    """Log odds that a query at this level belongs to no route; never rises with the level."""
    inside, inside_spread = levels.inside_mean, levels.inside_deviation
    outside, outside_spread = levels.outside_mean, levels.outside_deviation
    if cohesion is not None:
        shift = levels.cohesion_slope * (cohesion - levels.cohesion_mean)
        inside += shift
        outside += OUTSIDE_SLOPE * shift
    # Comparisons, since calls of ``min`` and ``max`` cost more than the arithmetic.
    least, most = outside - LEVELS_BEYOND * outside_spread, inside + LEVELS_BEYOND * inside_spread
    if level < least:
        level = least
    if level > most:
        level = most
    # Two densities of different width cross twice: far out the wider one would win again, and
    # a text nearer to the routes would count as more foreign.  Stop where the odds turn.
    near, far = 1.0 / (inside_spread * inside_spread), 1.0 / (outside_spread * outside_spread)
    if near != far:
        turn = (inside * near - outside * far) / (near - far)
        if (level > turn) if near > far else (level < turn):
            level = turn
    nearer = (level - inside) / inside_spread
    farther = (level - outside) / outside_spread
    found = 0.5 * (nearer * nearer - farther * farther)
    prior, ratio = share_constants(unmatched_share, inside_spread, outside_spread)
    return found + prior + ratio


@lru_cache(maxsize=64)
def share_constants(
    share: float, inside_spread: float, outside_spread: float
) -> tuple[float, float]:
    """Log odds of the share, and the logarithm of the ratio of the widths."""
    share = min(max(share, SHARE_MIN), SHARE_MAX)
    return log(share / (1.0 - share)), log(inside_spread / outside_spread)


def exp(power: float) -> float:
    """e^power within a few units of the last place; equal bits on every machine."""
    return _exps([power])[0]


def _exps(powers: Sequence[float]) -> list[float]:
    """``exp`` of each power: a query has several, and a call costs as much as the arithmetic."""
    # Written out: a loop over the factors would take twice as long.
    f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13 = FACTORIALS
    floor, ldexp = math.floor, math.ldexp
    results = []
    for power in powers:
        if power < SMALLEST:
            results.append(0.0)
            continue
        if power > LARGEST:
            power = LARGEST
        exponent = floor(power * LOG2_E + 0.5)
        x = (power - exponent * LN2_HIGH) - exponent * LN2_LOW
        found = (((((f0 * x + f1) * x + f2) * x + f3) * x + f4) * x + f5) * x + f6
        found = (((((found * x + f7) * x + f8) * x + f9) * x + f10) * x + f11) * x + f12
        results.append(ldexp(found * x + f13, exponent))
    return results


def log(number: float) -> float:
    """The natural logarithm of a positive number; equal bits on every machine."""
    fraction, exponent = math.frexp(number)
    if fraction < SQRT_HALF:
        fraction *= 2.0
        exponent -= 1
    rest = (fraction - 1.0) / (fraction + 1.0)
    x = rest * rest
    f0, f1, f2, f3, f4, f5, f6, f7, f8, f9 = ODDS
    found = ((((f0 * x + f1) * x + f2) * x + f3) * x + f4) * x + f5
    found = (((found * x + f6) * x + f7) * x + f8) * x + f9
    return exponent * LN2_HIGH + (2.0 * rest * found + exponent * LN2_LOW)
