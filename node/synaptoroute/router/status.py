"""How a node is, in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field

from synaptoroute.cascade.cascade import NO_TABLE, Cascade, CascadeStatus
from synaptoroute.config import EngineConfig
from synaptoroute.encoder import TextEncoder
from synaptoroute.ports import Admission, EngineCounters, EngineStatus
from synaptoroute.replication.follower import Follower
from synaptoroute.replication.status import FollowerStatus
from synaptoroute.serving.query import QueryEngine


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """How a node is.

    Attributes:
        node: Its identity.
        state: ``new``, ``starting``, ``ready``, ``draining``, ``stopped`` or ``failed``.
        is_ready: Whether it may take queries.
        reasons: Why not.
        version: ``epoch.seq`` that is visible.
        chain: Hash chain at that position.
        digest: Digest of the state at that position.
        routes: Routes.
        slots_used: Slots that have an owner.
        capacity_slots: Slots.
        queue_requests: Queries on their way.
        queue_requests_max: How many may be.
        backlog_entries: Entries that wait to be applied.
        lanes: Encoding threads.
        model: Name of the encoder.
        fingerprint: Fingerprint of the encoder.
        dim: Dimension of its vectors.
        database: Path of the SQLite file.
        storage_state: ``ok``, ``disk_full``, ``read_only`` or another reason.
        moved_aside: Where a corrupt database was moved at the start, if one was.
        counters: Totals since the start.
        admission: What the door expects of the work on its way.
        follower: How it follows the log of a cluster; None for a node on its own.
        cascade: How the cascade stands.
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


def node_status(
    state: str,
    engine: QueryEngine | None,
    follower: Follower | None,
    cascade: Cascade | None,
    encoder: TextEncoder,
    config: EngineConfig,
) -> NodeStatus:
    """Gather a node's status without blocking."""
    status = engine.status() if engine else None
    reasons = _reasons(state, status, follower)
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
        cascade=_cascade(engine, cascade),
    )


def _cascade(engine: QueryEngine | None, cascade: Cascade | None) -> CascadeStatus:
    if engine is None:
        return CascadeStatus()
    if cascade is not None:
        return cascade.status
    is_wanted = engine.published.settings.cascade
    return CascadeStatus("no_table", NO_TABLE) if is_wanted else CascadeStatus()


def _reasons(state: str, status: EngineStatus | None, follower: Follower | None) -> tuple[str, ...]:
    """Say why a node may not take queries."""
    if state != "ready":
        return (f"the router is {state}",)
    if status is None or not status.are_threads_alive:
        return ("a thread of the engine has ended",)
    return follower.reasons() if follower else ()
