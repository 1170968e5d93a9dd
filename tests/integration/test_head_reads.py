"""Goal: ``consistency=head`` is linearizable with quorum writes, also while two masters live.

Method: real routers with HTTP servers, whose way to Redis is redirected one by one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from fault_proxy import FaultProxy
from followers import QUORUM, Peer, Peers, joined, lead_to, route, until
from ports import free_port
from redis_logs import WAIT_SECONDS
from servers import Server
from synaptoroute.errors import HeadNotConfirmed
from synaptoroute.replication import head_reads

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@asynccontextmanager
async def apart(folder: Path, server: Server) -> AsyncIterator[tuple[Peers, list[FaultProxy]]]:
    """Three voters, each with a way of its own to Redis."""
    async with AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(FaultProxy(server.port)) for _ in range(3)]
        found = Peers(folder, server.url, {}, stack)
        for number, way in enumerate(ways):
            path = folder / f"{number}.sqlite"
            peer = joined(path, way.url, door=True, expect=3)
            found.all.append(await stack.enter_async_context(peer))
        for peer in found.all:
            await peer.router.wait_ready(WAIT_SECONDS)
        for peer in found.all:
            await until(lambda p=peer: len(p.follower.peer_watch.directory) == 2)
        yield found, ways


async def split(found: Peers, ways: list[FaultProxy], new: Server) -> Peer:
    """Lead two of the voters to another server; return the one that stays."""
    for way in ways[:2]:
        lead_to(way, new)
    await until(lambda: all(p.position.epoch > 1 for p in found.all[:2]))
    await until(lambda: all(p.follower.session.log_state == "open" for p in found.all[:2]))
    return found[2]


async def test_head_read_on_the_old_master_of_a_split_is_refused(
    tmp_path: Path, redis_server: Server, valkey_server: Server
) -> None:
    """After a quorum write elsewhere, the old value is no answer."""
    async with apart(tmp_path, redis_server) as (found, ways):
        await found[0].router.aput_route(route("r", "old"), QUORUM)
        await found.settle()
        assert found[2].position.revision == await found[2].router.await_head()
        left = await split(found, ways, valkey_server)
        await found[0].router.aput_route(route("r", "new"), QUORUM)
        began = time.monotonic()
        with pytest.raises(HeadNotConfirmed, match="has left"):
            await left.router.await_head(5.0)
        took = time.monotonic() - began
        async with httpx.AsyncClient(base_url=left.url) as client:
            answer = await client.get("/v1/routes/r?consistency=head")
            local = await client.get("/v1/routes/r")
        await found[0].router.await_head()

    assert (503, "head_not_confirmed") == (answer.status_code, answer.json()["code"])
    assert int(answer.headers["Retry-After"]) >= 1
    assert ["old"] == local.json()["utterances"]
    assert took < head_reads.CONFIRM_SECONDS, "a majority that said no needs no waiting"


async def test_head_that_no_majority_holds_is_not_confirmed(
    tmp_path: Path, redis_server: Server
) -> None:
    """Two voters do not answer: what only one holds may be lost by a failover."""
    async with apart(tmp_path, redis_server) as (found, _):
        urls = found[0].follower.peer_watch.directory._urls
        urls.update(dict.fromkeys(urls, f"http://127.0.0.1:{free_port()}"))
        with pytest.raises(HeadNotConfirmed, match="too few"):
            await found[0].router.await_head(5.0)


async def test_answers_of_a_foreign_address_confirm_nothing(
    tmp_path: Path, redis_server: Server
) -> None:
    """Whoever can write to Redis can lead a node to an address that says what it likes."""
    async with apart(tmp_path, redis_server) as (found, _):
        reader = found[0].follower.peer_watch
        forged: list[bytes] = []

        async def answer(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
            forged.append(await incoming.readuntil(b"\r\n\r\n"))
            body = replace(reader.own_head(), node_id=found[1].engine.node_id).dump()
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            outgoing.write(head + body)
            await outgoing.drain()
            outgoing.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        urls = reader.directory._urls
        port = server.sockets[0].getsockname()[1]
        urls.update(dict.fromkeys(urls, f"http://127.0.0.1:{port}"))
        with pytest.raises(HeadNotConfirmed, match="too few"):
            await found[0].router.await_head(5.0)
        server.close()
        await server.wait_closed()

    assert forged
    assert not any(b"sr-peer-proof" in head.lower() for head in forged)


async def test_concurrent_head_reads_share_confirmations(
    tmp_path: Path, redis_server: Server
) -> None:
    """One in flight and one waiting, however many reads there are."""
    async with apart(tmp_path, redis_server) as (found, _):
        reads = found[0].follower.head_reads
        await found[0].router.await_head()
        before = reads.rounds
        await asyncio.gather(*(found[0].router.await_head() for _ in range(200)))
        together = reads.rounds - before
        for _ in range(5):
            await found[0].router.await_head()
        alone = reads.rounds - before - together

    assert 1 == together
    assert 5 == alone


async def test_read_never_joins_a_confirmation_that_began_before_it(
    tmp_path: Path, redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one may have read the head before the write that the read has to see."""
    async with apart(tmp_path, redis_server) as (found, _):
        reads, router = found[0].follower.head_reads, found[0].router
        begun, may_go = asyncio.Event(), asyncio.Event()
        ask = reads._ask

        async def slow(voter: str) -> Any:
            begun.set()
            await may_go.wait()
            return await ask(voter)

        monkeypatch.setattr(reads, "_ask", slow)
        first = asyncio.create_task(router.await_head(10.0))
        await begun.wait()
        written = await found[1].router.aput_route(route("w"), QUORUM)
        second = asyncio.create_task(router.await_head(10.0))
        await asyncio.sleep(0.05)
        may_go.set()
        earlier, later = await first, await second

    assert str(earlier) < written.version
    assert str(later) >= written.version


async def test_answer_at_an_unconfirmed_version_is_confirmed_again(
    tmp_path: Path, redis_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What became visible after the confirmation may be held by this node alone."""
    async with apart(tmp_path, redis_server) as (found, _):
        await found[0].router.aput_route(route("r", "one"), QUORUM)
        reads = found[0].follower.head_reads
        wait = reads.wait

        async def overtaken(timeout_seconds: float) -> Any:
            version = await wait(timeout_seconds)
            if not second:
                second.append(True)
                await found[0].router.aput_route(route("r", "two"))
            return version

        second: list[bool] = []
        monkeypatch.setattr(reads, "wait", overtaken)
        before = reads.rounds
        async with httpx.AsyncClient(base_url=found[0].url) as client:
            answer = await client.get("/v1/routes/r?consistency=head")

    assert ["two"] == answer.json()["utterances"]
    assert 2 == reads.rounds - before


async def test_sole_voter_confirms_its_own_head(tmp_path: Path, redis_server: Server) -> None:
    """It is the majority: no peer is asked."""
    async with joined(tmp_path / "one.sqlite", redis_server.url) as peer:
        await peer.router.wait_ready(WAIT_SECONDS)
        await peer.router.aput_route(route("r"))
        assert peer.position.revision == await peer.router.await_head()
