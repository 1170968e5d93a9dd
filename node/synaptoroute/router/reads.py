"""Reads of the route set and of the node's status.

Every read of the route set shows one position of the log: it runs between two batches on
the thread that owns the tensor.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, Field

from synaptoroute.cascade.cascade import NOT_FINALIZED, Cascade, CascadeStatus
from synaptoroute.cascade.table_store import state_without_table
from synaptoroute.config import EngineConfig
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.levels import SETS_LEVEL
from synaptoroute.core.mutation import DEFAULT_SET, Settings
from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import InvalidQuery, RouteNotFound
from synaptoroute.models import (
    FeedbackSettings,
    RouteSetSettings,
    StoredRoute,
    normal_name,
)
from synaptoroute.ports import Admission, EngineCounters, EnginePort, EngineStatus
from synaptoroute.router.decision_fits import DecisionFitter, FitOutlook
from synaptoroute.router.set_engine import of_set
from synaptoroute.serving.query import QueryEngine, load_json
from synaptoroute.tensor import Tensor

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower
    from synaptoroute.replication.session import FollowerStatus

PAGE_ROUTES_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class RoutePage:
    """Some routes, in order of name.

    Attributes:
        next_after: Name to continue after; None at the end.
        version: ``epoch.seq`` of the route set that was read.
    """

    routes: list[StoredRoute]
    next_after: str | None
    version: str


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """Status of a node.

    Attributes:
        state: ``new``, ``starting``, ``ready``, ``draining``, ``stopped`` or ``failed``.
        reasons: Why it may not take queries; empty if it may.
        version: ``epoch.seq`` that is visible.
        chain: Hash chain at that position.
        digest: Digest of the state at that position.
        slots_used: Slots that have an owner.
        queue_requests: Queries in the queue or being answered.
        backlog_entries: Entries that wait to be applied.
        lanes: Encoder workers.
        storage_state: ``ok``, ``disk_full``, ``read_only`` or another reason.
        moved_aside: Where a corrupt database was moved at the start, if one was.
        counters: Totals since the start.
        admission: What admission control expects of the queued work.
        follower: How it follows the log of a cluster; None for a node on its own.
    """

    node: str
    state: str
    is_ready: bool
    reasons: tuple[str, ...]
    version: str
    chain: str
    digest: str
    routes: int
    slots_used: int
    capacity_slots: int
    queue_requests: int
    queue_requests_max: int
    backlog_entries: int
    lanes: int
    model: str
    fingerprint: str
    dim: int
    database: str
    storage_state: str
    moved_aside: str | None
    counters: EngineCounters
    admission: Admission
    follower: FollowerStatus | None = None
    cascade: CascadeStatus = field(default_factory=CascadeStatus)
    # Number of other route sets by the state of their cascade, where it is not off.
    set_cascades: dict[str, int] = field(default_factory=dict)
    fit: FitOutlook = field(default_factory=lambda: FitOutlook("off"))
    fits: int = 0  # Fits of the confidence that this node made since its start


class CascadeReport(BaseModel):
    """The state of the cascade on one node.

    Attributes:
        state: ``off``, ``no_table``, ``uncalibrated``, ``refused``, ``suspended`` or ``on``.
            With ``auto``, ``off`` also where it cannot be on, or would not pay.
        reason: Why it is not on; empty if it is on, or off by the settings.
        static: Queries answered by the static stage since the start.
        deferred: Queries that the static stage left to the encoder while it was on.
        changed_share: Share of the calibrated routes that have changed since.
        at: ``epoch.seq`` of the calibrated route set; None before the first calibration.
        table: First digits of the static table's checksum.
        guard_margin: Margin over the next route that a score of zero needs.
        slope: By how much each unit of score lowers that margin.
        floor: Lowest score of the static stage that may answer.
        share: Share of the calibration queries that the static stage would answer.
        agreement: Share of these answers that the encoder, or the utterance's own route,
            agrees with.
        strays: Share of out-of-scope queries that it would answer against the encoder.
        confidence: Whether a static answer has a confidence of its own, and needs the least
            confidence of its route.
        distilled_share: Share of the vocabulary, while this node distils the table.
    """

    state: str
    reason: str
    static: int
    deferred: int
    changed_share: float
    at: str | None = None
    table: str | None = None
    guard_margin: float | None = None
    slope: float | None = None
    floor: float | None = None
    share: float | None = None
    agreement: float | None = None
    strays: float | None = None
    confidence: bool | None = None
    distilled_share: float | None = Field(default=None, exclude_if=lambda value: value is None)


# --- the route set -------------------------------------------------------------------------


async def get_route(engine: EnginePort, name: str) -> StoredRoute:
    """Read one route."""
    name = normal_name(name)

    def read(tensor: Tensor) -> tuple[RouteRecord | None, Settings, str]:
        return tensor.routes.get(name), tensor.settings, str(tensor.revision)

    record, settings, version = await asyncio.wrap_future(engine.read(read))
    if record is None:
        raise RouteNotFound(f"no route is named {name!r}", version=version)
    return _stored_route(record, settings, version)


async def list_routes(engine: EnginePort, after: str, limit: int) -> RoutePage:
    """Read up to ``limit`` routes whose names follow ``after``, in order of name."""
    if not 1 <= limit <= PAGE_ROUTES_MAX:
        raise InvalidQuery(f"limit must be 1 to {PAGE_ROUTES_MAX}")

    def read(tensor: Tensor) -> tuple[list[RouteRecord], Settings, str]:
        names = heapq.nsmallest(limit + 1, (n for n in tensor.routes if n > after))
        return [tensor.routes[name] for name in names], tensor.settings, str(tensor.revision)

    records, settings, version = await asyncio.wrap_future(engine.read(read))
    shown = [_stored_route(record, settings, version) for record in records[:limit]]
    has_more = len(records) > limit
    return RoutePage(shown, shown[-1].name if has_more else None, version)


def _stored_route(record: RouteRecord, settings: Settings, version: str) -> StoredRoute:
    own = record.threshold
    return StoredRoute(
        name=record.name,
        utterances=list(record.utterances),
        threshold=own,
        effective_threshold=settings.threshold if own is None else own,
        metadata=load_json(record.metadata),
        payload=load_json(record.payload),
        revision=str(record.revision),
        version=version,
        confidence_min=record.confidence_min,
        effective_confidence_min=settings.confidence_min
        if record.confidence_min is None
        else record.confidence_min,
        description=record.description,
        negatives=list(record.negatives),
    )


async def get_settings(engine: EnginePort, level: int) -> RouteSetSettings:
    """Read the settings as clients of a log at this level know them."""
    found = await asyncio.wrap_future(engine.read(lambda tensor: tensor.settings))
    shown = shown_settings(found)
    if level < SETS_LEVEL and shown.cascade == "auto":
        # What this node shows, a node of the release before takes; ``auto`` is off there.
        shown.cascade = False
    return shown


def shown_settings(settings: Settings) -> RouteSetSettings:
    """The settings of a route set as clients read and write them."""
    return RouteSetSettings(
        aggregation=settings.aggregation,
        topk=settings.topk,
        threshold=settings.threshold,
        capacity_slots=settings.capacity_slots,
        cascade=settings.cascade,
        feedback=FeedbackSettings.of(settings.feedback),
        confidence_min=settings.confidence_min,
        expected_unmatched_share=settings.expected_unmatched_share,
        ignore=list(settings.ignore),
        repair_words=settings.repair_words,
    )


async def get_checksum(engine: EnginePort) -> dict[str, str]:
    """Read what two nodes compare: version, digest and the SHA-256 of the tensors of all sets."""

    def read(tensors: Mapping[str, Tensor]) -> tuple[str, str, str]:
        # The digest is read here, on the thread that publishes it: it belongs to these tensors.
        default, *others = ((name, tensor.checksum()) for name, tensor in tensors.items())
        total = default[1]
        if others:
            lines = "".join(f"{name} {each}\n" for name, each in (default, *others))
            total = sha256(lines.encode()).hexdigest()
        return total, str(tensors[DEFAULT_SET].revision), engine.published.digest

    tensor_sha256, version, digest = await asyncio.wrap_future(engine.read_sets(read))
    return {"version": version, "digest": digest, "tensor_sha256": tensor_sha256}


# --- the node ------------------------------------------------------------------------------


def cascade_report(status: CascadeStatus) -> CascadeReport:
    """Describe the status and the calibration of the cascade."""
    report = CascadeReport(
        state=status.state,
        reason=status.reason,
        static=status.static,
        deferred=status.deferred,
        changed_share=round(status.changed_share, 4),
        distilled_share=None
        if status.distilled_share is None
        else round(status.distilled_share, 3),
    )
    calibration = status.calibration
    if calibration is None:
        return report
    measured: dict[str, object] = {"at": calibration.at, "table": calibration.table}
    if (guard := calibration.guard) is not None:
        measured |= {"guard_margin": guard.margin, "slope": guard.slope, "floor": guard.floor}
        measured |= {
            "share": calibration.share,
            "agreement": calibration.agreement,
            "strays": calibration.strays,
            "confidence": calibration.levels is not None,
        }
    return report.model_copy(update=measured)


def node_status(
    state: str,
    engine: QueryEngine | None,
    follower: Follower | None,
    cascade: Cascade | None,
    encoder: TextEncoder,
    config: EngineConfig,
    fitter: DecisionFitter | None = None,
) -> NodeStatus:
    """Collect the status of a node without blocking."""
    status = engine.status() if engine else None
    reasons = _not_ready_reasons(state, status, follower)
    published = engine.published if engine else None
    encoder = engine.encoder if engine else encoder
    position = published.position if published else None
    return NodeStatus(
        node=status.node if status else config.node_name,
        state=state,
        is_ready=not reasons,
        reasons=reasons,
        version=str(position.revision) if position else "0.0",
        chain=position.chain if position else "",
        digest=published.digest if published else "",
        routes=published.routes_count if published else 0,
        slots_used=published.slots_used if published else 0,
        capacity_slots=published.settings.capacity_slots if published else 0,
        queue_requests=status.queue_requests if status else 0,
        queue_requests_max=config.queue_requests_max,
        backlog_entries=status.backlog_entries if status else 0,
        lanes=status.lanes if status else config.lanes,
        model=encoder.name,
        fingerprint=encoder.fingerprint,
        dim=encoder.dim,
        database=str(engine.database.path) if engine else "",
        storage_state=status.storage_state if status else "ok",
        moved_aside=status.moved_aside if status else None,
        counters=status.counters if status else EngineCounters(),
        admission=status.admission if status else Admission(),
        follower=follower.status() if follower else None,
        cascade=cascade_status(engine, cascade),
        set_cascades=_set_cascades(engine),
        fit=fitter.outlook if fitter else FitOutlook("off"),
        fits=fitter.fits if fitter else 0,
    )


def cascade_status(
    engine: QueryEngine | None, cascade: Cascade | None, route_set: str = ""
) -> CascadeStatus:
    """Describe the cascade of one route set.

    Args:
        cascade: That of ``default``; None if the node has no tables.
        route_set: Empty for ``default``.

    Raises:
        SetNotFound: There is none of that name.
    """
    if engine is None:
        return CascadeStatus()
    published = of_set(engine, route_set).published if route_set else engine.published
    found: Cascade | None = engine.cascade_of(route_set)
    replica, mode = engine.replica_status, published.settings.cascade
    if mode == "auto" and replica.epochs and replica.level < SETS_LEVEL:
        return CascadeStatus("off", NOT_FINALIZED)
    if found is not None:
        return found.status
    # A node with tables makes a first stage as soon as the settings of the set ask for it.
    if cascade is not None or not mode:
        return CascadeStatus()
    return CascadeStatus(*state_without_table(engine.encoder, mode))


def _set_cascades(engine: QueryEngine | None) -> dict[str, int]:
    if engine is None:
        return {}
    states = Counter(each.status.state for name, each in engine.cascades.items() if name)
    del states["off"]
    return dict(states)


def _not_ready_reasons(
    state: str, status: EngineStatus | None, follower: Follower | None
) -> tuple[str, ...]:
    if state != "ready":
        return (f"the router is {state}",)
    if status is None or not status.are_threads_alive:
        return ("a thread of the engine has ended",)
    return follower.reasons() if follower else ()
