"""The interface of every encoder, and its values.

An embedding depends on its own text alone, never on the other texts of a batch.
``tokenize`` and ``encode_tokens`` may run on any number of threads at once.  They are two
steps because the queue plans batches by token counts.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

_IS_LITTLE: Final = sys.byteorder == "little"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token ids of one text.

    Attributes:
        ids: int64[count], special tokens included; read-only.
        key: The exact token ids as bytes: two texts with equal keys have equal
            embeddings under one fingerprint.
        count: Number of tokens.
        is_understood: False if the encoder knows too little of the text for its vector to
            mean anything.
        is_truncated: Whether the text had more tokens than the encoder reads.
    """

    ids: NDArray[np.int64]
    key: bytes
    count: int
    is_understood: bool = True
    is_truncated: bool = False


@dataclass(frozen=True, slots=True)
class EncoderStats:
    """Totals since the encoder was opened; ``tokens`` leaves out padding."""

    texts: int = 0
    tokens: int = 0
    padding_tokens: int = 0
    truncated_texts: int = 0


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The token ids of an encoder, most frequent first, as in word-piece vocabularies.

    Attributes:
        count: Token ids are below it.
        before: Ids before the tokens of every text.
        after: Ids after them.
        special: Ids that stand for no piece of a text.
    """

    count: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    special: frozenset[int]


class TextEncoder(Protocol):
    """Text to unit vectors; every method may run on any thread."""

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Tokens kept of a text, special tokens included."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identity of everything that shapes a vector; 64 hexadecimal digits."""
        ...

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize queries, cut to ``max_tokens``."""
        ...

    def tokenize_utterances(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize utterances, cut to ``max_tokens``."""
        ...

    def encode_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        """Encode to float32[n, dim] of unit rows, in the order of ``tokens``."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Tokenize and encode queries: float32[n, dim]."""
        ...

    def encode_utterances(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Tokenize and encode utterances: float32[n, dim]."""
        ...

    def whole_words(self) -> Mapping[str, int]:
        """Words that are one token each, in lower case, with their ranks, frequent words first.

        Empty if the encoder does not know words.
        """
        ...

    def stats(self) -> EncoderStats: ...

    def close(self) -> None:
        """Release the model; later calls raise EncoderError."""
        ...


class StatsCounter:
    """Sums ``EncoderStats`` of several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts = self._tokens = self._padding_tokens = self._truncated_texts = 0

    def add(
        self, *, texts: int = 0, tokens: int = 0, padding_tokens: int = 0, truncated_texts: int = 0
    ) -> None:
        with self._lock:
            self._texts += texts
            self._tokens += tokens
            self._padding_tokens += padding_tokens
            self._truncated_texts += truncated_texts

    def read(self) -> EncoderStats:
        with self._lock:
            return EncoderStats(
                self._texts, self._tokens, self._padding_tokens, self._truncated_texts
            )


def freeze_tokens(
    ids: Sequence[int], *, is_understood: bool = True, is_truncated: bool = False
) -> Tokens:
    """Make ``Tokens`` of token ids; the key is little-endian on every machine."""
    content = array("q", ids).tobytes()
    found = np.frombuffer(content, np.int64)  # of bytes, so it is read-only
    key = content if _IS_LITTLE else found.astype("<i8").tobytes()
    return Tokens(found, key, len(found), is_understood, is_truncated)
