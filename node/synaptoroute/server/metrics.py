"""Metrics in Prometheus' text format, prefix ``synaptoroute_``.

Counters and histograms of requests are kept here; everything that the router and
the encoder count themselves is read from them at each scrape.  The label
``endpoint`` is the template of a path, never the path: otherwise a client could
make any number of series.
"""

from __future__ import annotations

import math
import platform
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from synaptoroute.cascade.cascade import STATES as CASCADE_STATES
from synaptoroute.core.mutation import Revision
from synaptoroute.encoder import EncoderStats
from synaptoroute.ports import CONFIDENCE_BOUNDS, DecisionFigures
from synaptoroute.replication.session import FollowerStatus, LogState
from synaptoroute.router import NodeStatus
from synaptoroute.router.decision_fits import FIT_STATES
from synaptoroute.sequencer.log import TRUST_MODES
from synaptoroute.server.set_metrics import ReadSets, SetCollector
from synaptoroute.server.traffic import RouteTraffic
from synaptoroute.version import __version__
from synaptoroute.web.api_keys import KeysStatus
from synaptoroute.web.tls_metrics import ReadCertificates, TlsCollector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
STORAGE_STATES: Final = ("ok", "disk_full", "read_only", "failed")
_SECONDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0
)  # fmt: skip
_TEXTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS: Final = (8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096)

ReadFigures = Callable[[], tuple[NodeStatus, EncoderStats] | None]


class Metrics:
    """All metrics of one node; safe to use from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._of_sets = CollectorRegistry(auto_describe=False)
        responses = ResponseCounter()
        self.count_response = responses.count
        self.registry.register(responses)
        self.in_flight_count = 0
        in_flight = Gauge(
            "synaptoroute_requests_in_flight",
            "HTTP requests being answered.",
            registry=self.registry,
        )
        in_flight.set_function(lambda: self.in_flight_count)
        self._batch_size = self._histogram("batch_size", "Texts encoded together.", _TEXTS)
        self._batch_tokens = self._histogram("batch_tokens", "Tokens encoded together.", _TOKENS)
        self._encode_duration = self._histogram(
            "encode_duration_seconds", "Time to encode a batch.", _SECONDS
        )
        self._questions = Counter(
            "synaptoroute_decision_question",
            "Questions answered at the endpoints of decisions.",
            ("endpoint", "type"),
            registry=self.registry,
        )
        build = Gauge(
            "synaptoroute_build_info",
            "Release and interpreter, as labels of the value 1.",
            ("version", "python"),
            registry=self.registry,
        )
        build.labels(__version__, platform.python_version()).set(1)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"synaptoroute_{name}", meaning, buckets=buckets, registry=self.registry)

    def batch(self, texts: int, tokens: int, encode_seconds: float) -> None:
        self._batch_size.observe(texts)
        self._batch_tokens.observe(tokens)
        self._encode_duration.observe(encode_seconds)

    def count_questions(self, endpoint: str, kind: str, count: int) -> None:
        if count:
            self._questions.labels(endpoint, kind).inc(count)

    def watch_cached_responses(self, hits: Callable[[], int]) -> None:
        self.registry.register(CachedResponsesCollector(hits))

    def watch_keys(self, read: Callable[[], KeysStatus]) -> None:
        self.registry.register(KeysCollector(read))

    def watch(self, read: ReadFigures) -> None:
        """Read the router and the encoder at every scrape."""
        self.registry.register(NodeCollector(read))

    def watch_certificates(self, read: ReadCertificates) -> None:
        self.registry.register(TlsCollector("synaptoroute_", read))

    def watch_sets(
        self, read: ReadSets, traffic: RouteTraffic, sets_max: int, routes_max: int
    ) -> None:
        """Read the route sets and their answers at every scrape that may show them."""
        self._of_sets.register(SetCollector(read, traffic, sets_max, routes_max))

    def render(self, *, has_sets: bool = False) -> bytes:
        """Write all metrics; those that name route sets only if the reader may know them."""
        shown = generate_latest(self.registry)
        return shown + generate_latest(self._of_sets) if has_sets else shown


class ResponseCounter(Collector):
    """Requests by method, endpoint and status, and how long they took.

    Counted on the event loop only, many times between two scrapes, so without a lock.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[tuple[str, str], list[float]] = {}

    def count(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        key = (method, endpoint, status)
        self._counts[key] = self._counts.get(key, 0) + 1
        found = self._seconds.get(key[:2])
        if found is None:  # how many up to each bound, above the last, and all seconds
            found = self._seconds[key[:2]] = [0.0] * (len(_SECONDS) + 2)
        found[bisect_left(_SECONDS, seconds)] += 1
        found[-1] += seconds

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "synaptoroute_request_count",
            "HTTP requests answered.",
            labels=("method", "endpoint", "status"),
        )
        for (method, endpoint, status), count in list(self._counts.items()):
            requests.add_metric((method, endpoint, str(status)), count)
        yield requests
        duration = HistogramMetricFamily(
            "synaptoroute_request_duration_seconds",
            "Time from the head of a request to the end of its answer.",
            labels=("method", "endpoint"),
        )
        bounds = [*map(floatToGoString, _SECONDS), "+Inf"]
        for labels, found in list(self._seconds.items()):
            *counts, total = found
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            duration.add_metric(labels, buckets, sum_value=total)
        yield duration


class CachedResponsesCollector(Collector):
    def __init__(self, hits: Callable[[], int]) -> None:
        self._hits = hits

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "synaptoroute_answers_cached",
            "Queries answered with the bytes of an earlier answer.",
            value=self._hits(),
        )


class KeysCollector(Collector):
    """Reads the state of the API keys at every scrape; it names no key."""

    def __init__(self, read: Callable[[], KeysStatus]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        status = self._read()
        yield _gauge("api_keys", "API keys in force.", status.keys - status.expired)
        yield _gauge("api_keys_expired", "API keys that have expired.", status.expired)
        yield _gauge(
            "api_keys_file_valid",
            "0 while the content of the key file is refused and earlier keys are in force.",
            int(not status.error),
        )


class NodeCollector(Collector):
    """Reads the figures of the router and the encoder at every scrape."""

    def __init__(self, read: ReadFigures) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every figure, or ``ready`` alone until the router has started."""
        seen = self._read()
        if seen is None:
            yield _gauge("ready", "1 if the node takes queries.", 0)
            return
        status, stats = seen
        yield from _gauges(status)
        yield from _counters(status, stats)
        yield from _decisions(status.counters.decisions)
        yield _storage(status)
        yield from _cascades(status)
        yield from _fit(status)
        if status.follower is not None:
            yield from _of_follower(status.follower)
        info = GaugeMetricFamily(
            "synaptoroute_encoder_info",
            "Encoder, as labels of the value 1.",
            labels=("model", "fingerprint", "dim"),
        )
        info.add_metric([status.model, status.fingerprint[:16], str(status.dim)], 1)
        yield info


def _gauges(status: NodeStatus) -> Iterator[Metric]:
    at = parse_version(status.version)
    for name, meaning, value in (
        ("ready", "1 if the node takes queries.", int(status.is_ready)),
        ("queue_size", "Queries on their way.", status.queue_requests),
        ("queue_size_max", "Queries that may be on their way.", status.queue_requests_max),
        ("predicted_wait_seconds", "Predicted wait of a new query.", status.admission.wait_seconds),
        ("batch_cost_seconds", "Fitted fixed price of a batch.", status.admission.batch_seconds),
        ("token_cost_seconds", "Fitted price of a token.", status.admission.token_seconds),
        ("backlog_entries", "Entries that wait to be applied.", status.backlog_entries),
        ("lanes", "Threads that encode.", status.lanes),
        ("routes", "Routes.", status.routes),
        ("slots_used", "Slots of the tensor that have an owner.", status.slots_used),
        ("capacity_slots", "Slots of the tensor.", status.capacity_slots),
        ("epoch", "Epoch of the position that is visible.", at.epoch),
        ("seq", "Sequence number of the position that is visible.", at.seq),
        ("orphans", "Writes that recoveries left behind on this node.", _orphans(status)),
    ):
        yield _gauge(name, meaning, value)


def _orphans(status: NodeStatus) -> int:
    return status.follower.orphans_count if status.follower else 0


def _counters(status: NodeStatus, stats: EncoderStats) -> Iterator[Metric]:
    counters = status.counters
    for name, meaning, value in (
        ("queries", "Queries submitted.", counters.queries),
        ("queries_shared", "Queries that shared another's encoding.", counters.shared),
        ("cache_hits", "Embeddings found in the cache.", counters.cache_hits),
        ("cache_misses", "Embeddings that had to be computed.", counters.cache_misses),
        ("overloaded", "Queries and writes refused on arrival.", counters.overloaded),
        ("too_late", "Queries refused for their predicted wait.", counters.too_late),
        ("abandoned", "Texts dropped because their clients had disconnected.", counters.abandoned),
        ("entries_applied", "Entries applied.", counters.entries),
        ("queries_static", "Queries answered by the static stage.", counters.static),
        ("queries_deferred", "Queries it left to the encoder.", counters.deferred),
        ("encoded_texts", "Texts encoded.", stats.texts),
        ("encoded_tokens", "Tokens encoded, padding apart.", stats.tokens),
        ("padding_tokens", "Tokens computed in vain.", stats.padding_tokens),
        ("truncated_texts", "Texts longer than the encoder reads.", stats.truncated_texts),
    ):
        yield CounterMetricFamily(f"synaptoroute_{name}", meaning, value=value)


def _decisions(figures: DecisionFigures) -> Iterator[Metric]:
    reasons = CounterMetricFamily(
        "synaptoroute_decisions", "Queries decided, by reason.", labels=("reason",)
    )
    for reason, count in figures.reasons:
        reasons.add_metric([reason], count)
    yield reasons
    bounds = map(floatToGoString, CONFIDENCE_BOUNDS)
    buckets = list(zip(bounds, accumulate(figures.confidences), strict=True))
    yield HistogramMetricFamily(
        "synaptoroute_decision_confidence",
        "Confidence of decided queries.",
        buckets=[*buckets, ("+Inf", sum(figures.confidences))],
        sum_value=figures.confidence_sum,
    )


def _storage(status: NodeStatus) -> Metric:
    family = GaugeMetricFamily(
        "synaptoroute_storage_state", "1 for the state that the storage is in.", labels=("state",)
    )
    known = STORAGE_STATES if status.storage_state in STORAGE_STATES else STORAGE_STATES[:-1]
    for state in known:
        family.add_metric([state], int(state == status.storage_state))
    if known != STORAGE_STATES:
        family.add_metric(["failed"], 1)
    return family


def _cascades(status: NodeStatus) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "synaptoroute_cascade_state", "1 for the state that the cascade is in.", labels=("state",)
    )
    for state in CASCADE_STATES:
        family.add_metric([state], int(state == status.cascade.state))
    yield family
    others = GaugeMetricFamily(
        "synaptoroute_sets_cascade",
        "Route sets other than the default one whose cascade is in the state.",
        labels=("state",),
    )
    for state in CASCADE_STATES[1:]:
        others.add_metric([state], status.set_cascades.get(state, 0))
    yield others


def _fit(status: NodeStatus) -> Iterator[Metric]:
    """The fit of the confidence on the route set."""
    family = GaugeMetricFamily(
        "synaptoroute_calibration_state",
        "1 for the state of the numbers behind the confidence.",
        labels=("state",),
    )
    for state in FIT_STATES:
        family.add_metric([state], int(state == status.fit.state))
    yield family
    yield GaugeMetricFamily(
        "synaptoroute_calibration_changed_share",
        "Share of the fitted utterances that have changed since.",
        value=status.fit.changed_share,
    )
    yield CounterMetricFamily(
        "synaptoroute_calibrations", "Fits that this node wrote to the log.", value=status.fits
    )


def _of_follower(follower: FollowerStatus) -> Iterator[Metric]:
    """Figures of a member of a cluster; a standalone node has none."""
    states = GaugeMetricFamily(
        "synaptoroute_log_state", "1 for the state that the log is in.", labels=("state",)
    )
    for state in LogState:
        states.add_metric([state.value], int(state is follower.log_state))
    yield states
    for name, meaning, value in (
        ("log_kept_bytes", "Bytes that the log keeps.", follower.log_bytes),
        ("log_kept_bytes_max", "Bytes that the log may keep.", follower.log_bytes_max),
        ("lag_entries", "Entries behind the newest; NaN if unknown.", _lag(follower)),
        (
            "staleness_seconds",
            "Time since the node last knew that it was not behind.",
            follower.staleness_ms / 1000,
        ),
        ("bus_live", "1 if the subscription to the bus is up.", int(follower.is_bus_live)),
        (
            "bus_at_replica",
            "1 if the subscription is at a replica of Redis.",
            int(follower.is_bus_at_replica),
        ),
        (
            "identity_conflict",
            "1 while another process has this node's identity.",
            int(bool(follower.identity_conflict)),
        ),
    ):
        yield _gauge(name, meaning, value)
    modes = GaugeMetricFamily(
        "synaptoroute_trust_mode", "1 for the mode in which others are trusted.", labels=("mode",)
    )
    for mode in TRUST_MODES:
        modes.add_metric([mode], int(mode == follower.trust_mode))
    yield modes
    counts = follower.counts
    for name, meaning, value in (
        ("bus_entries", "Entries heard on the bus.", counts.bus_entries),
        ("bus_reconnects", "Times the subscription was made anew.", counts.bus_reconnects),
        ("gaps", "Times an entry came before an earlier one.", counts.gaps),
        ("tail_losses", "Times only the head showed that entries were lost.", counts.tail_losses),
        ("snapshots", "Snapshots of peers that were installed.", counts.snapshots),
        (
            "rows_refused",
            "Rows of nodes that were forged, foreign or replayed.",
            follower.rows_refused,
        ),
        ("forks", "Times the log contradicted what had been applied.", counts.forks),
        ("halts", "Times an entry could not be applied.", counts.halts),
        ("reopenings", "Times this node reopened the log.", counts.reopenings),
        ("follower_faults", "Times a part of the follower began again.", counts.faults),
    ):
        yield CounterMetricFamily(f"synaptoroute_{name}", meaning, value=value)
    caught_up = CounterMetricFamily(
        "synaptoroute_catch_ups", "Catch-ups, by where the entries came from.", labels=("source",)
    )
    caught_up.add_metric(["log"], counts.catch_ups_log)
    caught_up.add_metric(["peer"], counts.catch_ups_peer)
    yield caught_up
    replica_reads = CounterMetricFamily(
        "synaptoroute_replica_reads", "Reads of the log at replicas.", labels=("outcome",)
    )
    replica_reads.add_metric(["confirmed"], follower.replica_counts.reads)
    replica_reads.add_metric(["refused"], follower.replica_counts.refused)
    replica_reads.add_metric(["failed"], follower.replica_counts.failed)
    yield replica_reads


def _lag(follower: FollowerStatus) -> float:
    return math.nan if follower.lag_entries is None else follower.lag_entries


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"synaptoroute_{name}", meaning, value=value)


def parse_version(version: str) -> Revision:
    epoch, _, seq = version.partition(".")
    return Revision(int(epoch), int(seq or 0))
