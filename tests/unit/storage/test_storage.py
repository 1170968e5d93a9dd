"""The database of a node: what is committed is durable, all or none."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from histories import DIM, FINGERPRINT, History, assert_holds, opened, put, vector
from synaptoroute.core.codec import decode_proposal
from synaptoroute.core.mutation import (
    AddUtterances,
    DeleteRoute,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    OpenEpoch,
    PatchRoute,
    PutSettings,
    RemoveUtterances,
    Settings,
)
from synaptoroute.encoder.packed_session import OUTPUT
from synaptoroute.encoder.recipe import bundled_recipe, fingerprint, verify_files
from synaptoroute.errors import EncoderMismatch, StorageUnavailable
from synaptoroute.storage import SQLiteStorage, writer
from synaptoroute.storage.connection import FileLock
from synaptoroute.storage.loader import OPENVINO_FINGERPRINT

pytestmark = pytest.mark.unit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "node.sqlite"


@pytest.fixture
def storage(path: Path) -> Iterator[SQLiteStorage]:
    with closing(opened(path)) as storage:
        yield storage


def reopened(storage: SQLiteStorage) -> SQLiteStorage:
    """Close a storage and open its file again."""
    storage.close()
    return SQLiteStorage(storage.path)


def test_new_file_holds_the_empty_state(path: Path) -> None:
    """A new file is an empty route set with a new identity."""
    storage = SQLiteStorage(path)
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    node_id = storage.node_id
    storage.close()

    assert stored.is_new
    assert stored.vectors.shape == (0, DIM)
    assert_holds(stored, History())
    assert len(bytes.fromhex(node_id)) == 16


def test_identity_belongs_to_the_file(storage: SQLiteStorage, tmp_path: Path) -> None:
    """A restart keeps it; another file has another."""
    node_id = storage.node_id
    again = reopened(storage)
    again.open(fingerprint=FINGERPRINT, dim=DIM)
    other = SQLiteStorage(tmp_path / "other.sqlite")
    other.open(fingerprint=FINGERPRINT, dim=DIM)
    identities = (again.node_id, other.node_id)
    again.close()
    other.close()

    assert node_id == identities[0]
    assert node_id != identities[1]


def test_every_kind_of_mutation_is_restored(storage: SQLiteStorage) -> None:
    """Routes, settings, imports and epochs equal those in memory."""
    history = History()
    storage.commit(history.write(OpenEpoch("e1", 0, ("n1", "n2"), FINGERPRINT, DIM)))
    storage.commit(history.write(put("a", 3), put("b", 2, 1), put("ü ☃", 1, 2)))
    storage.commit(history.write(AddUtterances("a", ("more",), (vector(77),))))
    storage.commit(history.write(RemoveUtterances("a", ("a 0 utterance 1",)), DeleteRoute("b")))
    storage.commit(history.write(PatchRoute("a", threshold=0.1, metadata='{"k":1}')))
    storage.commit(history.write(PutSettings(Settings("topk", 5, 0.7, 1_000))))
    storage.commit(history.write(ImportBegin("i1"), ImportBegin("i2", replace=True)))
    storage.commit(history.write(ImportChunk("i1", 1, (put("c", 2, 3),))))
    storage.commit(history.write(ImportChunk("i1", 0, (put("d", 2, 4), put("a", 1, 5)))))
    storage.commit(history.write(DeleteRoute("nobody")))
    again = reopened(storage)
    stored = again.open(fingerprint=FINGERPRINT, dim=DIM)
    again.close()

    assert_holds(stored, history)
    assert not stored.is_new
    assert [2, 0] == [len(each.chunks) for each in stored.snapshot.imports]


def test_committed_import_leaves_no_staging(storage: SQLiteStorage) -> None:
    """Committed or aborted, its chunks are deleted."""
    history = History()
    storage.commit(history.write(ImportBegin("i1"), ImportBegin("i2")))
    storage.commit(history.write(ImportChunk("i1", 0, (put("c", 2, 3),))))
    storage.commit(history.write(ImportChunk("i2", 0, (put("x", 2, 3),))))
    storage.commit(history.write(ImportCommit("i1", 1), ImportAbort("i2")))
    again = reopened(storage)
    stored = again.open(fingerprint=FINGERPRINT, dim=DIM)
    again.close()
    with closing(sqlite3.connect(storage.path)) as raw:
        staged = raw.execute("SELECT count(*) FROM staging").fetchone()

    assert (0,) == staged
    assert ["c"] == [route.name for route in stored.snapshot.routes]
    assert_holds(stored, history)


def test_names_may_swap_route_numbers_in_one_group(storage: SQLiteStorage) -> None:
    """The unique index on names is never violated."""
    history = History()
    storage.commit(history.write(put("a"), put("b", 2, 1)))
    storage.commit(
        history.write(DeleteRoute("a"), DeleteRoute("b"), put("b", 2, 2), put("a", 2, 3))
    )
    again = reopened(storage)
    stored = again.open(fingerprint=FINGERPRINT, dim=DIM)
    again.close()

    assert_holds(stored, history)


def test_duplicate_moves_only_the_position(storage: SQLiteStorage) -> None:
    """A repeated write has an entry in the log, and its first outcome is kept."""
    history = History()
    op_id = b"o" * 16
    storage.commit(history.write(put("a"), op_id=op_id))
    storage.commit(history.write(put("a"), op_id=op_id))
    again = reopened(storage)
    stored = again.open(fingerprint=FINGERPRINT, dim=DIM)
    again.close()

    assert 2 == stored.snapshot.position.seq
    assert [1] == [each.seq for each in stored.snapshot.remembered]
    assert_holds(stored, history)


def test_read_log_returns_the_entries_as_sequenced(storage: SQLiteStorage) -> None:
    """A peer gets the same frames, and no more than it asked for."""
    history = History()
    commits = history.write(*(put(f"r{each}", 2, each) for each in range(20)))
    storage.commit(commits)
    whole = storage.read_log(0, entries_max=100, bytes_max=1 << 20)
    some = storage.read_log(5, entries_max=3, bytes_max=1 << 20)
    small = storage.read_log(5, entries_max=100, bytes_max=1)

    assert [commit.entry.frame for commit in commits] == [row.frame for row in whole]
    assert [commit.entry.proposal for commit in commits] == [
        decode_proposal(row.frame) for row in whole
    ]
    assert [commit.change.outcome for commit in commits] == [row.outcome for row in whole]
    assert [commit.digest for commit in commits] == [row.digest for row in whole]
    assert [6, 7, 8] == [row.seq for row in some]
    assert [6] == [row.seq for row in small]
    assert [] == storage.read_log(20, entries_max=10, bytes_max=1 << 20)


def test_log_keeps_the_newest_entries(path: Path) -> None:
    """Older entries are deleted; a peer that needs them gets none."""
    storage = SQLiteStorage(path, oplog_entries_max=10)
    storage.open(fingerprint=FINGERPRINT, dim=DIM)
    history = History()
    for seed in range(25):
        storage.commit(history.write(put("a", 1, seed)))
    storage.commit(history.write(*(put("a", 1, seed) for seed in range(30, 34))))
    kept = storage.read_log(19, entries_max=100, bytes_max=1 << 20)
    gone = storage.read_log(18, entries_max=100, bytes_max=1 << 20)
    storage.close()
    again = SQLiteStorage(path, oplog_entries_max=10)
    stored = again.open(fingerprint=FINGERPRINT, dim=DIM)
    again.commit(history.write(put("a", 1, 99)))
    after = again.read_log(20, entries_max=100, bytes_max=1 << 20)
    again.close()

    assert list(range(20, 30)) == [row.seq for row in kept]
    assert [] == gone
    assert 29 == stored.snapshot.position.seq
    assert list(range(21, 31)) == [row.seq for row in after]


def test_log_is_limited_in_bytes_but_keeps_the_newest(path: Path) -> None:
    """A single entry larger than the limit is kept."""
    storage = SQLiteStorage(path, oplog_bytes_max=1_000)
    storage.open(fingerprint=FINGERPRINT, dim=DIM)
    history = History()
    storage.commit(history.write(put("a", 1), put("b", 1)))
    storage.commit(history.write(put("c", 200)))
    kept = storage.read_log(2, entries_max=10, bytes_max=1)
    gone = storage.read_log(1, entries_max=10, bytes_max=1)
    storage.close()

    assert [3] == [row.seq for row in kept]
    assert [] == gone


def test_outcomes_beyond_the_window_are_forgotten(
    storage: SQLiteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are deleted with some slack."""
    monkeypatch.setattr(writer, "IDEMPOTENCY_WINDOW_ENTRIES", 16)
    monkeypatch.setattr(writer, "FORGET_SLACK_ENTRIES", 4)
    history = History()
    for seed in range(40):
        storage.commit(history.write(put("a", 1, seed)))
    with closing(sqlite3.connect(storage.path)) as raw:
        (count, oldest) = raw.execute("SELECT count(*), min(seq) FROM remembered").fetchone()

    assert 17 <= count <= 21
    assert oldest >= 40 - 21


def test_another_encoder_is_refused(storage: SQLiteStorage) -> None:
    """Even of the same dimension; the message says what to do."""
    storage.commit(History().write(put("a")))
    again = reopened(storage)
    with pytest.raises(EncoderMismatch) as caught:
        again.open(fingerprint="b" * 64, dim=DIM)
    with pytest.raises(EncoderMismatch):
        again.open(fingerprint=FINGERPRINT, dim=DIM + 1)
    stored = again.open(fingerprint=FINGERPRINT, dim=DIM)
    again.close()

    assert FINGERPRINT in caught.value.message
    assert "b" * 64 in caught.value.message
    assert "synaptoroute model migrate" in caught.value.message
    assert 1 == stored.snapshot.position.seq


def test_vectors_of_the_removed_backend_are_refused_by_name(tmp_path: Path) -> None:
    """That encoder no longer exists: the message names the only remedy."""
    storage = SQLiteStorage(tmp_path / "node.sqlite")
    storage.open(fingerprint=OPENVINO_FINGERPRINT, dim=DIM)
    storage.close()
    again = SQLiteStorage(tmp_path / "node.sqlite")
    with pytest.raises(EncoderMismatch, match=r"OpenVINO.*`synaptoroute model migrate`") as caught:
        again.open(fingerprint=FINGERPRINT, dim=DIM)
    again.close()

    assert "former model" not in caught.value.message
    assert OPENVINO_FINGERPRINT == caught.value.fields["stored_fingerprint"]


def test_fingerprint_of_the_removed_backend_is_the_one_it_had() -> None:
    """It is the fingerprint of the bundled model's files and the name of the graph."""
    recipe = bundled_recipe()
    had = fingerprint(recipe, verify_files(recipe), 384, OUTPUT, "openvino-int8/2")

    assert OPENVINO_FINGERPRINT == had


def test_second_open_is_refused_until_the_first_is_closed(
    storage: SQLiteStorage, path: Path
) -> None:
    """A file has one writer."""
    second = SQLiteStorage(path)
    with pytest.raises(StorageUnavailable) as caught:
        second.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()
    second.open(fingerprint=FINGERPRINT, dim=DIM)
    second.close()

    assert "locked" == caught.value.fields["reason"]


def test_commit_after_close_fails_with_its_reason(storage: SQLiteStorage) -> None:
    """Closing twice is no error."""
    commits = History().write(put("a"))
    storage.close()
    storage.close()
    with pytest.raises(StorageUnavailable) as caught:
        storage.commit(commits)

    assert "closed" == caught.value.fields["reason"]


def test_memory_storage_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ephemeral storage works like a file, until it is closed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    storage = SQLiteStorage(":memory:")
    storage.open(fingerprint=FINGERPRINT, dim=DIM)
    commits = History().write(put("a"))
    storage.commit(commits)
    rows = list(storage.rows())
    storage.close()

    assert [0, 1] == [row.slot for row in rows]
    assert [] == list(tmp_path.iterdir())


def test_gap_in_the_log_is_refused(storage: SQLiteStorage) -> None:
    """A group that does not follow the position changes nothing."""
    history = History()
    first = history.write(put("a"))
    second = history.write(put("b"))
    with pytest.raises(AssertionError, match="does not follow"):
        storage.commit(second)
    storage.commit(first + second)

    assert 2 == storage.position.seq


def test_facts_of_the_node_survive(storage: SQLiteStorage) -> None:
    """Each fact is durable by itself and can be removed."""
    storage.meta_set("promised_epoch", "7")
    storage.meta_set("dirty", "yes")
    storage.meta_set("dirty", None)
    again = reopened(storage)
    again.open(fingerprint=FINGERPRINT, dim=DIM)
    facts = (again.meta_get("promised_epoch"), again.meta_get("dirty"))
    again.close()

    assert ("7", None) == facts


def test_rows_are_read_in_slot_order(storage: SQLiteStorage) -> None:
    """Every row once, with the stored hash, as a whole or in slices."""
    history = History()
    commits = history.write(put("a", 700), put("b", 3, 1))
    storage.commit(commits)
    whole = list(storage.rows())
    slices = [*storage.rows(rows_max=701), *storage.rows(after_slot=700)]

    assert list(range(703)) == [row.slot for row in whole]
    assert history.vectors == {row.slot: row.vector for row in whole}
    assert history.replica.table.row_hashes == {row.slot: row.row_hash for row in whole}
    assert whole == slices


def test_readers_in_other_threads_see_only_committed_states(storage: SQLiteStorage) -> None:
    """While groups of two rows are written, a reader never sees an odd number of rows."""
    history = History()
    seen: set[int] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(sum(1 for _ in storage.rows()) % 2)
            storage.read_log(0, entries_max=1_000, bytes_max=1 << 20)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for seed in range(60):
            storage.commit(history.write(put(f"a{seed}", 1, seed), put(f"b{seed}", 1, seed)))
    finally:
        stop.set()
        reader.join()

    assert {0} == seen


def test_open_stored_needs_no_encoder(storage: SQLiteStorage) -> None:
    """It uses the stored encoder and creates no file."""
    history = History()
    storage.commit(history.write(put("a")))
    again = reopened(storage)
    stored = again.open_stored()
    again.close()
    absent = SQLiteStorage(storage.path.with_name("absent.sqlite"))
    with pytest.raises(StorageUnavailable) as caught:
        absent.open_stored()

    assert_holds(stored, history)
    assert "absent" == caught.value.fields["reason"]
    assert not absent.path.exists()


def test_sqlite_version_is_exposed() -> None:
    """It decides whether SQLite has the WAL-reset bug, and is logged."""
    assert sqlite3.sqlite_version == SQLiteStorage.sqlite_version


def test_lock_is_given_back_although_a_child_has_its_file(tmp_path: Path) -> None:
    """A copy of the descriptor stands for that of a child that has just been forked."""
    path = tmp_path / "node.sqlite.lock"
    lock, other = FileLock(path), FileLock(path)
    lock.acquire()
    with pytest.raises(StorageUnavailable):
        other.acquire()
    assert lock._descriptor is not None
    copied = os.dup(lock._descriptor)
    try:
        lock.release()
        other.acquire()
        other.release()
    finally:
        os.close(copied)
