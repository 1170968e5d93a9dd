"""Goal: no loss in Redis loses a write that a majority of the voters holds.

Method: three real routers on real servers that are emptied, set back, replaced, and cut.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from fault_proxy import Fault, FaultProxy
from followers import (
    META,
    Peers,
    assert_held,
    exchangeable,
    lead_to,
    numbered,
    route,
    stored,
    until,
    voters_with_routes,
    write_again,
    write_quorum,
)
from servers import Server
from synaptoroute.errors import RouteNotFound

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
StartServer = Callable[..., Server]


async def begin_again(server: Server) -> None:
    """Start a server that was ended, without its data."""
    for path in server.folder.glob("*"):
        if path.name != "server.log":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    await asyncio.to_thread(server.start)


async def follow(replica: Server, port: int) -> None:
    """Make a server the replica of what listens on a port, and wait until it is one."""
    await asyncio.to_thread(replica.call, "REPLICAOF", "127.0.0.1", str(port))
    await until(lambda: "master_link_status:up" in replica.call("INFO", "replication"))


async def test_emptied_server_is_filled_again(tmp_path: Path, server: Server) -> None:
    """After FLUSHALL the voters refill the log in a new epoch, and nothing is lost."""
    async with voters_with_routes(tmp_path, server) as (found, written):
        await asyncio.to_thread(server.call, "FLUSHALL")
        await write_again(found[1])
        matches = await asyncio.gather(*(peer.router.aquery("r3") for peer in found.all))

        await assert_held(found, [*written, "again"])
        assert {2} == {peer.position.epoch for peer in found.all}
        assert ["r3"] * 3 == [match.route for match in matches]


async def test_restart_without_data_is_filled_again(tmp_path: Path, server: Server) -> None:
    """A server without persistence loses nothing that the voters hold."""
    async with voters_with_routes(tmp_path, server) as (found, written):
        await asyncio.to_thread(server.kill)
        await begin_again(server)
        await write_again(found[2])

        await assert_held(found, [*written, "again"])


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_restart_with_data_opens_upon_what_redis_holds(
    tmp_path: Path, start_server: StartServer, kind: str
) -> None:
    """A plain restart is an epoch change, too, but nothing is copied."""
    server = start_server(kind, appendonly="yes", appendfsync="always")
    async with voters_with_routes(tmp_path, server) as (found, written):
        at = await found.settle()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await write_again(found[1])
        head = await found[0].follower.session.log.head()

        await assert_held(found, [*written, "again"])
        assert (1, at.seq + 2, 2) == (head.floor, head.seq, head.epoch)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_old_backup_is_brought_up_to_date(
    tmp_path: Path, start_server: StartServer, kind: str
) -> None:
    """An old dump is restored: the voters bring it up to date."""
    server = start_server(kind)
    dump = server.folder / "dump.rdb"
    async with voters_with_routes(tmp_path, server, "old") as (found, written):
        await asyncio.to_thread(server.call, "SAVE")
        written += await write_quorum(found[1], numbered("new"))
        await asyncio.to_thread(server.kill)
        assert dump.exists()
        await asyncio.to_thread(server.start)
        await write_again(found[2])

        await assert_held(found, [*written, "again"])


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_backup_restored_into_a_running_server_is_detected(
    tmp_path: Path, start_server: StartServer, kind: str
) -> None:
    """With the same replication id but an older log, positions prove the loss."""
    server = start_server(kind)
    async with voters_with_routes(tmp_path, server, "old") as (found, written):
        log_key = "sr:{default}:log:1"
        await asyncio.to_thread(server.call, "COPY", log_key, "sr:{default}:kept")
        meta = await found[0].follower.session.log._commands.call("HGETALL", META)
        written += await write_quorum(found[1], numbered("new"))
        await asyncio.to_thread(server.call, "RENAME", "sr:{default}:kept", log_key)
        await found[0].follower.session.log._commands.call("HSET", META, *meta)
        await until(lambda: all(peer.position.epoch == 2 for peer in found.all))
        await write_again(found[2])

        await assert_held(found, [*written, "again"])


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_promotion_that_lost_the_tail_loses_nothing(
    tmp_path: Path, start_server: StartServer, kind: str
) -> None:
    """A replica that lost its link is promoted; the voters supply what it missed."""
    master, replica = start_server(kind), start_server(kind)
    async with FaultProxy(master.port) as link, AsyncExitStack() as stack:
        await follow(replica, link.port)
        found, way = await stack.enter_async_context(exchangeable(tmp_path, master))
        written = await write_quorum(found[0], numbered("both"))
        seq = str(found[0].position.seq)
        await until(lambda: seq in replica.call("HGET", META, "seq"))
        link.set_fault(Fault.BLACK_HOLE)
        written += await write_quorum(found[1], numbered("lost"))
        await asyncio.to_thread(replica.call, "REPLICAOF", "NO", "ONE")
        await asyncio.to_thread(master.kill)
        lead_to(way, replica)
        await write_again(found[2])

        await assert_held(found, [*written, "again"])
        assert {2} == {peer.position.epoch for peer in found.all}


async def test_failover_during_a_recovery_voids_its_ballot(
    tmp_path: Path, start_server: StartServer
) -> None:
    """A replica inherits the ballot and its reports; after promotion a new ballot begins."""
    master, replica = start_server("valkey"), start_server("valkey")
    await follow(replica, master.port)
    async with exchangeable(tmp_path, master) as (found, way):
        written = await write_quorum(found[0], numbered("r"))
        # Two voters are cut off, so the recovery cannot end on the master.
        for peer in found.all[1:]:
            await peer.router.stop()
        await asyncio.to_thread(master.call, "FLUSHALL")
        await until(lambda: "recovering" in replica.call("HGET", META, "state"))
        inherited = replica.call("HGET", META, "rec_id")
        await until(lambda: replica.call("HLEN", "sr:{default}:rec").startswith(":1"))
        await asyncio.to_thread(replica.call, "REPLICAOF", "NO", "ONE")
        await asyncio.to_thread(master.kill)
        lead_to(way, replica)
        await until(lambda: replica.call("HGET", META, "rec_id") != inherited)
        back = [await found.add(str(number), expect=3) for number in (1, 2)]
        await write_again(found[0])

        await assert_held(found, [*written, "again"], found[0], *back)
        assert 3 <= found[0].position.epoch


@pytest.mark.parametrize("key", ["meta", "log:1", "pos:1", "nodes", "hb"])
async def test_lost_key_is_made_again(tmp_path: Path, valkey_server: Server, key: str) -> None:
    """After any key is deleted, writes are taken, and a fresh node gets all of them."""
    async with voters_with_routes(tmp_path, valkey_server, door=True) as (found, written):
        await asyncio.to_thread(valkey_server.call, "DEL", f"sr:{{default}}:{key}")
        await write_again(found[1])
        fresh = await found.add("fresh", expect=3)
        await fresh.router.wait_ready(30)

        await assert_held(found, [*written, "again"])


@asynccontextmanager
async def parted(
    folder: Path, start_server: StartServer
) -> AsyncIterator[tuple[Peers, FaultProxy, Server]]:
    """Three routers; the last one has stayed with an old master that takes its writes.

    Gives the routers, the last one's way, and the promoted server.
    """
    master, replica = start_server("redis"), start_server("redis")
    await follow(replica, master.port)
    async with (
        FaultProxy(master.port) as way,
        FaultProxy(master.port) as own_way,
        apart(folder, way, own_way) as found,
    ):
        await write_quorum(found[0], numbered("both", 3))
        seq = str(found[0].position.seq)
        await until(lambda: seq in replica.call("HGET", META, "seq"))
        await asyncio.to_thread(replica.call, "REPLICAOF", "NO", "ONE")
        lead_to(way, replica)
        for name in numbered("left", 3):
            await found[2].router.aput_route(route(name))
        await write_again(found[0], "majority")
        yield found, own_way, replica


@asynccontextmanager
async def apart(folder: Path, way: FaultProxy, own_way: FaultProxy) -> AsyncIterator[Peers]:
    """Three routers that founded a log together, the last one with a way of its own."""
    async with AsyncExitStack() as stack:
        found = Peers(folder, way.url, {}, stack)
        for number in range(3):
            found.url = own_way.url if number == 2 else way.url
            await found.add(expect=3, door=True)
        for peer in found.all:
            await peer.router.wait_ready(30)
        yield found


async def test_writes_of_an_old_master_become_orphans_and_can_be_replayed(
    tmp_path: Path, start_server: StartServer
) -> None:
    """Writes without a majority become orphans where they were applied, and can be replayed."""
    async with parted(tmp_path, start_server) as (found, own_way, promoted):
        lone = found[2]
        held = {each.name for each in await stored(lone)}
        lead_to(own_way, promoted)
        await assert_held(found, ["majority", *numbered("both", 3)])
        orphans = await lone.router.aorphans()
        shown = {each.name for each in await stored(lone)}
        results = [
            await lone.router.areplay_orphan(bytes.fromhex(each.op_id)) for each in orphans[:2]
        ]
        left = await lone.router.aorphans()
        with pytest.raises(RouteNotFound):
            await lone.router.areplay_orphan(bytes.fromhex(orphans[0].op_id))

        assert {"left0", "left1", "left2"} <= held
        assert {"left0", "left1", "left2"}.isdisjoint(shown)
        assert [("PutRoute", f"left{n}") for n in range(3)] == [(o.kind, o.route) for o in orphans]
        assert ["applied", "applied"] == [result.status for result in results]
        assert ["left2"] == [each.route for each in left]
        await assert_held(found, ["majority", "left0", "left1", *numbered("both", 3)])
