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
    layer_biases,
    layer_normalisations,
)
from synaptoroute.encoder.onnx_wire import Graph, GraphWriter, read_graph
from synaptoroute.errors import ModelCorrupt

GRAPH_VERSION: Final = 1
"""Part of the fingerprint: raise it when the graph gives other numbers."""

STEPS: Final = 127
OUTPUT: Final = "hidden"
RUNTIME_DOMAIN: Final = "com.microsoft"

_OPSETS: Final = {"": 17, RUNTIME_DOMAIN: 1}
_IR_VERSION: Final = 9
_FLOAT: Final = 1


def int8_graph(content: bytes) -> bytes:
    """Rewrite the bundled model's graph.

    Inputs of the result, for n texts of t tokens in all: ``ids`` and ``positions``
    int64[t]; ``rows`` int64[n, width], which row stands at each place of a text;
    ``counts`` int32[n]; ``places`` int64[t], where in n * width each row stands.
    Output: ``hidden`` float32[t, dim].

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
        for name, value in (("one", np.float32(1)), ("step", np.float32(1 / STEPS))):
            graph.tensor(name, np.array(value))
        graph.tensor("zero", np.array(0, dtype=np.uint8))
        graph.tensor("last", np.array([-1], dtype=np.int64))
        graph.tensor("column", np.array([[1]], dtype=np.float32))
        hidden = self._embeddings()
        for layer in range(LAYERS):
            hidden = self._layer(layer, hidden)
        graph.input("ids", np.int64, ["t"])
        graph.input("positions", np.int64, ["t"])
        graph.input("rows", np.int64, ["n", "width"])
        graph.input("counts", np.int32, ["n"])
        graph.input("places", np.int64, ["t"])
        graph.output(OUTPUT, np.float32, ["t", self._dim])
        return graph_model(graph)

    def _embeddings(self) -> str:
        """Words stay int8 until they are looked up; a type and a position are one row."""
        graph = self._graph
        graph.tensor("flat", np.array([-1, self._dim], dtype=np.int64))
        graph.tensor("words", self._weights.words)
        graph.tensor("word_scales", self._weights.word_scales)
        graph.tensor("places_of_words", self._weights.places_of_words())
        graph.node("Shape", ["ids"], ["t"])
        graph.node("Concat", ["t", self._graph.tensor("single", np.array([1]))], ["t1"], axis=0)
        graph.node("Expand", ["column", "t1"], ["ones"])
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
        self._multiply(hidden, biases["attention"], own + "qkv")
        graph.node("Gather", [own + "qkv", "rows"], [own + "texts"])
        graph.node("Split", [own + "texts"], [own + part for part in "qkv"], axis=-1)
        graph.node(
            "MultiHeadAttention",
            [own + "q", own + "k", own + "v", "", "counts"],
            [own + "attended"],
            RUNTIME_DOMAIN,
            num_heads=HEADS,
        )
        graph.node("Reshape", [own + "attended", "flat"], [own + "places"])
        graph.node("Gather", [own + "places", "places"], [own + "attention"])
        self._multiply(own + "attention", biases["projection"], own + "projected")
        graph.node("Add", [own + "projected", hidden], [own + "sum"])
        middle = self._normalise(own + "sum", after_attention, own + "middle")
        self._multiply(middle, biases["wide"], own + "wide")
        graph.node("Gelu", [own + "wide"], [own + "gelu"], RUNTIME_DOMAIN)
        self._multiply(own + "gelu", biases["narrow"], own + "narrow")
        graph.node("Add", [own + "narrow", middle], [own + "total"])
        out = OUTPUT if layer == LAYERS - 1 else own + "out"
        return self._normalise(own + "total", at_end, out)

    def _multiply(self, rows: str, biases: list[str], out: str) -> None:
        """Multiply rows with the weights that the biases belong to, side by side.

        With x = low + step * q, x @ W = step * (q @ W) + low * (sum of W's rows); the
        last term and the bias are one product of two columns.
        """
        graph = self._graph
        product = self._weights.product(biases)
        self._quantise(rows)
        graph.node(
            "MatMulIntegerToFloat",
            [
                rows + "_q",
                graph.tensor(out + "_weights", product.numbers),
                "one",
                graph.tensor(out + "_scales", product.scales),
                "zero",
            ],
            [out + "_steps"],
            RUNTIME_DOMAIN,
        )
        graph.node("Mul", [out + "_steps", rows + "_step"], [out + "_scaled"])
        graph.node("Concat", [rows + "_low", "ones"], [out + "_ends"], axis=1)
        columns = graph.tensor(out + "_columns", np.stack([product.sums, product.bias]))
        graph.node("Gemm", [out + "_ends", columns, out + "_scaled"], [out])

    def _quantise(self, rows: str) -> None:
        """Lay each row on its own grid: ``_q`` uint8 in 0..127, ``_low`` and ``_step``.

        A row of equal values has step 0: its ``_q`` means nothing and counts nothing.
        """
        graph = self._graph
        for end, operator in (("_low", "ReduceMin"), ("_high", "ReduceMax")):
            graph.node(operator, [rows], [rows + end], axes=[-1], keepdims=1)
        graph.node("Sub", [rows + "_high", rows + "_low"], [rows + "_range"])
        graph.node("Mul", [rows + "_range", "step"], [rows + "_step"])
        graph.node("Squeeze", [rows + "_step", "last"], [rows + "_steps"])
        graph.node("Sub", [rows, rows + "_low"], [rows + "_above"])
        graph.node("QuantizeLinear", [rows + "_above", rows + "_steps"], [rows + "_q"], axis=0)

    def _normalise(self, rows: str, source: str, out: str) -> str:
        graph = self._graph
        gain = graph.tensor(out + "_gain", self._weights.floats(source + ".weight"))
        bias = graph.tensor(out + "_bias", self._weights.floats(source + ".bias"))
        graph.node("LayerNormalization", [rows, gain, bias], [out], axis=-1, epsilon=EPSILON)
        return out
