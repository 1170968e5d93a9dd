"""What goes into scoring and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.mutation import Settings

Float32s: TypeAlias = NDArray[np.float32]
Float64s: TypeAlias = NDArray[np.float64]
Indexes: TypeAlias = NDArray[np.intp]
Numbers: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Int32s: TypeAlias = NDArray[np.int32]
Bytes: TypeAlias = NDArray[np.uint8]
Digits: TypeAlias = NDArray[np.int8]


class IntegerProduct(Protocol):
    """Multiplies bytes with digits, exactly; one thread at a time."""

    @property
    def digit_max(self) -> int:
        """Greatest digit that may be given, at most 127."""
        ...

    def __call__(self, rows: Bytes, columns: Digits, out: Int32s) -> None:
        """Write ``(rows - 128) @ columns``: uint8[n, dim], int8[dim, m], int32[n, m]."""
        ...


class ScoringBlock(Protocol):
    """Rows of some consecutive slots, and how they fold into one row a route."""

    @property
    def base_slot(self) -> int:
        """First slot."""
        ...

    @property
    def rows(self) -> Float32s:
        """float32[n, dim], n a multiple of 128; every number finite."""
        ...

    @property
    def order(self) -> Indexes:
        """Indexes of the owned rows by route, then by slot."""
        ...

    @property
    def starts(self) -> Indexes:
        """Where each route of ``route_ids`` starts in ``order``."""
        ...

    @property
    def folds(self) -> tuple[tuple[Indexes, Indexes], ...]:
        """Pairs whose maxima are kept, level by level; at least one level."""
        ...

    @property
    def route_ids(self) -> Indexes:
        """Routes of what the last level leaves, ascending."""
        ...


class ScoringRows(Protocol):
    """What scoring reads; nothing of it changes meanwhile."""

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        ...

    @property
    def settings(self) -> Settings:
        """Aggregation and its parameter."""
        ...

    @property
    def thresholds(self) -> Float64s:
        """Effective threshold by route id, float64[routes]."""
        ...

    @property
    def is_live(self) -> Mask:
        """Whether a route id is in use, bool[routes]."""
        ...

    @property
    def mean_norms(self) -> Float64s:
        """Length of the mean of each route's rows, float64[routes]."""
        ...

    def blocks(self) -> Sequence[ScoringBlock]:
        """Every owned row, in slot order."""
        ...

    @property
    def coarse_lost_max(self) -> float:
        """Length that no row of ``coarse_spans`` lost more than by being rounded."""
        ...

    def coarse_spans(self) -> Sequence[tuple[int, Bytes]] | None:
        """Rows as ``exact.to_bytes`` rounds them, uint8[n, dim] from each first slot on.

        They reach as far as ``blocks`` do.  None while some rows are not rounded.
        """
        ...

    def prepare(self) -> None:
        """Round some of the rows that are not rounded yet, for later queries."""
        ...

    def centroid_spans(self) -> Sequence[tuple[int, Float32s]]:
        """Unit centroids, float32[n, dim] from each first route id on, n as in a block."""
        ...

    def centroids_of(self, route_ids: Numbers) -> Float32s:
        """Unit centroids of these routes, float32[n, dim]."""
        ...

    def slots_of(self, route_id: int) -> Numbers:
        """Slots of a live route, int64[n], ascending, at least one."""
        ...

    def vectors_of(self, slots: Numbers) -> Float32s:
        """Rows at these slots, float32[n, dim]."""
        ...


@dataclass(frozen=True, slots=True)
class QuerySpec:
    """What is asked beside the vector.

    Attributes:
        limit: How many of the best routes to list, at least 1.
        routes: Ids of the routes to consider; None for all.
    """

    limit: int = 1
    routes: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class RouteScore:
    """How one route stands for a query.

    Attributes:
        route_id: The route.
        score: Its aggregated score, about -1 to 1.
        threshold: What the score is held against.
        slot: Its most similar utterance, the lowest of equals.
        similarity: Cosine similarity of that utterance.
    """

    route_id: int
    score: float
    threshold: float
    slot: int
    similarity: float

    @property
    def passed(self) -> bool:
        """Whether the score reaches the threshold."""
        return self.score >= self.threshold


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answer to one query; equal scores stand in order of their slots.

    Attributes:
        best: The highest of the routes that reach their thresholds, if any does.
        top: The highest routes, whatever their thresholds, at most ``limit``.
        runner_up: The highest route but ``best``; but the first where none passed.
        route_count: How many routes were considered.
    """

    best: RouteScore | None = None
    top: tuple[RouteScore, ...] = ()
    runner_up: RouteScore | None = None
    route_count: int = 0
