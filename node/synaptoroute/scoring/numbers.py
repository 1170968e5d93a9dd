"""The numbers behind the confidence at one position: those of a fit, or those that ship."""

from __future__ import annotations

from synaptoroute.decision import DecisionCalibration
from synaptoroute.scoring.rule import DecisionRule
from synaptoroute.tensor import Tensor


def numbers_of(tensor: Tensor, fingerprint: str) -> DecisionCalibration | None:
    """Find the numbers of a tensor whose rows are of an encoder; None if none are known."""
    tensor.use_encoder(fingerprint)
    return tensor.calibration


def rule_of(tensor: Tensor, fingerprint: str) -> DecisionRule:
    """Make the decision rule of a tensor whose rows are of an encoder."""
    numbers = numbers_of(tensor, fingerprint)
    return DecisionRule.of(tensor.view(), numbers)
