"""Corrupt files are found at boot and quarantined."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from histories import DIM, FINGERPRINT, History, assert_holds, held_vectors, put
from synaptoroute.errors import SchemaTooNew, StorageCorrupt, StorageUnavailable
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.unit


def fill(path: Path, history: History, group_count: int = 6) -> dict[int, str]:
    """Commit groups to a file and keep its WAL; returns the digest of each position."""
    storage = SQLiteStorage(path)
    storage.open(fingerprint=FINGERPRINT, dim=DIM)
    held = {}
    for seed in range(group_count):
        storage.commit(history.write(put(f"r{seed}", 3, seed)))
        held[storage.position.seq] = storage.digest
    close_with_wal(storage)
    return held


def close_with_wal(storage: SQLiteStorage) -> None:
    """Stop as a killed process does: the WAL stays beside the database."""
    copies = {each: each.read_bytes() for each in (wal_of(storage.path), storage.path)}
    storage.close()
    for each, content in copies.items():
        each.write_bytes(content)


def wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def open_and_close(path: Path) -> tuple[int, str]:
    """Open a file; returns its seq and digest."""
    storage = SQLiteStorage(path)
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()
    return stored.snapshot.position.seq, stored.digest


def quarantined(path: Path) -> list[Path]:
    """Quarantined databases, without their WAL."""
    found = sorted(path.parent.glob(f"{path.name}.corrupt-*"))
    return [each for each in found if not each.name.endswith(("-wal", "-shm"))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.sqlite"


@pytest.fixture
def whole(path: Path) -> History:
    """A file of six routes without a WAL."""
    history = History()
    storage = SQLiteStorage(path)
    storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.commit(history.write(*(put(f"r{seed}", 3, seed) for seed in range(6))))
    storage.close()
    return history


def test_flipped_byte_never_changes_the_state(path: Path, whole: History) -> None:
    """Whichever byte changes, the state is the stored one, or the file is refused."""
    sound = path.read_bytes()
    refused = 0
    for at in [*range(0, 100), *range(100, len(sound), 211)]:
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x55]) + sound[at + 1 :])
        storage = SQLiteStorage(path)
        try:
            stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
        except (StorageCorrupt, SchemaTooNew, StorageUnavailable):
            refused += 1
        else:
            assert stored.snapshot == whole.replica.snapshot(), f"byte {at}"
            assert held_vectors(stored) == whole.vectors
        finally:
            storage.close()
        for left in path.parent.glob("node.sqlite*"):
            left.unlink()

    assert refused > 20


def test_changed_vector_is_found_by_its_hash(path: Path, whole: History) -> None:
    """SQLite finds the page sound."""
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("UPDATE slot SET vector = zeroblob(32) WHERE slot = 7")
        raw.commit()
    with pytest.raises(StorageCorrupt, match="slot 7 does not match its hash"):
        open_and_close(path)

    assert 1 == len(quarantined(path))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM slot WHERE slot = 17",
        "DELETE FROM route WHERE name = 'r1'",
        "UPDATE route SET threshold = 0.25 WHERE name = 'r1'",
        "UPDATE route SET name = 'other' WHERE name = 'r1'",
        "UPDATE meta SET seq = 5",
        "UPDATE meta SET digest = substr(digest, 2) || '0'",
        "UPDATE remembered SET outcome = replace(outcome, 'applied', 'rejected') WHERE seq = 3",
        "UPDATE node SET value = 'me' WHERE key = 'node_id'",
        "DELETE FROM node",
        "DELETE FROM meta",
        "DELETE FROM oplog WHERE seq = 6",
        "DELETE FROM oplog WHERE seq = 3",
        "DROP TABLE epoch",
        "INSERT INTO slot VALUES (900, 77, 'x', zeroblob(32), zeroblob(16))",
    ],
)
def test_inconsistent_rows_are_refused(path: Path, whole: History, statement: str) -> None:
    """Wrong rows in sound pages are corruption too."""
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(statement)
        raw.commit()
    with pytest.raises(StorageCorrupt):
        open_and_close(path)

    assert 1 == len(quarantined(path))
    assert not path.exists()


@pytest.mark.parametrize("keep_bytes", [1, 99, 100, 5_000, 16_384, 40_000])
def test_truncated_file_is_refused(path: Path, whole: History, keep_bytes: int) -> None:
    """It is quarantined unchanged."""
    os.truncate(path, keep_bytes)
    with pytest.raises(StorageCorrupt) as caught:
        open_and_close(path)

    assert keep_bytes == Path(str(caught.value.fields["path"])).stat().st_size


def test_file_that_is_no_database_is_quarantined_unchanged(path: Path) -> None:
    """It is kept byte for byte under another name."""
    path.write_bytes(b"garbage" * 1_000)
    storage = SQLiteStorage(path, on_corrupt="move_aside")
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()

    assert stored.is_new
    assert stored.moved_aside == path.with_name("node.sqlite.corrupt-1")
    assert b"garbage" * 1_000 == stored.moved_aside.read_bytes()


def test_quarantined_files_are_never_overwritten(path: Path) -> None:
    """Every corrupt file gets a name of its own."""
    for number in range(3):
        path.write_bytes(b"garbage %d" % number * 100)
        with pytest.raises(StorageCorrupt):
            open_and_close(path)

    assert [b"garbage %d" % number * 100 for number in range(3)] == [
        each.read_bytes() for each in quarantined(path)
    ]


def test_quarantined_file_is_named_by_its_position(path: Path, whole: History) -> None:
    """If the position can be read it is part of the name."""
    for number in range(2):
        with closing(sqlite3.connect(path)) as raw:
            raw.execute("UPDATE slot SET utterance = 'x' WHERE slot = 1")
            raw.commit()
        shutil.copy(path, path.with_name("copy"))
        with pytest.raises(StorageCorrupt):
            open_and_close(path)
        shutil.move(path.with_name("copy"), path)
        assert number + 1 == len(quarantined(path))

    assert path.with_name("node.sqlite.corrupt-0.6").exists()


def test_empty_file_counts_as_none(path: Path) -> None:
    """It becomes a new database and is not quarantined."""
    path.touch()

    assert 0 == open_and_close(path)[0]
    assert [] == quarantined(path)


def test_wal_without_its_database_is_quarantined(path: Path) -> None:
    """SQLite would delete the WAL of an empty database."""
    fill(path, History())
    log = wal_of(path).read_bytes()
    os.truncate(path, 0)
    with pytest.raises(StorageCorrupt) as caught:
        open_and_close(path)

    assert log == wal_of(Path(str(caught.value.fields["path"]))).read_bytes()


def test_wal_of_a_killed_process_is_read(path: Path) -> None:
    """Entries that are only in the WAL belong to the state."""
    history = History()
    fill(path, history)
    storage = SQLiteStorage(path)
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()

    assert_holds(stored, history)


def test_flipped_byte_in_the_wal_never_changes_the_state(path: Path) -> None:
    """A corrupt WAL gives an earlier state only if a crash could have, else it is refused."""
    held = fill(path, History())
    sound, log = path.read_bytes(), wal_of(path).read_bytes()
    last = max(held)
    refused = 0
    for at in [*range(0, 80), *range(80, len(log), 3_001)]:
        for left in path.parent.glob("node.sqlite*"):
            left.unlink()
        path.write_bytes(sound)
        wal_of(path).write_bytes(log[:at] + bytes([log[at] ^ 0x55]) + log[at + 1 :])
        try:
            seq, digest = open_and_close(path)
        except StorageCorrupt:
            refused += 1
        else:
            assert held[seq] == digest, f"byte {at}"
            assert seq >= last - 1, f"byte {at}"

    assert refused > 20


def test_interrupted_change_of_the_journal_mode_is_rolled_back(path: Path, whole: History) -> None:
    """A rollback journal is applied before the file is read."""
    copy = path.with_name("copy.sqlite")
    shutil.copy(path, copy)
    with closing(sqlite3.connect(copy, isolation_level=None)) as raw:
        raw.execute("PRAGMA journal_mode = DELETE")
        raw.execute("PRAGMA cache_size = 1")
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("UPDATE slot SET vector = zeroblob(20000)")
        shutil.copy(copy, path)
        shutil.copy(copy.with_name("copy.sqlite-journal"), path.with_name(f"{path.name}-journal"))
        raw.execute("ROLLBACK")
    changed = path.read_bytes() != copy.read_bytes()
    storage = SQLiteStorage(path)
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()

    assert changed
    assert_holds(stored, whole)


def test_torn_newest_transaction_is_a_crash_not_corruption(path: Path) -> None:
    """A WAL that ends inside a transaction gives the state before it."""
    held = fill(path, History())
    log = wal_of(path).read_bytes()
    wal_of(path).write_bytes(log[: len(log) - 9_000])
    seq, digest = open_and_close(path)

    assert max(held) - 1 == seq
    assert held[seq] == digest


def test_folder_at_the_path_is_refused(path: Path) -> None:
    """It is not moved."""
    path.mkdir()
    with pytest.raises(StorageUnavailable) as caught:
        open_and_close(path)

    assert "not_a_file" == caught.value.fields["reason"]
    assert path.is_dir()


# --- permissions; root passes every check, so these run in a process of another user ---

OPEN_SCRIPT = """
import json, os, sys
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.storage import SQLiteStorage
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65_534)
    os.setuid(65_534)
try:
    storage = SQLiteStorage(sys.argv[1])
    storage.open(fingerprint=sys.argv[2], dim=int(sys.argv[3]))
    storage.close()
    print(json.dumps({"error": None}))
except SynaptoRouteError as error:
    print(json.dumps({"error": error.code, **{k: str(v) for k, v in error.fields.items()}}))
"""


def open_as_nobody(path: Path) -> dict[str, str]:
    """Open a file in a process without special rights."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN_SCRIPT, str(path), FINGERPRINT, str(DIM)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that every user may enter and write to."""
    folder = Path(tempfile.mkdtemp(prefix="synaptoroute-test-"))
    folder.chmod(0o777)
    yield folder / "node.sqlite"
    shutil.rmtree(folder)


def test_file_without_read_permission_is_left_alone(open_path: Path) -> None:
    """It is reported as a permission error, not as corruption."""
    fill(open_path, History())
    for each in open_path.parent.glob("node.sqlite*"):
        each.chmod(0o000 if each == open_path else 0o666)
    answer = open_as_nobody(open_path)

    assert ("storage_unavailable", "permission") == (answer["error"], answer["reason"])
    assert [] == quarantined(open_path)


def test_read_only_file_is_refused_for_writing(open_path: Path) -> None:
    """The node reports it when it starts, not at its first write."""
    storage = SQLiteStorage(open_path)
    storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()
    open_path.chmod(0o444)
    for each in open_path.parent.glob("node.sqlite.lock"):
        each.chmod(0o666)
    answer = open_as_nobody(open_path)

    assert ("storage_unavailable", "read_only") == (answer["error"], answer["reason"])


def test_read_only_folder_is_refused(open_path: Path) -> None:
    """The WAL cannot be created there."""
    open_path.parent.chmod(0o555)
    answer = open_as_nobody(open_path)

    assert ("storage_unavailable", "permission") == (answer["error"], answer["reason"])
