"""Matrix products of bytes for scoring, computed by ONNX Runtime.

numpy has no integer product that is faster than one of floats; the runtime has one (VNNI
or AMX on x86, dot products on ARM).  Integers have no rounding, so a product is exact or
wrong.  CPUs without VNNI add pairs of products in 16 bits, which overflow at the extremes.
There fewer digits are used; if even those give wrong products there is no integer product.

The runtime multiplies a lone query fast if its components are unsigned, count from zero, and
the rows stand side by side, component by component: about seven times as fast as rows that lie
one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Unsigned = NDArray[np.uint8]
Bytes = NDArray[np.int8]
Int32s = NDArray[np.int32]
Array = Unsigned | Bytes | Int32s

_DIGITS_MAX: Final = (127, 63)
"""63 cannot overflow: twice 127 x 127 is below 2^15."""
_BYTE_REACH: Final = 127
GRAPH_FILE: Final = "integer_product.onnx"
_LOG_ERRORS_ONLY: Final = 3


class IntegerProduct:
    """Multiplies bytes with digits up to ``digit_max``, exactly; one thread at a time.

    Attributes:
        digit_max: Greatest digit.
    """

    def __init__(self, session: Any, digit_max: int) -> None:
        self.digit_max = digit_max
        self._run = session.run_with_iobinding
        self._binding = session.io_binding()
        self._zero = np.int32(digit_max + 1)
        """Added to each digit to make it unsigned."""
        self._zero_of_lone = np.array(0, np.uint8)
        self._zero_of_many = np.array(self._zero, np.uint8)
        self._unsigned = np.empty(0, np.uint8)
        self._bound: dict[str, tuple[int, tuple[int, ...]]] = {}

    def __call__(self, digits: Bytes, blocks: Bytes, sums: Int32s, out: Int32s) -> None:
        """Write ``digits @ blocks``.

        Args:
            digits: int8[n, dim], from -``digit_max`` to ``digit_max``.
            blocks: int8[m, dim, width], from -127 to 127, contiguous.
            sums: Of ``blocks`` along its second axis, int32[m, width].
            out: int32[m, n, width], contiguous.
        """
        bind_input = self._binding.bind_input
        if digits.size > len(self._unsigned):
            self._unsigned = np.empty(digits.size, np.uint8)
        # A copy at a fixed address: binding an input anew costs more than copying it.
        own = self._unsigned[: digits.size].reshape(1, *digits.shape)
        np.add(digits, self._zero, out=own[0], dtype=np.int16, casting="unsafe")
        is_lone = len(digits) == 1
        self._bind("zero", self._zero_of_lone if is_lone else self._zero_of_many, bind_input)
        self._bind("queries", own, bind_input)
        self._bind("blocks", blocks, bind_input)
        self._bind("products", out, self._binding.bind_output)
        self._run(self._binding)
        if is_lone:
            # The runtime's fast product knows no zero point.
            own_out = out[:, 0]
            np.subtract(own_out, sums * self._zero, out=own_out)

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
        for count in (1, 2, 16, 33):
            signs = np.where(np.arange(count * dim) % 3 == 0, -1, 1)
            digits = (signs * product.digit_max).astype(np.int8).reshape(count, dim)
            # 255 x 127 twice exceeds 16 bits: CPUs that add pairs in 16 bits fail here.
            blocks = np.full((2, dim, 128), _BYTE_REACH, np.int8)
            blocks[:, :, ::3] = -_BYTE_REACH
            blocks[:, ::2, 1::3] = 0
            sums = blocks.sum(axis=1, dtype=np.int32)
            out = np.empty((len(blocks), count, blocks.shape[2]), np.int32)
            product(digits, blocks, sums, out)
            wanted = digits.astype(np.int32) @ blocks.astype(np.int32)
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
