"""A cluster of an earlier release that is upgraded node by node under writers and queries."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from checkers import Version
from node_cluster import Cluster, Member, until
from previous_release import previous_release
from synaptoroute.core.codec import LEVEL

Refusals = set[tuple[int, str]]
NOT_FINALIZED: Refusals = {(409, "not_finalized")}


def restart(member: Member) -> None:
    """Stop a node as a rolling update does, and start it again."""
    member.signal(signal.SIGTERM)
    member.process.wait()
    member.start()
    member.wait_ready()


def upgrade_in_part(
    cluster: Cluster, sources: Path, refusals: Callable[[Member], Refusals]
) -> None:
    """Upgrade all nodes but the first, and take one back; the new writes are refused meanwhile."""
    with cluster.queries(0) as failed, cluster.writers(2):
        for member in cluster.members[1:]:
            restart(member)
    assert [] == failed
    for member in cluster.members[1:]:
        assert NOT_FINALIZED == refusals(member)
    with previous_release(sources), cluster.queries(0) as failed, cluster.writers(2):
        restart(cluster[2])
    assert [] == failed
    cluster.judge()


def upgrade_and_finalize(cluster: Cluster, write: Callable[[], None]) -> None:
    """Upgrade every node and raise the level; ``write`` is called then, under load."""
    for member in cluster.members:
        restart(member)
    cluster.settle()
    with cluster.queries(0, 1, 2) as failed, cluster.writers(2):
        raised = cluster[1].http.post("/v1/cluster/finalize", json={"apply": True}, timeout=20)
        assert (LEVEL, []) == (raised.json()["level"], raised.json()["waiting_for"])
        version = Version.of(raised.json()["version"])
        until(lambda: all(member.version >= version for member in cluster.members))
        write()
    assert [] == failed
    cluster.judge()


def outlive_everything(cluster: Cluster, sources: Path, shown: Callable[[Member], object]) -> None:
    """Kill every node, add one after a trim, and try to go back, which is too late."""
    until(lambda: len({str(shown(member)) for member in cluster.members}) == 1)
    for member in cluster.members:
        member.kill()
        member.start()
        member.wait_ready()
    cluster.judge()
    cluster.trim()
    newcomer = cluster.add(3)
    newcomer.start()
    newcomer.wait_ready()
    cluster.judge()
    until(lambda: len({str(shown(member)) for member in cluster.members}) == 1)
    cluster[0].signal(signal.SIGTERM)
    cluster[0].process.wait()
    with previous_release(sources):
        cluster[0].start()
        assert cluster[0].process.wait() != 0
        assert f"schema version {LEVEL}" in cluster[0].process.log_file.read_text()
