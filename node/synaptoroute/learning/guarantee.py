"""Limits with a statistical guarantee, from labelled traffic.

The method is Learn-then-Test with fixed-sequence testing (Angelopoulos, Bates, Candes, Jordan,
Lei: "Learn then Test", 2021).  The hypotheses "the error rate at this limit is above alpha" are
tested from the highest limit down, each at level delta by an exact binomial tail, and testing
stops at the first one that cannot be rejected.  Then, with probability at least 1 - delta over
the draw of the labelled texts, the share of wrong answers among the answered ones is at most
alpha at the chosen limit.

It holds for future texts of the same source as the labelled ones, drawn independently, and for
the route set that was judged.  It does not hold for single routes or groups of users, for
texts of another source, after the traffic drifts, or for texts that were used as utterances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma, log, log1p
from typing import Final

from synaptoroute.learning.curves import Judged

TEXTS_MIN: Final = 200
"""Fewer labelled texts give limits that answer nearly nothing, or no guarantee at all."""
GRID: Final = 100
START_FACTOR: Final = 2


@dataclass(frozen=True, slots=True)
class Guarantee:
    """A limit and the evidence for it."""

    limit: float
    alpha: float
    delta: float
    texts: int  # Labelled texts
    answered: int  # At the limit
    wrong: int  # Of these
    p_value: float  # Of "the error rate is above alpha"

    @property
    def error(self) -> float:
        return self.wrong / self.answered


class TooFewTexts(ValueError):
    """There are too few labelled texts for a guarantee."""


def guaranteed_limit(judged: Sequence[Judged], alpha: float, delta: float) -> Guarantee | None:
    """Find the lowest limit whose error among answered texts is at most ``alpha``.

    Returns:
        None if no limit has the guarantee.

    Raises:
        TooFewTexts: There are fewer than ``TEXTS_MIN`` texts.
        ValueError: ``alpha`` or ``delta`` is not between 0 and 1.
    """
    if not (0.0 < alpha < 1.0 and 0.0 < delta < 1.0):
        raise ValueError("alpha and delta are above 0 and below 1")
    if len(judged) < TEXTS_MIN:
        raise TooFewTexts(f"a guarantee needs {TEXTS_MIN} labelled texts, there are {len(judged)}")
    found: Guarantee | None = None
    # Which limits are tested, and in which order, must not depend on the labels.  Testing begins
    # at the highest limit that answers enough texts for a rejection in spite of a few errors.
    enough = START_FACTOR * min_answered(alpha, delta)
    for step in range(GRID - 1, -1, -1):
        limit = step / GRID
        answered = [each for each in judged if each.best is not None and each.value >= limit]
        if len(answered) < enough and step:
            continue
        wrong = sum(not each.is_right for each in answered)
        p_value = binomial_tail(len(answered), wrong, alpha)
        if p_value > delta:
            break
        found = Guarantee(limit, alpha, delta, len(judged), len(answered), wrong, p_value)
    return found


def min_answered(alpha: float, delta: float) -> int:
    """Count the answered texts without an error that are needed to reject."""
    count = 1
    while count * log1p(-alpha) > log(delta):
        count += 1
    return count


def binomial_tail(count: int, wrong: int, share: float) -> float:
    """Probability of at most ``wrong`` in ``count`` draws with probability ``share``, exact."""
    if wrong >= count:
        return 1.0
    whole = lgamma(count + 1)
    total = 0.0
    for each in range(wrong + 1):
        ways = whole - lgamma(each + 1) - lgamma(count - each + 1)
        total += exp(ways + each * log(share) + (count - each) * log1p(-share))
    return min(1.0, total)
