"""Goal: a failover by Sentinel loses no write that a quorum holds, and fails no query.

Method: three real Sentinels over a master and its replica, three real nodes that know the
Sentinels alone, clients that write and query all the time; then the master is killed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.clients import Clients, revision_of
from chaos.judge import Judge
from chaos.storm import make_server
from node_cluster import Cluster, cluster_on, until
from ports import free_port
from servers import Sentinels, Server, running_sentinels

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]
CALM_SECONDS = 2.0
LOST_SECONDS = 0.7


class Watched:
    """A master, its replica, and Sentinels over them."""

    def __init__(self, kind: str, folder: Path, stack: ExitStack) -> None:
        self.master = self._server(kind, folder / "first", stack)
        self.replica = self._server(kind, folder / "second", stack)
        self.replica.call("REPLICAOF", "127.0.0.1", str(self.master.port))
        until(lambda: "master_link_status:up" in self.replica.call("INFO", "replication"))
        self.sentinels: Sentinels = stack.enter_context(running_sentinels(folder, self.master))

    @staticmethod
    def _server(kind: str, folder: Path, stack: ExitStack) -> Server:
        server = make_server(kind, folder, "aof-everysec")
        stack.callback(server.stop)
        return server.start()

    def lose_link(self) -> None:
        """Cut the replica off: what is written from now on is lost by a promotion."""
        self.replica.call("REPLICAOF", "127.0.0.1", str(free_port()))

    def is_promoted(self) -> bool:
        """Whether the Sentinels have made the replica the master."""
        is_master = "role:master" in self.replica.call("INFO", "replication")
        return is_master and self.sentinels.master_port == self.replica.port


@pytest.fixture(params=["redis", pytest.param("valkey", marks=pytest.mark.accept)])
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    """Servers of each kind under Sentinels of that kind."""
    with ExitStack() as stack:
        yield Watched(request.param, tmp_path, stack)


def held_after(clients: Clients, epoch: int) -> bool:
    """Whether a write of a later epoch was held by a quorum."""
    return bool(clients.newest) and revision_of(clients.newest).epoch > epoch


def fail_over(watched: Watched, cluster: Cluster, clients: Clients) -> None:
    """Kill the master while it is used; return when writes are held again."""
    epoch = cluster[0].version.epoch
    time.sleep(CALM_SECONDS)
    watched.lose_link()
    time.sleep(LOST_SECONDS)
    watched.master.kill()
    until(watched.is_promoted, 60)
    until(lambda: held_after(clients, epoch), 60)
    time.sleep(CALM_SECONDS)


def test_failover_loses_nothing_and_fails_no_query(tmp_path: Path, watched: Watched) -> None:
    """The promoted replica missed writes that a quorum held; the nodes bring them back.

    One of the Sentinels is gone, too, and the first in the list: two are a majority.
    """
    url = watched.sentinels.url
    with cluster_on(tmp_path / "nodes", watched.master, redis_url=url) as cluster:
        clients = Clients(lambda: list(cluster.members), seed=1)
        judge = Judge(clients.history)
        clients.start(writers=2, queriers=2)
        try:
            watched.sentinels.kill_one()
            fail_over(watched, cluster, clients)
            watched.master.start()
            until(lambda: "role:slave" in watched.master.call("INFO", "replication"), 60)
            time.sleep(CALM_SECONDS)
            clients.rest()
            head = judge.checkpoint(cluster)
        finally:
            clients.stop()
        states = {member.log_state for member in cluster.members}
        logs = [member.process.log_file.read_text() for member in cluster.members]

    assert [] == [*judge.end(), *clients.failed]
    assert {"open"} == states
    assert 2 == head.epoch
    assert any("filled again from this node" in log for log in logs)
    held = [op for op in clients.history.acknowledged if op.at is not None]
    assert {1, 2} == {op.at.epoch for op in held if op.at is not None}
    assert clients.counts["queries"] > len(held) > 0
