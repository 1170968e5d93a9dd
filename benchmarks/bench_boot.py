"""Measures the boot of a node from its database, and its memory.

Each boot is a process of its own: ``SQLiteStorage.open`` (which checks the file and every
row) and the loading of the tensor, timed apart from the encoder's loading and from
imports.  The page cache is warm: the file was read before.  A node leaves a checkpoint
when it stops and from time to time while it runs; a boot without one reads all rows.
``resident_mib_cascade`` is the memory of a router with as many utterances whose cascade is on: a
thousand routes, each with words of its own and vectors around one of its own.

    python benchmarks/bench_boot.py [--quick]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contenders import OURS, Process
from harness import Bench, Options, read_options, spread

DIM = 384
BOOT = """
import json, sys, time
began = time.perf_counter()
from synaptoroute.encoder import Encoder
from synaptoroute.config import EngineConfig
from synaptoroute.engine import Engine
from synaptoroute.storage import SQLiteStorage
imported = time.perf_counter()
encoder = Encoder()
encoded = time.perf_counter()
engine = Engine(encoder, SQLiteStorage(sys.argv[1]), EngineConfig(lanes=1))
booted = time.perf_counter()
resident = next(
    int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS:")
)
engine.scorer.tensor.view()
planned = time.perf_counter()
slots = engine.published.slots_used
digest = engine.published.digest
if sys.argv[2] == "checkpoint":
    engine.storage.checkpoint()
engine.stop()
print(json.dumps({
    "imports_seconds": imported - began,
    "encoder_seconds": encoded - imported,
    "boot_seconds": planned - encoded,
    "resident_mib": resident / 1024,
    "slots": slots,
    "digest": digest,
}))
"""

ROUTER = """
import asyncio, json, sys, time
import numpy as np
from synaptoroute import AdaptiveRouter, Route
from synaptoroute.encoder import Encoder
from synaptoroute.encoder.recipe import bundled_recipe
from synaptoroute.errors import RouteError
from synaptoroute.storage import SQLiteStorage

ROUTES = 1_000

async def each(count):
    draw = np.random.default_rng(3)
    with open(bundled_recipe().tokenizer_file) as file:
        vocabulary = json.load(file)["model"]["vocab"]
    words = [word for word in vocabulary if word.isalpha() and len(word) > 4]
    for number in range(ROUTES):
        own = words[3 * number : 3 * number + 3]
        texts = [f"{own[n % 3]} {own[(n + 1) % 3]} {words[-1 - n]}" for n in range(count // ROUTES)]
        rows = draw.standard_normal(384) + 0.3 * draw.standard_normal((len(texts), 384))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        yield Route(name=f"r{number}", utterances=texts, vectors=rows.tolist())
        await asyncio.sleep(0)

async def act(path, count, seconds):
    router = AdaptiveRouter(Encoder(), SQLiteStorage(path, synchronous="normal"))
    await router.start()
    if count:
        await router.aimport(each(count), replace=True)
        try:
            await router.fits.fit_now()
        except RouteError:
            pass
    end = time.monotonic() + seconds
    while router.cascade().state != "on" and time.monotonic() < end:
        await asyncio.sleep(0.2)
    await asyncio.sleep(min(2, seconds))
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    found = {"state": router.cascade().state, "mib": int(lines["VmRSS"].split()[0]) / 1024}
    await router.stop()
    print(json.dumps(found))

asyncio.run(act(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
"""


def with_cascade(database: Path, count: int, seconds_max: float) -> dict[str, Any]:
    """Fill a database, open it again in a process of its own, and give its memory and state."""
    for utterances in (count, 0):
        words = [sys.executable, "-c", ROUTER, str(database), str(utterances), str(seconds_max)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def boot(database: Path, leaving: str = "nothing") -> dict[str, Any]:
    """Boot once in a process of its own, which leaves a checkpoint or nothing."""
    words = [sys.executable, "-c", BOOT, str(database), leaving]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    count = options.pick(50_000, 50_000, 100)
    repeats = options.pick(9, 3, 1, standard=5)
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "boot.sqlite"
        process = Process(OURS, ["--database", str(database), "--synchronous", "normal"])
        process.do("fill", count=count, dim=DIM)
        process.close()
        size_mib = database.stat().st_size / 2**20
        empty = boot(Path(folder) / "empty.sqlite")
        from_rows = [boot(database) for _ in range(repeats + 1)][1:]
        boot(database, "checkpoint")
        boots = [boot(database) for _ in range(repeats)]
        served = with_cascade(Path(folder) / "served.sqlite", *options.pick(
            (50_000, 120.0), (50_000, 120.0), (2_000, 0.0)))  # fmt: skip
    assert {each["slots"] for each in boots + from_rows} == {count}, "a boot lost rows"
    assert len({each["digest"] for each in boots + from_rows}) == 1, "boots differ"
    return {
        "vectors": count,
        "database_mib": round(size_mib, 1),
        "boot_seconds": spread([each["boot_seconds"] for each in boots]),
        "boot_from_rows_seconds": spread([each["boot_seconds"] for each in from_rows]),
        "encoder_seconds": spread([each["encoder_seconds"] for each in boots]),
        "imports_seconds": spread([each["imports_seconds"] for each in boots]),
        "resident_mib": spread([each["resident_mib"] for each in boots]),
        "resident_mib_empty": round(empty["resident_mib"], 1),
        "resident_mib_cascade": round(served["mib"], 1) if served["state"] == "on" else None,
        "cascade": served["state"],
    }


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("boot", given)
    bench.finish(measure(given))
