"""One side of ``compare.py``: a source tree that is measured, in a process of its own.

Runs with the packages of either tree on its path and uses only what both have: the library's
public names and the HTTP API.  Reads one JSON order a line, prints one JSON answer a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvloop

from synaptoroute.encoder import Encoder, open_encoder
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

CLIENTS = 64
DIM = 384
OVERLOAD = 4.0
DEADLINE_MS = 500
TICK_SECONDS = 0.002
START_SECONDS_MAX = 60.0
LENGTH = re.compile(rb"content-length: *(\d+)\r", re.IGNORECASE)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies."""
    return float(np.quantile(np.asarray(values), share))


async def each(routes: dict[str, list[str]]) -> AsyncIterator[Route]:
    """Routes as an import takes them."""
    for name, utterances in routes.items():
        yield Route(name=name, utterances=utterances)


class InProcess:
    """A router in this process with the bundled encoder."""

    def __init__(self, routes: dict[str, list[str]], texts: list[str]) -> None:
        self._routes, self._texts = routes, texts

    async def open(self) -> None:
        """Load the routes."""
        self._router = AdaptiveRouter(Encoder())
        await self._router.start()
        await self._router.aimport(each(self._routes))

    async def closed(self, clients: int, seconds: float) -> list[float]:
        """Milliseconds of each query of clients that wait for their answers."""
        took: list[float] = []
        stop = time.perf_counter() + seconds

        async def client(index: int) -> None:
            while (began := time.perf_counter()) < stop:
                await self._router.aquery(self._texts[index % len(self._texts)], use_cache=False)
                took.append((time.perf_counter() - began) * 1_000)
                index += clients

        await asyncio.gather(*map(client, range(clients)))
        return took

    async def goodput(self, seconds: float) -> float:
        """Share of the capacity that is answered in time at four times the capacity."""
        capacity = len(await self.closed(CLIENTS, seconds)) / seconds
        good, tasks = 0, set[asyncio.Task[None]]()
        began = time.perf_counter()

        async def one(text: str, due: float) -> None:
            nonlocal good
            try:
                await self._router.aquery(text, use_cache=False, deadline_ms=DEADLINE_MS)
            except Exception as error:  # refused or too late
                if getattr(error, "code", "") not in ("overloaded", "deadline_exceeded"):
                    raise
            else:
                now = time.perf_counter()
                good += (now - due) * 1_000 <= DEADLINE_MS and now - began >= seconds / 2

        due, texts = began, cycle(self._texts)
        while due < began + seconds * 1.5:
            while due <= time.perf_counter():
                tasks.add(asyncio.create_task(one(next(texts), due)))
                due += 1 / (capacity * OVERLOAD)
            await asyncio.sleep(TICK_SECONDS)
        counted_seconds = time.perf_counter() - began - seconds / 2
        await asyncio.gather(*tasks)
        return good / counted_seconds / capacity


class Connection(asyncio.Protocol):
    """A keep-alive connection with one query on its way."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Collect an answer; it is whole when its body is."""
        self._received += data
        stop = self._received.find(b"\r\n\r\n")
        length = LENGTH.search(self._received, 0, stop + 2) if stop >= 0 else None
        if length and self._answer and len(self._received) >= stop + 4 + int(length[1]):
            received, self._received = self._received, b""
            self._answer.set_result(received)

    async def ask(self, request: bytes) -> bytes:
        """Send a request and wait for its answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer


def start_node(folder: Path, **settings: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a node process; give it with its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = {
        "host": "127.0.0.1",
        "port": "0",
        "database": str(folder / "node.sqlite"),
        "log_format": "json",
        **settings,
    }
    environment = os.environ | {f"SYNAPTOROUTE_{k.upper()}": v for k, v in variables.items()}
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "synaptoroute.server"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
        )
    stop = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < stop and process.poll() is None:
        found = re.search(rb'"url": "(http://127[^"]+)"', log.read_bytes())
        try:
            if found and httpx.get(found[1].decode() + "/readyz").status_code == 200:
                return process, found[1].decode()
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    process.kill()
    raise RuntimeError(f"the node did not become ready: {log.read_text(errors='replace')[-2000:]}")


class Side:
    """Everything that is measured of one tree; made once, asked in rounds."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=order["folder"]))
        self._routes, self._texts = order["routes"], order["texts"]
        self._redis_url, self._namespace = order["redis_url"], order["namespace"]
        self._big = Path(order["big_database"])
        self._here = InProcess(self._routes, self._texts)
        self._nodes: list[tuple[subprocess.Popen[bytes], str]] = []
        self._number = 0

    async def open(self) -> None:
        """Load routes, start a node for HTTP and three nodes of a cluster."""
        await self._here.open()
        self._nodes.append(start_node(self._folder / "http"))
        routes = [{"name": n, "utterances": u} for n, u in self._routes.items()]
        lines = "\n".join(map(json.dumps, routes))
        headers = {"content-type": "application/x-ndjson"}
        url = self._nodes[0][1] + "/v1/import"
        httpx.post(url, content=lines, headers=headers, timeout=60).raise_for_status()
        for number in range(3):
            self._nodes.append(
                start_node(
                    self._folder / f"n{number}",
                    model=f"test-hash-{DIM}",
                    redis_url=self._redis_url,
                    namespace=self._namespace,
                    lanes="1",
                )
            )
        self._adding = AdaptiveRouter(open_encoder(f"test-hash-{DIM}"))
        await self._adding.start()

    async def one_client(self, seconds: float) -> dict[str, float]:
        """Latency of one client in process."""
        took = await self._here.closed(1, seconds)
        return {"p50_ms": percentile(took, 0.5), "p99_ms": percentile(took, 0.99)}

    async def many_clients(self, seconds: float) -> dict[str, float]:
        """Throughput of 64 clients in process."""
        return {"queries_per_second": len(await self._here.closed(CLIENTS, seconds)) / seconds}

    async def overload(self, seconds: float) -> dict[str, float]:
        """Goodput at four times the capacity."""
        return {"goodput_share": await self._here.goodput(seconds)}

    async def http(self, seconds: float) -> dict[str, float]:
        """Throughput of 64 connections, and latency of one, uncached."""
        host, port = self._nodes[0][1].removeprefix("http://").split(":")
        loop = asyncio.get_running_loop()
        bodies = [json.dumps({"text": text}).encode() for text in self._texts]
        head = (
            b"POST /v1/query HTTP/1.1\r\nhost: node\r\ncontent-type: application/json\r\n"
            b"cache-control: no-cache\r\ncontent-length: %d\r\n\r\n"
        )
        requests = [head % len(body) + body for body in bodies]

        async def closed(count: int) -> list[float]:
            took: list[float] = []
            stop = time.perf_counter() + seconds

            async def client(index: int) -> None:
                transport, connection = await loop.create_connection(Connection, host, int(port))
                while (began := time.perf_counter()) < stop:
                    answer = await connection.ask(requests[index % len(requests)])
                    assert answer.startswith(b"HTTP/1.1 200"), answer
                    took.append((time.perf_counter() - began) * 1_000)
                    index += count
                transport.close()

            await asyncio.gather(*map(client, range(count)))
            return took

        many, one = await closed(CLIENTS), await closed(1)
        return {"queries_per_second": len(many) / seconds, "p50_ms": percentile(one, 0.5)}

    async def propagation(self, seconds: float) -> dict[str, float]:
        """From a PUT to the moment at which both other nodes answer at its version."""
        urls = [url for _, url in self._nodes[1:]]
        took, stop = [], time.perf_counter() + seconds
        async with httpx.AsyncClient(timeout=20) as client:
            while time.perf_counter() < stop:
                self._number += 1
                name = f"r{self._number % 100}"
                began = time.perf_counter()
                body = {"utterances": [f"{name} {self._number}", f"{name} again"]}
                put = await client.put(f"{urls[0]}/v1/routes/{name}", json=body)
                version = {"SR-Min-Version": put.raise_for_status().headers["SR-Version"]}
                ask = {"text": name}
                for answer in await asyncio.gather(
                    *(client.post(f"{u}/v1/query", json=ask, headers=version) for u in urls[1:])
                ):
                    answer.raise_for_status()
                took.append((time.perf_counter() - began) * 1_000)
        return {"p50_ms": percentile(took, 0.5), "p99_ms": percentile(took, 0.99)}

    async def boot(self, _seconds: float) -> dict[str, float]:
        """From a database of many utterances to a started router; the best of three."""
        return {"seconds": min([await self._boot_once() for _ in range(3)])}

    async def _boot_once(self) -> float:
        copy = self._folder / "boot.sqlite"
        for path in self._big.parent.glob(f"{self._big.name}*"):
            (self._folder / path.name.replace(self._big.name, copy.name)).write_bytes(
                path.read_bytes()
            )
        encoder = open_encoder(f"test-hash-{DIM}")
        began = time.perf_counter()
        router = AdaptiveRouter(encoder, SQLiteStorage(str(copy)))
        await router.start()
        took = time.perf_counter() - began
        await router.stop()
        return took

    async def hot_add(self, seconds: float) -> dict[str, float]:
        """From a call with vectors to the answer that it is visible."""
        took, stop = [], time.perf_counter() + seconds
        random = np.random.default_rng(self._number)
        while time.perf_counter() < stop:
            self._number += 1
            rows = random.standard_normal((10, DIM), dtype=np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            name = f"hot{self._number % 500}"
            texts = [f"{name} {self._number} {index}" for index in range(10)]
            route = Route(name=name, utterances=texts, vectors=rows.tolist())
            began = time.perf_counter()
            await self._adding.aput_route(route)
            took.append((time.perf_counter() - began) * 1_000)
        return {"p50_ms": percentile(took, 0.5)}

    def close(self) -> None:
        """End the node processes."""
        for process, _ in self._nodes:
            process.send_signal(signal.SIGKILL)
            process.wait()


async def main() -> None:
    """Execute commands until the input ends."""
    loop = asyncio.get_running_loop()
    side: Side | None = None
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = json.loads(line)
            if side is None:
                side = Side(order)
                await side.open()
                found: dict[str, float] = {}
            else:
                measure: Callable[[float], Awaitable[dict[str, float]]]
                measure = getattr(side, order["measure"])
                found = await measure(order["seconds"])
            print(json.dumps(found), flush=True)
    finally:
        if side is not None:
            side.close()


def make_big_database(path: str, routes: int, utterances: int) -> None:
    """Write the database that boots are measured with."""

    async def write() -> None:
        router = AdaptiveRouter(open_encoder(f"test-hash-{DIM}"), SQLiteStorage(path))
        await router.start()
        texts = (f"text {number}" for number in range(routes * utterances))
        named = {f"r{number}": list(islice(texts, utterances)) for number in range(routes)}
        await router.aimport(each(named))
        await router.stop()

    asyncio.run(write())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        make_big_database(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        uvloop.run(main())
