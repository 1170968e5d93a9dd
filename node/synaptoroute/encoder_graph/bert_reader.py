"""Reads the weights of a BERT-like encoder out of its ONNX file.

Exporters give tensors names of their own and write the same network with other operators:
normalisation and GELU whole or in parts, attention whole or in parts, scores scaled before
or after the product.  So nothing is read by name.  The reader walks the graph from the
output back to the token ids, and takes each weight by the part that it plays.

It reads encoders that normalise after each sum (BERT, MiniLM, DistilBERT, bge, gte, e5,
XLM-R, mpnet).  Everything else raises ``UnknownGraph`` with what was met.  What it reads
may still be wrong for a graph that nobody has seen: the result is used only after its
vectors were compared with those of the file (``encoder_graph.packing``).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from math import erf
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder_graph.onnx_file import Graph, Node
from synaptoroute.encoder_graph.weights import (
    Activation,
    Floats,
    Layer,
    Linear,
    Norm,
    Weights,
)

_PASSING: Final = frozenset({"Cast", "Identity", "Dropout"})
"""Operators that return their first input."""
_LAYOUT: Final = frozenset({*_PASSING, "Reshape", "Transpose", "Unsqueeze", "Squeeze"})
_SCALING: Final = frozenset({"Mul", "Div"})
_TYPES_MAX: Final = 4
"""Token types have a row or two; positions have more."""
_LAYERS_MAX: Final = 128
_SEARCHED_MAX: Final = 400
_BUCKETS_OF_PLACES_MAX: Final = 128
_ACTIVATION_TOLERANCE: Final = 1e-3

Array = NDArray[Any]


class UnknownGraph(Exception):
    """The graph is not one that the reader knows; the text says what it met."""


@dataclass(frozen=True, slots=True)
class _Sum:
    """A sum of rows: names of its terms, and the constants among them."""

    terms: tuple[str, ...]
    bias: Floats | None


@dataclass(frozen=True, slots=True)
class _Attention:
    """Inputs of one attention: its hidden state and the products of it."""

    source: str
    linear: Linear
    heads: int
    relative: Floats | None


def read_weights(graph: Graph, output: str) -> Weights[Linear]:
    """Read an encoder.

    Args:
        output: Name of the output that has the rows of the last layer.

    Raises:
        UnknownGraph: It has another shape.
    """
    try:
        return _Reader(graph).read(output)
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UnknownGraph(f"a tensor has an unexpected form: {error}") from error


class _Reader:
    """Walks one graph; used once."""

    def __init__(self, graph: Graph) -> None:
        self._producers = {name: node for node in graph.nodes for name in node.outputs}
        self._constants: dict[str, Array | None] = dict(graph.tensors)

    def read(self, output: str) -> Weights[Linear]:
        layers: list[Layer[Linear]] = []
        found: list[_Attention] = []
        activations: set[Activation] = set()
        norm, total = self._norm(self._resolve(output))
        while len(layers) <= _LAYERS_MAX and not self._is_embedding(total):
            layer, attention, activation = self._layer(norm, total)
            layers.append(layer)
            found.append(attention)
            activations.add(activation)
            norm, total = self._norm(attention.source)
        if not layers:
            raise UnknownGraph("the output is not a layer's")
        heads = {each.heads for each in found}
        tables = [each.relative for each in found]
        if len(heads) != 1 or len(activations) != 1 or len({t is None for t in tables}) != 1:
            raise UnknownGraph("its layers are of different kinds")
        words, places = self._embeddings(total)
        relative = None if tables[0] is None else relative_scores(tables[0], len(places))
        return Weights(
            words, None, places, norm, layers[::-1], heads.pop(), activations.pop(), relative
        )

    # --- parts of a layer ---

    def _layer(self, norm: Norm, total: _Sum) -> tuple[Layer[Linear], _Attention, Activation]:
        narrow, middle = self._linear_and_rest(total)
        activation, wide, source = self._activation(narrow[1])
        if source != middle:
            raise UnknownGraph("a feed-forward network is not beside its own input")
        after_attention, summed = self._norm(middle)
        projection, hidden = self._linear_and_rest(summed)
        attention = self._attention(projection[1])
        if attention.source != hidden:
            raise UnknownGraph("an attention is not beside its own input")
        layer = Layer(attention.linear, projection[0], wide, narrow[0], after_attention, norm)
        return layer, attention, activation

    def _linear_and_rest(self, total: _Sum) -> tuple[tuple[Linear, str], str]:
        """Split a sum into a product with weights, and the rows that are added to it."""
        linears = [(self._linear(name), name) for name in total.terms]
        read = [found for found, _ in linears if found is not None]
        rest = [name for found, name in linears if found is None]
        if len(read) != 1 or len(rest) != 1:
            raise UnknownGraph("a sum is not of a product and a row")
        linear, source = read[0]
        if total.bias is not None:
            linear = Linear(linear.weights, linear.bias + total.bias)
        return (linear, source), self._resolve(rest[0])

    def _linear(self, name: str) -> tuple[Linear, str] | None:
        """Read a product with constant weights, and the name of what it multiplies."""
        node = self._node(name)
        if node is None:
            return None
        bias: Floats | None = None
        if node.operator == "Add":
            constants = [self._constant(each) for each in node.inputs]
            others = [
                each for each, value in zip(node.inputs, constants, strict=True) if value is None
            ]
            biases = [value for value in constants if value is not None]
            if len(others) != 1 or biases[0].ndim != 1:
                return None
            bias = _floats(biases[0])
            node = self._node(others[0])
            if node is None:
                return None
        if node.operator not in ("MatMul", "Gemm") or len(node.inputs) < 2:
            return None
        weights = self._constant(node.inputs[1])
        if weights is None or weights.ndim != 2:
            return None
        if node.operator == "Gemm":
            if node.attributes.get("alpha", 1.0) != 1.0 or node.attributes.get("transA", 0):
                return None
            weights = np.transpose(weights) if node.attributes.get("transB", 0) else weights
            if len(node.inputs) > 2:
                own = self._constant(node.inputs[2])
                if own is None or node.attributes.get("beta", 1.0) != 1.0:
                    return None
                bias = _floats(own) if bias is None else bias + _floats(own)
        product = _floats(weights)
        added = np.zeros(product.shape[-1:], np.float32) if bias is None else bias
        return Linear(product, added), self._resolve(node.inputs[0])

    def _norm(self, name: str) -> tuple[Norm, _Sum]:
        """Read the normalisation that returns a row, and the sum that it takes."""
        node = self._node(name)
        operator = "" if node is None else node.operator
        if node is not None and operator in ("LayerNormalization", "SkipLayerNormalization"):
            skip = operator == "SkipLayerNormalization"
            gain, bias = node.inputs[1 + skip : 3 + skip]
            epsilon = node.attributes.get("epsilon", 1e-5 if operator[0] == "L" else 1e-12)
            norm = Norm(self._vector(gain), self._vector(bias), _number(epsilon))
            total = self._sum(node.inputs[: 1 + skip])
            added = node.inputs[4:5] if skip else ()
            if added and added[0]:
                own = self._vector(added[0])
                total = _Sum(total.terms, own if total.bias is None else total.bias + own)
            return norm, total
        if node is not None and operator == "EmbedLayerNormalization":
            norm = Norm(
                self._vector(node.inputs[5]),
                self._vector(node.inputs[6]),
                _number(node.attributes.get("epsilon", 1e-12)),
            )
            return norm, _Sum((self._resolve(name),), None)
        parts = self._norm_in_parts(name)
        if parts is None:
            raise UnknownGraph(f"{operator or 'an input'} stands where a normalisation is expected")
        return parts

    def _norm_in_parts(self, name: str) -> tuple[Norm, _Sum] | None:
        """Read ``(x - mean) / sqrt(variance + epsilon) * gain + bias``."""
        bias, scaled = self._constant_and_rest(name, "Add")
        gain, divided = self._constant_and_rest(scaled, "Mul")
        node = self._node(divided)
        if bias is None or gain is None or node is None or node.operator != "Div":
            return None
        root, centred = self._node(node.inputs[1]), self._node(node.inputs[0])
        if root is None or centred is None or (root.operator, centred.operator) != ("Sqrt", "Sub"):
            return None
        epsilon, _ = self._constant_and_rest(root.inputs[0], "Add")
        mean = self._node(centred.inputs[1])
        if epsilon is None or mean is None or mean.operator != "ReduceMean":
            return None
        norm = Norm(_floats(gain), _floats(bias), float(epsilon.reshape(-1)[0]))
        return norm, self._sum(centred.inputs[:1])

    def _sum(self, names: tuple[str, ...]) -> _Sum:
        """Flatten nested sums, as far as they are not part of a normalisation or a product."""
        terms: list[str] = []
        bias: Floats | None = None
        waiting = list(names)
        while waiting:
            name = self._resolve(waiting.pop(0))
            constant = self._constant(name)
            node = self._node(name)
            if constant is not None and constant.ndim == 1:
                bias = _floats(constant) if bias is None else bias + _floats(constant)
            elif (
                node is None
                or node.operator != "Add"
                or self._linear(name) is not None
                or self._norm_in_parts(name) is not None
            ):
                terms.append(name)
            else:
                waiting += node.inputs
        return _Sum(tuple(terms), bias)

    def _activation(self, name: str) -> tuple[Activation, Linear, str]:
        """Read an activation, the product that it is applied to, and that product's input."""
        node = self._node(name)
        if node is not None and node.operator in ("BiasGelu", "FastGelu") and len(node.inputs) > 1:
            found = self._linear(node.inputs[0])
            if found is not None:
                linear = Linear(found[0].weights, found[0].bias + self._vector(node.inputs[1]))
                kind: Activation = "gelu" if node.operator == "BiasGelu" else "gelu_tanh"
                return kind, linear, found[1]
        for start in self._before(name, _ELEMENTWISE):
            found = self._linear(start)
            if found is not None:
                return self._kind_of_activation(name, start), found[0], found[1]
        raise UnknownGraph("an activation is not applied to a product")

    def _kind_of_activation(self, name: str, start: str) -> Activation:
        """Compute the operators between two names for some numbers, and compare."""
        x = np.linspace(-6, 6, 241)
        values = self._evaluate(name, {start: x})
        for kind, function in _ACTIVATIONS.items():
            if np.abs(values - function(x)).max() < _ACTIVATION_TOLERANCE:
                return kind
        raise UnknownGraph("its activation is none of GELU and ReLU")

    def _evaluate(self, name: str, known: Mapping[str, Array]) -> Array:
        name = self._resolve(name)
        if name in known:
            return known[name]
        constant = self._constant(name)
        if constant is not None:
            return constant.astype(np.float64)
        node = self._node(name)
        if node is None or node.operator not in _ELEMENTWISE:
            raise UnknownGraph("its activation is none of GELU and ReLU")
        values = [self._evaluate(each, known) for each in node.inputs if each]
        if node.operator == "Gelu" and node.attributes.get("approximate") == "tanh":
            return _gelu_tanh(values[0])
        return _ELEMENTWISE[node.operator](*values)

    # --- attention ---

    def _attention(self, name: str) -> _Attention:
        """Read what attends: the input of a projection."""
        node = self._skip_layout(name)
        if node is None:
            raise UnknownGraph("a projection has no attention before it")
        if node.operator == "Attention":
            return self._whole_attention(node)
        if node.operator == "MultiHeadAttention":
            return self._multi_head_attention(node)
        if node.operator not in ("MatMul", "FusedMatMul"):
            raise UnknownGraph(f"{node.operator} stands where an attention is expected")
        shares = self._node(node.inputs[0])
        if shares is not None and shares.operator == "Where":  # of rows that are masked whole
            shares = next(
                (each for each in map(self._node, shares.inputs[1:]) if each is not None), None
            )
        if shares is None or shares.operator != "Softmax":
            raise UnknownGraph("an attention has no softmax")
        scores = self._scores(shares.inputs[0])
        if scores is None:
            raise UnknownGraph("a softmax is not taken of a product")
        product, factor, extras = scores
        queries = self._head_product(product.inputs[0])
        keys = self._head_product(product.inputs[1])
        values = self._head_product(node.inputs[1])
        head_dim = next((d for d in (queries[3], keys[3], values[3]) if d), None)
        dim = len(queries[0].bias)
        if head_dim is None or dim % head_dim:
            raise UnknownGraph("the width of a head is not in the graph")
        # A factor that the graph derives from shapes is the usual one; the vectors are compared.
        known = [factor, queries[2], keys[2]]
        scale = head_dim**-0.5
        if all(each is not None for each in known):
            scale = float(np.prod([each for each in known if each is not None]))
        if values[2] != 1.0:
            raise UnknownGraph("values of an attention are scaled")
        heads = dim // head_dim
        parts = [queries, keys, values]
        if len({each[1] for each in parts}) != 1:
            raise UnknownGraph("queries, keys and values have different inputs")
        linears = [each[0] for each in parts]
        table = next(
            (t for extra in extras if (t := self._bias_table(extra, heads)) is not None), None
        )
        return _Attention(queries[1], _side_by_side(linears, scale), heads, table)

    def _scores(self, name: str) -> tuple[Node, float | None, list[str]] | None:
        """Find the product of queries and keys, its factor, and what is added to it."""
        node = self._node(name)
        if node is None:
            return None
        if node.operator in ("MatMul", "FusedMatMul"):
            alpha = _number(node.attributes.get("alpha", 1.0))
            return node, alpha, []
        if node.operator not in ("Add", "Where", "Max", *_SCALING):
            return None
        inputs = node.inputs[1:] if node.operator == "Where" else node.inputs
        for index, each in enumerate(inputs):
            found = self._scores(each)
            if found is None:
                continue
            product, factor, extras = found
            others = [other for place, other in enumerate(inputs) if place != index]
            if node.operator in _SCALING:
                if node.operator == "Div" and index:
                    return None
                return product, _times(factor, self._scalar(others[0]), node.operator), extras
            return product, factor, extras + others
        return None

    def _head_product(self, name: str) -> tuple[Linear, str, float | None, int | None]:
        """Read a product that is cut into heads: with its input, factor and width of a head."""
        factor: float | None = 1.0
        head_dim: int | None = None
        for _ in range(_LAYERS_MAX):
            found = self._linear(name)
            if found is not None:
                return found[0], found[1], factor, head_dim
            node = self._node(name)
            if node is None:
                break
            if node.operator in _SCALING:
                constants = [self._scalar(each) for each in node.inputs]
                index = self._data_input(node)
                factor = _times(factor, constants[1 - index], node.operator)
                name = node.inputs[index]
                continue
            if node.operator not in _LAYOUT:
                break
            if node.operator == "Reshape":
                # Nearest to the product stands the one that cuts it into heads.
                head_dim = self._last_size(node.inputs[1]) or head_dim
            name = node.inputs[0]
        raise UnknownGraph("queries, keys or values are not products of the hidden state")

    def _data_input(self, node: Node) -> int:
        """Which input of a scaling leads to a product with weights."""
        for index, each in enumerate(node.inputs):
            if any(self._linear(name) for name in self._before(each, {*_LAYOUT, *_SCALING})):
                return index
        raise UnknownGraph("queries, keys or values are not products of the hidden state")

    def _last_size(self, name: str) -> int | None:
        """Last size of a shape, where it is constant."""
        constant = self._constant(name)
        if constant is None:
            node = self._node(name)
            if node is None or node.operator != "Concat":
                return None
            constant = self._constant(node.inputs[-1])
        if constant is None or constant.size == 0:
            return None
        size = int(constant.reshape(-1)[-1])
        return size if size > 0 else None

    def _whole_attention(self, node: Node) -> _Attention:
        """Read the runtime's operator of the products and attention together."""
        weights, bias = self._constant(node.inputs[1]), self._vector(node.inputs[2])
        heads = node.attributes["num_heads"]
        if weights is None or not isinstance(heads, int) or weights.shape[1] != 3 * len(weights):
            raise UnknownGraph("an Attention has an unknown form")
        parts = [
            Linear(_floats(matrix), vector)
            for matrix, vector in zip(np.split(weights, 3, axis=1), np.split(bias, 3), strict=True)
        ]
        return self._fused(node, self._resolve(node.inputs[0]), parts, heads)

    def _multi_head_attention(self, node: Node) -> _Attention:
        """Read the runtime's operator of attention over three products."""
        heads = node.attributes["num_heads"]
        found = [self._linear(each) for each in node.inputs[:3]]
        parts = [each for each in found if each is not None]
        if len(parts) != 3 or len({each[1] for each in parts}) != 1 or not isinstance(heads, int):
            raise UnknownGraph("a MultiHeadAttention has an unknown form")
        linears = [each[0] for each in parts]
        if len(node.inputs) > 3 and node.inputs[3]:
            biases = np.split(self._vector(node.inputs[3]), 3)
            linears = [
                Linear(each.weights, each.bias + bias)
                for each, bias in zip(linears, biases, strict=True)
            ]
        return self._fused(node, parts[0][1], linears, heads)

    def _fused(self, node: Node, source: str, parts: list[Linear], heads: int) -> _Attention:
        head_dim = len(parts[0].bias) // heads
        scale = _number(node.attributes.get("scale", 0.0)) or head_dim**-0.5
        added = node.inputs[5] if len(node.inputs) > 5 else ""
        table = self._bias_table(added, heads) if added else None
        return _Attention(source, _side_by_side(parts, scale), heads, table)

    def _bias_table(self, name: str, heads: int) -> Floats | None:
        """Find the table of relative positions that something added to scores is read from."""
        for each in self._before(name, None):
            node = self._node(each)
            if node is None or node.operator != "Gather":
                continue
            table = self._constant(node.inputs[0])
            if table is not None and table.ndim == 2 and table.shape[1] == heads:
                return _floats(table)
        return None

    # --- embeddings ---

    def _is_embedding(self, total: _Sum) -> bool:
        nodes = [self._node(name) for name in total.terms]
        kinds = {"Gather", "EmbedLayerNormalization"}
        return any(node is not None and node.operator in kinds for node in nodes)

    def _embeddings(self, total: _Sum) -> tuple[Floats, Floats]:
        """Words, and positions plus the first token type."""
        words = places = types = None
        for name in total.terms:
            node = self._node(name)
            if node is not None and node.operator == "EmbedLayerNormalization":
                words, places = (self._table(each) for each in node.inputs[2:4])
                types = self._table(node.inputs[4]) if node.inputs[4] else None
                continue
            if node is None or node.operator not in ("Gather", "Slice"):
                raise UnknownGraph("something else than tables is added to the embeddings")
            table = self._table(node.inputs[0])
            if node.operator == "Gather" and self._resolve(node.inputs[1]) == "input_ids":
                words = table
            elif len(table) <= _TYPES_MAX:
                types = table
            else:
                offset = 0 if node.operator == "Slice" else self._first_place(node.inputs[1])
                places = table[offset:]
        if words is None or places is None or words.shape[1] != places.shape[1]:
            raise UnknownGraph("its embeddings are not words and positions")
        # Texts are of the first type alone.
        return words, places if types is None else places + types[0]

    def _first_place(self, name: str) -> int:
        """Position of a text's first token: counted from the padding id on, or 0."""
        nodes = [node for each in self._before(name, None) if (node := self._node(each))]
        if not any(node.operator == "CumSum" for node in nodes):
            return 0
        for node in nodes:
            added = [self._constant(each) for each in node.inputs]
            found = [value for value in added if value is not None and value.size == 1]
            if node.operator == "Add" and len(found) == 1:
                return int(found[0].reshape(-1)[0]) + 1
        return 1

    def _table(self, name: str) -> Floats:
        table = self._constant(name)
        if table is None:
            raise UnknownGraph("an embedding is not a table")
        return _floats(table.reshape(-1, table.shape[-1]))

    # --- names and constants ---

    def _resolve(self, name: str) -> str:
        """Follow operators that return their input."""
        node = self._producers.get(name)
        while node is not None and node.operator in _PASSING:
            name = node.inputs[0]
            node = self._producers.get(name)
        return name

    def _node(self, name: str) -> Node | None:
        return self._producers.get(self._resolve(name))

    def _skip_layout(self, name: str) -> Node | None:
        node = self._node(name)
        while node is not None and node.operator in _LAYOUT:
            node = self._node(node.inputs[0])
        return node

    def _before(self, name: str, through: Container[str] | None) -> Iterator[str]:
        """Names that a name is computed from, nearest first, through these operators alone."""
        seen: set[str] = set()
        waiting = [self._resolve(name)]
        while waiting and len(seen) < _SEARCHED_MAX:
            each = waiting.pop(0)
            if each in seen:
                continue
            seen.add(each)
            yield each
            node = self._node(each)
            if node is None or not (through is None or node.operator in through):
                continue
            waiting += [self._resolve(given) for given in node.inputs if given]

    def _constant_and_rest(self, name: str, operator: str) -> tuple[Array | None, str]:
        """Split ``constant operator rest``, in either order."""
        node = self._node(name)
        if node is None or node.operator != operator or len(node.inputs) != 2:
            return None, name
        for index, each in enumerate(node.inputs):
            value = self._constant(each)
            if value is not None:
                return value, node.inputs[1 - index]
        return None, name

    def _vector(self, name: str) -> Floats:
        value = self._constant(name)
        if value is None:
            raise UnknownGraph("a bias or gain is not constant")
        return _floats(value.reshape(-1))

    def _scalar(self, name: str) -> float | None:
        value = self._constant(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def _constant(self, name: str) -> Array | None:
        """Value of a name that no input reaches; None for others."""
        if name not in self._constants:
            self._constants[name] = None
            self._constants[name] = self._fold(name)
        return self._constants[name]

    def _fold(self, name: str) -> Array | None:
        node = self._producers.get(name)
        if node is None:
            return None
        if node.operator == "Constant":
            return _constant_of(node)
        fold = _FOLDED.get(node.operator)
        if fold is None:
            return None
        values = [self._constant(each) for each in node.inputs if each]
        given = [value for value in values if value is not None]
        if len(given) != len(values) and node.operator != "Dropout":
            return None
        return None if not given else fold(node, given)


def relative_scores(table: Floats, places: int) -> Floats:
    """Spread a table of buckets over all distances of two places.

    Args:
        table: float32[buckets, heads].

    Returns:
        float32[heads, 2 * places - 1], by the place of the key less that of the query.
    """
    # As T5 and mpnet do it: half of the buckets for each direction, of these half for single
    # distances, and the others for distances that grow by a constant factor.
    half = len(table) // 2
    exact = half // 2
    distances = np.arange(1 - places, places)
    far = np.abs(distances)
    grown = np.log(np.maximum(far, 1) / exact) / np.log(_BUCKETS_OF_PLACES_MAX / exact)
    spread = exact + (grown.astype(np.float32) * np.float32(half - exact)).astype(np.int64)
    buckets = np.where(far < exact, far, np.minimum(spread, half - 1)) + half * (distances > 0)
    return np.ascontiguousarray(table[buckets].T)


def _side_by_side(parts: list[Linear], scale: float) -> Linear:
    """Join queries, keys and values, the queries scaled."""
    queries, keys, values = parts
    factor = np.float32(scale)
    weights = [queries.weights * factor, keys.weights, values.weights]
    biases = [queries.bias * factor, keys.bias, values.bias]
    return Linear(np.concatenate(weights, axis=1), np.concatenate(biases))


def _floats(values: Array) -> Floats:
    if values.dtype.kind != "f":
        raise UnknownGraph(f"its weights are {values.dtype}, not floats")
    return np.asarray(values, np.float32)


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise UnknownGraph("an attribute is not a number")
    return float(value)


def _times(factor: float | None, other: float | None, operator: str) -> float | None:
    if factor is None or other is None:
        return None
    return factor / other if operator == "Div" else factor * other


def _constant_of(node: Node) -> Array | None:
    for key, dtype in (("value", None), ("value_float", np.float32), ("value_int", np.int64)):
        if key in node.attributes:
            return np.asarray(node.attributes[key], dtype)
    numbers = node.attributes.get("value_ints")
    return None if numbers is None else np.asarray(numbers, np.int64)


def _gelu(x: Array) -> Array:
    values: Array = x * 0.5 * (1.0 + _erf(x / np.sqrt(2.0)))
    return values


def _gelu_tanh(x: Array) -> Array:
    values: Array = 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))
    return values


_erf: Final = np.vectorize(erf, otypes=[np.float64])
_ACTIVATIONS: Final[Mapping[Activation, Callable[[Array], Array]]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": lambda x: np.maximum(x, 0.0),
}
_ELEMENTWISE: Final[Mapping[str, Callable[..., Array]]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Sqrt": np.sqrt,
    "Tanh": np.tanh,
    "Erf": _erf,
    "Relu": lambda x: np.maximum(x, 0.0),
    "Gelu": _gelu,
    "FastGelu": _gelu_tanh,
}


def _transposed(node: Node, given: list[Array]) -> Array:
    order = node.attributes.get("perm")
    turned: Array = given[0].transpose(order if isinstance(order, list) else None)
    return turned


def _dequantized(node: Node, given: list[Array]) -> Array:
    """Integers times their scale, one for all or one along an axis."""
    numbers, scale = given[0].astype(np.float32), given[1].astype(np.float32)
    zero = given[2].astype(np.float32) if len(given) > 2 else np.zeros_like(scale)
    axis = node.attributes.get("axis", 1)
    if scale.ndim == 1 and isinstance(axis, int) and numbers.ndim > 1:
        shape = [1] * numbers.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    values: Array = (numbers - zero) * scale
    return values


def _elementwise(operator: str) -> Callable[[Node, list[Array]], Array]:
    function = _ELEMENTWISE[operator]
    return lambda _, given: function(*given)


_FOLDED: Final[Mapping[str, Callable[[Node, list[Array]], Array]]] = {
    **dict.fromkeys(_PASSING, lambda _, given: given[0]),
    "Transpose": _transposed,
    "DequantizeLinear": _dequantized,
    **{operator: _elementwise(operator) for operator in ("Add", "Sub", "Mul", "Div", "Sqrt")},
}
