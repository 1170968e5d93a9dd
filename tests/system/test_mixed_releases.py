"""Goal: releases of different levels live together; what a node does not know, it never guesses.

Method: real nodes of this release, and of one that differs by its feature level alone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node_cluster import Cluster, Member, StartCluster, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
META = "sr:{default}:meta"
LATER = "import synaptoroute.core.codec as codec\ncodec.LEVEL = 2\n"


@contextmanager
def later_release(folder: Path) -> Iterator[None]:
    """Processes that are started within the block are of a later release."""
    (folder / "sitecustomize.py").write_text(LATER)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def upgrade(member: Member, folder: Path) -> None:
    """Stop a node and start it as the later release, as a rolling upgrade does."""
    member.signal(signal.SIGTERM)
    member.process.wait()
    with later_release(folder):
        member.start()


def is_halted(member: Member) -> bool:
    """Whether it stands still before an entry."""
    return bool(member.follower["replica_state"] == "halted")


def test_rolling_upgrade_skips_no_entry_and_guesses_none(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """Later entries wait for the log's level; who does not know them stands still before them."""
    cluster: Cluster = start_cluster("valkey", 3, staleness_seconds_max="1")
    cluster.put(0, "kept", "one text", "another text")
    with cluster.queries(0, 1) as failed:
        upgrade(cluster[2], tmp_path)
        cluster[2].wait_ready()
        early = cluster.put(2, "early", "of the later release")
        beside = cluster.put(0, "beside", "of this release")
        cluster.server.call("HSET", META, "level", "2")
        later = cluster.put(2, "later", "of the later release")
        until(lambda: all(is_halted(member) for member in cluster.members[:2]))
        until(lambda: not any(member.is_ready() for member in cluster.members[:2]))
        held = [member.version for member in cluster.members[:2]]
        answer = cluster[0].http.post("/v1/query", json={"text": "of the later release"}).json()

    assert [] == failed
    assert (503, True, True) == (early.status, beside.is_acknowledged, later.is_acknowledged)
    assert {beside.at} == set(held)
    assert "later" != answer["route"]

    for member in cluster.members[:2]:
        upgrade(member, tmp_path)
    for member in cluster.members:
        member.wait_ready()
    cluster.settle()

    assert cluster.put(0, "after", "all are of the later release").is_acknowledged
    cluster.judge()
