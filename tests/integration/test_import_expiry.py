"""Goal: broken-off imports block nobody for ever, and a living import is never expired.

Method: routers of one cluster on a real server, without a coordinator.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from followers import DIM, Peer, peers, route, until
from redis_logs import WAIT_SECONDS
from servers import Server
from synaptoroute.core.imports import IMPORTS_OPEN_MAX
from synaptoroute.core.mutation import ImportAbort, ImportBegin, ImportChunk, Position, Proposal
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import ImportRejected
from synaptoroute.models import ImportResult, Route
from synaptoroute.router.route_checks import put_mutation
from synaptoroute.router.vectors import row_bytes
from synaptoroute.sequencer.append_errors import NotPlaced, Reason

pytestmark = pytest.mark.integration


async def stream(count: int, prefix: str, pause_seconds: float = 0.0) -> AsyncIterator[Route]:
    for number in range(count):
        yield route(f"{prefix}{number}")
        await asyncio.sleep(pause_seconds)


async def broken(prefix: str) -> AsyncIterator[Route]:
    """A stream that breaks after a full chunk."""
    for number in range(300):
        yield route(f"{prefix}{number}")
    raise ConnectionError("the client is gone")


async def break_off(peer: Peer, import_id: str) -> None:
    with pytest.raises(ConnectionError):
        await peer.router.aimport(broken(import_id), import_id=import_id)


async def open_ids(*peers_asked: Peer) -> set[str]:
    """The open imports of some routers."""
    lists = [await peer.router.open_imports.staged() for peer in peers_asked]
    return {each.begin.import_id for found in lists for each in found}


async def until_gone(import_id: str, *peers_asked: Peer) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while any(each.startswith(import_id) for each in await open_ids(*peers_asked)):
            await asyncio.sleep(0.02)


def chunk_of(import_id: str, number: int) -> ImportChunk:
    encoder = HashEncoder(DIM)
    vectors = row_bytes(encoder.encode_utterances(["late"]))
    return ImportChunk(import_id, number, (put_mutation(route("late"), vectors),))


async def test_broken_off_imports_expire_without_a_coordinator(
    tmp_path: Path, server: Server
) -> None:
    """Eight broken-off imports block imports only for the idle time."""
    async with peers(tmp_path, server.url, 2, import_idle_seconds=1.0) as found:
        for number in range(IMPORTS_OPEN_MAX):
            await break_off(found[number % 2], f"broken-{number}")
        with pytest.raises(ImportRejected):
            await found[0].router.aimport(stream(5, "no"))
        await until_gone("broken-", *found.all)
        result = await found[0].router.aimport(stream(5, "yes"))
        await found.judge()

    assert result.routes == 5


async def test_slow_import_is_kept_alive_by_its_author(tmp_path: Path, server: Server) -> None:
    """Its author stages empty chunks while the client sends nothing."""
    async with peers(tmp_path, server.url, 2, import_idle_seconds=1.0) as found:
        result = await found[0].router.aimport(stream(4, "slow", 1.5), import_id="slow")
        await found.judge()

    assert (result.status, result.routes) == ("applied", 4)


async def test_many_nodes_expire_an_import_once(tmp_path: Path, server: Server) -> None:
    """All nodes propose at the same moment; the log has one abort with an effect."""
    async with peers(tmp_path, server.url, 3, import_idle_seconds=600.0) as found:
        await break_off(found[0], "once")
        await found.settle()
        expiries = [peer.router.open_imports for peer in found.all]
        for each in expiries:
            each._idle_seconds = 0.0
            await each.expire()
        await until_gone("once", *found.all)
        await asyncio.gather(*(each.expire() for each in expiries))
        await found.judge()
        entries = (await found[0].follower.session.log.read(Position())).entries
        aborts = [e for e in entries if isinstance(e.proposal.mutation, ImportAbort)]

    assert 1 <= len(aborts) <= 3
    assert 1 == len({each.proposal.op_id for each in aborts})


async def test_chunk_that_arrives_meanwhile_wins_over_the_abort(
    tmp_path: Path, server: Server
) -> None:
    """An abort is decided at a position; entries of the import after it refuse it."""
    async with peers(tmp_path, server.url, 1) as found:
        log = found[0].follower.session.log
        encoder = found[0].engine.encoder
        await log.append([Proposal(b"b" * 16, ImportBegin("race/1"))])
        begun = (await log.head()).position
        await until(lambda: found[0].position == begun)
        at = found[0].position
        abort = Proposal(b"a" * 16, ImportAbort("race/1"))
        await log.append([Proposal(b"o" * 16, ImportBegin("other/1"))])
        await log.append([Proposal(b"c" * 16, chunk_of("race/1", 0))])
        refused = await log.append_unless_named(
            at, abort, "race/1", encoder.fingerprint, encoder.dim
        )
        head = (await log.head()).position
        await until(lambda: found[0].position == head)
        await log.append([Proposal(b"d" * 16, ImportBegin("third/1"))])
        placed = await log.append_unless_named(
            head, abort, "race/1", encoder.fingerprint, encoder.dim
        )
        await until_gone("race/1", found[0])

    assert isinstance(refused, NotPlaced)
    assert refused.reason is Reason.MOVED
    assert placed == head.seq + 2


async def test_import_is_not_expired_while_the_log_is_closed(
    tmp_path: Path, server: Server
) -> None:
    """Its author cannot add anything then, so its silence proves nothing."""
    async with peers(tmp_path, server.url, 1, import_idle_seconds=600.0) as found:
        await break_off(found[0], "kept")
        expiry = found[0].router.open_imports
        expiry._idle_seconds = 0.0
        await expiry._read()
        await asyncio.to_thread(server.stop)
        await until(lambda: found[0].follower.session.log_state != "open")
        sent = await expiry.expire()

    assert sent == 0


async def test_import_larger_than_the_log_finishes(tmp_path: Path, server: Server) -> None:
    """The log is trimmed behind what the nodes hold while the import runs."""
    async with peers(tmp_path, server.url, 3) as found:
        for peer in found.all:
            log = peer.follower.session.log
            log.retention.limits = type(log.retention.limits)(600_000, 200_000, 100_000)
            log._appender.limits = type(log._appender.limits)(log_bytes_max=600_000)
        result = await found[1].router.aimport(stream(6_000, "large"))
        head = await found[0].follower.session.log.head()
        await found.judge()

    assert result.routes == 6_000
    assert head.floor > 2
    assert head.kept_bytes <= 600_000


async def test_runs_of_one_import_at_once_get_one_answer(tmp_path: Path, server: Server) -> None:
    """The same content under one identity, through several nodes, again and again."""
    draw = random.Random(1)

    async def run(peer: Peer, name: str, after_seconds: float) -> ImportResult:
        await asyncio.sleep(after_seconds)
        return await peer.router.aimport(stream(2, name, 0.002), import_id=name)

    async with peers(tmp_path, server.url, 3) as found:
        for number in range(20):
            name = f"same-{number}"
            async with asyncio.timeout(20):
                results = await asyncio.gather(
                    *(run(peer, name, draw.uniform(0, 0.03)) for peer in found.all for _ in "ab")
                )
            assert 1 == len({(each.version, each.routes) for each in results})
            assert set() == await open_ids(*found.all)
