"""The graph session: which graphs are text encoders, and how their output is pooled.

Small graphs run on the real runtime.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from synaptoroute.encoder import Encoder
from synaptoroute.encoder.recipe import bundled_recipe
from synaptoroute.encoder.session import (
    GraphSession,
    _choose_output,
    _pool,
    normalise,
    open_session,
)
from synaptoroute.encoder_graph.onnx_file import GraphWriter
from synaptoroute.errors import EncoderError

pytestmark = pytest.mark.unit

CPU = ("CPUExecutionProvider",)
AXES = ["batch", "sequence"]
FLOAT = 1


def to_float(graph: GraphWriter, source: str = "input_ids") -> None:
    graph.node("Cast", [source], ["numbers"], to=FLOAT)
    graph.output("numbers", np.float32, AXES)


def ids_as_output(graph: GraphWriter) -> None:
    graph.node("Identity", ["input_ids"], ["ids"])
    graph.output("ids", np.int64, AXES)


def graph_file(
    folder: Path, *parts: Callable[[GraphWriter], None], source: str = "input_ids"
) -> Path:
    """Write a graph of one int64 input beside the bundled tokenizer."""
    graph = GraphWriter()
    graph.input(source, np.int64, AXES)
    for part in parts:
        part(graph)
    (folder / "model.onnx").write_bytes(graph.model(8, {"": 13}))
    (folder / "tokenizer.json").symlink_to(bundled_recipe().tokenizer_file)
    return folder / "model.onnx"


def test_open_session_does_not_keep_the_bytes_of_its_graph(tmp_path: Path) -> None:
    """Those of the bundled model have 22 MiB."""
    content = graph_file(tmp_path, to_float).read_bytes()
    references = sys.getrefcount(content)
    session = open_session(content, "graph", CPU)

    assert sys.getrefcount(content) == references
    assert session.get_providers() == [*CPU]


def test_graph_without_token_input_is_refused(tmp_path: Path) -> None:
    """The error lists its inputs."""
    graph_file(tmp_path, lambda graph: to_float(graph, "pixels"), source="pixels")

    with pytest.raises(EncoderError, match="not a text encoder: its inputs are pixels"):
        Encoder(tmp_path)


def test_output_whose_width_follows_the_text_is_refused(tmp_path: Path) -> None:
    """A vector has a fixed width."""
    graph_file(tmp_path, to_float)

    with pytest.raises(EncoderError, match="no fixed width"):
        Encoder(tmp_path)


def test_zero_vector_is_refused(tmp_path: Path) -> None:
    """It cannot be scaled to unit length."""

    def zeros(graph: GraphWriter) -> None:
        graph.node("Cast", ["input_ids"], ["numbers"], to=FLOAT)
        graph.node("Sub", ["numbers", "numbers"], ["zeros"])
        graph.output("zeros", np.float32, AXES)

    graph_file(tmp_path, zeros)

    with pytest.raises(EncoderError, match="zero or not finite"):
        Encoder(tmp_path)


def test_integer_output_is_not_read(tmp_path: Path) -> None:
    """Some exports return their inputs first; the first output of floats is read."""
    graph = graph_file(tmp_path, ids_as_output, to_float)
    session = GraphSession(graph, CPU, None, {})

    rows = session.run(np.array([[3, 4]]), np.array([2]), "none")

    assert "numbers" == session.output
    assert np.allclose([[0.6, 0.8]], rows)


def test_graph_without_float_output_is_refused(tmp_path: Path) -> None:
    """It has no vectors."""
    graph = graph_file(tmp_path, ids_as_output)

    with pytest.raises(EncoderError, match="floating-point"):
        GraphSession(graph, CPU, None, {})


def test_runtime_failure_is_an_encoder_error() -> None:
    """The message of the runtime is kept."""
    session = GraphSession(bundled_recipe().model_file, CPU, None, {})

    with pytest.raises(EncoderError, match="ONNX Runtime failed"):
        session.run(np.array([[101, 99_999_999, 102]]), np.array([3]), "mean")


def test_usual_outputs_come_before_the_first() -> None:
    """A pooled output first, then hidden states."""
    real = "tensor(float)"

    assert "sentence_embedding" == _choose_output(
        {"last_hidden_state": real, "sentence_embedding": real}, None
    )
    assert "last_hidden_state" == _choose_output({"x": real, "last_hidden_state": real}, None)
    assert "x" == _choose_output({"x": real, "sentence_embedding": real}, "x")


def test_pooling_reads_only_real_tokens() -> None:
    """Padding rows have no effect."""
    hidden = np.array([[[1.0, 2.0], [3.0, 4.0], [np.nan, np.nan]]], dtype=np.float32)
    counts = np.array([2])

    assert [[2.0, 3.0]] == _pool(hidden, counts, "mean").tolist()
    assert [[1.0, 2.0]] == _pool(hidden, counts, "cls").tolist()
    assert [[3.0, 4.0]] == _pool(hidden, counts, "last").tolist()
    with pytest.raises(EncoderError, match="shape"):
        _pool(hidden, counts, "none")


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_one_unusable_row_fails_the_run(bad: float) -> None:
    """Zero and non-finite vectors raise EncoderError."""
    with pytest.raises(EncoderError, match="zero or not finite"):
        normalise(np.array([[1.0, 0.0], [bad, 0.0]]))
