"""The tensor: every route's vectors, preallocated, and all a query needs beside them."""

from __future__ import annotations

from synaptoroute.tensor.tensor import Tensor

__all__ = ["Tensor"]
