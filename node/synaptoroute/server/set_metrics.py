"""Metrics of route sets, with their names as labels: shown only to those who may know all sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from synaptoroute.router.route_sets import SetFigures

OTHER: Final = "other"
"""Label of all sets beyond the bound, and of a set of that name."""

ReadSets = Callable[[], Sequence[SetFigures]]


class SetCollector(Collector):
    """Reads the figures of all route sets at every scrape.

    The sets that were created first are named; the others are added up, so that a client that
    creates sets cannot make any number of series.
    """

    def __init__(self, read: ReadSets, sets_max: int) -> None:
        self._read = read
        self._sets_max = sets_max

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        figures = sorted(self._read(), key=lambda each: each.number)
        shown = [(each.name, each) for each in figures[: self._sets_max]]
        rest = figures[self._sets_max :]
        if rest:
            shown.append((OTHER, _sum(rest)))
        yield GaugeMetricFamily("synaptoroute_sets", "Route sets.", value=len(figures))
        routes = GaugeMetricFamily("synaptoroute_set_routes", "Routes of a set.", labels=("set",))
        slots = GaugeMetricFamily(
            "synaptoroute_set_slots_used", "Slots of a set that have an owner.", labels=("set",)
        )
        decisions = CounterMetricFamily(
            "synaptoroute_set_decisions", "Queries decided in a set.", labels=("set",)
        )
        for label, each in shown:
            routes.add_metric([label], each.routes)
            slots.add_metric([label], each.slots_used)
            decisions.add_metric([label], each.decisions)
        yield from (routes, slots, decisions)


def _sum(figures: Sequence[SetFigures]) -> SetFigures:
    return SetFigures(
        OTHER,
        -1,
        sum(each.routes for each in figures),
        sum(each.slots_used for each in figures),
        sum(each.decisions for each in figures),
    )
