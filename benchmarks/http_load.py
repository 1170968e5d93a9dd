"""A client that sends queries over HTTP at their own times, in a process of its own.

It reads its orders as one line of JSON and prints what came of them: its own CPU time is
then known, and is not the node's.  Time runs from when a query was due.  Connections are
opened beforehand; each has one query on its way at a time.

    python benchmarks/http_load.py < orders.json
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Final, cast

import uvloop

from harness import quantiles, rounded

TICK_SECONDS: Final = 0.002
WARM_UP_SECONDS: Final = 1.0
CONNECTIONS: Final = 900
SEED: Final = 0


@dataclass(frozen=True)
class Orders:
    """What to send.

    Attributes:
        port: Of the node, on the loopback.
        texts: What is asked, in turn.
        rate: Queries a second.
        seconds: How long.
        deadline_ms: Sent along; answers after it are late.
        key: API key of the client; empty for none.
        connections: How many it has, each with one query on its way at a time.
        path: Where queries go.
        batch: Texts of one request; above 1 they go to ``path`` as a batch.
    """

    port: int
    texts: list[str]
    rate: float
    seconds: float
    deadline_ms: int
    key: str = ""
    connections: int = CONNECTIONS
    path: str = "/v1/query"
    batch: int = 1

    def requests(self) -> list[bytes]:
        """All queries as bytes, made beforehand."""
        bodies = [json.dumps(document).encode() for document in self.documents()]
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: node\r\ncontent-type: application/json\r\n"
            f"cache-control: no-cache\r\nsr-deadline-ms: {self.deadline_ms}\r\n"
            + (f"authorization: Bearer {self.key}\r\n" if self.key else "")
        ).encode()
        return [head + b"content-length: %d\r\n\r\n" % len(body) + body for body in bodies]

    def documents(self) -> list[dict[str, Any]]:
        """The bodies of all requests."""
        if self.batch == 1:
            return [{"text": text} for text in self.texts]
        starts = range(0, len(self.texts), self.batch)
        return [{"texts": self.texts[start : start + self.batch]} for start in starts]


class Load:
    """The connections, and what came of the queries while the load was even."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.free: list[Line] = []
        self.begin = self.end = 0.0
        self.offered = self.late = self.unsent = 0
        self.good_ms: list[float] = []
        self.refused_ms: list[float] = []

    def start(self) -> float:
        """Count from soon on; give the time at which the first query is due."""
        began = time.perf_counter()
        self.begin = began + min(WARM_UP_SECONDS, self.orders.seconds / 2)
        self.end = began + self.orders.seconds
        return began

    def came(self, status: bytes, due: float) -> None:
        """Count an answer."""
        now = time.perf_counter()
        took_ms = (now - due) * 1_000
        if not self.begin <= now < self.end:
            return
        if status == b"429":
            self.refused_ms.append(took_ms)
        elif status == b"200" and took_ms <= self.orders.deadline_ms:
            self.good_ms.append(took_ms)
        else:
            self.late += 1

    def report(self, cpu_seconds: float) -> dict[str, Any]:
        """Return all figures."""
        seconds = self.end - self.begin
        return {
            "offered_per_second": rounded(self.offered / seconds),
            "goodput_per_second": rounded(len(self.good_ms) / seconds),
            "refused_share": rounded(len(self.refused_ms) / self.offered),
            "late_share": rounded((self.late + self.unsent) / self.offered),
            "good_ms": quantiles(self.good_ms or [float("nan")]),
            "refused_after_ms": quantiles(self.refused_ms) if self.refused_ms else None,
            "client_us_a_query": rounded(cpu_seconds / (self.offered or 1) * 1e6),
        }


class Line(asyncio.Protocol):
    """One connection; an answer of a query arrives in one piece."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be free."""
        self.transport = cast(asyncio.Transport, transport)
        self._load.free.append(self)

    def ask(self, request: bytes, due: float) -> None:
        """Send one query."""
        self._due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Count the answer, and be free again."""
        self._load.came(data[9:12], self._due)
        self._load.free.append(self)


async def run(orders: Orders) -> dict[str, Any]:
    """Send all queries."""
    load = Load(orders)
    loop = asyncio.get_running_loop()
    for _ in range(orders.connections):
        await loop.create_connection(lambda: Line(load), "127.0.0.1", orders.port)
    requests = cycle(orders.requests())
    gaps = random.Random(SEED)
    due = load.start()
    cpu_began = 0.0
    while due < load.end:
        now = time.perf_counter()
        if not cpu_began and now >= load.begin:
            cpu_began = time.process_time()
        while due <= now and due < load.end:
            is_counted = due >= load.begin
            load.offered += is_counted
            request = next(requests)
            if load.free:
                load.free.pop().ask(request, due)
            else:
                load.unsent += is_counted
            due += gaps.expovariate(orders.rate)
        await asyncio.sleep(max(due - time.perf_counter(), TICK_SECONDS))
    cpu_seconds = time.process_time() - cpu_began
    await asyncio.sleep(orders.deadline_ms / 1_000)
    return load.report(cpu_seconds)


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(Orders(**json.loads(sys.stdin.readline()))))))
