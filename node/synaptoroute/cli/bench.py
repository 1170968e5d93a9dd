"""The load of ``synaptoroute bench``: closed loops, and an open one.

In a closed loop each client asks, waits for the answer and asks again.  In an open
loop queries come at their own times, and a latency counts from the time at which its
query was due, so that a router that stalls cannot hide it by slowing the load down.

The load comes from this process.  Against a node, its client may be what is slow:
``client_cpu_share`` near 1 says so.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from synaptoroute.cli.client import CONNECT_SECONDS, load_httpx
from synaptoroute.cli.exit_codes import CheckFailed, NodeUnreachable
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.version import __version__

if TYPE_CHECKING:
    from synaptoroute.models import Route
    from synaptoroute.router import AdaptiveRouter

WARM_SECONDS_MAX: Final = 1.0
DRAIN_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 30.0

Ask = Callable[[str], Awaitable[str | None]]
"""Routes one text: None, or the code of what went wrong."""


@dataclass(frozen=True)
class Figures:
    """What one load gave.

    Attributes:
        load: What it was, in words.
        seconds: How long it took.
        answers: Queries that were answered.
        errors: How often each code came instead of an answer.
        queries_per_second: Answers by seconds.
        latency_ms: ``p50``, ``p90``, ``p99`` and ``max`` of the answers.
        client_cpu_share: Processor time of this process, by seconds.
    """

    load: str
    seconds: float
    answers: int
    errors: dict[str, int]
    queries_per_second: float
    latency_ms: dict[str, float]
    client_cpu_share: float


@dataclass
class _Record:
    """Collects answers."""

    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.perf_counter)
    cpu_began: float = field(default_factory=time.process_time)

    async def ask(self, ask: Ask, text: str, due: float) -> None:
        """Ask once; the latency counts from ``due``."""
        code = await ask(text)
        if code is None:
            self.latencies.append(time.perf_counter() - due)
        else:
            self.errors[code] += 1

    def figures(self, load: str) -> Figures:
        """Sum up."""
        seconds = time.perf_counter() - self.began
        ranked = sorted(self.latencies)
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        return Figures(
            load=load,
            seconds=round(seconds, 3),
            answers=len(ranked),
            errors=dict(self.errors),
            queries_per_second=round(len(ranked) / seconds, 1),
            latency_ms={
                name: round(ranked[ceil(share * len(ranked)) - 1] * 1_000, 3)
                for name, share in shares.items()
                if ranked
            },
            client_cpu_share=round((time.process_time() - self.cpu_began) / seconds, 3),
        )


async def closed_loop(ask: Ask, texts: Sequence[str], clients: int, seconds: float) -> Figures:
    """Let so many clients ask one query after the other."""
    source, record = cycle(texts), _Record()
    end = record.began + seconds

    async def client() -> None:
        while (sent := time.perf_counter()) < end:
            failed_before = record.errors.total()
            await record.ask(ask, next(source), sent)
            if record.errors.total() > failed_before:
                await asyncio.sleep(0.01)  # a refusal must not turn the loop into a flood

    await asyncio.gather(*(client() for _ in range(clients)))
    return record.figures(f"{clients} client{'s' if clients > 1 else ''}")


async def open_loop(ask: Ask, texts: Sequence[str], rate: float, seconds: float) -> Figures:
    """Send queries at random times, ``rate`` a second on average."""
    source, record, draw = cycle(texts), _Record(), random.Random(1)
    tasks: set[asyncio.Task[None]] = set()
    due = record.began
    while due - record.began < seconds:
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        tasks.add(asyncio.create_task(record.ask(ask, next(source), due)))
        due += draw.expovariate(rate)
    done, late = await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
    for task in done:
        task.result()
    for task in late:
        task.cancel()
    record.errors["unanswered"] += len(late)
    record.errors = +record.errors
    return record.figures(f"{rate:g} a second")


async def measure(
    ask: Ask, texts: Sequence[str], clients: Sequence[int], rate: float | None, seconds: float
) -> list[Figures]:
    """Warm up, then put each load on.

    Raises:
        CheckFailed: Not one query of the first load was answered.
    """
    await closed_loop(ask, texts, max(clients, default=1), min(WARM_SECONDS_MAX, seconds))
    found: list[Figures] = []
    for count in clients:
        found.append(await closed_loop(ask, texts, count, seconds))
        if not found[0].answers:
            raise CheckFailed(f"no query was answered: {found[0].errors}")
    if rate is not None:
        found.append(await open_loop(ask, texts, rate, seconds))
    return found


@asynccontextmanager
async def asking_node(
    url: str, api_key: str | None, *, connections: int, cached: bool
) -> AsyncIterator[Ask]:
    """Ask a node, with so many connections."""
    load_httpx()
    import httpx

    headers = {"User-Agent": f"synaptoroute/{__version__}"}
    if not cached:
        headers["Cache-Control"] = "no-cache"
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, pool=None)
    async with httpx.AsyncClient(
        base_url=url.rstrip("/"), headers=headers, limits=limits, timeout=timeout
    ) as client:

        async def ask(text: str) -> str | None:
            try:
                answer = await client.post("/v1/query", json={"text": text})
            except httpx.HTTPError as error:
                return type(error).__name__
            if answer.is_success:
                return None
            document: Any = answer.json() if "json" in answer.headers["content-type"] else {}
            return str(document.get("code", answer.status_code))

        if (failed := await ask("hello")) in {"ConnectError", "ConnectTimeout"}:
            raise NodeUnreachable(f"no node answers at {url}: {failed}")
        yield ask


@asynccontextmanager
async def asking_router(
    router: AdaptiveRouter, routes: Sequence[Route], *, cached: bool
) -> AsyncIterator[Ask]:
    """Ask a router in this process, started with these routes."""

    async def each() -> AsyncIterator[Route]:
        for route in routes:
            yield route

    async def ask(text: str) -> str | None:
        try:
            await router.aquery(text, use_cache=cached)
        except SynaptoRouteError as error:
            return error.code
        return None

    await router.start()
    try:
        await router.aimport(each())
        yield ask
    finally:
        await router.stop()
