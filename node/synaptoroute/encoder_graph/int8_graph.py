"""Authors the int8 graph of the bundled model from the model's file.

Every product of activations and weights becomes: lay a grid of 127 steps over each
token's row, from its least to its greatest value; multiply the row's integers on that grid
with the weights as integers; scale back by the row's step and the column's scale; add what
the row's least value contributes.  The weights are the int8 values of the file, unchanged.
Embeddings, normalisation, attention scores and GELU stay float32.

Invariance: the grid of a row is its own, never the batch's, so a vector does not depend on
the other texts of its batch.

Exactness: no integer product may depend on the CPU.  AVX2 and AVX-512 without VNNI add two
products of an unsigned and a signed byte in 16 bits and saturate.  With activations of at
most 127 the sum is at most 2 * 127 * 128 = 32,512 and fits, and everything after it is
exact in 32 bits.  (Unsigned weights would be exact with eight bits too, but leave the fast
path: half the speed, measured.)  Seven bits over the row's own range lose almost nothing
against eight bits that are symmetric about zero, because a token's outliers lie on one
side.  What stays float32 between the products differs in its last bits from one kind of
CPU to another, and a grid turns some of these bits into whole steps: on different CPUs the
vectors of a text differ as much as two correct roundings do.

Packing: the graph sees the tokens of all texts end to end, and only attention lays them
out by text; see ``encoder.packed_session``.

Two products do not need the least value of a row: the output of attention is symmetric
about zero, and GELU has a least value of its own.

Source: the activations per token follow ZeroQuant (Yao et al., 2022).  The operators are
ONNX's and ONNX Runtime's own.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder.packed_session import HEADS, MIDDLE, STEPS
from synaptoroute.encoder_graph.onnx_file import Graph, Node, read_graph
from synaptoroute.encoder_graph.packed_graph import PackedGraph
from synaptoroute.encoder_graph.weights import (
    RUNTIME_DOMAIN,
    Activation,
    Floats,
    Layer,
    Norm,
    Product,
    Weights,
)
from synaptoroute.errors import ModelCorrupt

MIDDLE_MAX: Final = STEPS - MIDDLE
"""Steps to either side of zero, on a grid that is symmetric about it."""
GELU_DEPTH: Final = 0.17
"""GELU has its least value at -0.75: -0.16997."""
_DEPTHS: Final[dict[Activation, float]] = {"gelu": GELU_DEPTH, "gelu_tanh": 0.1701, "relu": 0.0}

SCORE_MAX: Final = 80.0
"""Attention scores are clipped to this: 512 times e^80 is finite in float32.  Words give
scores up to 45; the greatest seen is 69, of one sign repeated three hundred times."""
_FLOAT: Final = 1

LAYERS: Final = 6
EPSILON: Final = 1e-12
EMBEDDINGS: Final = "inner.embeddings."


class BundledWeights:
    """Tensors of the bundled model's file, by the names that the exporter gave them.

    Every method raises KeyError, IndexError or ValueError if the graph is not the
    bundled model's.
    """

    def __init__(self, source: Graph) -> None:
        self._tensors = source.tensors
        self._producers = {name: node for node in source.nodes for name in node.outputs}
        self._consumers: dict[str, Node] = {}
        for node in source.nodes:
            for name in node.inputs:
                self._consumers.setdefault(name, node)
        self.words = self._tensors[EMBEDDINGS + "word_embeddings.weight_q"]
        self.word_scales = self._tensors[EMBEDDINGS + "word_embeddings.weight_scale"]
        self.dim = int(self.words.shape[1])

    def places_of_words(self) -> Floats:
        """float32[positions, dim]: each position plus the only token type."""
        positions = self._tensors[EMBEDDINGS + "position_embeddings.weight_q"]
        scales = self.floats(EMBEDDINGS + "position_embeddings.weight_scale")
        types = self.floats(EMBEDDINGS + "token_type_embeddings.weight")
        places: Floats = positions.astype(np.float32) * scales + types[0]
        return places

    def product(self, biases: list[str]) -> Product:
        """The products that these biases are added to, side by side as one."""
        found = [self._weights(bias) for bias in biases]
        numbers = np.concatenate([each for each, _ in found], axis=1)
        scales = np.concatenate([each for _, each in found])
        # Exact in int64, then rounded once: the same on every machine.
        sums = numbers.sum(axis=0, dtype=np.int64) * scales.astype(np.float64)
        bias = np.concatenate([self.floats(name) for name in biases])
        return Product(numbers, scales, sums.astype(np.float32), bias)

    def floats(self, name: str) -> Floats:
        tensor = self._tensors[name]
        if tensor.dtype != np.float32:
            raise ValueError(f"{name} is not float32")
        return tensor.view(np.float32)

    def _weights(self, bias: str) -> tuple[NDArray[np.int8], Floats]:
        """Find integers and column scales of the product that a bias is added to."""
        (product,) = (name for name in self._consumers[bias].inputs if name != bias)
        name = self._producers[product].inputs[1]
        numbers = self._tensors[name + "_q"]
        if numbers.dtype != np.int8:
            raise ValueError(f"{name} is not int8")
        return numbers.view(np.int8), self.floats(name + "_scale").reshape(-1)

    def norm(self, source: str) -> Norm:
        """Normalisation by the exporter's name of it."""
        return Norm(self.floats(source + ".weight"), self.floats(source + ".bias"), EPSILON)

    def layer(self, index: int) -> Layer[Product]:
        biases, norms = layer_biases(index), layer_normalisations(index)
        attention, projection, wide, narrow = (self.product(names) for names in biases.values())
        scaled = attention.scaled_queries(self.dim // HEADS)
        return Layer(scaled, projection, wide, narrow, *map(self.norm, norms))

    def read(self) -> Weights[Product]:
        return Weights(
            self.words.view(np.int8),
            self.floats(EMBEDDINGS + "word_embeddings.weight_scale"),
            self.places_of_words(),
            self.norm(EMBEDDINGS + "LayerNorm"),
            [self.layer(index) for index in range(LAYERS)],
            HEADS,
            "gelu",
            score_max=SCORE_MAX,
        )


def layer_biases(layer: int) -> dict[str, list[str]]:
    """Names of the biases of a layer's products, by the purpose of the product."""
    source = f"inner.encoder.layer.{layer}."
    return {
        "attention": [source + f"attention.self.{part}.bias" for part in ("query", "key", "value")],
        "projection": [source + "attention.output.dense.bias"],
        "wide": [source + "intermediate.dense.bias"],
        "narrow": [source + "output.dense.bias"],
    }


def layer_normalisations(layer: int) -> tuple[str, str]:
    """Names of a layer's two normalisations: after attention, and at the end."""
    source = f"inner.encoder.layer.{layer}."
    return source + "attention.output.LayerNorm", source + "output.LayerNorm"


def bundled_weights(source: Graph) -> Weights[Product]:
    """Read the bundled model.

    Raises:
        ModelCorrupt: It is another one.
    """
    try:
        return BundledWeights(source).read()
    except (KeyError, IndexError, ValueError) as error:
        raise ModelCorrupt(f"not the bundled model's graph: {error!r}") from error


def int8_graph(content: bytes) -> bytes:
    """Write the int8 graph of the bundled model's file."""
    return Int8Graph(bundled_weights(read_graph(content))).write()


class Int8Graph(PackedGraph[Product]):
    """Multiplies integers; used once."""

    def __init__(self, weights: Weights[Product]) -> None:
        super().__init__(weights)
        self._depth = _DEPTHS[weights.activation]

    def _constants(self) -> None:
        graph = self.writer
        for name, number in (
            ("one", 1),
            ("step", 1 / STEPS),
            ("half_step", 1 / MIDDLE_MAX),
            ("gelu_depth", self._depth),
        ):
            graph.tensor(name, np.array(number, dtype=np.float32))
        graph.tensor("zero", np.array(0, dtype=np.uint8))
        graph.tensor("middle", np.array(MIDDLE, dtype=np.uint8))
        graph.tensor("middle_row", np.array([MIDDLE], dtype=np.uint8))
        graph.tensor("column", np.array([[1]], dtype=np.float32))
        super()._constants()

    def _words(self) -> str:
        """Words stay int8 until they are looked up."""
        graph, scales = self.writer, self._weights.word_scales
        assert scales is not None, "integer words have scales"
        graph.tensor("words", self._weights.words)
        graph.tensor("word_scales", scales)
        graph.node("Shape", ["ids"], ["t"])
        graph.node("Concat", ["t", self.writer.tensor("single", np.array([1]))], ["t1"], axis=0)
        graph.node("Expand", ["column", "t1"], ["ones"])
        graph.node("Expand", ["middle_row", "t"], ["middles"])
        graph.node("Gather", ["words", "ids"], ["word_steps"])
        graph.node("Cast", ["word_steps"], ["word_numbers"], to=_FLOAT)
        graph.node("Gather", ["word_scales", "ids"], ["word_scale"])
        graph.node("Mul", ["word_numbers", "word_scale"], ["word"])
        return "word"

    def _attention_rows(self, hidden: str, layer: Layer[Product], own: str) -> None:
        self._lay_between_ends(hidden)
        self._multiply_between_ends(hidden, layer.attention, own + "qkv")

    def _project(self, rows: str, product: Product, residual: str, own: str) -> str:
        """Multiply rows that are symmetric about zero: so is their grid, without a low end."""
        graph, out = self.writer, own + "projected"
        graph.node("Abs", [rows], [rows + "_size"])
        self._reduce("ReduceMax", rows + "_size", rows + "_range")
        # Its zero is ``MIDDLE``, the same for every row, so QuantizeLinear and the product
        # take it as zero point.
        self._lay(rows, rows, "half_step", "middles")
        self._multiply(rows, product, out + "_scaled", "middle")
        graph.node("Add", [out + "_scaled", graph.tensor(out + "_bias", product.bias)], [out])
        graph.node("Add", [out, residual], [own + "sum"])
        return own + "sum"

    def _widen(self, rows: str, product: Product, out: str) -> None:
        self._lay_between_ends(rows)
        self._multiply_between_ends(rows, product, out)

    def _narrow(self, rows: str, product: Product, residual: str, own: str) -> str:
        """Multiply the output of GELU: the low end is that of GELU itself, in every row."""
        graph, out = self.writer, own + "narrow"
        self._reduce("ReduceMax", rows, rows + "_high")
        graph.node("Add", [rows + "_high", "gelu_depth"], [rows + "_range"])
        graph.node("Add", [rows, "gelu_depth"], [rows + "_above"])
        self._lay(rows, rows + "_above", "step")
        self._multiply(rows, product, out + "_scaled", "zero")
        # The least value is a constant here, so its share of the product goes to the bias.
        bias = graph.tensor(out + "_bias", product.bias - np.float32(self._depth) * product.sums)
        graph.node("Add", [out + "_scaled", bias], [out])
        graph.node("Add", [out, residual], [own + "total"])
        return own + "total"

    def _lay_between_ends(self, rows: str) -> None:
        """Lay each row on a grid from its least to its greatest value."""
        # A row of equal values has step 0: its ``_q`` is undefined, and multiplied by 0.
        graph = self.writer
        self._reduce("ReduceMin", rows, rows + "_low")
        self._reduce("ReduceMax", rows, rows + "_high")
        graph.node("Sub", [rows + "_high", rows + "_low"], [rows + "_range"])
        graph.node("Sub", [rows, rows + "_low"], [rows + "_above"])
        self._lay(rows, rows + "_above", "step")

    def _lay(self, rows: str, values: str, share: str, zeros: str | None = None) -> None:
        """Round ``values`` to a grid whose step is a share of each row's ``_range``."""
        graph = self.writer
        graph.node("Mul", [rows + "_range", share], [rows + "_step"])
        graph.node("Squeeze", [rows + "_step", "last"], [rows + "_steps"])
        grid = [values, rows + "_steps", *([zeros] if zeros else [])]
        graph.node("QuantizeLinear", grid, [rows + "_q"], axis=0)

    def _multiply_between_ends(self, rows: str, product: Product, out: str) -> None:
        """Multiply rows with the weights.

        With x = low + step * q, x @ W = step * (q @ W) + low * (sum of W's rows).  The
        last term and the bias are one product of two columns.
        """
        graph = self.writer
        self._multiply(rows, product, out + "_scaled", "zero")
        graph.node("Concat", [rows + "_low", "ones"], [out + "_ends"], axis=1)
        columns = graph.tensor(out + "_columns", np.stack([product.sums, product.bias]))
        graph.node("Gemm", [out + "_ends", columns, out + "_scaled"], [out])

    def _multiply(self, rows: str, product: Product, out: str, zero: str) -> None:
        """Multiply the integers on the grid, and scale back by column and by row."""
        graph = self.writer
        weights = graph.tensor(out + "_weights", product.numbers)
        scales = graph.tensor(out + "_scales", product.scales)
        # Activations are uint8 of at most 127 and weights int8: the order of the arguments
        # decides which kernel runs, and only this one is both exact and fast.
        names = [rows + "_q", weights, "one", scales, zero]
        graph.node("MatMulIntegerToFloat", names, [out + "_steps"], RUNTIME_DOMAIN)
        graph.node("Mul", [out + "_steps", rows + "_step"], [out])
