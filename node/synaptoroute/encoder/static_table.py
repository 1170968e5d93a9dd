"""Static table: one row per token, distilled from an encoder, to embed without a transformer.

Every token of the vocabulary is encoded once; the rows are projected to their principal
directions, cut to ``DIM``, weighted by the logarithm of the token's
rank (frequent words say little) and rounded to int16.  The embedding of a text is the
sum of its tokens' rows, made one length and rounded to int8.  All of that is integer
arithmetic, or one correctly rounded division a component: equal tables give equal
embeddings on every machine, alone or in a batch.

Making a table is not as exact: the encoder's last bits and the library's decomposition
may differ between kinds of processors, and with them a few last digits.  So a table has
a checksum, a calibration names the table that it was measured with, and the table of the
bundled encoder ships as data (``table_files``).

Source: Tulkens and van Dongen, Model2Vec: Fast State-of-the-Art Static Embeddings, 2024
(tokens through the model, PCA, Zipf weights).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder.contract import Tokens, Vocabulary, freeze_tokens
from synaptoroute.errors import ConfigError
from synaptoroute.threads import single_blas_thread

RECIPE_VERSION: Final = 1
"""Raise it when the same encoder gives another table or the same table other embeddings."""
DIM: Final = 256
EMBEDDING_STEPS: Final = 254
"""Steps of one unit of an embedding's component; beyond half a unit it is cut off."""
TOKENS_MAX: Final = 512
"""More tokens of a text than this are left out, so that sums stay exact."""

ROW_PEAK: Final = 32_767
BYTE_PEAK: Final = 127
_EXACT_TOKENS: Final = 128
"""Up to so many, float64 adds the squares of a sum's components without error."""
_TOKENS_A_RUN: Final = 1_024
_TEXTS_A_BLOCK: Final = 256

FACTOR_BITS: Final = 12
"""Of the factors of a ``ByteTable``: one counts in steps of 1 / 4096."""

Rows: TypeAlias = NDArray[np.int16]
Int8s: TypeAlias = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class ByteTable:
    """Rows of bytes by token id, each with a factor of its own; any thread.

    Half as large as a ``StaticTable``; a calibration of a cascade names none.

    Attributes:
        fingerprint: Fingerprint of the encoder whose vectors it resembles.
        rows: int8[tokens, dim].
        factors: int32[tokens], in steps of 1 / 4096.
    """

    fingerprint: str
    rows: Int8s
    factors: NDArray[np.int32]

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of fingerprint, rows and factors, hexadecimal; they must not change."""
        digest = hashlib.sha256(f"bytes|{self.fingerprint}|{self.rows.shape}|".encode())
        digest.update(np.ascontiguousarray(self.rows).data)
        digest.update(np.ascontiguousarray(self.factors, "<i4").data)
        return digest.hexdigest()


def in_bytes(fingerprint: str, rows: NDArray[np.float32]) -> ByteTable:
    """Scale each row to bytes, the greatest of all to ``ROW_PEAK`` steps of its factor.

    Args:
        rows: float32[tokens, dim].
    """
    peaks = np.abs(rows).max(axis=1).astype(np.float64)
    scale = ROW_PEAK / max(float(peaks.max()), 1e-30)
    factors = np.ceil(peaks * scale / BYTE_PEAK * (1 << FACTOR_BITS)).astype(np.int32)
    steps = np.maximum(factors, 1)[:, np.newaxis] / (scale * (1 << FACTOR_BITS))
    return ByteTable(fingerprint, np.rint(rows / steps).astype(np.int8), factors)


class Distillable(Protocol):
    """An encoder as distilling needs it."""

    @property
    def fingerprint(self) -> str: ...

    def vocabulary(self) -> Vocabulary: ...

    def encode_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        """Encode to float32[n, dim], unit rows."""
        ...


@dataclass(frozen=True, eq=False)
class StaticTable:
    """Rows by token id; any thread.

    Attributes:
        fingerprint: Fingerprint of the encoder that it was distilled from.
        rows: int16[tokens, dim]; zero for special tokens and beyond the last id.
    """

    fingerprint: str
    rows: Rows

    @property
    def dim(self) -> int:
        return int(self.rows.shape[1])

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of recipe, fingerprint and rows, hexadecimal; the rows must not change."""
        digest = hashlib.sha256(f"{RECIPE_VERSION}|{self.fingerprint}|{self.rows.shape}|".encode())
        # The rows themselves, not a copy: they have 16 MB.
        digest.update(np.ascontiguousarray(self.rows, "<i2").data)
        return digest.hexdigest()

    def embed(self, ids: NDArray[np.int64]) -> Int8s | None:
        """Embed one tokenized text: int8[dim]; None if no token has a row."""
        embedding: Int8s = self._rounded(*self._sums([ids]))[0]
        return embedding if embedding.any() else None

    def embed_all(self, tokens: Sequence[Tokens]) -> Int8s:
        """Embed tokenized texts: int8[n, dim]; a row of zeros if no token has a row."""
        if len(tokens) == 1 and (alone := self._embedded(tokens[0].ids)) is not None:
            return alone[np.newaxis]
        embeddings = np.zeros((len(tokens), self.dim), np.int8)
        for start in range(0, len(tokens), _TEXTS_A_BLOCK):
            block = slice(start, start + _TEXTS_A_BLOCK)
            embeddings[block] = self._rounded(*self._sums([text.ids for text in tokens[block]]))
        return embeddings

    def embed_texts(
        self, texts: Sequence[str], tokenize: Callable[[Sequence[str]], Sequence[Tokens]]
    ) -> Int8s:
        """Tokenize and embed texts, few at a time: tokens take kilobytes a text."""
        embeddings = np.empty((len(texts), self.dim), np.int8)
        for start in range(0, len(texts), _TEXTS_A_BLOCK):
            block = slice(start, start + _TEXTS_A_BLOCK)
            embeddings[block] = self.embed_all(tokenize(texts[block]))
        return embeddings

    def _embedded(self, ids: NDArray[np.int64]) -> Int8s | None:
        """Embed a short text of known tokens, the same bits in fewer calls; None for others."""
        if len(ids) > _EXACT_TOKENS:
            return None
        try:
            rows = self.rows.take(ids, 0)
        except IndexError:
            return None
        return rounded_row(np.add.reduce(rows, axis=0, dtype=np.float64)).astype(np.int8)

    def _sums(self, texts: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.float32], int]:
        """Sum the rows of each text's tokens, without error; and the most tokens of a text."""
        sums = np.zeros((len(texts), self.dim), np.float32)
        known = [ids[:TOKENS_MAX] for ids in texts]
        every = np.concatenate(known) if known else np.zeros(0, np.int64)
        if len(every) and every.max() >= len(self.rows):
            known = [ids[ids < len(self.rows)] for ids in known]
            every = np.concatenate(known)
        # float32 holds whole numbers up to 2^24: those of 512 rows of 15 bits.
        rows, start, longest = self.rows.take(every, 0).astype(np.float32), 0, 0
        for total, ids in zip(sums, known, strict=True):
            count = len(ids)
            np.add.reduce(rows[start : start + count], axis=0, out=total)
            start += count
            longest = max(longest, count)
        return sums, longest

    @staticmethod
    def _rounded(sums: NDArray[np.float32], longest: int) -> Int8s:
        embeddings = sums.astype(np.float64)
        if longest <= _EXACT_TOKENS:
            squares = np.einsum("ij,ij->i", embeddings, embeddings)
        else:
            whole = sums.astype(np.int64)
            squares = np.einsum("ij,ij->i", whole, whole).astype(np.float64)
        embeddings *= (EMBEDDING_STEPS / np.sqrt(np.maximum(squares, 1.0)))[:, np.newaxis]
        np.rint(embeddings, embeddings)
        np.minimum(embeddings, 127.0, out=embeddings)
        return np.maximum(embeddings, -127.0, out=embeddings).astype(np.int8)


def rounded_row(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale whole numbers to ``EMBEDDING_STEPS``, round them and cut them off: float64[dim].

    Args:
        sums: Changed; its squares add up to less than 2^53.
    """
    sums *= EMBEDDING_STEPS / math.sqrt(max(float(sums.dot(sums)), 1.0))
    np.rint(sums, sums)
    np.minimum(sums, 127.0, out=sums)
    return np.maximum(sums, -127.0, out=sums)


def distil(
    encoder: Distillable,
    *,
    tokens_max: int | None = None,
    tokens_a_run: int = _TOKENS_A_RUN,
    on_run: Callable[[float], None] | None = None,
) -> StaticTable:
    """Distil the table of an encoder; takes about 1 ms of one core per token.

    Args:
        on_run: Called with the share of the tokens after each run; what it raises stops it.
    """
    if not hasattr(encoder, "vocabulary"):
        raise ConfigError("this encoder has no vocabulary, so no cascade can be distilled from it")
    vocabulary = encoder.vocabulary()
    count = min(vocabulary.count, tokens_max or vocabulary.count)
    ids = [number for number in range(count) if number not in vocabulary.special]
    vectors = []
    for start in range(0, len(ids), tokens_a_run):
        texts = [
            freeze_tokens([*vocabulary.before, number, *vocabulary.after])
            for number in ids[start : start + tokens_a_run]
        ]
        vectors.append(encoder.encode_tokens(texts))
        if on_run is not None:
            on_run(min(1.0, (start + tokens_a_run) / len(ids)))
    rows = np.zeros((count, DIM), np.int16)
    with single_blas_thread():
        rows[ids] = _reduced(np.concatenate(vectors).astype(np.float64))
    return StaticTable(encoder.fingerprint, rows)


def _reduced(vectors: NDArray[np.float64]) -> Rows:
    """Project to the principal directions, cut, weight and round: int16[n, DIM]."""
    vectors -= vectors.mean(axis=0)
    _, directions = np.linalg.eigh(vectors.T @ vectors)
    chosen = directions[:, ::-1][:, :DIM]
    # The sign of an eigenvector is arbitrary: make its greatest component positive.
    peaks = chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])]
    reduced = vectors @ (chosen * np.sign(peaks))
    reduced *= np.log(2.0 + np.arange(len(vectors)))[:, np.newaxis]
    reduced *= ROW_PEAK / max(float(np.abs(reduced).max(initial=0.0)), 1e-30)
    rows = np.zeros((len(vectors), DIM), np.int16)
    rows[:, : reduced.shape[1]] = np.rint(reduced)
    return rows
