"""Goal: only a coordinator gives commands to nodes, each once.

Method: real nodes with a cluster secret on a real server, in which commands and reports are
written by an attacker, and genuine commands are put back.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from node_cluster import Cluster, StartCluster, until
from processes import CoordinatorProcess

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
ORDERS = "sr:{default}:orders"
POLLS_SECONDS = 3.0  # Nodes poll every second


@pytest.fixture
def coordinator(tmp_path: Path, secret_file: Path, cluster: Cluster) -> Iterator[Any]:
    """A coordinator that only does what it is told."""
    settings = {"signing_keys_file": str(secret_file), "audit_seconds": "0", "scrub_seconds": "0"}
    process = CoordinatorProcess(tmp_path / "coordinator", cluster.server.url, settings)
    process.start()
    until(lambda: process.is_active)
    until(lambda: len(process.cluster()["nodes"]) == 2)
    yield process
    process.end()


@pytest.fixture
def cluster(start_cluster: StartCluster, secret_file: Path) -> Cluster:
    """Two nodes with a cluster secret."""
    found = start_cluster(nodes=2, signing_keys_file=str(secret_file))
    found.put(0, "r1")
    until(lambda: found.head().level >= 2)
    return found


def log_of(cluster: Cluster) -> str:
    """What both nodes have logged."""
    return "".join(member.process.log_file.read_text() for member in cluster.members)


def executed(cluster: Cluster) -> int:
    """How many commands the nodes have begun to execute."""
    return log_of(cluster).count("executing the command")


def now_ms() -> int:
    """This machine's time, which is that of its Redis."""
    return int(time.time() * 1_000)


def node_ids(client: Any) -> list[str]:
    """The identities of the nodes."""
    return [node.decode() for node in client.hkeys("sr:{default}:nodes")]


@pytest.mark.parametrize("kind", ["resync", "drop", "switch", "mend", "scrub", "generate"])
def test_forged_command_has_no_effect(cluster: Cluster, kind: str) -> None:
    client: Any = redis.Redis(port=cluster.server.port)
    forged = {
        "order_id": uuid.uuid4().hex,
        "kind": kind,
        "reason": "the attacker asks",
        "given_ms": now_ms(),
        "donors": node_ids(client),
        "encoder": "f" * 64,
    }
    for node in node_ids(client):
        client.hset(ORDERS, node, json.dumps({**forged, "node": node}))
    time.sleep(POLLS_SECONDS)
    assert executed(cluster) == 0
    assert log_of(cluster).count("is refused") >= 2
    assert [member.follower["counts"]["snapshots"] for member in cluster.members] == [0, 0]
    cluster.judge()


def test_command_is_executed_once_and_by_its_node(
    cluster: Cluster, coordinator: CoordinatorProcess
) -> None:
    client: Any = redis.Redis(port=cluster.server.port)
    target, other = node_ids(client)
    sent = coordinator.http("POST", "/v1/actions/scrub", json={"node": target})
    assert sent.status_code == 200
    genuine = until(lambda: client.hget(ORDERS, target))
    until(lambda: not client.hexists(ORDERS, target))
    assert executed(cluster) == 1

    client.hset(ORDERS, target, genuine)
    client.hset(ORDERS, other, genuine)
    time.sleep(POLLS_SECONDS)
    assert executed(cluster) == 1
    assert not client.hexists(ORDERS, target)  # recognized as done

    for each in cluster.members:
        each.kill()
        each.start().wait_ready()
    client.hset(ORDERS, target, genuine)
    time.sleep(POLLS_SECONDS)
    assert executed(cluster) == 1


def test_forged_report_to_an_audit_does_not_count(
    cluster: Cluster, coordinator: CoordinatorProcess
) -> None:
    """An attacker reports another digest for both nodes, and for one that does not exist."""
    client: Any = redis.Redis(port=cluster.server.port)
    lie = {"epoch": 1, "digest": "e" * 32}
    seq = int(coordinator.http("POST", "/v1/actions/audit").json()["seq"])
    for _ in range(100):
        for node in [*node_ids(client), "rogue"]:
            client.hset(f"sr:{{default}}:audit:{seq}", node, json.dumps(lie))
        time.sleep(0.02)
    time.sleep(POLLS_SECONDS)
    verdict = coordinator.cluster()["audit"]
    assert not verdict or (verdict["differing"], verdict["digest"]) != ([], "e" * 32)
    assert executed(cluster) == 0
