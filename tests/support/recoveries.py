"""What the tests of recovery share: writes that must last, a server that can be exchanged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fault_proxy import FaultProxy
from followers import Peer, Peers, peers, route, until
from servers import Server
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.router import Guard

QUORUM = Guard(ack="quorum", ack_timeout_seconds=10)
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
    """Stop all routers but the first, empty their server, and give the one that is left."""
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
    """Put a route as soon as writes are taken; give the seconds that took."""
    began = time.monotonic()
    while True:
        try:
            await peer.router.aput_route(route(name), QUORUM)
            return time.monotonic() - began
        except SynaptoRouteError:
            assert time.monotonic() - began < WRITE_SECONDS_MAX, peer.follower.status()
            await asyncio.sleep(0.05)


async def assert_held(found: Peers, names: Iterable[str], *chosen: Peer) -> None:
    """Every router is open, holds these routes, and is one with the others."""
    routers = chosen or tuple(found.all)
    await until(lambda: all(peer.follower.log_state == "open" for peer in routers))
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
    """Routers that reach their server through a proxy that can lead elsewhere."""
    async with (
        FaultProxy(server.port) as way,
        peers(folder, way.url, count, door=door, **settings) as found,
    ):
        yield found, way


def lead_to(way: FaultProxy, server: Server) -> None:
    """Send everybody to another server, as an address that fails over does."""
    way.target_port = server.port
    way.reset()
