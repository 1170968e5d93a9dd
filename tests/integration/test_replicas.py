"""Goal: a node follows the log at replicas, and no replica's word counts.

Method: a real primary with real replicas that are cut off, killed, and rewritten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from fault_proxy import Fault, FaultProxy
from followers import joined
from followers import until as followers_until
from redis_logs import WAIT_SECONDS, opened, put, until
from servers import Server
from synaptoroute.core.mutation import Entry, Position
from synaptoroute.sequencer.client import split_urls
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.log_reads import ReadResult
from synaptoroute.sequencer.pubsub import (
    Bus,
    BusEvent,
    KeepaliveResult,
    MessageReceived,
    Subscribed,
)

pytestmark = pytest.mark.integration
StartServer = Callable[..., Server]


async def replica_of(start_server: StartServer, primary: Server, port: int = 0) -> Server:
    """Start a replica that has everything the primary has."""
    primary.call("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    replica = start_server(primary.kind)
    replica.call("REPLICAOF", "127.0.0.1", str(port or primary.port))
    async with asyncio.timeout(WAIT_SECONDS):
        while "master_link_status:up" not in replica.call("INFO", "replication"):
            await asyncio.sleep(0.02)
    return replica


async def level(primary: Server, replica: Server) -> None:
    """Wait until a replica has what the primary has."""
    async with asyncio.timeout(WAIT_SECONDS):
        while primary.call("XLEN", LOG) != replica.call("XLEN", LOG):
            await asyncio.sleep(0.02)


LOG = "sr:{default}:log:1"


def is_entry(event: BusEvent) -> bool:
    return isinstance(event, MessageReceived) and isinstance(event.message, Entry)


def is_second(event: BusEvent) -> bool:
    return is_entry(event) and event.message.seq == 2


def is_at(event: BusEvent, *, replica: bool) -> bool:
    return event == Subscribed(is_replica=replica)


async def read_all(log: RedisLog) -> ReadResult | None:
    return await log.replica_reads.read(Position())


async def test_entries_are_heard_and_read_at_a_replica(
    server: Server, start_server: StartServer
) -> None:
    replica = await replica_of(start_server, server)
    async with opened(server.url, replica_urls=[replica.url]) as log:
        bus = log.bus()
        bus.start()
        await until(bus, lambda e: is_at(e, replica=True))
        await log.append([put("one"), put("two")])
        # The replica may pass on the opening of the epoch as well.
        heard = [each.message for each in await until(bus, is_second) if is_entry(each)]
        await level(server, replica)
        found, there = await read_all(log), await log.read(Position())
        channels = server.call("PUBSUB", "CHANNELS")

    assert found is not None
    assert there.entries == found.entries
    assert (there.head, there.epoch_id, there.floor) == (found.head, found.epoch_id, found.floor)
    assert heard[-1] == there.entries[1]
    assert 1 == log.replica_reads.counts.reads
    assert "sr:" not in channels


async def test_primary_is_read_when_a_replica_lags(
    server: Server, start_server: StartServer
) -> None:
    """A replica that has the beginning alone gives that; one that has nothing gives nothing."""
    async with FaultProxy(server.port) as way:
        replica = await asyncio.create_task(replica_of(start_server, server, way.port))
        async with opened(server.url, replica_urls=[replica.url]) as log:
            await log.append([put("one")])
            await level(server, replica)
            way.set_fault(Fault.BLACK_HOLE)
            await log.append([put("two")])
            found = await read_all(log)
            assert found is not None
            later = await log.replica_reads.read(found.entries[-1].position)
            there = await log.read(found.entries[-1].position)

    assert ["one"] == [each.proposal.mutation.name for each in found.entries[1:]]
    assert 3 == found.head.seq
    assert later is None
    assert ["two"] == [each.proposal.mutation.name for each in there.entries]
    assert 0 == log.replica_reads.counts.refused


async def test_entries_that_the_primary_does_not_have_are_refused(
    server: Server, start_server: StartServer
) -> None:
    """A replica that was promoted and written to shows another history, genuine in itself."""
    replica = await replica_of(start_server, server)
    async with opened(server.url, replica_urls=[replica.url]) as log:
        await level(server, replica)
        replica.call("REPLICAOF", "NO", "ONE")
        replid = replica.call("INFO", "replication").partition("master_replid:")[2][:40]
        replica.call("HSET", "sr:{default}:meta", "replid", replid)
        liar = RedisLog(replica.url)
        liar.attach(position=lambda: there.entries[0].position, fingerprint=lambda: "f" * 64)
        there = await log.read(Position())
        await liar.append([put("forged"), put("more")])
        at = there.entries[0].position
        ahead = await log.replica_reads.read(at)
        await log.append([put("true"), put("truth"), put("more")])
        log.replica_reads._rests_until[0] = 0.0
        beside = await log.replica_reads.read(at)
        resting = await log.replica_reads.read(at)
        await liar.close()

    assert (None, None, None) == (ahead, beside, resting)
    assert 2 == log.replica_reads.counts.refused


async def test_reordered_and_removed_entries_are_refused(
    server: Server, start_server: StartServer
) -> None:
    replica = await replica_of(start_server, server)
    async with opened(server.url, replica_urls=[replica.url]) as log:
        await log.append([put("one"), put("two"), put("three")])
        await level(server, replica)
        replica.call("REPLICAOF", "NO", "ONE")
        replica.call("XDEL", LOG, "1-2")
        holed = await log.replica_reads.read(Position(1, 1, (await log.head()).chain))
        log.replica_reads._rests_until[0] = 0.0
        replica.call("SET", LOG, "foreign")
        foreign = await log.replica_reads.read(Position(1, 1, (await log.head()).chain))
        replica.kill()
        away = await log.replica_reads.read(Position())

    assert (None, None, None) == (holed, foreign, away)
    assert 1 == log.replica_reads.counts.failed


async def test_bus_moves_to_the_next_replica_and_back_from_the_primary(
    server: Server, start_server: StartServer
) -> None:
    """A replica is killed; a silent one is left; the primary serves until one works again."""
    first = await replica_of(start_server, server)
    async with FaultProxy(server.port) as way, opened(server.url) as log:
        second = await replica_of(start_server, server, way.port)
        connectors = [RedisLog(each.url) for each in (first, second)]
        bus = Bus(
            log.connector,
            log.keys,
            log.signing_keys,
            [each.connector for each in connectors],
            silence_seconds_max=0.6,
            return_seconds=0.5,
        )
        bus.start()
        keepalive = log.keepalive("me")
        sender = asyncio.create_task(beat(keepalive))
        await until(bus, lambda e: is_at(e, replica=True))
        first.kill()
        await until(bus, lambda e: is_at(e, replica=True))
        way.set_fault(Fault.BLACK_HOLE)
        await until(bus, lambda e: is_at(e, replica=False))
        await log.append([put("heard at the primary")])
        await until(bus, is_entry)
        first.start()
        first.call("REPLICAOF", "127.0.0.1", str(server.port))
        await until(bus, lambda e: is_at(e, replica=True))
        await log.append([put("heard at the replica")])
        await until(bus, is_entry)
        sender.cancel()
        await bus.close()
        for each in connectors:
            await each.close()


async def beat(keepalive: object) -> None:
    while True:
        await keepalive.send()  # type: ignore[attr-defined]
        await asyncio.sleep(0.2)


async def test_silence_of_a_replica_brings_no_keepalive_of_every_node(server: Server) -> None:
    """A node at a replica takes over only if the holder of the lease has been silent."""
    async with opened(server.url) as log:
        holder, other = log.keepalive("holder"), log.keepalive("other")
        other.is_at_replica = True
        outcomes = [await holder.send(), await other.send(is_takeover=True)]
        await asyncio.sleep(1.7)
        outcomes.append(await other.send(is_takeover=True))

    assert [KeepaliveResult.OWN, KeepaliveResult.HELD, KeepaliveResult.FOREIGN] == outcomes


async def test_age_of_a_node_includes_the_lag_of_its_replica(
    valkey_server: Server, tmp_path: Path
) -> None:
    """The time in a keepalive counts, by Redis' clock, not the time at which it arrives."""
    async with joined(tmp_path / "a.sqlite", valkey_server.url) as peer:
        session = peer.follower.session
        await followers_until(lambda: session.is_caught_up)
        session.readiness.fresh_at = 0.0
        session.compare(session.position, session.clock.now_ms() - 5_000)
        late_ms = session.staleness_ms
        session.compare(session.position, session.clock.now_ms())
        current_ms = session.staleness_ms

    assert 5_000 <= late_ms < 6_000
    assert current_ms < 1_000


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("", []),
        ("redis://a:1/0", ["redis://a:1/0"]),
        ("redis://a:1/0, rediss://b", ["redis://a:1/0", "rediss://b"]),
        (
            "redis+sentinel://a,b:2,c/routes redis://d",
            ["redis+sentinel://a,b:2,c/routes", "redis://d"],
        ),
    ],
)
def test_addresses_of_replicas_are_split(text: str, urls: list[str]) -> None:
    assert urls == split_urls(text)
