"""Measures throughput and latency of distinct queries in process.

Every contender runs in its own process with the same driver, model file, tokenizer file,
routes and texts; nothing is cached.  Closed loop with 1 and 64 clients; open loop at a
rate that every contender can bear, latency counted from the intended time of sending.

    python benchmarks/bench_throughput.py --data FOLDER [--quick]
"""

from __future__ import annotations

from typing import Any

from contenders import (
    ORIGINAL,
    OURS,
    OURS_FLOAT32,
    SEMANTIC_ROUTER,
    Process,
    contenders,
    in_turns,
)
from harness import Bench, Options, ratio, read_options, rounded, rounds, spread
from route_texts import read_corpus

CLIENTS = 64
UTTERANCES = 10
SEED = 0
OPEN_LOAD_SHARE = 0.7
WARM_SECONDS = 0.5


def closed(
    running: dict[str, Process], texts: list[str], clients: int, seconds: float, count: int
) -> dict[str, Any]:
    """Closed loop in rounds: throughput, latency, and ours against each peer."""
    found = in_turns(running, texts, clients, seconds, count)
    rates = {name: [run["queries_per_second"] for run in runs] for name, runs in found.items()}
    middles = {name: [run["p50_ms"] for run in runs] for name, runs in found.items()}
    tails = {name: [run["p99_ms"] for run in runs] for name, runs in found.items()}
    return {
        name: {
            "queries_per_second": spread(rates[name]),
            "p50_ms": spread(middles[name]),
            "p99_ms": spread(tails[name]),
            "ours_times_faster": ratio(rates[OURS], rates[name]),
            "ours_p50_share": ratio(middles[OURS], middles[name]),
        }
        for name in running
    }


def opened(
    running: dict[str, Process], texts: list[str], rate: float, seconds: float, count: int
) -> dict[str, Any]:
    """Open loop in rounds, the same arrivals for all."""
    seeds = {name: iter(range(count)) for name in running}
    found = rounds(
        {
            name: lambda name=name, process=process: process.do(
                "open", texts=texts, rate=rate, seconds=seconds, seed=next(seeds[name])
            )
            for name, process in running.items()
        },
        count,
    )
    return {
        name: {
            "rate": rounded(rate),
            "p50_ms": spread([run["p50_ms"] for run in runs]),
            "p99_ms": spread([run["p99_ms"] for run in runs]),
            "unanswered": sum(run["unanswered"] for run in runs),
            "ours_p50_share": ratio(
                [run["p50_ms"] for run in found[OURS]], [run["p50_ms"] for run in runs]
            ),
        }
        for name, runs in found.items()
    }


def measure(options: Options) -> dict[str, Any]:
    """All figures; this project takes part a second time in the peers' arithmetic."""
    corpus = read_corpus(options.data)
    routes = corpus.draw(UTTERANCES, SEED)
    texts = corpus.queries(4_096, SEED)
    seconds = options.pick(2.0, 1.5, 0.2)
    count = options.pick(11, 2, 1, standard=4)
    names = (OURS, OURS_FLOAT32, SEMANTIC_ROUTER, ORIGINAL)
    with contenders(names, options) as running:
        for process in running.values():
            process.do("load", routes=routes)
            process.do("closed", texts=texts, clients=8, seconds=min(WARM_SECONDS, seconds))
        one = closed(running, texts, 1, seconds, count)
        many = closed(running, texts, CLIENTS, seconds, count)
        slowest = min(each["queries_per_second"]["median"] for each in one.values())
        share = OPEN_LOAD_SHARE * slowest
        figures = {
            "routes": len(routes),
            "utterances_a_route": UTTERANCES,
            "texts": len(texts),
            "rounds": count,
            "seconds_a_round": seconds,
            "one_client": one,
            "many_clients": many,
            "open_loop": opened(running, texts, share, seconds, count),
        }
        own_rate = OPEN_LOAD_SHARE * many[OURS]["queries_per_second"]["median"]
        alone = {OURS: running[OURS]}
        figures["open_loop_own_load"] = opened(alone, texts, own_rate, seconds, count)
    return figures


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("throughput", given)
    bench.finish(measure(given))
