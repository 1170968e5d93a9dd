"""The bundled model's graph, written anew for OpenVINO: integer products, one grid a token.

OpenVINO quantises activations by ranges that are fixed when the graph is compiled.
Here each token's row is first laid on its own grid of 256 steps; the fixed range of
the quantisation is then just that, and rounds.  So the runtime may multiply in int8
(AMX, VNNI) although the ranges are the row's own, and a row never sees another.
With a bit more than ``int8_graph`` has, a grid may be even about zero.

As in ``int8_graph`` the tokens of all texts stand end to end, and attention lays
them out by text, in widths that come from each text alone.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder.bundled_weights import (
    EMBEDDINGS,
    EPSILON,
    HEADS,
    LAYERS,
    BundledWeights,
    Product,
    layer_biases,
    layer_normalisations,
)
from synaptoroute.encoder.int8_graph import GELU_DEPTH, SCORE_MAX
from synaptoroute.encoder.onnx_wire import read_graph
from synaptoroute.errors import ModelCorrupt

OPENVINO_GRAPH_VERSION: Final = 2
"""Part of the fingerprint: raise it when the graph gives other numbers."""

STEPS: Final = 255
LEAST: Final = -128
MIDDLE_MAX: Final = 127
"""Steps to either side of a grid that is even about zero."""

WIDTHS: Final = 2
"""Groups of texts of one width each that share a run."""

RANGE_MIN: Final = 1e-30
"""A row of equal values gets this range, and counts nothing."""


def openvino_graph(content: bytes) -> Any:
    """Rewrite the bundled model's graph.

    Inputs of the result, for n texts of t tokens in all, in this order: ids int64[t],
    positions, then queries, keys, values and mask of each of ``WIDTHS`` groups, and
    heads, as ``packing.Packing`` has them.  Output: float32[t, dim].

    Returns:
        An ``openvino.Model``.

    Raises:
        ModelCorrupt: The file is not laid out as the bundled model is.
    """
    try:
        return _OpenVinoGraph(BundledWeights(read_graph(content))).write()
    except (KeyError, IndexError, ValueError) as error:
        raise ModelCorrupt(f"not the bundled model's graph: {error!r}") from error


def product_graph(weights: NDArray[np.int8], least: int) -> Any:
    """A graph of one product, as ``openvino_graph`` has it: float32[t, depth] in whole steps."""
    from openvino import opset13 as ops

    rows = ops.parameter([-1, weights.shape[0]], np.float32, "rows")
    scales = np.ones(weights.shape[1], np.float32)
    product = multiply_steps(ops, rows, weights, scales, least)
    return _model([product], [rows], "product")


def _model(results: list[Any], parameters: list[Any], name: str) -> Any:
    """Close a graph; typed loosely, for the package's own stubs contradict each other."""
    import openvino

    make: Any = openvino.Model
    return make(results, parameters, name)


def multiply_steps(
    ops: Any, rows: Any, weights: NDArray[np.int8], scales: NDArray[np.float32], least: int
) -> Any:
    """Round rows to 256 whole numbers and multiply them: what becomes an integer product.

    Args:
        ops: OpenVINO's operators.
        rows: float32[t, depth].
        weights: int8[depth, width].
        scales: float32[width], one a column.
        least: 0, or -128 for grids that are even about zero.
    """
    low, high = ops.constant(np.float32(least)), ops.constant(np.float32(least + STEPS))
    steps = ops.fake_quantize(rows, low, high, low, high, STEPS + 1)
    numbers = ops.convert(ops.constant(np.ascontiguousarray(weights.T)), "f32")
    columns = ops.multiply(numbers, ops.constant(scales[:, None]))
    return ops.matmul(steps, columns, False, True)


class _OpenVinoGraph:
    """One rewriting; used once."""

    def __init__(self, weights: BundledWeights) -> None:
        from openvino import opset13

        self._ops: Any = opset13
        self._weights = weights
        self._first = self._integers(0)
        self._last = self._integers([-1])

    def write(self) -> Any:
        ops = self._ops
        ids, positions = (ops.parameter([-1], np.int64, name) for name in ("ids", "positions"))
        groups = [self._group(f"_{index}" if index else "") for index in range(WIDTHS)]
        heads = ops.parameter([-1, HEADS], np.int32, "heads")
        hidden = self._embeddings(ids, positions)
        for layer in range(LAYERS):
            hidden = self._layer(layer, hidden, groups, heads)
        inputs = [each for group in groups for each in group]
        return _model([hidden], [ids, positions, *inputs, heads], "packed")

    def _group(self, suffix: str) -> list[Any]:
        """Declare queries, keys, values and mask of the texts of one width."""
        ops = self._ops
        parts = [
            ops.parameter([-1, HEADS, -1], np.int32, name + suffix)
            for name in ("queries", "keys", "values")
        ]
        return [*parts, ops.parameter([-1, 1, 1, -1], np.float32, "mask" + suffix)]

    def _embeddings(self, ids: Any, positions: Any) -> Any:
        """Words stay int8 until they are looked up."""
        ops, weights = self._ops, self._weights
        numbers = ops.convert(ops.gather(ops.constant(weights.words), ids, self._first), "f32")
        scales = ops.constant(weights.word_scales.reshape(-1, 1))
        words = ops.multiply(numbers, ops.gather(scales, ids, self._first))
        places = ops.gather(ops.constant(weights.places_of_words()), positions, self._first)
        return self._normalise(ops.add(words, places), EMBEDDINGS + "LayerNorm")

    def _layer(self, layer: int, hidden: Any, groups: list[list[Any]], heads: Any) -> Any:
        ops, biases, product = self._ops, layer_biases(layer), self._weights.product
        after_attention, at_end = layer_normalisations(layer)
        head_dim = self._weights.dim // HEADS
        attention = product(biases["attention"]).scaled_queries(head_dim)
        rows = ops.reshape(self._multiply(hidden, attention), self._integers([-1, head_dim]), False)
        by_width = []
        for *parts, mask in groups:
            attended = self._attend([ops.gather(rows, part, self._first) for part in parts], mask)
            by_width.append(ops.reshape(attended, self._integers([-1, head_dim]), False))
        attended = ops.gather(ops.concat(by_width, 0), heads, self._first)
        attended = ops.reshape(attended, self._integers([-1, self._weights.dim]), False)
        middle = ops.add(self._multiply(attended, product(biases["projection"])), hidden)
        middle = self._normalise(middle, after_attention)
        wide = ops.gelu(self._multiply(middle, product(biases["wide"])), "erf")
        narrow = self._narrow(wide, product(biases["narrow"]))
        return self._normalise(ops.add(narrow, middle), at_end)

    def _attend(self, parts: list[Any], mask: Any) -> Any:
        """Let float32[n, heads, width, head_dim] look at itself; softmax as in ``int8_graph``."""
        ops = self._ops
        queries, keys, values = parts
        scores = ops.clamp(ops.matmul(queries, keys, False, True), -SCORE_MAX, SCORE_MAX)
        weights = ops.multiply(ops.exp(scores), mask)
        shares = ops.divide(weights, ops.reduce_sum(weights, self._last, True))
        return ops.matmul(shares, values, False, False)

    def _multiply(self, rows: Any, product: Product) -> Any:
        """Multiply rows with the weights, each on a grid that is even about zero."""
        ops = self._ops
        high = ops.reduce_max(rows, self._last, True)
        low = ops.negative(ops.reduce_min(rows, self._last, True))
        step = self._step(ops.maximum(high, low), MIDDLE_MAX)
        steps = ops.divide(rows, step)
        found = multiply_steps(ops, steps, product.numbers, product.scales, LEAST)
        return ops.add(ops.multiply(found, step), ops.constant(product.bias))

    def _narrow(self, rows: Any, product: Product) -> Any:
        """Multiply what GELU gave, on grids that start at the least value that it has.

        With x = low + step * q, x @ W = step * (q @ W) + low * (sum of W's rows).
        """
        ops = self._ops
        depth = ops.constant(np.float32(GELU_DEPTH))
        step = self._step(ops.add(ops.reduce_max(rows, self._last, True), depth), STEPS)
        steps = ops.divide(ops.add(rows, depth), step)
        found = multiply_steps(ops, steps, product.numbers, product.scales, 0)
        bias = product.bias - np.float32(GELU_DEPTH) * product.sums
        return ops.add(ops.multiply(found, step), ops.constant(bias))

    def _step(self, width: Any, steps: int) -> Any:
        ops = self._ops
        width = ops.maximum(width, ops.constant(np.float32(RANGE_MIN)))
        return ops.multiply(width, ops.constant(np.float32(1 / steps)))

    def _normalise(self, rows: Any, source: str) -> Any:
        ops = self._ops
        unit = ops.mvn(rows, self._last, True, EPSILON, "inside_sqrt")
        gain = ops.constant(self._weights.floats(source + ".weight"))
        return ops.add(
            ops.multiply(unit, gain), ops.constant(self._weights.floats(source + ".bias"))
        )

    def _integers(self, value: Any) -> Any:
        return self._ops.constant(np.array(value, dtype=np.int64))
