"""Measures the boot of a node from its database, and its memory.

Each boot is a process of its own: ``SQLiteStorage.open`` (which checks the file and every
row) and the loading of the tensor, timed apart from the encoder's loading and from
imports.  The page cache is warm: the file was read before.  A node leaves a checkpoint
when it stops and from time to time while it runs; a boot without one reads all rows.

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
    }


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("boot", given)
    bench.finish(measure(given))
