"""Measures the cost of HTTP: one node process against the router in process.

The node runs as ``python -m synaptoroute.server`` on the loopback; the client is a few
lines over plain sockets with keep-alive, so that its own work is small beside the
node's.  Node and in-process contender hold the same routes and take turns.

    python benchmarks/bench_http.py --data FOLDER [--quick]
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, cast

from contenders import OURS, OURS_DEFAULTS, SEMANTIC_ROUTER, contenders
from harness import Bench, Options, quantiles, ratio, read_options, rounds, spread
from route_texts import read_corpus

CLIENTS = 64
SEED = 0
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
CACHED_TEXTS = 200
SETTLE_SECONDS_MAX = 300.0
HTTP, HTTP_ALONE = "http", "http, encoder alone"
IN_PROCESS = {OURS: "in_process", OURS_DEFAULTS: "in_process, defaults"}
"""Names of this project's routers in process: the first without the cascade."""
_LENGTH = re.compile(rb"content-length: *(\d+)\r", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """One keep-alive connection that asks queries, one at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Gather an answer; it is whole when its body is."""
        received = self._received = self._received + data
        head_stop = received.find(b"\r\n\r\n")
        if head_stop < 0 or self._answer is None:
            return
        body_start = head_stop + 4
        length = _LENGTH.search(received, 0, body_start)
        if length is None or not received.startswith(b"HTTP/1.1 200"):
            self._answer.set_exception(RuntimeError(received.decode()))
        elif len(received) - body_start >= int(length[1]):
            self._received = b""
            self._answer.set_result(received[body_start:])

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the node closed"))

    async def ask(self, text: str, *, use_cache: bool) -> bytes:
        """Send one query and read its answer."""
        body = json.dumps({"text": text}).encode()
        return await self.post("/v1/query", body, use_cache=use_cache)

    async def post(self, path: str, body: bytes, *, use_cache: bool) -> bytes:
        """Send one request and read its answer."""
        bypass = b"" if use_cache else b"cache-control: no-cache\r\n"
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(
            b"POST %b HTTP/1.1\r\nhost: node\r\ncontent-type: application/json\r\n" % path.encode()
            + bypass
            + b"content-length: %d\r\n\r\n" % len(body)
            + body
        )
        return await self._answer

    def close(self) -> None:
        """Disconnect."""
        self._transport.close()


async def closed_loop(
    port: int, texts: Sequence[str], clients: int, seconds: float, *, use_cache: bool = False
) -> dict[str, float]:
    """Clients that ask, wait, and ask again, each on its own connection."""
    connections = [await Connection.open(port) for _ in range(clients)]
    source = cycle(texts)
    latencies: list[float] = []
    began = time.perf_counter()

    async def client(connection: Connection) -> None:
        while (sent := time.perf_counter()) - began < seconds:
            await connection.ask(next(source), use_cache=use_cache)
            latencies.append((time.perf_counter() - sent) * 1_000)

    await asyncio.gather(*(client(connection) for connection in connections))
    elapsed = time.perf_counter() - began
    for connection in connections:
        connection.close()
    found = quantiles(latencies)
    return {
        "queries_per_second": len(latencies) / elapsed,
        "p50_ms": found["p50"],
        "p99_ms": found["p99"],
    }


@contextmanager
def node(folder: Path) -> Iterator[int]:
    """A node process; gives its port."""
    environment = {
        **os.environ,
        "SYNAPTOROUTE_PORT": "0",
        "SYNAPTOROUTE_DATABASE": str(folder / "node.sqlite"),
        "SYNAPTOROUTE_LOG_FORMAT": "json",
    }
    with (folder / "node.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "synaptoroute.server"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield _wait_ready(process, folder / "node.log")
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait for the port in the log and for readiness."""
    give_up_at = time.monotonic() + START_SECONDS_MAX
    while process.poll() is None and time.monotonic() < give_up_at:
        for line in log.read_text().splitlines():
            if '"listening"' in line:
                port = int(json.loads(line)["url"].rpartition(":")[2])
                if _is_ready(port):
                    return port
        time.sleep(0.05)
    raise RuntimeError(f"the node did not start:\n{log.read_text()[-2_000:]}")


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except OSError:
        return False


def put_routes(port: int, routes: dict[str, list[str]]) -> None:
    """Put the routes one by one."""
    for name, utterances in routes.items():
        request(port, "PUT", f"/v1/routes/{name}", {"utterances": utterances})


def request(port: int, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send one request; give the document of the answer."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def switch_cascade_off(port: int) -> None:
    """Let the encoder answer every query."""
    settings = request(port, "GET", "/v1/settings")
    request(port, "PUT", "/v1/settings", {**settings, "cascade": False})


def settle(port: int) -> str:
    """Fit the route set and wait until the cascade is measured; give its state."""
    with suppress(urllib.error.HTTPError):  # a tiny set is too small to be fitted
        request(port, "POST", "/v1/settings/calibration", {})
    give_up_at = time.monotonic() + SETTLE_SECONDS_MAX
    while time.monotonic() < give_up_at:
        state = str(request(port, "GET", "/v1/settings/cascade")["state"])
        if state != "uncalibrated":
            return state
        time.sleep(0.1)
    raise RuntimeError("the cascade was not measured in time")


def compare(
    sides: dict[str, Any], count: int
) -> tuple[dict[str, Any], dict[str, list[dict[str, float]]]]:
    """Run the sides in rounds; figures by side, and the raw rounds."""
    found = rounds(sides, count)
    shown = {
        name: {
            key: spread([run[key] for run in runs])
            for key in ("queries_per_second", "p50_ms", "p99_ms")
        }
        for name, runs in found.items()
    }
    return shown, found


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    corpus = read_corpus(options.data)
    routes = corpus.draw(10, SEED)
    texts = corpus.queries(4_096, SEED)
    seconds, count = options.pick((2.5, 8), (1.5, 2), (0.2, 1), standard=(2.0, 3))
    figures: dict[str, Any] = {"rounds": count}
    with ExitStack() as stack:
        ports = {}
        for name in (HTTP, HTTP_ALONE):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            ports[name] = port = stack.enter_context(node(Path(folder)))
            put_routes(port, routes)
            if name == HTTP_ALONE:
                switch_cascade_off(port)
            figures.setdefault("cascade", {})[name] = settle(port)
            asyncio.run(closed_loop(port, texts, 8, min(0.5, seconds)))
        names = (OURS_DEFAULTS, OURS, SEMANTIC_ROUTER)
        running = stack.enter_context(contenders(names, options))
        for process in running.values():
            process.do("load", routes=routes)
            process.do("closed", texts=texts, clients=8, seconds=min(0.5, seconds))
        for label, clients in (("one_client", 1), ("many_clients", CLIENTS)):
            sides: dict[str, Any] = {
                name: partial(_over_http, port, texts, clients, seconds)
                for name, port in ports.items()
            }
            for name, process in running.items():
                sides[IN_PROCESS.get(name, name)] = partial(
                    process.do, "closed", texts=texts, clients=clients, seconds=seconds
                )
            figures[label] = _compared(sides, count)
        figures["cached"] = _cached(ports[HTTP], texts[:CACHED_TEXTS], seconds, count)
    return figures


def _over_http(port: int, texts: list[str], clients: int, seconds: float) -> dict[str, float]:
    return asyncio.run(closed_loop(port, texts, clients, seconds))


def _compared(sides: dict[str, Any], count: int) -> dict[str, Any]:
    """Figures of each side, and both nodes' share of them."""
    shown, raw = compare(sides, count)
    for name, runs in raw.items():
        for prefix, own in (("http", HTTP), ("http_alone", HTTP_ALONE)):
            for key, figure in (("throughput", "queries_per_second"), ("p50", "p50_ms")):
                values = [[run[figure] for run in each] for each in (raw[own], runs)]
                shown[name][f"{prefix}_share_of_{key}"] = ratio(*values)
    return shown


def _cached(port: int, texts: list[str], seconds: float, count: int) -> dict[str, Any]:
    """Texts that were asked before."""
    runs = [
        asyncio.run(closed_loop(port, texts, CLIENTS, seconds, use_cache=True))
        for _ in range(count + 1)
    ][1:]
    keys = ("queries_per_second", "p50_ms", "p99_ms")
    return {key: spread([run[key] for run in runs]) for key in keys}


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("http", given)
    bench.finish(measure(given))
