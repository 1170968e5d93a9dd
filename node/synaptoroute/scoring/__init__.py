"""Scoring: which routes stand best for a query.

Pure functions over arrays that somebody else owns.  Theory: products in float32
differ in their last bits with the size of the batch, so they only *nominate*:
every route within a proven error of a decision is scored again, exactly and on
its own, and both the decision and every number reported come from that.  An
answer depends on the query and the rows; never on the load.
"""

from __future__ import annotations

from synaptoroute.scoring.rank import rank
from synaptoroute.scoring.scan import Scratch
from synaptoroute.scoring.values import QuerySpec, Ranking, RouteScore, ScoringRows

__all__ = [
    "QuerySpec",
    "Ranking",
    "RouteScore",
    "ScoringRows",
    "Scratch",
    "rank",
]
