"""Snapshots: exported, installed, and states that come as a value."""

from __future__ import annotations

import resource
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from histories import DIM, FINGERPRINT, NEXT, History, assert_holds, opened, put, rich_history
from synaptoroute.errors import EncoderMismatch, StorageCorrupt, StorageUnavailable
from synaptoroute.storage import SQLiteStorage, snapshots

pytestmark = pytest.mark.unit


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SQLiteStorage]:
    with closing(opened(tmp_path / "node.sqlite")) as storage:
        yield storage


@pytest.fixture
def donor(tmp_path: Path) -> Iterator[SQLiteStorage]:
    with closing(opened(tmp_path / "donor.sqlite")) as donor:
        yield donor


def test_snapshot_holds_no_facts_of_the_node(storage: SQLiteStorage, tmp_path: Path) -> None:
    """Neither its identity nor its promises; no draft is left."""
    history = rich_history(storage)
    storage.meta_set("promised_epoch", "9")
    target = tmp_path / "snapshot.sqlite"
    position = storage.snapshot_to(target)
    with closing(sqlite3.connect(target)) as raw:
        facts = raw.execute("SELECT count(*) FROM node").fetchone()

    assert history.replica.position == position
    assert (0,) == facts
    assert [] == list(tmp_path.glob(".*draft*"))


def test_snapshot_during_writes_is_of_one_position(
    storage: SQLiteStorage, donor: SQLiteStorage, tmp_path: Path
) -> None:
    """Its digest is that of its position."""
    history = History()
    digests: dict[int, str] = {}
    positions: list[tuple[int, Path]] = []

    def copy() -> None:
        for number in range(4):
            target = tmp_path / f"snapshot-{number}.sqlite"
            positions.append((donor.snapshot_to(target).seq, target))

    copier = threading.Thread(target=copy)
    copier.start()
    seed = 0
    while copier.is_alive() or seed < 5:
        donor.commit(history.write(put(f"r{seed % 7}", 3, seed)))
        digests[donor.position.seq] = donor.digest
        seed += 1
    copier.join()
    digests[0] = History().replica.digest

    assert 4 == len(positions)
    for seq, target in positions:
        stored = storage.install(target)
        assert (seq, digests[seq]) == (stored.snapshot.position.seq, stored.digest)


def test_install_keeps_the_facts_of_the_node(
    storage: SQLiteStorage, donor: SQLiteStorage, tmp_path: Path
) -> None:
    """Identity and promises stay; entries that lost become orphans."""
    theirs = rich_history(donor)
    ours = History()
    storage.commit(ours.write(put("mine"), put("other", 3, 4)))
    storage.meta_set("promised_epoch", "3")
    node_id = storage.node_id
    donor.snapshot_to(tmp_path / "snapshot.sqlite")
    installed = storage.install(
        tmp_path / "snapshot.sqlite", orphans_after_seq=1, now_us=1_700_000_000_000_000
    )
    storage.commit(theirs.write(put("later", 2, 9)))
    log = storage.read_log(0, entries_max=100, bytes_max=1 << 20)
    storage.close()
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    with closing(sqlite3.connect(storage.path)) as raw:
        orphans = raw.execute("SELECT seq, moved_at_us FROM orphan").fetchall()

    assert theirs.replica.position.seq - 1 == installed.snapshot.position.seq
    assert_holds(stored, theirs)
    assert (node_id, "3") == (storage.node_id, storage.meta_get("promised_epoch"))
    assert [(2, 1_700_000_000_000_000)] == orphans
    assert theirs.replica.position.seq == len(log)


def test_replace_all_stores_a_value(storage: SQLiteStorage, donor: SQLiteStorage) -> None:
    """The node keeps its identity."""
    theirs = rich_history(donor)
    donor.close()
    value = donor.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.commit(History().write(put("mine")))
    node_id = storage.node_id
    storage.replace_all(value)
    storage.commit(theirs.write(put("later", 2, 9)))
    storage.close()
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)

    assert_holds(stored, theirs)
    assert node_id == storage.node_id


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE slot SET vector = zeroblob(32) WHERE slot = 3",
        "UPDATE meta SET seq = seq + 1",
        "DELETE FROM slot WHERE slot = 3",
        "CREATE TRIGGER spy AFTER INSERT ON slot BEGIN DELETE FROM route; END",
        "CREATE VIEW spy AS SELECT * FROM slot",
    ],
)
def test_invalid_snapshot_changes_nothing(
    storage: SQLiteStorage, donor: SQLiteStorage, tmp_path: Path, statement: str
) -> None:
    """The file is verified before the first row is written."""
    rich_history(donor)
    ours = History()
    storage.commit(ours.write(put("mine")))
    target = tmp_path / "snapshot.sqlite"
    donor.snapshot_to(target)
    with closing(sqlite3.connect(target)) as raw:
        raw.execute(statement)
        raw.commit()
    with pytest.raises(StorageCorrupt):
        storage.install(target)
    storage.close()

    assert_holds(storage.open(fingerprint=FINGERPRINT, dim=DIM), ours)


def test_snapshot_of_another_encoder_is_refused(storage: SQLiteStorage, tmp_path: Path) -> None:
    """Install checks the encoder as open does."""
    other = SQLiteStorage(tmp_path / "other.sqlite")
    other.open(fingerprint=NEXT, dim=DIM)
    other.snapshot_to(tmp_path / "snapshot.sqlite")
    other.close()
    with pytest.raises(EncoderMismatch):
        storage.install(tmp_path / "snapshot.sqlite")

    assert 0 == storage.position.seq


@contextmanager
def file_bytes_max(limit_bytes: int) -> Iterator[None]:
    """Limit the size of files of this process, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("is_open_elsewhere", [False, True])
def test_install_on_a_full_disk_changes_nothing(
    storage: SQLiteStorage, donor: SQLiteStorage, tmp_path: Path, is_open_elsewhere: bool
) -> None:
    """The old state stays in place."""
    theirs = History()
    donor.commit(theirs.write(put("big", 900)))
    ours = History()
    storage.commit(ours.write(put("mine")))
    donor.snapshot_to(tmp_path / "snapshot.sqlite")
    limit_bytes = 65_536
    if is_open_elsewhere:
        limit_bytes = (tmp_path / "snapshot.sqlite").stat().st_size + 65_536
        elsewhere = sqlite3.connect(storage.path)
        elsewhere.execute("SELECT count(*) FROM slot").fetchone()
    with file_bytes_max(limit_bytes), pytest.raises(StorageUnavailable):
        storage.install(tmp_path / "snapshot.sqlite")
    if is_open_elsewhere:
        elsewhere.close()
    storage.commit(ours.write(put("next", 1, 3)))
    storage.close()

    assert_holds(storage.open(fingerprint=FINGERPRINT, dim=DIM), ours)
    assert [] == list(tmp_path.glob("*.incoming*"))


def test_install_replaces_rows_if_another_program_has_the_file_open(
    storage: SQLiteStorage, donor: SQLiteStorage, tmp_path: Path
) -> None:
    """The file itself is not exchanged."""
    theirs = rich_history(donor)
    storage.commit(History().write(put("mine"), put("other", 3, 4)))
    node_id, inode = storage.node_id, storage.path.stat().st_ino
    donor.snapshot_to(tmp_path / "snapshot.sqlite")
    with closing(sqlite3.connect(storage.path)) as elsewhere:
        elsewhere.execute("SELECT count(*) FROM slot").fetchone()
        storage.install(tmp_path / "snapshot.sqlite", orphans_after_seq=1)
        seen = elsewhere.execute("SELECT count(*) FROM orphan").fetchone()
    storage.commit(theirs.write(put("later", 2, 9)))
    storage.close()
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)

    assert_holds(stored, theirs)
    assert (node_id, inode) == (storage.node_id, storage.path.stat().st_ino)
    assert (1,) == seen


def test_install_waits_for_readers_of_this_process(
    storage: SQLiteStorage, donor: SQLiteStorage, tmp_path: Path
) -> None:
    """A running read ends on the old file; the next one reads the new file."""
    theirs = rich_history(donor)
    storage.commit(History().write(put("mine", 3)))
    donor.snapshot_to(tmp_path / "snapshot.sqlite")
    inode = storage.path.stat().st_ino
    before = storage.rows()
    first = next(before)
    reader = threading.Timer(0.2, lambda: seen.extend(before))
    seen = [first]
    reader.start()
    storage.install(tmp_path / "snapshot.sqlite")
    reader.join()

    assert 3 == len(seen)
    assert inode != storage.path.stat().st_ino
    assert theirs.vectors == {row.slot: row.vector for row in storage.rows()}


def test_other_threads_can_read_while_the_file_is_exchanged(
    storage: SQLiteStorage, donor: SQLiteStorage, tmp_path: Path
) -> None:
    """Position and log are available all the time."""
    theirs = rich_history(donor)
    donor.snapshot_to(tmp_path / "snapshot.sqlite")
    seen: set[int] = set()
    errors: list[Exception] = []
    is_over = threading.Event()

    def ask() -> None:
        try:
            while not is_over.is_set():
                seen.add(storage.position.seq)
                storage.read_log(0, entries_max=5, bytes_max=1 << 20)
        except Exception as error:
            errors.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    for _ in range(20):
        storage.install(tmp_path / "snapshot.sqlite")
    is_over.set()
    asker.join()

    assert [] == errors
    assert theirs.replica.position.seq in seen


def test_snapshot_carries_the_newest_entries_only(
    donor: SQLiteStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The op log is cut to its tail."""
    monkeypatch.setattr(snapshots, "TAIL_ENTRIES_MAX", 2)
    rich_history(donor)
    donor.snapshot_to(tmp_path / "snapshot.sqlite")
    last = donor.position.seq
    with closing(sqlite3.connect(tmp_path / "snapshot.sqlite")) as raw:
        seqs = raw.execute("SELECT seq FROM oplog ORDER BY seq").fetchall()

    assert [(last - 1,), (last,)] == seqs
