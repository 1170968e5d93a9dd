"""``history``, ``revert``, ``tests``, ``diff``, ``promote``, ``rollback``: changes made safely."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.commands.routes import IfMatch, precondition_headers
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import Cell, print_json, print_line, print_table

HISTORY_SHOWN_MAX: Final = 500

Note = Annotated[
    str | None,
    typer.Option(
        "--note", "-m", show_default=False, help="What to say about the change in the history."
    ),
]


def note_headers(message: str | None) -> dict[str, str]:
    """The header that carries a note."""
    return {} if message is None else {"SR-Note": message}


def history(
    route: Annotated[
        str | None, typer.Argument(show_default=False, help="Only changes of this route.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=HISTORY_SHOWN_MAX, help="Most entries.")] = 50,
    before: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="Only entries before this seq.")
    ] = None,
    show_changes: Annotated[
        bool, typer.Option("--changes", help="Show what was before and after, as JSON.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show who changed what and when, newest first, as far as the node keeps entries.

    The author is the name of the API key; `-` for a client without one.
    """
    entries: list[dict[str, Any]] = []
    with NodeClient(url, api_key) as client:
        while len(entries) < limit:
            asked = {"limit": limit - len(entries), "before": before, "route": route}
            asked["changes"] = "true" if as_json or show_changes else "false"
            given = {name: value for name, value in asked.items() if value is not None}
            page = client.get("/v1/history", **given)
            entries += page["entries"]
            before = page["next_before"]
            if before is None:
                break
    if as_json or show_changes:
        print_json({"entries": entries, "next_before": before})
        return
    rows: list[tuple[Cell, ...]] = [
        (
            each["version"],
            each["at"],
            each["author"] or "-",
            each["action"],
            _subject_of(each),
            each["code"] or each["status"],
            each.get("note") or "",
        )
        for each in entries
    ]
    print_table(("version", "at", "author", "action", "of", "outcome", "note"), rows)


def _subject_of(entry: dict[str, Any]) -> str:
    """The subject of an entry: a route, an import, an alias or a set."""
    named = entry["route"] or entry.get("alias") or entry["import_id"]
    route_set = entry.get("route_set") or ""
    if route_set in ("", "default"):
        return named or ""
    return f"{route_set}: {named}" if named else str(route_set)


def revert(
    version: Annotated[
        str, typer.Argument(show_default=False, help="The change; see `synaptoroute history`.")
    ],
    if_match: IfMatch = None,
    message: Note = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Restore what one change changed, by a new change.

    It is refused where a later change concerns the same route, unless --if-match names the
    present revision of the route.
    """
    with NodeClient(url, api_key) as client:
        path = f"/v1/history/{version}/revert"
        headers = {**precondition_headers(if_match, False), **note_headers(message)}
        result = client.write("POST", path, headers=headers)
    if as_json:
        print_json(result)
        return
    print_line(f"reverted {version} by {result['version'] or 'a change that is pending'}")
