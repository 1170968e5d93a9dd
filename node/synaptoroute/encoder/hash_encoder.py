"""An encoder without a model: a bag of hashed words.

It is for tests, and for processes that need an encoder at once.  Texts that share words
are near each other, synonyms are not: never route real queries with it.  Integer sums and
BLAKE2b make its vectors equal on every machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder.contract import EncoderStats, StatsCounter, Tokens, freeze_tokens
from synaptoroute.errors import ConfigError, EncoderError, InvalidQuery

DIM_DEFAULT: Final = 64
DIM_MAX: Final = 512
TOKENS_MAX: Final = 256
NAME_PATTERN: Final = re.compile(r"test-hash-(\d{1,4})")
_WORD: Final = re.compile(r"\w+")
_VERSION: Final = b"synaptoroute hash encoder 1"


class HashEncoder:
    """Implements ``TextEncoder`` without a model; for tests only."""

    def __init__(self, dim: int = DIM_DEFAULT) -> None:
        """Make an encoder of ``dim`` dimensions, a multiple of 8 up to 512."""
        if dim % 8 or not 8 <= dim <= DIM_MAX:
            raise ConfigError(f"dim must be a multiple of 8 from 8 to {DIM_MAX}, got {dim}")
        self.dim = dim
        self.name = f"test-hash-{dim}"
        self.max_tokens = TOKENS_MAX
        self.fingerprint = hashlib.sha256(_VERSION + dim.to_bytes(4, "little")).hexdigest()
        self._stats = StatsCounter()
        self._is_closed = False

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize queries: one token a word, in the order of the text."""
        words = [_words(text) for text in texts]
        truncated_count = sum(1 for found in words if len(found) > TOKENS_MAX)
        if truncated_count:
            self._stats.add(truncated_texts=truncated_count)
        return [
            freeze_tokens(
                [_token_id(word) for word in found[:TOKENS_MAX]],
                is_truncated=len(found) > TOKENS_MAX,
            )
            for found in words
        ]

    def tokenize_utterances(self, texts: Sequence[str]) -> list[Tokens]:
        return self.tokenize(texts)

    def encode_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        """Sum the signs of the words: float32[n, dim], unit rows."""
        if self._is_closed:
            raise EncoderError(f"the encoder {self.name} is closed")
        vectors = np.empty((len(tokens), self.dim), dtype=np.float32)
        for row, text in zip(vectors, tokens, strict=True):
            row[:] = self._vector(text)
        self._stats.add(texts=len(tokens), tokens=sum(text.count for text in tokens))
        return vectors

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encode_tokens(self.tokenize(texts))

    def encode_utterances(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encode_tokens(self.tokenize_utterances(texts))

    def whole_words(self) -> dict[str, int]:
        """Nothing: to this encoder all words are alike."""
        return {}

    def stats(self) -> EncoderStats:
        return self._stats.read()

    def close(self) -> None:
        self._is_closed = True

    def _vector(self, text: Tokens) -> NDArray[np.float64]:
        sums = np.zeros(self.dim, dtype=np.int64)
        for token_id in text.ids.tolist():
            sums += _signs(token_id, self.dim)
        square = int((sums * sums).sum())
        if square == 0:  # words that cancel out still need a direction
            sums[0], square = 1, 1
        unit: NDArray[np.float64] = sums / np.sqrt(np.float64(square))
        return unit


def _words(text: str) -> list[str]:
    """Split into lower-case words; a text without any is one word."""
    return _WORD.findall(text.lower()) or [text.strip()]


@lru_cache(maxsize=65_536)
def _token_id(word: str) -> int:
    try:
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    except UnicodeEncodeError as error:
        raise InvalidQuery("a text to encode must be valid Unicode") from error
    return int.from_bytes(digest, "little", signed=True)


@lru_cache(maxsize=65_536)
def _signs(token_id: int, dim: int) -> NDArray[np.int64]:
    """Spread a token id over ``dim`` signs of +1 and -1."""
    seed = token_id.to_bytes(8, "little", signed=True)
    digest = hashlib.blake2b(seed, digest_size=dim // 8).digest()
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8))
    signs = bits.astype(np.int64) * 2 - 1
    signs.setflags(write=False)
    return signs
