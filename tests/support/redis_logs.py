"""A founded log on a real server, with proposals and reports for it."""

from __future__ import annotations

import asyncio
import hashlib
import random
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from servers import Server
from synaptoroute.core.mutation import Position, Proposal, PutRoute
from synaptoroute.sequencer.epochs import FoundingOutcome
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.node_rows import NodeReport
from synaptoroute.sequencer.pubsub import Bus, BusEvent

FINGERPRINT = "f" * 64
DIM = 4
WAIT_SECONDS = 15.0


def vector(seed: int, dim: int = DIM) -> bytes:
    """A unit vector."""
    draw = random.Random(seed)
    values = [draw.gauss(0, 1) for _ in range(dim)]
    norm = sum(value * value for value in values) ** 0.5
    return struct.pack(f"<{dim}f", *(value / norm for value in values))


def put(name: str, *, utterances: int = 1, dim: int = DIM, text: str = "") -> Proposal:
    """A proposal to put a route; its op_id follows from its name."""
    texts = tuple(f"{text or name} {number}" for number in range(utterances))
    vectors = tuple(vector(number, dim) for number in range(utterances))
    op_id = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return Proposal(op_id, PutRoute(name, texts, vectors))


class Author:
    """The position of a writer: what it has read from its log."""

    def __init__(self, log: RedisLog) -> None:
        self.log = log
        self.at = Position()
        log.attach(position=lambda: self.at, fingerprint=lambda: FINGERPRINT)

    async def join(self) -> Position:
        """Take the head as applied."""
        head = await self.log.scripts.head()
        self.at = getattr(head, "position", Position())
        return self.at


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[RedisLog]:
    """A log with a writer that has joined, closed at the end; founded where it is new."""
    voters = options.pop("voters", ("a", "b", "c"))
    # A thread may read the key file; the loop may not.
    log = await asyncio.to_thread(lambda: RedisLog(url, **options))
    try:
        founding = await log.epochs.found(fingerprint=FINGERPRINT, dim=DIM, voters=voters)
        assert founding.outcome in (FoundingOutcome.FOUNDED, FoundingOutcome.EXISTS)
        await Author(log).join()
        yield log
    finally:
        await log.close()


async def join(log: RedisLog) -> Position:
    """Attach a writer that has applied the head."""
    return await Author(log).join()


def report(node_id: str, at: Position, **changes: Any) -> NodeReport:
    """Return the report of a node at a position."""
    said: dict[str, Any] = {
        "node_id": node_id,
        "url": f"http://{node_id}",
        "role": "voter",
        "version": "1.0.0",
        "level": 1,
        "fingerprint": FINGERPRINT,
        "epoch": at.epoch,
        "seq": at.seq,
        "chain": at.chain,
        "digest": "0" * 32,
        "state": "live",
    }
    return NodeReport(**(said | changes))


async def restart(server: Server) -> None:
    """Kill a server and start it again on the same data, while the loop sees it go."""
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def until(bus: Bus, wanted: Callable[[BusEvent], bool]) -> list[BusEvent]:
    """Take events until one is wanted; return all that were taken, it last."""
    taken: list[BusEvent] = []
    async with asyncio.timeout(WAIT_SECONDS):
        async for event in bus.events():
            taken.append(event)
            if wanted(event):
                return taken
    raise AssertionError(f"the bus ended after {taken}")
