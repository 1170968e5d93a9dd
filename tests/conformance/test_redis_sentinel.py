"""Goal: a failover by Sentinel loses no write that a quorum holds, and fails no query.

Method: three real Sentinels over a master and its replica, three real nodes that know the
Sentinels alone, clients that write and query all the time; then the master is killed.  The
nodes' Redis user has the rights of the example ACL, so it may not call ``CONFIG``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.clients import Clients, revision_of
from chaos.judge import Judge
from node_cluster import Cluster, cluster_on, until
from redis_servers import KINDS, Watched, watched_servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
CALM_SECONDS = 2.0
LOST_SECONDS = 0.7
_log = logging.getLogger(__name__)


@pytest.fixture(params=KINDS)
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    """Servers of each kind under Sentinels of that kind."""
    with watched_servers(request.param, tmp_path) as servers:
        yield servers


def held_after(clients: Clients, epoch: int) -> bool:
    """Whether a write of a later epoch was held by a quorum."""
    return bool(clients.newest) and revision_of(clients.newest).epoch > epoch


def fail_over(watched: Watched, cluster: Cluster, clients: Clients) -> None:
    """Kill the master while it is used; return when writes are held again."""
    until(lambda: held_after(clients, 0), 60)
    epoch = cluster[0].version.epoch
    time.sleep(CALM_SECONDS)
    watched.lose_link()
    time.sleep(LOST_SECONDS)
    began = time.monotonic()
    watched.master.kill()
    until(watched.is_promoted, 60)
    until(lambda: held_after(clients, epoch), 60)
    _log.warning("%s: failover %.2f s", watched.master.kind, time.monotonic() - began)
    time.sleep(CALM_SECONDS)


def test_failover_loses_nothing_and_fails_no_query(tmp_path: Path, watched: Watched) -> None:
    """The promoted replica missed writes that a quorum held; the nodes bring them back.

    One of the Sentinels is gone, too, and the first in the list: two are a majority.  On the
    first server the nodes listen at the replica, which becomes the master, and then at the former
    master.
    """
    is_first = watched.master.kind == KINDS[0]
    settings = {"redis_url": watched.url, "redis_bus_urls": watched.url if is_first else ""}
    with cluster_on(tmp_path / "nodes", watched.master, **settings) as cluster:
        if is_first:
            until(lambda: all(each.follower["is_bus_at_replica"] for each in cluster.members))
        clients = Clients(lambda: list(cluster.members), seed=1)
        judge = Judge(clients.history)
        clients.start(writers=2, queriers=2)
        try:
            watched.sentinels.kill_one()
            fail_over(watched, cluster, clients)
            if is_first:  # The Sentinels take ten seconds to demote it
                watched.master.start()
                until(lambda: watched.master.tells("role:slave"), 60)
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
