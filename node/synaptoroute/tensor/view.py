"""A tensor as scoring reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.mutation import Settings
from synaptoroute.decision import DecisionCalibration
from synaptoroute.tensor.blocks import Block
from synaptoroute.tensor.rows import ChunkedArray, QuantizedRows, Slots
from synaptoroute.tensor.score_terms import AdaptiveTerms


@dataclass(frozen=True, slots=True, eq=False)
class NegativeRows:
    """The negatives of all routes, by route, then by slot.

    Attributes:
        route_ids: Routes that have some, ascending.
        starts: Where the rows of each start.
        rows: float32[n, dim].
    """

    route_ids: Slots
    starts: Slots
    rows: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class TensorView:
    """A tensor as scoring reads it; valid until its next change.

    Attributes:
        is_live: Whether a route id is in use, bool[routes].
        thresholds: Effective threshold by route id, float64[routes]; minus infinity for none.
        confidence_mins: Effective least confidence by route id, float64[routes]; 0 for none.
        mean_norms: Length of the mean of each route's rows, float64[routes].
        slots_of: Slots of the examples of each live route, its utterances and its description:
            int64[n], ascending.
        negatives: Those of all routes; None if there are none.
        calibration: The numbers behind the confidence: those of the fit, else those that ship
            for the encoder; None for an encoder without any.
        adaptive: Terms of the adaptive score; None for other aggregations, and without a fit.
        blocks: Blocks that hold at least one owned row, in slot order.
        slot_stop: Where the rows of the last block end.
        rows: All rows, float32[slots, dim].
        centroids: Unit centroids by route id, float32[routes, dim].
        centroid_spans: The same as views, with the first route id of each; they hold a
            multiple of ``ROWS_ALIGNED`` rows, and those beyond the last route are zero.
        quantized: All rows rounded to bytes.
    """

    dim: int
    settings: Settings
    is_live: NDArray[np.bool_]
    live_count: int
    thresholds: NDArray[np.float64]
    confidence_mins: NDArray[np.float64]
    mean_norms: NDArray[np.float64]
    slots_of: Mapping[int, Slots]
    blocks: Sequence[Block]
    slot_stop: int
    rows: ChunkedArray[np.float32]
    centroids: ChunkedArray[np.float32]
    centroid_spans: Sequence[tuple[int, NDArray[np.float32]]]
    quantized: QuantizedRows
    negatives: NegativeRows | None
    calibration: DecisionCalibration | None = None
    adaptive: AdaptiveTerms | None = None
