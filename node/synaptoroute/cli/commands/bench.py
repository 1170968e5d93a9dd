"""``synaptoroute bench``: throughput and latency of queries, in closed and open loops.

In a closed loop each client asks, waits for the answer and asks again.  In an open loop
queries are sent at their own times, and the latency counts from the time at which a query
was due, so that a router that stalls cannot hide it by slowing the load down (coordinated
omission).

The load comes from this process.  Its client may be the bottleneck: ``client_cpu_share``
near 1 shows that.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from synaptoroute.cli.client import CONNECT_SECONDS
from synaptoroute.cli.exit_codes import CheckFailed, NodeUnreachable
from synaptoroute.cli.options import (
    DEFAULT_URL,
    ApiKey,
    AsJson,
    EncoderPrecision,
    Model,
    RoutesFile,
    Url,
    tls_context,
)
from synaptoroute.cli.query_backend import open_empty_router, read_labelled
from synaptoroute.cli.terminal import note, print_json, print_table, waiting
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.version import __version__

if TYPE_CHECKING:
    from synaptoroute.models import Route
    from synaptoroute.router import AdaptiveRouter

CLIENTS_MAX: Final = 1_024
RATE_PER_SECOND_MAX: Final = 100_000.0
SECONDS_MAX: Final = 3_600.0
WARM_SECONDS_MAX: Final = 1.0
DRAIN_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 30.0
_CLIENTS: Final = [1, 64]
_BUSY_SHARE: Final = 0.9

Ask = Callable[[str], Awaitable[str | None]]
"""Routes one text: returns None, or the code of the error."""


def bench(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="Queries: text, tab, route; the route is ignored."
        ),
    ],
    routes: RoutesFile = None,
    clients: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=CLIENTS_MAX, show_default="1 and 64", help="Clients; may be repeated."
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=RATE_PER_SECOND_MAX,
            show_default=False,
            help="Also send this many queries per second, open loop.",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=SECONDS_MAX, help="Duration of each load.")
    ] = 5.0,
    cached: Annotated[bool, typer.Option("--cached", help="Allow answers from the cache.")] = False,
    model: Model = None,
    precision: EncoderPrecision = "auto",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Measure throughput and latency of queries.

    Asks a node, or with --routes a router in this process.
    """
    texts = list(dict.fromkeys(query.text for query in read_labelled(file)))
    counts = clients or _CLIENTS

    async def run(target: AbstractAsyncContextManager[Ask]) -> list[LoadResult]:
        async with target as ask:
            return await measure(ask, texts, counts, rate, seconds)

    with waiting("Measuring ..."):
        if routes is None:
            target = connect_node(url, api_key, connections=max(counts), cached=cached)
            results = asyncio.run(run(target))
        else:
            with open_empty_router(routes, model, precision) as (router, read):
                results = asyncio.run(run(start_router(router, read, cached=cached)))
    if as_json:
        where = url if routes is None else routes.name
        loads = [asdict(each) for each in results]
        print_json({"release": __version__, "asked": where, "cached": cached, "loads": loads})
        return
    _show(results)
    if routes is None and max(each.client_cpu_share for each in results) > _BUSY_SHARE:
        note("this process used a whole CPU: the node may be faster than shown")


def _show(results: list[LoadResult]) -> None:
    names = ("p50", "p90", "p99", "max")
    print_table(
        ("load", "queries/s", *(f"{name} ms" for name in names), "errors"),
        (
            (
                each.load,
                f"{each.queries_per_second:g}",
                *(f"{each.latency_ms[name]:.2f}" if each.latency_ms else "-" for name in names),
                ", ".join(f"{code} {count}" for code, count in each.errors.items()) or "-",
            )
            for each in results
        ),
        right=("queries/s", *(f"{name} ms" for name in names)),
    )


# --- loads -----------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadResult:
    """The result of one load."""

    load: str
    seconds: float
    answers: int
    errors: dict[str, int]
    queries_per_second: float
    latency_ms: dict[str, float]
    client_cpu_share: float


@dataclass
class _Recorder:
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.perf_counter)
    cpu_started: float = field(default_factory=time.process_time)

    async def ask(self, ask: Ask, text: str, due: float) -> None:
        """Ask once; the latency counts from ``due``."""
        code = await ask(text)
        if code is None:
            self.latencies.append(time.perf_counter() - due)
        else:
            self.errors[code] += 1

    def result(self, load: str) -> LoadResult:
        seconds = time.perf_counter() - self.started
        ranked = sorted(self.latencies)
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        return LoadResult(
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
            client_cpu_share=round((time.process_time() - self.cpu_started) / seconds, 3),
        )


async def closed_loop(ask: Ask, texts: Sequence[str], clients: int, seconds: float) -> LoadResult:
    """Run a number of clients, each of which asks one query after another."""
    source, recorder = cycle(texts), _Recorder()
    end = recorder.started + seconds

    async def client() -> None:
        while (sent := time.perf_counter()) < end:
            failed_before = recorder.errors.total()
            await recorder.ask(ask, next(source), sent)
            if recorder.errors.total() > failed_before:
                # Refusals come back at once; without a pause the loop would become a flood.
                await asyncio.sleep(0.01)

    await asyncio.gather(*(client() for _ in range(clients)))
    return recorder.result(f"{clients} client{'s' if clients > 1 else ''}")


async def open_loop(ask: Ask, texts: Sequence[str], rate: float, seconds: float) -> LoadResult:
    """Send queries at random times (a Poisson process), ``rate`` per second on average."""
    source, recorder, draw = cycle(texts), _Recorder(), random.Random(1)
    tasks: set[asyncio.Task[None]] = set()
    due = recorder.started
    # The schedule never waits for answers: a slow router must not reduce the load.
    while due - recorder.started < seconds:
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        tasks.add(asyncio.create_task(recorder.ask(ask, next(source), due)))
        due += draw.expovariate(rate)
    done, late = await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
    for task in done:
        task.result()
    for task in late:
        task.cancel()
    recorder.errors["unanswered"] += len(late)
    recorder.errors = +recorder.errors  # drops codes with a count of 0
    return recorder.result(f"{rate:g} a second")


async def measure(
    ask: Ask, texts: Sequence[str], clients: Sequence[int], rate: float | None, seconds: float
) -> list[LoadResult]:
    """Warm up, then run each load."""
    await closed_loop(ask, texts, max(clients, default=1), min(WARM_SECONDS_MAX, seconds))
    results: list[LoadResult] = []
    for count in clients:
        results.append(await closed_loop(ask, texts, count, seconds))
        if not results[0].answers:
            raise CheckFailed(f"no query was answered: {results[0].errors}")
    if rate is not None:
        results.append(await open_loop(ask, texts, rate, seconds))
    return results


@asynccontextmanager
async def connect_node(
    url: str, api_key: str | None, *, connections: int, cached: bool
) -> AsyncIterator[Ask]:
    from synaptoroute.client.library import httpx

    headers = {"User-Agent": f"synaptoroute/{__version__}"}
    if not cached:
        headers["Cache-Control"] = "no-cache"
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, pool=None)
    async with httpx.AsyncClient(
        base_url=url.rstrip("/"),
        headers=headers,
        limits=limits,
        timeout=timeout,
        verify=tls_context() or True,
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
async def start_router(
    router: AdaptiveRouter, routes: Sequence[Route], *, cached: bool
) -> AsyncIterator[Ask]:
    async def all_routes() -> AsyncIterator[Route]:
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
        await router.aimport(all_routes())
        yield ask
    finally:
        await router.stop()
