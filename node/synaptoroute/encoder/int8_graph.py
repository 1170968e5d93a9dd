"""The bundled model with integer matrix products, written anew from the same file.

Every product of activations and weights becomes: lay a grid over each token's
row, from its least to its greatest value in 127 steps; multiply the row's numbers
on that grid with the weights as integers; scale back by the row's step and the
column's scale; put back what the row's least value contributes.  The weights are
the int8 numbers of the file, unchanged.  Embeddings, normalisation, attention
scores and GELU stay float32.

Rule 1: a row's grid is its own, never the batch's, so a vector cannot depend on
its company.  Rule 2: no integer product may depend on the CPU.  AVX2 and AVX-512 without
VNNI add two products of an unsigned and a signed byte in 16 bits and saturate;
with activations of at most 127 the sum is at most 2 * 127 * 128 = 32,512 and
fits, and everything after it is exact in 32 bits.  (Unsigned weights would be
exact with eight bits too, but run off the fast path: half the speed, measured.)
Seven bits over the row's own range lose nearly nothing against eight bits that
are symmetric about zero, because a token's outliers lie on one side.
What stays float32 between the products differs in its last bits from one kind of
CPU to another, and a grid turns some of these bits into whole steps: on different
CPUs a text's vectors differ as much as two honest roundings do.
Rule 3: rows are packed.  The graph sees the tokens of all texts end to end, and
only attention lays them out by text, in widths that the caller derives from each
text alone.  So texts of unlike length share one product without padding it.
Two products need no least value of a row: what attention gives is even about zero, and
GELU has a least value of its own.

Source: the activations per token follow ZeroQuant (Yao et al., 2022).  The
operators are ONNX's and ONNX Runtime's own.
"""

from __future__ import annotations

from typing import Final

import numpy as np

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
from synaptoroute.encoder.onnx_wire import Graph, GraphWriter, read_graph
from synaptoroute.errors import ModelCorrupt

GRAPH_VERSION: Final = 2
"""Part of the fingerprint: raise it when the graph gives other numbers."""

STEPS: Final = 127
MIDDLE: Final = 64
MIDDLE_MAX: Final = STEPS - MIDDLE
"""Steps to either side of a grid that is even about zero."""

GELU_DEPTH: Final = 0.17
"""GELU is least at -0.75: -0.16997."""

SCORE_MAX: Final = 80.0
"""Scores of attention are cut here: e^80 for 512 places is finite.  Words give scores up
to 45; the greatest seen is 69, of one sign three hundred times."""

OUTPUT: Final = "hidden"
RUNTIME_DOMAIN: Final = "com.microsoft"

_OPSETS: Final = {"": 17, RUNTIME_DOMAIN: 1}
_IR_VERSION: Final = 9
_FLOAT: Final = 1
_PARTS: Final = ("queries", "keys", "values")


def int8_graph(content: bytes) -> bytes:
    """Rewrite the bundled model's graph.

    Inputs of the result, for n texts of t tokens in all: ``ids`` int64[t], and
    ``positions``, ``queries``, ``keys``, ``values``, ``mask`` and ``heads`` as
    ``packing.Packing`` has them.  Output: ``hidden`` float32[t, dim].

    Raises:
        ModelCorrupt: The file is not laid out as the bundled model is.
    """
    try:
        return _Int8Graph(read_graph(content)).write()
    except (KeyError, IndexError, ValueError) as error:
        raise ModelCorrupt(f"not the bundled model's graph: {error!r}") from error


def graph_model(graph: GraphWriter) -> bytes:
    """Close a graph of the operators used here."""
    return graph.model(_IR_VERSION, _OPSETS)


class _Int8Graph:
    """One rewriting; used once."""

    def __init__(self, source: Graph) -> None:
        self._weights = BundledWeights(source)
        self._graph = GraphWriter()
        self._dim = self._weights.dim

    def write(self) -> bytes:
        graph = self._graph
        self._constants()
        hidden = self._embeddings()
        for layer in range(LAYERS):
            hidden = self._layer(layer, hidden)
        graph.input("ids", np.int64, ["t"])
        graph.input("positions", np.int64, ["t"])
        for name in _PARTS:
            graph.input(name, np.int32, ["n", HEADS, "width"])
        graph.input("mask", np.float32, ["n", 1, 1, "width"])
        graph.input("heads", np.int32, ["t", HEADS])
        graph.output(OUTPUT, np.float32, ["t", self._dim])
        return graph_model(graph)

    def _constants(self) -> None:
        graph = self._graph
        for name, number in (
            ("one", 1),
            ("step", 1 / STEPS),
            ("half_step", 1 / MIDDLE_MAX),
            ("gelu_depth", GELU_DEPTH),
            ("score_min", -SCORE_MAX),
            ("score_max", SCORE_MAX),
        ):
            graph.tensor(name, np.array(number, dtype=np.float32))
        graph.tensor("zero", np.array(0, dtype=np.uint8))
        graph.tensor("middle", np.array(MIDDLE, dtype=np.uint8))
        graph.tensor("middle_row", np.array([MIDDLE], dtype=np.uint8))
        graph.tensor("last", np.array([-1], dtype=np.int64))
        graph.tensor("column", np.array([[1]], dtype=np.float32))
        graph.tensor("flat", np.array([-1, self._dim], dtype=np.int64))
        graph.tensor("by_head", np.array([-1, self._dim // HEADS], dtype=np.int64))

    def _embeddings(self) -> str:
        """Words stay int8 until they are looked up; a type and a position are one row."""
        graph = self._graph
        graph.tensor("words", self._weights.words)
        graph.tensor("word_scales", self._weights.word_scales)
        graph.tensor("places_of_words", self._weights.places_of_words())
        graph.node("Shape", ["ids"], ["t"])
        graph.node("Concat", ["t", self._graph.tensor("single", np.array([1]))], ["t1"], axis=0)
        graph.node("Expand", ["column", "t1"], ["ones"])
        graph.node("Expand", ["middle_row", "t"], ["middles"])
        graph.node("Gather", ["words", "ids"], ["word_steps"])
        graph.node("Cast", ["word_steps"], ["word_numbers"], to=_FLOAT)
        graph.node("Gather", ["word_scales", "ids"], ["word_scale"])
        graph.node("Mul", ["word_numbers", "word_scale"], ["word"])
        graph.node("Gather", ["places_of_words", "positions"], ["position"])
        graph.node("Add", ["word", "position"], ["embedding"])
        return self._normalise("embedding", EMBEDDINGS + "LayerNorm", "embedded")

    def _layer(self, layer: int, hidden: str) -> str:
        graph, own, biases = self._graph, f"layer{layer}_", layer_biases(layer)
        after_attention, at_end = layer_normalisations(layer)
        self._lay_between_ends(hidden)
        product = self._weights.product(biases["attention"]).scaled_queries(self._dim // HEADS)
        self._multiply_between_ends(hidden, product, own + "qkv")
        attended = self._attend(own)
        projected = self._project(attended, biases["projection"], own + "projected")
        graph.node("Add", [projected, hidden], [own + "sum"])
        middle = self._normalise(own + "sum", after_attention, own + "middle")
        self._lay_between_ends(middle)
        self._multiply_between_ends(middle, self._weights.product(biases["wide"]), own + "wide")
        graph.node("Gelu", [own + "wide"], [own + "gelu"], RUNTIME_DOMAIN)
        narrow = self._narrow(own + "gelu", biases["narrow"], own + "narrow")
        graph.node("Add", [narrow, middle], [own + "total"])
        out = OUTPUT if layer == LAYERS - 1 else own + "out"
        return self._normalise(own + "total", at_end, out)

    def _attend(self, own: str) -> str:
        """Let the rows ``qkv`` of each text look at each other, head by head: ``[t, dim]``.

        Softmax is written out: no greatest score is sought first, for the exponential of
        a score within ``SCORE_MAX`` cannot overflow, and what is masked weighs exactly 0.
        """
        graph = self._graph
        graph.node("Reshape", [own + "qkv", "by_head"], [own + "rows"])
        for name in _PARTS:
            graph.node("Gather", [own + "rows", name], [own + name])
        scores = [own + "queries", own + "keys"]
        graph.node("FusedMatMul", scores, [own + "scores"], RUNTIME_DOMAIN, transB=1)
        graph.node("Clip", [own + "scores", "score_min", "score_max"], [own + "cut"])
        graph.node("Exp", [own + "cut"], [own + "grown"])
        graph.node("Mul", [own + "grown", "mask"], [own + "weights"])
        graph.node("ReduceSum", [own + "weights", "last"], [own + "sum_of_weights"], keepdims=1)
        graph.node("Div", [own + "weights", own + "sum_of_weights"], [own + "shares"])
        graph.node("MatMul", [own + "shares", own + "values"], [own + "attended"])
        graph.node("Reshape", [own + "attended", "by_head"], [own + "places"])
        graph.node("Gather", [own + "places", "heads"], [own + "heads"])
        graph.node("Reshape", [own + "heads", "flat"], [own + "attention"])
        return own + "attention"

    def _project(self, rows: str, biases: list[str], out: str) -> str:
        """Multiply rows that are even about zero: their grid is too, and needs no low end."""
        graph, product = self._graph, self._weights.product(biases)
        graph.node("Abs", [rows], [rows + "_size"])
        graph.node("ReduceMax", [rows + "_size"], [rows + "_range"], axes=[-1], keepdims=1)
        self._lay(rows, rows, "half_step", "middles")
        self._multiply(rows, product, out + "_scaled", "middle")
        graph.node("Add", [out + "_scaled", graph.tensor(out + "_bias", product.bias)], [out])
        return out

    def _narrow(self, rows: str, biases: list[str], out: str) -> str:
        """Multiply what GELU gave: its low end is that of GELU itself, in every row."""
        graph, product = self._graph, self._weights.product(biases)
        graph.node("ReduceMax", [rows], [rows + "_high"], axes=[-1], keepdims=1)
        graph.node("Add", [rows + "_high", "gelu_depth"], [rows + "_range"])
        graph.node("Add", [rows, "gelu_depth"], [rows + "_above"])
        self._lay(rows, rows + "_above", "step")
        self._multiply(rows, product, out + "_scaled", "zero")
        bias = graph.tensor(out + "_bias", product.bias - np.float32(GELU_DEPTH) * product.sums)
        graph.node("Add", [out + "_scaled", bias], [out])
        return out

    def _lay_between_ends(self, rows: str) -> None:
        """Lay each row on a grid from its least to its greatest value.

        A row of equal values has step 0: its ``_q`` means nothing and counts nothing.
        """
        graph = self._graph
        for end, operator in (("_low", "ReduceMin"), ("_high", "ReduceMax")):
            graph.node(operator, [rows], [rows + end], axes=[-1], keepdims=1)
        graph.node("Sub", [rows + "_high", rows + "_low"], [rows + "_range"])
        graph.node("Sub", [rows, rows + "_low"], [rows + "_above"])
        self._lay(rows, rows + "_above", "step")

    def _lay(self, rows: str, values: str, share: str, zeros: str | None = None) -> None:
        """Round ``values`` to a grid whose step is a share of each row's ``_range``."""
        graph = self._graph
        graph.node("Mul", [rows + "_range", share], [rows + "_step"])
        graph.node("Squeeze", [rows + "_step", "last"], [rows + "_steps"])
        grid = [values, rows + "_steps", *([zeros] if zeros else [])]
        graph.node("QuantizeLinear", grid, [rows + "_q"], axis=0)

    def _multiply_between_ends(self, rows: str, product: Product, out: str) -> None:
        """Multiply rows with the weights.

        With x = low + step * q, x @ W = step * (q @ W) + low * (sum of W's rows); the
        last term and the bias are one product of two columns.
        """
        graph = self._graph
        self._multiply(rows, product, out + "_scaled", "zero")
        graph.node("Concat", [rows + "_low", "ones"], [out + "_ends"], axis=1)
        columns = graph.tensor(out + "_columns", np.stack([product.sums, product.bias]))
        graph.node("Gemm", [out + "_ends", columns, out + "_scaled"], [out])

    def _multiply(self, rows: str, product: Product, out: str, zero: str) -> None:
        """Multiply the numbers on the grid, and scale back by column and by row."""
        graph = self._graph
        weights = graph.tensor(out + "_weights", product.numbers)
        scales = graph.tensor(out + "_scales", product.scales)
        names = [rows + "_q", weights, "one", scales, zero]
        graph.node("MatMulIntegerToFloat", names, [out + "_steps"], RUNTIME_DOMAIN)
        graph.node("Mul", [out + "_steps", rows + "_step"], [out])

    def _normalise(self, rows: str, source: str, out: str) -> str:
        graph = self._graph
        gain = graph.tensor(out + "_gain", self._weights.floats(source + ".weight"))
        bias = graph.tensor(out + "_bias", self._weights.floats(source + ".bias"))
        graph.node("LayerNormalization", [rows, gain, bias], [out], axis=-1, epsilon=EPSILON)
        return out
