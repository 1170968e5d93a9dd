"""``synaptoroute routes import``: many routes at once, or a look at what would change."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import Cell, note, print_json, print_line, print_table, progress

if TYPE_CHECKING:
    from synaptoroute.cli.route_diff import RouteDiff
    from synaptoroute.models import Route

_PIECE_BYTES: Final = 65_536


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="YAML, JSON or NDJSON; files of semantic-router and RedisVL are recognised.",
        ),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove the routes that the file does not name.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    import_id: Annotated[
        str | None,
        typer.Option(show_default=False, help="Go on with an import that broke off."),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Import routes from a file: all become visible at once, or none."""
    from synaptoroute.cli.route_files import read_route_file

    content = read_route_file(file)
    for text in content.notes:
        note(f"{file.name}: {text}")
    with NodeClient(url, api_key) as client:
        if dry_run:
            _show_diff(_diff(client, content.routes, replace), as_json)
            return
        result = _upload(client, content.routes, replace, import_id)
    if as_json:
        print_json(result)
    else:
        at = result["version"] or "a place not known yet: see `routes list`"
        print_line(
            f"imported {len(content.routes)} routes, {result['utterances']} utterances at {at}: "
            f"{result['routes']} routes changed"
        )


def _upload(
    client: NodeClient, routes: Sequence[Route], replace: bool, import_id: str | None
) -> Any:
    """Stream the routes; the bar counts routes that were sent."""
    parameters = {"import_id": import_id or uuid.uuid4().hex}
    if replace:
        parameters["replace"] = "true"
    with progress("Importing", len(routes)) as step:
        return client.upload(
            "/v1/import",
            lambda: _pieces(routes, step),
            "application/x-ndjson",
            **parameters,
        )


def _pieces(routes: Iterable[Route], step: Callable[[int], None]) -> Iterator[bytes]:
    """Pack lines into pieces, so that small routes do not each cost a packet."""
    from synaptoroute.cli.route_files import ndjson_line

    piece = bytearray()
    for route in routes:
        piece += ndjson_line(route)
        step(1)
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _diff(client: NodeClient, routes: Sequence[Route], replace: bool) -> RouteDiff:
    from synaptoroute.cli.route_diff import compare
    from synaptoroute.cli.route_files import plain

    return compare(client.routes(), (plain(route) for route in routes), replace=replace)


def _show_diff(diff: RouteDiff, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "created": diff.created,
                "changed": [{"route": name, "what": what} for name, what in diff.changed],
                "unchanged": diff.unchanged,
                "removed": diff.removed,
            }
        )
        return
    rows: list[tuple[Cell, ...]] = [(("create", "ok"), name, "") for name in diff.created]
    rows += [(("change", "warn"), name, what) for name, what in diff.changed]
    rows += [(("remove", "fail"), name, "") for name in diff.removed]
    if rows:
        print_table(("change", "route", "what"), rows)
    print_line(
        f"would create {len(diff.created)}, change {len(diff.changed)}, "
        f"remove {len(diff.removed)}, leave {len(diff.unchanged)}"
    )
