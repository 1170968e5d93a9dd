"""The int8 precision of the bundled model: the vector of a text depends on the text alone."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from encoders import text_of
from synaptoroute.config import DEFAULT_MODEL
from synaptoroute.encoder import Encoder, HashEncoder, open_encoder
from synaptoroute.encoder.recipe import bundled_recipe
from synaptoroute.encoder.self_check import PROBE_TEXTS
from synaptoroute.errors import ConfigError

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    opened = Encoder(precision="int8")
    yield opened
    opened.close()


@pytest.mark.parametrize("words_count", [0, 1, 13, 14, 15, 70])
def test_vector_has_the_same_bits_in_every_batch(encoder: Encoder, words_count: int) -> None:
    """Alone and among 31 others of any lengths, at any place, no bit differs."""
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


def test_every_text_of_a_random_batch_keeps_its_bits(encoder: Encoder) -> None:
    """All 64 texts of a mixed batch have the same vectors as alone."""
    draw = random.Random(11)
    texts = [text_of(draw.randint(0, 60), seed) for seed in range(64)]

    alone = np.concatenate([encoder.encode([text]) for text in texts])

    assert 0.0 == float(np.abs(encoder.encode(texts) - alone).max())


def test_two_threads_get_the_same_bits(encoder: Encoder) -> None:
    """Two threads share one session."""
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


def test_micro_batch_size_changes_no_bit(encoder: Encoder) -> None:
    """Micro-batches of one text and of hundreds of tokens give equal vectors."""
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


def test_precision_is_part_of_the_fingerprint(encoder: Encoder) -> None:
    """So a database or cluster of one precision refuses the other."""
    exact = Encoder(precision="float32", probe=False)

    assert "float32" == exact.precision
    assert "int8" == encoder.precision
    assert exact.fingerprint != encoder.fingerprint
    assert exact.name == encoder.name == DEFAULT_MODEL
    assert exact.dim == encoder.dim


def test_mixed_lengths_cost_no_padding(encoder: Encoder) -> None:
    """Only real tokens are computed, and all are counted."""
    texts = [text_of(n, n) for n in range(1, 33)]
    before = encoder.stats()

    encoder.encode(texts)

    after = encoder.stats()
    assert before.padding_tokens == after.padding_tokens == 0
    real = sum(tokens.count for tokens in encoder.tokenize(texts))
    assert real == after.tokens - before.tokens


def test_longest_text_has_a_vector(encoder: Encoder) -> None:
    """The graph has all 512 positions."""
    longest = Encoder(precision="int8", max_tokens=512, probe=False)

    (vector,) = longest.encode(["card " * 600])

    assert abs(1.0 - float(np.linalg.norm(vector.astype(np.float64)))) < 1e-6
    assert [512] == [tokens.count for tokens in longest.tokenize(["card " * 600])]


def test_another_model_is_refused(tmp_path: Path) -> None:
    """The graph is made for exactly one file."""
    recipe = bundled_recipe()
    (tmp_path / "tokenizer.json").symlink_to(recipe.tokenizer_file)
    (tmp_path / "model.onnx").write_bytes(recipe.model_file.read_bytes() + b"\x12\x00")

    with pytest.raises(ConfigError, match="no int8 graph here: run"):
        Encoder(tmp_path, precision="int8")


@pytest.mark.parametrize("own", [{"pooling": "cls"}, {"output": "other"}])
def test_another_use_of_the_model_is_refused(tmp_path: Path, own: dict[str, str]) -> None:
    """Another pooling or output is an error, not ignored."""
    recipe = bundled_recipe()
    (tmp_path / "tokenizer.json").symlink_to(recipe.tokenizer_file)
    (tmp_path / "model.onnx").symlink_to(recipe.model_file)
    (tmp_path / "synaptoroute.json").write_text(json.dumps(own))

    with pytest.raises(ConfigError, match="no int8 graph here: run"):
        Encoder(tmp_path, precision="int8")


def test_auto_chooses_by_model_and_use(tmp_path: Path, encoder: Encoder) -> None:
    """Int8 for the bundled model with its own pooling, float32 for everything else."""
    recipe = bundled_recipe()
    (tmp_path / "tokenizer.json").symlink_to(recipe.tokenizer_file)
    (tmp_path / "model.onnx").symlink_to(recipe.model_file)
    (tmp_path / "synaptoroute.json").write_text(json.dumps({"pooling": "cls"}))

    assert "int8" == Encoder(probe=False).precision
    assert encoder.fingerprint == Encoder(probe=False).fingerprint
    assert "float32" == Encoder(tmp_path).precision


def test_unknown_precision_is_refused() -> None:
    """The error lists the precisions."""
    with pytest.raises(ConfigError, match="auto, float32 or int8"):
        Encoder(precision="int4")  # type: ignore[arg-type]


def test_open_encoder_passes_the_precision_on(encoder: Encoder) -> None:
    """A hash encoder has no precision."""
    opened = open_encoder(precision="int8")

    assert encoder.fingerprint == opened.fingerprint
    assert HashEncoder(64).fingerprint == open_encoder("test-hash-64", precision="int8").fingerprint
