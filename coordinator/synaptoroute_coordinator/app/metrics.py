"""Probes and Prometheus metrics of the coordinator, prefix ``synaptoroute_fleet_``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.web.api_keys import ApiKeys, KeysStatus
from synaptoroute.web.middleware import context_of
from synaptoroute_coordinator.app.responses import PROBLEMS, RESPONSES, json_response
from synaptoroute_coordinator.app.runtime import runtime_of
from synaptoroute_coordinator.events import CODES
from synaptoroute_coordinator.reconciler import Reconciler

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SETS_MAX: Final = 50
"""Route sets that are named."""

endpoints = APIRouter(tags=["probes"])


@endpoints.get("/livez", summary="Whether the process works", responses=RESPONSES)
async def show_live(request: Request) -> Response:
    """Answers as long as the event loop runs."""
    return json_response({"status": "live"})


@endpoints.get("/readyz", summary="Whether the log answers", responses=RESPONSES)
async def show_ready(request: Request) -> Response:
    """503 while the log does not answer. A standby is ready too."""
    reconciler = runtime_of(request).reconciler
    is_ready = reconciler.view.log.state != "away"
    state = "active" if reconciler.lease.is_active else "standby"
    document = {"status": "ready" if is_ready else "not_ready", "state": state}
    return json_response(document, 200 if is_ready else 503)


@endpoints.get(
    "/metrics",
    summary="Metrics",
    responses={
        200: {
            "description": "Prometheus text format",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **PROBLEMS,
    },
)
async def show_metrics(request: Request) -> Response:
    """Metrics of the fleet, prefix `synaptoroute_fleet_`, including every alarm. Those that name
    route sets need a key of the scope `metrics`, or one that reads everything, unless the
    coordinator has no keys.
    """
    body = generate_latest(request.app.state.registry)
    key = context_of(request.scope).key
    if key is not None and (key.may("metrics") or key.may("read")):
        body += generate_latest(request.app.state.set_registry)
    return Response(body, headers={"Content-Type": CONTENT_TYPE})


class FleetCollector(Collector):
    """Reads the fleet view at the moment of a scrape."""

    def __init__(self, reconciler: Reconciler, keys: ApiKeys | None) -> None:
        self._reconciler = reconciler
        self._keys = keys

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        reconciler = self._reconciler
        view = reconciler.view
        alarms = {alarm.code for alarm in reconciler.alarms}
        family = GaugeMetricFamily(
            "synaptoroute_fleet_alarm", "1 while the alarm is raised.", labels=("alarm",)
        )
        for code in CODES:
            family.add_metric([code], int(code in alarms))
        yield family
        for name, meaning, value in (
            ("active", "1 if this coordinator holds the lease.", reconciler.lease.is_active),
            ("lease_held", "1 if any coordinator holds the lease.", bool(view.holder)),
            ("log_open", "1 if the log accepts writes.", view.log.state == "open"),
            ("live_nodes", "Nodes that count as live.", len(view.live)),
        ):
            yield GaugeMetricFamily(f"synaptoroute_fleet_{name}", meaning, value=float(value))
        for name, meaning, value in (
            ("epoch", "Epoch of the log.", view.log.epoch),
            ("head_seq", "Sequence number of the newest entry.", view.log.seq),
            ("floor_seq", "Sequence number of the oldest entry kept.", view.log.floor),
            ("log_bytes", "Bytes of the entries that are kept.", view.log.kept_bytes),
            ("log_bytes_max", "Bytes that may be kept.", reconciler.policy.log_bytes_max),
            ("nodes", "Nodes heard of in the last hour.", len(view.nodes)),
            ("voters", "Voters.", len(view.log.voters)),
            ("missing_voters", "Voters that are not live.", len(view.missing_voters)),
            ("level", "Feature level in force.", view.log.level),
            ("level_possible", "Level that every live node supports.", view.level_possible),
        ):
            known = float(value) if view.is_known else math.nan
            yield GaugeMetricFamily(f"synaptoroute_fleet_{name}", meaning, value=known)
        drifting = sum(each.is_drifting for each in reconciler.drifts.drifts)
        yield GaugeMetricFamily(
            "synaptoroute_fleet_drifting_sets",
            "Route sets that are used otherwise than in the week before.",
            value=drifting,
        )
        yield from self._collect_keys()
        yield from self._collect_nodes()
        actions = CounterMetricFamily(
            "synaptoroute_fleet_actions", "Actions of this process.", labels=("action", "outcome")
        )
        for (action, outcome), count in sorted(reconciler.counts.items()):
            actions.add_metric([action, outcome], count)
        yield actions

    def _collect_keys(self) -> Iterator[Metric]:
        """State of this coordinator's own API keys; it names no key."""
        status = self._keys.status if self._keys is not None else KeysStatus(0, 0, None, "", "")
        for name, meaning, value in (
            ("api_keys", "API keys in force.", status.keys - status.expired),
            ("api_keys_expired", "API keys that have expired.", status.expired),
            ("api_keys_file_valid", "0 while the key file is refused.", not status.error),
        ):
            yield GaugeMetricFamily(f"synaptoroute_fleet_{name}", meaning, value=float(value))

    def _collect_nodes(self) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "synaptoroute_fleet_node_lag_entries",
            "Entries that a node is behind the log.",
            labels=("node",),
        )
        live = GaugeMetricFamily(
            "synaptoroute_fleet_node_live", "1 if a node counts as live.", labels=("node",)
        )
        sound = GaugeMetricFamily(
            "synaptoroute_fleet_node_sound",
            "0 for a node that differs from the majority or is damaged.",
            labels=("node",),
        )
        for node in self._reconciler.view.nodes:
            lag.add_metric([node.name], node.lag_entries if node.is_known else math.nan)
            live.add_metric([node.name], int(node.is_live))
            is_sound = node.digest_state not in ("differs", "unsound")
            sound.add_metric([node.name], is_sound if node.is_known else math.nan)
        yield from (lag, live, sound)


class DriftCollector(Collector):
    """Use of each route set now and in the week before; the sets with most answers."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        unmatched = GaugeMetricFamily(
            "synaptoroute_fleet_set_unmatched_ratio",
            "Share of the answers of a set that have no route.",
            labels=("set", "window"),
        )
        confidence = GaugeMetricFamily(
            "synaptoroute_fleet_set_confidence_mean",
            "Mean confidence of the answers of a set.",
            labels=("set", "window"),
        )
        drifting = GaugeMetricFamily(
            "synaptoroute_fleet_set_drifting",
            "1 for a set that is used otherwise than in the week before.",
            labels=("set",),
        )
        drifts = sorted(self._reconciler.drifts.drifts, key=lambda each: -each.week.answers)
        for each in drifts[:SETS_MAX]:
            for window, figures in (("recent", each.recent), ("week", each.week)):
                if figures.answers:
                    labels = [each.route_set, window]
                    unmatched.add_metric(labels, figures.unmatched / figures.answers)
                    confidence.add_metric(labels, figures.confidence_sum / figures.answers)
            drifting.add_metric([each.route_set], int(each.is_drifting))
        yield from (unmatched, confidence, drifting)


def make_set_registry(reconciler: Reconciler) -> CollectorRegistry:
    """Metrics that name route sets."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(DriftCollector(reconciler))
    return registry


def make_registry(reconciler: Reconciler, keys: ApiKeys | None = None) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FleetCollector(reconciler, keys))
    return registry
