"""Weights of a BERT-like encoder, in the order in which a packed graph uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder_graph.onnx_file import GraphWriter

RUNTIME_DOMAIN: Final = "com.microsoft"
_OPSETS: Final = {"": 17, RUNTIME_DOMAIN: 1}
_IR_VERSION: Final = 9
_STEPS: Final = 127

Floats = NDArray[np.float32]
Activation = Literal["gelu", "gelu_tanh", "relu"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation of rows: gain and bias are float32[dim]."""

    gain: Floats
    bias: Floats
    epsilon: float


@dataclass(frozen=True, slots=True)
class Linear:
    """A product and a sum: weights float32[depth, width], bias float32[width]."""

    weights: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Product:
    """Integer weights that a row is multiplied with, side by side.

    Attributes:
        numbers: int8[depth, width].
        scales: float32[width], one a column.
        sums: float32[width], sum of each column times its scale.
        bias: float32[width].
    """

    numbers: NDArray[np.int8]
    scales: Floats
    sums: Floats
    bias: Floats

    def scaled_queries(self, head_dim: int) -> Product:
        """Divide the first third, the queries of attention, by the root of the head's width."""
        factors = np.ones(len(self.scales), dtype=np.float32)
        factors[: len(factors) // 3] /= np.sqrt(np.float32(head_dim))
        return Product(
            self.numbers, self.scales * factors, self.sums * factors, self.bias * factors
        )


@dataclass(frozen=True, slots=True)
class Layer(Generic[T]):
    """One layer; the products are ``Linear`` or ``Product``.

    Attributes:
        attention: Queries, scaled by the root of a head's width, keys and values, side by side.
        projection: Of what attention returns.
        wide: First product of the feed-forward network.
        narrow: Second product of it.
    """

    attention: T
    projection: T
    wide: T
    narrow: T
    after_attention: Norm
    at_end: Norm


@dataclass(frozen=True, slots=True)
class Weights(Generic[T]):
    """A whole encoder.

    Attributes:
        words: float32[tokens, dim], or int8 with ``word_scales``.
        word_scales: float32[tokens, 1]; None where words are floats.
        places: float32[positions, dim]: each position plus the only token type.
        norm: Of the embeddings.
        relative: float32[heads, 2 * positions - 1], added to the score of a query at place i
            and a key at place j, in column j - i + positions - 1; None for none.
        score_max: Attention scores never exceed this; None where that is not known.
    """

    words: NDArray[np.float32] | NDArray[np.int8]
    word_scales: Floats | None
    places: Floats
    norm: Norm
    layers: Sequence[Layer[T]]
    heads: int
    activation: Activation
    relative: Floats | None = None
    score_max: float | None = None

    @property
    def dim(self) -> int:
        return int(self.words.shape[1])


def fold_biases(weights: Weights[Linear]) -> Weights[Linear]:
    """Move the bias of each product that a residual is added to into the residual's rows.

    Those rows come out of a normalisation, whose bias takes it.  The product that reads the
    same rows loses from its own bias what it gains.  The formula is the same up to rounding.
    """
    layers = weights.layers
    following = [*(each.projection.bias for each in layers[1:]), None]
    return replace(
        weights,
        norm=_shifted(weights.norm, layers[0].projection.bias),
        layers=[
            replace(
                each,
                attention=_unshifted(each.attention, each.projection.bias),
                wide=_unshifted(each.wide, each.narrow.bias),
                after_attention=_shifted(each.after_attention, each.narrow.bias),
                # The rows that the graph returns go through no other residual.
                at_end=each.at_end if bias is None else _shifted(each.at_end, bias),
            )
            for each, bias in zip(layers, following, strict=True)
        ],
    )


def _shifted(norm: Norm, bias: Floats) -> Norm:
    return replace(norm, bias=norm.bias + bias)


def _unshifted(linear: Linear, bias: Floats) -> Linear:
    """The product whose results stay the same when ``bias`` is added to the rows."""
    gained = bias.astype(np.float64) @ linear.weights.astype(np.float64)
    return replace(linear, bias=(linear.bias - gained).astype(np.float32))


def quantise(weights: Weights[Linear]) -> Weights[Product]:
    """Round the weights of all products to integers per column, and the words per row."""
    words, scales = _round(np.asarray(weights.words, np.float32), axis=1)
    layers = [
        Layer(
            _product(each.attention),
            _product(each.projection),
            _product(each.wide),
            _product(each.narrow),
            each.after_attention,
            each.at_end,
        )
        for each in weights.layers
    ]
    return Weights(
        words,
        scales,
        weights.places,
        weights.norm,
        layers,
        weights.heads,
        weights.activation,
        weights.relative,
        weights.score_max,
    )


def _product(linear: Linear) -> Product:
    numbers, scales = _round(linear.weights, axis=0)
    columns = scales.reshape(-1)
    # Exact in int64, then rounded once: the same on every machine.
    sums = numbers.sum(axis=0, dtype=np.int64) * columns.astype(np.float64)
    return Product(numbers, columns, sums.astype(np.float32), linear.bias)


def _round(values: Floats, axis: int) -> tuple[NDArray[np.int8], Floats]:
    """Round to integers of at most ``_STEPS``, by one scale a column or row."""
    scales = np.abs(values).max(axis=axis, keepdims=True) / np.float32(_STEPS)
    # A column of zeros alone has any scale.
    scales = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
    return np.rint(values / scales).astype(np.int8), scales


def graph_model(graph: GraphWriter) -> bytes:
    """Serialize a graph with the versions of operators that the packed graphs use."""
    return graph.model(_IR_VERSION, _OPSETS)
