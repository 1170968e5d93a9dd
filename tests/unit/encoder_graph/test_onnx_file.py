"""ONNX files: the runtime reads what is written; broken files raise ModelCorrupt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.encoder.recipe import bundled_recipe
from synaptoroute.encoder.session import open_session, run_session
from synaptoroute.encoder_graph.onnx_file import GraphWriter, read_graph
from synaptoroute.errors import ModelCorrupt

pytestmark = pytest.mark.unit


def small_model() -> bytes:
    graph = GraphWriter()
    graph.tensor("weights", np.arange(6, dtype=np.float32).reshape(2, 3))
    graph.tensor("many", np.zeros(300, dtype=np.int64))
    graph.node("MatMul", ["x", "weights"], ["product"])
    graph.node("LeakyRelu", ["product"], ["leaky"], alpha=0.5)
    graph.node("Transpose", ["leaky"], ["y"], perm=[1, 0])
    graph.input("x", np.float32, ["n", 2])
    graph.output("y", np.float32, [3, "n"])
    return graph.model(9, {"": 17})


def test_runtime_computes_what_was_written() -> None:
    """With tensors, inputs and attributes of every kind."""
    session = open_session(small_model(), "small", ["CPUExecutionProvider"])

    found = run_session(session, "y", {"x": np.array([[1.0, -1.0]], dtype=np.float32)})

    assert [[-1.5], [-1.5], [-1.5]] == found.tolist()


def test_reading_returns_what_was_written() -> None:
    """Operators keep their order, tensors their values."""
    graph = read_graph(small_model())

    assert ["MatMul", "LeakyRelu", "Transpose"] == [node.operator for node in graph.nodes]
    assert ("x", "weights") == graph.nodes[0].inputs
    assert ("product",) == graph.nodes[0].outputs
    assert [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] == graph.tensors["weights"].tolist()
    assert (300,) == graph.tensors["many"].shape


def test_bundled_model_is_read() -> None:
    """A file written by other tools, with int8 weights and a scale for each column."""
    graph = read_graph(bundled_recipe().model_file.read_bytes())

    assert 48 == sum(node.operator == "MatMul" for node in graph.nodes)
    assert (np.int8, (384, 384)) == (
        graph.tensors["val_49_q"].dtype,
        graph.tensors["val_49_q"].shape,
    )
    assert (1, 384) == graph.tensors["val_49_scale"].shape


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x3a\x7f", b"\x38\x01", b"not a model"])
def test_invalid_file_is_corrupt(content: bytes) -> None:
    """Empty, endless, truncated, a number instead of a graph, a text."""
    with pytest.raises(ModelCorrupt):
        read_graph(content)


@given(st.integers(0, len(small_model()) - 1), st.integers(0, 255))
def test_changed_byte_never_crashes_the_reader(place: int, value: int) -> None:
    """The result is a graph or ModelCorrupt."""
    content = bytearray(small_model())
    content[place] = value
    try:
        read_graph(bytes(content))
    except ModelCorrupt:
        return
