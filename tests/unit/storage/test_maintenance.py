"""The keeper writes checkpoints and scrubs while a node idles, and is in nobody's way."""

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
    """A keeper that does at once what it does in minutes."""
    monkeypatch.setattr(maintenance, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(maintenance, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(maintenance, "CHECKPOINT_ROWS_MIN", 4)


@pytest.mark.usefixtures("_quick")
def test_idle_node_writes_a_checkpoint_and_scrubs_after_its_boot(path: Path) -> None:
    """The keeper does both without being asked."""
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
def test_kept_node_leaves_a_fresh_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graceful stop makes the next boot a fast one."""
    monkeypatch.setattr(maintenance, "POLL_SECONDS", 60.0)
    history = History()
    storage = opened(path)
    storage.start_maintenance()
    storage.commit(history.write(*(put(f"r{seed}", 3, seed) for seed in range(8))))
    storage.close()
    stored = boot(path)

    assert stored.is_from_checkpoint
    assert_holds(stored, history)


def test_small_files_and_unkept_ones_have_no_checkpoint(path: Path) -> None:
    """A tool that opens a file leaves nothing beside it; nor is a small one worth it."""
    history = History()
    commit(path, history, put("a", 5))
    storage = opened(path)
    storage.start_maintenance()
    storage.commit(history.write(put("b", 5, 1)))
    storage.close()

    assert not checkpoint_of(path).exists()


def test_checkpoint_waits_for_an_idle_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Much change at the first idle moment, little change once in a while."""
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


def test_keeper_that_is_stopped_leaves_its_walk(monkeypatch: pytest.MonkeyPatch) -> None:
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
