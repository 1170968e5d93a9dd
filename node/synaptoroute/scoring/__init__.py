"""Scoring: which routes match a query best.

Pure functions over arrays that the tensor owns.  Theory: float32 products differ in their
last bits with the size of the batch, so they only select *candidates*.  Every route within
a proven error of a decision is scored again, exactly and on its own; the decision and every
reported number come from that.  An answer depends on the query and the rows, never on the
load.
"""

from __future__ import annotations

from synaptoroute.scoring.rank import rank
from synaptoroute.scoring.rule import DecisionRule, numbers_of, rule_of
from synaptoroute.scoring.scan import Scratch
from synaptoroute.scoring.values import QuerySpec, Ranking, RouteScore

__all__ = [
    "DecisionRule",
    "QuerySpec",
    "Ranking",
    "RouteScore",
    "Scratch",
    "numbers_of",
    "rank",
    "rule_of",
]
