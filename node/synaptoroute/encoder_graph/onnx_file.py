"""Reads and writes the part of the ONNX file format that the graphs here need.

An ONNX file is a protocol buffer: fields of a number, a wire type and a value, nested by
length.  The numbers below never change once published (the format promises that), so two
hundred lines replace the ``onnx`` package of 18 MB.  Operators are not interpreted: their
names, inputs, outputs and attributes are read.  Graphs inside of operators are not.

Source: ``onnx.proto`` of ONNX (messages ModelProto, GraphProto, NodeProto,
AttributeProto, TensorProto, ValueInfoProto) and the protocol buffers encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.errors import ModelCorrupt

AttributeValue = int | float | Sequence[int]
ReadAttribute = int | float | str | list[int] | NDArray[np.generic]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES: Final = {_FIXED64: 8, _FIXED32: 4}
_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET = 1, 7, 8
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_TENSOR, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE = 1, 2, 3, 8, 20
_ATTRIBUTE_TEXT, _ATTRIBUTE_TENSOR = 4, 5
_TYPE_FLOAT, _TYPE_INT, _TYPE_INTS = 1, 2, 7
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_TENSOR_FLOATS, _TENSOR_INT32S, _TENSOR_INT64S, _TENSOR_EXTERNAL = 4, 5, 7, 13
_DTYPES: Final[Mapping[int, np.dtype[Any]]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
}
_HALF: Final = 10
_CODES: Final[Mapping[np.dtype[Any], int]] = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of a graph, with its inputs, outputs and attributes."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, ReadAttribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Graph:
    """Operators of a graph in order, and its tensors by name."""

    nodes: tuple[Node, ...]
    tensors: Mapping[str, NDArray[np.generic]]


def read_graph(content: bytes, folder: Path | None = None) -> Graph:
    """Read operators and tensors of a model; the tensors are views of ``content``.

    Args:
        folder: Where the files of weights are that the model names; None if it names none.

    Raises:
        ModelCorrupt: The content is not a model, or a file of weights cannot be read.
    """
    try:
        model = dict(_fields(memoryview(content)))
        nodes: list[Node] = []
        tensors: dict[str, NDArray[np.generic]] = {}
        for number, value in _fields(_bytes(model[_MODEL_GRAPH])):
            if number == _GRAPH_NODE:
                nodes.append(_node(_bytes(value)))
            elif number == _GRAPH_TENSOR:
                name, tensor = _tensor(_bytes(value), folder)
                tensors[name] = tensor
    except (KeyError, IndexError, TypeError, ValueError, OSError, struct.error) as error:
        raise ModelCorrupt(f"the graph cannot be read: {error!r}") from error
    return Graph(tuple(nodes), tensors)


class GraphWriter:
    """Collects a graph and writes it as a model; used by one thread."""

    def __init__(self) -> None:
        self._parts: list[bytes] = [_text(_GRAPH_NAME, "graph")]

    def tensor(self, name: str, values: NDArray[np.generic]) -> str:
        """Add a constant; returns its name."""
        shape = b"".join(_number(_TENSOR_SHAPE, size) for size in values.shape)
        kind = _number(_TENSOR_TYPE, _CODES[values.dtype.newbyteorder("<")])
        raw = _nested(_TENSOR_RAW, np.ascontiguousarray(values).tobytes())
        self._parts.append(_nested(_GRAPH_TENSOR, shape + kind + _text(_TENSOR_NAME, name) + raw))
        return name

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        domain: str = "",
        **attributes: AttributeValue,
    ) -> None:
        """Add an operator; an empty input name stands for an omitted input."""
        parts = [_text(_NODE_INPUT, name) for name in inputs]
        parts += [_text(_NODE_OUTPUT, name) for name in outputs]
        parts += [_text(_NODE_OPERATOR, operator), _text(_NODE_DOMAIN, domain)]
        parts += [_attribute(name, value) for name, value in attributes.items()]
        self._parts.append(_nested(_GRAPH_NODE, b"".join(parts)))

    def input(self, name: str, dtype: type[np.generic], axes: Sequence[str | int]) -> None:
        """Declare an input; an axis is a size or the name of one."""
        self._parts.append(_nested(_GRAPH_INPUT, _declaration(name, dtype, axes)))

    def output(self, name: str, dtype: type[np.generic], axes: Sequence[str | int]) -> None:
        self._parts.append(_nested(_GRAPH_OUTPUT, _declaration(name, dtype, axes)))

    def model(self, ir_version: int, opsets: Mapping[str, int]) -> bytes:
        """Serialize the model; ``opsets`` holds the version of each domain."""
        parts = [_number(_MODEL_IR_VERSION, ir_version)]
        for domain, version in opsets.items():
            parts.append(_nested(_MODEL_OPSET, _text(1, domain) + _number(2, version)))
        parts.append(_nested(_MODEL_GRAPH, b"".join(self._parts)))
        return b"".join(parts)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        else:
            size = _FIXED_BYTES[kind]
        if at + size > len(data):
            raise ValueError("cut off")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read a number of seven bits a byte, low bits first; returns it and its end."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a number instead of a message")
    return value


def _node(data: memoryview) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: dict[str, ReadAttribute] = {}
    operator = ""
    for number, value in _fields(data):
        if number == _NODE_INPUT:
            inputs.append(bytes(_bytes(value)).decode())
        elif number == _NODE_OUTPUT:
            outputs.append(bytes(_bytes(value)).decode())
        elif number == _NODE_OPERATOR:
            operator = bytes(_bytes(value)).decode()
        elif number == _NODE_ATTRIBUTE:
            name, found = _read_attribute(_bytes(value))
            if found is not None:
                attributes[name] = found
    return Node(operator, tuple(inputs), tuple(outputs), attributes)


def _read_attribute(data: memoryview) -> tuple[str, ReadAttribute | None]:
    """Read name and value; the value is None for kinds that are not read, such as graphs."""
    name = ""
    found: ReadAttribute | None = None
    numbers: list[int] = []
    for number, value in _fields(data):
        if number == _ATTRIBUTE_NAME:
            name = bytes(_bytes(value)).decode()
        elif number == _ATTRIBUTE_FLOAT:
            (found,) = struct.unpack("<f", _bytes(value))
        elif number == _ATTRIBUTE_INT and isinstance(value, int):
            found = _signed(value)
        elif number == _ATTRIBUTE_TEXT:
            found = bytes(_bytes(value)).decode()
        elif number == _ATTRIBUTE_TENSOR:
            found = _tensor(_bytes(value), None)[1]
        elif number == _ATTRIBUTE_INTS:
            each = [value] if isinstance(value, int) else _packed(value)
            numbers += [_signed(one) for one in each]
    return name, numbers or found


def _tensor(data: memoryview, folder: Path | None) -> tuple[str, NDArray[np.generic]]:
    shape: list[int] = []
    name, code, raw = "", 0, memoryview(b"")
    floats = bytearray()
    numbers: list[int] = []
    external: dict[str, str] = {}
    for number, value in _fields(data):
        if number == _TENSOR_SHAPE:
            shape += [value] if isinstance(value, int) else _packed(value)
        elif number == _TENSOR_TYPE and isinstance(value, int):
            code = value
        elif number == _TENSOR_NAME:
            name = bytes(_bytes(value)).decode()
        elif number == _TENSOR_RAW:
            raw = _bytes(value)
        elif number == _TENSOR_FLOATS:
            floats += _bytes(value)
        elif number in (_TENSOR_INT32S, _TENSOR_INT64S):
            numbers += [value] if isinstance(value, int) else _packed(value)
        elif number == _TENSOR_EXTERNAL:
            pair = dict(_fields(_bytes(value)))
            external[bytes(_bytes(pair[1])).decode()] = bytes(_bytes(pair[2])).decode()
    dtype = _DTYPES.get(code)
    if dtype is None:  # types that no graph here uses, such as strings
        return name, np.empty(0, dtype=np.uint8)
    if external:
        return name, _external(folder, external, dtype, shape)
    if numbers:
        signed = np.array([_signed(each) for each in numbers])
        # Half floats are written as the integers that have the same bits.
        values = signed.astype(np.uint16).view(dtype) if code == _HALF else signed.astype(dtype)
        return name, values.reshape(shape)
    return name, np.frombuffer(bytes(floats) if floats else raw, dtype=dtype).reshape(shape)


def _external(
    folder: Path | None, place: Mapping[str, str], dtype: np.dtype[Any], shape: list[int]
) -> NDArray[np.generic]:
    """Map a tensor of a file of weights beside the model."""
    location = Path(place["location"])
    # A model may come from anywhere: it must not read files outside of its own folder.
    if folder is None or location.is_absolute() or ".." in location.parts:
        raise ValueError(f"weights in {location} are not read")
    offset = int(place.get("offset", "0"))
    return np.memmap(folder / location, dtype, "r", offset, tuple(shape))


def _packed(data: memoryview) -> list[int]:
    numbers: list[int] = []
    at = 0
    while at < len(data):
        number, at = _varint(data, at)
        numbers.append(number)
    return numbers


def _signed(value: int) -> int:
    """Read a number of 64 bits in two's complement."""
    return value - (1 << 64) if value >> 63 else value


def _number(number: int, value: int) -> bytes:
    return _written_varint(number << 3 | _VARINT) + _written_varint(value)


def _nested(number: int, payload: bytes) -> bytes:
    return _written_varint(number << 3 | _BYTES) + _written_varint(len(payload)) + payload


def _text(number: int, value: str) -> bytes:
    return _nested(number, value.encode())


def _written_varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers are written in two's complement
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _attribute(name: str, value: AttributeValue) -> bytes:
    if isinstance(value, float):
        kind = _TYPE_FLOAT
        content = _written_varint(_ATTRIBUTE_FLOAT << 3 | _FIXED32) + struct.pack("<f", value)
    elif isinstance(value, int):
        kind, content = _TYPE_INT, _number(_ATTRIBUTE_INT, value)
    else:
        kind, content = _TYPE_INTS, b"".join(_number(_ATTRIBUTE_INTS, each) for each in value)
    parts = _text(_ATTRIBUTE_NAME, name) + content + _number(_ATTRIBUTE_TYPE, kind)
    return _nested(_NODE_ATTRIBUTE, parts)


def _declaration(name: str, dtype: type[np.generic], axes: Sequence[str | int]) -> bytes:
    shape = b"".join(
        _nested(1, _number(1, axis) if isinstance(axis, int) else _text(2, axis)) for axis in axes
    )
    kind = _number(1, _CODES[np.dtype(dtype).newbyteorder("<")]) + _nested(2, shape)
    return _text(1, name) + _nested(2, _nested(1, kind))
