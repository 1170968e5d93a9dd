"""Goal: no loss in Redis loses a write that a majority of the voters holds.

Method: three real routers on real servers that are emptied, set back, replaced, and cut.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest

from fault_proxy import Fault, FaultProxy
from followers import Peers, peers, route, until
from recoveries import assert_held, exchangeable, lead_to, stored, write_again, write_quorum
from servers import Server
from synaptoroute.cluster import RedisLog
from synaptoroute.cluster.scripts import Head
from synaptoroute.core.mutation import DeleteRoute, Position, Proposal
from synaptoroute.errors import RouteNotFound, SequencerUnavailable
from synaptoroute.follower import recovery as recovery_module
from synaptoroute.follower.progress import Progress

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
StartServer = Callable[..., Server]
META = "sr:{default}:meta"


def names(prefix: str, count: int = 10) -> list[str]:
    """Names of routes."""
    return [f"{prefix}{number}" for number in range(count)]


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
    """FLUSHALL: the voters bring the log back, in a new epoch, and nothing is lost."""
    async with peers(tmp_path, server.url, 3) as found:
        written = await write_quorum(found[0], names("r"))
        await asyncio.to_thread(server.call, "FLUSHALL")
        await write_again(found[1])
        matches = await asyncio.gather(*(peer.router.aquery("r3") for peer in found.all))

        await assert_held(found, [*written, "again"])
        assert {2} == {peer.position.epoch for peer in found.all}
        assert ["r3"] * 3 == [match.route for match in matches]


async def test_restart_without_data_is_filled_again(tmp_path: Path, server: Server) -> None:
    """A server that keeps nothing loses nothing that the voters hold."""
    async with peers(tmp_path, server.url, 3) as found:
        written = await write_quorum(found[0], names("r"))
        await asyncio.to_thread(server.kill)
        await begin_again(server)
        await write_again(found[2])

        await assert_held(found, [*written, "again"])


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_restart_with_data_opens_upon_what_redis_holds(
    tmp_path: Path, start_server: StartServer, kind: str
) -> None:
    """A plain restart is an epoch change too, but nothing is copied."""
    server = start_server(kind, appendonly="yes", appendfsync="always")
    async with peers(tmp_path, server.url, 3) as found:
        written = await write_quorum(found[0], names("r"))
        at = await found.settle()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await write_again(found[1])
        head = await found[0].follower.log.head()

        await assert_held(found, [*written, "again"])
        assert (1, at.seq + 2, 2) == (head.floor, head.seq, head.epoch)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_old_backup_is_brought_up_to_date(
    tmp_path: Path, start_server: StartServer, kind: str
) -> None:
    """A dump of yesterday in the server's folder: the voters know better."""
    server = start_server(kind)
    dump = server.folder / "dump.rdb"
    async with peers(tmp_path, server.url, 3) as found:
        written = await write_quorum(found[0], names("old"))
        await asyncio.to_thread(server.call, "SAVE")
        written += await write_quorum(found[1], names("new"))
        await asyncio.to_thread(server.kill)
        assert dump.exists()
        await asyncio.to_thread(server.start)
        await write_again(found[2])

        await assert_held(found, [*written, "again"])


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_backup_restored_into_a_running_server_is_found_out(
    tmp_path: Path, start_server: StartServer, kind: str
) -> None:
    """The same server, the same replication id, an older log: positions prove the loss."""
    server = start_server(kind)
    async with peers(tmp_path, server.url, 3) as found:
        written = await write_quorum(found[0], names("old"))
        log_key = "sr:{default}:log:1"
        await asyncio.to_thread(server.call, "COPY", log_key, "sr:{default}:kept")
        meta = await found[0].follower.log._commands.call("HGETALL", META)
        written += await write_quorum(found[1], names("new"))
        await asyncio.to_thread(server.call, "RENAME", "sr:{default}:kept", log_key)
        await found[0].follower.log._commands.call("HSET", META, *meta)
        await until(lambda: all(peer.position.epoch == 2 for peer in found.all))
        await write_again(found[2])

        await assert_held(found, [*written, "again"])


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_promotion_that_lost_the_tail_loses_nothing(
    tmp_path: Path, start_server: StartServer, kind: str
) -> None:
    """A replica behind a dead link is promoted: what it missed comes from the voters."""
    master, replica = start_server(kind), start_server(kind)
    async with FaultProxy(master.port) as link, AsyncExitStack() as stack:
        await follow(replica, link.port)
        found, way = await stack.enter_async_context(exchangeable(tmp_path, master))
        written = await write_quorum(found[0], names("both"))
        seq = str(found[0].position.seq)
        await until(lambda: seq in replica.call("HGET", META, "seq"))
        link.set_fault(Fault.BLACK_HOLE)
        written += await write_quorum(found[1], names("lost"))
        await asyncio.to_thread(replica.call, "REPLICAOF", "NO", "ONE")
        await asyncio.to_thread(master.kill)
        lead_to(way, replica)
        await write_again(found[2])

        await assert_held(found, [*written, "again"])
        assert {2} == {peer.position.epoch for peer in found.all}


async def test_failover_during_a_recovery_voids_its_ballot(
    tmp_path: Path, start_server: StartServer
) -> None:
    """A replica inherits the ballot and its reports; promoted, it begins its own."""
    master, replica = start_server("valkey"), start_server("valkey")
    await follow(replica, master.port)
    async with exchangeable(tmp_path, master) as (found, way):
        written = await write_quorum(found[0], names("r"))
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
    """Whatever key is deleted: writes are taken, and a fresh node finds all of them."""
    async with peers(tmp_path, valkey_server.url, 3, door=True) as found:
        written = await write_quorum(found[0], names("r"))
        await asyncio.to_thread(valkey_server.call, "DEL", f"sr:{{default}}:{key}")
        await write_again(found[1])
        fresh = await found.add("fresh", expect=3)
        await fresh.router.wait_ready(30)

        await assert_held(found, [*written, "again"])


async def test_recovery_waits_for_a_majority_and_obeys_force(
    tmp_path: Path, valkey_server: Server
) -> None:
    """One voter of three opens nothing by itself, and says who is missing; forced it does."""
    async with peers(tmp_path, valkey_server.url, 3) as found:
        written = await write_quorum(found[0], names("r"))
        lone, *gone = found.all
        for peer in gone:
            await peer.router.stop()
        await asyncio.to_thread(valkey_server.call, "FLUSHALL")
        await until(lambda: "waiting for voters" in lone.follower.status().detail)
        with pytest.raises(SequencerUnavailable):
            await lone.router.aput_route(route("refused"))
        match = await lone.router.aquery("r3")
        await lone.follower.recovery.force()
        await write_again(lone)

        assert "r3" == match.route
        await assert_held(found, [*written, "again"], lone)
        assert (lone.follower.node_id,) == lone.engine.applier.replica.voters


async def test_all_restart_while_the_server_is_empty(tmp_path: Path, valkey_server: Server) -> None:
    """Nodes with data recover their log; they do not found another one."""
    async with peers(tmp_path, valkey_server.url, 3) as found:
        written = await write_quorum(found[0], names("r"))
        for peer in found.all:
            await peer.router.stop()
        await asyncio.to_thread(valkey_server.call, "FLUSHALL")
        back = [await found.add(str(number), expect=3) for number in range(3)]
        for peer in back:
            await peer.router.wait_ready(30)
        await write_again(back[0])

        await assert_held(found, [*written, "again"], *back)


async def test_promise_outlives_a_restart(tmp_path: Path, valkey_server: Server) -> None:
    """What a node promised binds it after its death; a higher ballot goes on."""
    async with peers(tmp_path, valkey_server.url, 3) as found:
        written = await write_quorum(found[0], names("r"))
        lone, *gone = found.all
        for peer in gone:
            await peer.router.stop()
        await asyncio.to_thread(valkey_server.call, "FLUSHALL")
        await until(lambda: lone.engine.applier.replica.promised_epoch == 2)
        await lone.router.stop()
        promised = await asyncio.to_thread(promise_in, lone.path)
        await asyncio.to_thread(valkey_server.call, "FLUSHALL")
        back = [await found.add(str(number), expect=3) for number in range(3)]
        await write_again(back[1])

        await assert_held(found, [*written, "again"], *back)
        assert promised.startswith("2.")
        assert {3} == {peer.position.epoch for peer in back}


async def test_log_that_a_stranger_founded_is_not_read(
    tmp_path: Path, valkey_server: Server
) -> None:
    """The same epoch by number, another one by ballot: nothing of it is applied or believed."""
    async with peers(tmp_path, valkey_server.url, 1) as found:
        lone = found[0]
        await write_quorum(lone, names("r", 3))
        at, replica = lone.position, lone.engine.applier.replica
        stranger = RedisLog(valkey_server.url)
        await asyncio.to_thread(valkey_server.call, "FLUSHALL")
        encoder = lone.engine.encoder
        await stranger.epochs.found(
            fingerprint=encoder.fingerprint, dim=encoder.dim, voters=("other",), epoch_id="theirs"
        )
        head = await stranger.head()
        position = head.position if isinstance(head, Head) else Position()
        stranger.attach(position=lambda: position, fingerprint=lambda: encoder.fingerprint)
        await stranger.append(
            [Proposal(bytes([number] * 16), DeleteRoute("x")) for number in range(9)]
        )
        progress = await lone.follower.catch_up.run()
        await until(lambda: lone.follower.log_state == "foreign")
        await stranger.close()

        assert Progress.BLOCKED is progress
        assert (at, None) == (replica.position, lone.follower.catch_up.diverged)
        assert 0 == lone.follower.counts.forks


def promise_in(path: Path) -> str:
    """The ballot that a database holds as promised."""
    with closing(sqlite3.connect(path)) as raw:
        (promised,) = raw.execute("SELECT value FROM node WHERE key = 'promise'").fetchone()
    return str(promised)


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
        await write_quorum(found[0], names("both", 3))
        seq = str(found[0].position.seq)
        await until(lambda: seq in replica.call("HGET", META, "seq"))
        await asyncio.to_thread(replica.call, "REPLICAOF", "NO", "ONE")
        lead_to(way, replica)
        for name in names("left", 3):
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
    """What no majority held is kept aside where it was applied, shown, and made again."""
    async with parted(tmp_path, start_server) as (found, own_way, promoted):
        lone = found[2]
        held = {each.name for each in await stored(lone)}
        lead_to(own_way, promoted)
        await assert_held(found, ["majority", *names("both", 3)])
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
        await assert_held(found, ["majority", "left0", "left1", *names("both", 3)])


async def test_voters_are_exchanged_one_by_one(tmp_path: Path, valkey_server: Server) -> None:
    """A new node votes, an old one votes no longer, and the new majority recovers the log."""
    async with peers(tmp_path, valkey_server.url, 3) as found:
        written = await write_quorum(found[0], names("r", 4))
        fresh = await found.add("fresh", expect=3)
        await fresh.router.wait_ready(30)
        gone = found[0]
        added = await found[1].router.achange_voter(fresh.follower.node_id, is_adding=True)
        again = await found[1].router.achange_voter(fresh.follower.node_id, is_adding=True)
        removed = await found[1].router.achange_voter(gone.follower.node_id, is_adding=False)
        await found.settle()
        voters = found[1].engine.applier.replica.voters
        await gone.router.stop()
        await found[1].router.stop()
        await asyncio.to_thread(valkey_server.call, "FLUSHALL")
        await write_again(fresh)

        left = [found[2], fresh]
        await assert_held(found, [*written, "again"], *left)
        assert ("applied", "unchanged", "applied") == (added.status, again.status, removed.status)
        expected = sorted(each.follower.node_id for each in (found[1], *left))
        assert expected == list(voters)
        assert expected == list(fresh.engine.applier.replica.voters)


async def test_voters_do_not_change_twice_at_once(tmp_path: Path, valkey_server: Server) -> None:
    """Until a majority holds the last change, the next one is refused."""
    async with peers(tmp_path, valkey_server.url, 3) as found:
        await write_quorum(found[0], names("r", 2))
        await asyncio.to_thread(valkey_server.call, "HSET", META, "voters_seq", "1000")
        with pytest.raises(SequencerUnavailable) as refused:
            await found[0].router.achange_voter("newcomer", is_adding=True)

        assert "unheld" == refused.value.fields["reason"]


async def test_recovery_is_foretold_before_it_is_forced(
    tmp_path: Path, valkey_server: Server
) -> None:
    """An operator sees what would be kept, who is missing, and what may be lost."""
    async with peers(tmp_path, valkey_server.url, 3) as found:
        await write_quorum(found[0], names("r", 4))
        at = await found.settle()
        sound = await found[0].router.arecovery()
        lone, *gone = found.all
        missing = sorted(peer.follower.node_id for peer in gone)
        for peer in gone:
            await peer.router.stop()
        await asyncio.to_thread(valkey_server.call, "FLUSHALL")
        await until(lambda: "waiting for voters" in lone.follower.status().detail)
        outlook = await lone.router.aforce_recovery()
        await write_again(lone)

        assert (False, "", []) == (sound.is_needed, sound.risk, sound.missing)
        assert (True, str(at.revision)) == (outlook.is_needed, outlook.base)
        assert missing == sorted(outlook.missing)
        assert all(name in outlook.risk for name in missing)


async def test_available_recovery_goes_on_with_those_present(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is set, ten seconds without a majority are enough; the voters stay voters."""
    monkeypatch.setattr(recovery_module, "AVAILABLE_SECONDS", 1.0)
    async with peers(tmp_path, valkey_server.url, 3, recovery="available") as found:
        written = await write_quorum(found[0], names("r", 4))
        lone, *gone = found.all
        for peer in gone:
            await peer.router.stop()
        await asyncio.to_thread(valkey_server.call, "FLUSHALL")
        await until(lambda: lone.follower.log_state == "open" and lone.position.epoch == 2)
        await lone.router.aput_route(route("again"))

        await assert_held(found, [*written, "again"], lone)
        assert 3 == len(lone.engine.applier.replica.voters)
