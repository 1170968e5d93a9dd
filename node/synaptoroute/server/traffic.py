"""Answers of this node, counted by route set and route.

No text is kept.  The counts only grow, from the start of the process on: the coordinator reads
them of all nodes from time to time and adds up the differences.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from synaptoroute.core.mutation import DEFAULT_SET
from synaptoroute.models import Match

PAIRS_MAX: Final = 2_048
"""Pairs of set and route that are counted; answers of further ones are counted together."""


class Tally:
    """Answers of one route, and the sum of their confidences."""

    __slots__ = ("answers", "confidence_sum")

    def __init__(self) -> None:
        self.answers = 0
        self.confidence_sum = 0.0


class RouteTraffic:
    """Counts answers that clients got; used on the event loop only.

    Attributes:
        began_at_ms: When counting began, milliseconds since 1970.
    """

    def __init__(self, pairs_max: int = PAIRS_MAX) -> None:
        self.began_at_ms = time.time_ns() // 1_000_000
        self._pairs_max = pairs_max
        self._tallies: dict[tuple[str, str | None], Tally] = {}
        self._others = Tally()

    def count(self, answer: Match | Sequence[Match]) -> list[tuple[Tally, float]]:
        """Count an answer, of one match or of several.

        Returns:
            Where its matches are counted again if it is given again, and their confidences.
        """
        counted = []
        for match in (answer,) if isinstance(answer, Match) else answer:
            pair = (match.route_set or DEFAULT_SET, match.route)
            tally = self._tallies.get(pair)
            if tally is None:
                is_full = len(self._tallies) >= self._pairs_max
                tally = self._others if is_full else self._tallies.setdefault(pair, Tally())
            confidence = match.confidence or 0.0
            tally.answers += 1
            tally.confidence_sum += confidence
            counted.append((tally, confidence))
        return counted

    def document(self) -> dict[str, Any]:
        """All counts; a pair without a route holds the answers without one."""
        return {
            "began_at_ms": self.began_at_ms,
            "pairs": [
                {
                    "set": name,
                    "route": route,
                    "answers": tally.answers,
                    "confidence_sum": round(tally.confidence_sum, 6),
                }
                for (name, route), tally in self._tallies.items()
            ],
            "others": self._others.answers,
        }
