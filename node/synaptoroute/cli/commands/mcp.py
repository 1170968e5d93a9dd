"""``synaptoroute mcp``: the routes as tools for agents, over the Model Context Protocol."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from synaptoroute.cli.exit_codes import BadUsage, ExitCode
from synaptoroute.cli.options import (
    DEFAULT_URL,
    ApiKey,
    EncoderPrecision,
    Model,
    RoutesFile,
    Url,
    tls_context,
)
from synaptoroute.cli.query_backend import open_empty_router
from synaptoroute.errors import ConfigError, RouteError

if TYPE_CHECKING:
    from synaptoroute.integrations.backends import Backend
    from synaptoroute.models import Route
    from synaptoroute.router import AdaptiveRouter
    from synaptoroute.web.api_keys import ApiKeys

DEFAULT_PORT: Final = 8765
CALL_SECONDS: Final = 30.0
Serve = Callable[["Backend"], Awaitable[object]]
"""Serves a backend; False if the address cannot be used."""


def mcp(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    routes: RoutesFile = None,
    transport: Annotated[
        Literal["stdio", "http"],
        typer.Option("--transport", help="stdio for a client that starts this command."),
    ] = "stdio",
    host: Annotated[str, typer.Option(help="Address to listen on, with --transport http.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on.")] = DEFAULT_PORT,
    api_keys_file: Annotated[
        Path | None,
        typer.Option(
            "--api-keys-file",
            exists=True,
            dir_okay=False,
            show_default=False,
            help="Keys of the clients, as a node has them; needed unless --host is loopback.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            show_default=False,
            help="Name by which clients know this server, beside those of loopback.",
        ),
    ] = None,
    model: Model = None,
    precision: EncoderPrecision = "auto",
) -> None:
    """Serve the tools route, explain and list_routes to an agent (MCP).

    Asks the nodes of a cluster (addresses separated by commas), or with --routes a router in
    this process. With a key that allows writes there are tools that change routes as well.
    """
    try:
        from synaptoroute.integrations.mcp_server import HttpAddress, serve_http, serve_stdio
    except ImportError as error:
        raise BadUsage(str(error)) from error
    from synaptoroute.web.logs import configure_logs, server_log

    configure_logs("info", "text" if sys.stderr.isatty() else "json", sys.stderr)
    log = server_log()
    serve: Serve = partial(serve_stdio, log=log)
    if transport == "http":
        keys = _read_keys(host, api_keys_file)
        address = HttpAddress(host, port, tuple(allowed_host or ()))
        serve = partial(serve_http, address=address, keys=keys, log=log)
    if routes is None:
        has_served = asyncio.run(_serve_cluster(url, api_key, serve))
    else:
        with open_empty_router(routes, model, precision) as (router, found):
            has_served = asyncio.run(_serve_file(router, found, serve))
    if has_served is False:
        raise typer.Exit(ExitCode.UNREACHABLE)


def _read_keys(host: str, path: Path | None) -> ApiKeys | None:
    from synaptoroute.web.api_keys import ApiKeys
    from synaptoroute.web.http_server import check_exposure

    check_exposure(
        host,
        has_keys=path is not None,
        insecure=False,
        ways_out="give --api-keys-file (see `synaptoroute keys new`), or listen on 127.0.0.1",
    )
    return None if path is None else ApiKeys(path)


async def _serve_cluster(urls: str, api_key: str | None, serve: Serve) -> object:
    from synaptoroute.client import AsyncClient, RetryPolicy
    from synaptoroute.integrations.backends import ClusterBackend

    try:
        client = AsyncClient(
            urls,
            api_key=api_key or "",
            timeout_seconds=CALL_SECONDS,
            # An agent waits: it is told at once that nobody listens at any address.
            retry=RetryPolicy(retries_refused_connections=False),
            tls=tls_context(),
        )
    except ConfigError as error:
        raise BadUsage(error.message) from error
    async with client:
        return await serve(ClusterBackend(client))


async def _serve_file(router: AdaptiveRouter, routes: Sequence[Route], serve: Serve) -> object:
    from synaptoroute.integrations.backends import EmbeddedBackend

    for route in routes:
        router.add_route(route)
    await router.start()
    try:
        # Without a fit the first answers would differ from later ones.
        with suppress(RouteError):  # it is too small to be fitted
            await router.fits.fit_now()
        return await serve(EmbeddedBackend(router))
    finally:
        await router.stop()
