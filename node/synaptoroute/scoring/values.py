"""Inputs and results of scoring."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float32s: TypeAlias = NDArray[np.float32]
Float64s: TypeAlias = NDArray[np.float64]
Indexes: TypeAlias = NDArray[np.intp]
Numbers: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Int32s: TypeAlias = NDArray[np.int32]
Bytes: TypeAlias = NDArray[np.int8]


class IntegerProduct(Protocol):
    """Multiplies bytes with digits, exactly; one thread at a time."""

    @property
    def digit_max(self) -> int:
        """Greatest digit that may be given, at most 127."""
        ...

    def __call__(self, digits: Bytes, blocks: Bytes, sums: Int32s, out: Int32s) -> None:
        """Write ``digits @ blocks``; see ``encoder.integer_product``.

        Args:
            digits: int8[n, dim].
            blocks: int8[m, dim, width].
            sums: Of ``blocks`` along its second axis, int32[m, width].
            out: int32[m, n, width].
        """
        ...


@dataclass(frozen=True, slots=True)
class QuerySpec:
    """The options of a query beside its vector.

    Attributes:
        limit: How many of the best routes to list, at least 1.
        routes: Ids of the routes to consider; None for all.
    """

    limit: int = 1
    routes: frozenset[int] | None = None


class RouteScore(NamedTuple):
    """The score of one route for a query.

    Attributes:
        score: Its aggregated score, about -1 to 1.
        threshold: Least score at which the route matches.
        slot: Its most similar utterance, the lowest slot of equals.
        similarity: Cosine similarity of that utterance.
        judged: What the threshold is compared with: the score, but that of ``blend`` where the
            score is ``adaptive``; None for the score.
        confidence: Probability that the route is right; None if no numbers are known.
        confidence_min: Least confidence at which the route matches; 0 for none.
    """

    route_id: int
    score: float
    threshold: float
    slot: int
    similarity: float
    judged: float | None = None
    confidence: float | None = None
    confidence_min: float = 0.0

    @property
    def reaches_threshold(self) -> bool:
        return (self.score if self.judged is None else self.judged) >= self.threshold

    @property
    def threshold_shown(self) -> float | None:
        """The threshold; None where none applies."""
        return None if self.threshold == -math.inf else self.threshold

    @property
    def passed(self) -> bool:
        is_sure = self.confidence is None or self.confidence >= self.confidence_min
        return is_sure and self.reaches_threshold


class Ranking(NamedTuple):
    """The result of one query; equal scores are in order of their slots.

    Attributes:
        best: The highest of the routes that reach their thresholds, if any does.
        top: The highest routes, even below their thresholds, at most ``limit``.
        runner_up: The highest route other than ``best``; the second where none passed.
        route_count: How many routes were considered.
        p_none: Probability that no route is right; None if no numbers are known.
    """

    best: RouteScore | None = None
    top: tuple[RouteScore, ...] = ()
    runner_up: RouteScore | None = None
    route_count: int = 0
    p_none: float | None = None
