"""A static table that is fitted to texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from synaptoroute.encoder.contract import Tokens, Vocabulary, freeze_tokens
from synaptoroute.encoder.static_table import DIM, FACTOR_BITS, ROW_PEAK, ByteTable, in_bytes
from synaptoroute.encoder_graph import fitted_table
from synaptoroute.encoder_graph.fitted_table import TokenCounts, fit_table, read_texts
from synaptoroute.errors import ConfigError

pytestmark = pytest.mark.unit

TOKENS, WIDTH = 60, 12
UNSEEN = TOKENS - 1
SPECIAL = frozenset({0, 1, 2})


class WordEncoder:
    """Encodes a text as the sum of hidden rows, which differ from what a token alone gives."""

    fingerprint = "a" * 64

    def __init__(self) -> None:
        random = np.random.default_rng(4)
        self.alone = random.standard_normal((TOKENS, WIDTH)).astype(np.float32)
        self.hidden = 0.4 * self.alone + random.standard_normal((TOKENS, WIDTH))

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(TOKENS, (1,), (2,), SPECIAL)

    def tokenize_utterances(self, texts: Sequence[str]) -> list[Tokens]:
        return [freeze_tokens([1, *map(int, text.split()), 2]) for text in texts]

    def encode_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        found = [
            self.alone[text.ids[1]] if text.count == 3 else self.hidden[text.ids[1:-1]].sum(axis=0)
            for text in tokens
        ]
        vectors = np.array(found, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def made_texts(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [
        " ".join(map(str, random.integers(3, UNSEEN, random.integers(2, 9)))) for _ in range(count)
    ]


def fitted(texts: Sequence[str]) -> ByteTable:
    return fit_table(WordEncoder(), texts)


def wide(table: ByteTable) -> NDArray[np.float64]:
    """Its rows times their factors."""
    factors: NDArray[np.float64] = table.factors[:, np.newaxis] / (1 << FACTOR_BITS)
    return table.rows * factors


def likeness(encoder: WordEncoder, rows: NDArray[np.float64], texts: Sequence[str]) -> float:
    """Mean correlation of the distances between texts by a table and by the encoder."""
    tokens = encoder.tokenize_utterances(texts)
    static = np.array([rows[text.ids].sum(axis=0) for text in tokens])
    static /= np.linalg.norm(static, axis=1, keepdims=True)
    vectors = encoder.encode_tokens(tokens).astype(np.float64)
    return float(np.corrcoef((static @ static.T).ravel(), (vectors @ vectors.T).ravel())[0, 1])


def test_sums_of_fitted_rows_resemble_the_vectors_of_other_texts() -> None:
    encoder = WordEncoder()
    table = fitted(made_texts(3_000, 1))
    alone = encoder.alone.astype(np.float64)
    alone[sorted(SPECIAL)] = 0.0
    others = made_texts(300, 2)

    assert likeness(encoder, wide(table), others) > 0.9 > likeness(encoder, alone, others)
    assert (TOKENS, DIM) == table.rows.shape
    assert not table.rows[sorted(SPECIAL)].any()
    assert encoder.fingerprint == table.fingerprint


def test_token_without_texts_keeps_the_direction_of_its_vector() -> None:
    texts = made_texts(3_000, 1)
    rows, fewer = (wide(fitted(each)) for each in (texts, texts[::2]))

    assert rows[UNSEEN].any()
    own, other = rows[UNSEEN], fewer[UNSEEN]
    assert np.linalg.norm(own) == pytest.approx(np.linalg.norm(other), rel=0.5)


def test_equal_texts_give_equal_tables() -> None:
    texts = made_texts(1_200, 3)

    assert fitted(texts).checksum == fitted(texts).checksum


def test_rows_are_kept_to_a_two_hundred_fiftieth_of_their_greatest_number() -> None:
    """Each row has a factor of its own, so short rows lose no more than long ones."""
    rows = np.random.default_rng(6).standard_normal((40, DIM)).astype(np.float32)
    rows *= np.logspace(-4, 0, 40, dtype=np.float32)[:, np.newaxis]
    rows[7] = 0.0
    table = in_bytes("a" * 64, rows)
    scale = ROW_PEAK / np.abs(rows).max()
    peaks = np.abs(rows).max(axis=1)

    assert (np.abs(wide(table) / scale - rows).max(axis=1) <= peaks / 250).all()
    assert not wide(table)[7].any()


def test_sparse_sums_are_those_of_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the tokens of a text lie in two blocks."""
    monkeypatch.setattr(fitted_table, "_TOKENS_A_BLOCK", 7)
    random = np.random.default_rng(5)
    texts = [random.integers(0, 9, random.integers(2, 12)) for _ in range(20)]
    dense = np.stack([np.bincount(ids, minlength=9) for ids in texts]).astype(np.float32)
    rows, values = (random.standard_normal((n, 3)).astype(np.float32) for n in (9, 20))
    scales = random.random(20).astype(np.float32)
    counts = TokenCounts(texts, 9)

    assert np.allclose(dense @ rows, counts.sums(rows), atol=1e-5)
    assert np.allclose(dense.T @ values, counts.transposed(values), atol=1e-5)
    assert np.allclose(((dense * scales[:, None]) ** 2).sum(axis=0), counts.squares(scales))


def test_texts_are_the_lines_of_a_folder_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a long file every n-th line is read."""
    monkeypatch.setattr(fitted_table, "TEXTS_MIN", 3)
    monkeypatch.setattr(fitted_table, "TEXTS_A_FILE_MAX", 3)
    (tmp_path / "b.txt").write_text("one\n two \n\n", "utf-8")
    (tmp_path / "a.txt").write_text("two\nthree\nfour\nfive\n", "utf-8")
    (tmp_path / "c.md").write_text("six\n", "utf-8")

    assert ["two", "four", "one"] == read_texts(tmp_path)


def test_too_few_texts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n", "utf-8")

    with pytest.raises(ConfigError, match="1 texts"):
        read_texts(tmp_path)
