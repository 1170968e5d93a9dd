"""The content root of a snapshot file: as computed from the file, and as required at an install."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from forgeries import forge_payload, forge_tail
from histories import DIM, FINGERPRINT, opened, rich_history
from synaptoroute.core.content import root_of
from synaptoroute.errors import StorageCorrupt
from synaptoroute.snapshot_file import read_content
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.unit


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SQLiteStorage]:
    with closing(opened(tmp_path / "node.sqlite")) as storage:
        yield storage


@pytest.fixture
def snapshot(tmp_path: Path) -> tuple[Path, str]:
    """A snapshot file, and the content root of the replica that it is of."""
    target = tmp_path / "snapshot.sqlite"
    with closing(opened(tmp_path / "donor.sqlite")) as donor:
        history = rich_history(donor)
        donor.snapshot_to(target)
    return target, root_of(history.replica.snapshot(), FINGERPRINT, DIM)


def test_root_of_the_file_is_that_of_the_replica(snapshot: tuple[Path, str]) -> None:
    path, root = snapshot
    assert read_content(path).root == root


def test_snapshot_with_the_required_root_is_installed(
    storage: SQLiteStorage, snapshot: tuple[Path, str]
) -> None:
    path, root = snapshot
    stored = storage.install(path, root=root)
    assert root == root_of(stored.snapshot, FINGERPRINT, DIM)


def test_forged_snapshot_is_not_installed(
    storage: SQLiteStorage, snapshot: tuple[Path, str]
) -> None:
    """Its digest, checksums and position are right; only its content is not certified."""
    path, root = snapshot
    before = storage.position
    forge_payload(path)
    assert read_content(path).root != root
    with pytest.raises(StorageCorrupt, match="not what the voters certified"):
        storage.install(path, root=root)
    assert before == storage.position
    # Without a required root, nothing shows the forgery.
    storage.install(path)


def test_op_log_that_does_not_match_its_chain_is_refused(
    storage: SQLiteStorage, snapshot: tuple[Path, str]
) -> None:
    """A snapshot's op log is served to others, so it is verified up to the position."""
    path, root = snapshot
    forge_tail(path)
    with pytest.raises(StorageCorrupt, match="does not match its chain"):
        storage.install(path, root=root)
    with pytest.raises(StorageCorrupt, match="does not match its chain"):
        read_content(path)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW extra AS SELECT 1",
        "CREATE TRIGGER t AFTER DELETE ON slot BEGIN SELECT 1; END",
        "UPDATE slot SET slot = 1 << 40 WHERE slot = (SELECT max(slot) FROM slot)",
        "UPDATE route SET route_id = -1 WHERE route_id = (SELECT max(route_id) FROM route)",
        "DELETE FROM meta",
    ],
)
def test_hostile_file_is_refused(snapshot: tuple[Path, str], statement: str) -> None:
    path, _ = snapshot
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    with pytest.raises(StorageCorrupt):
        read_content(path)


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    path.write_bytes(b"x" * 10_000)
    with pytest.raises(StorageCorrupt):
        read_content(path)
