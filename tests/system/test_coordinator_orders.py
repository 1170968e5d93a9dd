"""Goal: what an operator orders through the fleet API is done by the nodes, and recorded.

Method: real nodes, a real coordinator; a row is altered in a node's database by hand.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node_cluster import Cluster, StartCluster, until
from processes import CoordinatorProcess

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

Coordinate = Callable[..., CoordinatorProcess]


@pytest.fixture
def coordinate(tmp_path: Path) -> Iterator[Coordinate]:
    """Start a coordinator of a cluster that ends with the test."""
    started: list[CoordinatorProcess] = []

    def start(cluster: Cluster, **settings: str) -> CoordinatorProcess:
        process = CoordinatorProcess(tmp_path / "coordinator", cluster.server.url, settings)
        started.append(process)
        process.start()
        process.until(lambda: process.is_active)
        process.until(lambda: len(names(process)) == len(cluster.running))
        return process

    yield start
    for process in started:
        process.end()


def names(coordinator: CoordinatorProcess) -> set[str]:
    """Names of the nodes that answered the coordinator."""
    return {node["name"] for node in coordinator.cluster()["nodes"] if node["is_ready"]}


def act(coordinator: CoordinatorProcess, path: str, **body: Any) -> int:
    """Order something; the status."""
    return coordinator.http("POST", f"/v1/actions/{path}", json=body).status_code


def test_voters_change_by_a_command(start_cluster: StartCluster, coordinate: Coordinate) -> None:
    """A fourth node votes, and votes no longer; an unknown one is refused; all is recorded."""
    cluster = start_cluster("valkey", 3)
    cluster.put(0, "r")
    cluster.add(3).start().wait_ready()
    coordinator = coordinate(cluster, audit_seconds="0", scrub_seconds="0")

    def voters() -> int:
        return len(coordinator.cluster()["log"]["voters"])

    assert 3 == voters()
    assert 200 == act(coordinator, "voter", node="n3", vote=True)

    coordinator.until(lambda: voters() == 4)

    assert 200 == act(coordinator, "voter", node="n3", vote=False)

    coordinator.until(lambda: voters() == 3)

    assert 404 == act(coordinator, "voter", node="nobody", vote=True)
    assert {"orphans": []} == coordinator.http("GET", "/v1/orphans").json()
    assert 404 == act(coordinator, "orphan", node="n0", op_id="0" * 32)
    outlook = coordinator.http("POST", "/v1/actions/recover", json={"force": False}).json()
    assert not outlook["is_needed"]
    record = coordinator.http("GET", "/v1/actions").json()["actions"]
    assert ["replay", "unmake a voter", "make a voter"] == [each["action"] for each in record]


def test_row_damaged_on_disk_is_repaired_after_an_audit(
    start_cluster: StartCluster, coordinate: Coordinate
) -> None:
    """A comparison of memory and disk finds it; it is rewritten from memory, without a snapshot."""
    cluster = start_cluster("valkey", 3)
    for number in range(6):
        cluster.put(0, f"r{number}")
    cluster.settle()
    connection = sqlite3.connect(cluster[1].database)
    try:
        connection.execute("UPDATE slot SET utterance = 'altered' WHERE slot = 4")
        connection.commit()
    finally:
        connection.close()
    coordinator = coordinate(cluster, audit_seconds="2", scrub_seconds="3")

    def told() -> str:
        return coordinator.http("GET", "/v1/events?once=true").text

    coordinator.until(lambda: "n1 is damaged" in told(), 40)
    coordinator.until(lambda: "n1 agrees again" in told(), 40)
    events = told()

    assert "repair: n1 was told to mend" in events
    assert 0 == cluster[1].follower["counts"]["snapshots"]
    until(lambda: all(node["health"] == "ok" for node in coordinator.cluster()["nodes"]))
    cluster.judge()
