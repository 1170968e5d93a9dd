"""The hash encoder: no model, and equal vectors on every machine."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from synaptoroute.encoder import EncoderStats, HashEncoder
from synaptoroute.errors import ConfigError, EncoderError, InvalidQuery

pytestmark = pytest.mark.unit

PINNED = [0.612372, -0.612372, 0.204124, -0.204124, -0.204124, -0.204124, 0.204124, -0.204124]


def test_texts_with_shared_words_are_similar() -> None:
    """Texts without shared words are not."""
    same, near, far = HashEncoder().encode(
        ["where is my parcel now", "where is my letter now", "turn off the kitchen light"]
    )

    assert same @ near > 0.6
    assert same @ far < 0.4


def test_case_order_and_punctuation_do_not_matter() -> None:
    """Only the set of lower-case words counts."""
    first, second = HashEncoder().encode(["Where IS it?", "it is -- where"])

    assert np.array_equal(first, second)


def test_vectors_are_the_same_on_every_machine() -> None:
    """The signs of one text are pinned."""
    (vector,) = HashEncoder(8).encode(["refund now please"])

    assert PINNED == [round(float(value), 6) for value in vector]


def test_vectors_do_not_depend_on_the_hash_seed() -> None:
    """Python's hash is not used."""
    program = (
        "from synaptoroute.encoder import HashEncoder;"
        "print(HashEncoder().encode(['a b c']).tobytes().hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=50,
        ).stdout
        for seed in ("1", "2")
    }

    assert {HashEncoder().encode(["a b c"]).tobytes().hex().encode() + b"\n"} == outputs


@pytest.mark.parametrize("text", ["", " ", "!!!", "🚀", "日本", "a"])
def test_every_text_has_a_unit_vector(text: str) -> None:
    """Even a text without words."""
    vector = HashEncoder().encode([text])[0].astype(np.float64)

    assert abs(1.0 - np.linalg.norm(vector)) < 1e-6


def test_words_that_cancel_out_have_a_unit_vector() -> None:
    """In 8 dimensions some pairs of words have opposite signs."""
    encoder = HashEncoder(8)
    words = [f"w{n}" for n in range(600)]
    first = encoder.encode(words[:1])[0]
    opposite = next(
        w for w, v in zip(words, encoder.encode(words), strict=True) if first @ v < -0.99
    )

    (vector,) = encoder.encode([f"{words[0]} {opposite}"])

    assert abs(1.0 - np.linalg.norm(vector)) < 1e-6


def test_dimension_is_part_of_fingerprint_and_name() -> None:
    """Two dimensions are two encoders."""
    small, large = HashEncoder(64), HashEncoder(128)

    assert (64, "test-hash-64") == (small.dim, small.name)
    assert small.fingerprint != large.fingerprint
    assert small.fingerprint == HashEncoder().fingerprint
    assert 64 == len(small.fingerprint)
    assert (0, 128) == large.encode([]).shape


@pytest.mark.parametrize("dim", [0, 7, 60, 1024])
def test_invalid_dimensions_are_refused(dim: int) -> None:
    """The dimension is a multiple of 8 up to 512, the size of the digest."""
    with pytest.raises(ConfigError):
        HashEncoder(dim)


def test_stats_count_texts_tokens_and_truncations() -> None:
    """There is never any padding."""
    encoder = HashEncoder()

    encoder.encode_utterances(["one two", "word " * 300])

    assert EncoderStats(texts=2, tokens=258, padding_tokens=0, truncated_texts=1) == encoder.stats()


def test_equal_keys_mean_equal_words() -> None:
    """The key follows the words."""
    first, second, third = HashEncoder().tokenize(["a b", "A B!", "a c"])

    assert first.key == second.key
    assert first.key != third.key
    assert 2 == first.count


def test_lone_surrogate_is_refused() -> None:
    """As with the real encoder."""
    with pytest.raises(InvalidQuery):
        HashEncoder().encode(["\ud800"])


def test_closed_encoder_refuses() -> None:
    """As with the real encoder."""
    encoder = HashEncoder()
    encoder.close()

    with pytest.raises(EncoderError, match="closed"):
        encoder.encode(["x"])
