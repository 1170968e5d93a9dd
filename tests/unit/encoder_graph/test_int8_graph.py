"""The int8 graph: what its operators compute, on the real bundled model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders import text_of
from synaptoroute.encoder import Encoder, packed_session
from synaptoroute.encoder.packed_session import HEADS, MIDDLE, STEPS, feeds, pack, width_of
from synaptoroute.encoder.recipe import bundled_recipe, probe_file
from synaptoroute.encoder.self_check import COSINE_MIN_BY_PRECISION, PROBE_TEXTS, check_probe
from synaptoroute.encoder.session import open_session, run_session
from synaptoroute.encoder_graph.int8_graph import (
    LAYERS,
    MIDDLE_MAX,
    SCORE_MAX,
    BundledWeights,
    Int8Graph,
    bundled_weights,
    int8_graph,
)
from synaptoroute.encoder_graph.onnx_file import GraphWriter, read_graph
from synaptoroute.encoder_graph.weights import graph_model
from synaptoroute.errors import ModelCorrupt

pytestmark = pytest.mark.unit

CPU = ["CPUExecutionProvider"]
INT16_MAX = 32_767
SCORES_SEEN_MAX = 72.0


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    opened = Encoder(precision="int8")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def content() -> bytes:
    return bundled_recipe().model_file.read_bytes()


def test_masked_places_have_no_effect(encoder: Encoder, content: bytes) -> None:
    """Places beyond the end of a text do not change its rows."""
    session = open_session(int8_graph(content), "int8", CPU, is_final=True)
    (tokens,) = encoder.tokenize(["where is my parcel"])
    packed = pack(np.array([tokens.count]), 16, HEADS)
    given = feeds(tokens.ids, packed)
    expected = run_session(session, "hidden", given)

    for name in ("queries", "keys", "values"):
        given[name] = given[name].copy()
        given[name][..., tokens.count :] = 3

    assert np.array_equal(expected, run_session(session, "hidden", given))


@pytest.mark.parametrize("seed", [0, 1])
def test_rounding_of_another_cpu_passes_the_probe(
    monkeypatch: pytest.MonkeyPatch, content: bytes, seed: int
) -> None:
    """Sound CPUs differ by about 1e-7 in the normalisations."""
    draw = np.random.default_rng(seed)
    read = BundledWeights.floats

    def differ(graph: BundledWeights, name: str) -> NDArray[np.float32]:
        values = read(graph, name)
        factors = 1 + 1e-7 * draw.standard_normal(values.shape)
        return (values * factors).astype(np.float32) if name.endswith("Norm.weight") else values

    monkeypatch.setattr(BundledWeights, "floats", differ)
    perturbed = int8_graph(content)
    monkeypatch.setattr(packed_session, "assemble_graph", lambda *_: perturbed)
    other = Encoder(precision="int8", probe=False)

    assert check_probe(other.encode, probe_file(), 0.0) > COSINE_MIN_BY_PRECISION["int8"]


def test_every_row_uses_its_whole_grid_of_seven_bits(content: bytes) -> None:
    """Before every kind of product each row reaches both ends of its grid."""
    author = Int8Graph(bundled_weights(read_graph(content)))
    author.write()
    for name in ("embedded_q", "layer3_middle_q", "layer3_gelu_q", "layer5_attention_q"):
        author.writer.output(name, np.uint8, ["t", 1_536 if "gelu" in name else 384])
    session = open_session(graph_model(author.writer), "int8", CPU, is_final=True)
    counts = np.array([5, 16, 9])
    given = feeds(np.random.default_rng(1).integers(1_000, 30_000, 30), pack(counts, 16, HEADS))

    for name in ("embedded_q", "layer3_middle_q"):
        steps = run_session(session, name, given)
        assert [0] * 30 == steps.min(axis=1).tolist()
        assert [STEPS] * 30 == steps.max(axis=1).tolist()
    steps = run_session(session, "layer3_gelu_q", given)
    assert [STEPS] * 30 == steps.max(axis=1).tolist()
    about_zero = run_session(session, "layer5_attention_q", given).astype(np.int64) - MIDDLE
    assert [MIDDLE_MAX] * 30 == np.abs(about_zero).max(axis=1).tolist()


def test_no_attention_score_is_clipped(encoder: Encoder, content: bytes) -> None:
    """Texts of all kinds stay below the limit."""
    author = Int8Graph(bundled_weights(read_graph(content)))
    author.write()
    names = [f"layer{layer}_scores" for layer in range(LAYERS)]
    for name in names:
        author.writer.output(name, np.float32, ["n", HEADS, "width", "width"])
    session = open_session(graph_model(author.writer), "int8", CPU, is_final=True)
    strange = ["", "a", "!" * 300, "0 1 " * 100, "日本語のテキスト", "ß" * 90, "x" * 500]
    greatest = 0.0
    for text in [*PROBE_TEXTS, *strange, *(text_of(1 + 3 * n, n) for n in range(40))]:
        (tokens,) = encoder.tokenize([text])
        packed = pack(np.array([tokens.count]), width_of(tokens.count), HEADS)
        for name in names:
            scores = run_session(session, name, feeds(tokens.ids, packed))
            greatest = max(greatest, float(np.abs(scores).max()))

    assert greatest < SCORES_SEEN_MAX < SCORE_MAX


def test_pairs_of_products_fit_16_bits(content: bytes) -> None:
    """The 16-bit sums of CPUs without VNNI cannot saturate with these weights."""
    tensors = read_graph(int8_graph(content)).tensors
    weights = [each for each in tensors.values() if each.dtype == np.int8 and len(each) <= 1_536]

    assert 24 == len(weights)
    for each in weights:
        assert 2 * STEPS * int(np.abs(each.astype(np.int64)).max()) <= INT16_MAX


def test_another_model_is_refused() -> None:
    """A readable graph without the tensor names of the bundled model."""
    graph = GraphWriter()
    graph.tensor("x", np.zeros(3, dtype=np.float32))

    with pytest.raises(ModelCorrupt, match="not the bundled model"):
        int8_graph(graph.model(9, {"": 17}))
