"""A change of the encoder loses nothing, wherever it is interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from synaptoroute.cli import migration
from synaptoroute.cli.exit_codes import FileRejected
from synaptoroute.cli.migration import Migration, migrate_database, stored_encoder
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import EncoderError, EncoderMismatch, StorageUnavailable
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.unit

OLD, NEW = HashEncoder(64), HashEncoder(128)
ROUTE_COUNT = 7


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database of the old encoder."""
    path = tmp_path / "node.sqlite"
    router = AdaptiveRouter(OLD, SQLiteStorage(path))
    for index in range(ROUTE_COUNT):
        router.add_route(
            Route(name=f"r{index}", utterances=[f"word{index} one", f"word{index} two"])
        )
    router.delete_route("r3")
    router.close()
    return path


def ask(path: Path, encoder: HashEncoder, text: str) -> str | None:
    """Route a text with a node's router on the database."""
    router = AdaptiveRouter(encoder, SQLiteStorage(path))
    try:
        return router.query(text).route
    finally:
        router.close()


def test_all_utterances_get_vectors_of_the_new_encoder(database: Path) -> None:
    """A node with the new encoder then answers, and one with the old is refused."""
    done = migrate_database(database, NEW)

    assert done == Migration(OLD.fingerprint, NEW.fingerprint, 2 * (ROUTE_COUNT - 1))
    assert ask(database, NEW, "word5 one") == "r5"
    with pytest.raises(EncoderMismatch):
        ask(database, OLD, "word5 one")


def test_same_encoder_changes_nothing(database: Path) -> None:
    before = database.read_bytes()
    done = migrate_database(database, OLD)

    assert done.is_unchanged
    assert before == database.read_bytes()


def test_interrupted_run_is_resumed(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored vectors are not encoded again, and the old encoder serves meanwhile."""
    monkeypatch.setattr(migration, "ROWS_PER_TRANSACTION", 4)
    steps: list[int] = []

    def stop_at_second(count: int) -> None:
        steps.append(count)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate_database(database, NEW, stop_at_second)
    assert ask(database, OLD, "word5 one") == "r5"

    done = migrate_database(database, NEW)
    assert (done.resumed_slots, done.total_slots) == (8, 12)
    assert ask(database, NEW, "word5 one") == "r5"


class Broken(HashEncoder):
    """An encoder whose vectors cannot be used."""

    def encode_utterances(self, texts: object) -> NDArray[np.float32]:
        """Zeros: no direction."""
        return np.zeros((4, self.dim), dtype=np.float32)


def test_invalid_vectors_are_refused(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is swapped."""
    monkeypatch.setattr(migration, "ROWS_PER_TRANSACTION", 4)
    with pytest.raises(EncoderError, match="unit length"):
        migrate_database(database, Broken(256))

    assert stored_encoder(database) == (OLD.fingerprint, OLD.dim)


def test_database_in_use_is_refused(database: Path) -> None:
    """The node must be stopped first."""
    storage = SQLiteStorage(database)
    storage.open(fingerprint=OLD.fingerprint, dim=OLD.dim)
    try:
        with pytest.raises(StorageUnavailable):
            migrate_database(database, NEW)
    finally:
        storage.close()


def test_missing_database_is_not_created(tmp_path: Path) -> None:
    """A misspelt path is an error."""
    with pytest.raises(FileRejected):
        migrate_database(tmp_path / "absent.sqlite", NEW)

    assert list(tmp_path.iterdir()) == []
