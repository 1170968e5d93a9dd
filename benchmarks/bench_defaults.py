"""Measures throughput and latency of a router with default settings against its peers.

Distinct queries in process, nothing cached, by a router on which nothing was switched on or off:
the cascade is automatic.  The same router without the cascade, semantic-router and synaptoroute
run in turns with it, 1 client and 64, at 50 and 10 utterances a route.

    python benchmarks/bench_defaults.py --data FOLDER [--standard | --quick]
"""

from __future__ import annotations

from typing import Any

from bench_throughput import CLIENTS, WARM_SECONDS
from contenders import (
    ORIGINAL,
    OURS,
    OURS_DEFAULTS,
    SEMANTIC_ROUTER,
    Process,
    contenders,
    in_turns,
)
from harness import Bench, Options, ratio, read_options, spread
from route_texts import read_corpus

SEED = 0
UTTERANCES = (50, 10)
NAMES = (OURS_DEFAULTS, OURS, SEMANTIC_ROUTER, ORIGINAL)


def throughput(options: Options, utterances: int) -> dict[str, Any]:
    """Closed loops with 1 and 64 clients."""
    corpus = read_corpus(options.data)
    routes = corpus.draw(utterances, SEED)
    texts = corpus.queries(4_096, SEED)
    seconds, count = options.pick((4.0, 7), (2.0, 2), (0.2, 1), standard=(2.0, 4))
    with contenders(NAMES, options) as running:
        for process in running.values():
            process.do("load", routes=routes)
            process.do("closed", texts=texts, clients=8, seconds=min(WARM_SECONDS, seconds))
        return {
            "routes": len(routes),
            "utterances_a_route": utterances,
            "rounds": count,
            "seconds_a_round": seconds,
            "one_client": _closed(running, texts, 1, seconds, count),
            "many_clients": _closed(running, texts, CLIENTS, seconds, count),
        }


def _closed(
    running: dict[str, Process], texts: list[str], clients: int, seconds: float, count: int
) -> dict[str, Any]:
    found = in_turns(running, texts, clients, seconds, count)
    rates = {name: [run["queries_per_second"] for run in runs] for name, runs in found.items()}
    middles = {name: [run["p50_ms"] for run in runs] for name, runs in found.items()}
    return {
        name: {
            "queries_per_second": spread(rates[name]),
            "p50_ms": spread(middles[name]),
            "p99_ms": spread([run["p99_ms"] for run in runs]),
            "defaults_times_faster": ratio(rates[OURS_DEFAULTS], rates[name]),
            "defaults_p50_share": ratio(middles[OURS_DEFAULTS], middles[name]),
            "alone_times_faster": ratio(rates[OURS], rates[name]),
        }
        for name, runs in found.items()
    }


def measure(options: Options) -> dict[str, Any]:
    """All figures, by the shape of the route set."""
    counts = options.pick(UTTERANCES, UTTERANCES, (5,))
    found = [throughput(options, utterances) for utterances in counts]
    return {
        "sets": {f"{each['routes']}x{each['utterances_a_route']}": each for each in found},
    }


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("defaults", given)
    bench.finish(measure(given))
