"""Goal: a peer that dies or lies, or that has diverged, costs time and nothing else.

Method: an honest donor beside ones that break off, flip a byte, or hold another history.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from followers import (
    Peer,
    Peers,
    filled,
    mute_log,
    peers,
    put,
    trim_all,
    until,
)
from redis_logs import report
from servers import Server
from synaptoroute.core.codec import decode_proposal, encode_proposal
from synaptoroute.core.mutation import Position, Proposal
from synaptoroute.core.replica import Source, make_entry
from synaptoroute.ports import IncomingEntry
from synaptoroute.sequencer.peers import POSITION_HEADER, SHA_HEADER, SNAPSHOT_PATH, format_position

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def fake_donor(found: Peers, node_id: str, answer: Answer) -> AsyncIterator[list[str]]:
    """Run a fake node; yields the paths that were requested."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        asked.append(path)
        if path.startswith(SNAPSHOT_PATH):
            await answer(writer)
        else:
            writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = found[0].engine
    said = report(
        node_id,
        found[0].position,
        url=f"http://127.0.0.1:{port}",
        fingerprint=engine.encoder.fingerprint,
        role="observer",
    )
    await found[0].follower.session.log.presence.heartbeat(said)
    try:
        yield asked
    finally:
        server.close()
        await server.wait_closed()


def sends(body: bytes, at: Position, sha: str, *, share: float = 1.0) -> Answer:
    """Send a snapshot, or a part of it."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
            f"{POSITION_HEADER}: {format_position(at)}\r\n{SHA_HEADER}: {sha}\r\n\r\n".encode()
        )
        writer.write(body[: int(len(body) * share)])
        await writer.drain()

    return answer


async def snapshot_of(peer: Peer) -> tuple[bytes, Position, str]:
    """A valid snapshot."""
    async with peer.follower.snapshots.snapshot() as download:
        body = await asyncio.to_thread(download.path.read_bytes)
        return body, download.position, download.sha256


async def join_beside(found: Peers, asked: list[str]) -> Peer:
    """Let a fresh router join, again and again until the fake donor was asked, too."""
    for attempt in range(8):
        fresh = await found.add(f"fresh{attempt}", expect=2)
        await fresh.router.wait_ready(30)
        if any(path.startswith(SNAPSHOT_PATH) for path in asked):
            break
    assert fresh.follower.session.counts.snapshots == 1
    return fresh


async def test_donor_that_dies_in_the_middle_is_replaced(
    tmp_path: Path, valkey_server: Server
) -> None:
    """An incomplete snapshot is deleted, and another donor is asked."""
    async with peers(tmp_path, valkey_server.url, 2, door=True) as found:
        await filled(found)
        await trim_all(found)
        body, at, sha = await snapshot_of(found[0])
        async with fake_donor(found, "dying", sends(body, at, sha, share=0.5)) as asked:
            await join_beside(found, asked)

            assert asked
            await found.judge()
    assert [] == list(tmp_path.glob(".install-*"))


async def test_snapshot_with_a_flipped_byte_is_rejected(
    tmp_path: Path, valkey_server: Server
) -> None:
    """A file with its own true SHA-256, and one byte of a vector changed, is refused."""
    async with peers(tmp_path, valkey_server.url, 2, door=True) as found:
        await filled(found)
        await trim_all(found)
        body, at, _ = await snapshot_of(found[0])
        path = tmp_path / "flipped"
        await asyncio.to_thread(_flip_a_vector, path, body)
        flipped = await asyncio.to_thread(path.read_bytes)
        sha = hashlib.sha256(flipped).hexdigest()
        async with fake_donor(found, "flipping", sends(flipped, at, sha)) as asked:
            await join_beside(found, asked)

            assert asked
            await found.judge()


def _flip_a_vector(path: Path, body: bytes) -> None:
    path.write_bytes(body)
    with closing(sqlite3.connect(path)) as raw, raw:
        vector = bytearray(raw.execute("SELECT vector FROM slot WHERE slot = 3").fetchone()[0])
        vector[5] ^= 1
        raw.execute("UPDATE slot SET vector = ? WHERE slot = 3", (bytes(vector),))


async def test_snapshot_of_another_history_is_refused(
    tmp_path: Path, valkey_server: Server
) -> None:
    """A valid file is refused if the log does not confirm its chain."""
    async with peers(tmp_path, valkey_server.url, 2, door=True) as found:
        await filled(found)
        await trim_all(found)
        body, at, sha = await snapshot_of(found[0])
        lost = Position(at.epoch, at.seq, "f" * 40)
        async with fake_donor(found, "lost", sends(body, lost, sha)) as asked:
            await join_beside(found, asked)

            assert asked
            await found.judge()


async def test_history_that_the_log_contradicts_is_left_and_its_entries_become_orphans(
    tmp_path: Path, valkey_server: Server
) -> None:
    """A node whose last entries are not in the log installs a snapshot and keeps orphans."""
    async with peers(tmp_path, valkey_server.url, 2, door=True) as found:
        await filled(found)
        lone = found[1]
        await until(lambda: lone.follower.session.log_state == "open")
        at = await found.settle()
        entry = _entry_after(at, put("orphaned"))
        lone.engine.deliver([entry])
        await until(lambda: lone.position.seq == at.seq + 1)
        async with mute_log(valkey_server.url, lone.engine.encoder.fingerprint) as log:
            await log.append([put("true"), put("truer")])
        await until(lambda: lone.follower.session.counts.snapshots == 1)
        await found.judge()

        assert lone.follower.session.counts.forks >= 1
        assert ["orphaned"] == await asyncio.to_thread(_orphans, lone.path)
        await until(lambda: lone.router.status().is_ready)


def _entry_after(at: Position, proposal: Proposal) -> IncomingEntry:
    return IncomingEntry(make_entry(at, encode_proposal(proposal), proposal, 1), Source.LOG, 0)


def _orphans(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as raw:
        frames = [frame for (frame,) in raw.execute("SELECT frame FROM orphan ORDER BY seq")]
    return [getattr(decode_proposal(frame).mutation, "name", "") for frame in frames]


async def test_requests_that_break_off_do_not_use_up_a_donor(
    tmp_path: Path, valkey_server: Server
) -> None:
    """A donor serves two peers at a time; a peer that hangs up frees its place."""
    async with peers(tmp_path, valkey_server.url, 1, door=True) as found:
        await filled(found)
        donor = found[0]
        port = int(donor.url.rpartition(":")[2])
        for _ in range(6):
            proof = donor.follower.membership.proof(SNAPSHOT_PATH)
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"GET {SNAPSHOT_PATH} HTTP/1.1\r\nHost: x\r\nSR-Peer-Proof: {proof}\r\n\r\n"
            writer.write(head.encode())
            await writer.drain()
            writer.transport.abort()
        await trim_all(found)
        fresh = await found.add("fresh")
        await fresh.router.wait_ready(30)

        assert 1 == fresh.follower.session.counts.snapshots
        await found.judge()
    assert [] == list(tmp_path.glob(".give-*"))


async def test_newcomer_asks_busy_donors_less_often(tmp_path: Path, server: Server) -> None:
    """While every donor is busy it reads no log that was trimmed, and joins once one is free."""
    async with peers(tmp_path, server.url, 1, door=True) as found:
        await filled(found)
        await trim_all(found)
        donor = found[0].follower.snapshots
        for _ in range(2):
            await donor._snapshots.acquire()
        newcomer = await found.add("new")
        catch_up = newcomer.follower.catch_up
        await until(lambda: catch_up._busy_seconds >= 2)
        is_waiting = catch_up._waits_for_donors(Position())
        for _ in range(2):
            donor._snapshots.release()
        await newcomer.router.wait_ready(30)

    assert is_waiting
    assert 1 == newcomer.follower.session.counts.snapshots
