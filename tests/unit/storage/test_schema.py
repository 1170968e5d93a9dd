"""The schema of a database: an older one is migrated, what is newer or foreign is left alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from histories import DIM, FINGERPRINT, History, assert_holds, opened, put
from synaptoroute.errors import SchemaTooNew, StorageUnavailable
from synaptoroute.storage import SQLiteStorage, schema

pytestmark = pytest.mark.unit


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

    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(schema, "MIGRATIONS", {1: add_column})
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()
    with closing(sqlite3.connect(storage.path)) as raw:
        (version,) = raw.execute("PRAGMA user_version").fetchone()
        raw.execute("SELECT reason FROM orphan").fetchall()

    assert 2 == version
    assert_holds(stored, history)


def test_failed_migration_changes_nothing(
    storage: SQLiteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration is one transaction with its version."""
    storage.commit(History().write(put("a", 5)))
    storage.close()

    def break_off(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE orphan ADD COLUMN reason TEXT")
        connection.execute("SELECT * FROM nowhere")

    with monkeypatch.context() as later:
        later.setattr(schema, "SCHEMA_VERSION", 2)
        later.setattr(schema, "MIGRATIONS", {1: break_off})
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
    """A sound SQLite file that is not ours is neither used nor moved."""
    storage = SQLiteStorage(path)
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE theirs (x)")
        raw.commit()
    before = path.read_bytes()
    with pytest.raises(StorageUnavailable) as caught:
        storage.open(fingerprint=FINGERPRINT, dim=DIM)

    assert "foreign" == caught.value.fields["reason"]
    assert before == path.read_bytes()
