"""Answers of this node, counted by route set and route.

No text is kept.  The counts of a route only grow, from the start of the process on or from the
creation of the route: the coordinator reads them of all nodes from time to time and adds up the
differences.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from synaptoroute.core.mutation import DEFAULT_SET
from synaptoroute.models import Match

PAIRS_MAX: Final = 2_048
"""Pairs of set and route that are counted; answers of further ones are counted together."""
OTHERS: Final = ""
"""In place of a route: the routes of a set that are not counted one by one."""
_NO_ROUTE: Final = "?"  # begins no name of a route; the reason follows

Pair = tuple[str, str]
"""Route set, and route or ``OTHERS`` or why there is none."""


class Tally:
    """Answers of one route, and the sum of their confidences."""

    __slots__ = ("answers", "confidence_sum")

    def __init__(self) -> None:
        self.answers = 0
        self.confidence_sum = 0.0


class RouteCount(NamedTuple):
    """Answers of one route; ``OTHERS`` for those that are not counted one by one."""

    route_set: str
    route: str
    answers: int
    confidence_sum: float


class RouteTraffic:
    """Counts answers that clients got; used on the event loop only.

    Attributes:
        began_at_ms: When counting began, milliseconds since 1970.
        has_new: Whether a pair was added since the last call of ``forget``.
    """

    def __init__(self, pairs_max: int = PAIRS_MAX) -> None:
        self.began_at_ms = time.time_ns() // 1_000_000
        self.has_new = False
        self._pairs_max = pairs_max
        self._tallies: dict[Pair, Tally] = {}  # of routes
        self._set_tallies: dict[Pair, Tally] = {}  # of ``OTHERS``, and of each reason
        self._others = Tally()  # of sets that are not counted one by one
        self._forgotten: dict[str, Tally] = {}  # of removed routes, by set

    def count(self, answer: Match | Sequence[Match]) -> list[tuple[Tally, float]]:
        """Count an answer, of one match or of several.

        Returns:
            Where its matches are counted again if it is given again, and their confidences.
        """
        counted = []
        for match in (answer,) if isinstance(answer, Match) else answer:
            pair = (match.route_set or DEFAULT_SET, match.route or _NO_ROUTE + match.reason)
            tally = self._tallies.get(pair) or self._set_tallies.get(pair) or self._add(pair)
            confidence = match.confidence or 0.0
            tally.answers += 1
            tally.confidence_sum += confidence
            counted.append((tally, confidence))
        return counted

    def _add(self, pair: Pair) -> Tally:
        """Begin to count a pair, or find where it is counted together with others."""
        if not pair[1].startswith(_NO_ROUTE):
            if len(self._tallies) < self._pairs_max:
                self.has_new = True
                return self._tallies.setdefault(pair, Tally())
            pair = (pair[0], OTHERS)
        tally = self._set_tallies.get(pair)
        if tally is None:
            if len(self._set_tallies) >= self._pairs_max:
                return self._others
            self.has_new = True
            tally = self._set_tallies[pair] = Tally()
        return tally

    # --- what was removed ---

    @property
    def pairs(self) -> list[Pair]:
        """Sets and routes with counts of their own."""
        return [*self._tallies, *self._set_tallies]

    def forget(self, sets: Iterable[str], pairs: Iterable[Pair]) -> None:
        """Forget sets and routes that no longer exist, so that new ones can be counted.

        Args:
            sets: Names of removed sets.
            pairs: Removed routes; the sum of their set keeps their answers.
        """
        gone = frozenset(sets)
        for pair in pairs:
            tally = self._tallies.pop(pair, None)
            if tally is not None and pair[0] not in gone:
                forgotten = self._forgotten.setdefault(pair[0], Tally())
                forgotten.answers += tally.answers
                forgotten.confidence_sum += tally.confidence_sum
        for name in gone:
            self._forgotten.pop(name, None)
        for tallies in (self._tallies, self._set_tallies):
            for pair in [each for each in tallies if each[0] in gone]:
                del tallies[pair]
        self.has_new = False

    # --- reads ---

    def routes(self) -> list[RouteCount]:
        """Counts of the routes that exist, in the order in which they had their first answer."""
        found = [*self._tallies.items()]
        found += [(pair, each) for pair, each in self._set_tallies.items() if pair[1] == OTHERS]
        return [RouteCount(*pair, each.answers, each.confidence_sum) for pair, each in found]

    def outcomes(self) -> dict[str, dict[str, tuple[int, float]]]:
        """Answers and sums of confidences by set and outcome: ``matched``, or why no route is."""
        found: dict[str, dict[str, tuple[int, float]]] = {}

        def add(route_set: str, outcome: str, tally: Tally) -> None:
            own = found.setdefault(route_set, {})
            answers, confidence_sum = own.get(outcome, (0, 0.0))
            own[outcome] = answers + tally.answers, confidence_sum + tally.confidence_sum

        for (name, _), tally in self._tallies.items():
            add(name, "matched", tally)
        for name, tally in self._forgotten.items():
            add(name, "matched", tally)
        for (name, what), tally in self._set_tallies.items():
            add(name, "matched" if what == OTHERS else what.removeprefix(_NO_ROUTE), tally)
        return found

    def document(self) -> dict[str, Any]:
        """All counts; a pair without a route holds the answers without one."""
        pairs: list[dict[str, Any]] = [
            {
                "set": name,
                "route": route,
                "answers": tally.answers,
                "confidence_sum": round(tally.confidence_sum, 6),
            }
            for (name, route), tally in self._tallies.items()
        ]
        set_others: list[dict[str, Any]] = []
        for name, outcomes in self.outcomes().items():
            unmatched = {what: each for what, each in outcomes.items() if what != "matched"}
            if unmatched:
                confidence_sum = sum(each[1] for each in unmatched.values())
                pairs.append(
                    {
                        "set": name,
                        "route": None,
                        "answers": sum(each[0] for each in unmatched.values()),
                        "confidence_sum": round(confidence_sum, 6),
                        "reasons": {what: each[0] for what, each in unmatched.items()},
                    }
                )
            others = self._set_tallies.get((name, OTHERS))
            if others is not None:
                set_others.append(
                    {
                        "set": name,
                        "answers": others.answers,
                        "confidence_sum": round(others.confidence_sum, 6),
                    }
                )
        return {
            "began_at_ms": self.began_at_ms,
            "pairs": pairs,
            "set_others": set_others,
            "others": self._others.answers + sum(each["answers"] for each in set_others),
        }
