"""The static tables in the package: they are of the bundled encoder, and cannot be replaced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from synaptoroute.cascade.table_store import TableStore
from synaptoroute.encoder import Encoder, find_table, save_table, shipped_table, table_file
from synaptoroute.encoder import table_files as files
from synaptoroute.encoder.contract import freeze_tokens
from synaptoroute.encoder.recipe import bundled_recipe
from synaptoroute.encoder.static_table import DIM, StaticTable
from synaptoroute.errors import ModelCorrupt

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module", name="encoder")
def bundled() -> Iterator[Encoder]:
    encoder = Encoder()
    yield encoder
    encoder.close()


def other_table() -> StaticTable:
    """A sound table of the bundled encoder that is not the shipped one."""
    return StaticTable(files.SHIPPED_FINGERPRINT, np.ones((9, DIM), np.int16))


def shipped() -> StaticTable:
    table = shipped_table(files.SHIPPED_FINGERPRINT)
    assert table is not None
    return table


@pytest.mark.parametrize("known", [files.DISTILLED_TABLE, files.FITTED_TABLE])
def test_shipped_tables_are_of_the_bundled_encoder(
    encoder: Encoder, known: files.ShippedTable | files.ShippedByteTable
) -> None:
    table = known.load()

    assert encoder.fingerprint == table.fingerprint
    assert (encoder.vocabulary().count, DIM) == table.rows.shape
    assert not table.rows[sorted(encoder.vocabulary().special)].any()
    assert not table.rows.flags.owndata
    assert table.rows.flags.aligned


def resident_bytes_of(file: Path) -> int:
    """Memory of the mappings of a file."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    own = [n for n, line in enumerate(lines) if line.endswith(str(file))]
    found = [next(line for line in lines[n:] if line.startswith("Rss:")) for n in own]
    return sum(int(line.split()[1]) for line in found) * 1_024


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_rows_that_no_text_needs_take_no_memory() -> None:
    """Neither the check nor the name of the table leaves its pages resident."""
    table = files.DISTILLED_TABLE.load()
    before = resident_bytes_of(files.DISTILLED_TABLE.file)
    TableStore([table])

    assert resident_bytes_of(files.DISTILLED_TABLE.file) - before < table.rows.nbytes / 4


_RESIDENT = """
from pathlib import Path
from synaptoroute.encoder import Encoder
from synaptoroute.encoder.recipe import bundled_recipe

encoder = Encoder()
assert encoder.encode(["a word"]).any()
file = str(bundled_recipe().model_file.resolve())
lines = Path("/proc/self/smaps").read_text().splitlines()
own = [n for n, line in enumerate(lines) if line.endswith(file)]
found = [next(line for line in lines[n:] if line.startswith("Rss:")) for n in own]
print(sum(int(line.split()[1]) for line in found) * 1_024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_words_that_no_text_has_take_no_memory() -> None:
    """The session reads them from the file of the model, and the check left no pages."""
    # In a process of its own: other tests open encoders that share the file.
    said = subprocess.run(
        [sys.executable, "-c", _RESIDENT], capture_output=True, text=True, check=True
    )

    assert 0 < int(said.stdout) < bundled_recipe().model_file.stat().st_size / 4


def test_shipped_table_agrees_with_its_recipe(encoder: Encoder) -> None:
    """Rows are weighted projections of the encoder's vectors, the same for every token.

    The recipe projects to principal directions of the whole vocabulary.  A sample is enough to
    find the projection, and to compare the rows with it.
    """
    vocabulary, table = encoder.vocabulary(), shipped()
    ids = np.array([each for each in range(vocabulary.count) if each not in vocabulary.special])
    weights = np.log(2.0 + np.arange(len(ids)))
    sample = np.arange(0, len(ids), 25)
    vectors = vectors_of(encoder, ids[sample].tolist())
    rows = table.rows[ids[sample]] / weights[sample][:, np.newaxis]

    known = np.column_stack([vectors, np.ones(len(vectors))])
    projection = np.linalg.lstsq(known[::2], rows[::2], rcond=None)[0]
    errors = np.linalg.norm(known[1::2] @ projection - rows[1::2], axis=1)
    lengths = np.linalg.norm(rows[1::2], axis=1)

    assert np.median(errors / lengths) < 0.01


def vectors_of(encoder: Encoder, ids: list[int]) -> np.ndarray:
    vocabulary = encoder.vocabulary()
    tokens = [freeze_tokens([*vocabulary.before, each, *vocabulary.after]) for each in ids]
    return encoder.encode_tokens(tokens).astype(np.float64)


def test_shipped_table_comes_before_a_prepared_one(tmp_path: Path) -> None:
    """A cache of an earlier release or of another machine would make nodes differ."""
    other = other_table()
    save_table(other, table_file(other.fingerprint, tmp_path))

    found = find_table(other.fingerprint, tmp_path)

    assert found is not None
    assert files.DISTILLED_TABLE.checksum == found.checksum != other.checksum


def test_cascade_keeps_the_table_that_calibrations_name() -> None:
    """Those of released clusters hold this name; the fitted rows answer fewer queries."""
    assert shipped().checksum.startswith("881ad66c73f230e1")


def test_no_table_ships_for_another_encoder(tmp_path: Path) -> None:
    assert shipped_table("e" * 64) is None
    assert find_table("e" * 64, tmp_path) is None


@pytest.mark.parametrize("content", [None, b"", b"damaged\n", b"another"])
def test_damaged_package_is_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absent, empty, damaged, or a sound table of the same encoder that is not the shipped one."""
    path = tmp_path / "static.table"
    known = files.ShippedTable(path, files.DISTILLED_TABLE.checksum)
    monkeypatch.setattr(files, "DISTILLED_TABLE", known)
    if content == b"another":
        save_table(other_table(), path)
    elif content is not None:
        path.write_bytes(content)

    with pytest.raises(ModelCorrupt, match="reinstall synaptoroute-cluster"):
        shipped_table(files.SHIPPED_FINGERPRINT)
