"""Several routers of one cluster in this process, with access to their internals.

Each can have an HTTP door of its own, so that it can help its peers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from os import urandom
from pathlib import Path
from typing import Any

from checkers import differences, dump_of
from fault_proxy import FaultProxy
from redis_logs import WAIT_SECONDS
from servers import Server
from synaptoroute.cascade import StaticTable
from synaptoroute.cascade.table_store import TableStore
from synaptoroute.cluster import RedisLog
from synaptoroute.config import NodeConfig
from synaptoroute.core.change import Outcome
from synaptoroute.core.mutation import Mutation, Position, Proposal, PutRoute
from synaptoroute.encoder import HashEncoder, TextEncoder
from synaptoroute.engine import Engine
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.models import Route
from synaptoroute.replication.follower import Follower
from synaptoroute.router import AdaptiveRouter, WriteOptions
from synaptoroute.sequencer.epochs import Trimmed, TrimOutcome
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.lease import Held
from synaptoroute.server import create_app
from synaptoroute.storage import SQLiteStorage
from synaptoroute.web.http_server import HttpServer

DIM = 64
JUDGE_SECONDS = 30.0
VISIBLE_SECONDS = 0.5


class MuteKeys(Keys):
    """Names of a log without a bus: a message of an entry appended with them is lost."""

    @property
    def bus(self) -> str:
        return f"{self.prefix}nowhere"


@dataclass
class Peer:
    """One router of a cluster and its parts."""

    router: AdaptiveRouter
    path: Path
    url: str = ""

    @property
    def follower(self) -> Follower:
        """The follower of the router."""
        assert self.router.follower is not None
        return self.router.follower

    @property
    def engine(self) -> Engine:
        """The engine of the router."""
        engine = self.follower.session.engine
        assert isinstance(engine, Engine)
        return engine

    @property
    def position(self) -> Position:
        """The visible position."""
        return self.follower.session.position


@dataclass
class Peers:
    """The routers of one cluster."""

    folder: Path
    url: str
    settings: dict[str, Any]
    stack: AsyncExitStack
    all: list[Peer] = field(default_factory=list)

    def __getitem__(self, index: int) -> Peer:
        return self.all[index]

    async def add(self, name: str = "", *, door: bool = False, **changes: Any) -> Peer:
        """Start another router; with an HTTP server it can serve its peers."""
        path = self.folder / f"{name or len(self.all)}.sqlite"
        peer = await self.stack.enter_async_context(
            joined(path, self.url, door=door, **{**self.settings, **changes})
        )
        self.all.append(peer)
        return peer

    async def settle(self, *peers: Peer) -> Position:
        """Wait until the routers have the same position."""
        chosen = peers or tuple(self.all)
        await until(lambda: len({peer.position for peer in chosen}) == 1)
        return chosen[0].position

    async def judge(self, *peers: Peer) -> None:
        """Assert that all routers are equal, in memory and on disk."""
        chosen = peers or tuple(self.all)
        give_up_at = time.monotonic() + JUDGE_SECONDS
        while True:
            before = await self.settle(*chosen)
            views = {
                peer.path.name: {
                    **await peer.router.achecksum(),
                    **await asyncio.to_thread(dump_of, peer.path),
                }
                for peer in chosen
            }
            found = differences(views)
            if not found:
                return
            # A node may write an entry by itself while the databases are read, such as a fit; it
            # is on disk before its position is visible.
            await asyncio.sleep(VISIBLE_SECONDS)
            if {peer.position for peer in chosen} == {before}:
                break
            assert time.monotonic() < give_up_at, found
        assert [] == found


@asynccontextmanager
async def joined(
    path: Path,
    url: str,
    *,
    door: bool = False,
    expect: int = 1,
    dim: int = DIM,
    spare_dim: int = 0,
    encoder: TextEncoder | None = None,
    cascade: TableStore | Sequence[StaticTable] = (),
    **settings: Any,
) -> AsyncIterator[Peer]:
    """A router that follows a log, stopped at the end; its encoders are named by dimension."""
    listener = socket.create_server(("127.0.0.1", 0)) if door else None
    own_url = f"http://127.0.0.1:{listener.getsockname()[1]}" if listener else ""
    config = NodeConfig(
        lanes=1, bootstrap_expect=expect, advertise_url=own_url, database=path, **settings
    )
    log = await asyncio.to_thread(lambda: RedisLog(url, signing_keys_file=config.signing_keys_file))
    router = AdaptiveRouter(
        encoder or HashEncoder(dim),
        SQLiteStorage(path, synchronous="normal", on_corrupt="move_aside"),
        log=log,
        config=config,
        cluster=config,
        spare=HashEncoder(spare_dim) if spare_dim else None,
        cascade=cascade,
    )
    await router.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(router.stop)
        if listener is not None:
            await stack.enter_async_context(_served(router, config, listener))
        yield Peer(router, path, own_url)


@asynccontextmanager
async def _served(
    router: AdaptiveRouter, config: NodeConfig, listener: socket.socket
) -> AsyncIterator[None]:
    """Serve a router that has started."""
    app = create_app(router, config)
    app.state.runtime._router = app.state.runtime._serving = router
    server = HttpServer(app)
    await server.listen(sockets=[listener])
    try:
        yield
    finally:
        await server.close(seconds=5)


@asynccontextmanager
async def peers(
    folder: Path, url: str, count: int = 2, *, door: bool = False, **settings: Any
) -> AsyncIterator[Peers]:
    """Some routers that founded a log together."""
    async with AsyncExitStack() as stack:
        found = Peers(folder, url, settings, stack)
        for _ in range(count):
            await found.add(expect=count, door=door)
        for peer in found.all:
            await peer.router.wait_ready(WAIT_SECONDS)
        await until(lambda: all(peer.follower.session.log_state == "open" for peer in found.all))
        yield found


@asynccontextmanager
async def mute_log(url: str, fingerprint: str) -> AsyncIterator[RedisLog]:
    """A log whose writes are never published."""
    log = RedisLog(url)
    log.scripts.keys = MuteKeys("default")
    head: Any = await log.head()
    at = head.position
    log.attach(position=lambda: at, fingerprint=lambda: fingerprint, level=lambda: head.level)
    try:
        yield log
    finally:
        await log.close()


def put(name: str, *texts: str) -> Proposal:
    """A proposal to put a route with real vectors."""
    encoder = HashEncoder(DIM)
    rows = encoder.encode_utterances(list(texts) or [name])
    vectors = tuple(row.tobytes() for row in rows)
    return Proposal(urandom(16), PutRoute(name, tuple(texts) or (name,), vectors))


async def write(peer: Peer, mutation: Mutation, route_set: str = "") -> Outcome:
    """Append a mutation through one router; return its outcome there."""
    engine = peer.engine
    proposal = Proposal(urandom(16), mutation, route_set=route_set)
    outcome = engine.expect_outcome(proposal.op_id)
    await peer.follower.session.log.append([proposal], engine.encoder.fingerprint)
    return await asyncio.wrap_future(outcome)


def route(name: str, *texts: str) -> Route:
    """A route; its name is its only utterance if none is given."""
    return Route(name=name, utterances=list(texts) or [name])


async def until(fact: Any, seconds: float = WAIT_SECONDS) -> None:
    """Wait until a function returns true."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not fact():
                await asyncio.sleep(0.005)
            return
    assert fact(), "it did not come true in time"


QUORUM = WriteOptions(ack="quorum", ack_timeout_seconds=10)
WRITE_SECONDS_MAX = 30.0
META = "sr:{default}:meta"


def numbered(prefix: str, count: int = 10) -> list[str]:
    """Names for routes: the prefix with 0, 1, 2 behind it."""
    return [f"{prefix}{number}" for number in range(count)]


@asynccontextmanager
async def voters_with_routes(
    folder: Path, server: Server, prefix: str = "r", *, routes_count: int = 10, **settings: Any
) -> AsyncIterator[tuple[Peers, list[str]]]:
    """Three routers that vote, and the names of the routes that a majority of them holds."""
    async with peers(folder, server.url, 3, **settings) as found:
        yield found, await write_quorum(found[0], numbered(prefix, routes_count))


async def leave_one(found: Peers, server: Server) -> Peer:
    """Stop all routers but the first, empty their server, and return the first."""
    lone, *gone = found.all
    for peer in gone:
        await peer.router.stop()
    await asyncio.to_thread(server.call, "FLUSHALL")
    return lone


async def write_quorum(peer: Peer, names: Iterable[str]) -> list[str]:
    """Put routes, each acknowledged by a majority of the voters."""
    written = []
    for name in names:
        result = await peer.router.aput_route(route(name), QUORUM)
        assert ("applied", "quorum") == (result.status, result.ack)
        written.append(name)
    return written


async def write_again(peer: Peer, name: str = "again") -> float:
    """Put a route as soon as writes are accepted; return the seconds that it took."""
    began = time.monotonic()
    while True:
        try:
            await peer.router.aput_route(route(name), QUORUM)
            return time.monotonic() - began
        except SynaptoRouteError:
            assert time.monotonic() - began < WRITE_SECONDS_MAX, peer.follower.status()
            await asyncio.sleep(0.05)


async def assert_held(found: Peers, names: Iterable[str], *chosen: Peer) -> None:
    """Assert that every router is open, holds these routes, and equals the others."""
    routers = chosen or tuple(found.all)
    await until(lambda: all(peer.follower.session.log_state == "open" for peer in routers))
    await found.judge(*routers)
    for peer in routers:
        held = {each.name for each in await stored(peer)}
        assert set() == set(names) - held


async def stored(peer: Peer) -> list[object]:
    """Its routes."""
    return list((await peer.router.alist_routes(limit=1_000)).routes)


@asynccontextmanager
async def exchangeable(
    folder: Path, server: Server, count: int = 3, *, door: bool = False, **settings: object
) -> AsyncIterator[tuple[Peers, FaultProxy]]:
    """Routers that reach their server through a proxy, which can be redirected."""
    async with (
        FaultProxy(server.port) as way,
        peers(folder, way.url, count, door=door, **settings) as found,
    ):
        yield found, way


def lead_to(way: FaultProxy, server: Server) -> None:
    """Route all connections to another server, like a failover."""
    way.target_port = server.port
    way.reset()


def forget_op_log(path: Path) -> None:
    """Trim the log to its newest entry."""
    with closing(sqlite3.connect(path, timeout=10)) as raw, raw:
        raw.execute("DELETE FROM oplog WHERE seq < (SELECT max(seq) FROM oplog)")


async def trim_all(found: Peers) -> None:
    """Drop the whole log, and what the op logs of the donors hold of it."""
    log = found[0].follower.session.log
    lease = log.lease("trim", "test")
    held = await lease.acquire()
    assert isinstance(held, Held)
    at = await found.settle()
    async with asyncio.timeout(WAIT_SECONDS):
        while True:  # until the voters have said what they hold
            trimmed = await log.epochs.trim(held, at.epoch, at.seq)
            if isinstance(trimmed, Trimmed) and trimmed.outcome is TrimOutcome.TRIMMED:
                break
            await asyncio.sleep(0.02)
    await lease.release(held)
    for peer in found.all:
        await asyncio.to_thread(forget_op_log, peer.path)


async def filled(found: Peers) -> None:
    """Enough routes for a snapshot of many pages."""
    for each in range(20):
        texts = [f"route {each} text {count}" for count in range(10)]
        await found[0].router.aput_route(route(f"r{each}", *texts))
    await found.settle()
