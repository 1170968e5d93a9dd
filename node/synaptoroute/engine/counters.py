"""Totals of an engine, for status and metrics."""

from __future__ import annotations

from dataclasses import dataclass


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
