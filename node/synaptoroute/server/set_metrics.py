"""Metrics of route sets and routes, with their names as labels.

They are shown only to those who may know all sets.  The number of labels is bounded, so that a
client that creates sets or routes cannot make any number of series.  A set or route keeps the
label that it got first until it is removed; otherwise the counter of ``other`` would fall, which
a reader takes for a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from synaptoroute.router.route_sets import SetFigures
from synaptoroute.server.traffic import OTHERS, RouteTraffic

OTHER: Final = "other"
"""Label of all sets or routes beyond the bound, and of one of that name."""

ReadSets = Callable[[], Sequence[SetFigures]]


class Labels:
    """Which names have a label of their own; the others share ``OTHER``.

    Args:
        names_max: Names with a label of their own at one time.
    """

    def __init__(self, names_max: int) -> None:
        self._names_max = names_max
        self._named: dict[Hashable, bool] = {}  # False: shares the label of the others

    def assign(self, names: Iterable[Hashable]) -> frozenset[Hashable]:
        """Label the names that exist, in order, and free the labels of those that do not.

        Returns:
            Names with a label of their own.
        """
        present = list(names)
        self._named = {name: self._named[name] for name in present if name in self._named}
        left = self._names_max - sum(self._named.values())
        for name in present:
            if name not in self._named:
                self._named[name] = left > 0
                left -= self._named[name]
        return frozenset(name for name, is_named in self._named.items() if is_named)


class FoldedSum:
    """Sum of counters of which some vanish or begin again; the sum never falls."""

    def __init__(self) -> None:
        self._last: Mapping[Hashable, float] = {}
        self._gone = 0.0

    def total(self, counts: Mapping[Hashable, float]) -> float:
        self._gone += sum(n for key, n in self._last.items() if counts.get(key, 0.0) < n)
        self._last = dict(counts)
        return self._gone + sum(counts.values())


class SetCollector(Collector):
    """Reads the figures of all route sets, and of the routes that answered, at every scrape.

    Args:
        read: Figures of the route sets.
        traffic: Answers by set and route.
        sets_max: Sets with a label of their own.
        routes_max: Routes with a label of their own, of all these sets together; 0 to show no
            routes.
    """

    def __init__(
        self, read: ReadSets, traffic: RouteTraffic, sets_max: int, routes_max: int
    ) -> None:
        self._read = read
        self._traffic = traffic
        self._set_labels = Labels(sets_max)
        self._route_labels = Labels(routes_max)
        self._has_routes = routes_max > 0
        self._folded: dict[tuple[str, ...], FoldedSum] = {}

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        figures = sorted(self._read(), key=lambda each: each.number)
        numbers = self._set_labels.assign(e.number for e in figures if e.name != OTHER)
        named = frozenset(each.name for each in figures if each.number in numbers)
        yield GaugeMetricFamily("synaptoroute_sets", "Route sets.", value=len(figures))
        yield from self._sizes(figures, named)
        present = frozenset(each.name for each in figures)
        yield from self._answers(named, present)
        if self._has_routes:
            yield from self._routes(named, present)

    def _fold(self, name: tuple[str, ...], counts: Mapping[Hashable, float]) -> float:
        return self._folded.setdefault(name, FoldedSum()).total(counts)

    def _sizes(self, figures: Sequence[SetFigures], named: frozenset[str]) -> Iterator[Metric]:
        routes = GaugeMetricFamily("synaptoroute_set_routes", "Routes of a set.", labels=("set",))
        slots = GaugeMetricFamily(
            "synaptoroute_set_slots_used", "Slots of a set that have an owner.", labels=("set",)
        )
        decisions = CounterMetricFamily(
            "synaptoroute_set_decisions", "Queries decided in a set.", labels=("set",)
        )
        rest = [each for each in figures if each.name not in named]
        for each in figures:
            if each.name in named:
                routes.add_metric([each.name], each.routes)
                slots.add_metric([each.name], each.slots_used)
                decisions.add_metric([each.name], each.decisions)
        decided = self._fold(("decisions",), {each.number: each.decisions for each in rest})
        if rest or decided:
            routes.add_metric([OTHER], sum(each.routes for each in rest))
            slots.add_metric([OTHER], sum(each.slots_used for each in rest))
            decisions.add_metric([OTHER], decided)
        yield from (routes, slots, decisions)

    def _answers(self, named: frozenset[str], present: frozenset[str]) -> Iterator[Metric]:
        """Answers that clients got, cached ones too, and the sums of their confidences."""
        answers = CounterMetricFamily(
            "synaptoroute_set_answers",
            "Answers of a set, by outcome: matched, or why there is no route.",
            labels=("set", "outcome"),
        )
        confidence = CounterMetricFamily(
            "synaptoroute_set_confidence", "Sum of the confidences of a set.", labels=("set",)
        )
        rest: dict[str, dict[Hashable, float]] = {}
        rest_sums: dict[Hashable, float] = {}
        for name, outcomes in self._traffic.outcomes().items():
            if name not in present:
                continue
            total = sum(each[1] for each in outcomes.values())
            for outcome, (count, _) in outcomes.items():
                if name in named:
                    answers.add_metric([name, outcome], count)
                else:
                    rest.setdefault(outcome, {})[name] = count
            if name in named:
                confidence.add_metric([name], total)
            else:
                rest_sums[name] = total
        known = {key[1] for key in self._folded if key[0] == "answers"}
        for outcome in sorted(known | rest.keys()):
            folded = self._fold(("answers", outcome), rest.get(outcome, {}))
            answers.add_metric([OTHER, outcome], folded)
        if known or rest:
            confidence.add_metric([OTHER], self._fold(("confidence",), rest_sums))
        yield from (answers, confidence)

    def _routes(self, named_sets: frozenset[str], present: frozenset[str]) -> Iterator[Metric]:
        """Answers of routes; those without a label are added up in each set."""
        matches = CounterMetricFamily(
            "synaptoroute_route_matches", "Answers with a route.", labels=("set", "route")
        )
        confidence = CounterMetricFamily(
            "synaptoroute_route_confidence",
            "Sum of the confidences of the answers with a route.",
            labels=("set", "route"),
        )
        counts = [each for each in self._traffic.routes() if each.route_set in present]
        named = self._route_labels.assign(
            each[:2]
            for each in counts
            if each.route_set in named_sets and each.route not in (OTHER, OTHERS)
        )
        rest: dict[str, list[dict[Hashable, float]]] = {}
        for each in counts:
            label = each.route_set if each.route_set in named_sets else OTHER
            if each[:2] in named:
                matches.add_metric([label, each.route], each.answers)
                confidence.add_metric([label, each.route], each.confidence_sum)
            else:
                answers, sums = rest.setdefault(label, [{}, {}])
                answers[each[:2]] = each.answers
                sums[each[:2]] = each.confidence_sum
        known = {key[1] for key in self._folded if key[0] == "matches"}
        for label in known - named_sets - {OTHER}:  # of sets that were removed
            self._folded.pop(("matches", label), None)
            self._folded.pop(("sums", label), None)
        for label in sorted((known & (named_sets | {OTHER})) | rest.keys()):
            answers, sums = rest.get(label, [{}, {}])
            matches.add_metric([label, OTHER], self._fold(("matches", label), answers))
            confidence.add_metric([label, OTHER], self._fold(("sums", label), sums))
        yield from (matches, confidence)
