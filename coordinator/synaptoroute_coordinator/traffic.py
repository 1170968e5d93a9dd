"""Answers of all nodes over time, by route set and route.

Each node counts its answers from its start on.  The coordinator reads these counts from time to
time, and keeps the differences in buckets of time: fine ones for the last hours, coarse ones for
the last days.  Counts only, no text; ``snapshot`` and ``restore`` carry them over a restart.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

SERIES_MAX: Final = 2_048
"""Pairs of set and route that are kept; further ones are left out until others have no answers."""
NAME_CHARACTERS_MAX: Final = 256
NODES_MAX: Final = 8_192
GAP_SECONDS: Final = 60.0


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

    @classmethod
    def copy_of(cls, other: _Series) -> _Series:
        made = cls.__new__(cls)
        made.answers = [each[:] for each in other.answers]
        made.confidence_sums = [each[:] for each in other.confidence_sums]
        return made


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
        self._series_counts: Counter[bool] = Counter()  # by whether they are of a route
        self._newest = [int(now_seconds) // each.bucket_seconds for each in RANGES.values()]
        self._counts: dict[str, Counts] = {}
        self._places: list[list[tuple[int, float]]] = []
        self._has_gap = False  # Whether no coordinator read before the next time

    def add(self, documents: Mapping[str, Any], now_seconds: float) -> None:
        """Add what nodes have counted since they were read last.

        Args:
            documents: Response of ``/-/traffic`` by identity of the node.
        """
        self._advance(now_seconds)
        self._series = {pair: each for pair, each in self._series.items() if any(each.answers[-1])}
        self._series_counts = Counter(bool(route) for _, route in self._series)
        since_seconds = self._read_at_seconds if self._has_gap else now_seconds
        self._places, self._has_gap = self._places_since(since_seconds, now_seconds), False
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
                series = self._find_series(pair)
                if series is None:
                    continue
                confidence = max(0.0, confidence_sum - sum_before)
                for index, places in enumerate(self._places):
                    for place, share in places:
                        series.answers[index][place] += share * (answers - answers_before)
                        series.confidence_sums[index][place] += share * confidence

    def _find_series(self, pair: Pair) -> _Series | None:
        """Find the series of a pair, or make it; None if there are too many.

        Those of whole sets have room of their own: without them shares would be wrong.
        """
        series = self._series.get(pair)
        if series is None:
            is_route = bool(pair[1])
            if self._series_counts[is_route] < SERIES_MAX:
                self._series_counts[is_route] += 1
                series = self._series[pair] = _Series()
        return series

    def _places_since(
        self, since_seconds: float, now_seconds: float
    ) -> list[list[tuple[int, float]]]:
        """Places of each range for answers since some time, and the share that each gets.

        Answers between two usual readings belong to the newest bucket.  Those of a longer time,
        in which no coordinator ran, are spread evenly.
        """
        found = []
        gap_seconds = now_seconds - since_seconds
        for each, newest in zip(RANGES.values(), self._newest, strict=True):
            if gap_seconds <= GAP_SECONDS:
                found.append([(newest % each.buckets, 1.0)])
                continue
            width, own = each.bucket_seconds, []
            for number in range(max(0, newest - each.buckets + 1), newest + 1):
                begin = max(since_seconds, number * width)
                share = (min(now_seconds, (number + 1) * width) - begin) / gap_seconds
                if share > 0:
                    own.append((number % each.buckets, share))
            found.append(own)
        return found

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

    def recent(self, seconds: float, now_seconds: float) -> dict[str, Figures]:
        """Figures of each route set in the newest buckets that span some time."""
        width = RANGES["24h"].bucket_seconds
        count = math.ceil(seconds / width)
        buckets = self.buckets_by_set("24h", now_seconds)
        return {name: sum(own[-count:], Figures()) for name, own in buckets.items()}

    def buckets_by_set(self, range_name: str, now_seconds: float) -> dict[str, list[Figures]]:
        """Figures of each route set in each bucket of a range, oldest first."""
        self._advance(now_seconds)
        index = list(RANGES).index(range_name)
        places = self._places_of(index)
        found: dict[str, list[list[float]]] = {}
        for (name, route), series in self._series.items():
            answers, sums = series.answers[index], series.confidence_sums[index]
            if any(answers):
                own = found.setdefault(name, [[0.0] * len(places) for _ in range(3)])
                for n, place in enumerate(places):
                    if answers[place]:
                        own[0][n] += answers[place]
                        own[1][n] += answers[place] if route is None else 0.0
                        own[2][n] += sums[place]
        return {
            name: [Figures(*each) for each in zip(*own, strict=True)] for name, own in found.items()
        }

    def _places_of(self, index: int) -> list[int]:
        count = list(RANGES.values())[index].buckets
        newest = self._newest[index]
        return [number % count for number in range(newest - count + 1, newest + 1)]

    def traffic_of(self, route_set: str, range_name: str, now_seconds: float) -> SetTraffic:
        """Answers of a route set in a range."""
        self._advance(now_seconds)
        index = list(RANGES).index(range_name)
        asked, newest = RANGES[range_name], self._newest[index]
        places = self._places_of(index)
        found = SetTraffic((newest - asked.buckets + 1) * asked.bucket_seconds, asked[1])
        for (name, route), series in self._series.items():
            if name == route_set and any(series.answers[index]):
                answers = [series.answers[index][place] for place in places]
                sums = [series.confidence_sums[index][place] for place in places]
                found.routes.append(RouteTraffic(route, answers, sums))
        found.routes.sort(key=lambda each: -sum(each.answers))
        return found

    # --- what a restart must not forget ---

    def snapshot(self) -> TrafficSnapshot:
        """Copy everything; the rest of saving may be done in another thread."""
        series = [
            (pair, _Series.copy_of(each))
            for pair, each in sorted(
                self._series.items(), key=lambda item: (bool(item[0][1]), -sum(item[1].answers[-1]))
            )
        ]
        return TrafficSnapshot(
            self.began_at_seconds,
            self._read_at_seconds,
            tuple(self._newest),
            series,
            dict(self._counts),
        )

    def restore(self, saved: SavedTraffic, now_seconds: float) -> None:
        """Add what an earlier process saved; buckets that are too old or in the future are not."""
        self._advance(now_seconds)
        for pair, ranges in saved.points:
            series = self._find_series(pair)
            if series is None:
                continue
            for index, each in enumerate(RANGES.values()):
                for number, answers, confidence_sum in ranges[index]:
                    if self._newest[index] - each.buckets < number <= self._newest[index]:
                        series.answers[index][number % each.buckets] += answers
                        series.confidence_sums[index][number % each.buckets] += confidence_sum
        self.began_at_seconds = min(self.began_at_seconds, saved.began_at_seconds)
        if not self._counts and saved.read_at_seconds <= now_seconds:
            self._counts = dict(saved.counts)
            self._read_at_seconds, self._has_gap = saved.read_at_seconds, True


@dataclass(frozen=True, slots=True)
class TrafficSnapshot:
    """A copy of a history; any thread.

    Attributes:
        newest: Number of the newest bucket of each range.
        series: Those of whole sets first, then the routes with the most answers.
        counts: Counts of each node when it was read.
    """

    began_at_seconds: float
    read_at_seconds: float
    newest: tuple[int, ...]
    series: list[tuple[Pair, _Series]]
    counts: dict[str, Counts]

    @property
    def counts_size(self) -> int:
        """Number of counts of all nodes."""
        return sum(len(each.pairs) for each in self.counts.values())

    def document(self, series_max: int, *, has_counts: bool = True) -> dict[str, Any]:
        """Everything but the empty buckets.

        Args:
            series_max: Most series, the first ones.
            has_counts: Whether to add the last counts of the nodes, without which answers until
                they are read again are lost.
        """
        return {
            "began_at_seconds": self.began_at_seconds,
            "read_at_seconds": self.read_at_seconds,
            "series": [[*pair, self._points(each)] for pair, each in self.series[:series_max]],
            "counts": [
                [node, each.began_at_ms, [[*pair, *own] for pair, own in each.pairs.items()]]
                for node, each in self.counts.items()
                if has_counts
            ],
        }

    def _points(self, series: _Series) -> list[list[list[float]]]:
        """Number, answers and sum of confidences of each bucket, by range."""
        found = []
        for index, (each, newest) in enumerate(zip(RANGES.values(), self.newest, strict=True)):
            answers, sums = series.answers[index], series.confidence_sums[index]
            found.append(
                [
                    [number, round(answers[place], 3), round(sums[place], 3)]
                    for number in range(newest - each.buckets + 1, newest + 1)
                    if answers[place := number % each.buckets]
                ]
            )
        return found


class SavedTraffic(NamedTuple):
    """A history as an earlier process saved it.

    Attributes:
        points: Number, answers and sum of confidences of each bucket, by range, of each pair.
    """

    began_at_seconds: float
    read_at_seconds: float
    points: list[tuple[Pair, list[list[tuple[int, float, float]]]]]
    counts: dict[str, Counts]


def parse_saved(document: Any) -> SavedTraffic:
    """Read a document of ``TrafficSnapshot``; any thread.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: It is malformed.
    """
    began, read_at = float(document["began_at_seconds"]), float(document["read_at_seconds"])
    if not math.isfinite(began + read_at):
        raise ValueError("not the time of a history")
    counts = {}
    for node, began_at_ms, pairs in document["counts"][:NODES_MAX]:
        own = {(str(name), _route(route)): (int(n), float(s)) for name, route, n, s in pairs}
        counts[str(node)] = Counts(int(began_at_ms), own)
    points = [
        ((str(name)[:NAME_CHARACTERS_MAX], _route(route)), _checked(ranges))
        for name, route, ranges in document["series"][: 2 * SERIES_MAX]
    ]
    return SavedTraffic(began, read_at, points, counts)


def _route(route: Any) -> str | None:
    return None if route is None else str(route)[:NAME_CHARACTERS_MAX]


def _checked(ranges: Any) -> list[list[tuple[int, float, float]]]:
    found = [[(int(n), float(a), float(s)) for n, a, s in each] for each in ranges]
    if len(found) != len(RANGES) or not all(
        math.isfinite(a) and a >= 0 and math.isfinite(s) for each in found for _, a, s in each
    ):
        raise ValueError("not the buckets of a series")
    return found


def parse_counts(document: Any) -> Counts | None:
    """Read the response of a node to ``/-/traffic``; None if it is malformed."""
    try:
        pairs: dict[Pair, tuple[int, float]] = {}
        for each in document["pairs"][: 2 * SERIES_MAX]:
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
