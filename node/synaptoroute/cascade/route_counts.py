"""Counts of a route set that say whether a calibration is possible, and still applies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from synaptoroute.core.change import Change, RouteRecord
from synaptoroute.core.mutation import Revision

UTTERANCES_A_ROUTE_MIN: Final = 5.0
UTTERANCES_MIN: Final = 200
UTTERANCES_MAX: Final = 65_536
"""A larger route set would take too long to evaluate, and too much memory."""
ROUTES_MIN: Final = 3


class RouteCounts:
    """Counts at one position; one thread at a time.

    Attributes:
        routes: Routes.
        utterances: Their utterances.
        judged: Utterances of routes that have others, so that each can be left out.
        unchanged: Routes that are as they were at ``since``.
    """

    def __init__(self, records: Iterable[RouteRecord] = (), since: Revision | None = None) -> None:
        """Count.

        Args:
            since: Position of the calibration; None if there is none.
        """
        kept = tuple(records)
        counts = [len(record.slots) for record in kept]
        self._since = since
        self.routes = len(kept)
        self.utterances = sum(counts)
        self.judged = self.utterances - counts.count(1)
        self.unchanged = 0
        if since is not None:
            self.unchanged = sum(record.revision <= since for record in kept)

    def apply(self, change: Change) -> None:
        """Count what a change takes away and puts."""
        since = self._since
        for record in (*change.before, *change.deleted):
            count = len(record.slots)
            self.routes -= 1
            self.utterances -= count
            self.judged -= count if count > 1 else 0
            self.unchanged -= since is not None and record.revision <= since
        for record in change.put:
            count = len(record.slots)
            self.routes += 1
            self.utterances += count
            self.judged += count if count > 1 else 0

    @property
    def unfit(self) -> str:
        """Why the routes cannot be measured, as a reason of a calibration; empty if they can."""
        if self.utterances > UTTERANCES_MAX:
            return "too_many_utterances"
        needed = max(UTTERANCES_MIN, UTTERANCES_A_ROUTE_MIN * self.routes)
        is_small = self.routes < ROUTES_MIN or self.judged < needed
        return "too_few_utterances" if is_small else ""

    def changed_share(self, calibrated: int) -> float:
        """Share of the routes that a calibration saw that were added, changed or removed."""
        changed = max(self.routes, calibrated) - self.unchanged
        return changed / max(1, calibrated)
