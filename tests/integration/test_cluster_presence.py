"""Goal: nodes know each other and the acknowledged positions.

Method: heartbeats of several nodes.
"""

from __future__ import annotations

import pytest

from redis_logs import opened, put, report
from servers import Server
from synaptoroute.core.mutation import Position
from synaptoroute.sequencer.append_errors import NotPlaced, Reason
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.presence import Acked
from synaptoroute.sequencer.scripts import Head, NoLog

pytestmark = pytest.mark.integration


async def test_heartbeat_returns_the_head_and_lists_the_node(server: Server) -> None:
    """A node receives the head of the log and appears in the list."""
    async with opened(server.url) as log:
        await log.append([put("one")])
        at = (await log.read(Position())).head
        said = report("a", at, queue_count=3, lag_entries=2)
        head = await log.presence.heartbeat(said)
        nodes = await log.presence.nodes()

    assert isinstance(head, Head)
    assert head.position == at
    assert head.voters == ("a", "b", "c")
    assert [said] == [node.report for node in nodes]
    assert nodes[0].is_live


async def test_heartbeat_is_recorded_without_a_log(server: Server) -> None:
    """Before a founding, nodes see each other in the list."""
    log = RedisLog(server.url)
    head = await log.presence.heartbeat(report("a", Position()))
    nodes = await log.presence.nodes()
    await log.close()

    assert isinstance(head, NoLog)
    assert ["a"] == [node.report.node_id for node in nodes]


async def test_silent_nodes_age_and_are_forgotten(server: Server) -> None:
    """After five seconds a node is not live, after an hour not listed."""
    async with opened(server.url) as log:
        for name in ("live", "silent", "gone"):
            await log.presence.heartbeat(report(name, Position()))
        now_ms = _time_ms(server)
        server.call("ZADD", "sr:{default}:hb", str(now_ms - 60_000), "silent")
        server.call("ZADD", "sr:{default}:hb", str(now_ms - 3_700_000), "gone")
        await log.presence.heartbeat(report("live", Position()))
        nodes = {node.report.node_id: node for node in await log.presence.nodes()}

    assert {"live", "silent"} == set(nodes)
    assert nodes["live"].is_live
    assert not nodes["silent"].is_live
    assert nodes["silent"].age_ms >= 60_000


def _time_ms(server: Server) -> int:
    """The server's clock."""
    words = server.call("TIME").split("\r\n")
    return int(words[2]) * 1_000 + int(words[4]) // 1_000


async def test_acknowledgements_count_voters_and_live_nodes(server: Server) -> None:
    """A quorum is more than half of the voters; all is every live node."""
    async with opened(server.url) as log:
        await log.append([put(f"r{n}") for n in range(5)])
        at = [entry.position for entry in (await log.read(Position())).entries]
        await log.presence.heartbeat(report("a", at[5]))
        await log.presence.heartbeat(report("observer", at[3], role="observer"))
        first = await log.presence.acked(1)
        await log.presence.report_position("b", at[4])
        await log.presence.report_position("b", at[2])
        second = await log.presence.acked(1)
        stale = await log.presence.acked(2)

    assert isinstance(first, Acked)
    assert isinstance(second, Acked)
    assert (6, 0, 0) == first.voters
    assert [4, 6] == sorted(first.live)
    assert not first.is_quorum(4)
    assert (6, 5, 0) == second.voters
    assert second.is_quorum(5)
    assert not second.is_quorum(6)
    assert second.is_all(4)
    assert not second.is_all(5)
    assert (2, 1) == (second.voters_at(5), second.nodes_at(5))
    assert NotPlaced(Reason.STALE, "1") == stale


async def test_position_after_the_head_is_no_acknowledgement(server: Server) -> None:
    """A node that claims more than the log has does not make a quorum."""
    async with opened(server.url) as log:
        await log.presence.heartbeat(report("a", Position(1, 50, "a" * 40)))
        acked = await log.presence.acked(1)

    assert isinstance(acked, Acked)
    assert (0, 0, 0) == acked.voters


async def test_malformed_row_hides_one_node_only(server: Server) -> None:
    """A malformed report is left out of the list."""
    async with opened(server.url) as log:
        for name in ("a", "b", "c"):
            await log.presence.heartbeat(report(name, Position()))
        server.call("HSET", "sr:{default}:nodes", "b", "[[[[")
        server.call("HSET", "sr:{default}:nodes", "c", "x" * 5_000)
        nodes = await log.presence.nodes()

    assert ["a"] == [node.report.node_id for node in nodes]


async def test_heartbeat_on_a_replica_still_reads_the_head(start_server, server: Server) -> None:
    """If the server refuses writes, only the head is read."""
    async with opened(server.url) as log:
        other = start_server(server.kind)
        server.call("CONFIG", "SET", "min-replicas-to-write", "1")
        head = await log.presence.heartbeat(report("a", Position()))
        server.call("REPLICAOF", "127.0.0.1", str(other.port))
        demoted = await log.presence.heartbeat(report("a", Position()))

    assert isinstance(head, Head)
    assert head.role == "master"
    assert demoted.role == "slave"


async def test_settings_that_lose_writes_are_named(start_server) -> None:
    """The check finds what the operator should change, and nothing on a good server."""
    bad = start_server("redis", maxmemory_policy="allkeys-lru")
    good = start_server("valkey", appendonly="yes")
    async with opened(bad.url) as log:
        facts = await log.check()
    async with opened(good.url) as log:
        clean = await log.check()

    assert {"eviction", "no_persistence"} == {each.code for each in facts.findings}
    assert facts.is_usable
    assert ("valkey", ()) == (clean.kind, clean.findings)
    assert clean.version.startswith("8.")
