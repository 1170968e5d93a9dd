"""Goal: one identity is one process, and only members are in the fleet.

Method: real nodes with a cluster secret, a copied data directory, and rows that an attacker
with the rights of the documented ACL writes to a real server.
"""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import redis

from node_cluster import Cluster, Member, StartCluster, until
from processes import CoordinatorProcess
from synaptoroute.trust.identity import NodeIdentity

pytestmark = pytest.mark.system


def client_of(cluster: Cluster) -> Any:
    """A client with all rights on the server."""
    return redis.Redis(port=cluster.server.port)


def clone_of(cluster: Cluster, member: Member) -> Member:
    """A member on a copy of the data of another one."""
    copy = cluster.add(1)
    for path in member.database.parent.glob(f"{member.name}.*"):
        if path.suffix != ".log":
            shutil.copy(path, path.with_name(path.name.replace(member.name, copy.name, 1)))
    return copy


def reasons_of(member: Member) -> str:
    """Why a node is not ready."""
    return " ".join(member.http.get("/readyz").json().get("reasons", []))


def test_copied_data_directory_is_refused_and_named(
    start_cluster: StartCluster, secret_file: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cluster = start_cluster(nodes=1, signing_keys_file=str(secret_file))
    first = cluster[0]
    settings = {"signing_keys_file": str(secret_file)}
    coordinator = CoordinatorProcess(tmp_path / "coordinator", cluster.server.url, settings)
    request.addfinalizer(coordinator.end)
    coordinator.start()
    cluster.put(0, "r1")
    clone = clone_of(cluster, first)
    clone.start()
    reason = until(lambda: (found := reasons_of(clone)) and "identity" in found and found)
    conflict = until(lambda: first.follower["identity_conflict"])

    boots = {each.follower["boot"] for each in (first, clone)}
    assert len(boots) == 2
    for text in (reason, conflict):
        assert all(boot in text for boot in boots), text
        assert all(each.process.url in text for each in (first, clone)), text
    assert (first.is_ready(), clone.is_ready()) == (True, False)
    assert first.log_state == "open"
    assert clone.http.put("/v1/routes/r2", json={"utterances": ["two"]}).status_code == 503
    assert first.http.put("/v1/routes/r2", json={"utterances": ["two"]}).status_code < 300
    assert "synaptoroute_identity_conflict 1.0" in first.http.get("/metrics").text
    rows = client_of(cluster).hvals("sr:{default}:nodes")
    assert [first.process.url] == [json.loads(row)["url"] for row in rows]
    named = until(
        lambda: [a["message"] for a in coordinator.cluster()["alarms"] if "clone" in str(a)]
    )
    assert clone.follower["boot"] in named[0]
    assert clone.process.url in named[0]

    first.kill()
    until(clone.is_ready)  # no other process has the identity any more


def test_restart_after_a_kill_is_no_conflict(
    start_cluster: StartCluster, secret_file: Path
) -> None:
    cluster = start_cluster(nodes=1, signing_keys_file=str(secret_file))
    member = cluster[0]
    for _ in range(3):
        member.kill()
        member.start().wait_ready()
        until(lambda: member.log_state == "open")
        assert member.follower["identity_conflicts"] == 0


def test_restart_at_once_after_sigterm_is_no_conflict(start_cluster: StartCluster) -> None:
    cluster = start_cluster(nodes=1)
    member = cluster[0]
    member.process.stop()
    member.start().wait_ready()
    until(lambda: member.log_state == "open")
    assert member.follower["identity_conflicts"] == 0


def test_key_of_a_node_is_private_and_stays(start_cluster: StartCluster, secret_file: Path) -> None:
    cluster = start_cluster(nodes=1, signing_keys_file=str(secret_file))
    member = cluster[0]
    path = member.database.with_suffix(".key")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert NodeIdentity.load(path).public_key == member.follower["public_key"]
    before = member.follower["public_key"]
    member.kill()
    member.start().wait_ready()
    assert member.follower["public_key"] == before


def test_forged_rows_are_not_in_the_fleet(start_cluster: StartCluster, secret_file: Path) -> None:
    """An altered row of a node, and rows of a node that nobody admitted."""
    cluster = start_cluster(nodes=2, signing_keys_file=str(secret_file))
    redis_client = client_of(cluster)
    nodes = "sr:{default}:nodes"
    genuine = json.loads(redis_client.hvals(nodes)[0])
    forged = {**genuine, "node_id": "rogue", "url": "http://127.0.0.1:9"}

    def forge() -> list[dict[str, Any]]:
        redis_client.hset(nodes, "rogue", json.dumps(forged))
        redis_client.zadd("sr:{default}:hb", {"rogue": 4_000_000_000_000})
        return list(cluster[1].http.get("/v1/cluster").json()["nodes"])

    for _ in range(20):
        assert "rogue" not in {node["node"] for node in forge()}
    assert cluster[1].follower["rows_refused"] > 0
    answer = cluster[0].http.put("/v1/routes/r1?ack=all", json={"utterances": ["one"]})
    assert answer.json()["ack"] == "all"


def test_mode_is_named(start_cluster: StartCluster, secret_file: Path) -> None:
    trusting = start_cluster(nodes=1)
    assert trusting[0].http.get("/v1/cluster").json()["trust_mode"] == "trusting-redis"
    member = trusting.add(1, signing_keys_file=str(secret_file), namespace="other")
    member.start().wait_ready()
    until(lambda: member.log_state == "open")
    assert member.http.get("/v1/cluster").json()["trust_mode"] == "authenticated"
    assert 'trust_mode{mode="authenticated"} 1.0' in member.http.get("/metrics").text
