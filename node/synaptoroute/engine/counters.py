"""Totals of an engine, for status and metrics."""

from __future__ import annotations

from dataclasses import dataclass

from synaptoroute.cascade.cascade import Cascade, CascadeStatus
from synaptoroute.replication.applier import Applier
from synaptoroute.serving.queue import BatcherCounters


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """Totals since the start.

    Attributes:
        queries: Queries submitted.
        shared: Queries that shared the encoding of the same text in flight.
        cache_hits: Embeddings found in the cache.
        cache_misses: Embeddings that had to be computed.
        overloaded: Queries and writes refused at the door.
        too_late: Queries among them whose predicted wait was over their deadline.
        abandoned: Texts dropped because their callers had gone.
        entries: Entries applied.
        static: Queries answered by the cascade's static stage; among ``queries``.
        deferred: Queries that it left to the encoder.
    """

    queries: int = 0
    shared: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    overloaded: int = 0
    too_late: int = 0
    abandoned: int = 0
    entries: int = 0
    static: int = 0
    deferred: int = 0


def counted(
    queue: BatcherCounters, cached: tuple[int, int], cascade: Cascade | None, applier: Applier
) -> EngineCounters:
    """Gather what the parts of the engine count; ``cached`` is hits and misses."""
    stage = cascade.status if cascade else CascadeStatus()
    return EngineCounters(
        queries=queue.requests + stage.static,
        shared=queue.shared,
        cache_hits=cached[0],
        cache_misses=cached[1],
        overloaded=queue.overloaded,
        too_late=queue.too_late,
        abandoned=queue.abandoned,
        entries=applier.commit_count,
        static=stage.static,
        deferred=stage.deferred,
    )
