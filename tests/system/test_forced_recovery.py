"""A forced recovery opens the log whatever a cluster has left: the log, a disk, or neither."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from checkers import Version
from node_cluster import Cluster, Member, StartCluster, until
from synaptoroute.cli.app import app
from synaptoroute.replication.recovery import FORCED_PATIENCE_SECONDS
from synaptoroute.trust.genesis import dump_genesis
from synaptoroute.trust.identity import NodeIdentity

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

ROUTES = 10
VOTERS = 3
READY_SECONDS_MAX = 20.0


def command(*words: str) -> Result:
    """Run a command as an operator does."""
    return CliRunner(env={"COLUMNS": "400"}).invoke(app, list(words))


def outlook(member: Member) -> dict[str, Any]:
    """What a node says of a forced recovery, once all voters count as gone."""

    said: list[dict[str, Any]] = [{}]

    def found() -> bool:
        said[0] = member.http.post("/v1/cluster/recover", json={}).json()
        return len(said[0]["missing"]) == VOTERS

    try:
        until(found)
    except AssertionError as error:
        raise AssertionError(said[0]) from error
    return said[0]


def force(member: Member, *options: str) -> None:
    done = command("cluster", "recover", "--force", "--url", member.process.url, *options)
    assert 0 == done.exit_code, done.output


def replace_all(cluster: Cluster, count: int = VOTERS, **settings: str) -> list[Member]:
    """End every node, and start as many with empty disks: none of them is a voter."""
    for member in list(cluster.members):
        cluster.dismiss(member)
    fresh = [cluster.add(count, **settings).start() for _ in range(count)]
    for member in fresh:
        until(lambda member=member: member.follower["log_state"] in ("open", "recovering"))
    return fresh


def end_all_and_restart_redis(cluster: Cluster) -> None:
    """No voter sees the new server: it would answer the ballot, and not be missing."""
    cluster.server.stop()
    for member in list(cluster.members):
        cluster.dismiss(member)
    cluster.server.start()


def write_routes(cluster: Cluster) -> Version:
    written = [cluster.put(n % len(cluster.members), f"r{n}") for n in range(ROUTES)]
    assert all(write.is_acknowledged for write in written)
    return cluster.settle()


def assert_works(cluster: Cluster, members: list[Member], routes: int) -> None:
    """All nodes are ready with these routes, and a majority of voters among them takes writes."""
    until(lambda: all(member.is_ready() for member in members), READY_SECONDS_MAX)
    assert {routes} == {len(each.http.get("/v1/routes").json()["routes"]) for each in members}
    body = {"utterances": ["written later"]}
    until(lambda: members[0].http.put("/v1/routes/later?ack=quorum", json=body).is_success)
    cluster.settle(members)


@pytest.mark.parametrize(
    ("has_secret", "restart"),
    [
        pytest.param(True, False, id="signed-running"),
        pytest.param(True, True, id="signed-restarted"),
        pytest.param(False, False, id="unsigned-running", marks=pytest.mark.accept),
        pytest.param(False, True, id="unsigned-restarted"),
    ],
)
def test_nodes_with_empty_disks_take_over_the_log(
    start_cluster: StartCluster, secret_file: Path, has_secret: bool, restart: bool
) -> None:
    """Redis has the whole log, and every voter is gone: nothing is lost, all nodes vote."""
    settings = {"signing_keys_file": str(secret_file)} if has_secret else {}
    cluster = start_cluster("valkey", **settings)
    at = write_routes(cluster)
    if restart:
        end_all_and_restart_redis(cluster)
    fresh = replace_all(cluster)
    seen = outlook(fresh[0])
    assert f"{at.epoch}.{at.seq}" == seen["base"]
    assert seen["is_needed"] is (has_secret or restart), "without a secret, Redis is trusted"
    force(fresh[1])

    assert_works(cluster, fresh, ROUTES)
    cluster.judge()


def test_pinned_nodes_with_empty_disks_take_over_the_log(
    start_cluster: StartCluster, secret_file: Path, tmp_path: Path
) -> None:
    """As pods do whose volumes are lost: they have the founders' keys again, which count."""
    files = [tmp_path / f"voter-{n}.key" for n in range(VOTERS)]
    keys = {file.stem: NodeIdentity.load_or_create(file).public_key for file in files}
    genesis = tmp_path / "genesis.json"
    genesis.write_text(dump_genesis("default", keys))
    cluster = start_cluster(
        "valkey", 0, signing_keys_file=str(secret_file), genesis_file=str(genesis)
    )

    def start() -> list[Member]:
        own = [{"initial_identity_key_file": str(file)} for file in files]
        return [cluster.add(VOTERS, **each).start() for each in own]

    for member in start():
        member.wait_ready()
    write_routes(cluster)
    end_all_and_restart_redis(cluster)
    fresh = start()
    outlook(fresh[0])
    force(fresh[0])

    assert_works(cluster, fresh, ROUTES)


@pytest.mark.parametrize(
    "has_secret",
    [
        pytest.param(False, id="unsigned", marks=pytest.mark.accept),
        pytest.param(True, id="signed"),
    ],
)
def test_log_without_its_beginning_is_given_up(
    start_cluster: StartCluster, secret_file: Path, has_secret: bool
) -> None:
    """No node holds what was trimmed, so nothing can be kept; the operator is told before."""
    settings = {"signing_keys_file": str(secret_file)} if has_secret else {}
    cluster = start_cluster("valkey", **settings)
    write_routes(cluster)
    cluster.trim()
    fresh = replace_all(cluster)
    seen = outlook(fresh[0])
    assert "0.0" == seen["base"]
    assert "all routes are lost" in seen["risk"]
    force(fresh[0])

    assert_works(cluster, fresh, 0)


def test_observer_alone_keeps_what_it_holds(start_cluster: StartCluster, secret_file: Path) -> None:
    """Redis is empty and every voter is gone; a node without a vote fills the log again."""
    cluster = start_cluster("valkey", signing_keys_file=str(secret_file))
    observer = cluster.add(VOTERS).start().wait_ready()
    write_routes(cluster)
    for member in cluster.members[:VOTERS]:
        cluster.dismiss(member)
    cluster.server.call("FLUSHALL")
    outlook(observer)
    force(observer)

    assert_works(cluster, [observer], ROUTES)
    assert_works(cluster, [observer, cluster.add(VOTERS).start()], ROUTES + 1)
    cluster.judge()


def test_operator_signs_what_nodes_without_entries_open(
    start_cluster: StartCluster, secret_file: Path, tmp_path: Path
) -> None:
    """The cause in Redis opens nothing, and neither does a request without the signature."""
    key = tmp_path / "operator.key"
    public_key = NodeIdentity.load_or_create(key).public_key
    signed = {"signing_keys_file": str(secret_file), "operator_public_key": public_key}
    cluster = start_cluster("valkey", **signed)
    write_routes(cluster)
    end_all_and_restart_redis(cluster)
    fresh = replace_all(cluster)
    outlook(fresh[0])
    cluster.server.call("HSET", "sr:{default}:meta", "rec_cause", "forced")
    refused = command("cluster", "recover", "--force", "--url", fresh[0].process.url)
    time.sleep(FORCED_PATIENCE_SECONDS)
    assert refused.exit_code
    assert "operator" in refused.output
    assert not any(member.is_ready() for member in fresh)
    force(fresh[0], "--operator-key", str(key))

    assert_works(cluster, fresh, ROUTES)
