"""The fast encoder: a table of word pieces, without a graph and without ONNX Runtime.

The embedding of a text is the sum of the rows of its word pieces in a static table of the bundled
encoder, made one length.  It takes some ten microseconds.  It does not know the order of words, so
it is less accurate than the encoder that the table is made from.  The fit of a route set makes up
for most of that: with it, questions differ by what routes differ in.

There are two such models.  The rows of ``FITTED`` were fitted to whole texts
(``encoder_graph.fitted_table``), so the factor of a row says how much its piece counts.  Those of
``DISTILLED``, which the preset ``fast`` stood for before, are what the encoder makes of each piece
alone.  Pieces that open many sentences say little of a topic, so there a piece counts ``(rank +
10) / (rank + 40)``, where the most frequent word has rank 1.

Sums of integers are exact, and a square root and a division are correctly rounded: vectors are
equal bits on every machine, alone or in a batch.

Source: Arora et al., A Simple but Tough-to-Beat Baseline for Sentence Embeddings, 2017 (weights by
frequency); the constants were chosen on training texts of CLINC150 and Banking77, see
docs/adr/0065-route-without-a-transformer.md and docs/adr/0080-fit-the-rows-of-fast-to-texts.md.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder.contract import EncoderStats, StatsCounter, Tokens
from synaptoroute.encoder.prepared import use_prepared
from synaptoroute.encoder.recipe import BUNDLED_LICENCE, DATA, TOKENIZER_SHA256, verify_file
from synaptoroute.encoder.static_table import DIM as TABLE_DIM
from synaptoroute.encoder.static_table import FACTOR_BITS, ByteTable, StaticTable
from synaptoroute.encoder.table_files import (
    DISTILLED_TABLE,
    FITTED_TABLE,
    ShippedByteTable,
    ShippedTable,
)
from synaptoroute.encoder.text_tokenizer import TextTokenizer
from synaptoroute.errors import EncoderError

DIM: Final = TABLE_DIM
LICENCE: Final = BUNDLED_LICENCE
TOKENS_MAX: Final = 256
SCRIPTS: Final = frozenset({"LATIN"})

_VERSION: Final = 1
"""Raise it when tokenization or the arithmetic below change their results."""
_TOKENIZER_FILE: Final = DATA / "tokenizer.json"
_FIRST_WORD: Final = 1_996
"""Token id of the most frequent word; before it are marks, letters and reserved pieces."""
RANK_ADDED: Final = 10
RANK_HALF: Final = 40
_WEIGHT_BITS: Final = FACTOR_BITS
_STEP: Final = 1.0 / (1 << _WEIGHT_BITS)
_TEXTS_A_BLOCK: Final = 256


@dataclass(frozen=True, slots=True)
class FastModel:
    """A static table as an encoder."""

    name: str
    table: ShippedTable | ShippedByteTable
    size_bytes: int


FITTED: Final = FastModel("all-MiniLM-L6-v2-fitted", FITTED_TABLE, 7_935_976)
DISTILLED: Final = FastModel("all-MiniLM-L6-v2-static", DISTILLED_TABLE, 15_627_520)
"""What the preset ``fast`` stood for until there was ``FITTED``."""
NAME: Final = FITTED.name
MODELS: Final = {model.name: model for model in (FITTED, DISTILLED)}


class FastEncoder:
    """Implements ``TextEncoder`` with a table of word pieces; any thread.

    Invariant: an embedding depends on its text alone, and is equal bits on every machine.
    """

    is_static = True  # A cascade would answer from the same table

    def __init__(self, cache_dir: Path | None = None, model: FastModel = FITTED) -> None:
        """Map the table and load the tokenizer: a tenth of a second.

        Args:
            cache_dir: Folder of what was prepared; None for the default.

        Raises:
            ModelCorrupt: A file of the package is not the expected one.
        """
        verify_file(_TOKENIZER_FILE, TOKENIZER_SHA256)
        tokenizer = TextTokenizer(_TOKENIZER_FILE, TOKENS_MAX, scripts=SCRIPTS)
        self._set_up(model, tokenizer, cache_dir)
        self._open()

    def _set_up(self, model: FastModel, tokenizer: TextTokenizer, cache_dir: Path | None) -> None:
        self.name = model.name
        self.dim = DIM
        self.max_tokens = TOKENS_MAX
        self.fingerprint = fingerprint_of(model)
        self._model, self._tokenizer, self._cache_dir = model, tokenizer, cache_dir
        self._table: StaticTable | ByteTable | None = None
        self._is_closed = False
        self._stats = StatsCounter()
        self.prepared = use_prepared(self.fingerprint, cache_dir=cache_dir)

    def former(self) -> FastEncoder | None:
        """The model that the preset ``fast`` stood for before this one; None for that one.

        Databases and clusters that hold its vectors go on with it.  Its table is mapped when the
        first text is encoded, so one that is not used takes neither time nor memory.
        """
        if self._model is DISTILLED:
            return None
        found = FastEncoder.__new__(FastEncoder)
        found._set_up(DISTILLED, self._tokenizer, self._cache_dir)
        return found

    def _open(self) -> StaticTable | ByteTable:
        """Map the table, the first time; two threads may both do it."""
        if self._is_closed:
            raise EncoderError(f"the encoder {self.name} is closed")
        table = self._model.table.load()
        self._weights = _weights(table)
        self._table = table
        return table

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize queries, cut to ``max_tokens``."""
        tokens, truncated_count = self._tokenizer.tokenize(texts)
        if truncated_count:
            self._stats.add(truncated_texts=truncated_count)
        return tokens

    def tokenize_utterances(self, texts: Sequence[str]) -> list[Tokens]:
        return self.tokenize(texts)

    def encode_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        """Sum the rows of tokenized texts: float32[n, dim], unit rows.

        Raises:
            EncoderError: Closed.
            ModelCorrupt: The table of a former model is damaged.
        """
        table = self._table or self._open()
        if len(tokens) == 1:
            vector = _unit_sum(table, self._weights, tokens[0])
            self._stats.add(texts=1, tokens=tokens[0].count)
            return vector[np.newaxis]
        vectors = np.empty((len(tokens), DIM), np.float32)
        for start in range(0, len(tokens), _TEXTS_A_BLOCK):
            block = slice(start, start + _TEXTS_A_BLOCK)
            vectors[block] = self._unit_sums(table, tokens[block])
        self._stats.add(texts=len(tokens), tokens=sum(text.count for text in tokens))
        return vectors

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encode_tokens(self.tokenize(texts))

    def encode_utterances(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encode_tokens(self.tokenize_utterances(texts))

    def whole_words(self) -> Mapping[str, int]:
        """Words that are one token each, in lower case, with their ranks."""
        return self._tokenizer.whole_words()

    def stats(self) -> EncoderStats:
        return self._stats.read()

    def close(self) -> None:
        """Drop the table; running calls finish."""
        self._is_closed = True
        self._table = None

    def _unit_sums(
        self, table: StaticTable | ByteTable, tokens: Sequence[Tokens]
    ) -> NDArray[np.float64]:
        # A row and its weight have 27 bits, a text 8: float64 adds them without error.
        totals = np.empty((len(tokens), DIM), np.float64)
        for total, text in zip(totals, tokens, strict=True):
            rows = table.rows.take(text.ids, axis=0).astype(np.float64)
            np.dot(self._weights.take(text.ids), rows, out=total)
        # Without the bits of the weights, the squares of the sums fit in 63 bits.
        sums = totals.astype(np.int64) >> _WEIGHT_BITS
        squares = np.einsum("ij,ij->i", sums, sums)
        if not squares.all():  # a text without a known piece still needs a direction
            empty = squares == 0
            sums[empty, 0] = squares[empty] = 1
        unit: NDArray[np.float64] = sums / np.sqrt(squares.astype(np.float64))[:, np.newaxis]
        return unit


def _unit_sum(
    table: StaticTable | ByteTable, weights: NDArray[np.float64], text: Tokens
) -> NDArray[np.float32]:
    """As ``_unit_sums`` for one text, the same bits in fewer calls: float32[dim]."""
    rows = table.rows.take(text.ids, 0).astype(np.float64)
    sums = weights.take(text.ids).dot(rows)
    sums *= _STEP
    np.floor(sums, sums)
    # Whole numbers whose squares sum to less than 2^53: float64 adds them without error.
    square = float(sums.dot(sums))
    if not square:
        sums[0] = square = 1.0
    # A square root is correctly rounded in C and in numpy alike.
    unit: NDArray[np.float32] = np.divide(sums, math.sqrt(square)).astype(np.float32)
    return unit


def ranks_of(tokens_count: int) -> NDArray[np.int64]:
    """Rank of each token id among the words of the vocabulary, from 1: int64[tokens]."""
    return np.maximum(np.arange(tokens_count) - (_FIRST_WORD - 1), 1)


def _weights(table: StaticTable | ByteTable) -> NDArray[np.float64]:
    """Weight of each token id in whole steps of 1 / 4096: float64[tokens]."""
    if isinstance(table, ByteTable):
        return table.factors.astype(np.float64)
    ranks = ranks_of(len(table.rows))
    steps: NDArray[np.int64] = ((ranks + RANK_ADDED) << _WEIGHT_BITS) // (ranks + RANK_HALF)
    return steps.astype(np.float64)


def fingerprint_of(model: FastModel) -> str:
    """Fingerprint of the encoder of a model."""
    identity = {
        "model": model.table.checksum,
        "tokenizer": TOKENIZER_SHA256,
        "max_tokens": TOKENS_MAX,
        "dim": DIM,
        "dtype": "float32",
        "version": _VERSION,
    }
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
