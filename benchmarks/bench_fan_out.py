"""Measures what a write costs the primary, and how late subscribers hear it, by replicas.

    python benchmarks/bench_fan_out.py [redis|valkey] [--subscribers 100 500 1000 3000]
        [--replicas 0 2 4] [--writes 100]

Prints one JSON line a measurement.  Subscribers are bare sockets in processes of their own, spread
evenly over the replicas, or at the primary if there is none.  The next write begins when every
subscriber has heard the one before, so no queue grows.  A subscriber is late by the time between
the clock in the message and its receipt; on few cores the readers themselves take part of it.  What
the primary uses while nobody writes is subtracted.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import platform
import select
import socket
import sys
import tempfile
import time
from array import array
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from bench_sequencer import CHANNEL, DIM, binary_of, cpu_seconds, say
from redis_logs import opened, put
from servers import Server
from synaptoroute.sequencer.appender import WriteLimits
from synaptoroute.sequencer.log import RedisLog

SOCKETS_MAX = 1_500  # Of one process of subscribers
HEARD_SECONDS_MAX = 10.0
IDLE_SECONDS = 2.0
RECORD = b"SR1 E "
PRIMARY = {"appendonly": "yes", "repl-diskless-sync-delay": "0", "maxclients": "8000"}


def listen(
    ports: list[int],
    count: int,
    ready: Event,
    stop: Event,
    heard: Synchronized[int],
    results: Connection,
) -> None:
    """Hold subscriptions at some servers; send how late each message was, in seconds."""
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for number in range(count):
        connection = socket.create_connection(("127.0.0.1", ports[number % len(ports)]))
        connection.sendall(b"SUBSCRIBE " + CHANNEL + b"\r\n")
        connection.recv(200)
        connection.setblocking(False)
        poll.register(connection.fileno(), select.EPOLLIN)
        sockets[connection.fileno()] = connection
    late = array("d")
    ready.set()
    while not stop.is_set():
        for number, _ in poll.poll(0.05):
            data = sockets[number].recv(1 << 16)
            at = data.find(RECORD)
            if at >= 0:
                late.append(time.time() - int(data[at : at + 256].split(b" ", 7)[6]) / 1e6)
                heard.value += 1
    results.send_bytes(late[count:].tobytes())  # Without the first message, which warms up
    for connection in sockets.values():
        connection.close()


class Subscribers:
    """Processes that listen."""

    def __init__(self, ports: list[int], count: int) -> None:
        self._stop = multiprocessing.Event()
        self._parts: list[tuple[Any, Synchronized[int], Connection, Event]] = []
        while count > 0:
            mine = min(count, SOCKETS_MAX)
            count -= mine
            heard, ready = multiprocessing.Value("q", 0, lock=False), multiprocessing.Event()
            here, there = multiprocessing.Pipe(duplex=False)
            arguments = (ports, mine, ready, self._stop, heard, there)
            process = multiprocessing.Process(target=listen, args=arguments)
            process.start()
            self._parts.append((process, heard, here, ready))

    def wait_ready(self) -> None:
        for _, _, _, ready in self._parts:
            assert ready.wait(60), "not every subscriber was accepted"

    async def wait_heard(self, messages: int) -> None:
        """Wait until all of them together have heard so many messages."""
        give_up_at = time.monotonic() + HEARD_SECONDS_MAX
        while sum(heard.value for _, heard, _, _ in self._parts) < messages:
            assert time.monotonic() < give_up_at, "messages were lost"
            await asyncio.sleep(0.002)

    def stop(self) -> list[float]:
        """End them; return how late each message was, in seconds, in order of size."""
        self._stop.set()
        late = array("d")
        for process, _, results, _ in self._parts:
            late.frombytes(results.recv_bytes())
            process.join()
        return sorted(late)


def start_servers(kind: str, folder: Path, replicas: int) -> list[Server]:
    """Start a primary and its replicas, and wait until they are in step."""
    servers = [Server(kind, binary_of(kind), folder / "primary", PRIMARY).start()]
    for number in range(replicas):
        options = {"maxclients": "8000"}
        replica = Server(kind, binary_of(kind), folder / f"replica-{number}", options).start()
        replica.call("REPLICAOF", "127.0.0.1", str(servers[0].port))
        servers.append(replica)
    for replica in servers[1:]:
        while "master_link_status:up" not in replica.call("INFO", "replication"):
            time.sleep(0.05)
    return servers


async def measure(kind: str, subscribers: int, replicas: int, writes: int) -> None:
    """Measure one combination."""
    with tempfile.TemporaryDirectory() as folder:
        servers = await asyncio.to_thread(start_servers, kind, Path(folder), replicas)
        try:
            ports = [server.port for server in servers[1:]] or [servers[0].port]
            limits = WriteLimits(log_bytes_max=1 << 40)
            async with opened(servers[0].url, limits=limits) as log:
                others = [RedisLog(server.url) for server in servers[1:]]
                people = Subscribers(ports, subscribers)
                await asyncio.to_thread(people.wait_ready)
                await log.append([put("warm", dim=DIM)])
                await people.wait_heard(subscribers)
                idle = await cpu_seconds(log)
                await asyncio.sleep(IDLE_SECONDS)
                used = [await cpu_seconds(each) for each in (log, *others)]
                idle_rate = (used[0] - idle) / IDLE_SECONDS
                begun = time.perf_counter()
                for number in range(writes):
                    await log.append([put(f"w{number}", dim=DIM)])
                    await people.wait_heard((number + 2) * subscribers)
                idle = idle_rate * (time.perf_counter() - begun)
                after = [await cpu_seconds(each) for each in (log, *others)]
                late = await asyncio.to_thread(people.stop)
                for each in others:
                    await each.close()
        finally:
            for server in servers:
                server.stop()
    spent = [1e6 * (end - begin) / writes for begin, end in zip(used, after, strict=True)]
    say(
        what="fan-out",
        server=kind,
        subscribers=subscribers,
        replicas=replicas,
        writes=writes,
        primary_us_per_write=round(spent[0] - 1e6 * idle / writes),
        replica_us_per_write=round(max(spent[1:], default=0)),
        p50_ms=round(1e3 * late[len(late) // 2], 1),
        p99_ms=round(1e3 * late[len(late) * 99 // 100], 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", default="redis", choices=("redis", "valkey"))
    parser.add_argument("--subscribers", nargs="+", type=int, default=[100, 500, 1_000, 3_000])
    parser.add_argument("--replicas", nargs="+", type=int, default=[0, 2, 4])
    parser.add_argument("--writes", type=int, default=100)
    given = parser.parse_args()
    say(what="machine", python=platform.python_version(), system=platform.platform())
    for subscribers in given.subscribers:
        for replicas in given.replicas:
            asyncio.run(measure(given.kind, subscribers, replicas, given.writes))


if __name__ == "__main__":
    main()
