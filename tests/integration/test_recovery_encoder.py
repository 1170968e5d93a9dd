"""Goal: after a loss in Redis the log names the encoder of the history that was chosen.

Method: three real routers on real servers; a majority has changed its encoder, one has not,
and the one that has not finds the loss first, so that the header is made of what it knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from fault_proxy import Fault, FaultProxy
from followers import Peer, Peers, assert_held, mute_log, route, until, write_again, write_quorum
from servers import Server
from synaptoroute.core.imports import generation_id
from synaptoroute.core.mutation import Proposal, SwitchEncoder
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import EncoderMismatch
from synaptoroute.sequencer.scripts import Encoders, Head

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
StartServer = Callable[..., Server]
META = "sr:{default}:meta"
FORMER, NEXT = HashEncoder(64), HashEncoder(32)


def cut(way: FaultProxy) -> None:
    """End every connection and let no new one in."""
    way.set_fault(Fault.REFUSE)
    way.reset()


@asynccontextmanager
async def apart(
    folder: Path, server: Server, late_spare_dim: int
) -> AsyncIterator[tuple[Peers, FaultProxy, FaultProxy]]:
    """Three routers; the last one uses its own proxy, and perhaps has no other encoder.

    No router has a door, so that none learns by its peers what Redis does not tell it.
    """
    async with (
        FaultProxy(server.port) as way,
        FaultProxy(server.port) as own_way,
        AsyncExitStack() as stack,
    ):
        found = Peers(folder, way.url, {}, stack)
        for number in range(3):
            found.url = own_way.url if number == 2 else way.url
            await found.add(expect=3, spare_dim=late_spare_dim if number == 2 else NEXT.dim)
        for peer in found.all:
            await peer.router.wait_ready(30)
        yield found, way, own_way


async def change(found: Peers, *peers: Peer) -> None:
    """Change to the other encoder, until these routers serve with it."""
    migration = peers[0].follower.maintenance.migration
    await migration.switch(NEXT.fingerprint)
    await until(lambda: all(serving(peer) == NEXT.fingerprint for peer in peers))
    assert FORMER.fingerprint == serving(found[2])


def serving(peer: Peer) -> str:
    """The encoder that a router serves with."""
    return peer.engine.encoder.fingerprint


async def lose(server: Server, way: FaultProxy, own_way: FaultProxy) -> None:
    """Empty the server, and let the late router notice it first."""
    cut(way)
    await asyncio.to_thread(server.call, "FLUSHALL")
    own_way.set_fault(Fault.NONE)
    await until(lambda: "recovering" in server.call("HGET", META, "state"))
    assert FORMER.fingerprint in server.call("HGET", META, "fingerprint")
    way.set_fault(Fault.NONE)


async def header(peer: Peer) -> Head:
    """The header of the log."""
    head = await peer.follower.session.log.head()
    assert isinstance(head, Head)
    return head


@pytest.mark.parametrize("kind", ["redis", "valkey"])
async def test_header_names_the_encoder_of_the_chosen_history(
    tmp_path: Path, start_server: StartServer, kind: str
) -> None:
    """A node that missed the change begins the ballot; the majority's encoder wins."""
    server = start_server(kind)
    async with apart(tmp_path, server, NEXT.dim) as (found, way, own_way):
        written = await write_quorum(found[0], ["a", "b"])
        await found.settle()
        cut(own_way)
        await change(found, *found.all[:2])
        written += await write_quorum(found[1], ["c"])
        await lose(server, way, own_way)
        await write_again(found[0])

        await assert_held(found, [*written, "again"])
        head = await header(found[0])
        opened = [peer.engine.applier.replica.epochs[-1].opened for peer in found.all]
        matches = [(await peer.router.aquery("c")).route for peer in found.all]
        assert (NEXT.fingerprint, NEXT.dim) == (head.fingerprint, head.dim)
        assert [(NEXT.fingerprint, NEXT.dim)] * 3 == [(o.fingerprint, o.dim) for o in opened]
        assert [NEXT.fingerprint] * 3 == [serving(peer) for peer in found.all]
        assert ["c"] * 3 == matches


async def test_change_that_only_redis_held_is_undone_in_the_header(
    tmp_path: Path, valkey_server: Server
) -> None:
    """The entry is lost before any node reads it: the header gets the former encoder."""
    async with apart(tmp_path, valkey_server, NEXT.dim) as (found, way, own_way):
        written = await write_quorum(found[0], ["a", "b"])
        at = await found.settle()
        cut(way)
        cut(own_way)
        generation = generation_id(NEXT.fingerprint, NEXT.dim)
        async with mute_log(valkey_server.url, FORMER.fingerprint) as log:
            placed = await log.switch(
                at,
                Proposal(b"switch only here", SwitchEncoder(generation)),
                Encoders(FORMER.fingerprint, NEXT.fingerprint, NEXT.dim),
            )
        assert at.seq + 1 == placed
        await asyncio.to_thread(valkey_server.call, "DEL", f"sr:{{default}}:log:{at.epoch}")
        way.set_fault(Fault.NONE)
        own_way.set_fault(Fault.NONE)
        await write_again(found[0])

        await assert_held(found, [*written, "again"])
        head = await header(found[0])
        assert (FORMER.fingerprint, FORMER.dim) == (head.fingerprint, head.dim)


async def test_voters_answer_though_the_header_names_an_encoder_they_lack(
    tmp_path: Path, start_server: StartServer
) -> None:
    """A majority that has only the new encoder opens a log whose header names the old one.

    The router without the new encoder votes, and follows no longer: it says which it lacks,
    serves what it holds, and writes nothing.
    """
    server = start_server("redis")
    async with apart(tmp_path, server, late_spare_dim=0) as (found, way, own_way):
        written = await write_quorum(found[0], ["a", "b"])
        await found.settle()
        late = found[2]
        cut(own_way)
        await change(found, *found.all[:2])
        written += await write_quorum(found[0], ["c"])
        for peer in found.all[:2]:
            await peer.router.stop()
        found.url = way.url
        await lose(server, way, own_way)
        back = [await found.add(str(number), expect=3, dim=NEXT.dim) for number in (0, 1)]
        await write_again(back[1])
        await assert_held(found, [*written, "again"], *back)
        await until(lambda: late.follower.session.log_state == "mismatch")

        assert NEXT.fingerprint == (await header(back[0])).fingerprint
        assert [NEXT.fingerprint[:12] in late.follower.reasons()[0]] == [True]
        assert "b" == (await late.router.aquery("b")).route
        with pytest.raises(EncoderMismatch):
            await late.router.aput_route(route("refused"))
