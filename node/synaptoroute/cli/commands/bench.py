"""``synaptoroute bench``: how many queries a second, and how soon?"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synaptoroute.cli.options import (
    DEFAULT_URL,
    ApiKey,
    AsJson,
    EncoderPrecision,
    Model,
    RoutesFile,
    Url,
)
from synaptoroute.cli.terminal import note, print_json, print_table, waiting
from synaptoroute.version import __version__

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from synaptoroute.cli.bench import Ask, Figures

CLIENTS_MAX = 1_024
RATE_PER_SECOND_MAX = 100_000.0
SECONDS_MAX = 3_600.0
_CLIENTS = [1, 64]
_BUSY_SHARE = 0.9


def bench(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="Queries: text, tab, route; routes are not looked at."
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
            help="Also send so many a second, open loop.",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=SECONDS_MAX, help="Length of each load.")
    ] = 5.0,
    cached: Annotated[
        bool, typer.Option("--cached", help="Let queries be answered from the cache.")
    ] = False,
    model: Model = None,
    precision: EncoderPrecision = "auto",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Measure throughput and latency of queries.

    Asks a node, or with --routes a router in this process.
    """
    from synaptoroute.cli.bench import asking_node, asking_router, measure
    from synaptoroute.cli.labelled import read_labelled
    from synaptoroute.cli.query_backend import open_unstarted

    texts = list(dict.fromkeys(query.text for query in read_labelled(file)))
    counts = clients or _CLIENTS

    async def run(asking: AbstractAsyncContextManager[Ask]) -> list[Figures]:
        async with asking as ask:
            return await measure(ask, texts, counts, rate, seconds)

    with waiting("Measuring ..."):
        if routes is None:
            at_node = asking_node(url, api_key, connections=max(counts), cached=cached)
            found = asyncio.run(run(at_node))
        else:
            with open_unstarted(routes, model, precision) as (router, read):
                found = asyncio.run(run(asking_router(router, read, cached=cached)))
    if as_json:
        where = url if routes is None else routes.name
        loads = [asdict(each) for each in found]
        print_json({"release": __version__, "asked": where, "cached": cached, "loads": loads})
        return
    _show(found)
    if routes is None and max(each.client_cpu_share for each in found) > _BUSY_SHARE:
        note("this process was busy all the time: the node may be faster than shown")


def _show(found: list[Figures]) -> None:
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
            for each in found
        ),
        right=("queries/s", *(f"{name} ms" for name in names)),
    )
