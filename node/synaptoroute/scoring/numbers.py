"""The numbers behind the confidence at one position: those of a fit, or those that ship."""

from __future__ import annotations

from functools import lru_cache

from synaptoroute.core.mutation import Aggregation
from synaptoroute.decision import (
    DecisionCalibration,
    read_decision_calibration,
    shipped_calibration,
)
from synaptoroute.scoring.rule import DecisionRule
from synaptoroute.tensor import Tensor

_read = lru_cache(maxsize=4)(read_decision_calibration)


def numbers_in_use(
    decision: bytes, fingerprint: str, aggregation: Aggregation, routes: int, rows: int
) -> DecisionCalibration | None:
    """Choose the numbers; a function of the replicated state and the encoder alone.

    Args:
        decision: What the log holds; empty for nothing.
        fingerprint: Of the encoder.
        routes: Routes of the set.
        rows: Their utterances.

    Returns:
        None for an encoder without numbers.
    """
    found = _read(decision) if decision else None
    if found is not None and found.fingerprint == fingerprint and found.aggregation == aggregation:
        return found
    return shipped_calibration(fingerprint, aggregation, rows / max(routes, 1), routes)


def numbers_of(tensor: Tensor, fingerprint: str) -> DecisionCalibration | None:
    """Choose the numbers of a tensor whose rows are of an encoder."""
    aggregation = tensor.settings.aggregation
    counts = len(tensor.routes), tensor.slots_used
    numbers = numbers_in_use(tensor.decision, fingerprint, aggregation, *counts)
    if numbers is not None and numbers.weights is not None:
        # Without the score that these numbers belong to, the set is scored by ``blend``.
        numbers = numbers_in_use(b"", fingerprint, aggregation, *counts)
    return numbers


def rule_of(tensor: Tensor, fingerprint: str) -> DecisionRule:
    """Make the decision rule of a tensor whose rows are of an encoder."""
    return DecisionRule.of(tensor.view(), numbers_of(tensor, fingerprint))
