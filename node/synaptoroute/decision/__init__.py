"""Decisions: the adaptive score of a route, and the probability that a route is right.

Pure functions of arrays and numbers.  A *fit* measures a route set on itself: every
utterance is judged without itself, as if it were a query.  The numbers of a fit
(``DecisionCalibration``) travel through the log, so every node computes the same scores and
probabilities, bit for bit.
"""

from __future__ import annotations

from synaptoroute.decision.calibration import (
    CALIBRATION_BYTES_MAX,
    CurvePoint,
    DecisionCalibration,
    read_decision_calibration,
)
from synaptoroute.decision.fit_process import fit_apart
from synaptoroute.decision.fitting import JUDGED_MAX, fit_decision
from synaptoroute.decision.metric import Metric, ScoreWeights, read_metric, score_terms
from synaptoroute.decision.probability import BEST_ROUTES, confidences
from synaptoroute.decision.starting_numbers import shipped_calibration

__all__ = [
    "BEST_ROUTES",
    "CALIBRATION_BYTES_MAX",
    "JUDGED_MAX",
    "CurvePoint",
    "DecisionCalibration",
    "Metric",
    "ScoreWeights",
    "confidences",
    "fit_apart",
    "fit_decision",
    "read_decision_calibration",
    "read_metric",
    "score_terms",
    "shipped_calibration",
]
