"""Measures scoring, alone and in batches, at several sizes.

The product's own ``rank`` with ``blend``, ten utterances a route: scan, nomination and
exact decision.  Routes are clouds of random unit rows and a query is near one of them;
``scattered`` has rows and queries that are near nothing, which leaves most to decide.
It is set against the same scan in float32, and against the straightforward way: one
product of all rows, the largest of each route, the largest of those; not exact, and not
the same in every batch.  Peers are asked for their index's search of one vector.

    python benchmarks/bench_scoring.py [--quick]
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contenders import ORIGINAL, SEMANTIC_ROUTER, contenders
from harness import Bench, Options, quantiles, ratio, read_options, rounds, spread
from route_texts import unit_rows
from synaptoroute.core.change import RouteRecord
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.encoder.integer_product import integer_product
from synaptoroute.scoring import QuerySpec, Scratch, rank
from synaptoroute.tensor import Tensor

DIM = 384
ROWS_PER_ROUTE = 10
BATCHES = (1, 2, 8, 16, 64)
WAYS = ("bytes", "float32", "straightforward")
Rows = NDArray[np.float32]


def clouds(count: int, spread_of_route: float, seed: int) -> Rows:
    """Random unit rows, ten near each random centre; ``inf`` for near nothing."""
    rows = unit_rows(count, DIM, seed)
    if spread_of_route < np.inf:
        centres = unit_rows(count // ROWS_PER_ROUTE, DIM, seed + 1)
        rows = centres.repeat(ROWS_PER_ROUTE, axis=0) + spread_of_route * rows
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def filled(rows: Rows) -> Tensor:
    """A tensor of these rows, ten a route, ready for scans of bytes."""
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
        for number in range(len(rows) // ROWS_PER_ROUTE)
    ]
    tensor = Tensor(DIM, settings)
    tensor.load(np.arange(len(rows)), rows, records, settings, Revision(1, 1))
    while not tensor.view().quantized.is_ready:
        tensor.prepare()
    return tensor


class Case:
    """One set of rows, scored in every way."""

    def __init__(self, count: int, spread_of_route: float) -> None:
        self.rows = clouds(count, spread_of_route, 0)
        self.tensor = filled(self.rows)
        self._is_scattered = spread_of_route == np.inf
        self._scratches = {"bytes": Scratch(integer_product()), "float32": Scratch()}
        self._starts = np.arange(0, count, ROWS_PER_ROUTE)

    def milliseconds_a_query(self, way: str, batch: int, repeats: int, seed: int) -> list[float]:
        """Time batches of fresh queries."""
        specs = [QuerySpec()] * batch
        queries = self.queries(batch * (repeats + 2), seed)
        found = []
        for start in range(0, len(queries), batch):
            asked = queries[start : start + batch]
            began = time.perf_counter()
            if way == "straightforward":
                self.straightforward(asked)
            else:
                rank(self.tensor, asked, specs, self._scratches[way])
            found.append((time.perf_counter() - began) * 1_000 / batch)
        return found[2:]

    def queries(self, count: int, seed: int) -> Rows:
        """Queries near rows, or near nothing."""
        noise = unit_rows(count, DIM, seed)
        if self._is_scattered:
            return noise
        chosen = np.random.default_rng(seed).integers(0, len(self.rows), count)
        moved = self.rows[chosen] + 0.7 * noise
        return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)

    def straightforward(self, queries: Rows) -> NDArray[np.intp]:
        """The best route of each query, by largest product."""
        similarities = queries @ self.rows.T
        return np.maximum.reduceat(similarities, self._starts, axis=1).argmax(axis=1)

    def measure(self, repeats: int, turns: int) -> dict[str, Any]:
        """Time every way in every batch size, in turn."""
        seeds = iter(range(1, 10_000))
        found = rounds(
            {
                f"{way} {batch}": lambda way=way, batch=batch: self.milliseconds_a_query(
                    way, batch, repeats, next(seeds)
                )
                for batch in BATCHES
                for way in WAYS
            },
            turns,
        )
        medians = {name: [quantiles(run)["p50"] for run in runs] for name, runs in found.items()}
        return {
            "utterances": len(self.rows),
            "routes": len(self._starts),
            "milliseconds_a_query": {
                way: {
                    str(batch): {
                        **quantiles([each for run in found[f"{way} {batch}"] for each in run]),
                        "rounds": spread(medians[f"{way} {batch}"]),
                    }
                    for batch in BATCHES
                }
                for way in WAYS
            },
            **{
                f"bytes_of_{way}": {
                    str(batch): ratio(medians[f"bytes {batch}"], medians[f"{way} {batch}"])
                    for batch in BATCHES
                }
                for way in WAYS[1:]
            },
        }


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    small, large = options.pick((1_500, 50_000), (1_500, 50_000), (100, 200))
    repeats, turns = options.pick((40, 5), (12, 3), (2, 1), standard=(20, 3))
    cases = {
        "small": Case(small, 0.8).measure(repeats, turns),
        "large": Case(large, 0.8).measure(repeats, turns),
        "scattered": Case(large, np.inf).measure(repeats, turns),
    }
    figures: dict[str, Any] = {
        "utterances": large,
        "aggregation": Settings().aggregation,
        "milliseconds_a_query": cases["large"]["milliseconds_a_query"]["bytes"],
        "cases": cases,
    }
    with contenders((SEMANTIC_ROUTER, ORIGINAL), options) as running:
        for name, process in running.items():
            process.do("fill", count=large, dim=DIM)
            process.do("search", repeats=2, dim=DIM)
            values = process.do("search", repeats=repeats, dim=DIM)
            figures.setdefault("peers_milliseconds_a_query", {})[name] = quantiles(values)
    return figures


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("scoring", given)
    bench.finish(measure(given))
