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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

_ROW_PEAK: Final = 32_767
_TOKENS_A_RUN: Final = 1_024
_TEXTS_A_BLOCK: Final = 256

Rows: TypeAlias = NDArray[np.int16]
Int8s: TypeAlias = NDArray[np.int8]


class Distillable(Protocol):
    """An encoder as distilling needs it."""

    @property
    def fingerprint(self) -> str: ...

    def vocabulary(self) -> Vocabulary: ...

    def encode_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        """Encode to float32[n, dim], unit rows."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
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

    @property
    def checksum(self) -> str:
        """SHA-256 of recipe, fingerprint and rows, hexadecimal."""
        digest = hashlib.sha256(f"{RECIPE_VERSION}|{self.fingerprint}|{self.rows.shape}|".encode())
        # The rows themselves, not a copy: they have 16 MB.
        digest.update(np.ascontiguousarray(self.rows, "<i2").data)
        return digest.hexdigest()

    def embed(self, ids: NDArray[np.int64]) -> Int8s | None:
        """Embed one tokenized text: int8[dim]; None if no token has a row."""
        embedding: Int8s = self._rounded(self._sums([ids]))[0]
        return embedding if embedding.any() else None

    def embed_all(self, tokens: Sequence[Tokens]) -> Int8s:
        """Embed tokenized texts: int8[n, dim]; a row of zeros if no token has a row."""
        embeddings = np.zeros((len(tokens), self.dim), np.int8)
        for start in range(0, len(tokens), _TEXTS_A_BLOCK):
            block = slice(start, start + _TEXTS_A_BLOCK)
            embeddings[block] = self._rounded(self._sums([text.ids for text in tokens[block]]))
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

    def _sums(self, texts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Sum the rows of each text's tokens: the first token of all texts, then the second."""
        known = [ids[:TOKENS_MAX] for ids in texts]
        known = [ids[ids < len(self.rows)] for ids in known]
        counts = np.array([len(ids) for ids in known])
        order = np.argsort(-counts, kind="stable")
        places = np.zeros((len(known), int(counts.max(initial=0))), np.int64)
        for place, number in zip(places, order.tolist(), strict=True):
            place[: counts[number]] = known[number]
        sums = np.zeros((len(known), self.dim), np.int64)
        longer = np.searchsorted(-counts[order], -np.arange(places.shape[1]), "left").tolist()
        for token, count in enumerate(longer):
            sums[:count] += self.rows[places[:count, token]]
        by_text = np.empty_like(sums)
        by_text[order] = sums
        return by_text

    @staticmethod
    def _rounded(sums: NDArray[np.int64]) -> Int8s:
        squares = np.einsum("ij,ij->i", sums, sums)
        steps = EMBEDDING_STEPS / np.sqrt(np.maximum(squares, 1).astype(np.float64))
        embeddings = sums * steps[:, np.newaxis]
        np.rint(embeddings, embeddings)
        whole: Int8s = np.clip(embeddings, -127.0, 127.0, out=embeddings).astype(np.int8)
        return whole


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
    reduced *= _ROW_PEAK / max(float(np.abs(reduced).max(initial=0.0)), 1e-30)
    rows = np.zeros((len(vectors), DIM), np.int16)
    rows[:, : reduced.shape[1]] = np.rint(reduced)
    return rows
