"""How fast does a cluster of three agree, take writes, import, and take nodes in?

    python tests/benchmarks/bench_cluster.py [--quick | --tiny] [--json FILE] [--data FOLDER]

Routers of one process on a private Valkey with an append-only file: the figures hold for the
replication path, without HTTP.  Vectors are given or hashed, so no model is measured.  All
nodes and the server share this machine's cores, which no real cluster does.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_sequencer import binary_of, cpu_seconds, subscribe
from harness import Bench, Options, quantiles, read_options, rounded

from servers import Server
from synaptoroute.cluster import RedisLog
from synaptoroute.cluster.writer import WriteLimits
from synaptoroute.config import ClusterConfig, EngineConfig
from synaptoroute.core.mutation import Revision
from synaptoroute.encoder import HashEncoder
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

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
    """One router, stopped at the end."""
    router = AdaptiveRouter(
        HashEncoder(DIM),
        SQLiteStorage(folder / f"{name}.sqlite"),
        log=log_of(url),
        config=EngineConfig(lanes=1),
        cluster=ClusterConfig(bootstrap_expect=expect),
    )
    await router.start()
    try:
        await router.wait_ready(WAIT_SECONDS)
        yield router
    finally:
        await router.stop()


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


async def bench_propagation(nodes: Sequence[AdaptiveRouter], count: int) -> dict[str, Any]:
    """From a write's place in the log to the tensors of all nodes, one write at a time."""
    for number in range(count):
        await nodes[number % len(nodes)].aput_route(Route(name="p", utterances=[f"text {number}"]))
        await asyncio.sleep(0.002)
    last = nodes[0].status().version
    await asyncio.gather(*(router.await_version(revision(last), 10) for router in nodes))
    delays = [dict(router.propagation()[-count:]) for router in nodes]
    slowest = [max(d[seq] for d in delays) for seq in delays[0] if all(seq in d for d in delays)]
    return {"writes": len(slowest), "visible_on_all_ms": quantiles(slowest)}


async def bench_sustained(nodes: Sequence[AdaptiveRouter], seconds: float) -> dict[str, Any]:
    """Single-route writes at a fixed rate; the lag of every node is sampled meanwhile."""
    begun, done, waits = time.perf_counter(), 0, []
    lags: list[int] = []
    tasks: set[asyncio.Task[None]] = set()
    gate = asyncio.Semaphore(256)

    async def write(number: int) -> None:
        nonlocal done
        async with gate:
            sent = time.perf_counter()
            route = Route(name=f"s{number % 200}", utterances=[f"text {number}"])
            await nodes[number % len(nodes)].aput_route(route)
            waits.append((time.perf_counter() - sent) * 1_000)
            done += 1

    count = int(seconds * WRITES_PER_SECOND)
    for number in range(count):
        due = begun + number / WRITES_PER_SECOND
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        tasks.add(task := asyncio.create_task(write(number)))
        task.add_done_callback(tasks.discard)
        if number % 50 == 0:
            places = [revision(router.status().version).seq for router in nodes]
            lags.append(max(places) - min(places))
    await asyncio.gather(*tasks)
    took = time.perf_counter() - begun
    half = len(lags) // 2
    return {
        "asked_per_second": WRITES_PER_SECOND,
        "taken_per_second": rounded(done / took),
        "seconds": rounded(took),
        "write_ms": quantiles(waits),
        "lag_entries_first_half_max": max(lags[:half]),
        "lag_entries_second_half_max": max(lags[half:]),
    }


async def query_for(router: AdaptiveRouter, ended: asyncio.Event) -> list[float]:
    """Query one node all the time; give the delays, milliseconds."""
    draw, delays = random.Random(5), []
    while not ended.is_set():
        sent = time.perf_counter()
        await router.aquery(f"utterance {draw.randrange(1_000)}", use_cache=False)
        delays.append((time.perf_counter() - sent) * 1_000)
        await asyncio.sleep(0.005)
    return delays


async def bench_import(nodes: Sequence[AdaptiveRouter], utterances: int) -> dict[str, Any]:
    """An import with its vectors, until it is visible everywhere, with queries beside it."""
    routes = await asyncio.to_thread(routes_with_vectors, utterances, 7)
    quiet_end, busy_end = asyncio.Event(), asyncio.Event()
    quiet = asyncio.create_task(query_for(nodes[1], quiet_end))
    await asyncio.sleep(3)
    quiet_end.set()
    busy = asyncio.create_task(query_for(nodes[1], busy_end))
    begun = time.perf_counter()
    result = await nodes[0].aimport(each(routes))
    at = revision(result.version)
    await asyncio.gather(*(router.await_version(at, WAIT_SECONDS) for router in nodes))
    seconds = time.perf_counter() - begun
    busy_end.set()
    before, during = quantiles(await quiet), quantiles(await busy)
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
                    name: getattr(router.follower.counts, name)
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
    nodes: Sequence[AdaptiveRouter], server: Server, subscribers: int, writes: int
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
        await asyncio.gather(*(nodes[0].aput_route(route) for route in routes))
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
    """Everything, in one cluster's life."""
    figures: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        nodes = await asyncio.gather(
            *(
                stack.enter_async_context(node(folder, f"n{n}", server.url, NODES_COUNT))
                for n in range(NODES_COUNT)
            )
        )
        await nodes[0].aput_route(Route(name="warm", utterances=["warm up"]))
        figures["propagation"] = await bench_propagation(nodes, options.pick(500, 200, 20))
        figures["sustained"] = await bench_sustained(nodes, options.pick(20.0, 5.0, 1.0))
        figures["import"] = await bench_import(nodes, options.pick(50_000, 10_000, 500))
        figures["memory"] = await bench_memory(server.url)
        at = revision(nodes[0].status().version)
        figures["joining"] = await bench_joining(folder, server.url, at)
        figures["fan_out"] = [
            await bench_fan_out(nodes, server, count, options.pick(400, 200, 20))
            for count in options.pick((100, 500, 1_000), (100, 500), (10,))
        ]
    return figures


def run(options: Options) -> dict[str, Any]:
    """Measure on a private server; for the report, too."""
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
