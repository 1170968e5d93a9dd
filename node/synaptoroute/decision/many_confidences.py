"""Confidences of many queries at once, for fits and calibrations; see ``probability``.

Numpy's ``exp`` and ``log`` may differ in their last bits from those of an answer, and with the
size of an array.  That is harmless where numbers are measured: one node measures, and the
numbers travel through the log.  A loop over single queries would hold the interpreter for
milliseconds, and queries would wait for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from synaptoroute.decision.probability import (
    BEST_ROUTES,
    LEVELS_BEYOND,
    OUTSIDE_SLOPE,
    SHARE_MAX,
    SHARE_MIN,
    Levels,
)

Float64s = NDArray[np.float64]


def many_confidences(
    scores: Float64s, levels: Levels, unmatched_share: float, cohesion: Float64s | None = None
) -> Float64s:
    """Compute the confidences of the best routes of each query: float64[n, listed].

    Args:
        scores: Of each query, highest first, float64[n, listed], at most ``BEST_ROUTES``; minus
            infinity for an empty place behind the others.
        cohesion: Of the best route of each, float64[n]; nan for none.
    """
    assert scores.shape[1] <= BEST_ROUTES, "more would share the probability: this is a bug"
    scale = levels.temperature
    weights = np.exp(scale * (scores - scores[:, :1]))
    total = weights.sum(axis=1)
    level = scores[:, 0] + np.log(total) / scale
    inside, outside = np.array(levels.inside_mean), np.array(levels.outside_mean)
    if cohesion is not None:
        apart = levels.cohesion_slope * (cohesion - levels.cohesion_mean)
        shift = np.where(np.isnan(cohesion), 0.0, apart)
        inside, outside = inside + shift, outside + OUTSIDE_SLOPE * shift
    near, far = levels.inside_deviation, levels.outside_deviation
    level = np.clip(level, outside - LEVELS_BEYOND * far, inside + LEVELS_BEYOND * near)
    tight, loose = 1.0 / (near * near), 1.0 / (far * far)
    if tight != loose:
        turn = (inside * tight - outside * loose) / (tight - loose)
        level = np.minimum(level, turn) if tight > loose else np.maximum(level, turn)
    share = min(max(unmatched_share, SHARE_MIN), SHARE_MAX)
    odds = 0.5 * (((level - inside) / near) ** 2 - ((level - outside) / far) ** 2)
    odds += np.log(share / (1.0 - share)) + np.log(near / far)
    with np.errstate(over="ignore"):
        some = 1.0 / (1.0 + np.exp(odds))
    found: Float64s = weights * (some / total)[:, np.newaxis]
    return found
