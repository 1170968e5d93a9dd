"""The tensor: every route's vectors, preallocated, and what a query reads beside them."""

from __future__ import annotations

from synaptoroute.tensor.tensor import NegativeRows, Tensor, TensorView

__all__ = ["NegativeRows", "Tensor", "TensorView"]
