"""Positions, lag and load of the fleet over time.

Fine buckets of time for the last hour, coarse ones for the last days.  In memory, so they begin
anew with the process.  Numbers and names of nodes only, no texts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from synaptoroute_coordinator.fleet import FleetView


class HistoryRange(NamedTuple):
    """A span of time that is kept, and the width of its buckets."""

    buckets: int
    bucket_seconds: int


RANGES: Final[Mapping[str, HistoryRange]] = {
    "1h": HistoryRange(120, 30),
    "24h": HistoryRange(144, 600),
    "7d": HistoryRange(168, 3_600),
}
SERIES: Final = (
    "head", "lag_entries", "behind", "live", "nodes", "queries_per_second", "p99_ms",
)  # fmt: skip
"""Series of the document; ``behind`` has the name of the node with the largest lag."""


@dataclass(slots=True)
class _Bucket:
    """Figures of one bucket: the newest position, the largest lag, the mean load."""

    number: int
    head: str = ""
    lag_entries: int = 0
    behind: str = ""
    live: int = 0
    nodes: int = 0
    views: int = 0
    queries_per_second_sum: float = 0.0
    p99_ms: float | None = None

    def add(self, view: FleetView) -> None:
        live = view.live
        self.head = f"{view.log.epoch}.{view.log.seq}"
        self.live = len(live) if not self.views else min(self.live, len(live))
        self.nodes = len(view.nodes)
        self.views += 1
        for node in live:
            if node.lag_entries > self.lag_entries:
                self.lag_entries, self.behind = node.lag_entries, node.name
            if node.telemetry is not None:
                self.queries_per_second_sum += node.telemetry.queries_per_second
                if node.telemetry.p99_ms is not None:
                    self.p99_ms = max(self.p99_ms or 0.0, node.telemetry.p99_ms)

    @property
    def queries_per_second(self) -> float:
        return round(self.queries_per_second_sum / max(1, self.views), 2)


class FleetHistory:
    """Keeps what views showed; used on one event loop.

    Args:
        now_seconds: Seconds since 1970, when it begins.
    """

    def __init__(self, now_seconds: float) -> None:
        self.began_at_seconds = now_seconds
        self._buckets = {name: deque[_Bucket](maxlen=each.buckets) for name, each in RANGES.items()}

    def add(self, view: FleetView, now_seconds: float) -> None:
        """Add a view; one without an answer of Redis is left out, because it tells nothing new."""
        if not view.is_known:
            return
        for name, each in RANGES.items():
            kept, number = self._buckets[name], int(now_seconds) // each.bucket_seconds
            # A clock that is set back adds to the newest bucket until it has caught up.
            if not kept or kept[-1].number < number:
                kept.append(_Bucket(number))
            kept[-1].add(view)

    def document(self, range_name: str, now_seconds: float) -> dict[str, Any]:
        """Describe a range: one value a bucket in each series, oldest first, None for no view."""
        asked = RANGES[range_name]
        newest = int(now_seconds) // asked.bucket_seconds
        found = {each.number: each for each in self._buckets[range_name]}
        shown = [found.get(number) for number in range(newest - asked.buckets + 1, newest + 1)]
        return {
            "since_ms": int(self.began_at_seconds * 1_000),
            "from_ms": (newest - asked.buckets + 1) * asked.bucket_seconds * 1_000,
            "bucket_seconds": asked.bucket_seconds,
            **{
                name: [None if each is None else getattr(each, name) for each in shown]
                for name in SERIES
            },
        }
