"""Goal: integer products, and still one text, one vector.  Method: the real bundled model."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders import text_of
from synaptoroute.config import DEFAULT_MODEL
from synaptoroute.encoder import (
    Encoder,
    HashEncoder,
    exactness,
    open_encoder,
)
from synaptoroute.encoder.bundled import bundled_recipe, probe_file
from synaptoroute.encoder.bundled_weights import HEADS, LAYERS, BundledWeights
from synaptoroute.encoder.int8_graph import (
    MIDDLE,
    MIDDLE_MAX,
    SCORE_MAX,
    STEPS,
    _Int8Graph,
    graph_model,
    int8_graph,
)
from synaptoroute.encoder.onnx_wire import GraphWriter, read_graph
from synaptoroute.encoder.packed_session import feeds
from synaptoroute.encoder.packing import pack, width_of
from synaptoroute.encoder.probe import COSINE_MIN_BY_PRECISION, PROBE_TEXTS, check_probe
from synaptoroute.encoder.session import open_session, run_session
from synaptoroute.errors import ConfigError, EncoderError, ModelCorrupt

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


@pytest.mark.parametrize("words_count", [0, 1, 13, 14, 15, 70])
def test_vector_has_the_same_bits_in_every_company(encoder: Encoder, words_count: int) -> None:
    """Alone, and among 31 others of every length mix, at every place: no bit differs."""
    text = text_of(words_count, seed=words_count)
    mixes = {
        "equal": [words_count] * 31,
        "near": [words_count + n % 2 for n in range(31)],
        "same width": [12 + n % 3 for n in range(31)],
        "shorter": [1 + n % 11 for n in range(31)],
        "longer": [13 + n % 25 for n in range(31)],
        "spread": [1 + 2 * n for n in range(31)],
        "extremes": [0 if n % 2 else 120 for n in range(31)],
    }
    (alone,) = encoder.encode([text])
    for number, lengths in enumerate(mixes.values()):
        others = [text_of(length, seed=100 + i) for i, length in enumerate(lengths)]
        place = 31 if number == 6 else 5 * number
        among = encoder.encode([*others[:place], text, *others[place:]])[place]

        assert np.array_equal(alone, among)


def test_every_text_of_a_random_crowd_keeps_its_bits(encoder: Encoder) -> None:
    """All 64 texts of a mixed batch have the vectors they have alone."""
    draw = random.Random(11)
    texts = [text_of(draw.randint(0, 60), seed) for seed in range(64)]

    alone = np.concatenate([encoder.encode([text]) for text in texts])

    assert 0.0 == float(np.abs(encoder.encode(texts) - alone).max())


def test_masked_places_count_nothing(encoder: Encoder, content: bytes) -> None:
    """What stands beyond a text's end in attention cannot be seen in its rows."""
    session = open_session(int8_graph(content), "int8", CPU, is_final=True)
    (tokens,) = encoder.tokenize(["where is my parcel"])
    packed = pack(np.array([tokens.count]), 16, HEADS)
    given = feeds(tokens.ids, packed)
    expected = run_session(session, "hidden", given)

    for name in ("queries", "keys", "values"):
        given[name] = given[name].copy()
        given[name][..., tokens.count :] = 3

    assert np.array_equal(expected, run_session(session, "hidden", given))


def test_two_threads_get_the_same_bits(encoder: Encoder) -> None:
    """One session shared by two lanes answers as it does alone."""
    texts = [text_of(1 + n % 23, n) for n in range(48)]
    expected = encoder.encode(texts)
    answers: list[bool] = []

    def lane() -> None:
        answers.extend(np.array_equal(expected, encoder.encode(texts)) for _ in range(3))

    lanes = [threading.Thread(target=lane) for _ in range(2)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()

    assert [True] * 6 == answers


def test_cutting_the_work_changes_no_bit(encoder: Encoder) -> None:
    """Micro-batches of one text and of hundreds of tokens agree."""
    small = Encoder(precision="int8", micro_batch_tokens_max=1, probe=False)
    texts = [text_of(1 + n, n) for n in range(20)]

    assert np.array_equal(encoder.encode(texts), small.encode(texts))
    assert encoder.fingerprint == small.fingerprint


def test_vectors_are_near_those_of_float32(encoder: Encoder) -> None:
    """The two precisions are two roundings of one model."""
    exact = Encoder(precision="float32", probe=False)
    texts = [*PROBE_TEXTS, *(text_of(1 + n, n) for n in range(40))]

    cosines = (exact.encode(texts) * encoder.encode(texts)).sum(axis=1)

    assert float(cosines.mean()) > 0.985
    assert float(cosines.min()) > 0.94


@pytest.mark.parametrize("seed", [0, 1])
def test_rounding_of_another_processor_passes_the_probe(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Normalisations that differ by 1e-7, as honest CPUs do, are no reason to refuse."""
    draw = np.random.default_rng(seed)
    read = BundledWeights.floats

    def differ(graph: BundledWeights, name: str) -> NDArray[np.float32]:
        values = read(graph, name)
        factors = 1 + 1e-7 * draw.standard_normal(values.shape)
        return (values * factors).astype(np.float32) if name.endswith("Norm.weight") else values

    monkeypatch.setattr(BundledWeights, "floats", differ)
    other = Encoder(precision="int8", probe=False)

    assert check_probe(other.encode, probe_file(), 0.0) > COSINE_MIN_BY_PRECISION["int8"]


def test_precision_is_part_of_the_fingerprint(encoder: Encoder) -> None:
    """A database or a cluster of one precision refuses the other."""
    exact = Encoder(precision="float32", probe=False)

    assert "float32" == exact.precision
    assert "int8" == encoder.precision
    assert exact.fingerprint != encoder.fingerprint
    assert exact.name == encoder.name == DEFAULT_MODEL
    assert exact.dim == encoder.dim


def test_mixed_lengths_cost_no_padding(encoder: Encoder) -> None:
    """Packed rows are real tokens only, and every one is counted."""
    texts = [text_of(n, n) for n in range(1, 33)]
    before = encoder.stats()

    encoder.encode(texts)

    after = encoder.stats()
    assert before.padding_tokens == after.padding_tokens == 0
    real = sum(tokens.count for tokens in encoder.tokenize(texts))
    assert real == after.tokens - before.tokens


def test_longest_text_has_a_vector(encoder: Encoder) -> None:
    """The last position of the model is within the packed graph's table."""
    longest = Encoder(precision="int8", max_tokens=512, probe=False)

    (vector,) = longest.encode(["card " * 600])

    assert abs(1.0 - float(np.linalg.norm(vector.astype(np.float64)))) < 1e-6
    assert [512] == [tokens.count for tokens in longest.tokenize(["card " * 600])]


def test_another_model_is_refused(tmp_path: Path) -> None:
    """The rewriting is known to be right for one file, and only for that."""
    recipe = bundled_recipe()
    (tmp_path / "tokenizer.json").symlink_to(recipe.tokenizer_file)
    (tmp_path / "model.onnx").write_bytes(recipe.model_file.read_bytes() + b"\x12\x00")

    with pytest.raises(ConfigError, match="made for the bundled model"):
        Encoder(tmp_path, precision="int8")


@pytest.mark.parametrize("own", [{"pooling": "cls"}, {"output": "other"}])
def test_another_use_of_the_model_is_refused(tmp_path: Path, own: dict[str, str]) -> None:
    """The graph written anew pools by the mean and has one output: nothing is ignored."""
    recipe = bundled_recipe()
    (tmp_path / "tokenizer.json").symlink_to(recipe.tokenizer_file)
    (tmp_path / "model.onnx").symlink_to(recipe.model_file)
    (tmp_path / "synaptoroute.json").write_text(json.dumps(own))

    with pytest.raises(ConfigError, match="pooled by the mean"):
        Encoder(tmp_path, precision="int8")


def test_auto_follows_the_model_and_its_use(tmp_path: Path, encoder: Encoder) -> None:
    """Int8 for the bundled model as it is meant, float32 for everything else."""
    recipe = bundled_recipe()
    (tmp_path / "tokenizer.json").symlink_to(recipe.tokenizer_file)
    (tmp_path / "model.onnx").symlink_to(recipe.model_file)
    (tmp_path / "synaptoroute.json").write_text(json.dumps({"pooling": "cls"}))

    assert "int8" == Encoder(probe=False).precision
    assert encoder.fingerprint == Encoder(probe=False).fingerprint
    assert "float32" == Encoder(tmp_path).precision


def test_unknown_precision_is_refused() -> None:
    """A typing error is answered with what there is."""
    with pytest.raises(ConfigError, match="auto, float32 or int8"):
        Encoder(precision="int4")  # type: ignore[arg-type]


def test_open_encoder_passes_the_precision_on(encoder: Encoder) -> None:
    """The node's way of opening an encoder gives the same one; a hash has no precision."""
    opened = open_encoder(precision="int8")

    assert encoder.fingerprint == opened.fingerprint
    assert HashEncoder(64).fingerprint == open_encoder("test-hash-64", precision="int8").fingerprint


def test_rows_lie_on_grids_of_their_own_within_seven_bits(content: bytes) -> None:
    """Before every kind of product each row reaches the ends of its grid, and not beyond."""
    writer = _Int8Graph(read_graph(content))
    writer.write()
    for name in ("embedded_q", "layer3_middle_q", "layer3_gelu_q", "layer5_attention_q"):
        writer._graph.output(name, np.uint8, ["t", 1_536 if "gelu" in name else 384])
    session = open_session(graph_model(writer._graph), "int8", CPU, is_final=True)
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


def test_no_score_of_attention_is_cut(encoder: Encoder, content: bytes) -> None:
    """Texts of all kinds stay below the limit that keeps the exponential finite."""
    writer = _Int8Graph(read_graph(content))
    writer.write()
    names = [f"layer{layer}_scores" for layer in range(LAYERS)]
    for name in names:
        writer._graph.output(name, np.float32, ["n", HEADS, "width", "width"])
    session = open_session(graph_model(writer._graph), "int8", CPU, is_final=True)
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
    """The sum that CPUs without VNNI form in 16 bits cannot saturate with any weights here."""
    tensors = read_graph(int8_graph(content)).tensors
    weights = [each for each in tensors.values() if each.dtype == np.int8 and len(each) <= 1_536]

    assert 24 == len(weights)
    for each in weights:
        assert 2 * STEPS * int(np.abs(each.astype(np.int64)).max()) <= INT16_MAX


def test_this_cpu_multiplies_exactly() -> None:
    """The extremes come out right on the machine of this test."""
    exactness.check_exactness()


def test_saturating_cpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product whose pairs saturate at 15 bits is refused, not served."""
    weights: list[NDArray[np.int8]] = []
    make_graph = exactness._product_graph

    def keep(columns: NDArray[np.int8]) -> bytes:
        weights.append(columns)
        return make_graph(columns)

    def saturate(session: Any, output: str, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        parts = feeds["rows"][:, :, None].astype(np.int64) * weights[-1][None]
        pairs = parts[:, ::2] + parts[:, 1::2]
        return np.clip(pairs, -16_384, 16_383).sum(axis=1)

    monkeypatch.setattr(exactness, "_product_graph", keep)
    monkeypatch.setattr(exactness, "run_session", saturate)

    with pytest.raises(EncoderError, match="multiplies bytes wrongly"):
        exactness.check_exactness()


def test_graph_without_the_models_names_is_corrupt() -> None:
    """A readable graph of something else gives a clear error."""
    graph = GraphWriter()
    graph.tensor("x", np.zeros(3, dtype=np.float32))

    with pytest.raises(ModelCorrupt, match="not the bundled model"):
        int8_graph(graph.model(9, {"": 17}))
