"""Goal: a node may die at any step.  Method: it kills itself there, and comes back.

Each step is named to real nodes by the environment.  Afterwards nothing that was acknowledged
is missing or doubled, and all nodes are one to the bit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from uuid import NAMESPACE_OID, uuid5

import pytest

from node_cluster import Cluster, Member, StartCluster, until
from synaptoroute.failpoints import FAILPOINTS

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]
WRITING = (
    "append.begun:3",
    "append.placed:2",
    "apply.received:2",
    "commit.begun:2",
    "commit.done:2",
    "tensor.begun:2",
    "position.told:2",
)
RECOVERING = (
    "promise.begun",
    "promise.kept",
    "promise.told",
    "ballot.begun",
    "lease.taken",
    "refill.some",
    "refill.done",
    "reopen.done",
)
INSTALLING = ("install.fetched", "install.drafted", "install.renamed", "install.stored")
GIVING = ("snapshot.written",)
COPYING = ("fork.some", "removal.some")


@contextmanager
def armed(step: str, *members: Member) -> Iterator[None]:
    """Start these nodes with a step at which they die; afterwards all run without it."""
    for member in members:
        settings = dict(member.process.settings)
        member.process.settings = {**settings, "failpoint": step}
        if member.process.is_running:
            member.kill()
        member.start()
        member.process.settings = settings
    yield
    for member in members:
        if member.process.is_running:
            member.kill()
        member.start()
    for member in members:
        member.wait_ready()
        until(lambda member=member: member.log_state == "open")


def died(*members: Member) -> bool:
    """Whether one of them has killed itself."""
    return any(member.process.exit_code == -9 for member in members)


def test_every_failpoint_is_tested() -> None:
    """No step is left out of the tests below."""
    steps = (*WRITING, *RECOVERING, *INSTALLING, *GIVING, *COPYING)
    named = {step.partition(":")[0] for step in steps}

    assert set(FAILPOINTS) == named


def test_node_dies_at_each_step_of_a_write(start_cluster: StartCluster) -> None:
    """The client sends the same key to another node; the write has one effect."""
    cluster = start_cluster("valkey")
    for step in WRITING:
        with armed(step, cluster[2]):
            cluster[2].wait_ready()
            number = 0
            while not died(cluster[2]):
                number += 1
                assert number < 200, f"{step} was never reached"
                key = uuid5(NAMESPACE_OID, f"{step} {number}").hex
                cluster.put(2, f"r{number % 5}", f"{step} {number}", key=key)
                cluster.put(0, f"r{number % 5}", f"{step} {number}", key=key)
        cluster.judge()


@pytest.mark.parametrize(
    "steps", [RECOVERING[1::2], pytest.param(RECOVERING[::2], marks=pytest.mark.accept)]
)
def test_node_dies_at_each_step_of_a_recovery(
    start_cluster: StartCluster, steps: tuple[str, ...]
) -> None:
    """The only voter dies during a recovery, and completes it after its restart."""
    cluster = start_cluster("valkey", 1)
    for step in steps:
        written = [cluster.put(0, f"{step}{n}", f"text {n}") for n in range(3)]
        with armed(step, cluster[0]):
            cluster[0].wait_ready()
            until(lambda: cluster[0].log_state == "open")
            cluster.server.call("FLUSHALL")
            until(lambda: died(cluster[0]))
        until(lambda text=step: cluster.put(0, "again", text).is_acknowledged)
        cluster.judge()

        assert all(write.is_acknowledged for write in written)


def forget_history(member: Member, seq: int) -> None:
    """Drop a stopped node's op log before a place, so that it can bridge no hole."""
    with closing(sqlite3.connect(member.database)) as raw:
        raw.execute("DELETE FROM oplog WHERE seq < ?", (seq,))
        raw.commit()


def prepare_hole(cluster: Cluster) -> None:
    """Leave node 2 stopped, behind the log and behind every op log."""
    cluster[2].kill()
    for number in range(8):
        cluster.put(number % 2, f"r{number}", f"behind {number} {cluster[0].version}")
    head = cluster.settle(cluster.members[:2])
    cluster.trim()
    for member in cluster.members[:2]:
        member.kill()
        forget_history(member, head.seq)
        member.start()
    for member in cluster.members[:2]:
        member.wait_ready()
    until(lambda: cluster.put(0, "after", str(head)).is_acknowledged)


@pytest.mark.parametrize(
    "step",
    [
        "install.fetched",
        pytest.param("install.drafted", marks=pytest.mark.accept),
        pytest.param("install.renamed", marks=pytest.mark.accept),
        "install.stored",
        *GIVING,
    ],
)
def test_node_dies_at_each_step_of_a_snapshot(start_cluster: StartCluster, step: str) -> None:
    """A snapshot that was begun is whole or not there, for its giver and for its taker."""
    cluster = start_cluster("valkey")
    prepare_hole(cluster)
    hit = cluster.members[2:] if step in INSTALLING else cluster.members[:2]
    with armed(step, *hit):
        if step in GIVING:
            for member in hit:
                member.wait_ready()
            cluster[2].start()
        until(lambda: died(*hit))
    until(cluster[2].is_ready)
    cluster.judge()

    # Once it is in its place it need not be fetched again.
    is_there = step in ("install.renamed", "install.stored")
    assert is_there or cluster[2].follower["counts"]["snapshots"]


def test_node_dies_while_a_route_set_is_copied_and_while_it_is_removed(
    start_cluster: StartCluster,
) -> None:
    """The client repeats the write at another node; all nodes copy and remove alike."""
    cluster = start_cluster("valkey")
    cluster.put(0, "r", *(f"text {number}" for number in range(900)))
    for step, method, path in (
        ("fork.some", "POST", "/v1/sets/default/fork"),
        ("removal.some", "DELETE", "/v1/sets/copy"),
    ):
        key = uuid5(NAMESPACE_OID, step).hex
        body = {"as": "copy"} if method == "POST" else None
        with armed(step, cluster[2]):
            cluster[2].wait_ready()
            for node in (2, 0):
                write = cluster.write(node, method, path, body, key=key)
            until(lambda: died(cluster[2]))
        cluster.judge()

        assert "applied" == write.outcome
