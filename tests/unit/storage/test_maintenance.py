"""Background maintenance: checkpoints and scrubs while a node is idle."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from histories import DIM, FINGERPRINT, History, assert_holds, boot, commit, opened, put, rot
from synaptoroute.storage import SQLiteStorage, maintenance
from synaptoroute.storage.checkpoint import checkpoint_of
from synaptoroute.storage.maintenance import ChangeCounter, MaintenanceThread

pytestmark = pytest.mark.unit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.sqlite"


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maintenance that does at once what takes minutes."""
    monkeypatch.setattr(maintenance, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(maintenance, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(maintenance, "CHECKPOINT_ROWS_MIN", 4)


@pytest.mark.usefixtures("_quick")
def test_idle_node_writes_a_checkpoint_and_scrubs_after_its_boot(path: Path) -> None:
    """The thread does both on its own."""
    history = History()
    storage = opened(path)
    storage.commit(history.write(*(put(f"r{seed}", 3, seed) for seed in range(8))))
    storage.start_maintenance()
    for _ in range(2_000):
        if checkpoint_of(path).exists():
            break
        threading.Event().wait(0.01)
    storage.close()
    rot(path)
    again = SQLiteStorage(path)
    stored = again.open(fingerprint=FINGERPRINT, dim=DIM)
    again.start_maintenance()
    for _ in range(2_000):
        if again.corruption is not None:
            break
        threading.Event().wait(0.01)
    again.close()

    assert stored.is_from_checkpoint
    assert "slot 7 does not match its hash" == again.corruption
    assert not checkpoint_of(path).exists()


@pytest.mark.usefixtures("_quick")
def test_close_writes_a_fresh_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next boot is fast after a graceful stop."""
    monkeypatch.setattr(maintenance, "POLL_SECONDS", 60.0)
    history = History()
    storage = opened(path)
    storage.start_maintenance()
    storage.commit(history.write(*(put(f"r{seed}", 3, seed) for seed in range(8))))
    storage.close()
    stored = boot(path)

    assert stored.is_from_checkpoint
    assert_holds(stored, history)


def test_no_checkpoint_of_small_files_or_without_maintenance(path: Path) -> None:
    """A tool leaves no checkpoint; a small file is read as fast without one."""
    history = History()
    commit(path, history, put("a", 5))
    storage = opened(path)
    storage.start_maintenance()
    storage.commit(history.write(put("b", 5, 1)))
    storage.close()

    assert not checkpoint_of(path).exists()


def test_checkpoint_waits_for_an_idle_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Much change is written at the first idle moment, little change after the interval."""
    now = 1_000.0
    monkeypatch.setattr("synaptoroute.storage.maintenance.time.monotonic", lambda: now)
    changes = ChangeCounter(rows=16_000)
    changes.add(0, 2_000)
    busy = changes.is_due(written_at=0.0)
    now += 10.0
    much = changes.is_due(written_at=now)
    changes.rows_changed = 10
    little, old = changes.is_due(written_at=now), changes.is_due(written_at=now - 601.0)
    changes.rows_changed = 0
    none = changes.is_due(written_at=0.0)

    assert (False, True, False, True, False) == (busy, much, little, old, none)


def test_stopped_maintenance_leaves_its_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that stops does not wait for a scrub."""
    monkeypatch.setattr(maintenance, "POLL_SECONDS", 0.001)
    has_begun = threading.Event()

    def endless(pause: maintenance.Pause) -> None:
        has_begun.set()
        while True:
            pause()

    watcher = MaintenanceThread(
        ChangeCounter(), needs_scrub=True, scrub=endless, checkpoint=endless
    )
    watcher.start()
    has_begun.wait(10.0)
    watcher.stop()

    assert not watcher.is_alive()
    assert watcher.needs_scrub
