"""The fast encoder: a table of word pieces, exact, without ONNX Runtime."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from synaptoroute import AdaptiveRouter, Route
from synaptoroute.encoder import Encoder, TextEncoder, fast_encoder, fetch_model, open_encoder
from synaptoroute.encoder.presets import PRESETS, resolve
from synaptoroute.errors import ConfigError, EncoderError, InvalidQuery, ModelCorrupt
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.unit

TEXTS = (
    "Where is my parcel?",
    "parcel",
    "I was charged twice for one order and nobody answers my letters",
    "word " * 250,
    "",
    "\u00bfPuedo pagar con tarjeta?",
)


@pytest.fixture(scope="module")
def encoder() -> Iterator[TextEncoder]:
    found = open_encoder("fast")
    yield found
    found.close()


def test_vectors_do_not_depend_on_the_batch(encoder: TextEncoder) -> None:
    together = encoder.encode(TEXTS * 60)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])

    assert np.array_equal(np.concatenate([alone] * 60), together)
    assert np.allclose(np.linalg.norm(alone, axis=1), 1.0, atol=1e-6)
    assert (len(TEXTS), encoder.dim) == alone.shape


@pytest.mark.parametrize(
    ("model", "digest"),
    [
        ("fast", "b24a3586e0314b096e3d9b7433f78ee9"),
        (fast_encoder.DISTILLED.name, "e8fe510454da9b78f38adee52ae20b7f"),
    ],
)
def test_vectors_are_equal_bits_on_every_machine(model: str, digest: str) -> None:
    """The digests were written on another machine than most that run this test."""
    vectors = open_encoder(model).encode(TEXTS).astype("<f4")

    assert digest == hashlib.sha256(vectors.tobytes()).hexdigest()[:32]


def test_former_model_keeps_its_fingerprint_and_its_vectors(encoder: TextEncoder) -> None:
    """Databases and clusters of released versions hold this fingerprint."""
    former = encoder.former()  # type: ignore[attr-defined]
    released = open_encoder(fast_encoder.DISTILLED.name)

    assert former.fingerprint == released.fingerprint != encoder.fingerprint
    assert released.fingerprint == (
        "d410e4cd4256a86b768e571e4f74f738ba1321d940c6130e434933eacdeecb48"
    )
    assert np.array_equal(released.encode(TEXTS), former.encode(TEXTS))
    assert former.former() is None


def test_former_model_takes_no_table_before_its_first_text(encoder: TextEncoder) -> None:
    former = encoder.former()  # type: ignore[attr-defined]

    assert former._table is None
    former.encode(["refund"])
    assert former._table is not None
    former.close()
    with pytest.raises(EncoderError, match="closed"):
        former.encode(["refund"])


def test_vectors_do_not_depend_on_the_kernels_of_the_cpu(encoder: TextEncoder) -> None:
    """The BLAS and numpy choose their kernels by the CPU; these variables choose others."""
    expected = hashlib.sha256(encoder.encode(TEXTS).tobytes()).hexdigest()
    program = (
        "import hashlib, json, sys; from synaptoroute.encoder import open_encoder;"
        "vectors = open_encoder('fast').encode(json.load(sys.stdin));"
        "print(hashlib.sha256(vectors.tobytes()).hexdigest())"
    )
    import json
    import os

    kernels = {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(TEXTS),
        env={**os.environ, **kernels},
        capture_output=True,
        text=True,
        check=False,
    )

    assert expected == done.stdout.strip(), done.stderr


@pytest.mark.parametrize("model", fast_encoder.MODELS)
def test_longest_text_of_the_largest_rows_is_exact(model: str) -> None:
    """Sums, shares and squares stay within the bits that their types have."""
    encoder = open_encoder(model)
    table, weights = encoder._table, encoder._weights  # type: ignore[attr-defined]
    peak = int(np.abs(table.rows).max())
    total = peak * int(weights.max()) * encoder.max_tokens

    assert total < 2**53
    assert (total >> fast_encoder._WEIGHT_BITS) ** 2 * encoder.dim < 2**63
    lengths = np.linalg.norm(table.rows.astype(np.float64), axis=1) * weights
    longest = lengths.max() * encoder.max_tokens / 2**fast_encoder._WEIGHT_BITS
    # Rounding down takes less than one of each component.
    assert (longest + encoder.dim**0.5) ** 2 < 2**53


def test_texts_that_it_cannot_read_are_not_understood(encoder: TextEncoder) -> None:
    read, *others = encoder.tokenize(["Where is it?", "", "\u0928\u092e\u0938\u094d\u0924\u0947"])

    assert read.is_understood
    assert not any(tokens.is_understood for tokens in others)


def test_long_texts_are_cut_and_counted() -> None:
    encoder = open_encoder("fast")
    (tokens,) = encoder.tokenize(["many words " * 500])

    assert tokens.is_truncated
    assert fast_encoder.TOKENS_MAX == tokens.count
    assert 1 == encoder.stats().truncated_texts


def test_text_that_is_not_unicode_is_refused(encoder: TextEncoder) -> None:
    with pytest.raises(InvalidQuery):
        encoder.tokenize(["\ud800"])


def test_closed_encoder_refuses_texts() -> None:
    found = open_encoder("fast")
    found.close()

    with pytest.raises(EncoderError, match="closed"):
        found.encode(["refund"])


def test_preset_is_an_encoder_by_every_name(encoder: TextEncoder) -> None:
    """``Encoder`` opens it as ``open_encoder`` does."""
    named = Encoder("fast", precision="int8")

    assert isinstance(named, fast_encoder.FastEncoder)
    assert encoder.fingerprint == named.fingerprint == Encoder(fast_encoder.NAME).fingerprint
    assert "fast" in [preset.name for preset in PRESETS]
    assert fast_encoder.NAME == resolve("fast")
    assert fetch_model("fast").is_dir()


def test_option_that_only_a_graph_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_tokens"):
        Encoder("fast", max_tokens=12)


def test_altered_tokenizer_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "tokenizer.json"
    other.write_bytes(b"{}")
    monkeypatch.setattr(fast_encoder, "_TOKENIZER_FILE", other)

    with pytest.raises(ModelCorrupt, match="reinstall"):
        open_encoder("fast")


def test_router_needs_no_runtime_and_no_client() -> None:
    """A whole answer, with its confidence; the modules would cost seconds and 120 MB."""
    program = (
        "import sys; from synaptoroute import AdaptiveRouter, Encoder, Route;"
        "router = AdaptiveRouter(Encoder('fast'));"
        "router.add_route(Route(name='refund', utterances=['I want my money back']));"
        "match = router.query('give me my money back');"
        "print(match.route, match.confidence is not None,"
        " sorted(set(sys.argv[1:]) & sys.modules.keys()))"
    )
    unneeded = ["onnxruntime", "fastembed", "redis", "httpx", "rich", "cryptography", "starlette"]
    done = subprocess.run(
        [sys.executable, "-c", program, *unneeded], capture_output=True, text=True, check=False
    )

    assert "refund True []" == done.stdout.strip(), done.stderr


def test_database_of_the_former_model_goes_on_with_it(tmp_path: Path) -> None:
    """As written by a release whose preset ``fast`` was the other model."""

    def score(model: str, name: str, *added: str) -> float | None:
        router = AdaptiveRouter(open_encoder(model), SQLiteStorage(tmp_path / name))
        for utterance in added:
            router.add_route(Route(name=utterance[:3], utterances=[utterance]))
        found = router.query("can I get my money back")
        assert "ref" == found.route
        router.close()
        return found.score

    former = score(fast_encoder.DISTILLED.name, "old", "refund my money")
    fitted = score("fast", "new", "refund my money")

    assert former == score("fast", "old") == score("fast", "old", "where is it") != fitted
    assert fitted == score("fast", "new") == score("fast", "new", "where is it")


def test_questions_are_told_apart(encoder: TextEncoder) -> None:
    router = AdaptiveRouter(encoder)
    router.add_route(Route(name="refund", utterances=["I want my money back", "refund please"]))
    router.add_route(Route(name="parcel", utterances=["where is my parcel", "track my order"]))

    assert "refund" == router.query("can I get my money back").route
    assert "parcel" == router.query("where can my parcel be").route
    assert router.query("do penguins like jazz").route is None
