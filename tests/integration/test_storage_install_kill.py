"""A process killed during a checkpoint or an install leaves a whole state."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from histories import DIM, FINGERPRINT, History, assert_holds, put
from synaptoroute.core.mutation import PatchRoute
from synaptoroute.storage import SQLiteStorage
from synaptoroute.storage.checkpoint import checkpoint_of

pytestmark = pytest.mark.integration

SUPPORT = Path(__file__).parents[1] / "support"
KILLS = 30
WINDOW_SECONDS = 0.15
CHECKPOINTS = """
import sys
from histories import DIM, FINGERPRINT
from synaptoroute.storage import SQLiteStorage

storage = SQLiteStorage(sys.argv[1])
storage.open(fingerprint=FINGERPRINT, dim=DIM)
print("open", flush=True)
while True:
    storage.checkpoint()
"""
INSTALLS = """
import sys
from pathlib import Path
from histories import DIM, FINGERPRINT
from synaptoroute.storage import SQLiteStorage

storage = SQLiteStorage(sys.argv[1])
storage.open(fingerprint=FINGERPRINT, dim=DIM)
print("open", flush=True)
while True:
    for source in sys.argv[2:]:
        storage.install(Path(source))
"""


def run_until_killed(script: str, arguments: list[str], after_seconds: float) -> None:
    """Run a process and kill it."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=SUPPORT,
        env={"PYTHONPATH": os.pathsep.join((str(SUPPORT), os.environ.get("PYTHONPATH", "")))},
    )
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == "open\n"
        killer = threading.Timer(after_seconds, process.send_signal, (signal.SIGKILL,))
        killer.start()
        output.read()
    killer.join()
    assert -signal.SIGKILL == process.wait()


@pytest.mark.timeout(240)
def test_killed_checkpoint_is_harmless(tmp_path: Path) -> None:
    """Killed at random moments, the former or the new checkpoint is used, or none."""
    path = tmp_path / "node.sqlite"
    history = History()
    storage = SQLiteStorage(path)
    storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.commit(history.write(*(put(f"r{seed}", 40, seed) for seed in range(100))))
    storage.close()
    draw = random.Random(7)
    quick_count, window_seconds = 0, WINDOW_SECONDS
    for number in range(KILLS):
        run_until_killed(CHECKPOINTS, [str(path)], draw.uniform(0.0, window_seconds))
        stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
        quick_count += stored.is_from_checkpoint
        if not stored.is_from_checkpoint:  # a busy machine writes none in so short a time
            window_seconds *= 1.5
        assert_holds(stored, history)
        storage.commit(history.write(PatchRoute(f"r{number}", threshold=0.5)))
        storage.close()

    assert quick_count > KILLS // 2
    assert checkpoint_of(path).exists()


@pytest.mark.timeout(240)
def test_killed_install_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    """Killed at random moments, the file is one of the snapshots and keeps its identity."""
    path = tmp_path / "node.sqlite"
    sources = []
    histories: dict[str, History] = {}
    for number in range(2):
        history = History()
        donor = SQLiteStorage(tmp_path / f"donor-{number}.sqlite")
        donor.open(fingerprint=FINGERPRINT, dim=DIM)
        donor.commit(history.write(*(put(f"d{number}-{each}", 30, each) for each in range(40))))
        sources.append(str(tmp_path / f"snapshot-{number}"))
        donor.snapshot_to(Path(sources[-1]))
        donor.close()
        histories[history.replica.digest] = history
    storage = SQLiteStorage(path)
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    histories[stored.digest] = History()
    node_id = storage.node_id
    storage.close()
    draw = random.Random(11)
    seen, window_seconds = set(), WINDOW_SECONDS
    for _ in range(KILLS):
        run_until_killed(INSTALLS, [str(path), *sources], draw.uniform(0.0, window_seconds))
        stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
        seen.add(stored.digest)
        if len(seen) < 2:  # a busy machine installs nothing in so short a time
            window_seconds *= 1.5

        assert_holds(stored, histories[stored.digest])
        assert node_id == storage.node_id
        storage.close()
        assert not list(tmp_path.glob("node.sqlite.incoming*"))

    assert len(seen) > 1
