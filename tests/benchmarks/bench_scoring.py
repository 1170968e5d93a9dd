"""What does scoring cost a query, at 50,000 utterances, alone and in batches?

The product's own ``rank`` with ``blend`` over random unit rows, ten a route: scan,
nomination and exact decision.  Peers are asked for their index's search of one vector.

    python tests/benchmarks/bench_scoring.py [--quick]
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from contenders import ORIGINAL, SEMANTIC_ROUTER, contenders
from harness import Bench, Options, quantiles, read_options, rounds, spread
from route_texts import unit_rows

from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.scoring import QuerySpec, Scratch, rank
from synaptoroute.tensor import Tensor

DIM = 384
ROWS_PER_ROUTE = 10
BATCHES = (1, 4, 16, 64)


def filled(count: int) -> Tensor:
    """A tensor of random rows."""
    settings = Settings()
    records = [
        RouteRecord(
            number,
            f"route-{number}",
            tuple(range(number * ROWS_PER_ROUTE, (number + 1) * ROWS_PER_ROUTE)),
            tuple(f"text {number} {index}" for index in range(ROWS_PER_ROUTE)),
            None,
            "{}",
            "null",
            Revision(1, 1),
        )
        for number in range(count // ROWS_PER_ROUTE)
    ]
    tensor = Tensor(DIM, settings)
    rows = unit_rows(count, DIM, 0)
    tensor.load(np.arange(count), rows, records, settings, Revision(1, 1))
    return tensor


def milliseconds_a_query(tensor: Tensor, batch: int, repeats: int, seed: int) -> list[float]:
    """Time batches of fresh queries."""
    scratch = Scratch()
    specs = [QuerySpec()] * batch
    found = []
    queries = unit_rows(batch * (repeats + 2), DIM, seed)
    for start in range(0, len(queries), batch):
        began = time.perf_counter()
        rank(tensor, queries[start : start + batch], specs, scratch)
        found.append((time.perf_counter() - began) * 1_000 / batch)
    return found[2:]


def measure(options: Options) -> dict[str, Any]:
    """All figures."""
    count = options.pick(50_000, 50_000, 200)
    repeats, turns = options.pick((40, 5), (20, 2), (2, 1))
    tensor = filled(count)
    seeds = iter(range(1, 10_000))
    found = rounds(
        {
            str(batch): lambda batch=batch: milliseconds_a_query(
                tensor, batch, repeats, next(seeds)
            )
            for batch in BATCHES
        },
        turns,
    )
    figures: dict[str, Any] = {
        "utterances": count,
        "aggregation": tensor.settings.aggregation,
        "milliseconds_a_query": {
            batch: {
                **quantiles([each for run in runs for each in run]),
                "rounds": spread([quantiles(run)["p50"] for run in runs]),
            }
            for batch, runs in found.items()
        },
    }
    with contenders((SEMANTIC_ROUTER, ORIGINAL), options) as running:
        for name, process in running.items():
            process.do("fill", count=count, dim=DIM)
            process.do("search", repeats=2, dim=DIM)
            values = process.do("search", repeats=repeats, dim=DIM)
            figures.setdefault("peers_milliseconds_a_query", {})[name] = quantiles(values)
    return figures


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("scoring", given)
    bench.finish(measure(given))
