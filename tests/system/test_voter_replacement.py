"""Goal: a voter that lost its disk is replaced by the node that comes back in its place.

Method: real nodes, of which one is killed and started again with an empty disk at the same
address, and a real coordinator with a short patience.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from node_cluster import Cluster, Member, StartCluster
from processes import CoordinatorProcess
from synaptoroute.trust.genesis import dump_genesis
from synaptoroute.trust.identity import NodeIdentity

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(180)]


def wipe(member: Member) -> None:
    """Kill a node and delete everything that it stored."""
    member.kill()
    for path in member.database.parent.glob(f"{member.database.stem}.*"):
        path.unlink()


def voters(cluster: Cluster, member: int) -> set[str]:
    """The voters as a node's cluster view has them."""
    nodes = cluster[member].http.get("/v1/cluster").json()["nodes"]
    return {node["node"] for node in nodes if node["role"] == "voter" and node["is_live"]}


def written(cluster: Cluster, name: str) -> bool:
    """Put a route; whether a majority of the voters holds it."""
    path = f"/v1/routes/{name}?ack=quorum"
    return cluster[0].http.put(path, json={"name": name, "utterances": [name]}).is_success


def trusted(folder: Path, mode: str) -> dict[str, str]:
    """Settings of nodes and coordinator in a mode of trust."""
    keys_file, genesis_file = folder / "keys", folder / "genesis.json"
    keys_file.write_text("a " + "s" * 32 + "\n")
    settings = {} if mode == "trusting-redis" else {"signing_keys_file": str(keys_file)}
    if mode == "pinned":
        (nodes := folder / "nodes").mkdir()
        # Where a node would make its key itself.
        keys = {
            name: NodeIdentity.load_or_create(nodes / f"{name}.key").public_key
            for name in ("n0", "n1", "n2")
        }
        genesis_file.write_text(dump_genesis("default", keys))
        settings["genesis_file"] = str(genesis_file)
    return settings


@pytest.mark.parametrize("mode", ["trusting-redis", "authenticated", "pinned"])
def test_two_wiped_disks_one_after_the_other_keep_the_log_open(
    tmp_path: Path, start_cluster: StartCluster, mode: str
) -> None:
    """After both replacements a restart of Redis is recovered without an operator."""
    signing = trusted(tmp_path, mode)
    cluster = start_cluster("valkey", 3, **signing)
    settings = {"voter_missing_seconds": "2", "audit_seconds": "0", "scrub_seconds": "0"}
    coordinator = CoordinatorProcess(
        tmp_path / "coordinator", cluster.server.url, {**settings, **signing}
    )
    assert written(cluster, "before")
    try:
        coordinator.start()
        coordinator.until(lambda: coordinator.is_active)
        coordinator.until(lambda: len(coordinator.cluster()["nodes"]) == 3)
        for lost in (1, 2):
            before = set(coordinator.cluster()["log"]["voters"])
            wipe(cluster[lost])
            cluster[lost].start().wait_ready()

            def replaced(before: set[str] = before) -> bool:
                # The lost voter may be shown as live for a moment: it must be another one.
                now = set(coordinator.cluster()["log"]["voters"])
                return len(now) == 3 and now != before and voters(cluster, 0) == now

            coordinator.until(replaced)
        events = coordinator.http("GET", "/v1/actions").json()["actions"]
        # Redis loses everything: the voters of now decide, and all of them are there.
        cluster.server.call("FLUSHALL")
        coordinator.until(lambda: written(cluster, "after"))
    finally:
        coordinator.end()
    assert 4 == sum(each["action"] == "voter" and each["outcome"] == "done" for each in events)
