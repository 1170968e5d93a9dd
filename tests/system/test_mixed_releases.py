"""Goal: releases of different levels live together; what a node does not know, it never guesses.

Method: real nodes of this release, and of one that differs by its feature level alone.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from environment import variables
from node_cluster import Cluster, Member, StartCluster, until
from synaptoroute.core.codec import LEVEL

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(180)]
LATER = f"import synaptoroute.core.codec as codec\ncodec.LEVEL = {LEVEL + 1}\n"
# It counts on nodes that it does not see, as if they had been away and come back.
HASTY = (
    LATER + "import synaptoroute.router.admin as admin\nadmin._knows_level = lambda report: True\n"
)


@contextmanager
def later_release(folder: Path, differences: str) -> Iterator[None]:
    """Processes that are started within the block are of a later release."""
    (folder / "sitecustomize.py").write_text(differences)
    paths = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
    with variables(PYTHONPATH=os.pathsep.join(paths)):
        yield


def upgrade(member: Member, folder: Path, differences: str = LATER) -> None:
    """Stop a node and start it as the later release, as a rolling upgrade does."""
    member.signal(signal.SIGTERM)
    member.process.wait()
    with later_release(folder, differences):
        member.start()


def is_halted(member: Member) -> bool:
    """Whether it stands still before an entry."""
    return bool(member.follower["replica_state"] == "halted")


def finalize(member: Member) -> dict[str, Any]:
    """Ask a node to raise the level of the log to the highest that it knows."""
    answer = member.http.post("/v1/cluster/finalize", json={"apply": True})
    return dict(answer.raise_for_status().json())


def test_rolling_upgrade_skips_no_entry_and_guesses_none(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """The level waits for all nodes; who does not know it stands still before its entry."""
    cluster: Cluster = start_cluster("valkey", 3, staleness_seconds_max="1")
    cluster.put(0, "kept", "one text", "another text")
    with cluster.queries(0, 1) as failed:
        upgrade(cluster[2], tmp_path)
        cluster[2].wait_ready()
        early = cluster.put(2, "early", "of the later release")
        waiting = finalize(cluster[2])
        upgrade(cluster[2], tmp_path, HASTY)
        cluster[2].wait_ready()
        beside = cluster.put(0, "beside", "of this release")
        cluster.settle()
        raised = finalize(cluster[2])
        later = cluster.put(2, "later", "at the later level")
        until(lambda: all(is_halted(member) for member in cluster.members[:2]))
        until(lambda: not any(member.is_ready() for member in cluster.members[:2]))
        held = [member.version for member in cluster.members[:2]]
        answer = cluster[0].http.post("/v1/query", json={"text": "at the later level"}).json()

    assert [] == failed
    assert (True, True, True) == tuple(each.is_acknowledged for each in (early, beside, later))
    assert (LEVEL, 2) == (waiting["level"], len(waiting["waiting_for"]))
    assert LEVEL + 1 == raised["level"]
    assert {beside.at} == set(held)
    assert "later" != answer["route"]

    for member in cluster.members[:2]:
        upgrade(member, tmp_path)
    for member in cluster.members:
        member.wait_ready()
    cluster.settle()

    assert cluster.put(0, "after", "all are of the later release").is_acknowledged
    cluster.judge()
