"""The encoder with the bundled model: the vector of a text depends on the text alone."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders import text_of
from synaptoroute.config import DEFAULT_MODEL
from synaptoroute.encoder import (
    Encoder,
    EncoderStats,
    HashEncoder,
    TextEncoder,
    open_encoder,
)
from synaptoroute.errors import ConfigError, EncoderError, InvalidQuery, ModelNotFound

pytestmark = pytest.mark.unit

SHARED_COMPUTATION_MAX = 1e-5


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    opened = Encoder(precision="float32")
    yield opened
    opened.close()


def farthest(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    return float(np.abs(left - right).max())


def test_quick_start_needs_no_other_argument(encoder: Encoder) -> None:
    """The provider list alone opens the bundled model."""
    vectors = encoder.encode(["I need a refund", "How do I get my money back?", "Nice weather"])

    assert encoder.name == DEFAULT_MODEL
    assert encoder.dim == 384
    assert encoder.max_tokens == 256
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


def test_rows_have_unit_length(encoder: Encoder) -> None:
    """A dot product of rows is their cosine."""
    vectors = encoder.encode([text_of(n, n) for n in range(1, 40, 5)])

    assert np.allclose(1.0, np.linalg.norm(vectors.astype(np.float64), axis=1), atol=1e-6)


def test_embedding_does_not_depend_on_its_batch(encoder: Encoder) -> None:
    """A text has the same vector alone and among 31 others of any lengths."""
    for words_count in (1, 5, 12, 13, 70):
        text = text_of(words_count, seed=words_count)
        mixes = {
            "equal": [words_count] * 31,
            "near": [words_count + n % 2 for n in range(31)],
            "shorter": [1 + n % 11 for n in range(31)],
            "longer": [13 + n % 25 for n in range(31)],
            "spread": [1 + 2 * n for n in range(31)],
        }
        alone = encoder.encode([text])[0]
        for place, lengths in zip((0, 8, 15, 24, 31), mixes.values(), strict=True):
            others = [text_of(length, seed=100 + i) for i, length in enumerate(lengths)]
            batch = [*others[:place], text, *others[place:]]
            among = encoder.encode(batch)[place]

            assert farthest(alone, among) < SHARED_COMPUTATION_MAX


def test_padded_rows_equal_unpadded_rows(encoder: Encoder) -> None:
    """Texts that share a run with longer ones keep their vectors."""
    texts = [text_of(20, 1), text_of(21, 2), text_of(21, 3)]
    tokens = encoder.tokenize(texts)
    padding_before = encoder.stats().padding_tokens

    together = encoder.encode_tokens(tokens)

    assert max(t.count for t in tokens) > min(t.count for t in tokens)
    assert encoder.stats().padding_tokens > padding_before
    for row, text in zip(together, tokens, strict=True):
        assert farthest(encoder.encode_tokens([text])[0], row) < SHARED_COMPUTATION_MAX


def test_order_is_kept(encoder: Encoder) -> None:
    """Rows come in the order of the texts, not of their lengths."""
    texts = [text_of(n, seed=n) for n in (30, 2, 17, 2, 9, 30, 1)]

    together = encoder.encode(texts)

    for row, text in zip(together, texts, strict=True):
        assert farthest(encoder.encode([text])[0], row) < SHARED_COMPUTATION_MAX


def test_equal_lengths_cost_no_padding(encoder: Encoder) -> None:
    """Texts of one token count share runs without padding."""
    before = encoder.stats()
    tokens = encoder.tokenize(["where is my card"] * 50 + ["when is his card"] * 50)

    encoder.encode_tokens(tokens)

    assert {6} == {text.count for text in tokens}
    after = encoder.stats()
    assert before.padding_tokens == after.padding_tokens
    assert before.texts + 100 == after.texts
    assert before.tokens + 600 == after.tokens


def test_mixed_batch_of_64_is_padded_by_less_than_a_tenth(encoder: Encoder) -> None:
    """With the lengths of real short queries."""
    draw = random.Random(7)
    texts = [text_of(draw.randint(3, 28), seed) for seed in range(64)]
    before = encoder.stats()

    encoder.encode(texts)

    after = encoder.stats()
    padding = after.padding_tokens - before.padding_tokens
    computed = after.tokens - before.tokens + padding
    assert padding > 0
    assert padding / computed < 0.10


def test_empty_list_gives_no_rows(encoder: Encoder) -> None:
    """The result has no rows, and the right width."""
    assert (0, 384) == encoder.encode([]).shape
    assert [] == encoder.tokenize([])


def test_very_long_text_is_cut_and_counted(encoder: Encoder) -> None:
    """A text beyond max_tokens is cut, ends in the end token and is counted."""
    before = encoder.stats().truncated_texts
    long = text_of(5_000, 1)

    (tokens,) = encoder.tokenize([long])

    assert 256 == tokens.count
    assert 102 == tokens.ids[-1]
    assert before + 1 == encoder.stats().truncated_texts
    assert farthest(encoder.encode([long]), encoder.encode([long + " more of it"])) == 0.0


def test_text_at_the_limit_is_not_counted_as_cut(encoder: Encoder) -> None:
    """A text of exactly max_tokens is whole."""
    before = encoder.stats().truncated_texts

    (tokens,) = encoder.tokenize(["card " * 254])

    assert 256 == tokens.count
    assert before == encoder.stats().truncated_texts


@pytest.mark.parametrize(
    "text",
    [
        "¿Dónde está mi pedido?",
        "今日の天気はどうですか",
        "🚀🚀🚀",
        "\u202eright to left\u202c",
        "a\u0301\u0302\u0303",
        "\x01\x02\x7f",
        "",
        " \t\n ",
        "x" * 20_000,
    ],
)
def test_any_unicode_has_a_vector(encoder: Encoder, text: str) -> None:
    """No text of valid Unicode breaks the tokenizer or the graph."""
    vector = encoder.encode([text])[0].astype(np.float64)

    assert np.isfinite(vector).all()
    assert abs(1.0 - np.linalg.norm(vector)) < 1e-6


def test_lone_surrogate_is_refused(encoder: Encoder) -> None:
    """Text that is not valid UTF-8 is the caller's error."""
    with pytest.raises(InvalidQuery):
        encoder.encode(["\ud800"])


def test_equal_keys_mean_equal_token_ids(encoder: Encoder) -> None:
    """Keys differ exactly if the model sees different texts."""
    lower, upper, other = encoder.tokenize(["Refund me", "REFUND me", "refund you"])

    assert lower.key == upper.key
    assert lower.key != other.key
    assert lower.ids.tolist() == np.frombuffer(lower.key, dtype="<i8").tolist()
    with pytest.raises(ValueError, match="read-only"):
        lower.ids[0] = 1


def test_two_threads_get_the_same_bits(encoder: Encoder) -> None:
    """Two threads share one session."""
    texts = [text_of(1 + n % 23, n) for n in range(48)]
    expected = encoder.encode(texts)
    answers: dict[int, list[NDArray[np.float32]]] = {0: [], 1: []}

    def lane(number: int) -> None:
        for _ in range(4):
            answers[number].append(encoder.encode(texts))

    lanes = [threading.Thread(target=lane, args=(number,)) for number in answers]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()

    for number in answers:
        assert [True] * 4 == [np.array_equal(expected, got) for got in answers[number]]


def test_queries_and_utterances_have_their_own_prefix() -> None:
    """The prefixes are part of the fingerprint."""
    with_prefix = Encoder(query_prefix="query: ", utterance_prefix="passage: ", probe=False)
    without = Encoder(probe=False)

    assert without.tokenize(["query: x"])[0].key == with_prefix.tokenize(["x"])[0].key
    assert (
        without.tokenize_utterances(["passage: x"])[0].key
        == with_prefix.tokenize_utterances(["x"])[0].key
    )
    assert (
        farthest(without.encode(["passage: x"]), with_prefix.encode_utterances(["x"]))
        < SHARED_COMPUTATION_MAX
    )
    assert with_prefix.fingerprint != without.fingerprint


def test_fingerprint_is_stable_and_includes_max_tokens(encoder: Encoder) -> None:
    """Another truncation is another encoder."""
    again = Encoder(precision="float32", probe=False)
    shorter = Encoder(precision="float32", max_tokens=64, probe=False)

    assert encoder.fingerprint == again.fingerprint
    assert encoder.fingerprint != shorter.fingerprint
    assert 64 == len(encoder.fingerprint)
    assert 64 == shorter.tokenize([text_of(500, 1)])[0].count


def test_words_of_the_bundled_model_stay(encoder: Encoder) -> None:
    """Nodes of all releases repair by the same words and ranks."""
    words = encoder.whole_words()

    assert list(range(22_501)) == list(words.values())
    assert "562ebb218828d300" == hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def test_micro_batch_size_does_not_change_the_fingerprint_or_the_vectors(
    encoder: Encoder,
) -> None:
    """Splitting the work changes no result."""
    small = Encoder(precision="float32", micro_batch_tokens_max=16, probe=False)
    texts = [text_of(1 + n, n) for n in range(20)]

    assert encoder.fingerprint == small.fingerprint
    assert farthest(encoder.encode(texts), small.encode(texts)) < SHARED_COMPUTATION_MAX


def test_stats_start_at_zero_after_the_probe() -> None:
    """Texts of the probe are not counted."""
    assert EncoderStats() == Encoder().stats()


def test_closed_encoder_refuses() -> None:
    """A call after close raises EncoderError."""
    closed = Encoder(probe=False)
    closed.close()

    with pytest.raises(EncoderError, match="closed"):
        closed.encode(["x"])


@pytest.mark.parametrize("providers", [["CUDAExecutionProviderX"], [], "CPUExecutionProvider"])
def test_unknown_provider_lists_the_available_ones(providers: list[str]) -> None:
    """The error names them."""
    with pytest.raises(ConfigError, match="CPUExecutionProvider"):
        Encoder(providers=providers)


@pytest.mark.parametrize("max_tokens", [0, 2, 513])
def test_max_tokens_beyond_the_model_is_refused(max_tokens: int) -> None:
    """The bundled model has 512 positions; fewer than 3 tokens hold no text."""
    with pytest.raises(ConfigError, match="between 3 and 512"):
        Encoder(max_tokens=max_tokens)


def test_micro_batch_below_one_token_is_refused() -> None:
    """No text would fit."""
    with pytest.raises(ConfigError, match="micro_batch_tokens_max"):
        Encoder(micro_batch_tokens_max=0)


def test_open_encoder_dispatches_by_name() -> None:
    """Test names open the hash encoder, the default name the bundled model."""
    hashed: TextEncoder = open_encoder("test-hash-64")
    bundled: TextEncoder = open_encoder(DEFAULT_MODEL)

    assert isinstance(hashed, HashEncoder)
    assert isinstance(bundled, Encoder)
    bundled.close()
    with pytest.raises(ModelNotFound):
        open_encoder("test-hash-many")


def test_loading_the_bundled_model_needs_neither_fastembed_nor_the_network() -> None:
    """A node starts on a machine without either."""
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('the network was touched')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import synaptoroute.encoder as room\n"
        "assert 'onnxruntime' not in sys.modules and 'tokenizers' not in sys.modules\n"
        "assert (1, 384) == room.Encoder().encode(['x']).shape\n"
        "assert 'fastembed' not in sys.modules\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=50)

    assert (0, b"") == (done.returncode, done.stderr)
