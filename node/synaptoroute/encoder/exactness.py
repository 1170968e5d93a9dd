"""Does this CPU multiply bytes exactly, as the int8 graph needs it?

Activations go up to 127 and weights from -128 to 127; the extremes of both are
multiplied by the operator that the graph uses, in shapes that meet its different
kernels, and compared with whole numbers.
"""

from __future__ import annotations

from itertools import product
from typing import Final

import numpy as np

from synaptoroute.encoder.int8_graph import MIDDLE, RUNTIME_DOMAIN, STEPS, graph_model
from synaptoroute.encoder.onnx_wire import GraphWriter
from synaptoroute.encoder.session import open_session, run_session
from synaptoroute.errors import EncoderError

_DEPTHS: Final = (384, 1536)
_ROWS: Final = (1, 2, 7, 40)
_COLUMNS: Final = 48


def check_exactness() -> None:
    """Multiply the extremes.

    Raises:
        EncoderError: A product is wrong on this CPU.
    """
    for depth in _DEPTHS:
        weights = _extremes(depth)
        session = open_session(_product_graph(weights), "product", ["CPUExecutionProvider"])
        for count, zero in product(_ROWS, (0, MIDDLE)):
            rows = np.full((count, depth), STEPS, dtype=np.uint8)
            rows[1::3, ::2] = 0
            expected = (rows.astype(np.int64) - zero) @ weights.astype(np.int64)
            feeds = {"rows": rows, "zero": np.array(zero, dtype=np.uint8)}
            found = run_session(session, "products", feeds)
            if not np.array_equal(expected, found):
                raise EncoderError(
                    "this CPU or runtime multiplies bytes wrongly: use precision float32",
                    depth=depth,
                    rows=count,
                )


def _extremes(depth: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    """Columns of the least, of the greatest, and of both by turns."""
    weights = np.full((depth, _COLUMNS), 127, dtype=np.int8)
    weights[:, 1::3] = -128
    weights[1::2, 2::3] = -127
    return weights


def _product_graph(weights: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> bytes:
    graph = GraphWriter()
    graph.tensor("one", np.array(1, dtype=np.float32))
    graph.tensor("weights", weights)
    graph.tensor("ones", np.ones(weights.shape[1], dtype=np.float32))
    graph.node(
        "MatMulIntegerToFloat",
        ["rows", "weights", "one", "ones", "zero"],
        ["products"],
        RUNTIME_DOMAIN,
    )
    graph.input("rows", np.uint8, ["n", weights.shape[0]])
    graph.input("zero", np.uint8, [])
    graph.output("products", np.float32, ["n", weights.shape[1]])
    return graph_model(graph)
