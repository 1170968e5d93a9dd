"""Graphs of one integer product each: for the exactness check, and for scoring."""

from __future__ import annotations

import numpy as np

from synaptoroute.encoder.self_check import extreme_weights
from synaptoroute.encoder_graph.int8_graph import RUNTIME_DOMAIN, graph_model
from synaptoroute.encoder_graph.onnx_file import GraphWriter

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
    """``(rows - zero) @ columns`` in int32, of any shape; see ``encoder.integer_product``."""
    graph = GraphWriter()
    graph.node("MatMulInteger", ["rows", "columns", "zero"], ["products"])
    graph.input("rows", np.uint8, ["n", "dim"])
    graph.input("columns", np.int8, ["dim", "m"])
    graph.input("zero", np.uint8, [])
    graph.output("products", np.int32, ["n", "m"])
    return graph.model(_IR_VERSION, {"": _OPSET})
