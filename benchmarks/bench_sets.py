"""Measures what many route sets cost: memory, boot, a query of a small set, a fork, a shadow.

One database holds many sets of 30 utterances and a large one; another holds the same rows in the
default set.  Each boot is a process of its own, and processes take turns.

    python benchmarks/bench_sets.py [--quick]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness import Bench, Options, quantiles, ratio, read_options, rounds, spread
from synaptoroute.config import EngineConfig
from synaptoroute.core.mutation import ForkSet, Mutation, Proposal, PutAlias, PutRoute, PutSet
from synaptoroute.encoder import Encoder
from synaptoroute.engine import Engine
from synaptoroute.storage import SQLiteStorage

ROUTES_OF_SMALL = 3
UTTERANCES = 10
LARGE = "large"
SMALL = "s7"
WORDS = ("account", "invoice", "delivery", "password", "refund", "order", "address", "contract")
BOOT = """
import asyncio, json, os, sys, threading, time
from synaptoroute.config import NodeConfig
from synaptoroute.core.mutation import ForkSet, Proposal
from synaptoroute.encoder import Encoder
from synaptoroute.engine import Engine
from synaptoroute.serving.query import Query
from synaptoroute.storage import SQLiteStorage

path, fork = sys.argv[1], sys.argv[3]
names, count, at_once = json.loads(sys.argv[2]), int(sys.argv[4]), int(sys.argv[5])
encoder = Encoder()

def resident_mib():
    line = next(each for each in open("/proc/self/status") if each.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024

began = time.perf_counter()
cpu = time.process_time()
engine = Engine(encoder, SQLiteStorage(path), NodeConfig(lanes=1))
engine.scorer.tensor.view()
booted, booted_cpu = time.perf_counter() - began, time.process_time() - cpu
for served in engine.scorer.sets.by_name.values():
    served.tensor.view()
prepared = time.perf_counter() - began
engine.start()
while engine.scorer.tensor.is_behind or engine.scorer.sets.behind:
    time.sleep(0.05)
found = {
    "boot_seconds": booted,
    "boot_cpu_seconds": booted_cpu,
    "prepared_seconds": prepared,
    "resident_mib": resident_mib(),
}

async def ask(texts, name):
    loop = asyncio.get_running_loop()
    async def one(text):
        query = Query(text, 1, None, False, route_set=name)
        query.loop, query.future = loop, loop.create_future()
        began = time.perf_counter()
        engine.submit(query)
        await query.future
        return time.perf_counter() - began
    taken = []
    for start in range(0, len(texts), at_once):
        taken += await asyncio.gather(*map(one, texts[start : start + at_once]))
    return taken

BLOCK = 10 * at_once
taken_of, seconds_of = {name: [] for name in names}, {name: [] for name in names}
for part in range(-1, max(1, count // BLOCK)):
    for name in names:  # in turn, so that noise of the machine meets all of them
        began = time.perf_counter()
        texts = [f"where is my {name} number {part} {n}" for n in range(BLOCK)]
        taken = asyncio.run(ask(texts, name))
        if part >= 0:
            taken_of[name] += [1000 * each for each in taken]
            seconds_of[name].append(time.perf_counter() - began)
for name in names:
    found["query_ms_" + name] = taken_of[name]
    found["per_second_" + name] = BLOCK / sorted(seconds_of[name])[len(seconds_of[name]) // 2]
if fork:
    from synaptoroute.server.process import freeze_objects, tune_interpreter
    tune_interpreter()  # as a process that serves
    freeze_objects()
    quiet = asyncio.run(ask([f"quiet {n}" for n in range(count)], names[0]))
    done = threading.Event()
    def make_fork():
        op_id = os.urandom(16)
        future = engine.expect_outcome(op_id)
        began = time.perf_counter()
        engine.propose([Proposal(op_id, ForkSet(fork, "copy"))])
        assert future.result(60).status == "applied"
        found["fork_seconds"] = time.perf_counter() - began
        done.set()
    thread = threading.Thread(target=make_fork)
    busy, number = [], 0
    thread.start()
    while not done.is_set():
        number += 1
        busy += asyncio.run(ask([f"busy {number} {n}" for n in range(5)], names[0]))
    thread.join()
    found["quiet_ms"], found["busy_ms"] = ([1000 * x for x in each] for each in (quiet, busy))
engine.stop()
print(json.dumps(found))
"""


def boot(
    database: Path, names: list[str], *, fork: str = "", count: int = 200, at_once: int = 1
) -> dict[str, Any]:
    """Boot once in a process of its own, and ask sets one after the other."""
    arguments = [str(database), json.dumps(names), fork, str(count), str(at_once)]
    words = [sys.executable, "-c", BOOT, *arguments]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def routes(
    prefix: str, count: int, utterances: int, random: np.random.Generator
) -> Iterator[PutRoute]:
    """Routes with distinct utterances of a few words, and vectors around one of each route."""
    for number in range(count):
        texts = tuple(
            f"{WORDS[number % 8]} {WORDS[place % 7]} {prefix} {number} {place}"
            for place in range(utterances)
        )
        rows = random.standard_normal(384) + 0.5 * random.standard_normal((utterances, 384))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        vectors = tuple(row.astype("<f4").tobytes() for row in rows)
        yield PutRoute(f"{prefix}_{number}", texts, vectors)


class Writer:
    """Fills a database."""

    def __init__(self, path: Path, encoder: Encoder) -> None:
        self._engine = Engine(encoder, SQLiteStorage(path), EngineConfig(lanes=1))

    def write(self, mutations: Iterator[Mutation], route_set: str = "") -> None:
        waiting: list[Proposal] = []
        for mutation in mutations:
            waiting.append(Proposal(os.urandom(16), mutation, route_set=route_set))
            if len(waiting) == 500:
                self._engine.propose(waiting)
                waiting = []
        self._engine.propose(waiting)

    def close(self) -> None:
        self._engine.storage.checkpoint()
        self._engine.stop()


def fill(many: Path, one: Path, alone: Path, sets: int, large_routes: int) -> int:
    """Write the same rows as many sets, as one set, and one small set alone; returns the rows."""
    encoder, random = Encoder(), np.random.default_rng(1)
    writers = [Writer(path, encoder) for path in (many, one, alone)]
    of_many, of_one, of_alone = writers
    for number in range(sets):
        name = f"s{number}"
        small = list(routes(name, ROUTES_OF_SMALL, UTTERANCES, random))
        for writer in (of_many, of_alone) if name == SMALL else (of_many,):
            writer.write(iter([PutSet(name)]))
            writer.write(iter(small), name)
        of_one.write(iter(small))
    of_many.write(iter([PutSet(LARGE)]))
    for route in routes(LARGE, large_routes, 100, random):
        of_many.write(iter([route]), LARGE)
        of_one.write(iter([route]))
    for writer in writers:
        writer.close()
    return sets * ROUTES_OF_SMALL * UTTERANCES + large_routes * 100


def fill_shadowed(path: Path) -> None:
    """Write an alias of 150 routes with a fork as its shadow, and one without."""
    writer = Writer(path, Encoder())
    writer.write(iter([PutSet("target")]))
    writer.write(routes("target", 150, 10, np.random.default_rng(2)), "target")
    writer.write(
        iter(
            [
                ForkSet("target", "draft"),
                PutAlias("plain", "target"),
                PutAlias("shadowed", "target", shadow="draft", shadow_share=1.0),
            ]
        )
    )
    writer.close()


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    sets, large_routes = options.pick((1_000, 500), (1_000, 500), (10, 5))
    count, repeats = options.pick((1_000, 9), (300, 3), (10, 1))
    with tempfile.TemporaryDirectory() as folder:
        many, one, alone, shadowed = (
            Path(folder) / f"{name}.sqlite" for name in ("many", "one", "alone", "shadowed")
        )
        rows = fill(many, one, alone, sets, large_routes)
        fill_shadowed(shadowed)
        found = rounds(
            {
                "many": lambda: boot(many, [SMALL], count=count),
                "one": lambda: boot(one, [""], count=count),
                "alone": lambda: boot(alone, [SMALL], count=count),
            },
            repeats,
        )
        forks = [boot(many, [SMALL], fork=LARGE, count=count) for _ in range(1)]
        shadows = [
            boot(shadowed, names, count=count * at_once, at_once=at_once)
            for names in (["plain", "shadowed"], ["shadowed", "plain"])
            for at_once in (1, 32)
        ]

    def of(name: str, figure: str) -> list[float]:
        return [each[figure] for each in found[name]]

    def p50(name: str) -> list[float]:
        return [quantiles(each[f"query_ms_{SMALL}"])["p50"] for each in found[name]]

    lone, loaded = shadows[::2], shadows[1::2]
    return {
        "rows": rows,
        "sets": sets,
        "resident_mib": {name: spread(of(name, "resident_mib")) for name in found},
        "resident_more_mib": round(
            min(of("many", "resident_mib")) - min(of("one", "resident_mib")), 1
        ),
        "boot_seconds": {name: spread(of(name, "boot_seconds")) for name in ("many", "one")},
        "boot_ratio": ratio(of("many", "boot_seconds"), of("one", "boot_seconds")),
        "boot_cpu_ratio": ratio(of("many", "boot_cpu_seconds"), of("one", "boot_cpu_seconds")),
        # Small sets are built when they are first used, or while the node is idle.
        "all_sets_built_seconds": spread(of("many", "prepared_seconds")),
        "small_query_ms": {name: spread(p50(name)) for name in ("many", "alone")},
        "small_query_ratio": ratio(p50("many"), p50("alone")),
        "fork_seconds": [each["fork_seconds"] for each in forks],
        "queries_during_fork_ms": [
            {"quiet": quantiles(each["quiet_ms"]), "busy": quantiles(each["busy_ms"])}
            for each in forks
        ],
        "shadow_p50_ratio": ratio(
            [quantiles(each["query_ms_shadowed"])["p50"] for each in lone],
            [quantiles(each["query_ms_plain"])["p50"] for each in lone],
        ),
        "shadow_throughput_ratio": ratio(
            [each["per_second_shadowed"] for each in loaded],
            [each["per_second_plain"] for each in loaded],
        ),
    }


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("sets", given)
    bench.finish(measure(given))
