"""Goal: nodes follow through replicas of Redis, and a dead, late or distant one loses nothing.

Method: real nodes that listen at real replicas; one is killed, one is cut off from the primary,
one stands behind a link of 150 ms.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fault_proxy import Fault, FaultProxy, Network
from node_cluster import Cluster, Member, cluster_on, until
from servers import Server
from system.conftest import make_server

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
LINK_SECONDS = 0.15


class Fleet:
    """A primary and what nodes may listen at.

    Attributes:
        primary: The server that orders writes.
        network: The links.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.primary = self._start("primary")
        self.network = Network()
        stack.callback(self.network.close)

    def _start(self, name: str) -> Server:
        server = make_server("redis", self._folder / name, repl_diskless_sync_delay="0")
        self._stack.callback(server.stop)
        return server.start()

    def replica(self, name: str) -> tuple[Server, FaultProxy]:
        """Start a replica; return it with its link to the primary."""
        link = self.network.proxy(self.primary.port)
        server = self._start(name)
        server.call("REPLICAOF", "127.0.0.1", str(link.port))
        until(lambda: "master_link_status:up" in server.call("INFO", "replication"))
        return server, link


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        yield Fleet(tmp_path, stack)


def is_at_replica(member: Member) -> bool:
    return bool(member.follower["is_bus_at_replica"])


def age_after(member: Member, seconds: float) -> int:
    """Wait a moment; return the age that a node tells, in milliseconds."""
    time.sleep(seconds)
    return int(member.follower["staleness_ms"])


def outcomes(cluster: Cluster) -> dict[str, int]:
    """Sum what became of the nodes' reads at replicas."""
    found = [member.follower["replica_counts"] for member in cluster.members]
    return {name: sum(each[name] for each in found) for name in found[0]}


def test_a_dead_and_a_late_replica_lose_nothing(fleet: Fleet, tmp_path: Path) -> None:
    """Entries too large for the bus are read at the replicas; the judge compares all nodes."""
    (dead, _), (late, link) = fleet.replica("dead"), fleet.replica("late")
    urls = f"{dead.url},{late.url}"
    with cluster_on(tmp_path / "nodes", fleet.primary, 3, redis_bus_urls=urls) as cluster:
        until(lambda: all(map(is_at_replica, cluster.members)))
        channels = fleet.primary.call("PUBSUB", "CHANNELS")
        large = [f"utterance {number} " + "x" * 400 for number in range(60)]
        with cluster.queries(0, 1, 2) as failed, cluster.writers(2):
            until(lambda: cluster.put(0, "large", *large) and outcomes(cluster)["reads"])
            dead.kill()
            time.sleep(0.5)
            fleet.network.set_fault(link, Fault.BLACK_HOLE)
            until(lambda: not any(map(is_at_replica, cluster.members)))
            cluster.put(1, "large-again", *large)
            time.sleep(0.5)
            fleet.network.set_fault(link, Fault.NONE, reset=True)
            dead.start()
        reads = outcomes(cluster)
        cluster.judge()

    assert "sr:" not in channels
    assert [] == failed
    assert reads["reads"] > 0
    assert reads["refused"] == 0
    assert cluster.history.acknowledged


def test_region_follows_through_a_replica_over_a_slow_link(fleet: Fleet, tmp_path: Path) -> None:
    """Queries do not wait for the link; writes and reads of the newest state do."""
    near, link = fleet.replica("near")
    link.delay_seconds = LINK_SECONDS
    with cluster_on(tmp_path / "nodes", fleet.primary, 2) as cluster:
        cluster.put(0, "before")
        far = cluster.add(2, redis_bus_urls=near.url)
        assert far.proxy is not None
        far.proxy.delay_seconds = LINK_SECONDS
        far.start().wait_ready()
        until(lambda: is_at_replica(far))
        began = time.monotonic()
        written = cluster.put(0, "after")
        version = cluster[0].state()["version"]
        until(lambda: far.state()["version"] == version)
        seconds = time.monotonic() - began
        began = time.monotonic()
        answers = [far.http.post("/v1/query", json={"text": "after one"}) for _ in range(20)]
        query_seconds = (time.monotonic() - began) / len(answers)
        ages_ms = [age_after(far, 0.05) for _ in range(20)]
        written_far = cluster.put(2, "far")
        newest = far.http.get("/v1/routes/far?consistency=head")
        cluster.judge()

    assert written.is_acknowledged
    assert written_far.is_acknowledged
    assert 200 == newest.status_code
    assert {200} == {answer.status_code for answer in answers}
    assert LINK_SECONDS <= seconds < 3
    assert query_seconds < LINK_SECONDS
    assert max(ages_ms) < 5_000
