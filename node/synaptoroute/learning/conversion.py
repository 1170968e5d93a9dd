"""Least confidences in place of thresholds, so that as many answers as possible stay.

A threshold was chosen for scores of one aggregation and one encoder; a least confidence means
the same for all.  The least confidence that refuses nearly the same texts as a threshold does is
found on judged texts: labelled queries, or utterances without themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

TEXTS_MIN: Final = 5
"""With fewer texts, a route with a threshold of its own gets the default."""
CENTRE: Final = 0.5
"""Of several equally good limits the one nearest to this is taken."""
DIGITS: Final = 3


@dataclass(frozen=True, slots=True)
class ComparedText:
    """A text by its best route."""

    route: str
    is_answered: bool  # By the limits that there are
    confidence: float


@dataclass(frozen=True, slots=True)
class ConvertedLimit:
    """A least confidence, and how well it stands for a threshold."""

    confidence_min: float
    texts: int
    same: int  # Texts that are answered or refused as before


@dataclass(frozen=True, slots=True)
class Conversion:
    """Least confidences for a route set."""

    default: ConvertedLimit
    own: Mapping[str, ConvertedLimit]  # For routes with a threshold of their own
    dropped: tuple[str, ...]  # Routes with a threshold of their own, and too few texts


def convert(
    texts: Sequence[ComparedText], with_own: Sequence[str], default: float | None = None
) -> Conversion:
    """Find least confidences.

    Args:
        with_own: Routes with thresholds of their own.
        default: The default least confidence, if there is no default threshold to convert.
    """
    own: dict[str, ConvertedLimit] = {}
    dropped = []
    for route in with_own:
        mine = [each for each in texts if each.route == route]
        if len(mine) < TEXTS_MIN:
            dropped.append(route)
        else:
            own[route] = convert_limit(mine)
    rest = [each for each in texts if each.route not in own]
    if default is None:
        return Conversion(convert_limit(rest), own, tuple(dropped))
    kept = ConvertedLimit(default, len(rest), _same(rest, default))
    return Conversion(kept, own, tuple(dropped))


def convert_limit(texts: Sequence[ComparedText]) -> ConvertedLimit:
    """Find the least confidence that answers most of the texts that are answered, and no others."""
    values = sorted({each.confidence for each in texts})
    # Limits between neighbouring values, and beyond both ends.
    middles = [(low + high) / 2 for low, high in pairwise(values)]
    limits = [0.0, *middles, 1.0, CENTRE, *(round(each, DIGITS) for each in middles)]
    best = max(limits, key=lambda limit: (_same(texts, limit), -abs(limit - CENTRE), -limit))
    return ConvertedLimit(best, len(texts), _same(texts, best))


def _same(texts: Sequence[ComparedText], limit: float) -> int:
    return sum((each.confidence >= limit) == each.is_answered for each in texts)
