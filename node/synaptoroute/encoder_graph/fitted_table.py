"""Fits a static table to texts, so that sums of its rows resemble the vectors of whole texts.

A row that holds what the encoder makes of a token alone (``static_table.distil``) says nothing
of what the token adds to a text.  Here rows are chosen by least squares: the sum of the rows of
a text, divided by the length that the sum had before, comes near the encoder's vector of it.

* Vectors of texts are centred, reduced to their ``DIM`` principal directions and made one length.
* A row starts as the vector of its token, in the same directions, times ``(rank + 10) /
  (rank + 40)``.
* A row is drawn to its start as if ``PRIOR_TEXTS`` texts asked for it: tokens that the texts
  seldom have stay where they were, and a token that they never have keeps its start.

The sums are linear in the rows, so this is one ridge regression for each direction.  All are
solved at once by conjugate gradients.  The last digits depend on the processor.

Source: Tulkens and van Dongen, Model2Vec (tokenlearn), 2024, which fits by gradient descent;
Hestenes and Stiefel, Methods of Conjugate Gradients, 1952.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder.contract import Tokens, Vocabulary, freeze_tokens
from synaptoroute.encoder.fast_encoder import RANK_ADDED, RANK_HALF, ranks_of
from synaptoroute.encoder.static_table import DIM, ByteTable, Distillable, in_bytes
from synaptoroute.errors import ConfigError
from synaptoroute.threads import single_blas_thread

PRIOR_TEXTS: Final = 30.0
TEXTS_MIN: Final = 1_000
"""Fewer have fewer directions than a table needs."""
TEXTS_A_FILE_MAX: Final = 25_000
STEPS_MAX: Final = 30
RESIDUE_MAX: Final = 1e-5
"""Share of the squared residue at which the solution is near enough."""

_TEXTS_A_RUN: Final = 256
_TOKENS_A_BLOCK: Final = 65_536

Float32s: TypeAlias = NDArray[np.float32]
Numbers: TypeAlias = NDArray[np.int64]


def read_texts(folder: Path) -> list[str]:
    """Read lines of all ``.txt`` files of a folder; each once, in order.

    Of a file with more than ``TEXTS_A_FILE_MAX`` lines every n-th is read, so that no source
    outweighs the others.

    Raises:
        ConfigError: There are too few.
    """
    found: dict[str, None] = {}
    for path in sorted(folder.glob("*.txt")):
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        found.update(dict.fromkeys(lines[:: -(-len(lines) // TEXTS_A_FILE_MAX) or 1]))
    texts = [text for text in found if text]
    if len(texts) < TEXTS_MIN:
        raise ConfigError(f"{folder} has {len(texts)} texts: {TEXTS_MIN} are needed")
    return texts


class Fittable(Distillable, Protocol):
    """An encoder as fitting needs it."""

    def tokenize_utterances(self, texts: Sequence[str]) -> list[Tokens]: ...


def fit_table(encoder: Fittable, texts: Sequence[str]) -> ByteTable:
    """Fit the table of an encoder with a vocabulary; a millisecond of one core a text."""
    vocabulary = encoder.vocabulary()
    counts, wanted = _encoded(encoder, vocabulary, texts)
    alone = _vectors_alone(encoder, vocabulary)
    with single_blas_thread():
        wanted -= wanted.mean(axis=0)
        _, directions = np.linalg.eigh((wanted.T @ wanted).astype(np.float64))
        chosen = directions[:, ::-1][:, :DIM].astype(np.float32)
        wanted = wanted @ chosen
        wanted /= _lengths(wanted)[:, np.newaxis]
        rows = _fitted(counts, wanted, alone @ chosen)
    table = np.zeros((vocabulary.count, DIM), np.float32)
    table[:, : rows.shape[1]] = rows
    return in_bytes(encoder.fingerprint, table)


class TokenCounts:
    """The sparse matrix of how often each text has each token.

    Args:
        texts: Ids of each text.
        tokens: Ids are below it.
    """

    def __init__(self, texts: Sequence[Numbers], tokens: int) -> None:
        lengths = np.array([len(ids) for ids in texts])
        self._ids = np.concatenate(texts).astype(np.int64)
        self._owners = np.repeat(np.arange(len(texts)), lengths)
        order = np.argsort(self._ids, kind="stable")
        self._by_token = self._ids[order], self._owners[order]
        self.shape = len(texts), tokens

    def sums(self, rows: Float32s) -> Float32s:
        """Sum the rows of each text's tokens: float32[texts, dim]."""
        return _gathered(self._ids, self._owners, rows, self.shape[0])

    def transposed(self, values: Float32s) -> Float32s:
        """Sum the values of each token's texts: float32[tokens, dim]."""
        ids, owners = self._by_token
        return _gathered(owners, ids, values, self.shape[1])

    def squares(self, scales: Float32s) -> Float32s:
        """Sum of the squared counts of each token, each text scaled: float32[tokens]."""
        pairs = self._ids * self.shape[0] + self._owners
        unique, counts = np.unique(pairs, return_counts=True)
        ids, owners = np.divmod(unique, self.shape[0])
        weights = (counts * scales[owners].astype(np.float64)) ** 2
        return np.bincount(ids, weights, self.shape[1]).astype(np.float32)


def _gathered(sources: Numbers, targets: Numbers, rows: Float32s, count: int) -> Float32s:
    """Add ``rows[sources]`` to their targets, which ascend: float32[count, dim]."""
    totals = np.zeros((count, rows.shape[1]), np.float32)
    for start in range(0, len(sources), _TOKENS_A_BLOCK):
        block = slice(start, start + _TOKENS_A_BLOCK)
        owners = targets[block]
        starts = np.flatnonzero(np.diff(owners, prepend=owners[0] - 1))
        # A target may have begun in the block before.
        totals[owners[starts]] += np.add.reduceat(rows[sources[block]], starts, axis=0)
    return totals


def _fitted(counts: TokenCounts, wanted: Float32s, alone: Float32s) -> Float32s:
    """Solve for the rows: float32[tokens, dim].

    Args:
        wanted: Unit vectors of the texts.
        alone: Vectors of the tokens, in the same directions; zero for special ones.
    """
    ranks = ranks_of(len(alone)).astype(np.float32)
    weights = _float32((ranks + RANK_ADDED) / (ranks + RANK_HALF))
    start = alone * weights[:, np.newaxis]
    sums = counts.sums(start)
    scales = (1.0 / np.maximum(_lengths(sums), 1e-6)).astype(np.float32)
    sums *= scales[:, np.newaxis]
    prior = np.float32(PRIOR_TEXTS * float(np.mean(scales**2)))
    known = np.abs(alone).max(axis=1) > 0.0
    residue = counts.transposed((wanted - sums) * scales[:, np.newaxis])
    residue[~known] = 0.0
    step = _solved(counts, scales**2, prior, residue, known)
    return _float32(start + step)


def _solved(
    counts: TokenCounts,
    weights: Float32s,
    prior: np.float32,
    residue: Float32s,
    known: NDArray[np.bool_],
) -> Float32s:
    """Solve ``(C' W C + prior) x = residue`` for every column by conjugate gradients."""
    conditions = _float32(counts.squares(np.sqrt(weights)) + prior)[:, np.newaxis]
    found = np.zeros_like(residue)
    scaled = _float32(residue / conditions)
    direction, product = scaled.copy(), _dots(residue, scaled)
    first = float(_dots(residue, residue).sum())
    for _ in range(STEPS_MAX):
        image = counts.transposed(counts.sums(direction) * weights[:, np.newaxis])
        image += prior * direction
        image[~known] = 0.0
        length = product / np.maximum(_dots(direction, image), 1e-30)
        found += (length * direction).astype(np.float32)
        residue = residue - (length * image).astype(np.float32)
        if float(_dots(residue, residue).sum()) <= RESIDUE_MAX * first:
            break
        scaled = _float32(residue / conditions)
        former, product = product, _dots(residue, scaled)
        step = _float32(product / np.maximum(former, 1e-30) * direction)
        direction = _float32(scaled + step)
    return found


def _encoded(
    encoder: Fittable, vocabulary: Vocabulary, texts: Sequence[str]
) -> tuple[TokenCounts, Float32s]:
    """Token counts and vectors of the texts that have two tokens or more."""
    special = np.array(sorted(vocabulary.special), np.int64)
    ids, vectors = [], []
    for start in range(0, len(texts), _TEXTS_A_RUN):
        tokens = encoder.tokenize_utterances(texts[start : start + _TEXTS_A_RUN])
        own = [each.ids[~np.isin(each.ids, special)] for each in tokens]
        kept = [number for number, each in enumerate(own) if len(each) > 1]
        ids += [own[number] for number in kept]
        vectors.append(encoder.encode_tokens([tokens[number] for number in kept]))
    return TokenCounts(ids, vocabulary.count), np.concatenate(vectors)


def _vectors_alone(encoder: Fittable, vocabulary: Vocabulary) -> Float32s:
    """Centred vectors of the tokens alone, float32[tokens, dim]; zero for special ones."""
    ids = [each for each in range(vocabulary.count) if each not in vocabulary.special]
    found = [
        encoder.encode_tokens(
            [
                freeze_tokens([*vocabulary.before, each, *vocabulary.after])
                for each in ids[start : start + _TEXTS_A_RUN]
            ]
        )
        for start in range(0, len(ids), _TEXTS_A_RUN)
    ]
    vectors = np.concatenate(found)
    alone = np.zeros((vocabulary.count, vectors.shape[1]), np.float32)
    alone[ids] = vectors - vectors.mean(axis=0)
    return alone


def _float32(values: NDArray[np.floating]) -> Float32s:
    return np.asarray(values, np.float32)


def _lengths(rows: Float32s) -> Float32s:
    lengths: Float32s = np.linalg.norm(rows, axis=1)
    return lengths


def _dots(left: Float32s, right: Float32s) -> NDArray[np.float64]:
    products: NDArray[np.float64] = np.einsum("ij,ij->j", left, right, dtype=np.float64)
    return products
