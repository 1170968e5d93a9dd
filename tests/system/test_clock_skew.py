"""Goal: wall clocks that are wrong and jump hurt no lease, epoch, order or deadline.

Method: three real nodes an hour ahead, an hour behind and right, on a real Valkey whose own
clock jumps; clients write and query all the time, and Valkey is killed under every clock.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.clients import Clients, revision_of
from chaos.judge import Judge
from chaos.storm import make_server
from node_cluster import Cluster, cluster_on, until
from wall_clock import HOUR_SECONDS, WallClock

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]
SKEWS = (HOUR_SECONDS, -HOUR_SECONDS, 0)
JUMPS = (-HOUR_SECONDS, 48 * HOUR_SECONDS, HOUR_SECONDS)
CALM_SECONDS = 2.0
REOPEN_SECONDS_MAX = 60.0


def restart(cluster: Cluster, clients: Clients, clock: WallClock, ahead_seconds: int) -> None:
    """Kill the server and start it at another time; return when writes are held again."""
    epoch = cluster[0].version.epoch
    cluster.server.kill()
    clock.jump_to(ahead_seconds)
    with clock.rules():
        cluster.server.start()
    until(lambda: revision_of(clients.newest).epoch > epoch, REOPEN_SECONDS_MAX)


def test_wrong_and_jumping_clocks_have_no_effect(tmp_path: Path) -> None:
    """One history, every quorum write in it, no failed query, and writes reopen as ever."""
    with ExitStack() as stack:
        clock = WallClock(tmp_path / "server-clock")
        server = make_server("valkey", tmp_path / "valkey", "aof-everysec")
        stack.callback(server.stop)
        with clock.rules():
            server.start()
        cluster = stack.enter_context(cluster_on(tmp_path / "nodes", server, 0))
        clocks = [WallClock(tmp_path / f"clock-{n}", ahead) for n, ahead in enumerate(SKEWS)]
        for each in clocks:
            with each.rules():
                cluster.add(len(SKEWS)).start()
        for member in cluster.members:
            member.wait_ready()
        clients = Clients(lambda: list(cluster.members), seed=1)
        judge = Judge(clients.history)
        clients.start(writers=2, queriers=2)
        stack.callback(clients.stop)
        until(lambda: bool(clients.newest))

        restart(cluster, clients, clock, HOUR_SECONDS)
        for each, ahead in zip(clocks, JUMPS, strict=True):
            each.jump_to(ahead)
        time.sleep(CALM_SECONDS)
        clock.jump_to(-HOUR_SECONDS)  # while it runs
        time.sleep(CALM_SECONDS)
        restart(cluster, clients, clock, -2 * HOUR_SECONDS)
        clients.rest()
        head = judge.checkpoint(cluster)
        written = cluster[0].http.put("/v1/routes/all?ack=all", json={"utterances": ["every node"]})
        clients.stop()
        states = {member.log_state for member in cluster.members}

    assert [] == [*judge.end(), *clients.failed]
    assert (3, {"open"}) == (head.epoch, states)
    assert "all" == written.json()["ack"]
    held = {op.at.epoch for op in clients.history.acknowledged if op.at is not None}
    assert {1, 2, 3} == held
