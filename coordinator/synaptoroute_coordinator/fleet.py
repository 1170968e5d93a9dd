"""The fleet: nodes and log at one moment, built from heartbeats, metrics and audits.

Everything here is pure.  An audit compares digests at one position: equal histories have
equal digests there, so of two nodes that differ at least one is wrong, and the majority of
the reports decides which.  A node whose memory or disk does not match its own digest is
wrong whatever the others report.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from synaptoroute.sequencer.node_rows import NodeSeen
from synaptoroute.sequencer.presence import AuditReport
from synaptoroute.sequencer.scripts import Head, NoLog

DigestState = Literal["agrees", "differs", "unsound", "alone", "unknown"]
Health = Literal["ok", "warn", "bad", "unknown"]
NAME_CHARACTERS: Final = 8
"""A node that did not answer yet is named by the start of its identity."""
_HEALTHY_STATES: Final = frozenset({"live"})


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node; epoch, seq, chain and digest belong to its durable position."""

    node: str
    name: str
    url: str
    role: str
    release: str
    level: int
    encoder: str
    epoch: int
    seq: int
    chain: str
    digest: str
    digest_state: DigestState  # compared to the other nodes
    state: str
    lag_entries: int
    queue_requests: int
    age_ms: int  # of its heartbeat, by the Redis clock
    # By its heartbeat; while Redis does not answer, whether it answers this coordinator
    is_live: bool
    is_repairing: bool = False  # told to resync and not done yet
    telemetry: Telemetry | None = None
    encoders: tuple[str, ...] = ()
    is_known: bool = True  # Whether Redis answers; else all but ``is_live`` may be out of date

    @property
    def version(self) -> str:
        return f"{self.epoch}.{self.seq}"

    @property
    def given_name(self) -> str:
        """The name that the node gave itself; empty if it is not known."""
        return "" if self.name == self.node[:NAME_CHARACTERS] else self.name

    @property
    def health(self) -> Health:
        if not self.is_known:
            return "unknown"
        if not self.is_live or self.digest_state in ("differs", "unsound"):
            return "bad"
        if self.state not in _HEALTHY_STATES or self.is_repairing:
            return "warn"
        return "ok"


@dataclass(frozen=True, slots=True)
class LogView:
    """The log; ``seq`` and ``chain`` belong to its newest entry."""

    state: str  # open, recovering, frozen; lost: no log, away: Redis does not answer
    epoch: int = 0
    seq: int = 0
    chain: str = ""
    floor: int = 0  # oldest entry kept
    kept_bytes: int = 0
    level: int = 0
    encoder: str = ""
    dim: int = 0
    voters: tuple[str, ...] = ()
    cluster_id: str = ""
    time_ms: int = 0  # the Redis clock


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet at one moment."""

    log: LogView
    nodes: tuple[NodeView, ...] = ()  # heard of in the last hour, by name
    holder: str = ""  # of the leader lease; empty for nobody
    verdict: AuditVerdict | None = None
    deep_verdict: AuditVerdict | None = field(default=None)

    @property
    def is_known(self) -> bool:
        """Whether Redis answers this coordinator; else the view is what it last saw."""
        return self.log.state != "away"

    @property
    def live(self) -> tuple[NodeView, ...]:
        return tuple(node for node in self.nodes if node.is_live)

    @property
    def level_possible(self) -> int:
        """The highest feature level that every live node supports; 0 without nodes."""
        return min((node.level for node in self.live), default=0)

    def voters_at(self, seq: int) -> int:
        """Count the voters that hold an entry."""
        return sum(
            node.node in self.log.voters and node.epoch == self.log.epoch and node.seq >= seq
            for node in self.nodes
        )

    @property
    def missing_voters(self) -> tuple[str, ...]:
        """Voters that are not live."""
        live = {node.node for node in self.live}
        return tuple(voter for voter in self.log.voters if voter not in live)


def build_view(
    head: Head | NoLog | None,
    seen: Sequence[NodeSeen],
    *,
    telemetry: Mapping[str, Telemetry] | None = None,
    repairing: frozenset[str] = frozenset(),
    holder: str = "",
    verdict: AuditVerdict | None = None,
    deep_verdict: AuditVerdict | None = None,
    answering: frozenset[str] | None = None,
) -> FleetView:
    """Build the view from heartbeats, telemetry and verdicts.

    ``answering``: nodes that answer this coordinator, which decides what is live while Redis does
    not answer; None goes by the last heartbeats.
    """
    log = _log_of(head)
    known_telemetry = telemetry or {}
    states = _digest_states(seen, verdict, deep_verdict)
    nodes = [_node_of(each, log, states, known_telemetry, repairing) for each in seen]
    if head is None:
        nodes = [_unknown(node, answering) for node in nodes]
    nodes.sort(key=lambda node: (_natural(node.name), node.node))
    return FleetView(log, tuple(nodes), holder, verdict, deep_verdict)


def _unknown(node: NodeView, answering: frozenset[str] | None) -> NodeView:
    is_live = node.is_live if answering is None else node.node in answering
    return replace(node, is_live=is_live, is_known=False, digest_state="unknown")


def _natural(name: str) -> tuple[str, int]:
    """Sort ``node-2`` before ``node-10``."""
    stem = name.rstrip("0123456789")
    number = name[len(stem) :]
    return stem, int(number[:18]) if number else -1


def _log_of(head: Head | NoLog | None) -> LogView:
    if head is None:
        return LogView("away")
    if isinstance(head, NoLog):
        return LogView("lost", time_ms=head.time_us // 1_000)
    # After a failover the header still says open, but appends are refused until the nodes
    # have recovered the log on the new server.
    is_other_server = head.state == "open" and not head.is_same_server
    return LogView(
        state="recovering" if is_other_server else head.state,
        epoch=head.epoch,
        seq=head.seq,
        chain=head.chain,
        floor=head.floor,
        kept_bytes=head.kept_bytes,
        level=head.level,
        encoder=head.fingerprint,
        dim=head.dim,
        voters=head.voters,
        cluster_id=head.cluster_id,
        time_ms=head.time_us // 1_000,
    )


def _node_of(
    seen: NodeSeen,
    log: LogView,
    states: Mapping[str, DigestState],
    known_telemetry: Mapping[str, Telemetry],
    repairing: frozenset[str],
) -> NodeView:
    report = seen.report
    known = known_telemetry.get(report.node_id)
    return NodeView(
        node=report.node_id,
        name=(known.name if known else "") or report.node_id[:NAME_CHARACTERS],
        url=report.url,
        role="voter" if report.node_id in log.voters else report.role,
        release=report.version,
        level=report.level,
        encoder=report.fingerprint,
        epoch=report.epoch,
        seq=report.seq,
        chain=report.chain,
        digest=report.digest,
        digest_state=states[report.node_id],
        state=report.state,
        lag_entries=max(0, log.seq - report.seq) if log.seq else report.lag_entries,
        queue_requests=report.queue_count,
        age_ms=seen.age_ms,
        is_live=seen.is_live,
        is_repairing=report.node_id in repairing,
        telemetry=known,
        encoders=tuple(each for each in report.encoders.split(",") if each)
        or (report.fingerprint,),
    )


def _digest_states(
    seen: Sequence[NodeSeen], verdict: AuditVerdict | None, deep_verdict: AuditVerdict | None
) -> dict[str, DigestState]:
    """Compare nodes at one position; a verdict is valid until the next one."""
    positions = [(each.report.position, each.report.digest) for each in seen if each.is_live]
    count_at, count_equal = Counter(position for position, _ in positions), Counter(positions)
    states: dict[str, DigestState] = {}
    for each in seen:
        report = each.report
        count = count_equal[(report.position, report.digest)]
        # Digests are comparable only at one position: elsewhere a difference is lag.
        if not each.is_live or report.epoch == 0:
            state: DigestState = "unknown"
        elif count_at[report.position] == 1:
            state = "alone"
        elif count * 2 > count_at[report.position]:
            state = "agrees"
        else:
            state = "differs"
        # A heartbeat cannot clear a verdict: the node reports the digest that it believes.
        if verdict is not None and report.node_id in verdict.differing:
            state = "differs"
        elif deep_verdict is not None and report.node_id in deep_verdict.unsound:
            state = "unsound"
        elif state == "alone" and verdict is not None and report.node_id in verdict.agreeing:
            state = "agrees"
        states[report.node_id] = state
    return states


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """The result of one audit."""

    seq: int
    is_deep: bool
    digest: str  # of the majority; empty without one
    agreeing: tuple[str, ...]
    differing: tuple[str, ...]
    unsound: tuple[str, ...]  # memory or disk does not match their own digest
    silent: tuple[str, ...]  # live, but did not report

    @property
    def has_majority(self) -> bool:
        """Whether more than half of the reports have the same digest."""
        return bool(self.digest)

    @property
    def is_sound(self) -> bool:
        """Whether every node that reported agrees and is sound."""
        return not (self.differing or self.unsound) and self.has_majority

    @property
    def wrong(self) -> tuple[str, ...]:
        """Nodes that should install the state of an agreeing node, if there is one."""
        if not (self.has_majority and self.agreeing):
            return ()
        return tuple(sorted({*self.differing, *self.unsound}))


def evaluate_audit(
    seq: int, reports: Mapping[str, AuditReport], live: Iterable[str], *, is_deep: bool = False
) -> AuditVerdict:
    """Compare what nodes reported at one position."""
    counts = Counter((report.epoch, report.digest) for report in reports.values())
    (majority, count) = counts.most_common(1)[0] if counts else ((0, ""), 0)
    has_majority = count * 2 > len(reports)
    unsound = tuple(sorted(node for node, report in reports.items() if not report.is_sound))
    differing = tuple(
        sorted(
            node
            for node, report in reports.items()
            if not has_majority or (report.epoch, report.digest) != majority
        )
    )
    agreeing = tuple(sorted(reports.keys() - set(differing) - set(unsound)))
    silent = tuple(sorted(set(live) - reports.keys()))
    digest = majority[1] if has_majority else ""
    return AuditVerdict(seq, is_deep, digest, agreeing, differing, unsound, silent)


METRICS_BYTES_MAX: Final = 4_194_304
_LINE: Final = re.compile(r"^(synaptoroute_\w+)(?:\{([^}]*)\})? ([0-9.eE+\-]+|\+Inf|NaN)$", re.M)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_DURATION: Final = "synaptoroute_request_duration_seconds_bucket"
_ENDPOINTS: Final = frozenset({"/v1/query", "/v1/query/batch"})


@dataclass(frozen=True, slots=True)
class Sample:
    """The metrics of a node at one moment."""

    at_seconds: float
    queries: float = 0.0
    # Cumulative counts by upper bound of the duration in seconds.
    buckets: Mapping[float, float] = field(default_factory=dict)
    is_ready: bool = False
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Figures of a node, computed from two scrapes."""

    name: str = ""
    is_ready: bool = False
    queries_per_second: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    routes: int = 0
    slots_used: int = 0
    capacity_slots: int = 0


def parse_sample(text: str, at_seconds: float) -> Sample:
    """Parse the needed metrics from the Prometheus text format."""
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
    """Compute the figures of a node from two scrapes."""
    # A counter that went back means that the node restarted: there is no rate yet.
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
    """Estimate a quantile from cumulative buckets; None if they are empty."""
    total = max(buckets.values(), default=0.0)
    if total <= 0:
        return None
    wanted, below, floor = share * total, 0.0, 0.0
    for bound in sorted(buckets):
        count = buckets[bound]
        if count >= wanted:
            # The last bucket has no upper bound, so its lower bound is the best estimate.
            if bound == float("inf"):
                return round(floor * 1_000, 3)
            part = (wanted - below) / (count - below) if count > below else 1.0
            return round((floor + (bound - floor) * part) * 1_000, 3)
        below, floor = count, bound
    return round(floor * 1_000, 3)
