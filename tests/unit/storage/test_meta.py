"""The row of the position, written with every commit beside settings that may be long."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histories import DIM, FINGERPRINT, History, assert_holds, opened, put
from synaptoroute.core.mutation import Calibrate, Position, PutSettings, Settings
from synaptoroute.storage.connection import PAGE_BYTES, connect_writer, transaction
from synaptoroute.storage.database import create_tables
from synaptoroute.storage.loader import read_meta
from synaptoroute.storage.records import Meta, checksum, meta_row
from synaptoroute.storage.writer import write_meta

pytestmark = pytest.mark.unit

LONG = '{"turn":"' + "x" * 60_000 + '"}'


@given(st.integers(0, 2**40), st.text(st.characters(codec="utf-8")), st.booleans())
def test_checksum_covers_every_column(seq: int, calibration: str, cascade: bool) -> None:
    """The checksum equals that of the whole row, though a part of it is cached."""
    settings = Settings(cascade=cascade, calibration=calibration)
    meta = Meta(Position(1, seq, "c"), "d'\"", "f", DIM, settings)
    *fields, total = meta_row(meta)

    assert checksum(*fields) == total


def test_long_calibration_comes_back(tmp_path: Path) -> None:
    """Later commits do not change it."""
    history = History()
    with closing(opened(tmp_path / "node.sqlite")) as storage:
        storage.commit(history.write(PutSettings(Settings(cascade=True))))
        storage.commit(history.write(Calibrate(LONG)))
        for number in range(20):
            storage.commit(history.write(put(f"r{number}", 1)))
        storage.close()
        stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)

    assert LONG == stored.snapshot.settings.calibration
    assert_holds(stored, history)


def test_pages_of_a_calibration_are_not_written_again(tmp_path: Path) -> None:
    """If the row keeps its length only its ends change, with position and checksum."""
    path = tmp_path / "node.sqlite"
    log = tmp_path / "node.sqlite-wal"
    growths = []
    with closing(connect_writer(path, "off")) as writer:
        with transaction(writer):
            create_tables(writer)
        for seq in range(1_000, 1_020):
            before = log.stat().st_size
            meta = Meta(Position(1, seq), "d", "f", DIM, Settings(cascade=True, calibration=LONG))
            with transaction(writer):
                write_meta(writer, meta)
            growths.append(log.stat().st_size - before)
        held = read_meta(writer)

    assert meta == held
    assert growths[0] > len(LONG)
    assert len(growths) // 4 < sum(growth < 3 * PAGE_BYTES for growth in growths)
