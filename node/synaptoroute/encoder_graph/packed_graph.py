"""Writes graphs that run the tokens of all texts end to end, without padding.

What every packed graph shares is here: embeddings, attention, normalisation and the order
of a layer.  How rows are multiplied with weights is left to ``Float32Graph`` and to
``int8_graph.Int8Graph``.

Inputs of a graph, for n texts of t tokens in all: ``ids`` int64[t], and ``positions``,
``queries``, ``keys``, ``values``, ``mask`` and ``heads`` as in ``Packing``.  Output:
``hidden`` float32[t, dim].  A ``Float32Graph`` that is pooled by one row has the input ``ends``
int64[n], the rows that are pooled, and the output float32[n, dim].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Generic

import numpy as np

from synaptoroute.encoder.packed_session import ENDS, OUTPUT, width_of
from synaptoroute.encoder.recipe import Pooling
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
    fold_biases,
    graph_model,
)

PLACES: Final = "places_of_words"
"""Name of the tensor with the positions."""
_PARTS: Final = ("queries", "keys", "values")
_MASKED: Final = 1e30
_ACTIVATIONS: Final[dict[Activation, tuple[str, str]]] = {
    "gelu": ("Gelu", RUNTIME_DOMAIN),
    "gelu_tanh": ("FastGelu", RUNTIME_DOMAIN),
    "relu": ("Relu", ""),
}


class PackedGraph(ABC, Generic[T]):
    """Writes one graph; used once."""

    _rows_out = "t"

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
        graph.output(OUTPUT, np.float32, [self._rows_out, self._dim])
        return graph_model(graph)

    # --- how rows are multiplied ---

    @abstractmethod
    def _words(self) -> str:
        """Look up the rows of ``ids``; returns the name of float32[t, dim]."""

    @abstractmethod
    def _attention_rows(self, hidden: str, layer: Layer[T], own: str) -> None:
        """Write ``qkv``: queries, keys and values of each row."""

    @abstractmethod
    def _project(self, rows: str, product: T, residual: str, own: str) -> str:
        """Multiply what attention returns, and add the rows ``residual``."""

    @abstractmethod
    def _widen(self, rows: str, product: T, out: str) -> None:
        """Multiply the rows that the feed-forward network takes."""

    @abstractmethod
    def _narrow(self, rows: str, product: T, residual: str, own: str) -> str:
        """Multiply what the activation returns, and add the rows ``residual``."""

    def _rows_of_output(self, attended: str, hidden: str, own: str) -> tuple[str, str]:
        """Choose the rows that the last layer goes on with behind attention."""
        return attended, hidden

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
        is_last = index == len(self._weights.layers) - 1
        if is_last:
            attended, hidden = self._rows_of_output(attended, hidden, own)
        total = self._project(attended, layer.projection, hidden, own)
        middle = self._normalise(total, layer.after_attention, own + "middle")
        self._widen(middle, layer.wide, own + "wide")
        operator, domain = _ACTIVATIONS[self._weights.activation]
        graph.node(operator, [own + "wide"], [own + "gelu"], domain)
        total = self._narrow(own + "gelu", layer.narrow, middle, own)
        return self._normalise(total, layer.at_end, OUTPUT if is_last else own + "out")

    def _attend(self, own: str) -> str:
        """Attention among the rows ``qkv`` of each text, head by head: ``[t, dim]``."""
        graph = self.writer
        graph.node("Reshape", [own + "qkv", "by_head"], [own + "rows"])
        for name in _PARTS:
            graph.node("Gather", [own + "rows", name], [own + name])
        scores = own + "scores"
        names = [own + "queries", own + "keys"]
        graph.node("FusedMatMul", names, [scores], RUNTIME_DOMAIN, transB=1)
        shares = self._shares(scores, own)
        graph.node("MatMul", [shares, own + "values"], [own + "attended"])
        graph.node("Reshape", [own + "attended", "by_head"], [own + "places"])
        graph.node("Gather", [own + "places", "heads"], [own + "heads"])
        graph.node("Reshape", [own + "heads", "flat"], [own + "attention"])
        return own + "attention"

    def _shares(self, scores: str, own: str) -> str:
        """Scores to the shares that the places of a text have of each other."""
        graph = self.writer
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
        return own + "shares"

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
    """Multiplies floats: the vectors are those of the model's own file.

    Nearly all of the time is that of the products, so they take what stands beside them: a
    product adds to the rows that the residual goes through, which hold its bias already.
    """

    def __init__(self, weights: Weights[Linear], pooling: Pooling = "mean") -> None:
        """Fold the biases.

        Args:
            pooling: With ``cls`` or ``last`` the last layer goes on with one row a text.
        """
        super().__init__(fold_biases(weights))
        self._is_one_row = pooling in ("cls", "last")
        if self._is_one_row:
            self._rows_out = "n"

    def _words(self) -> str:
        self.writer.tensor("words", self._weights.words)
        self.writer.node("Gather", ["words", "ids"], ["word"])
        return "word"

    def _embeddings(self) -> str:
        graph = self.writer
        hidden = super()._embeddings()
        if self._is_one_row:
            graph.input(ENDS, np.int64, ["n"])
        graph.node("Sub", ["mask", graph.tensor("one", np.array(1, np.float32))], ["beyond"])
        # Added to any score, it leaves itself, and Softmax gives the place exactly 0.
        most = graph.tensor("most", np.array(_MASKED, np.float32))
        graph.node("Mul", ["beyond", most], ["masked"])
        if self._weights.relative is not None:
            graph.node("Add", ["relative", "masked"], ["masked_relative"])
        return hidden

    def _rows_of_output(self, attended: str, hidden: str, own: str) -> tuple[str, str]:
        if not self._is_one_row:
            return attended, hidden
        chosen = own + "attended_ends", own + "hidden_ends"
        for rows, out in zip((attended, hidden), chosen, strict=True):
            self.writer.node("Gather", [rows, ENDS], [out])
        return chosen

    def _attention_rows(self, hidden: str, layer: Layer[Linear], own: str) -> None:
        self._multiply(hidden, layer.attention, own + "qkv")

    def _shares(self, scores: str, own: str) -> str:
        bias = "masked" if self._weights.relative is None else "masked_relative"
        self.writer.node("Add", [scores, bias], [own + "cut"])
        self.writer.node("Softmax", [own + "cut"], [own + "shares"], axis=-1)
        return own + "shares"

    def _project(self, rows: str, product: Linear, residual: str, own: str) -> str:
        return self._multiply(rows, product, own + "sum", residual)

    def _widen(self, rows: str, product: Linear, out: str) -> None:
        self._multiply(rows, product, out)

    def _narrow(self, rows: str, product: Linear, residual: str, own: str) -> str:
        return self._multiply(rows, product, own + "total", residual)

    def _multiply(self, rows: str, linear: Linear, out: str, added: str | None = None) -> str:
        """Multiply rows, and add the bias, or the rows ``added``."""
        graph = self.writer
        weights = graph.tensor(out + "_weights", linear.weights)
        bias = added or graph.tensor(out + "_added", linear.bias)
        graph.node("Gemm", [rows, weights, bias], [out])
        return out
