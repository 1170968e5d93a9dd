"""Confidences of a batch of queries: the bits of ``probability.confidences``, in fewer calls.

The same additions, multiplications and divisions of float64, in the same order, an array at a
time.  Numpy rounds each of them as Python does; its own ``exp``, ``log`` and ``sum`` are not
used, because they do not.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.decision.probability import (
    BEST_ROUTES,
    FACTORIALS,
    LARGEST,
    LEVELS_BEYOND,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    ODDS,
    OUTSIDE_SLOPE,
    SMALLEST,
    SQRT_HALF,
    Levels,
    share_constants,
)

Float64s = NDArray[np.float64]
_ONE: Final = np.float64(1.0)


def batch_confidences(
    scores: Float64s, levels: Levels, unmatched_share: float, cohesion: Float64s
) -> tuple[Float64s, Float64s]:
    """Compute the confidence of each route of each query, and p(none) of each.

    Args:
        scores: Of each query, highest first, float64[n, listed]; minus infinity for an empty
            place behind the others.  Every query has at least one.
        cohesion: Of the best route of each, float64[n]; nan for none.

    Returns:
        float64[n, listed], 0 in an empty place, and float64[n].
    """
    top, scale = scores[:, 0], levels.temperature
    weights = scores - scores[:, :1]
    weights *= scale
    weights = _exp(weights)
    # Column by column: the order of ``np.sum`` depends on the shape.
    total = weights[:, 0].copy()
    for place in range(1, min(weights.shape[1], BEST_ROUTES)):
        total += weights[:, place]
    level = _log(total)
    level /= scale
    level += top
    odds = _exp(_none_odds(level, levels, unmatched_share, cohesion))
    odds += 1.0
    p_none = 1.0 - _ONE / odds
    weights *= ((1.0 - p_none) / total)[:, np.newaxis]
    return weights, p_none


def _none_odds(
    level: Float64s, levels: Levels, unmatched_share: float, cohesion: Float64s
) -> Float64s:
    """As ``probability.none_odds``."""
    inside_spread, outside_spread = levels.inside_deviation, levels.outside_deviation
    shift = cohesion - levels.cohesion_mean
    shift *= levels.cohesion_slope
    has_none = np.isnan(shift)
    inside, outside = levels.inside_mean + shift, levels.outside_mean + OUTSIDE_SLOPE * shift
    if has_none.any():
        inside[has_none], outside[has_none] = levels.inside_mean, levels.outside_mean
    level = np.maximum(level, outside - LEVELS_BEYOND * outside_spread)
    np.minimum(level, inside + LEVELS_BEYOND * inside_spread, out=level)
    near, far = 1.0 / (inside_spread * inside_spread), 1.0 / (outside_spread * outside_spread)
    if near != far:
        turn = (inside * near - outside * far) / (near - far)
        (np.minimum if near > far else np.maximum)(level, turn, out=level)
    nearer = (level - inside) / inside_spread
    farther = (level - outside) / outside_spread
    nearer *= nearer
    farther *= farther
    nearer -= farther
    nearer *= 0.5
    prior, ratio = share_constants(unmatched_share, inside_spread, outside_spread)
    nearer += prior
    nearer += ratio
    return nearer


def _exp(powers: Float64s) -> Float64s:
    """As ``probability.exp`` of each."""
    power = np.clip(powers, SMALLEST, LARGEST)
    exponent = power * LOG2_E
    exponent += 0.5
    np.floor(exponent, out=exponent)
    x = power
    x -= exponent * LN2_HIGH
    x -= exponent * LN2_LOW
    found = x * FACTORIALS[0]
    found += FACTORIALS[1]
    for factor in FACTORIALS[2:]:
        found *= x
        found += factor
    found = np.ldexp(found, exponent.astype(np.intc))
    found[powers < SMALLEST] = 0.0
    return found


def _log(numbers: Float64s) -> Float64s:
    """As ``probability.log`` of each."""
    fraction, exponents = np.frexp(numbers)
    exponent = exponents.astype(np.float64)
    is_low = fraction < SQRT_HALF
    fraction[is_low] *= 2.0
    exponent[is_low] -= 1.0
    rest = (fraction - 1.0) / (fraction + 1.0)
    x = rest * rest
    found = x * ODDS[0]
    found += ODDS[1]
    for factor in ODDS[2:]:
        found *= x
        found += factor
    rest *= 2.0
    rest *= found
    rest += exponent * LN2_LOW
    rest += exponent * LN2_HIGH
    return rest
