"""Metrics of the coordinator, prefix ``synaptoroute_fleet_``; alarms' conditions are here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from synaptoroute_coordinator.fleet.alarms import CODES
from synaptoroute_coordinator.reconciler import Reconciler

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class FleetCollector(Collector):
    """Reads the view at the moment of a scrape."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler

    def describe(self) -> list[Metric]:
        """Nothing beforehand."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give every figure."""
        reconciler = self._reconciler
        view = reconciler.view
        alarms = {alarm.code for alarm in reconciler.alarms}
        family = GaugeMetricFamily(
            "synaptoroute_fleet_alarm", "1 for a condition that holds.", labels=("alarm",)
        )
        for code in CODES:
            family.add_metric([code], int(code in alarms))
        yield family
        for name, meaning, value in (
            ("active", "1 if this coordinator holds the lease.", reconciler.tenure.is_active),
            ("lease_held", "1 if any coordinator holds the lease.", bool(view.holder)),
            ("log_open", "1 if the log takes writes.", view.log.state == "open"),
            ("epoch", "Epoch of the log.", view.log.epoch),
            ("head_seq", "Place of the newest entry.", view.log.seq),
            ("floor_seq", "Place of the oldest entry that is kept.", view.log.floor),
            ("log_bytes", "Bytes of the entries that are kept.", view.log.kept_bytes),
            ("log_bytes_max", "Bytes that may be kept.", reconciler.policy.log_bytes_max),
            ("nodes", "Nodes heard of in the last hour.", len(view.nodes)),
            ("live_nodes", "Nodes that count as live.", len(view.live)),
            ("voters", "Voters.", len(view.log.voters)),
            ("missing_voters", "Voters that are not live.", len(view.missing_voters)),
            ("level", "Feature level in force.", view.log.level),
            ("level_possible", "Level that every live node understands.", view.level_possible),
        ):
            yield GaugeMetricFamily(f"synaptoroute_fleet_{name}", meaning, value=float(value))
        yield from self._of_nodes()
        actions = CounterMetricFamily(
            "synaptoroute_fleet_actions", "Actions of this process.", labels=("action", "outcome")
        )
        for (action, outcome), count in sorted(reconciler.counts.items()):
            actions.add_metric([action, outcome], count)
        yield actions

    def _of_nodes(self) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "synaptoroute_fleet_node_lag_entries", "How far a node is behind.", labels=("node",)
        )
        live = GaugeMetricFamily(
            "synaptoroute_fleet_node_live", "1 if a node counts as live.", labels=("node",)
        )
        agrees = GaugeMetricFamily(
            "synaptoroute_fleet_node_sound", "0 for a node that differs.", labels=("node",)
        )
        for node in self._reconciler.view.nodes:
            lag.add_metric([node.name], node.lag_entries)
            live.add_metric([node.name], int(node.is_live))
            agrees.add_metric([node.name], int(node.digest_state not in ("differs", "unsound")))
        yield from (lag, live, agrees)


def make_registry(reconciler: Reconciler) -> CollectorRegistry:
    """Make the registry of one coordinator."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FleetCollector(reconciler))
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """All metrics as text."""
    return generate_latest(registry)
