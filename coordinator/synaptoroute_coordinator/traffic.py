"""Answers of all nodes over time, by route set and route.

Each node counts its answers from its start on.  The coordinator reads these counts from time to
time, and keeps the differences in buckets of time: fine ones for the last hours, coarse ones for
the last days.  Counts only, no text; in memory, so they begin anew with the process.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

SERIES_MAX: Final = 2_048
"""Pairs of set and route that are kept; further ones are left out until others have no answers."""
NAME_CHARACTERS_MAX: Final = 256
NODES_MAX: Final = 8_192


class Range(NamedTuple):
    """A span of time that is kept, and the width of its buckets."""

    seconds: int
    bucket_seconds: int

    @property
    def buckets(self) -> int:
        return self.seconds // self.bucket_seconds


RANGES: Final[Mapping[str, Range]] = {
    "1h": Range(3_600, 60),
    "24h": Range(86_400, 900),
    "7d": Range(604_800, 7_200),
}
RANGE_NAMES: Final[Mapping[str, str]] = {"hour": "1h", "day": "24h", "week": "7d"}
"""Other names of the ranges."""
OTHERS: Final = ""
"""Stands for the routes of a set that a node does not count one by one."""
Pair = tuple[str, str | None]
"""Route set and route, or ``OTHERS``; None for answers without a route."""


class _Series:
    """One pair: its answers and the sum of their confidences, in each bucket of each range."""

    __slots__ = ("answers", "confidence_sums")

    def __init__(self) -> None:
        self.answers = [array("d", bytes(8 * each.buckets)) for each in RANGES.values()]
        self.confidence_sums = [array("d", bytes(8 * each.buckets)) for each in RANGES.values()]


class Counts(NamedTuple):
    """Counts of one node when it was read."""

    began_at_ms: int
    pairs: Mapping[Pair, tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Figures:
    """Answers in a span of time."""

    answers: float = 0.0
    unmatched: float = 0.0  # those without a route
    confidence_sum: float = 0.0

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.answers + other.answers,
            self.unmatched + other.unmatched,
            self.confidence_sum + other.confidence_sum,
        )


@dataclass(frozen=True, slots=True)
class RouteTraffic:
    """Answers of one route in a range; the lists have one value a bucket, oldest first."""

    route: str | None
    answers: list[float]
    confidence_sums: list[float]


@dataclass(frozen=True, slots=True)
class SetTraffic:
    """Answers of one route set in a range.

    Attributes:
        from_seconds: Start of the first bucket, seconds since 1970.
        routes: Those with answers, the most first.
    """

    from_seconds: int
    bucket_seconds: int
    routes: list[RouteTraffic] = field(default_factory=list)


class TrafficHistory:
    """Keeps the answers of all nodes over time; used on one event loop.

    Args:
        now_seconds: Seconds since 1970, when counting begins.
    """

    def __init__(self, now_seconds: float) -> None:
        self.began_at_seconds = now_seconds
        self._read_at_seconds = now_seconds
        self._series: dict[Pair, _Series] = {}
        self._newest = [int(now_seconds) // each.bucket_seconds for each in RANGES.values()]
        self._counts: dict[str, Counts] = {}

    def add(self, documents: Mapping[str, Any], now_seconds: float) -> None:
        """Add what nodes have counted since they were read last.

        Args:
            documents: Response of ``/-/traffic`` by identity of the node.
        """
        self._advance(now_seconds)
        self._series = {pair: each for pair, each in self._series.items() if any(each.answers[-1])}
        for node, document in documents.items():
            counts = parse_counts(document)
            if counts is None:
                continue
            before = self._counts.get(node)
            if before is None and counts.began_at_ms < self._read_at_seconds * 1_000:
                # It counted before anybody read it: nobody knows when.
                before = counts
            self._add_node(counts, before)
            self._counts.pop(node, None)
            self._counts[node] = counts
        while len(self._counts) > NODES_MAX:
            del self._counts[next(iter(self._counts))]  # read longest ago
        self._read_at_seconds = now_seconds

    def _add_node(self, counts: Counts, before: Counts | None) -> None:
        is_same_process = before is not None and before.began_at_ms == counts.began_at_ms
        known = before.pairs if before is not None and is_same_process else {}
        for pair, (answers, confidence_sum) in counts.pairs.items():
            answers_before, sum_before = known.get(pair, (0, 0.0))
            if answers < answers_before:
                # The node forgot a route that was removed, and counts it from 0 again.
                answers_before, sum_before = 0, 0.0
            if answers > answers_before:
                series = self._series.get(pair)
                if series is None:
                    if len(self._series) >= SERIES_MAX:
                        continue
                    series = self._series[pair] = _Series()
                for index, newest in enumerate(self._newest):
                    place = newest % len(series.answers[index])
                    series.answers[index][place] += answers - answers_before
                    series.confidence_sums[index][place] += max(0.0, confidence_sum - sum_before)

    def _advance(self, now_seconds: float) -> None:
        """Empty the buckets that begin since the last call."""
        for index, each in enumerate(RANGES.values()):
            newest = int(now_seconds) // each.bucket_seconds
            first = max(self._newest[index] + 1, newest - each.buckets + 1)
            for series in self._series.values():
                for number in range(first, newest + 1):
                    series.answers[index][number % each.buckets] = 0.0
                    series.confidence_sums[index][number % each.buckets] = 0.0
            self._newest[index] = max(newest, self._newest[index])

    def sets(self, range_name: str, now_seconds: float) -> dict[str, Figures]:
        """Figures of each route set in a range, the one with the most answers first."""
        self._advance(now_seconds)
        index = list(RANGES).index(range_name)
        found: dict[str, Figures] = {}
        for (name, route), series in self._series.items():
            if answers := sum(series.answers[index]):
                unmatched = answers if route is None else 0.0
                own = Figures(answers, unmatched, sum(series.confidence_sums[index]))
                found[name] = found.get(name, Figures()) + own
        return dict(sorted(found.items(), key=lambda each: -each[1].answers))

    def traffic_of(self, route_set: str, range_name: str, now_seconds: float) -> SetTraffic:
        """Answers of a route set in a range."""
        self._advance(now_seconds)
        index = list(RANGES).index(range_name)
        asked, newest = RANGES[range_name], self._newest[index]
        places = [n % asked.buckets for n in range(newest - asked.buckets + 1, newest + 1)]
        found = SetTraffic((newest - asked.buckets + 1) * asked.bucket_seconds, asked[1])
        for (name, route), series in self._series.items():
            if name == route_set and any(series.answers[index]):
                answers = [series.answers[index][place] for place in places]
                sums = [series.confidence_sums[index][place] for place in places]
                found.routes.append(RouteTraffic(route, answers, sums))
        found.routes.sort(key=lambda each: -sum(each.answers))
        return found


def parse_counts(document: Any) -> Counts | None:
    """Read the response of a node to ``/-/traffic``; None if it is malformed."""
    try:
        pairs: dict[Pair, tuple[int, float]] = {}
        for each in document["pairs"][:SERIES_MAX]:
            name, route = str(each["set"]), each["route"]
            answers, confidence_sum = int(each["answers"]), float(each["confidence_sum"])
            if answers < 0 or not math.isfinite(confidence_sum):
                return None
            shown = None if route is None else str(route)[:NAME_CHARACTERS_MAX]
            pairs[name[:NAME_CHARACTERS_MAX], shown] = answers, confidence_sum
        for each in document.get("set_others", [])[:SERIES_MAX]:
            answers, confidence_sum = int(each["answers"]), float(each["confidence_sum"])
            if answers < 0 or not math.isfinite(confidence_sum):
                return None
            pairs[str(each["set"])[:NAME_CHARACTERS_MAX], OTHERS] = answers, confidence_sum
        return Counts(int(document["began_at_ms"]), pairs)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
