"""Measures memory, queries and new routes with 50,000, 200,000 and 1,000,000 utterances.

Vectors are generated, clouds of ten a route, as in ``bench_scoring``; each size runs in a
process of its own, so that its memory is its own.  A query is scored by the product's own
``rank`` alone, in batches of 16 and of 64.  Growth: new routes are applied one by one past
the end of a chunk, where the tensor takes new memory; rows are never moved, so no such step,
and no query after it, may take longer than any other.

``float16`` says what rows of half the size would do to answers: the largest difference of a
similarity, beside its bound, and the share of queries with another best route.

    python benchmarks/bench_million.py [--quick]
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_scoring import DIM, ROWS_PER_ROUTE, clouds
from harness import Bench, Options, add_options, quantiles, rounded, to_options
from route_texts import unit_rows
from synaptoroute.core.change import Change, Outcome, RouteRecord, SlotWrite
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.encoder.integer_product import integer_product
from synaptoroute.scoring import QuerySpec, Scratch, rank
from synaptoroute.tensor import Tensor
from synaptoroute.tensor.tensor import CHUNK_SLOTS

BATCHES = (1, 16, 64)
SPREAD_OF_ROUTE = 0.8
HALF_ROUNDING = 2.0**-11
"""Greatest relative rounding of a number in float16; of a similarity of unit rows, too."""
Rows = NDArray[np.float32]


def record_of(number: int) -> RouteRecord:
    """A route of ten rows, the number-th ten."""
    slots = tuple(range(number * ROWS_PER_ROUTE, (number + 1) * ROWS_PER_ROUTE))
    texts = tuple(f"text {slot}" for slot in slots)
    return RouteRecord(
        number, f"route-{number}", slots, texts, None, "{}", "null", Revision(1, number + 1)
    )


def resident_mib() -> float:
    """Memory that this process has now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def filled(rows: Rows) -> Tensor:
    """A tensor of these rows, ready for scans of bytes."""
    settings = Settings(capacity_slots=len(rows) + 2 * CHUNK_SLOTS)
    tensor = Tensor(DIM, settings)
    records = [record_of(number) for number in range(len(rows) // ROWS_PER_ROUTE)]
    tensor.load(np.arange(len(rows)), rows, records, settings, Revision(1, len(records)))
    while not tensor.view().quantized.is_ready:
        tensor.prepare()
    return tensor


def near(rows: Rows, count: int, seed: int) -> Rows:
    """Queries near rows."""
    chosen = np.random.default_rng(seed).integers(0, len(rows), count)
    moved = rows[chosen] + 0.7 * unit_rows(count, DIM, seed + 1)
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def score_ms(tensor: Tensor, scratch: Scratch, queries: Rows, batch: int) -> list[float]:
    """Milliseconds a query, batch by batch; the first two warm up."""
    specs = [QuerySpec()] * batch
    found = []
    for start in range(0, len(queries) - batch + 1, batch):
        began = time.perf_counter()
        rank(tensor, queries[start : start + batch], specs, scratch)
        found.append((time.perf_counter() - began) * 1_000 / batch)
    return found[2:]


def grow(tensor: Tensor, scratch: Scratch, rows: Rows, steps: int) -> dict[str, Any]:
    """Add routes one by one across the end of a chunk, a query after each."""
    start = tensor.high_water_slots
    # So that half of the steps are past the end of what is mapped.
    before_end = -start % CHUNK_SLOTS - steps * ROWS_PER_ROUTE // 2
    first = (start + max(before_end, 0)) // ROWS_PER_ROUTE + 1
    applying, asking = [], []
    for number in range(first, first + steps):
        record = record_of(number)
        vectors = rows[:ROWS_PER_ROUTE]
        writes = tuple(
            SlotWrite(slot, number, text, vector.tobytes(), bytes(16))
            for slot, text, vector in zip(record.slots, record.utterances, vectors, strict=True)
        )
        change = Change(Outcome("applied", record.revision), writes=writes, put=(record,))
        began = time.perf_counter()
        tensor.apply(change, record.revision)
        applied = time.perf_counter()
        rank(tensor, rows[number % len(rows)][None], [QuerySpec()], scratch)
        asking.append((time.perf_counter() - applied) * 1_000)
        applying.append((applied - began) * 1_000)
    return {"apply_ms": quantiles(applying), "query_after_ms": quantiles(asking)}


def float16(rows: Rows, queries: Rows) -> dict[str, Any]:
    """What rounding the rows to float16 does to similarities and to the best route."""
    exact = queries @ rows.T
    halved = rows.astype(np.float16).astype(np.float32)
    rough = queries @ halved.T
    best = [each.argmax(axis=1) // ROWS_PER_ROUTE for each in (exact, rough)]
    return {
        "max_difference": rounded(float(np.abs(exact - rough).max())),
        "bound": HALF_ROUNDING,
        "another_best_route_share": rounded(float((best[0] != best[1]).mean())),
        "queries": len(queries),
        "mib_saved": rounded(rows.nbytes / 2 / 2**20),
    }


def measure_size(count: int, repeats: int, steps: int) -> dict[str, Any]:
    """All figures of one size, in this process."""
    before = resident_mib()
    rows = clouds(count, SPREAD_OF_ROUTE, 0)
    gc.collect()
    with_rows = resident_mib()
    tensor = filled(rows)
    gc.collect()
    memory = resident_mib() - with_rows
    scratch = Scratch(integer_product())
    times = {
        str(batch): quantiles(
            score_ms(tensor, scratch, near(rows, batch * (repeats + 2), batch), batch)
        )
        for batch in BATCHES
    }
    half = float16(rows[: min(count, 50_000)], near(rows[: min(count, 50_000)], 512, 7))
    return {
        "utterances": count,
        "tensor_mib": rounded(memory),
        "process_mib_before": rounded(before),
        "milliseconds_a_query": times,
        "growth": grow(tensor, scratch, rows, steps),
        "float16": {**half, "mib_saved": rounded(rows.nbytes / 2 / 2**20)},
    }


def measure(options: Options) -> dict[str, Any]:
    """Each size in a process of its own, one after the other."""
    sizes = options.pick((50_000, 200_000, 1_000_000), (50_000, 200_000), (500, 1_000))
    repeats, steps = options.pick((40, 100), (10, 40), (2, 4))
    found = {}
    for count in sizes:
        words = [sys.executable, __file__, "--count", str(count)]
        words += ["--repeats", str(repeats), "--steps", str(steps)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found[str(count)] = json.loads(done.stdout)
    return {"dim": DIM, "slab_slots": CHUNK_SLOTS, "sizes": found}


def main() -> None:
    """Measure one size for the process that asked, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=2, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.count:
        print(json.dumps(measure_size(given.count, given.repeats, given.steps)))
        return
    options = to_options(given)
    bench = Bench("million", options)
    bench.finish(measure(options))


if __name__ == "__main__":
    main()
