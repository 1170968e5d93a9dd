"""Static tables: distilling, embedding, and the file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from synaptoroute.cascade import StaticTable, distil, load_table, save_table, table_file
from synaptoroute.encoder import Encoder, HashEncoder
from synaptoroute.encoder.contract import Tokens, freeze_tokens
from synaptoroute.encoder.static_table import DIM
from synaptoroute.errors import ConfigError, ModelCorrupt

pytestmark = pytest.mark.unit

FINGERPRINT = "f" * 64


def some_table(seed: int = 0, tokens: int = 50) -> StaticTable:
    rows = np.random.default_rng(seed).integers(-30_000, 30_000, (tokens, DIM)).astype(np.int16)
    rows[0] = 0
    return StaticTable(FINGERPRINT, rows)


def test_embedding_does_not_depend_on_the_batch() -> None:
    """Alone or with others in any order, the bytes are the same."""
    table = some_table()
    ids = np.array([3, 4, 9], np.int64)

    alone = table.embed(ids)

    assert alone is not None
    assert (alone == table.embed(ids[::-1].copy())).all()
    assert np.int8 == alone.dtype


def test_many_texts_have_the_embeddings_of_each() -> None:
    """They are tokenized in parts of bounded size."""
    table = some_table()
    texts = [f"{number:03d}" for number in range(600)]
    parts: list[int] = []

    def tokenize(some: Sequence[str]) -> list[Tokens]:
        parts.append(len(some))
        return [freeze_tokens([1 + int(digit) for digit in text]) for text in some]

    embedded = table.embed_texts(texts, tokenize)

    assert (embedded == table.embed_all(tokenize(texts))).all()
    assert embedded.any()
    assert parts.pop() == len(texts) == sum(parts)
    assert max(parts) < len(texts)


def test_embeddings_equal_their_definition() -> None:
    """Also those of long texts, whose sums are large, and of unknown pieces."""
    table = some_table()
    texts = [np.arange(count) * 7 % 60 for count in (0, 1, 3, 40, 129, 130, 400, 512, 700)]
    texts += [np.full(600, 5), np.full(3, 99)]

    embedded = table.embed_all([freeze_tokens(ids.tolist()) for ids in texts])

    for row, ids in zip(embedded, texts, strict=True):
        known = ids[:512][ids[:512] < len(table.rows)]
        sums = table.rows[known].astype(np.int64).sum(axis=0)
        square = np.maximum((sums * sums).sum(), 1).astype(np.float64)
        expected = np.clip(np.rint(sums * (254 / np.sqrt(square))), -127, 127)
        assert row.tolist() == expected.tolist()


def test_embedding_has_the_direction_of_the_sum() -> None:
    """It differs only by the rounding to int8."""
    table = some_table()
    ids = np.array([3, 4, 4, 9], np.int64)
    exact = table.rows[ids].astype(np.float64).sum(axis=0)

    embedding = table.embed(ids)

    assert embedding is not None
    cosine = embedding @ exact / np.linalg.norm(embedding.astype(float)) / np.linalg.norm(exact)
    assert cosine > 0.999


def test_text_of_unknown_or_special_tokens_has_no_embedding() -> None:
    """Such a text must not be answered."""
    table = some_table()

    assert table.embed(np.array([0], np.int64)) is None
    assert table.embed(np.array([50, 10_000], np.int64)) is None
    assert table.embed(np.array([], np.int64)) is None


def test_tokens_beyond_the_table_are_left_out() -> None:
    """They are treated as unknown words."""
    table = some_table()
    left, right = table.embed(np.array([5, 99])), table.embed(np.array([5]))

    assert left is not None
    assert right is not None
    assert (left == right).all()


def test_table_round_trips_through_the_file(tmp_path: Path) -> None:
    """Rows and checksum are the same."""
    table = some_table()
    path = table_file(FINGERPRINT, tmp_path)

    save_table(table, path)
    loaded = load_table(path, FINGERPRINT)

    assert loaded is not None
    assert (table.rows == loaded.rows).all()
    assert table.checksum == loaded.checksum
    assert [path] == list(path.parent.iterdir())


def test_missing_table_is_none(tmp_path: Path) -> None:
    """A node without prepared tables is not broken."""
    assert load_table(table_file(FINGERPRINT, tmp_path), FINGERPRINT) is None


@pytest.mark.parametrize("at", [0, 20, -1, -20_000])
def test_damaged_table_is_refused(at: int, tmp_path: Path) -> None:
    """One wrong byte in the header or in the rows is detected."""
    path = table_file(FINGERPRINT, tmp_path)
    save_table(some_table(), path)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)

    with pytest.raises(ModelCorrupt, match="model prepare"):
        load_table(path, FINGERPRINT)


@pytest.mark.parametrize("size_bytes", [0, 10, 400, 20_000])
def test_truncated_table_is_refused(size_bytes: int, tmp_path: Path) -> None:
    """A truncated copy is detected."""
    path = table_file(FINGERPRINT, tmp_path)
    save_table(some_table(), path)
    path.write_bytes(path.read_bytes()[:size_bytes])

    with pytest.raises(ModelCorrupt):
        load_table(path, FINGERPRINT)


def test_table_of_another_encoder_is_refused(tmp_path: Path) -> None:
    """The name of the file does not matter."""
    path = table_file("e" * 64, tmp_path)
    save_table(some_table(), path)

    with pytest.raises(ModelCorrupt, match="another encoder"):
        load_table(path, "e" * 64)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_crash_during_save_keeps_the_old_table(step: str, tmp_path: Path) -> None:
    """The process dies before the new file is durable, or before it is renamed."""
    path = table_file(FINGERPRINT, tmp_path)
    save_table(some_table(1), path)
    script = f"""
import os, signal
from pathlib import Path
import numpy as np
from synaptoroute.cascade import StaticTable, save_table

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if {step!r} == "fsync":
    os.fsync = die
else:
    Path.replace = die
save_table(StaticTable({FINGERPRINT!r}, np.ones((9, {DIM}), np.int16)), Path({str(path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    loaded = load_table(path, FINGERPRINT)

    assert -9 == done.returncode
    assert loaded is not None
    assert some_table(1).checksum == loaded.checksum


def test_encoder_without_a_vocabulary_cannot_be_distilled() -> None:
    """The test encoder hashes words, so it has no vocabulary."""
    with pytest.raises(ConfigError, match="vocabulary"):
        distil(HashEncoder(64))  # type: ignore[arg-type]


def test_distilling_twice_gives_the_same_bytes() -> None:
    """Rows of special tokens are zero, rows of word pieces are not."""
    encoder = Encoder()
    try:
        special = encoder.vocabulary().special
        one, other = distil(encoder, tokens_max=1_400), distil(encoder, tokens_max=1_400)
    finally:
        encoder.close()

    assert one.checksum == other.checksum
    assert (1_400, DIM) == one.rows.shape
    assert {101, 102} <= special
    assert not one.rows[sorted(each for each in special if each < 1_400)].any()
    assert one.rows[1_300].any()
    assert encoder.fingerprint == one.fingerprint


def test_tables_can_be_imported_from_the_encoder_package() -> None:
    """The import path of programs that were written before the cascade had its own package."""
    from synaptoroute import cascade, encoder

    assert cascade.load_table is encoder.load_table
    assert cascade.table_file is encoder.table_file
    with pytest.raises(AttributeError):
        encoder.no_such_name  # noqa: B018
