"""Goal: nodes that die, freeze or lose their disk return to an identical state.

Method: real processes, SIGKILL and SIGSTOP at random moments under writes, damaged files.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
import time
from contextlib import closing

import pytest

from node_cluster import Cluster, Member, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]
PAUSE_SECONDS = float(os.environ.get("SYNAPTOROUTE_TEST_PAUSE_SECONDS", "8"))
KILLS_COUNT = int(os.environ.get("SYNAPTOROUTE_TEST_KILLS", "2"))


def forget_op_log(member: Member, before_seq: int) -> None:
    """Shorten a node's op log, as its limit does in a long-running cluster."""
    with closing(sqlite3.connect(member.database, timeout=10)) as raw, raw:
        raw.execute("DELETE FROM oplog WHERE seq < ?", (before_seq,))


def come_back(member: Member) -> dict[str, int]:
    """Restart a node, wait until it is ready, and return its counters."""
    member.start().wait_ready()
    counts: dict[str, int] = until(lambda: member.follower["counts"])
    return counts


def test_nodes_killed_at_random_under_writes_lose_nothing(shared: Cluster) -> None:
    """After SIGKILL, rows and position are of one prefix; the rest is fetched again."""
    draw = random.Random(7)
    with shared.writers(count=4):
        for _ in range(KILLS_COUNT):
            victim = shared[draw.randrange(3)]
            count = len(shared.history.acknowledged)
            until(lambda c=count: len(shared.history.acknowledged) >= c + draw.randrange(5, 30))
            victim.kill()
            victim.start().wait_ready()
    shared.judge()


def test_retry_of_a_killed_node_s_write_has_one_effect(shared: Cluster) -> None:
    """A client that lost its node sends the same key to another node."""
    written = [shared.put(2, f"cut-short{n}", f"text {n}") for n in range(5)]
    shared[2].kill()
    again = [shared.put(0, f"cut-short{n}", f"text {n}", key=written[n].op_id) for n in range(5)]
    come_back(shared[2])

    assert [write.at for write in written] == [write.at for write in again]
    shared.judge()


def test_frozen_node_wakes_behind_the_trimmed_log(shared: Cluster) -> None:
    """A node frozen while the log is trimmed reads a peer's op log."""
    before = shared[2].follower["counts"]
    shared[2].signal(signal.SIGSTOP)
    try:
        give_up_at = time.monotonic() + PAUSE_SECONDS
        with shared.writers(count=2), shared.queries(0, 1) as failed:
            while time.monotonic() < give_up_at:
                time.sleep(0.1)
        shared.settle(shared.members[:2])
        trimmed = shared.trim()
    finally:
        shared[2].signal(signal.SIGCONT)
    shared.settle()
    after = shared[2].follower["counts"]

    assert [] == failed
    assert trimmed.entries > 0
    bridged = ("catch_ups_peer", "snapshots")
    assert sum(after[name] for name in bridged) > sum(before[name] for name in bridged)
    shared.judge()


def test_stopped_node_behind_the_trimmed_log_reads_a_peer_s_op_log(shared: Cluster) -> None:
    """Peers keep entries that the log has dropped."""
    shared[2].kill()
    for number in range(20):
        shared.put(number % 2, f"away{number}")
    shared.settle(shared.members[:2])
    shared.trim()
    counts = come_back(shared[2])

    assert counts["catch_ups_peer"] >= 1
    assert 0 == counts["snapshots"]
    shared.judge()


def test_stopped_node_behind_every_op_log_takes_a_snapshot(shared: Cluster) -> None:
    """If no op log reaches back, a peer's snapshot is installed, verified by the log."""
    shared[2].kill()
    for number in range(10):
        shared.put(number % 2, f"longer{number}")
    head = shared.settle(shared.members[:2])
    shared.trim()
    for member in shared.members[:2]:
        forget_op_log(member, head.seq - 2)
    counts = come_back(shared[2])

    assert counts["snapshots"] >= 1
    shared.judge()


def test_database_that_is_damaged_at_boot_is_set_aside_and_replaced(shared: Cluster) -> None:
    """Damage is found before the node is ready; the file is kept, peers supply the state."""
    for number in range(40):
        shared.put(0, f"damaged{number}")
    shared.settle()
    shared[1].kill()
    with closing(sqlite3.connect(shared[1].database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size_bytes = shared[1].database.stat().st_size
    with shared[1].database.open("r+b") as file:
        for offset in range(4_096, size_bytes, 4_096):
            file.seek(offset + 100)
            file.write(b"\xff" * 200)
    for suffix in ("-wal", "-shm"):
        shared[1].database.with_name(shared[1].database.name + suffix).unlink(missing_ok=True)
    come_back(shared[1])
    aside = shared[1].state()["moved_aside"]

    assert aside
    assert list(shared[1].database.parent.glob(f"{os.path.basename(aside)}*"))
    shared.judge()


def test_node_with_a_full_disk_serves_and_resumes(shared: Cluster) -> None:
    """Without disk space a node still answers and others continue; with space it resumes."""
    node = shared[2]
    _, hard = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
    with shared.queries(2) as failed:
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (4_096, hard))
        try:
            written = [shared.put(n % 2, f"full{n}", f"text {n}") for n in range(10)]
            until(lambda: node.state()["storage_state"] != "ok")
            halted = until(lambda: node.follower["counts"]["halts"])
            detail = node.follower["detail"]
            behind = node.version < shared[0].version
        finally:
            resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        shared.settle()

    assert [] == failed
    assert all(write.is_acknowledged for write in written)
    assert halted
    assert "halted" in detail
    assert behind
    assert "ok" == until(lambda: node.state()["storage_state"])
    shared.judge()


def test_new_node_joins_a_cluster_that_has_routes(shared: Cluster) -> None:
    """A node with an empty disk is new: it fetches everything and has no vote."""
    for number in range(3):
        assert shared.put(0, f"older{number}").is_acknowledged
    head = shared.settle()
    shared.trim()
    for member in shared.members:
        forget_op_log(member, head.seq - 1)
    joined = shared.add(3)
    try:
        counts = come_back(joined)
        role = joined.follower["role"]
        shared.judge()
    finally:
        shared.dismiss(joined)

    assert counts["snapshots"] >= 1
    assert "observer" == role
