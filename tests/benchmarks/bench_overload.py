"""Does a router that is asked for too much still do what it can?

Capacity is measured by a closed loop; then queries arrive at their own times at a half,
one, two and four times that rate.  Goodput counts answers within the deadline; what the
router refuses it must refuse at once.  Its queue has its default length, many times what can
be answered in time: who is refused, the predicted wait decides.

    python tests/benchmarks/bench_overload.py --data FOLDER [--quick]
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from harness import Bench, Options, quantiles, read_options, rounded
from route_texts import read_corpus

from synaptoroute.config import EngineConfig
from synaptoroute.encoder import Encoder
from synaptoroute.errors import DeadlineExceeded, Overloaded
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter

DEADLINE_MS = 500
CLIENTS = 64
LOADS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
SEED = 0


class Tally:
    """What came of the queries of one load."""

    def __init__(self) -> None:
        self.good_ms: list[float] = []
        self.refused_ms: list[float] = []
        self.late = 0


async def one(router: AdaptiveRouter, text: str, due: float, tally: Tally) -> None:
    """Ask one query and count what came of it; time runs from when it was due."""
    sent = time.perf_counter()
    try:
        await router.aquery(text, use_cache=False, deadline_ms=DEADLINE_MS)
    except Overloaded:
        tally.refused_ms.append((time.perf_counter() - sent) * 1_000)
    except DeadlineExceeded:
        tally.late += 1
    else:
        waited_ms = (time.perf_counter() - due) * 1_000
        if waited_ms <= DEADLINE_MS:
            tally.good_ms.append(waited_ms)
        else:
            tally.late += 1


async def capacity(router: AdaptiveRouter, texts: list[str], seconds: float) -> float:
    """Queries a second of 64 clients that wait for their answers."""
    answered = 0
    began = time.perf_counter()

    async def client(index: int) -> None:
        nonlocal answered
        while time.perf_counter() - began < seconds:
            await router.aquery(texts[index % len(texts)], use_cache=False)
            answered += 1
            index += CLIENTS

    await asyncio.gather(*(client(index) for index in range(CLIENTS)))
    return answered / (time.perf_counter() - began)


async def offer(
    router: AdaptiveRouter, texts: list[str], rate: float, seconds: float
) -> dict[str, Any]:
    """Send queries at a rate for a while."""
    gaps = random.Random(SEED)
    tally = Tally()
    tasks = []
    began = due = time.perf_counter()
    while due - began < seconds:
        delay = due - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        elif len(tasks) % 16 == 0:
            await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(one(router, texts[len(tasks) % len(texts)], due, tally)))
        due += gaps.expovariate(rate)
    window = time.perf_counter() - began
    await asyncio.gather(*tasks)
    return {
        "offered_per_second": rounded(len(tasks) / window),
        "goodput_per_second": rounded(len(tally.good_ms) / window),
        "refused_share": rounded(len(tally.refused_ms) / len(tasks)),
        "late_share": rounded(tally.late / len(tasks)),
        "good_ms": quantiles(tally.good_ms or [float("nan")]),
        "refused_after_ms": quantiles(tally.refused_ms) if tally.refused_ms else None,
    }


async def run(options: Options) -> dict[str, Any]:
    """Measure the capacity before each load, then the load."""
    corpus = read_corpus(options.data)
    texts = corpus.queries(4_096, SEED)
    seconds = options.pick(6.0, 2.0, 0.3)
    config = EngineConfig()
    router = AdaptiveRouter(Encoder(), config=config)
    for name, utterances in corpus.draw(10, SEED).items():
        router.add_route(Route(name=name, utterances=utterances))
    await router.start()
    await capacity(router, texts, min(1.0, seconds))
    found: dict[str, Any] = {}
    for load in LOADS:
        bearable = await capacity(router, texts, seconds / 2)
        offered = await offer(router, texts, load * bearable, seconds)
        share = rounded(offered["goodput_per_second"] / bearable)
        found[str(load)] = {
            "capacity_per_second": rounded(bearable), "goodput_of_capacity": share, **offered
        }  # fmt: skip
    await router.stop()
    return {
        "deadline_ms": DEADLINE_MS,
        "queue_requests_max": config.queue_requests_max,
        "loads": found,
    }


def measure(options: Options) -> dict[str, Any]:
    """All figures."""
    return asyncio.run(run(options))


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("overload", given)
    bench.finish(measure(given))
