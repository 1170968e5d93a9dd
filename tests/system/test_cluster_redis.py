"""Goal: queries never need Redis, and writes stop and resume with the reason named.

Method: real nodes on a server of their own that is killed, stopped, and emptied.
"""

from __future__ import annotations

import json
import logging
import signal
import time

import pytest
from click.testing import Result
from typer.testing import CliRunner

from node_cluster import Cluster, StartCluster, until
from synaptoroute.cli.app import app

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


_log = logging.getLogger(__name__)


def command(*words: str) -> Result:
    """Run a command as an operator does."""
    return CliRunner(env={"COLUMNS": "400"}).invoke(app, list(words))


def reopened(cluster: Cluster) -> float:
    """Wait until a write is accepted again; return how long that took."""
    began = time.monotonic()
    until(lambda: cluster.put(0, "reopened", f"at {time.monotonic()}").is_acknowledged)
    return time.monotonic() - began


@pytest.mark.parametrize("kind", ["redis", pytest.param("valkey", marks=pytest.mark.accept)])
def test_restart_of_redis_with_its_data_reopens_by_itself(
    start_cluster: StartCluster, kind: str
) -> None:
    """After a restart with its data no query has failed, and writes resume by themselves."""
    cluster = start_cluster(kind)
    written = [cluster.put(n % 3, f"r{n}") for n in range(10)]
    with cluster.queries(0, 1, 2) as failed:
        for end in (cluster.server.kill, cluster.server.stop):
            end()
            until(lambda: {member.log_state for member in cluster.members} == {"away"})
            refused = cluster.put(1, "homeless")
            ready = [member.is_ready() for member in cluster.members]
            cluster.server.start()
            outage_seconds = reopened(cluster)
            _log.warning("%s: writes were taken %.2f s after its return", kind, outage_seconds)
            until(lambda: {member.log_state for member in cluster.members} == {"open"})

            assert (503, "sequencer_unavailable") == (refused.status, refused.outcome)
            assert [True] * 3 == ready
            assert outage_seconds < 15

    assert [] == failed
    assert all(write.is_acknowledged for write in written)
    assert sum(member.follower["counts"]["reopenings"] for member in cluster.members) >= 2
    cluster.judge()


def test_redis_that_was_emptied_is_filled_again(start_cluster: StartCluster) -> None:
    """After FLUSHALL the nodes refill the log in a new epoch; queries continue."""
    cluster = start_cluster("redis", 2, alone_seconds="1")
    for number in range(10):
        cluster.put(number % 2, f"r{number}")
    cluster.settle()
    with cluster.queries(0, 1) as failed:
        cluster.server.call("FLUSHALL")
        until(lambda: all(member.version.epoch == 2 for member in cluster.members))
        until(lambda: {member.log_state for member in cluster.members} == {"open"})

    assert [] == failed
    answer = cluster[0].http.put("/v1/routes/late", json={"utterances": ["in time"]})
    assert 201 == answer.status_code
    cluster.judge()


def test_operator_forces_a_recovery_that_no_majority_can_end(start_cluster: StartCluster) -> None:
    """With two of three disks gone, the command shows what may be lost, then forces it."""
    cluster = start_cluster("valkey")
    written = [cluster.put(n % 3, f"r{n}") for n in range(10)]
    cluster.settle()
    lone, *gone = list(cluster.members)
    nodes = lone.http.get("/v1/cluster").json()["nodes"]
    urls = {member.process.url for member in gone}
    identities = [node["node"] for node in nodes if node["url"] in urls]
    for member in gone:
        cluster.dismiss(member)
    with cluster.queries(0) as failed:
        cluster.server.call("FLUSHALL")
        until(lambda: "waiting for voters" in lone.follower["detail"])
        foretold = command("cluster", "recover", "--url", lone.process.url)
        forced = command("cluster", "recover", "--force", "--url", lone.process.url)
        until(lambda: cluster.put(0, "reopened").is_acknowledged)
    sound = command("cluster", "recover", "--url", lone.process.url)
    orphans = command("cluster", "orphans", "list", "--json", "--url", lone.process.url)

    assert [] == failed
    assert all(write.is_acknowledged for write in written)
    assert (1, 0, 0, 0) == tuple(r.exit_code for r in (foretold, forced, sound, orphans))
    assert "acknowledged by a quorum" in foretold.output
    assert [True] * 2 == [identity in foretold.output for identity in identities]
    assert [] == json.loads(orphans.output)
    cluster.judge()


def test_fresh_node_founds_nothing_over_a_log_that_was_lost(start_cluster: StartCluster) -> None:
    """With an emptied Redis and a fresh node, the old nodes keep their history."""
    cluster = start_cluster("valkey", 1)
    for number in range(5):
        cluster.put(0, f"r{number}")
    version = cluster.settle()
    cluster[0].signal(signal.SIGSTOP)  # it cannot say that it is there
    cluster.server.call("PING")  # what it said before has been taken in
    cluster.server.call("FLUSHALL")
    fresh = cluster.add(1)
    fresh.start().wait_ready()
    for number in range(20):
        cluster.put(1, f"new{number}")
    cluster[0].signal(18)  # SIGCONT
    until(lambda: cluster[0].log_state in ("foreign", "lost"))
    refused = cluster.put(0, "whose")

    assert "foreign" == cluster[0].log_state
    assert version == cluster[0].version
    assert 503 == refused.status
    assert 0 == cluster[0].follower["counts"]["snapshots"]


def test_node_is_ready_only_after_it_caught_up_or_stood_alone(start_cluster: StartCluster) -> None:
    """Without Redis a node serves its verified state after a while; an empty one never."""
    cluster = start_cluster("valkey", 1, alone_seconds="2")
    cluster.put(0, "kept")
    version = cluster[0].version
    cluster.server.stop()
    cluster[0].kill()
    cluster[0].start()
    until(lambda: cluster[0].log_state == "away")
    empty = cluster.add(1, alone_seconds="0")
    empty.start()
    cluster[0].wait_ready()
    until(lambda: empty.log_state == "away")

    # The only voter confirms itself as soon as no other node is silent.
    assert cluster[0].follower["readiness"] in ("alone", "confirmed")
    assert version == cluster[0].version
    assert not empty.is_ready()
    began = time.monotonic()

    assert 0 == empty.process.stop(20), "a node that was never ready stops when it is told"
    assert time.monotonic() - began < 15

    cluster.server.start()
    until(lambda: cluster.put(0, "again").is_acknowledged)
