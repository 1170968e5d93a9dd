"""A disk that fails while the node runs changes nothing; commits work again afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from histories import DIM, FINGERPRINT, History, assert_holds, put
from synaptoroute.core.change import Commit
from synaptoroute.core.codec import LEVEL
from synaptoroute.core.mutation import DeleteSet, Finalize, ForkSet, PutSet
from synaptoroute.errors import StorageUnavailable, SynaptoRouteError
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.unit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.sqlite"


def limit_pages(storage: SQLiteStorage, extra: int | None) -> None:
    """Limit the growth of the file to so many pages."""
    connection = storage._opened().writer
    (count,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {1 << 30 if extra is None else count + extra}")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root")
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_commit_on_a_full_disk_changes_nothing_and_can_be_repeated(path: Path) -> None:
    """The same group is committed once there is space."""
    history = History()
    storage = SQLiteStorage(path)
    storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.commit(history.write(put("first")))
    limit_pages(storage, 3)
    before = (storage.position, storage.digest)
    group: list[Commit] = history.write(*(put(f"r{each}", 50, each) for each in range(20)))
    reasons = set()
    for _ in range(3):
        with pytest.raises(StorageUnavailable) as caught:
            storage.commit(group)
        reasons.add(caught.value.fields["reason"])
        assert not storage._opened().writer.in_transaction
    rows = list(storage.rows())
    after = (storage.position, storage.digest)
    limit_pages(storage, None)
    storage.commit(group)
    storage.close()
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()

    assert {"disk_full"} == reasons
    assert before == after
    assert 2 == len(rows)
    assert_holds(stored, history)


def test_copy_of_a_route_set_that_finds_no_room_changes_nothing(path: Path) -> None:
    """Some of its rows were written; the same entry is committed once there is space."""
    history = History()
    storage = SQLiteStorage(path)
    storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.commit(history.write(Finalize(LEVEL), put("first", 1_500), PutSet("small")))
    limit_pages(storage, 5)
    fork = history.write(ForkSet("default", "copy"))
    with pytest.raises(StorageUnavailable) as caught:
        storage.commit(fork)
    rows = len(list(storage.rows()))
    limit_pages(storage, None)
    storage.commit([*fork, *history.write(DeleteSet("small"))])
    storage.close()
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()

    assert ("disk_full", 1_500) == (caught.value.fields["reason"], rows)
    assert_holds(stored, history)


def test_commit_to_a_read_only_file_fails_and_can_be_repeated(path: Path) -> None:
    """The error has the reason ``read_only``."""
    history = History()
    storage = SQLiteStorage(path)
    storage.open(fingerprint=FINGERPRINT, dim=DIM)
    group = history.write(put("first"))
    storage._opened().writer.execute("PRAGMA query_only = ON")
    with pytest.raises(StorageUnavailable) as caught:
        storage.commit(group)
    in_transaction = storage._opened().writer.in_transaction
    storage._opened().writer.execute("PRAGMA query_only = OFF")
    storage.commit(group)
    storage.close()

    assert "read_only" == caught.value.fields["reason"]
    assert not in_transaction


def test_full_file_system_refuses_commits_until_there_is_space(tiny_disk: Path) -> None:
    """Reads continue meanwhile."""
    history = History()
    path = tiny_disk / "node.sqlite"
    storage = SQLiteStorage(path)
    storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.commit(history.write(put("first", 10)))
    (tiny_disk / "ballast").write_bytes(b"x" * (os.statvfs(tiny_disk).f_bavail * 4_096 - 40_960))
    refused: SynaptoRouteError | None = None
    group: list[Commit] = []
    for seed in range(50):
        group = history.write(put(f"r{seed}", 100, seed))
        try:
            storage.commit(group)
        except StorageUnavailable as error:
            refused = error
            break
    rows = len(list(storage.rows()))
    target = tiny_disk / "copy.sqlite"
    with pytest.raises(StorageUnavailable):
        storage.snapshot_to(target)
    (tiny_disk / "ballast").unlink()
    storage.commit(group)
    storage.close()
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()

    assert refused is not None
    assert "disk_full" == refused.fields["reason"]
    assert rows >= 10
    assert [] == [each for each in tiny_disk.iterdir() if "draft" in each.name or each == target]
    assert_holds(stored, history)
