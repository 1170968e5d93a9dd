"""Goal: who writes to Redis can neither acknowledge a write nor decide a recovery.

Method: three real voters with a cluster secret, of which two are stopped; a forger writes what
they would have written.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from followers import (
    QUORUM,
    Peer,
    Peers,
    assert_held,
    leave_one,
    numbered,
    peers,
    route,
    until,
    write_quorum,
)
from secrets_of_clusters import signed
from servers import Server
from synaptoroute.router import WriteOptions

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
SHORT = WriteOptions(ack="quorum", ack_timeout_seconds=2)
POSITIONS = "sr:{default}:pos:1"
SIGNED = "sr:{default}:pos:signed"
REPORTS = "sr:{default}:rec"
HEARTBEATS = "sr:{default}:hb"
META = "sr:{default}:meta"


@asynccontextmanager
async def forging(forge: Callable[[], None]) -> AsyncIterator[None]:
    """Forge again and again."""

    async def run() -> None:
        while True:
            await asyncio.to_thread(forge)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _stop(peers: list[Peer]) -> list[str]:
    for peer in peers:
        await peer.router.stop()
    return [peer.engine.node_id for peer in peers]


async def test_signed_positions_acknowledge_a_write(tmp_path: Path, valkey_server: Server) -> None:
    async with signed(tmp_path, valkey_server.url, is_pinned=False) as found:
        assert found[0].follower.session.log.is_strict
        names = await write_quorum(found[0], numbered("r", 5))
        result = await found[1].router.aput_route(route("all"), WriteOptions(ack="all"))
        assert result.ack == "all"
        await assert_held(found, [*names, "all"])


async def test_forged_positions_acknowledge_nothing(tmp_path: Path, valkey_server: Server) -> None:
    """A single disk holds the write, whatever the positions in Redis say."""
    async with signed(tmp_path, valkey_server.url, is_pinned=False) as found:
        await write_quorum(found[0], ["before"])
        told = await asyncio.to_thread(valkey_server.call, "HVALS", SIGNED)
        kept = next(line for line in told.split("\r\n") if line.startswith("{"))
        gone = await _stop(found.all[1:])

        def forge() -> None:
            for node_id in gone:
                valkey_server.call("ZADD", POSITIONS, "1000000", node_id)
                # The genuine statement of the node that lives, in the name of another one.
                valkey_server.call("HSET", SIGNED, node_id, kept)

        async with forging(forge):
            result = await found[0].router.aput_route(route("lonely"), SHORT)
        assert (result.status, result.ack) == ("pending", "applied")


async def test_forged_reports_end_no_recovery(tmp_path: Path, valkey_server: Server) -> None:
    """Redis lost everything and two of three voters are away: their votes cannot be made up."""
    async with signed(tmp_path, valkey_server.url, is_pinned=False) as found:
        names = await write_quorum(found[0], numbered("r", 5))
        gone = [peer.engine.node_id for peer in found.all[1:]]
        lone = await leave_one(found, valkey_server)
        voters = ",".join(sorted([lone.engine.node_id, *gone]))

        def forge() -> None:
            ballot = valkey_server.call("HGET", META, "rec_id").split("\r\n")[1:2]
            for node_id in gone if ballot else ():
                report = f"{ballot[0]}|1|1|{'0' * 40}|{voters}"
                valkey_server.call("HSET", REPORTS, node_id, report)

        async with forging(forge):
            await until(lambda: lone.follower.session.log_state == "recovering", 20)
            await asyncio.sleep(8)
            assert lone.follower.session.log_state == "recovering"
            assert "waiting for voters" in lone.follower.recovery.detail
        back = [
            await found.add(f"v{n}", door=True, identity_key_file=tmp_path / f"{n}.key")
            for n in (1, 2)
        ]
        rest = Peers(found.folder, found.url, {}, found.stack, [lone, *back])
        await until(lambda: all(p.follower.session.log_state == "open" for p in rest.all), 40)
        await assert_held(rest, names)


async def test_forged_voters_do_not_become_voters(tmp_path: Path, valkey_server: Server) -> None:
    """A recovery takes the voters from the entries, not from the header in Redis."""
    async with signed(tmp_path, valkey_server.url, is_pinned=False) as found:
        await write_quorum(found[0], ["before"])
        voters = found[0].engine.replica_status.voters
        epoch = found[0].position.epoch
        await asyncio.to_thread(valkey_server.call, "HSET", META, "voters", "nobody")
        # The log counts as one of another server: a ballot keeps its stream.
        await asyncio.to_thread(valkey_server.call, "HSET", META, "replid", "0" * 40)
        await until(lambda: all(peer.position.epoch > epoch for peer in found.all), 30)
        assert found[0].engine.replica_status.voters == voters
        await until(lambda: all(p.follower.session.log_state == "open" for p in found.all), 30)
        await write_quorum(found[0], ["after"])


@pytest.mark.parametrize("is_signed", [False, True])
async def test_two_founders_both_vote(
    tmp_path: Path, valkey_server: Server, is_signed: bool
) -> None:
    """A quorum of two voters is two disks; the result says so."""
    cluster = signed if is_signed else peers
    async with cluster(tmp_path, valkey_server.url, 2) as found:
        assert len(found[0].engine.replica_status.voters) == 2
        result = await found[0].router.aput_route(route("both"), QUORUM)
        assert (result.ack, result.held_by) == ("quorum", "2/2")
        await found[1].router.stop()
        result = await found[0].router.aput_route(route("one"), SHORT)
        assert (result.status, result.held_by) == ("pending", "")
