"""Goal: every supported server loses no write that a quorum holds, however it is restricted.

Method: three nodes whose Redis user may call what the example ACL names and nothing else, so
not ``CONFIG``.  The server is killed and started again, then replaced behind its address by a
replica that missed the newest writes, as managed services do.  Clients write and query meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from chaos.clients import Clients, revision_of
from chaos.judge import Judge
from node_cluster import Cluster, cluster_on, until
from redis_logs import opened, put
from redis_logs import until as bus_until
from redis_servers import IN_URL, KINDS, USER, Endpoint, restricted_server
from synaptoroute.core.mutation import Entry, Position
from synaptoroute.sequencer.client import Connector
from synaptoroute.sequencer.pubsub import MessageReceived, Subscribed
from synaptoroute.sequencer.server_checks import Limits, examine, examine_replica
from tls_files import TestTls

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
CALM_SECONDS = 1.0
LOST_SECONDS = 0.7
_log = logging.getLogger(__name__)


@pytest.fixture(params=[*KINDS, "redis-7.0 TLS", "redis-7.4 TLS"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Endpoint]:
    """Two servers of each kind behind one address."""
    kind, _, secured = request.param.partition(" ")
    with ExitStack() as stack:
        tls = TestTls.make(tmp_path / "tls") if secured else None
        yield Endpoint(kind, tmp_path, stack, tls)


@pytest.fixture
def cluster(endpoint: Endpoint, tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes that know the address alone."""
    settings = {"redis_url": endpoint.url}
    if endpoint.url.startswith("rediss:"):
        files = TestTls.make(tmp_path / "tls")
        settings |= {
            "redis_ca_file": str(files.ca),
            "redis_cert_file": str(files.cert),
            "redis_key_file": str(files.key),
        }
    with cluster_on(tmp_path / "nodes", endpoint.server, **settings) as cluster:
        yield cluster


def held_after(clients: Clients, epoch: int) -> bool:
    """Whether a write of a later epoch was held by a quorum."""
    return bool(clients.newest) and revision_of(clients.newest).epoch > epoch


def test_restart_and_failover_lose_no_quorum_write(cluster: Cluster, endpoint: Endpoint) -> None:
    clients = Clients(lambda: list(cluster.members), seed=1)
    judge = Judge(clients.history)
    clients.start(writers=2, queriers=2)
    try:
        until(lambda: held_after(clients, 0))
        time.sleep(CALM_SECONDS)
        began = time.monotonic()
        endpoint.server.kill()
        endpoint.server.start()
        until(lambda: held_after(clients, 1))
        _log.warning("%s: restart %.2f s", endpoint.server.kind, time.monotonic() - began)
        time.sleep(CALM_SECONDS)
        endpoint.lose_link()
        time.sleep(LOST_SECONDS)
        epoch, began = cluster[0].version.epoch, time.monotonic()
        endpoint.move()
        until(lambda: held_after(clients, epoch))
        _log.warning("%s: failover %.2f s", endpoint.server.kind, time.monotonic() - began)
        time.sleep(CALM_SECONDS)
        clients.rest()
        head = judge.checkpoint(cluster)
    finally:
        clients.stop()
    held = [op for op in clients.history.acknowledged if op.at is not None]
    epochs = {op.at.epoch for op in held if op.at is not None}

    assert [] == [*judge.end(), *clients.failed]
    assert {"open"} == {member.log_state for member in cluster.members}
    assert head.epoch == epoch + 1
    assert {1, epoch, epoch + 1} <= epochs
    assert clients.counts["queries"] > len(held) > 0


@pytest.mark.parametrize("kind", KINDS)
async def test_doctor_finds_nothing_on_a_restricted_server(kind: str, tmp_path: Path) -> None:
    server = restricted_server(kind, tmp_path / "server").start()
    try:
        url = server.url.replace("://", f"://{USER}:{IN_URL}@")
        found = await examine(Connector(url), "default", Limits(1_000_000, 60.0))
    finally:
        server.stop()

    assert {"ok"} == {each.severity for each in found}


def is_entry(event: object, seq: int) -> bool:
    """Whether a bus event carries the entry of a place; a replica may send the founding late."""
    message = event.message if isinstance(event, MessageReceived) else None
    return isinstance(message, Entry) and message.seq == seq


@pytest.mark.parametrize("kind", KINDS)
async def test_nodes_listen_and_read_at_a_replica_with_a_restricted_user(
    kind: str, tmp_path: Path
) -> None:
    primary = restricted_server(kind, tmp_path / "primary").start()
    replica = restricted_server(kind, tmp_path / "replica").start()
    try:
        replica.call("REPLICAOF", "127.0.0.1", str(primary.port))
        async with asyncio.timeout(30):
            while not replica.tells("master_link_status:up"):
                await asyncio.sleep(0.05)
        urls = [each.url.replace("://", f"://{USER}:{IN_URL}@") for each in (primary, replica)]
        async with opened(urls[0], replica_urls=urls[1:]) as log:
            bus = log.bus()
            bus.start()
            await bus_until(bus, lambda event: event == Subscribed(is_replica=True))
            await log.append([put("one")])
            heard = await bus_until(bus, lambda event: is_entry(event, seq=2))
            found = await log.replica_reads.read(Position())
        examined = await examine_replica(
            Connector(urls[1], is_replica=True), Connector(urls[0]), "default"
        )
    finally:
        for each in (replica, primary):
            each.stop()

    assert found is not None
    assert heard[-1].message == found.entries[-1]
    assert ["replica_followed"] == [each.code for each in examined]
