"""Goal: a graph that is no text encoder is refused when it is opened.

Method: tiny graphs, written field by field in ONNX's wire format, run by the
real runtime.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from synaptoroute.encoder import Encoder
from synaptoroute.encoder.bundled import bundled_recipe
from synaptoroute.encoder.session import GraphSession, _choose_output, _pool, normalise
from synaptoroute.errors import EncoderError

pytestmark = pytest.mark.unit

CPU = ("CPUExecutionProvider",)
FLOAT, INT64 = 1, 7


def varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    payload = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def tensor(name: str, kind: int) -> bytes:
    shape = b"".join(field(1, field(2, axis)) for axis in ("batch", "sequence"))
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))


def node(op: str, sources: list[str], target: str, attribute: bytes = b"") -> bytes:
    return b"".join(field(1, s) for s in sources) + field(2, target) + field(4, op) + attribute


def to_float(source: str) -> bytes:
    attribute = field(1, "to") + field(3, FLOAT) + field(20, 2)
    return node("Cast", [source], "numbers", field(5, attribute))


def graph_file(
    folder: Path, nodes: list[bytes], outputs: dict[str, int], source: str = "input_ids"
) -> Path:
    """Write a graph of one int64 input beside the bundled tokenizer."""
    graph = b"".join(field(1, part) for part in nodes) + field(2, "g")
    graph += field(11, tensor(source, INT64))
    graph += b"".join(field(12, tensor(name, kind)) for name, kind in outputs.items())
    model = field(1, 8) + field(8, field(2, 13)) + field(7, graph)
    (folder / "model.onnx").write_bytes(model)
    (folder / "tokenizer.json").symlink_to(bundled_recipe().tokenizer_file)
    return folder / "model.onnx"


def test_graph_without_token_input_is_refused(tmp_path: Path) -> None:
    """The error lists its inputs."""
    graph_file(tmp_path, [to_float("pixels")], {"numbers": FLOAT}, source="pixels")

    with pytest.raises(EncoderError, match="not a text encoder: its inputs are pixels"):
        Encoder(tmp_path)


def test_output_whose_width_follows_the_text_is_refused(tmp_path: Path) -> None:
    """A vector has a fixed width."""
    graph_file(tmp_path, [to_float("input_ids")], {"numbers": FLOAT})

    with pytest.raises(EncoderError, match="no fixed width"):
        Encoder(tmp_path)


def test_zero_vector_is_refused(tmp_path: Path) -> None:
    """It cannot be scaled to unit length."""
    nodes = [to_float("input_ids"), node("Sub", ["numbers", "numbers"], "zeros")]
    graph_file(tmp_path, nodes, {"zeros": FLOAT})

    with pytest.raises(EncoderError, match="zero or not finite"):
        Encoder(tmp_path)


def test_integer_output_is_not_read(tmp_path: Path) -> None:
    """Some exports return their inputs first; the first output of floats is read."""
    nodes = [node("Identity", ["input_ids"], "ids"), to_float("input_ids")]
    graph = graph_file(tmp_path, nodes, {"ids": INT64, "numbers": FLOAT})
    session = GraphSession(graph, CPU, None, {})

    rows = session.run(np.array([[3, 4]]), np.array([2]), "none")

    assert "numbers" == session.output
    assert np.allclose([[0.6, 0.8]], rows)


def test_graph_without_float_output_is_refused(tmp_path: Path) -> None:
    """It has no vectors."""
    graph = graph_file(tmp_path, [node("Identity", ["input_ids"], "ids")], {"ids": INT64})

    with pytest.raises(EncoderError, match="real numbers"):
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
