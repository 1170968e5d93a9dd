"""Packing of models that are not bundled: graphs of exporters, the check, and fallbacks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from encoders import text_of
from small_encoders import NAMES, small_encoder
from synaptoroute.encoder import Encoder
from synaptoroute.encoder.catalogue import find_recipe
from synaptoroute.encoder.packed_model import PackedModel, find_packed, load_packed
from synaptoroute.encoder.packed_session import STEPS, PackedSession, width_of
from synaptoroute.encoder.recipe import Pooling
from synaptoroute.encoder_graph import bert_reader, packing
from synaptoroute.encoder_graph.bert_reader import UnknownGraph, read_weights, relative_scores
from synaptoroute.encoder_graph.onnx_file import GraphWriter, read_graph
from synaptoroute.encoder_graph.packed_graph import Float32Graph
from synaptoroute.encoder_graph.packing import pack_model
from synaptoroute.encoder_graph.weights import Linear, Weights, fold_biases, quantise
from synaptoroute.errors import ConfigError, EncoderError, ModelCorrupt
from synaptoroute.router import AdaptiveRouter

pytestmark = pytest.mark.unit

TEXTS = ["a", "where is my parcel", "", "refund", *(text_of(1 + 3 * n, n) for n in range(12))]


def packed_of(folder: Path, cache: Path, precision: str = "float32") -> PackedModel:
    return pack_model(find_recipe(folder), precision, cache)  # type: ignore[arg-type]


def allow_every_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights of 32 dimensions lose more to rounding than trained ones of 384."""
    limits = {**packing.LIMITS, "int8": packing._Limits(0.8, 0.0, 1.0)}
    monkeypatch.setattr(packing, "LIMITS", limits)


@pytest.mark.parametrize(
    ("name", "pooling"), [*((name, "mean") for name in NAMES), ("bert", "cls"), ("mpnet", "last")]
)
def test_float32_graph_has_the_vectors_and_the_fingerprint_of_the_file(
    name: str, pooling: str, tmp_path: Path
) -> None:
    """For each architecture and exporter."""
    folder = small_encoder(name, tmp_path / name, pooling)
    padded = Encoder(folder, cache_dir=tmp_path)
    found = packed_of(folder, tmp_path)
    packed = Encoder(folder, cache_dir=tmp_path)

    assert ("", "not prepared", "") == (found.reason, padded.why_padded, packed.why_padded)
    assert padded.fingerprint == packed.fingerprint
    vectors = packed.encode(TEXTS)
    cosines = (padded.encode(TEXTS) * vectors).sum(axis=1)
    assert cosines.min() > (0.9999 if "float16" in name else 0.999999)
    assert np.array_equal(vectors, np.concatenate([packed.encode([text]) for text in TEXTS]))
    assert np.array_equal(vectors[::-1], packed.encode(TEXTS[::-1]))
    assert 0 == packed.stats().padding_tokens < padded.stats().padding_tokens


@pytest.mark.parametrize("name", ["bert", "mpnet", "xlm_roberta"])
def test_int8_graph_is_invariant_and_has_a_fingerprint_of_its_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every text has the same bits alone and among others."""
    allow_every_int8(monkeypatch)
    folder = small_encoder(name, tmp_path / name)
    padded = Encoder(folder, cache_dir=tmp_path)
    found = packed_of(folder, tmp_path, "int8")
    packed = Encoder(folder, precision="int8", cache_dir=tmp_path)

    assert "" == found.reason
    assert padded.fingerprint != packed.fingerprint
    vectors = packed.encode(TEXTS)
    assert (padded.encode(TEXTS) * vectors).sum(axis=1).min() > 0.9
    assert np.array_equal(vectors, np.concatenate([packed.encode([text]) for text in TEXTS]))
    assert np.array_equal(vectors[::-1], packed.encode(TEXTS[::-1]))


@pytest.mark.parametrize(("name", "pooling"), [("bert", "cls"), ("mpnet", "last")])
def test_last_layer_of_a_graph_pooled_by_one_row_goes_on_with_that_row(
    name: str, pooling: Pooling, tmp_path: Path
) -> None:
    """The vectors are those of a graph that returns every row, as earlier releases wrote it."""
    onnx = small_encoder(name, tmp_path / name, pooling) / "model.onnx"
    weights = read_weights(read_graph(onnx.read_bytes()), "last_hidden_state")
    counts = np.array([5, 2, 7])
    ids = np.random.default_rng(1).integers(5, 100, (3, width_of(7)))
    found = []
    for graph in (Float32Graph(weights), Float32Graph(weights, pooling)):
        session = PackedSession(graph.write(), name, ["CPUExecutionProvider"], weights.heads)
        found.append(session.run(ids, counts, pooling))

    every, ends = found
    assert np.abs(every - ends).max() < 1e-6
    assert (3, 32) == ends.shape
    alone = [session.run(ids[[row]], counts[[row]], pooling)[0] for row in range(3)]
    assert np.array_equal(ends, np.stack(alone))


def test_folded_biases_give_the_same_layer(tmp_path: Path) -> None:
    """Factors move from the products that read the rows of a residual into those rows."""
    onnx = small_encoder("bert", tmp_path / "bert") / "model.onnx"
    weights = read_weights(read_graph(onnx.read_bytes()), "last_hidden_state")
    folded = fold_biases(weights)
    rows = np.random.default_rng(1).standard_normal((4, weights.dim)).astype(np.float32)
    before, after = weights.layers[0], folded.layers[0]
    shifted = rows + folded.norm.bias - weights.norm.bias

    expected = rows @ before.attention.weights + before.attention.bias
    assert np.allclose(
        expected, shifted @ after.attention.weights + after.attention.bias, atol=1e-5
    )
    assert np.allclose(rows + before.projection.bias, shifted, atol=1e-6)
    assert np.array_equal(weights.layers[-1].at_end.bias, folded.layers[-1].at_end.bias)
    assert not np.array_equal(before.at_end.bias, after.at_end.bias)


def test_int8_is_refused_without_a_prepared_graph(tmp_path: Path) -> None:
    """The message names the command."""
    folder = small_encoder("bert", tmp_path / "bert")

    with pytest.raises(ConfigError, match=r"model prepare .* --precision int8"):
        Encoder(folder, precision="int8", cache_dir=tmp_path)


def test_graph_with_other_vectors_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that misses a part of a graph is found out by the check."""

    def misread(graph: object, output: str) -> Weights[Linear]:
        weights = read_weights(graph, output)  # type: ignore[arg-type]
        turned = weights.layers[::-1]
        return Weights(
            weights.words,
            None,
            weights.places,
            weights.norm,
            turned,
            weights.heads,
            weights.activation,
        )

    monkeypatch.setattr(packing, "read_weights", misread)
    folder = small_encoder("bert", tmp_path / "bert")
    found = packed_of(folder, tmp_path)
    encoder = Encoder(folder, cache_dir=tmp_path)

    assert found.reason.startswith("cosine ")
    assert found.reason == encoder.why_padded
    assert not list(tmp_path.rglob("*.graph"))
    packed_of(folder, tmp_path, "int8")
    with pytest.raises(ConfigError, match="cannot be used"):
        Encoder(folder, precision="int8", cache_dir=tmp_path)


def test_unknown_graph_is_padded_with_a_reason(tmp_path: Path) -> None:
    """A model of another kind goes on as it is."""
    folder = small_encoder("bert", tmp_path / "bert")
    graph = GraphWriter()
    graph.tensor("words", np.random.default_rng(1).random((120, 8), dtype=np.float32))
    graph.node("Gather", ["words", "input_ids"], ["last_hidden_state"])
    graph.input("input_ids", np.int64, ["n", "length"])
    graph.output("last_hidden_state", np.float32, ["n", "length", 8])
    (folder / "model.onnx").write_bytes(graph.model(8, {"": 14}))
    found = packed_of(folder, tmp_path)

    assert "Gather stands where a normalisation is expected" in found.reason
    assert found.reason == Encoder(folder, cache_dir=tmp_path).why_padded


def test_damaged_graph_is_not_used(tmp_path: Path) -> None:
    """Float32 goes on with the model's file; int8 has nothing else to go on with."""
    folder = small_encoder("bert", tmp_path / "bert")
    found = packed_of(folder, tmp_path)
    assert found.folder is not None
    (path,) = found.folder.glob("*.graph")
    content = bytearray(path.read_bytes())
    content[-300] ^= 1
    path.write_bytes(content)

    assert "not the graph that was checked" in Encoder(folder, cache_dir=tmp_path).why_padded


def test_graph_that_computes_other_vectors_here_is_not_used(tmp_path: Path) -> None:
    """The probe is compared at every load."""
    folder = small_encoder("bert", tmp_path / "bert")
    found = packed_of(folder, tmp_path)
    assert found.folder is not None
    record = found.folder / f"packed-{found.key}.json"
    content = json.loads(record.read_text())
    content["probe"][0]["vector"] = content["probe"][1]["vector"]
    record.write_text(json.dumps(content))

    assert "on this machine" in Encoder(folder, cache_dir=tmp_path).why_padded


def test_changed_model_has_no_packed_graph(tmp_path: Path) -> None:
    """The graph belongs to the exact file, and to how it is pooled."""
    folder = small_encoder("bert", tmp_path / "bert")
    packed_of(folder, tmp_path)
    (folder / "synaptoroute.json").write_text('{"pooling": "cls"}')
    assert "not prepared" == Encoder(folder, cache_dir=tmp_path).why_padded

    small_encoder("bert_dynamo", folder)
    assert "not prepared" == Encoder(folder, cache_dir=tmp_path).why_padded


def test_graph_beside_the_model_travels_with_it(tmp_path: Path) -> None:
    """A copy of the folder needs no cache, and still has one graph of the usual kind."""
    folder = small_encoder("bert", tmp_path / "bert")
    (folder / "model.onnx").rename(folder / "own.onnx")
    pack_model(find_recipe(folder), "float32", tmp_path / "cache", beside=folder)
    moved = folder.rename(tmp_path / "moved")

    assert "" == Encoder(moved, cache_dir=tmp_path / "other").why_padded


def test_record_of_another_release_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Damaged, foreign and oversized files."""
    path = tmp_path / "packed-x.json"
    for content in (b"{", b"[]", b'{"format": "other"}', b" " * (1 << 20) + b"{}"):
        path.write_bytes(content)
        assert load_packed(path) is None
    assert 4 == len(caplog.records)


def test_second_packing_returns_what_is_known(tmp_path: Path) -> None:
    """Nothing is authored again."""
    folder = small_encoder("bert", tmp_path / "bert")
    first = packed_of(folder, tmp_path)
    recipe = find_recipe(folder)

    assert first == pack_model(recipe, "float32", tmp_path)
    assert find_packed(recipe, "0" * 64, "float32", tmp_path) is None


def test_node_says_why_a_graph_is_padded(tmp_path: Path) -> None:
    """Beside the other details of its encoders."""
    folder = small_encoder("bert", tmp_path / "bert")
    packed_of(folder, tmp_path / "packed")
    found = []
    for cache in (tmp_path / "empty", tmp_path / "packed"):
        router = AdaptiveRouter(Encoder(folder, cache_dir=cache))
        details = asyncio.run(router.diagnostics.encoders()).details
        router.close()
        found += [each.why_padded for each in details.values()]

    assert ["not prepared", ""] == found


def test_int8_weights_cannot_saturate_16_bits(tmp_path: Path) -> None:
    """Two products of a byte of at most 127 with a weight fit, as in the bundled graph."""
    graph = read_graph((small_encoder("bert", tmp_path / "bert") / "model.onnx").read_bytes())
    weights = quantise(read_weights(graph, "last_hidden_state"))

    for layer in weights.layers:
        for each in (layer.attention, layer.projection, layer.wide, layer.narrow):
            assert 2 * STEPS * int(np.abs(each.numbers.astype(np.int64)).max()) <= 32_767


def test_other_providers_are_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed graph is checked on the CPU alone."""
    folder = small_encoder("bert", tmp_path / "bert")
    packed_of(folder, tmp_path)
    both = ("AzureExecutionProvider", "CPUExecutionProvider")
    monkeypatch.setattr("synaptoroute.encoder.onnx_encoder.check_providers", lambda _: None)

    assert "it runs on" in Encoder(folder, cache_dir=tmp_path, providers=both).why_padded


def test_relative_scores_spread_a_table_over_distances() -> None:
    """Near places have a bucket each; far ones share theirs, by direction."""
    table = np.arange(32, dtype=np.float32)[:, None]
    (spread,) = relative_scores(table, 200)
    by_distance = dict(zip(range(-199, 200), spread.tolist(), strict=True))

    assert [0, 1, 7, 8, 15, 15] == [by_distance[-each] for each in (0, 1, 7, 8, 127, 199)]
    assert [17, 23, 24, 31] == [by_distance[each] for each in (1, 7, 8, 199)]


def test_integer_weights_are_not_read() -> None:
    """A model with quantised products is none of floats."""
    with pytest.raises(UnknownGraph, match="int8, not floats"):
        bert_reader._floats(np.zeros(3, dtype=np.int8))


def test_weights_outside_of_the_folder_are_not_read(tmp_path: Path) -> None:
    """A model cannot name files of the machine as its weights."""
    onnx = small_encoder("bert", tmp_path / "bert") / "model.onnx"
    # dims 1, float32, name "w", external location "../../secret"
    pair = b"\x0a\x08location\x12\x0c../../secret"
    tensor = b"\x08\x01\x10\x01\x42\x01w\x6a" + bytes([len(pair)]) + pair
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    content = b"\x3a" + bytes([len(graph)]) + graph

    with pytest.raises(ModelCorrupt, match="are not read"):
        read_graph(content, onnx.parent)
    with pytest.raises((EncoderError, ModelCorrupt)):
        read_graph(content)
