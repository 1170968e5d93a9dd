"""The newest queries that no route took, for whoever looks after the routes.

They are what people wrote, so nothing is kept unless an operator says how many, and
nothing of it is written to a disk or a log.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from synaptoroute.models import Match


@dataclass(frozen=True, slots=True)
class UnmatchedQuery:
    """One query without a route.

    Attributes:
        text: What was asked.
        at_ms: Wall clock, milliseconds since 1970.
        nearest: Example of the route that came nearest; None where there are none.
        score: The score of that route,
        threshold: and what that fell short of.
    """

    text: str
    at_ms: int
    nearest: str | None
    score: float | None
    threshold: float | None


class Unmatched:
    """A bounded list; written in the scorer's turn, read from any.

    Args:
        kept: How many are kept; 0 keeps none.
    """

    def __init__(self, kept: int = 0) -> None:
        self.is_on = kept > 0
        self._newest: deque[UnmatchedQuery] = deque(maxlen=kept)

    @property
    def newest(self) -> list[UnmatchedQuery]:
        """What is kept, newest first."""
        return list(reversed(self._newest.copy()))

    def note(self, answers: Iterable[tuple[str, Match]]) -> None:
        """Keep the texts of a batch that no route took."""
        at_ms = time.time_ns() // 1_000_000
        for text, match in answers:
            if match.route is None:
                self._newest.append(
                    UnmatchedQuery(text, at_ms, match.utterance, match.score, match.threshold)
                )
