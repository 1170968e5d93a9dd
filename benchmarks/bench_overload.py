"""Measures goodput under overload.

Capacity is measured by a closed loop, before and after; between, queries arrive at their own
times at a quarter to four times that rate.  Goodput counts answers within the deadline; what the
router refuses it must refuse at once.  Its queue has its default length, many times what can
be answered in time: who is refused, the predicted wait decides.  The encoder answers every query:
with the cascade those that need none are answered beside what is refused, and goodput is twice
the capacity of the same mix.  Client and router share one
process and the event loop that a node has; what the client costs by itself is measured, too.
Then the same over HTTP, where the client has a process, but no cores, of its own.

    python benchmarks/bench_overload.py --data FOLDER [--quick]
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import uvloop

from bench_http import closed_loop, node, put_routes, settle, switch_cascade_off
from harness import Bench, Options, quantiles, read_options, rounded, spread
from route_texts import read_corpus
from synaptoroute.config import EngineConfig
from synaptoroute.encoder import Encoder
from synaptoroute.errors import DeadlineExceeded, Overloaded, RouteError
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter

DEADLINE_MS = 500
CLIENTS = 64
TICK_SECONDS = 0.002
WARM_UP_SECONDS = 1.0
"""Seconds until the queue has filled; answers before that are not counted."""
LOADS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
LOADS_STANDARD = (0.5, 1.0, 4.0)
LOADS_TINY = (0.5, 4.0)
SEED = 0


class Asked(Protocol):
    """The router or node under load."""

    async def aquery(self, text: str, *, use_cache: bool, deadline_ms: int) -> object:
        """Answer or refuse."""
        ...


class Tally:
    """Results of the queries of one load, counted while the rate is constant."""

    def __init__(self, began: float, seconds: float) -> None:
        self.begin, self.end = began + min(WARM_UP_SECONDS, seconds / 2), began + seconds
        self.offered = self.late = 0
        self.good_ms: list[float] = []
        self.refused_ms: list[float] = []

    @property
    def seconds(self) -> float:
        """Seconds that were counted."""
        return self.end - self.begin

    def is_counted(self, at: float) -> bool:
        """Return whether this moment is counted."""
        return self.begin <= at < self.end


async def one(router: Asked, text: str, due: float, tally: Tally) -> None:
    """Ask one query and count its result; the latency starts when the query was due."""
    sent = time.perf_counter()
    try:
        await router.aquery(text, use_cache=False, deadline_ms=DEADLINE_MS)
    except Overloaded:
        refused = time.perf_counter()
        if tally.is_counted(refused):
            tally.refused_ms.append((refused - sent) * 1_000)
        return
    except DeadlineExceeded:
        answered = math.inf
    else:
        answered = time.perf_counter()
    if (answered - due) * 1_000 > DEADLINE_MS:
        tally.late += tally.is_counted(due)
    elif tally.is_counted(answered):
        tally.good_ms.append((answered - due) * 1_000)


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


async def offer(router: Asked, texts: Sequence[str], rate: float, seconds: float) -> dict[str, Any]:
    """Send queries at a rate for a while.

    The client wakes at most every two milliseconds and sends what has become due since, so
    that its waking, which no client of a service would charge to it, costs little.
    """
    gaps = random.Random(SEED)
    tasks: set[asyncio.Task[None]] = set()
    source = cycle(texts)
    due = time.perf_counter()
    tally = Tally(due, seconds)
    while due < tally.end:
        now = time.perf_counter()
        while due <= now:
            task = asyncio.ensure_future(one(router, next(source), due, tally))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            tally.offered += tally.is_counted(due)
            due += gaps.expovariate(rate)
        await asyncio.sleep(max(due - time.perf_counter(), TICK_SECONDS))
    await asyncio.gather(*tasks)
    return {
        "offered_per_second": rounded(tally.offered / tally.seconds),
        "goodput_per_second": rounded(len(tally.good_ms) / tally.seconds),
        "refused_share": rounded(len(tally.refused_ms) / tally.offered),
        "late_share": rounded(tally.late / tally.offered),
        "good_ms": quantiles(tally.good_ms or [float("nan")]),
        "refused_after_ms": quantiles(tally.refused_ms) if tally.refused_ms else None,
    }


class Refusing:
    """A router without work, to measure the client."""

    def __init__(self) -> None:
        self._refusal = Overloaded("always")

    async def aquery(self, text: str, *, use_cache: bool, deadline_ms: int) -> None:
        """Refuse."""
        raise self._refusal.with_traceback(None)


async def client_cost_us(texts: Sequence[str], rate: float, seconds: float) -> float:
    """CPU time of the client itself, a query; it runs on the router's event loop."""
    began = time.thread_time()
    await offer(Refusing(), texts, rate, seconds)
    return (time.thread_time() - began) / (rate * seconds) * 1e6


def by_load(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of all rounds of a load the one whose goodput is in the middle, with the others' goodput."""
    chosen: dict[str, Any] = {}
    for load in dict.fromkeys(each["load"] for each in found):
        rounds = [each for each in found if each["load"] == load]
        rounds.sort(key=lambda each: float(each["goodput_of_capacity"]))
        middle = rounds[len(rounds) // 2]
        shares = spread([each["goodput_of_capacity"] for each in rounds])
        chosen[str(load)] = {**middle, "goodput_of_capacity_by_round": shares}
    return chosen


async def run(options: Options) -> dict[str, Any]:
    """Measure the capacity before and after each load, and the load."""
    corpus = read_corpus(options.data)
    texts = corpus.queries(4_096, SEED)
    seconds, count = options.pick((4.0, 3), (2.0, 1), (0.3, 1), standard=(3.0, 3))
    config = EngineConfig()
    router = AdaptiveRouter(Encoder(), config=config, cascade=())
    for name, utterances in corpus.draw(10, SEED).items():
        router.add_route(Route(name=name, utterances=utterances))
    await router.start()
    with suppress(RouteError):  # a tiny set is too small; a fit on the way would take its share
        await router.fits.fit_now()
    await capacity(router, texts, min(1.0, seconds))
    found: list[dict[str, Any]] = []
    before = await capacity(router, texts, seconds / 2)
    for load in options.pick(LOADS, LOADS, LOADS_TINY, standard=LOADS_STANDARD) * count:
        offered = await offer(router, texts, load * before, seconds)
        client_us = await client_cost_us(texts, load * before, seconds / 4)
        after = await capacity(router, texts, seconds / 2)
        bearable = (before + after) / 2  # the machine may have changed meanwhile
        found.append(
            {
                "load": load,
                "capacity_per_second": rounded(bearable),
                "goodput_of_capacity": rounded(offered["goodput_per_second"] / bearable),
                **offered,
                "client_us_a_query": rounded(client_us),
            }
        )
        before = after
    await router.stop()
    return {
        "deadline_ms": DEADLINE_MS,
        "queue_requests_max": config.queue_requests_max,
        "rounds": count,
        "loads": by_load(found),
    }


def over_http(options: Options) -> dict[str, Any]:
    """The same on a node process, from a client in a process of its own."""
    corpus = read_corpus(options.data)
    texts = corpus.queries(4_096, SEED)
    seconds, count = options.pick((4.0, 3), (2.0, 1), (0.3, 1), standard=(3.0, 3))
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, node(Path(folder)) as port:
        put_routes(port, corpus.draw(10, SEED))
        switch_cascade_off(port)
        settle(port)
        cores = len(os.sched_getaffinity(0))
        asking: list[float] = []

        def bearable_rate() -> float:
            cpu = time.process_time()
            run = asyncio.run(closed_loop(port, texts, CLIENTS, seconds / 2))
            asking.append((time.process_time() - cpu) / (seconds / 2))
            return run["queries_per_second"]

        bearable_rate()
        before = bearable_rate()
        for load in options.pick(LOADS, LOADS, LOADS_TINY, standard=LOADS_STANDARD) * count:
            orders = {"port": port, "texts": texts, "rate": load * before, "seconds": seconds}
            offered = _from_outside({**orders, "deadline_ms": DEADLINE_MS})
            after = bearable_rate()
            bearable = (before + after) / 2
            goodput = offered["goodput_per_second"] / bearable
            # What the clients of both loads leave of the cores is the node's.
            sending = offered["client_us_a_query"] * offered["offered_per_second"] / 1e6
            left = (cores - sending) / (cores - (asking[-2] + asking[-1]) / 2)
            found.append(
                {
                    "load": load,
                    "capacity_per_second": rounded(bearable),
                    "goodput_of_capacity": rounded(goodput),
                    "client_cores": rounded(sending),
                    "goodput_without_client": rounded(goodput / left),
                    **offered,
                }
            )
            before = after
    return by_load(found)


def _from_outside(orders: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("http_load.py"))],
        input=json.dumps(orders) + "\n",
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(options: Options) -> dict[str, Any]:
    """Return all figures."""
    return {**uvloop.run(run(options)), "over_http": over_http(options)}


if __name__ == "__main__":
    given = read_options(__doc__)
    bench = Bench("overload", given)
    bench.finish(measure(given))
