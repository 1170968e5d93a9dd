"""The tensor: every route's vectors, preallocated, and what a query reads beside them."""

from __future__ import annotations

from synaptoroute.tensor.tensor import Tensor
from synaptoroute.tensor.view import NegativeRows, TensorView

__all__ = ["NegativeRows", "Tensor", "TensorView"]
