"""Measures how soon a new route is visible, by the number of routes.

One route of ten utterances with its vectors given, from the call to the moment at which
queries see it.  This project answers after that, and after the commit where a database
is kept; what of it passes from the write's place in the log to visible, with the commit,
is shown by itself.  semantic-router's index is changed directly; synaptoroute is watched
until its index holds the route, its disk not waited for.

    python benchmarks/bench_hot_add.py [--quick]
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from contenders import ORIGINAL, OURS, SEMANTIC_ROUTER, Process, contenders
from harness import Bench, Options, quantiles, read_options, rounded, rounds

DIM = 384
STORAGES = ("memory", "normal", "full")


def own_processes(stack: ExitStack, folder: Path) -> dict[str, Process]:
    """This project with each kind of storage."""
    started = {}
    for kind in STORAGES:
        database = ":memory:" if kind == "memory" else str(folder / f"{kind}.sqlite")
        synchronous = "normal" if kind == "memory" else kind
        name = f"{OURS}, {kind}"
        started[name] = Process(OURS, ["--database", database, "--synchronous", synchronous])
        stack.callback(started[name].close)
    return started


def adding(
    running: dict[str, Process], repeats: int, count: int, first: int
) -> dict[str, list[float]]:
    """Add routes in rounds; milliseconds of each."""
    firsts = {name: iter(range(first, first + repeats * count, repeats)) for name in running}
    found = rounds(
        {
            name: lambda name=name, process=process: process.do(
                "add",
                first=next(firsts[name]),
                repeats=1 if "," not in name and repeats > SLOW_REPEATS else repeats,
                dim=DIM,
            )
            for name, process in running.items()
        },
        count,
    )
    return {name: [each for run in runs for each in run] for name, runs in found.items()}


SLOW_REPEATS = 20
"""Peers get one add a round, because theirs may take a second each."""


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    sizes = options.pick((500, 5_000, 50_000), (500, 5_000), (20, 40), standard=(500, 50_000))
    repeats, count = options.pick((40, 5), (30, 2), (3, 1), standard=(40, 3))
    found: dict[str, dict[str, list[float]]] = {}
    applying: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        running = own_processes(stack, Path(folder))
        running |= stack.enter_context(contenders((SEMANTIC_ROUTER, ORIGINAL), options))
        for size in sizes:
            for process in running.values():
                process.do("fill", count=size, dim=DIM)
                process.do("add", first=900_000 + size, repeats=2, dim=DIM)
            found[str(size)] = adding(running, repeats, count, 0)
            applying[str(size)] = {
                name: quantiles(process.do("delays", count=repeats * count))
                for name, process in running.items()
                if name.startswith(OURS)
            }
    least, most = str(sizes[0]), str(sizes[-1])
    return {
        "utterances_a_route": 10,
        "milliseconds": {
            size: {name: quantiles(values) for name, values in by_name.items()}
            for size, by_name in found.items()
        },
        "growth": {
            name: rounded(
                quantiles(found[most][name])["p50"] / quantiles(found[least][name])["p50"]
            )
            for name in running
        },
        "apply_to_visible_ms": applying,
        "apply_growth": {
            name: rounded(applying[most][name]["p50"] / applying[least][name]["p50"])
            for name in applying[most]
        },
        "smallest": int(least),
        "largest": int(most),
    }


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("hot_add", given)
    bench.finish(measure(given))
