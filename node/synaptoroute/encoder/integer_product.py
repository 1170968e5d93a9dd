"""Matrix products of bytes for scoring, computed by ONNX Runtime.

numpy has no integer product that is faster than one of floats; the runtime has one (VNNI
or AMX on x86, dot products on ARM).  Integers have no rounding, so a product is exact or
wrong.  CPUs without VNNI add pairs of products in 16 bits, which overflow at the extremes.
There fewer digits are used; if even those give wrong products there is no integer product.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Digits = NDArray[np.int8]
Int32s = NDArray[np.int32]
Array = Bytes | Digits | Int32s

_ZERO: Final = 128
_DIGITS_MAX: Final = (127, 63)
"""63 cannot overflow: twice 255 x 63 is below 2^15."""
GRAPH_FILE: Final = "integer_product.onnx"
_LOG_ERRORS_ONLY: Final = 3


class IntegerProduct:
    """Multiplies bytes with digits up to ``digit_max``, exactly; one thread at a time."""

    def __init__(self, session: Any, digit_max: int) -> None:
        self.digit_max = digit_max
        self._run = session.run_with_iobinding
        self._binding = session.io_binding()
        self._binding.bind_cpu_input("zero", np.array(_ZERO, np.uint8))
        self._digits = np.empty(0, np.int8)
        self._bound: dict[str, tuple[int, tuple[int, ...]]] = {}

    def __call__(self, rows: Bytes, columns: Digits, out: Int32s) -> None:
        """Write ``(rows - 128) @ columns``.

        Args:
            rows: uint8[n, dim], contiguous.
            columns: int8[dim, m], from -``digit_max`` to ``digit_max``.
            out: int32[n, m], contiguous.
        """
        if columns.size > len(self._digits):
            self._digits = np.empty(columns.size, np.int8)
        # A copy at a fixed address: binding an input anew costs more than copying it.
        own = self._digits[: columns.size].reshape(columns.shape)
        own[:] = columns
        self._bind("rows", rows, self._binding.bind_input)
        self._bind("columns", own, self._binding.bind_input)
        self._bind("products", out, self._binding.bind_output)
        self._run(self._binding)

    def _bind(self, name: str, array: Array, bind: Callable[..., None]) -> None:
        """Bind the memory of an array, unless it is bound already."""
        # The runtime keeps the bare address: the caller must keep the array alive.
        place = array.__array_interface__["data"][0], array.shape
        if self._bound.get(name) != place:
            bind(name, "cpu", 0, array.dtype.type, array.shape, place[0])
            self._bound[name] = place


def integer_product() -> IntegerProduct | None:
    """Open the product, for one thread; None if this machine has none that is exact."""
    for digit_max in _DIGITS_MAX:
        product = IntegerProduct(_session(), digit_max)
        if _is_exact(product):
            return product
    return None


def _is_exact(product: IntegerProduct) -> bool:
    """Multiply the extremes, where narrow sums overflow, in shapes of different kernels."""
    for dim in (33, 128, 384):
        for columns_count in (1, 2, 16, 33):
            signs = np.where(np.arange(dim * columns_count) % 3 == 0, -1, 1)
            columns = (signs * product.digit_max).astype(np.int8).reshape(dim, columns_count)
            # 255 x 127 twice exceeds 16 bits: CPUs that add pairs in 16 bits fail here.
            rows = np.full((35, dim), 255, np.uint8)
            rows[::3] = 1
            rows[1::3, ::2] = 0
            out = np.empty((len(rows), columns_count), np.int32)
            product(rows, columns, out)
            wanted = (rows.astype(np.int32) - _ZERO) @ columns.astype(np.int32)
            if not np.array_equal(wanted, out):
                return False
    return True


@cache
def _session() -> Any:
    """The session of the runtime; all products share it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    graph = (Path(__file__).parent / "data" / GRAPH_FILE).read_bytes()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
