"""The numbers of the bundled model's graph, for those who write its graph anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder.onnx_wire import Graph, Node

LAYERS: Final = 6
HEADS: Final = 12
EPSILON: Final = 1e-12
EMBEDDINGS: Final = "inner.embeddings."

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Product:
    """Weights that one row of numbers is multiplied with, side by side.

    Attributes:
        numbers: int8[depth, width].
        scales: float32[width], one a column.
        sums: float32[width], of each column in full size.
        bias: float32[width].
    """

    numbers: NDArray[np.int8]
    scales: Floats
    sums: Floats
    bias: Floats

    def scaled_queries(self, head_dim: int) -> Product:
        """Divide the first third, the queries of attention, by the root of a head's width."""
        factors = np.ones(len(self.scales), dtype=np.float32)
        factors[: len(factors) // 3] /= np.sqrt(np.float32(head_dim))
        return Product(
            self.numbers, self.scales * factors, self.sums * factors, self.bias * factors
        )


class BundledWeights:
    """Finds tensors by the names that the exporter gave them.

    Every method raises KeyError, IndexError or ValueError where the graph is not
    laid out as the bundled model's.
    """

    def __init__(self, source: Graph) -> None:
        self._tensors = source.tensors
        self._makers = {name: node for node in source.nodes for name in node.outputs}
        self._takers: dict[str, Node] = {}
        for node in source.nodes:
            for name in node.inputs:
                self._takers.setdefault(name, node)
        self.words = self._tensors[EMBEDDINGS + "word_embeddings.weight_q"]
        self.word_scales = self._tensors[EMBEDDINGS + "word_embeddings.weight_scale"]
        self.dim = int(self.words.shape[1])

    def places_of_words(self) -> Floats:
        """float32[positions, dim]: a position and the only type as one row."""
        positions = self._tensors[EMBEDDINGS + "position_embeddings.weight_q"]
        scales = self.floats(EMBEDDINGS + "position_embeddings.weight_scale")
        types = self.floats(EMBEDDINGS + "token_type_embeddings.weight")
        places: Floats = positions.astype(np.float32) * scales + types[0]
        return places

    def product(self, biases: list[str]) -> Product:
        """The products that these biases are added to, as one."""
        found = [self._weights(bias) for bias in biases]
        numbers = np.concatenate([each for each, _ in found], axis=1)
        scales = np.concatenate([each for _, each in found])
        sums = numbers.sum(axis=0, dtype=np.int64) * scales.astype(np.float64)
        bias = np.concatenate([self.floats(name) for name in biases])
        return Product(numbers, scales, sums.astype(np.float32), bias)

    def floats(self, name: str) -> Floats:
        """A tensor of float32."""
        tensor = self._tensors[name]
        if tensor.dtype != np.float32:
            raise ValueError(f"{name} is not float32")
        return tensor.view(np.float32)

    def _weights(self, bias: str) -> tuple[NDArray[np.int8], Floats]:
        """Find the numbers and column scales of the product that a bias is added to."""
        (product,) = (name for name in self._takers[bias].inputs if name != bias)
        name = self._makers[product].inputs[1]
        numbers = self._tensors[name + "_q"]
        if numbers.dtype != np.int8:
            raise ValueError(f"{name} is not int8")
        return numbers.view(np.int8), self.floats(name + "_scale").reshape(-1)


def layer_biases(layer: int) -> dict[str, list[str]]:
    """Names of the biases of a layer's products, by what the product is for."""
    source = f"inner.encoder.layer.{layer}."
    return {
        "attention": [source + f"attention.self.{part}.bias" for part in ("query", "key", "value")],
        "projection": [source + "attention.output.dense.bias"],
        "wide": [source + "intermediate.dense.bias"],
        "narrow": [source + "output.dense.bias"],
    }


def layer_normalisations(layer: int) -> tuple[str, str]:
    """Names of a layer's two normalisations: after attention, and at its end."""
    source = f"inner.encoder.layer.{layer}."
    return source + "attention.output.LayerNorm", source + "output.LayerNorm"
