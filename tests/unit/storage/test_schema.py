"""The schema: an older one is migrated, a newer or foreign one is left alone."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from histories import DIM, FINGERPRINT, History, assert_holds, boot, opened, put
from synaptoroute.core.content import root_of
from synaptoroute.core.mutation import Finalize, Settings
from synaptoroute.encoder.hash_encoder import HashEncoder
from synaptoroute.errors import SchemaTooNew, StorageUnavailable
from synaptoroute.snapshot_file import read_content
from synaptoroute.storage import SQLiteStorage, database

pytestmark = pytest.mark.unit

PREVIOUS_RELEASE = Path(__file__).parent / "data" / "previous_release.sqlite.gz"
"""Written by commit 25dde48 with the hash encoder of 16 dimensions."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.sqlite"


@pytest.fixture
def storage(path: Path) -> Iterator[SQLiteStorage]:
    with closing(opened(path)) as storage:
        yield storage


def test_older_schema_is_migrated_with_its_rows(
    storage: SQLiteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of version 1 moves to the next version and keeps its state."""
    history = History()
    storage.commit(history.write(put("a", 5)))
    storage.close()

    def add_column(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE orphan ADD COLUMN reason TEXT")

    monkeypatch.setattr(database, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(database, "MIGRATIONS", {1: lambda _: None, 2: add_column})
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()
    with closing(sqlite3.connect(storage.path)) as raw:
        (version,) = raw.execute("PRAGMA user_version").fetchone()
        raw.execute("SELECT reason FROM orphan").fetchall()

    assert 3 == version
    assert_holds(stored, history)


def test_failed_migration_changes_nothing(
    storage: SQLiteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration and its version are one transaction."""
    storage.commit(History().write(put("a", 5)))
    storage.close()

    def break_off(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE orphan ADD COLUMN reason TEXT")
        connection.execute("SELECT * FROM nowhere")

    with monkeypatch.context() as later:
        later.setattr(database, "SCHEMA_VERSION", 2)
        later.setattr(database, "MIGRATIONS", {1: break_off})
        with pytest.raises(StorageUnavailable):
            storage.open(fingerprint=FINGERPRINT, dim=DIM)
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()

    assert 1 == stored.snapshot.position.seq


def test_newer_schema_is_refused_and_left_alone(
    storage: SQLiteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older release does not touch a newer file."""
    storage.close()
    with closing(sqlite3.connect(storage.path)) as raw:
        raw.execute("PRAGMA user_version = 99")
    before = storage.path.read_bytes()
    with pytest.raises(SchemaTooNew) as caught:
        storage.open(fingerprint=FINGERPRINT, dim=DIM)

    assert 99 == caught.value.fields["stored"]
    assert before == storage.path.read_bytes()


def test_database_of_another_program_is_left_alone(path: Path) -> None:
    """It is neither used nor moved."""
    storage = SQLiteStorage(path)
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE theirs (x)")
        raw.commit()
    before = path.read_bytes()
    with pytest.raises(StorageUnavailable) as caught:
        storage.open(fingerprint=FINGERPRINT, dim=DIM)

    assert "foreign" == caught.value.fields["reason"]
    assert before == path.read_bytes()


def test_database_of_the_previous_release_opens_unchanged(path: Path) -> None:
    """Opening changes no byte; the next entry is committed and read back."""
    content = gzip.decompress(PREVIOUS_RELEASE.read_bytes())
    path.write_bytes(content)
    encoder = HashEncoder(16)
    with closing(SQLiteStorage(path)) as storage:
        stored = storage.open(fingerprint=encoder.fingerprint, dim=encoder.dim)
        kept = [row.outcome.status for row in storage.read_log(0, entries_max=9, bytes_max=9_999)]
    after = path.read_bytes()
    history = History(stored.snapshot, dim=16)
    with closing(opened(path, encoder.fingerprint, encoder.dim)) as storage:
        storage.commit(history.write(put("new", 3, dim=16)))
        storage.close()
        again = storage.open(fingerprint=encoder.fingerprint, dim=encoder.dim)
    texts = {route.name: route.utterances for route in stored.snapshot.routes}
    thresholds = {route.name: route.threshold for route in stored.snapshot.routes}

    assert content == after
    assert (1, 7) == (stored.snapshot.position.epoch, stored.snapshot.position.seq)
    assert ["applied"] * 7 == kept
    assert {
        "billing": ("pay the invoice", "where is my bill"),
        "weather": ("will it rain", "wie wird das Wetter ☂", "is it sunny"),
    } == texts
    assert {"billing": 0.6, "weather": None} == thresholds
    assert Settings("topk", 2, 0.3, 1_000) == stored.snapshot.settings
    vectors = dict(zip(stored.slots.tolist(), stored.vectors, strict=True))
    for route in stored.snapshot.routes:
        for slot, vector in zip(
            route.slots, encoder.encode_utterances(route.utterances), strict=True
        ):
            assert vector.tobytes() == vectors[slot].tobytes()
    assert history.replica.snapshot() == again.snapshot


@pytest.mark.parametrize("level", [2, 3, 4, 5])
def test_level_of_the_log_decides_the_schema_version(path: Path, level: int) -> None:
    """Until an entry raises the level, and the version with it, an older release opens the file."""
    storage, history = opened(path), History()
    storage.commit(history.write(put("a", 5)))
    assert 1 == version_of(path)
    storage.commit(history.write(Finalize(level)))
    assert level == version_of(path)
    copy = path.with_name("snapshot")
    storage.snapshot_to(copy)
    storage.close()

    assert_holds(boot(path), history)
    assert level == version_of(copy)
    assert root_of(history.replica.snapshot(), FINGERPRINT, DIM) == read_content(copy).root


@pytest.mark.parametrize(
    ("before", "after"),
    [(1, 3), (2, 3), (3, 1), (3, 2), (1, 4), (3, 4), (4, 3), (1, 5), (4, 5), (5, 1), (5, 4)],
)
def test_snapshot_of_another_level_is_installed(path: Path, before: int, after: int) -> None:
    """A node that joins a log at a higher level, or goes back to a state before it."""
    files = {}
    for name, level in (("own", before), ("donor", after)):
        files[name] = path.with_name(name)
        with closing(opened(files[name])) as storage:
            history = History()
            storage.commit(history.write(put(name, 5)))
            if level > 1:
                storage.commit(history.write(Finalize(level)))
            storage.snapshot_to(path.with_name(f"{name}-snapshot"))
    with closing(opened(files["own"])) as storage:
        stored = storage.install(path.with_name("donor-snapshot"))

    assert_holds(stored, history)
    assert_holds(boot(files["own"]), history)


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as raw:
        return int(raw.execute("PRAGMA user_version").fetchone()[0])
