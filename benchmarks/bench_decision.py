"""Measures what the fit of the confidence costs: its time, writes, memory, and queries meanwhile.

* ``fit``: seconds of one fit on one thread, and its share of a core, by size of the route set.
* ``write``: milliseconds of a write of one route of two utterances, vectors given, on a router
  whose route set is fitted and that looks for the next fit, and on one without fits, in turns.
* ``memory``: resident MiB of a process with a tensor of as many rows, with numbers and without.
* ``queries``: one client queries without a pause, nothing cached, while one fit follows another
  and while there is none, in turns.

    python benchmarks/bench_decision.py --data FOLDER [--quick]
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_accuracy import encode
from bench_mutations import ask
from harness import Bench, Options, quantiles, ratio, read_options, rounded, spread
from route_texts import read_corpus, unit_rows
from synaptoroute.config import EngineConfig
from synaptoroute.decision import fit_decision
from synaptoroute.encoder import Encoder
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

SEED = 0
DIM = 384
EACH = 10
MEMORY = """
import sys
import numpy as np
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import FOUNDING_SETTINGS, Revision
from synaptoroute.tensor import Tensor
rows, each = np.load(sys.argv[1]), int(sys.argv[2])
decision = open(sys.argv[3], "rb").read() if len(sys.argv) > 3 else b""
at = Revision(1, 1)
records = [
    RouteRecord(
        number, f"route {number}", tuple(range(number * each, (number + 1) * each)),
        tuple(f"text {row}" for row in range(number * each, (number + 1) * each)),
        None, "{}", "null", at,
    )
    for number in range(len(rows) // each)
]
tensor = Tensor(rows.shape[1], FOUNDING_SETTINGS, "f" * 16)
tensor.load(np.arange(len(rows)), rows, records, FOUNDING_SETTINGS, at, decision=decision)
tensor.view()
print(next(
    int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS:")
))
"""


def grouped_rows(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Random rows about as many places as there are routes, and the route of each."""
    owners = np.arange(count) // EACH
    rows = unit_rows(count // EACH, DIM, SEED)[owners] + 0.8 * unit_rows(count, DIM, SEED + 1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), owners


def fit_times(options: Options, encoder: Encoder) -> dict[str, Any]:
    """Fit route sets of several sizes, in turns."""
    corpus, repeats = read_corpus(options.data), options.pick(5, 2, 1)
    sets: dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]] = {}
    for each in (10, 50):
        drawn = corpus.draw(each, SEED)
        texts = [text for own in drawn.values() for text in own]
        owners = np.repeat(np.arange(len(drawn)), [len(own) for own in drawn.values()])
        sets[f"{len(drawn)} routes of {each}"] = (encode(encoder, texts), owners)
    count = options.pick(50_000, 50_000, 500)
    sets[f"{count // EACH:,} routes of {EACH}"] = grouped_rows(count)
    seconds: dict[str, list[float]] = {name: [] for name in sets}
    cpu: dict[str, list[float]] = {name: [] for name in sets}
    for _ in range(repeats):
        for name, (rows, owners) in sets.items():
            began, worked = time.perf_counter(), time.thread_time()
            fit_decision(rows, owners, "adaptive")
            seconds[name].append(time.perf_counter() - began)
            cpu[name].append(time.thread_time() - worked)
    return {
        name: {"seconds": spread(seconds[name]), "cpu_seconds": spread(cpu[name])} for name in sets
    }


async def filled(
    options: Options, encoder: Encoder, database: Path, *, fits: bool
) -> AdaptiveRouter:
    """Start a router with the route set, fitted or never fitted."""
    corpus = read_corpus(options.data)
    config = EngineConfig(fit_confidence=fits)
    router = AdaptiveRouter(encoder, SQLiteStorage(database), config=config)
    for name, utterances in corpus.draw(EACH, SEED).items():
        router.add_route(Route(name=name, utterances=utterances))
    await router.start()
    if fits:
        await router.fits.fit_now()
    return router


async def write(router: AdaptiveRouter, seconds: float, first: int) -> list[float]:
    """Put and delete routes one after the other; milliseconds of each put."""
    rows = unit_rows(2_048, DIM, first)
    found: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        at = 2 * len(found) % 2_048
        route = Route(
            name="passing",
            utterances=[f"passing {first} {at}", f"another {first} {at}"],
            vectors=[row.tolist() for row in rows[at : at + 2]],
        )
        sent = time.perf_counter()
        await router.aput_route(route)
        found.append((time.perf_counter() - sent) * 1_000)
        await router.adelete_route("passing")
    return found


async def writes(options: Options, encoder: Encoder, folder: Path) -> dict[str, Any]:
    """Write with fits and without, in turns."""
    seconds, count = options.pick((3.0, 8), (1.0, 3), (0.2, 1))
    routers = {
        name: await filled(options, encoder, folder / f"{name}.sqlite", fits=name == "on")
        for name in ("on", "off")
    }
    found: dict[str, list[list[float]]] = {name: [] for name in routers}
    for number in range(-1, count):
        for name in ("on", "off") if number % 2 else ("off", "on"):
            run = await write(routers[name], seconds, number + 2)
            if number >= 0:
                found[name].append(run)
    for router in routers.values():
        await router.stop()
    return _compared(found, "on", "off")


async def queries(options: Options, encoder: Encoder, database: Path) -> dict[str, Any]:
    """Query during fits and without, in turns."""
    seconds, count = options.pick((4.0, 8), (1.5, 3), (0.2, 1))
    texts = read_corpus(options.data).queries(2_048, SEED)
    router = await filled(options, encoder, database, fits=True)
    await ask(router, texts, min(seconds, 1.0))
    found: dict[str, list[list[float]]] = {"fitting": [], "quiet": []}
    fits, wanted = 0, False

    async def fit_on() -> None:
        nonlocal fits
        while wanted:
            await router.fits.fit_now()
            fits += 1

    for number in range(count):
        for name in ("fitting", "quiet") if number % 2 else ("quiet", "fitting"):
            wanted = name == "fitting"
            task = asyncio.create_task(fit_on())
            found[name].append(await ask(router, texts, seconds))
            wanted = False
            await task  # a fit that runs would disturb the quiet round
    await router.stop()
    return {**_compared(found, "fitting", "quiet"), "fits": fits}


def _compared(found: dict[str, list[list[float]]], busy: str, quiet: str) -> dict[str, Any]:
    """Quantiles of both, and the ratios of their rounds."""
    figures: dict[str, Any] = {
        f"{name}_ms": quantiles([each for run in runs for each in run])
        for name, runs in found.items()
    }
    for share in ("p50", "p99"):
        figures[f"{share}_share"] = ratio(
            [quantiles(run)[share] for run in found[busy]],
            [quantiles(run)[share] for run in found[quiet]],
        )
    return figures


def memory(options: Options, folder: Path) -> dict[str, Any]:
    """Resident memory of a tensor with the numbers of a fit, and without."""
    rows, owners = grouped_rows(options.pick(50_000, 50_000, 500))
    numbers = fit_decision(rows, owners, "adaptive", fingerprint="f" * 16)
    assert numbers is not None
    np.save(folder / "rows.npy", rows)
    (folder / "numbers").write_bytes(numbers.dump())
    words = [sys.executable, "-c", MEMORY, str(folder / "rows.npy"), str(EACH)]
    found: dict[str, Any] = {"rows": len(rows), "routes": int(owners.max()) + 1}
    for name, more in (("without_mib", []), ("with_mib", [str(folder / "numbers")])):
        done = subprocess.run([*words, *more], check=True, capture_output=True, text=True)
        found[name] = rounded(json.loads(done.stdout) / 1024)
    return found


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    encoder = Encoder()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {
            "fit": fit_times(options, encoder),
            "memory": memory(options, folder),
            "write": asyncio.run(writes(options, encoder, folder)),
            "queries": asyncio.run(queries(options, encoder, folder / "queries.sqlite")),
        }


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("decision", given)
    bench.finish(measure(given))
