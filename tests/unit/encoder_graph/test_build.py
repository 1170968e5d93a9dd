"""The graph files that ship with the encoder are those that the authoring writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from synaptoroute.encoder.packed_session import (
    GRAPH_INLINE,
    GRAPH_PARTS,
    WORDS,
    assemble_graph,
    words_of,
)
from synaptoroute.encoder.recipe import DATA, bundled_recipe
from synaptoroute.encoder_graph.build import build_files
from synaptoroute.encoder_graph.int8_graph import int8_graph
from synaptoroute.encoder_graph.onnx_file import read_graph
from synaptoroute.errors import ModelCorrupt

pytestmark = pytest.mark.unit


def test_shipped_files_are_repeated_byte_for_byte() -> None:
    """`python -m synaptoroute.encoder_graph build` changes nothing."""
    for path, content in build_files().items():
        assert content == path.read_bytes(), path.name


def test_assembled_graph_is_the_authored_one() -> None:
    """The encoder opens exactly the bytes that the authoring writes."""
    model = bundled_recipe().model_file.read_bytes()

    assert int8_graph(model) == assemble_graph(model, DATA)


def test_shipped_files_are_small() -> None:
    """The tensors of the model file are not shipped a second time."""
    assert sum((DATA / name).stat().st_size for name in (GRAPH_PARTS, GRAPH_INLINE)) < 250_000


def test_missing_or_unreadable_parts_are_reported(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(ModelCorrupt, match=GRAPH_PARTS):
        assemble_graph(b"", tmp_path)
    (tmp_path / GRAPH_PARTS).write_text("not JSON")
    with pytest.raises(ModelCorrupt, match=GRAPH_PARTS):
        assemble_graph(b"", tmp_path)


def test_words_are_those_of_the_graph() -> None:
    model = bundled_recipe().model_file.read_bytes()
    tensors = read_graph(assemble_graph(model, DATA)).tensors

    assert np.array_equal(tensors[WORDS], words_of(model, DATA))
