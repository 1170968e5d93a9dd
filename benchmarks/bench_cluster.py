"""Measures a cluster of three: propagation, writes, imports and joining nodes.

    python benchmarks/bench_cluster.py [--quick | --tiny] [--json FILE] [--data FOLDER]

Three routers, each in a process of its own, on a private Valkey with an append-only file: the
figures hold for the replication path, without HTTP.  All writes go through the first one.
Vectors are given or hashed, so no model is measured.  All processes share this machine's
cores, which no real cluster does.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from bench_sequencer import binary_of, cpu_seconds, subscribe
from followers import joined
from harness import Bench, Options, quantiles, read_options, rounded
from servers import Server
from synaptoroute.cluster import RedisLog
from synaptoroute.core.mutation import Revision
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.sequencer.appender import WriteLimits
from synaptoroute.server import process

DIM = 384
NODES_COUNT = 3
WRITES_PER_SECOND = 500
UTTERANCES_PER_ROUTE = 50
WAIT_SECONDS = 60.0


def log_of(url: str) -> RedisLog:
    """A log that no limit stops during the measurement."""
    return RedisLog(url, limits=WriteLimits(log_bytes_max=1 << 34))


@asynccontextmanager
async def node(folder: Path, name: str, url: str, expect: int) -> AsyncIterator[AdaptiveRouter]:
    """One router with an HTTP server for its peers, stopped at the end."""
    path = folder / f"{name}.sqlite"
    async with joined(path, url, door=True, expect=expect, dim=DIM) as peer:
        await peer.router.wait_ready(WAIT_SECONDS)
        yield peer.router


def revision(version: str) -> Revision:
    """Read ``epoch.seq``."""
    epoch, _, seq = version.partition(".")
    return Revision(int(epoch), int(seq))


def routes_with_vectors(utterances: int, seed: int) -> list[Route]:
    """Routes with random unit vectors."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(utterances // UTTERANCES_PER_ROUTE):
        rows = draw.standard_normal((UTTERANCES_PER_ROUTE, DIM)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        texts = [f"utterance {number} {each}" for each in range(UTTERANCES_PER_ROUTE)]
        made.append(Route(name=f"i{number}", utterances=texts, vectors=rows.tolist()))
    return made


async def each(routes: Sequence[Route]) -> AsyncIterator[Route]:
    """Routes as an import takes them."""
    for route in routes:
        yield route


@dataclass
class Remote:
    """A router in its own process, controlled through a pipe."""

    pipe: Connection
    process: SpawnProcess

    async def ask(self, *words: Any) -> Any:
        """Send a command and wait for its result.

        Raises:
            RuntimeError: The other process failed at it, or has ended.
        """
        try:
            await asyncio.to_thread(self.pipe.send, words)
            answer, failure = await asyncio.to_thread(self.pipe.recv)
        except (EOFError, OSError) as error:
            code = self.process.exitcode
            raise RuntimeError(f"{words[0]!r}: the process ended, exit code {code}") from error
        if failure is not None:
            raise RuntimeError(f"{words[0]!r} failed in its process:\n{failure}")
        return answer


@asynccontextmanager
async def remote(folder: Path, name: str, url: str) -> AsyncIterator[Remote]:
    """A router in a process of its own, stopped at the end."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve_remote, args=(folder, name, url, theirs))
    process.start()
    found = Remote(ours, process)
    try:
        yield found
    finally:
        if process.is_alive():
            await found.ask("end")
        await asyncio.to_thread(process.join)


def serve_remote(folder: Path, name: str, url: str, pipe: Connection) -> None:
    """Run a router and execute commands; the main function of a process."""
    process.tune_interpreter()
    process.freeze_objects()
    asyncio.run(answer_remote(folder, name, url, pipe))


async def answer_remote(folder: Path, name: str, url: str, pipe: Connection) -> None:
    """Execute commands until the end."""
    ended, queries = asyncio.Event(), None
    async with node(folder, name, url, NODES_COUNT) as router:
        while (asked := await asyncio.to_thread(pipe.recv))[0] != "end":
            answer: Any = None
            failure = None
            try:
                match asked:
                    case ("version",):
                        answer = router.status().version
                    case ("await", version):
                        await router.await_version(revision(version), WAIT_SECONDS)
                    case ("delays", count):
                        answer = dict(router.propagation()[-count:])
                    case ("query",):
                        ended.clear()
                        queries = asyncio.create_task(query_for(router, ended))
                    case ("queried",):
                        ended.set()
                        answer = await queries if queries else []
            except Exception:
                failure = f"{traceback.format_exc()}\n{router.status()}"
            pipe.send((answer, failure))
    pipe.send((None, None))


async def bench_propagation(
    writer: AdaptiveRouter, others: Sequence[Remote], count: int
) -> dict[str, Any]:
    """From a write's place in the log to the tensors of all nodes, one write at a time."""
    for number in range(count):
        await writer.aput_route(Route(name="p", utterances=[f"text {number}"]))
        await asyncio.sleep(0.002)
    last = writer.status().version
    await asyncio.gather(*(other.ask("await", last) for other in others))
    delays = [dict(writer.propagation()[-count:])]
    delays += [await other.ask("delays", count) for other in others]
    slowest = [max(d[seq] for d in delays) for seq in delays[0] if all(seq in d for d in delays)]
    return {"writes": len(slowest), "visible_on_all_ms": quantiles(slowest)}


async def bench_sustained(
    writer: AdaptiveRouter, others: Sequence[Remote], seconds: float
) -> dict[str, Any]:
    """Single-route writes at a fixed rate; the lag of every node is sampled meanwhile."""
    begun, waits, lags = time.perf_counter(), [], []
    gate, ended = asyncio.Semaphore(512), asyncio.Event()

    async def write(number: int) -> None:
        async with gate:
            sent = time.perf_counter()
            route = Route(name=f"s{number % 200}", utterances=[f"text {number}"])
            await writer.aput_route(route)
            waits.append((time.perf_counter() - sent) * 1_000)

    async def look() -> None:
        while not ended.is_set():  # never cancelled: a question in a pipe has its answer there
            head: Any = await writer.follower.session.log.head() if writer.follower else None
            places = [await other.ask("version") for other in others]
            places.append(writer.status().version)
            lags.append(head.seq - min(revision(place).seq for place in places))
            await asyncio.sleep(0.1)

    looking = asyncio.create_task(look())
    tasks = []
    for number in range(int(seconds * WRITES_PER_SECOND)):
        due = begun + number / WRITES_PER_SECOND
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        tasks.append(asyncio.create_task(write(number)))
    await asyncio.gather(*tasks)
    took = time.perf_counter() - begun
    ended.set()
    await looking
    half = len(lags) // 2
    return {
        "asked_per_second": WRITES_PER_SECOND,
        "taken_per_second": rounded(len(waits) / took),
        "taken_share": rounded(len(waits) / took / WRITES_PER_SECOND),
        "seconds": rounded(took),
        "write_ms": quantiles(waits),
        "lag_entries_first_half": quantiles(lags[:half] or [0]),
        "lag_entries_second_half": quantiles(lags[half:] or [0]),
    }


async def query_for(router: AdaptiveRouter, ended: asyncio.Event) -> list[float]:
    """Query a node continuously; return the latencies in milliseconds."""
    draw, delays = random.Random(5), []
    while not ended.is_set():
        sent = time.perf_counter()
        await router.aquery(f"utterance {draw.randrange(1_000)}", use_cache=False)
        delays.append((time.perf_counter() - sent) * 1_000)
        await asyncio.sleep(0.005)
    return delays


async def bench_import(
    writer: AdaptiveRouter, others: Sequence[Remote], utterances: int
) -> dict[str, Any]:
    """An import with its vectors, until it is visible everywhere, with queries beside it."""
    routes = await asyncio.to_thread(routes_with_vectors, utterances, 7)
    process.freeze_objects()  # twenty million numbers that only a benchmark keeps in its heap
    await others[0].ask("query")
    await asyncio.sleep(3)
    before = quantiles(await others[0].ask("queried"))
    await others[0].ask("query")
    begun = time.perf_counter()
    result = await writer.aimport(each(routes))
    await asyncio.gather(*(other.ask("await", result.version) for other in others))
    seconds = time.perf_counter() - begun
    during = quantiles(await others[0].ask("queried"))
    return {
        "utterances": utterances,
        "seconds_until_visible_on_all": rounded(seconds),
        "query_ms_quiet": before,
        "query_ms_during": during,
        "p99_ratio": rounded(during["p99"] / before["p99"]),
    }


async def bench_joining(folder: Path, url: str, at: Revision) -> dict[str, Any]:
    """A fresh node from nothing to ready at the head, and the same node restarted."""
    found = {}
    for what in ("fresh_seconds", "restarted_seconds"):
        begun = time.perf_counter()
        async with node(folder, "joining", url, NODES_COUNT) as router:
            await router.await_version(at, WAIT_SECONDS)
            found[what] = rounded(time.perf_counter() - begun)
            found[f"{what}_by"] = str(
                {
                    name: getattr(router.follower.session.counts, name)
                    for name in ("catch_ups_log", "catch_ups_peer", "snapshots")
                }
                if router.follower
                else {}
            )
    return found


async def bench_memory(url: str) -> dict[str, Any]:
    """What the log holds in the server's memory; trimming bounds it."""
    log = log_of(url)
    try:
        head: Any = await log.head()
        memory = await log.presence._link.call("MEMORY", "USAGE", log.keys.log(head.epoch))
        return {
            "entries": head.seq - head.floor + 1,
            "kept_bytes": head.kept_bytes,
            "redis_bytes": int(memory),
            "ratio": rounded(int(memory) / max(1, head.kept_bytes)),
            "log_bytes_max": WriteLimits().log_bytes_max,
        }
    finally:
        await log.close()


async def bench_fan_out(
    writer: AdaptiveRouter, server: Server, subscribers: int, writes: int
) -> dict[str, Any]:
    """What a write costs the server with more subscribers on the bus."""
    ready, stop = multiprocessing.Event(), multiprocessing.Event()
    heard = multiprocessing.Value("q", 0)
    process = multiprocessing.Process(
        target=subscribe, args=(server.port, subscribers, ready, stop, heard)
    )
    process.start()
    await asyncio.to_thread(ready.wait, WAIT_SECONDS)
    log = log_of(server.url)
    used, before = await cpu_seconds(log), heard.value
    begun = time.perf_counter()
    for start in range(0, writes, 20):
        names = [f"f{start + offset}" for offset in range(20)]
        routes = [Route(name=name, utterances=[name]) for name in names]
        await asyncio.gather(*(writer.aput_route(route) for route in routes))
    seconds = time.perf_counter() - begun
    used = await cpu_seconds(log) - used
    await log.close()
    stop.set()
    await asyncio.to_thread(process.join)
    cost_us = 1e6 * used / writes
    return {
        "subscribers": subscribers,
        "writes": writes,
        "writes_per_second": rounded(writes / seconds),
        "server_us_per_write": rounded(cost_us),
        "server_us_per_write_and_subscriber": rounded(cost_us / subscribers),
        "bytes_per_write_and_subscriber": rounded((heard.value - before) / writes / subscribers),
        "writes_per_second_that_fill_one_core": rounded(1e6 / cost_us),
    }


async def measure(options: Options, folder: Path, server: Server) -> dict[str, Any]:
    """Measure everything on one cluster."""
    figures: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(remote(folder, f"n{number}", server.url))
            for number in range(1, NODES_COUNT)
        ]
        writer = await stack.enter_async_context(node(folder, "n0", server.url, NODES_COUNT))
        first = await writer.aput_route(Route(name="warm", utterances=["warm up"]))
        await asyncio.gather(*(other.ask("await", first.version) for other in others))
        count, seconds = options.pick(500, 200, 20), options.pick(20.0, 5.0, 1.0)
        figures["propagation"] = await bench_propagation(writer, others, count)
        figures["sustained"] = await bench_sustained(writer, others, seconds)
        figures["import"] = await bench_import(writer, others, options.pick(50_000, 50_000, 500))
        figures["memory"] = await bench_memory(server.url)
        at = revision(writer.status().version)
        figures["joining"] = await bench_joining(folder, server.url, at)
        figures["fan_out"] = [
            await bench_fan_out(writer, server, count, options.pick(400, 200, 20))
            for count in options.pick((100, 500, 1_000), (100, 500), (10,), standard=(100,))
        ]
    return figures


def run(options: Options) -> dict[str, Any]:
    """Measure on a private server, in processes that are set as those that serve."""
    process.tune_interpreter()
    with tempfile.TemporaryDirectory(prefix="bench-cluster-") as name:
        folder = Path(name)
        settings = {"appendonly": "yes", "maxclients": "2000"}
        server = Server("valkey", binary_of("valkey"), folder / "valkey", settings).start()
        try:
            return asyncio.run(measure(options, folder, server))
        finally:
            server.stop()


def main() -> None:
    """Measure and print."""
    options = read_options(__doc__)
    bench = Bench("cluster", options)
    bench.finish(run(options))


if __name__ == "__main__":
    main()
