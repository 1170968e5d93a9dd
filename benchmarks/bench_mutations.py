"""Measures the latency of queries under 100 mutations a second.

One client queries without a pause, first alone, then while routes of one utterance with
vectors given are put and deleted at a steady rate, database with synchronous=full.
Quiet and busy rounds alternate.

    python benchmarks/bench_mutations.py --data FOLDER [--quick]
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import Bench, Options, quantiles, ratio, read_options, rounded, spread
from route_texts import read_corpus, unit_rows
from synaptoroute.encoder import Encoder
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

MUTATIONS_PER_SECOND = 100
ROUTES_ALIVE = 50
SEED = 0


async def ask(router: AdaptiveRouter, texts: list[str], seconds: float) -> list[float]:
    """One client; milliseconds of each query."""
    found = []
    began = time.perf_counter()
    index = 0
    while (sent := time.perf_counter()) - began < seconds:
        await router.aquery(texts[index % len(texts)], use_cache=False)
        found.append((time.perf_counter() - sent) * 1_000)
        index += 1
    return found


async def mutate(router: AdaptiveRouter, seconds: float, first: int) -> int:
    """Put and delete at a steady rate; give how many were applied."""
    rows = unit_rows(int(seconds * MUTATIONS_PER_SECOND) + 1, router_dim(router), first)
    began = due = time.perf_counter()
    applied = 0
    while due - began < seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        number = first + applied
        if applied % 2 == 0:
            vectors = [rows[applied].tolist()]
            name = f"passing-{number // 2 % ROUTES_ALIVE}"
            route = Route(name=name, utterances=[f"passing {number}"], vectors=vectors)
            await router.aput_route(route)
        else:
            await router.adelete_route(f"passing-{number // 2 % ROUTES_ALIVE}")
        applied += 1
        due += 1 / MUTATIONS_PER_SECOND
    return applied


def router_dim(router: AdaptiveRouter) -> int:
    """Dimension of the router's vectors."""
    return router.status().dim


async def run(options: Options, database: Path) -> dict[str, Any]:
    """Alternate quiet and busy rounds."""
    corpus = read_corpus(options.data)
    texts = corpus.queries(2_048, SEED)
    seconds, count = options.pick((4.0, 6), (1.5, 2), (0.3, 1), standard=(2.0, 4))
    # The cascade would be measured in the middle of the rounds; the encoder's path is watched.
    router = AdaptiveRouter(Encoder(), SQLiteStorage(database), cascade=())
    for name, utterances in corpus.draw(10, SEED).items():
        router.add_route(Route(name=name, utterances=utterances))
    await router.start()
    quiet: list[list[float]] = []
    busy: list[list[float]] = []
    rates = []
    await ask(router, texts, min(seconds, 0.5))
    for number in range(count):
        quiet.append(await ask(router, texts, seconds))
        began = time.perf_counter()
        latencies, applied = await asyncio.gather(
            ask(router, texts, seconds), mutate(router, seconds, number * 100_000)
        )
        rates.append(applied / (time.perf_counter() - began))
        busy.append(latencies)
    await router.stop()
    return {
        "rounds": count,
        "mutations_per_second": rounded(sum(rates) / len(rates)),
        "quiet_ms": quantiles([each for run in quiet for each in run]),
        "busy_ms": quantiles([each for run in busy for each in run]),
        "quiet_p50_ms": spread([quantiles(run)["p50"] for run in quiet]),
        "busy_p50_ms": spread([quantiles(run)["p50"] for run in busy]),
        "busy_p50_share": ratio(
            [quantiles(run)["p50"] for run in busy], [quantiles(run)["p50"] for run in quiet]
        ),
    }


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(run(options, Path(folder) / "mutations.sqlite"))


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("mutations", given)
    bench.finish(measure(given))
