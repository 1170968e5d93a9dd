"""A killed node restarts with everything it acknowledged."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from histories import DIM, FINGERPRINT, History, held_vectors
from set_histories import steps
from synaptoroute.core.digest import row_hash
from synaptoroute.core.replica import Replica
from synaptoroute.storage import SQLiteStorage, Stored

pytestmark = pytest.mark.integration

SUPPORT = Path(__file__).parents[1] / "support"
KILLS = 25
WRITER = """
import sys
from pathlib import Path
from histories import DIM, FINGERPRINT, History, put
from synaptoroute.core.mutation import DeleteRoute
from synaptoroute.storage import SQLiteStorage

storage = SQLiteStorage(sys.argv[1], synchronous=sys.argv[2], oplog_entries_max=50)
stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
history = History(stored.snapshot)
seed = stored.snapshot.position.seq
print("open", seed, flush=True)
while True:
    group = []
    for _ in range(1 + seed % 4):
        seed += 1
        name = f"r{seed % 23}"
        group.append(DeleteRoute(name) if seed % 7 == 0 else put(name, 1 + seed % 9, seed))
    storage.commit(history.write(*group))
    print(storage.position.seq, storage.digest, flush=True)
"""


def run_until_killed(path: Path, synchronous: str, after_seconds: float) -> dict[int, str]:
    """Run a process that commits, kill it, and return what it acknowledged: digest by seq."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), synchronous],
        stdout=subprocess.PIPE,
        text=True,
        cwd=SUPPORT,
        env={"PYTHONPATH": os.pathsep.join((str(SUPPORT), os.environ.get("PYTHONPATH", "")))},
    )
    assert process.stdout is not None
    with process.stdout as output:
        opened = output.readline()
        killer = threading.Timer(after_seconds, process.send_signal, (signal.SIGKILL,))
        killer.start()
        lines = output.readlines()
    killer.join()
    process.wait()
    assert opened.startswith("open")
    assert -signal.SIGKILL == process.returncode
    whole = [line.split() for line in lines if line.endswith("\n")]
    return {int(seq): digest for seq, digest in whole}


def assert_consistent(stored: Stored) -> None:
    """Position, rows and digest match, recomputed from the rows."""
    owners = {
        slot: (owner, text)
        for route in stored.snapshot.routes
        for slot, owner, text in route.rows()
    }
    recomputed = {
        slot: row_hash(slot, *owners[slot], vector) for slot, vector in held_vectors(stored).items()
    }

    assert recomputed == dict(stored.snapshot.row_hashes)
    assert stored.digest == Replica(stored.snapshot, dim=DIM).digest


@pytest.mark.timeout(180)
@pytest.mark.parametrize("synchronous", ["full", "normal"])
def test_killed_process_keeps_what_it_acknowledged(tmp_path: Path, synchronous: str) -> None:
    """Killed at random moments, no acknowledged entry is missing."""
    path = tmp_path / "node.sqlite"
    draw = random.Random(20_240)
    acknowledged: dict[int, str] = {}
    for _ in range(KILLS):
        acknowledged |= run_until_killed(path, synchronous, draw.uniform(0.005, 0.12))
        storage = SQLiteStorage(path)
        stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
        log = storage.read_log(
            max(0, stored.snapshot.position.seq - 50), entries_max=100, bytes_max=1 << 20
        )
        storage.close()
        position = stored.snapshot.position

        assert max(acknowledged, default=0) <= position.seq
        assert acknowledged.get(position.seq, stored.digest) == stored.digest
        if not position.seq:
            continue  # it was killed before its first entry
        assert (position.seq, position.chain) == (log[-1].seq, log[-1].chain)
        assert_consistent(stored)

    assert len(acknowledged) > KILLS


def test_killed_process_releases_the_lock(tmp_path: Path) -> None:
    """The kernel releases it with the process, so no lock is stale."""
    path = tmp_path / "node.sqlite"
    run_until_killed(path, "full", 0.05)
    storage = SQLiteStorage(path)
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    history = History(stored.snapshot)
    storage.commit(history.write())
    storage.close()

    assert stored.snapshot.position == history.replica.position


COPIER = """
import sys
from histories import DIM, FINGERPRINT, History
from set_histories import steps
from synaptoroute.failpoints import arm
from synaptoroute.storage import SQLiteStorage

storage = SQLiteStorage(sys.argv[1])
stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
history = History(stored.snapshot)
arm(sys.argv[2])
for number, (name, mutation) in enumerate(steps(), start=1):
    if number > stored.snapshot.position.seq:
        storage.commit(history.write(mutation, route_set=name))
storage.close()
"""


def run_copier(path: Path, failpoint: str) -> int:
    """Write the rest of the log that copies and removes sets; return the exit code."""
    return subprocess.run(
        [sys.executable, "-c", COPIER, str(path), failpoint],
        cwd=SUPPORT,
        env={"PYTHONPATH": os.pathsep.join((str(SUPPORT), os.environ.get("PYTHONPATH", "")))},
        check=False,
    ).returncode


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("failpoint", "seq"),
    [
        ("fork.some:1", 4),
        ("fork.some:3", 4),
        ("commit.begun:5", 4),
        ("fork.some:5", 6),
        ("removal.some:2", 8),
        ("commit.begun:9", 8),
    ],
)
def test_process_killed_while_a_set_is_copied_or_removed(
    tmp_path: Path, failpoint: str, seq: int
) -> None:
    """It restarts before the entry with exactly that state, and goes on to the same end."""
    path, history = tmp_path / "node.sqlite", History()
    digests = {}
    for name, mutation in steps():
        (commit,) = history.write(mutation, route_set=name)
        assert commit.change.outcome.status == "applied"
        digests[history.replica.position.seq] = history.replica.digest

    assert -signal.SIGKILL == run_copier(path, failpoint)

    storage = SQLiteStorage(path)
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()

    assert (seq, digests[seq]) == (stored.snapshot.position.seq, stored.digest)

    assert 0 == run_copier(path, "")
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()

    assert history.replica.digest == stored.digest
    assert history.replica.snapshot().sets == stored.snapshot.sets
    assert history.vectors == held_vectors(stored)
