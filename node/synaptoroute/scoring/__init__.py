"""Scoring: which routes stand best for a query.

Pure functions over arrays that somebody else owns.  Theory: products in float32
differ in their last bits with the size of the batch, so they only *nominate*:
every route within a proven error of a decision is scored again, exactly and on
its own, and both the decision and every number reported come from that.  An
answer depends on the query and the rows; never on the load.
"""

from __future__ import annotations

from synaptoroute.scoring.calibration import (
    UTTERANCES_MAX,
    Calibration,
    calibrate,
    is_superseded,
    read_calibration,
)
from synaptoroute.scoring.leave_one_out import Utterances
from synaptoroute.scoring.rank import rank
from synaptoroute.scoring.scan import Scratch
from synaptoroute.scoring.static_routes import StaticLook, StaticRoutes
from synaptoroute.scoring.turn import Turn, read_turn
from synaptoroute.scoring.values import QuerySpec, Ranking, RouteScore, ScoringRows

__all__ = [
    "UTTERANCES_MAX",
    "Calibration",
    "QuerySpec",
    "Ranking",
    "RouteScore",
    "ScoringRows",
    "Scratch",
    "StaticLook",
    "StaticRoutes",
    "Turn",
    "Utterances",
    "calibrate",
    "is_superseded",
    "rank",
    "read_calibration",
    "read_turn",
]
