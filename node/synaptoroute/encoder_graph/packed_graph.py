"""Writes graphs that run the tokens of all texts end to end, without padding.

What every packed graph shares is here: embeddings, attention, normalisation and the order
of a layer.  How rows are multiplied with weights is left to ``Float32Graph`` and to
``int8_graph.Int8Graph``.

Inputs of a graph, for n texts of t tokens in all: ``ids`` int64[t], and ``positions``,
``queries``, ``keys``, ``values``, ``mask`` and ``heads`` as in ``Packing``.  Output:
``hidden`` float32[t, dim].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Generic

import numpy as np

from synaptoroute.encoder.packed_session import OUTPUT, width_of
from synaptoroute.encoder_graph.onnx_file import AttributeValue, GraphWriter
from synaptoroute.encoder_graph.weights import (
    RUNTIME_DOMAIN,
    Activation,
    Floats,
    Layer,
    Linear,
    Norm,
    T,
    Weights,
    graph_model,
)

PLACES: Final = "places_of_words"
"""Name of the tensor with the positions."""
_PARTS: Final = ("queries", "keys", "values")
_ACTIVATIONS: Final[dict[Activation, tuple[str, str]]] = {
    "gelu": ("Gelu", RUNTIME_DOMAIN),
    "gelu_tanh": ("FastGelu", RUNTIME_DOMAIN),
    "relu": ("Relu", ""),
}


class PackedGraph(ABC, Generic[T]):
    """Writes one graph; used once."""

    def __init__(self, weights: Weights[T]) -> None:
        self._weights = weights
        self.writer = GraphWriter()
        self._dim = weights.dim

    def write(self) -> bytes:
        graph, weights = self.writer, self._weights
        self._constants()
        hidden = self._embeddings()
        for index, layer in enumerate(weights.layers):
            hidden = self._layer(index, layer, hidden)
        graph.input("ids", np.int64, ["t"])
        graph.input("positions", np.int64, ["t"])
        for name in _PARTS:
            graph.input(name, np.int32, ["n", weights.heads, "width"])
        graph.input("mask", np.float32, ["n", 1, 1, "width"])
        graph.input("heads", np.int32, ["t", weights.heads])
        graph.output(OUTPUT, np.float32, ["t", self._dim])
        return graph_model(graph)

    # --- how rows are multiplied ---

    @abstractmethod
    def _words(self) -> str:
        """Look up the rows of ``ids``; returns the name of float32[t, dim]."""

    @abstractmethod
    def _attention_rows(self, hidden: str, layer: Layer[T], own: str) -> None:
        """Write ``qkv``: queries, keys and values of each row."""

    @abstractmethod
    def _project(self, rows: str, product: T, out: str) -> str:
        """Multiply what attention returns."""

    @abstractmethod
    def _widen(self, rows: str, product: T, out: str) -> None:
        """Multiply the rows that the feed-forward network takes."""

    @abstractmethod
    def _narrow(self, rows: str, product: T, out: str) -> str:
        """Multiply what the activation returns."""

    # --- what all graphs share ---

    def _constants(self) -> None:
        graph, head_dim = self.writer, self._dim // self._weights.heads
        if self._weights.score_max is not None:
            graph.tensor("score_min", np.array(-self._weights.score_max, dtype=np.float32))
            graph.tensor("score_max", np.array(self._weights.score_max, dtype=np.float32))
        graph.tensor("last", np.array([-1], dtype=np.int64))
        graph.tensor("flat", np.array([-1, self._dim], dtype=np.int64))
        graph.tensor("by_head", np.array([-1, head_dim], dtype=np.int64))

    def _embeddings(self) -> str:
        """Type and position are one row."""
        graph = self.writer
        word = self._words()
        graph.tensor(PLACES, self._weights.places)
        graph.node("Gather", [PLACES, "positions"], ["position"])
        graph.node("Add", [word, "position"], ["embedding"])
        if self._weights.relative is not None:
            self._lay_out_relative(self._weights.relative)
        return self._normalise("embedding", self._weights.norm, "embedded")

    def _lay_out_relative(self, relative: Floats) -> None:
        """Cut ``relative`` [1, heads, width, width] out of the scores of all distances."""
        # One row a query: the scores of all distances, moved along by the query's place.
        graph, count = self.writer, (relative.shape[1] + 1) // 2
        width = width_of(count)
        distances = np.arange(width) - np.arange(width)[:, None]
        columns = np.clip(distances, 1 - count, count - 1) + count - 1
        graph.tensor("relative_scores", np.ascontiguousarray(relative[:, columns])[None])
        graph.tensor("zeros", np.array([0, 0], dtype=np.int64))
        graph.tensor("squares", np.array([2, 3], dtype=np.int64))
        graph.node("Shape", ["mask"], ["width_of_mask"], start=3)
        graph.node("Concat", ["width_of_mask", "width_of_mask"], ["square"], axis=0)
        names = ["relative_scores", "zeros", "square", "squares"]
        graph.node("Slice", names, ["relative"])

    def _layer(self, index: int, layer: Layer[T], hidden: str) -> str:
        graph, own = self.writer, f"layer{index}_"
        self._attention_rows(hidden, layer, own)
        attended = self._attend(own)
        projected = self._project(attended, layer.projection, own + "projected")
        graph.node("Add", [projected, hidden], [own + "sum"])
        middle = self._normalise(own + "sum", layer.after_attention, own + "middle")
        self._widen(middle, layer.wide, own + "wide")
        operator, domain = _ACTIVATIONS[self._weights.activation]
        graph.node(operator, [own + "wide"], [own + "gelu"], domain)
        narrow = self._narrow(own + "gelu", layer.narrow, own + "narrow")
        graph.node("Add", [narrow, middle], [own + "total"])
        out = OUTPUT if index == len(self._weights.layers) - 1 else own + "out"
        return self._normalise(own + "total", layer.at_end, out)

    def _attend(self, own: str) -> str:
        """Attention among the rows ``qkv`` of each text, head by head: ``[t, dim]``."""
        graph = self.writer
        graph.node("Reshape", [own + "qkv", "by_head"], [own + "rows"])
        for name in _PARTS:
            graph.node("Gather", [own + "rows", name], [own + name])
        scores = own + "scores"
        names = [own + "queries", own + "keys"]
        graph.node("FusedMatMul", names, [scores], RUNTIME_DOMAIN, transB=1)
        if self._weights.relative is not None:
            graph.node("Add", [scores, "relative"], [own + "placed"])
            scores = own + "placed"
        if self._weights.score_max is not None:
            # Within the limit the exponential cannot overflow, and no greatest score is sought.
            graph.node("Clip", [scores, "score_min", "score_max"], [own + "cut"])
        else:
            # A place beyond the text's end repeats a key of the text, so the greatest score
            # is one of the text itself.
            self._reduce("ReduceMax", scores, own + "score_high")
            graph.node("Sub", [scores, own + "score_high"], [own + "cut"])
        graph.node("Exp", [own + "cut"], [own + "grown"])
        # A masked place weighs exactly 0.
        graph.node("Mul", [own + "grown", "mask"], [own + "weights"])
        graph.node("ReduceSum", [own + "weights", "last"], [own + "sum_of_weights"], keepdims=1)
        graph.node("Div", [own + "weights", own + "sum_of_weights"], [own + "shares"])
        graph.node("MatMul", [own + "shares", own + "values"], [own + "attended"])
        graph.node("Reshape", [own + "attended", "by_head"], [own + "places"])
        graph.node("Gather", [own + "places", "heads"], [own + "heads"])
        graph.node("Reshape", [own + "heads", "flat"], [own + "attention"])
        return own + "attention"

    def _reduce(self, operator: str, rows: str, out: str) -> None:
        axes: AttributeValue = [-1]
        self.writer.node(operator, [rows], [out], axes=axes, keepdims=1)

    def _normalise(self, rows: str, norm: Norm, out: str) -> str:
        graph = self.writer
        names = [
            rows,
            graph.tensor(out + "_gain", norm.gain),
            graph.tensor(out + "_bias", norm.bias),
        ]
        graph.node("LayerNormalization", names, [out], axis=-1, epsilon=norm.epsilon)
        return out


class Float32Graph(PackedGraph[Linear]):
    """Multiplies floats: the vectors are those of the model's own file."""

    def _words(self) -> str:
        self.writer.tensor("words", self._weights.words)
        self.writer.node("Gather", ["words", "ids"], ["word"])
        return "word"

    def _attention_rows(self, hidden: str, layer: Layer[Linear], own: str) -> None:
        self._multiply(hidden, layer.attention, own + "qkv")

    def _project(self, rows: str, product: Linear, out: str) -> str:
        return self._multiply(rows, product, out)

    def _widen(self, rows: str, product: Linear, out: str) -> None:
        self._multiply(rows, product, out)

    def _narrow(self, rows: str, product: Linear, out: str) -> str:
        return self._multiply(rows, product, out)

    def _multiply(self, rows: str, linear: Linear, out: str) -> str:
        graph = self.writer
        names = [
            rows,
            graph.tensor(out + "_weights", linear.weights),
            graph.tensor(out + "_added", linear.bias),
        ]
        graph.node("Gemm", names, [out])
        return out
