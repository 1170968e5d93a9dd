"""``synaptoroute routes list``, ``show`` and ``export``: what a node holds."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from synaptoroute.cli.client import NodeClient, route_path
from synaptoroute.cli.exit_codes import BadUsage, FileRejected
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import note, number, print_json, print_line, print_table, progress

FORMATS = {
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "yaml": "application/yaml",
}
_FORMAT_BY_SUFFIX = {".jsonl": "ndjson", ".yml": "yaml", **{f".{name}": name for name in FORMATS}}


def list_routes(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the routes of a node."""
    with NodeClient(url, api_key) as client:
        routes = list(client.routes())
    if as_json:
        print_json(routes)
        return
    print_table(
        ("route", "utterances", "threshold", "revision"),
        (
            (
                route["name"],
                str(len(route["utterances"])),
                number(route["effective_threshold"])
                + (" default" if route["threshold"] is None else " own    "),
                route["revision"],
            )
            for route in routes
        ),
        right=("utterances", "threshold", "revision"),
    )
    note(f"{len(routes)} routes, {sum(len(route['utterances']) for route in routes)} utterances")


def show(
    name: Annotated[str, typer.Argument(help="Name of the route.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show one route with its utterances."""
    with NodeClient(url, api_key) as client:
        route = client.get(route_path(name))
    if as_json:
        print_json(route)
        return
    kind = "default" if route["threshold"] is None else "own"
    print_line(route["name"])
    print_line(f"  revision   {route['revision']}")
    print_line(f"  threshold  {number(route['effective_threshold'])} ({kind})")
    for key in ("metadata", "payload"):
        if route[key]:
            print_line(f"  {key:<10} {json.dumps(route[key], ensure_ascii=False)}")
    print_table(("utterance",), ((text,) for text in route["utterances"]))


def export(
    file: Annotated[
        Path | None,
        typer.Argument(show_default=False, help="Where to write; standard output if absent."),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", show_default=False, help="ndjson, json or yaml; else the suffix."),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Write all routes as a file that import takes back.

    A file appears whole or not at all.
    """
    media_type = FORMATS[_format(file, format_)]
    with NodeClient(url, api_key) as client, client.download("/v1/export", media_type) as pieces:
        if file is None:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        beside = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            with beside.open("wb") as output, progress("Exporting, bytes", None) as step:
                for piece in pieces:
                    output.write(piece)
                    step(len(piece))
            beside.replace(file)
        except OSError as error:
            raise FileRejected(f"{file} cannot be written: {error.strerror}") from error
        finally:
            beside.unlink(missing_ok=True)


def _format(file: Path | None, wished: str | None) -> str:
    """Choose the format by option, then by suffix."""
    if wished is None:
        return _FORMAT_BY_SUFFIX.get(file.suffix.lower(), "ndjson") if file else "ndjson"
    if wished not in FORMATS:
        raise BadUsage(f"--format must be one of {', '.join(FORMATS)}, got {wished!r}")
    return wished
