"""Goal: a server that shows voters different orders costs no write that a quorum acknowledged.

Method: whoever controls Redis copies the log to a second server, makes it say that it was opened
there, and leads one voter to it.  Both servers number genuine writes.  Then he shows one of
them to all voters, and starts a recovery.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import redis

from fault_proxy import FaultProxy
from followers import QUORUM, Peers, lead_to, route, until
from servers import Server
from synaptoroute.errors import SynaptoRouteError, VersionLost
from synaptoroute.models import WriteResult
from synaptoroute.router import WriteOptions

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
APPLIED = WriteOptions(ack="applied")
LONG = WriteOptions(ack="quorum", ack_timeout_seconds=50)
META = "sr:{default}:meta"
"""Key of the header."""


def copy(source: Server, target: Server) -> None:
    """Copy every key, and make the copy say that its log was opened on its own server."""
    there, here = redis.Redis.from_url(source.url), redis.Redis.from_url(target.url)
    with there, here:
        here.flushall()
        for key in there.keys("*"):
            here.restore(key, 0, there.dump(key))
        here.hset(META, "replid", here.info("replication")["master_replid"])


def merge_signed(source: Server, target: Server) -> None:
    """Copy what nodes signed: it proves itself wherever it is shown."""
    there, here = redis.Redis.from_url(source.url), redis.Redis.from_url(target.url)
    with there, here:
        for name in ("nodes", "pos:signed"):
            key = f"sr:{{default}}:{name}"
            here.hset(key, mapping=there.hgetall(key))


@asynccontextmanager
async def voters(
    folder: Path, server: Server, count: int = 3
) -> AsyncIterator[tuple[Peers, list[FaultProxy]]]:
    """Voters of a signed cluster, each behind a proxy of its own."""
    keys_file = folder / "cluster.keys"
    await asyncio.to_thread(keys_file.write_text, "k1 " + "s" * 32)
    settings = {"signing_keys_file": keys_file}
    async with AsyncExitStack() as stack:
        found, ways = Peers(folder, "", settings, stack), []
        for _ in range(count):
            ways.append(await stack.enter_async_context(FaultProxy(server.port)))
            found.url = ways[-1].url
            await found.add(door=True, expect=count)
        for peer in found.all:
            await peer.router.wait_ready(30)
        await until(lambda: all(p.follower.session.log_state == "open" for p in found.all))
        await found[0].router.aput_route(route("before"), QUORUM)
        await found.settle()
        yield found, ways


async def test_acknowledged_write_survives_two_orders(
    tmp_path: Path, redis_server: Server, valkey_server: Server
) -> None:
    """The longer order is of one voter; two hold the write that was acknowledged."""
    async with voters(tmp_path, redis_server) as (found, ways):
        await asyncio.to_thread(copy, redis_server, valkey_server)
        lead_to(ways[2], valkey_server)
        await until(lambda: found[2].follower.session.log_state == "open")
        result = await found[0].router.aput_route(route("acknowledged"), QUORUM)
        assert ("applied", "quorum") == (result.status, result.ack)
        for name in ("other-1", "other-2", "other-3"):
            await _write(found, 2, name)

        lead_to(ways[2], redis_server)
        await _force(found)

        await until(lambda: all(peer.position.epoch > 1 for peer in found.all))
        await found.judge()
        names = {each.name for each in (await found[2].router.alist_routes()).routes}
        assert {"before", "acknowledged"} == names
        # They are counted after the state that lacks them is visible.
        await until(lambda: found[2].follower.session.orphans_count == 3)


async def test_position_of_another_order_acknowledges_nothing(
    tmp_path: Path, redis_server: Server, valkey_server: Server
) -> None:
    """One voter holds the write; the other one signed a higher number, of another order."""
    async with voters(tmp_path, redis_server, 2) as (found, ways):
        await asyncio.to_thread(copy, redis_server, valkey_server)
        lead_to(ways[1], valkey_server)
        await until(lambda: found[1].follower.session.log_state == "open")
        for name in ("other-1", "other-2", "other-3"):
            await _write(found, 1, name)
        await asyncio.to_thread(merge_signed, valkey_server, redis_server)

        short = WriteOptions(ack="quorum", ack_timeout_seconds=2)
        result = await found[0].router.aput_route(route("lone"), short)

        assert ("pending", "applied") == (result.status, result.ack)


async def test_write_of_a_lost_order_is_not_acknowledged_by_another_entry_in_its_place(
    tmp_path: Path, redis_server: Server, valkey_server: Server
) -> None:
    """Its writer waits for a majority, while the history of the voter is replaced."""
    async with voters(tmp_path, redis_server) as (found, ways):
        await asyncio.to_thread(copy, redis_server, valkey_server)
        lead_to(ways[2], valkey_server)
        await until(lambda: found[2].follower.session.log_state == "open")
        waiting = asyncio.create_task(_write(found, 2, "lost", LONG))
        await until(lambda: found[2].position.seq > found[0].position.seq)
        for name in ("one", "two", "three"):
            await found[0].router.aput_route(route(name), QUORUM)

        lead_to(ways[2], redis_server)
        await _force(found)

        with pytest.raises(VersionLost):
            await waiting
        await found.judge()


async def _write(
    found: Peers, number: int, name: str, options: WriteOptions = APPLIED
) -> WriteResult:
    """Write through one voter, as soon as it takes writes."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await found[number].router.aput_route(route(name), options)
            except VersionLost:
                raise
            except SynaptoRouteError:
                await asyncio.sleep(0.05)


async def _force(found: Peers) -> None:
    """Close the log as a restart of the server does: its id is another one afterwards."""
    session = found[0].follower.session
    await session.log.scripts._link.call("HSET", META, "replid", "0" * 40)
    session.heartbeat_wanted.set()
