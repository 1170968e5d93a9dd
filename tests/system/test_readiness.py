"""Goal: a node is ready only while it knows, or has asked all it can, that its state is current.

Method: three real nodes, each behind a proxy that breaks its connections to Redis, and where a
test says so a proxy before its own address, through which its peers reach it.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from fault_proxy import Fault, FaultProxy
from node_cluster import Cluster, Member, StartCluster, until
from processes import CoordinatorProcess

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(180)]
STALENESS_SECONDS = 3.0
ALONE_SECONDS = 2.0
SHORT = {"staleness_seconds_max": str(STALENESS_SECONDS), "alone_seconds": str(ALONE_SECONDS)}
BOUND_SECONDS = STALENESS_SECONDS + 6.0
"""The limit, the time to notice that connections are dead, and some for a busy machine."""


def settled(cluster: Cluster) -> Cluster:
    """Wait until every node has heard of every other one and kept their addresses."""
    for member in cluster.members:
        until(lambda m=member: m.follower["peers"] == len(cluster.members) - 1)
    return cluster


def reasons(member: Member) -> str:
    """Why it is not ready."""
    return str(member.http.get("/readyz").json()["reasons"])


def stays(fact: object, seconds: float) -> None:
    """Assert that a function returns true all the time."""
    give_up_at = time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        assert fact()  # type: ignore[operator]
        time.sleep(0.05)


@pytest.fixture
def behind_proxies(start_cluster: StartCluster) -> tuple[Cluster, list[FaultProxy]]:
    """A cluster whose nodes reach each other through proxies, too."""
    cluster = start_cluster("redis", nodes=0, **SHORT)
    doors = []
    for _ in range(3):
        member = cluster.add(3)
        door = cluster.network.proxy(member.process.port)
        doors.append(door)
        settings = {**member.process.settings, "advertise_url": f"http://127.0.0.1:{door.port}"}
        member.process.settings = settings
        member.start()
    for member in cluster.members:
        member.wait_ready()
    return settled(cluster), doors


def test_node_cut_off_from_redis_alone_follows_its_peers(start_cluster: StartCluster) -> None:
    """It takes from its peers what they have, knows its lag, and stays ready."""
    cluster = settled(start_cluster("redis", nodes=3, **SHORT))
    cut = cluster[2]
    cluster.cut(2, Fault.BLACK_HOLE)
    until(lambda: cut.log_state == "away")
    newest = [cluster.put(n % 2, f"cut{n}") for n in range(30)][-1].at
    until(lambda: cut.version == newest, BOUND_SECONDS)
    stays(lambda: cut.is_ready() and cut.follower["staleness_ms"] < 4_000, 2 * STALENESS_SECONDS)

    assert 0 == cut.follower["lag_entries"]
    assert newest == cut.version
    cluster.heal(2)
    until(lambda: cut.log_state == "open")
    cluster.judge()


def test_node_cut_off_from_redis_and_peers_becomes_unready(
    behind_proxies: tuple[Cluster, list[FaultProxy]],
) -> None:
    """It cannot learn whether it is current: unready within the limit, its lag unknown."""
    cluster, doors = behind_proxies
    cut = cluster[2]
    cluster.cut(2, Fault.BLACK_HOLE)
    for door in doors:
        cluster.network.set_fault(door, Fault.BLACK_HOLE)
    began = time.monotonic()
    until(lambda: not cut.is_ready(), BOUND_SECONDS)
    took = time.monotonic() - began
    cluster.put(0, "unseen")
    query = cut.http.post("/v1/query", json={"text": "r1 one"})
    metrics = cut.http.get("/metrics").text

    assert took >= STALENESS_SECONDS / 2
    assert "stale" in reasons(cut)
    assert cut.follower["lag_entries"] is None
    assert "synaptoroute_lag_entries NaN" in metrics
    assert "synaptoroute_ready 0" in metrics
    assert 200 == query.status_code, "a client that reaches it is answered, with the age"
    assert int(query.headers["SR-Staleness-Ms"]) >= STALENESS_SECONDS * 1_000
    assert cluster[0].is_ready()
    for door in doors:
        cluster.network.set_fault(door, Fault.NONE)
    until(cut.is_ready)
    cluster.heal(2)
    until(lambda: cut.log_state == "open")
    cluster.judge()


@pytest.mark.parametrize("way", ["stop", "pause"])
def test_outage_of_redis_makes_no_node_unready(start_cluster: StartCluster, way: str) -> None:
    """Nobody advances, and the nodes tell each other so; a paused server is an outage, too."""
    cluster = settled(start_cluster("redis", nodes=3, **SHORT))
    with cluster.queries(0, 1, 2) as failed:
        cluster.server.pause() if way == "pause" else cluster.server.stop()
        for member in cluster.members:
            until(lambda m=member: m.log_state == "away")
        stays(lambda: all(m.is_ready() for m in cluster.members), 2.5 * STALENESS_SECONDS)
        stalest = max(member.follower["staleness_ms"] for member in cluster.members)
        lags = {member.follower["lag_entries"] for member in cluster.members}
        cluster.server.resume() if way == "pause" else cluster.server.start()
        for member in cluster.members:
            until(lambda m=member: m.log_state == "open")

    assert [] == failed
    assert {0} == lags
    assert stalest < STALENESS_SECONDS * 1_000
    cluster.judge()


def test_last_node_stays_ready_when_all_others_ended(start_cluster: StartCluster) -> None:
    """Redis is gone and its peers refuse connections: nobody else could serve."""
    cluster = settled(start_cluster("redis", nodes=3, **SHORT))
    last = cluster[0]
    cluster.server.stop()
    for member in cluster.members[1:]:
        member.kill()
    until(lambda: last.log_state == "away")
    stays(last.is_ready, 2.5 * STALENESS_SECONDS)

    assert last.follower["lag_entries"] is None
    assert last.follower["staleness_ms"] > STALENESS_SECONDS * 1_000


@pytest.mark.parametrize("is_signed", [False, True], ids=["unsigned", "signed"])
def test_nodes_that_start_while_redis_is_away_become_ready(
    start_cluster: StartCluster, tmp_path: Path, is_signed: bool
) -> None:
    """All restart: they find each other by the addresses that they kept, and serve."""
    (tmp_path / "secret").write_text(f"k1 {'s' * 64}\n")
    signing = {"signing_keys_file": str(tmp_path / "secret")} if is_signed else {}
    cluster = settled(start_cluster("redis", nodes=3, **SHORT, **signing))
    if is_signed:
        assert cluster[0].http.post("/v1/cluster/finalize", json={"apply": True}).is_success
    newest = cluster.put(0, "kept").at
    assert 200 == cluster[1].http.get("/v1/routes/kept?consistency=head").status_code
    cluster.settle()
    cluster.server.stop()
    for member in cluster.members:
        member.kill()
    for member in cluster.members:
        member.start()
    for member in cluster.members:
        member.wait_ready()
        until(lambda m=member: m.follower["readiness"] == "confirmed")
        answer = member.http.get("/v1/routes/kept")
        assert 200 == answer.status_code
        assert int(answer.headers["SR-Staleness-Ms"]) >= 0
        assert newest == member.version
    cluster.server.start()
    for member in cluster.members:
        until(lambda m=member: m.log_state == "open")
    assert cluster.put(1, "again").is_acknowledged
    cluster.judge()


def test_node_that_starts_alone_becomes_ready_after_a_while(start_cluster: StartCluster) -> None:
    """Neither Redis nor a peer answers: it serves what it verified, and says how old it may be."""
    cluster = settled(start_cluster("redis", nodes=3, **SHORT))
    cluster.put(0, "kept")
    cluster.settle()
    cluster.server.stop()
    for member in cluster.members:
        member.kill()
    fresh = cluster.add(3).start()
    lone = cluster[0].start()
    until(lambda: lone.http.get("/livez").status_code == 200)
    early = lone.http.post("/v1/query", json={"text": "kept one"})
    lone.wait_ready()
    stays(lone.is_ready, 2 * STALENESS_SECONDS)
    late = lone.http.post("/v1/query", json={"text": "kept one"})

    if early.status_code != 200:
        assert (503, "not_ready") == (early.status_code, early.json()["code"])
    assert "kept" == late.json()["route"]
    assert int(late.headers["SR-Staleness-Ms"]) >= ALONE_SECONDS * 1_000
    assert lone.follower["lag_entries"] is None
    assert not fresh.is_ready(), "a node without a state has nothing to serve"
    refused = fresh.http.post("/v1/query", json={"text": "kept one"})
    assert (503, "not_ready") == (refused.status_code, refused.json()["code"])


def test_node_that_starts_behind_takes_the_peers_newest_first(
    start_cluster: StartCluster,
) -> None:
    """What was written while it was down comes from its peers, while Redis is away."""
    cluster = settled(start_cluster("redis", nodes=3, **SHORT))
    cluster[2].kill()
    newest = [cluster.put(n % 2, f"missed{n}") for n in range(20)][-1].at
    cluster.settle(cluster.members[:2])
    cluster.server.stop()
    late = cluster[2].start().wait_ready()

    assert newest == late.version
    assert 200 == late.http.get("/v1/routes/missed19").status_code


def test_node_left_on_an_old_master_becomes_unready(start_cluster: StartCluster) -> None:
    """Its server looks healthy; its peers tell that a majority has left that server's epoch."""
    cluster = settled(start_cluster("redis", nodes=3, **SHORT))
    cluster.put(0, "before")
    cluster.settle()
    from system.conftest import make_server  # type: ignore[import-not-found]

    new = make_server("redis", cluster.folder / "new").start()
    try:
        for number in (0, 1):
            proxy = cluster[number].proxy
            assert proxy is not None
            proxy.target_port = new.port
            cluster.network.set_fault(proxy, Fault.NONE, reset=True)
        for number in (0, 1):
            until(lambda n=number: cluster[n].log_state == "open" and cluster[n].version.epoch > 1)
        until(lambda: not cluster[2].is_ready(), BOUND_SECONDS + 5)
        assert "open" == cluster[2].log_state
        assert cluster[2].follower["lag_entries"] is None
        assert cluster[0].is_ready()
        proxy = cluster[2].proxy
        assert proxy is not None
        proxy.target_port = new.port
        cluster.network.set_fault(proxy, Fault.NONE, reset=True)
        until(cluster[2].is_ready)
    finally:
        new.stop()


def test_node_that_has_not_caught_up_refuses_queries(start_cluster: StartCluster) -> None:
    """An empty answer of a node at position 0.0 would look like "no route matches"."""
    cluster = start_cluster("redis", nodes=0)
    waiting = cluster.add(3).start()
    until(lambda: waiting.log_state == "founding")
    calls = [
        waiting.http.post("/v1/query", json={"text": "r1 one"}),
        waiting.http.post("/v1/query", json={"text": "r1 one", "explain": True}),
        waiting.http.post("/v1/query/batch", json={"texts": ["r1 one"]}),
        waiting.http.get("/v1/routes"),
        waiting.http.get("/v1/routes/r1"),
        waiting.http.get("/v1/export"),
        waiting.http.get("/v1/settings"),
        waiting.http.get("/v1/settings/cascade"),
        waiting.http.get("/v1/conflicts"),
        waiting.http.post(
            "/v1/preview",
            json={"name": "a", "route": {"name": "a", "utterances": ["b"]}, "texts": ["c"]},
        ),
    ]
    assert {(503, "not_ready")} == {(call.status_code, call.json()["code"]) for call in calls}
    assert all(int(call.headers["Retry-After"]) >= 1 for call in calls)
    assert 503 == waiting.http.get("/readyz").status_code
    assert 200 == waiting.http.get("/v1/cluster").status_code
    waiting.signal(signal.SIGTERM)
    waiting.process.wait()


def test_coordinator_cut_off_from_redis_calls_the_fleet_unknown(
    start_cluster: StartCluster,
) -> None:
    """It keeps no node healthy that it cannot judge; who answers it directly is live."""
    cluster = start_cluster("redis", nodes=1)
    way = cluster.network.proxy(cluster.server.port)
    coordinator = CoordinatorProcess(cluster.folder / "coordinator", way.url)
    try:
        coordinator.start()
        coordinator.until(lambda: coordinator.cluster()["nodes"][0]["health"] == "ok")
        coordinator.until(lambda: coordinator.cluster()["nodes"][0]["is_ready"])
        cluster.network.set_fault(way, Fault.BLACK_HOLE)
        coordinator.until(lambda: coordinator.cluster()["log_state"] == "away")
        (node,) = coordinator.cluster()["nodes"]
        alarms = [alarm["code"] for alarm in coordinator.cluster()["alarms"]]
        metrics = coordinator.http("GET", "/metrics").text
        cluster[0].kill()
        coordinator.until(lambda: not coordinator.cluster()["nodes"][0]["is_live"])
    finally:
        coordinator.end()

    assert ("unknown", "unknown", True) == (node["health"], node["digest_state"], node["is_live"])
    assert node["lag_entries"] is None
    assert ["log_closed"] == alarms
    assert "synaptoroute_fleet_head_seq NaN" in metrics
