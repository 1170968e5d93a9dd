"""Files and folders are their owner's alone, whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from synaptoroute.encoder import HashEncoder
from synaptoroute.models import Route
from synaptoroute.private_files import make_private_folder, open_private
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.unit


@pytest.fixture(params=[0o022, 0o000])
def open_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """A umask that lets others read new files."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    """Mode of everything below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")
    }


@pytest.mark.usefixtures("open_umask")
def test_every_file_of_a_database_is_its_owner_s_alone(tmp_path: Path) -> None:
    """Database, WAL, shared memory, lock, checkpoint and snapshot; folders that were made."""
    path = tmp_path / "a" / "b" / "node.sqlite"
    router = AdaptiveRouter(HashEncoder(64), SQLiteStorage(path))
    router.add_route(Route(name="a", utterances=["one", "two"]))
    storage = router._engine().database
    storage.checkpoint()
    storage.snapshot_to(path.parent / "copy.sqlite")
    found = modes(tmp_path)
    # A peer's file may have any mode; the database that is made from it has not.
    (path.parent / "copy.sqlite").chmod(0o644)
    storage.install(path.parent / "copy.sqlite")
    installed = path.stat().st_mode & 0o777
    router.close()

    assert {"a", "a/b"} == {name for name, mode in found.items() if mode == 0o700}
    assert {0o600, 0o700} == set(found.values())
    assert {
        "node.sqlite",
        "node.sqlite-wal",
        "node.sqlite-shm",
        "node.sqlite.lock",
        "copy.sqlite",
    } <= {Path(name).name for name in found}
    assert any("checkpoint" in name for name in found)
    assert 0o600 == installed


@pytest.mark.usefixtures("open_umask")
def test_existing_folder_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private_folder(tmp_path / "new" / "inner")
    with open_private(tmp_path / "new" / "file", "wb") as file:
        file.write(b"secret")

    assert 0o755 == tmp_path.stat().st_mode & 0o777
    assert {"new": 0o700, "new/inner": 0o700, "new/file": 0o600} == modes(tmp_path)
