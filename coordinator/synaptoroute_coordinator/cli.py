"""The command ``synaptoroute-coordinator``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from synaptoroute.errors import ConfigError, SynaptoRouteError
from synaptoroute.version import __version__
from synaptoroute_coordinator.config import ENV_PREFIX, CoordinatorConfig

USAGE = 2
FAILED = 3

app = typer.Typer(
    name="synaptoroute-coordinator",
    help="Monitor a cluster and keep it healthy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"synaptoroute-coordinator {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Monitor a cluster and keep it healthy."""


@app.command("serve")
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="TCP port.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Address of Redis.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Name of the cluster's log.")] = None,
) -> None:
    """Serve one coordinator until it is stopped.

    Every other setting is an environment variable SYNAPTOROUTE_COORDINATOR_...; see
    docs/coordinator.md.  Several may run for one cluster: one acts, the others stand by.
    """
    given = {"host": host, "port": port, "redis_url": redis_url, "namespace": namespace}
    try:
        chosen: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        config = CoordinatorConfig(**chosen)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        typer.echo(f"{ENV_PREFIX}{name.upper()}: {first['msg']}", err=True)
        raise typer.Exit(USAGE) from None
    # Imported late, so that --help does not load the HTTP framework.
    from synaptoroute_coordinator.app.app import serve as serve_coordinator

    try:
        serve_coordinator(config)
    except SynaptoRouteError as error:
        typer.echo(f"synaptoroute-coordinator: error: {error.message}", err=True)
        raise typer.Exit(FAILED) from None


@app.command("fetch-backup")
def fetch(
    name: Annotated[str, typer.Argument(help="Name of the backup, without suffix.")],
    into: Annotated[Path, typer.Option(help="Target folder.")],
) -> None:
    """Download a backup from the configured store and verify it.

    `synaptoroute restore` makes a node's database from it.
    """
    from synaptoroute_coordinator.actions.backups import fetch_backup
    from synaptoroute_coordinator.app.app import open_backup_store

    async def download() -> None:
        store = open_backup_store(CoordinatorConfig())
        if store is None:
            raise ConfigError("no place for backups is set (backup_folder, backup_bucket)")
        try:
            backup = await fetch_backup(store, name, into)
        finally:
            await store.close()
        typer.echo(f"{into / backup.name}.sqlite at {backup.version}, {backup.size_bytes} bytes")

    try:
        asyncio.run(download())
    except (SynaptoRouteError, OSError) as error:
        typer.echo(f"synaptoroute-coordinator: error: {error}", err=True)
        raise typer.Exit(FAILED) from None


def main() -> None:
    app()
