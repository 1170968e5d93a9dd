"""Figures of a node from its own metrics: rates and latencies between two looks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

METRICS_BYTES_MAX: Final = 4_194_304
_LINE: Final = re.compile(r"^(synaptoroute_\w+)(?:\{([^}]*)\})? ([0-9.eE+\-]+|\+Inf|NaN)$", re.M)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_DURATION: Final = "synaptoroute_request_duration_seconds_bucket"
_ENDPOINTS: Final = frozenset({"/v1/query", "/v1/query/batch"})


@dataclass(frozen=True, slots=True)
class Sample:
    """A node's metrics at one moment.

    Attributes:
        at_seconds: When, on the coordinator's monotonic clock.
        queries: Queries that it took since its start.
        buckets: Answers to queries by upper bound of their duration in seconds.
        is_ready: Whether it takes queries.
        values: Plain gauges by name without their prefix.
    """

    at_seconds: float
    queries: float = 0.0
    buckets: Mapping[float, float] = field(default_factory=dict)
    is_ready: bool = False
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """A node's figures.

    Attributes:
        name: How the node signs its answers.
        is_ready: Whether it takes queries.
        queries_per_second: Rate since the look before.
        p50_ms: Median time to answer a query since then; None without queries.
        p99_ms: The time that one in a hundred exceeded.
        routes: Routes that it serves.
        slots_used: Slots that have an owner.
        capacity_slots: Slots of its tensor.
    """

    name: str = ""
    is_ready: bool = False
    queries_per_second: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    routes: int = 0
    slots_used: int = 0
    capacity_slots: int = 0


def parse_sample(text: str, at_seconds: float) -> Sample:
    """Read Prometheus' text format as far as it matters here."""
    queries = 0.0
    buckets: dict[float, float] = {}
    values: dict[str, float] = {}
    for name, labels, number in _LINE.findall(text[:METRICS_BYTES_MAX]):
        if name == "synaptoroute_queries_total":
            queries = float(number)
        elif name == _DURATION:
            label = dict(_LABEL.findall(labels))
            if label.get("endpoint") in _ENDPOINTS:
                bound = float(label.get("le", "inf").replace("+Inf", "inf"))
                buckets[bound] = buckets.get(bound, 0.0) + float(number)
        elif not labels:
            values[name.removeprefix("synaptoroute_")] = float(number)
    return Sample(at_seconds, queries, buckets, values.get("ready") == 1.0, values)


def telemetry_of(name: str, before: Sample | None, now: Sample) -> Telemetry:
    """Make a node's figures of two looks; a restart of the node in between starts anew."""
    if before is None or before.queries > now.queries:
        before = Sample(now.at_seconds)
    seconds = now.at_seconds - before.at_seconds
    rate = (now.queries - before.queries) / seconds if seconds > 0 else 0.0
    counts = {bound: count - before.buckets.get(bound, 0.0) for bound, count in now.buckets.items()}
    return Telemetry(
        name=name,
        is_ready=now.is_ready,
        queries_per_second=round(rate, 2),
        p50_ms=quantile_ms(counts, 0.5),
        p99_ms=quantile_ms(counts, 0.99),
        routes=int(now.values.get("routes", 0)),
        slots_used=int(now.values.get("slots_used", 0)),
        capacity_slots=int(now.values.get("capacity_slots", 0)),
    )


def quantile_ms(buckets: Mapping[float, float], share: float) -> float | None:
    """Estimate a quantile from cumulative buckets; None where nothing was counted."""
    total = max(buckets.values(), default=0.0)
    if total <= 0:
        return None
    wanted, below, floor = share * total, 0.0, 0.0
    for bound in sorted(buckets):
        count = buckets[bound]
        if count >= wanted:
            if bound == float("inf"):
                return round(floor * 1_000, 3)
            part = (wanted - below) / (count - below) if count > below else 1.0
            return round((floor + (bound - floor) * part) * 1_000, 3)
        below, floor = count, bound
    return round(floor * 1_000, 3)
