"""Builds the graph files that ship with the encoder.

The int8 graph has 23 MB, nearly all of it tensors of the bundled model's file.  It ships as
a list of parts: bytes of its own (``inline``), ranges of the model file (``copy``), and two
kinds of tensor that are put together from such ranges: matrices side by side (``columns``),
and int8 rows times a scale plus one row (``dequantized``).  ``encoder.packed_session``
joins the parts to exactly the graph that ``int8_graph`` writes.  Two more graphs hold one
integer product each: for the exactness check, and for scoring.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

import synaptoroute.encoder
from synaptoroute.encoder.integer_product import GRAPH_FILE
from synaptoroute.encoder.packed_session import GRAPH_INLINE, GRAPH_PARTS
from synaptoroute.encoder.recipe import DATA, bundled_recipe
from synaptoroute.encoder.self_check import PRODUCT_DEPTHS, extreme_weights, product_file
from synaptoroute.encoder_graph.int8_graph import EMBEDDINGS, int8_graph
from synaptoroute.encoder_graph.onnx_file import GraphWriter, read_graph
from synaptoroute.encoder_graph.packed_graph import PLACES
from synaptoroute.encoder_graph.weights import RUNTIME_DOMAIN, graph_model
from synaptoroute.errors import ModelCorrupt

_COPIED_BYTES_MIN: Final = 1_000
_COLUMN_BLOCKS: Final = 3
_FOLDER: Final = Path(synaptoroute.encoder.__file__).parent / "data"

Part = list[str | int]


def build_files() -> dict[Path, bytes]:
    """Author every shipped graph; the content of each file by its path."""
    model = bundled_recipe().model_file.read_bytes()
    parts, inline = split_graph(int8_graph(model), model)
    lines = ",\n".join(json.dumps(part) for part in parts)
    return {
        DATA / GRAPH_PARTS: f"[\n{lines}\n]\n".encode(),
        DATA / GRAPH_INLINE: inline,
        _FOLDER / GRAPH_FILE: scoring_graph(),
        **{_FOLDER / product_file(depth): check_graph(depth) for depth in PRODUCT_DEPTHS},
    }


def split_graph(graph: bytes, model: bytes) -> tuple[list[Part], bytes]:
    """Split a graph into parts and the bytes that are not found in the model file."""
    start = np.frombuffer(graph, np.uint8).ctypes.data
    tensors = sorted(
        (tensor.ctypes.data - start, name, tensor)
        for name, tensor in read_graph(graph).tensors.items()
        if tensor.nbytes >= _COPIED_BYTES_MIN
    )
    parts: list[Part] = []
    inline = bytearray()
    done = 0
    for at, name, tensor in tensors:
        part = _positions(model) if name == PLACES else _find(model, tensor)
        if part is None:
            continue
        parts += [["inline", at - done], part]
        inline += graph[done:at]
        done = at + tensor.nbytes
    parts.append(["inline", len(graph) - done])
    inline += graph[done:]
    return parts, bytes(inline)


def _find(model: bytes, tensor: NDArray[np.generic]) -> Part | None:
    """Find a tensor in the model file, as a whole or as matrices side by side."""
    at = model.find(tensor.tobytes())
    if at >= 0:
        return ["copy", at, tensor.nbytes]
    if tensor.dtype != np.int8 or tensor.shape[1] % _COLUMN_BLOCKS:
        return None
    blocks = np.split(tensor, _COLUMN_BLOCKS, axis=1)
    starts = [model.find(block.tobytes()) for block in blocks]
    if min(starts) < 0:
        return None
    return ["columns", *blocks[0].shape, *starts]


def _positions(model: bytes) -> Part:
    """The position embeddings, in full size, with the row of the only token type added."""
    start = np.frombuffer(model, np.uint8).ctypes.data
    tensors = read_graph(model).tensors
    names = ("position_embeddings.weight_q", "position_embeddings.weight_scale")
    try:
        numbers, scales = (tensors[EMBEDDINGS + name] for name in names)
        types = tensors[EMBEDDINGS + "token_type_embeddings.weight"]
    except KeyError as error:
        raise ModelCorrupt(f"not the bundled model's graph: {error!r}") from error
    starts = [tensor.ctypes.data - start for tensor in (numbers, scales, types)]
    return ["dequantized", *numbers.shape, *starts]


# --- graphs of one integer product -------------------------------------------------------


_IR_VERSION = 8
_OPSET = 13


def check_graph(depth: int) -> bytes:
    """Bytes times extreme weights, by the operator of the int8 graph."""
    weights = extreme_weights(depth)
    graph = GraphWriter()
    graph.tensor("one", np.array(1, dtype=np.float32))
    # Constants, not an input: the runtime packs constant weights for its fast kernels.
    graph.tensor("weights", weights)
    graph.tensor("ones", np.ones(weights.shape[1], dtype=np.float32))
    names = ["rows", "weights", "one", "ones", "zero"]
    graph.node("MatMulIntegerToFloat", names, ["products"], RUNTIME_DOMAIN)
    graph.input("rows", np.uint8, ["n", weights.shape[0]])
    graph.input("zero", np.uint8, [])
    graph.output("products", np.float32, ["n", weights.shape[1]])
    return graph_model(graph)


def scoring_graph() -> bytes:
    """``(queries - zero) @ blocks`` in int32; see ``encoder.integer_product``."""
    graph = GraphWriter()
    graph.node("MatMulInteger", ["queries", "blocks", "zero"], ["products"])
    graph.input("queries", np.uint8, [1, "n", "dim"])
    graph.input("blocks", np.int8, ["m", "dim", "width"])
    graph.input("zero", np.uint8, [])
    graph.output("products", np.int32, ["m", "n", "width"])
    return graph.model(_IR_VERSION, {"": _OPSET})
