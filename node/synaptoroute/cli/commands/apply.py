"""``synaptoroute plan``, ``apply`` and ``export``: route sets as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.exit_codes import BadUsage, NodeRefused, one_line
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import note, print_json, print_line, printable
from synaptoroute.errors import SynaptoRouteError

if TYPE_CHECKING:
    from synaptoroute.cli.set_plan import SetPlan
    from synaptoroute.importers.folder import RouteFolder, SetFolders

CHANGES_EXIT: Final = 2
ERROR_EXIT: Final = 1
MARKDOWN_CHARACTERS_MAX: Final = 60_000
"""GitHub takes comments of up to 65,536 characters."""

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", exists=True, help="A folder with one YAML file a route, or an archive of it."
    ),
]
SetName = Annotated[
    str | None,
    typer.Option(
        "--set",
        envvar="SYNAPTOROUTE_SET",
        show_default="the name in set.yaml, else default",
        help="The route set.",
    ),
]
Prune = Annotated[
    bool,
    typer.Option("--prune", help="Also delete routes and tests that the folder does not have."),
]


def plan(
    folder: Folder,
    set_name: SetName = None,
    prune: Prune = False,
    detailed_exitcode: Annotated[
        bool,
        typer.Option(
            "--detailed-exitcode", help="Exit with 0 for no changes, 2 for changes, 1 for errors."
        ),
    ] = False,
    markdown: Annotated[
        Path | None,
        typer.Option(
            "--markdown", dir_okay=False, show_default=False, help="Also write it as Markdown here."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show what `apply` would change; changes nothing."""
    try:
        plans = _plans(folder, set_name, prune, url, api_key)
        if markdown is not None:
            _write_markdown(markdown, plans)
    except SynaptoRouteError as error:
        if not detailed_exitcode:
            raise
        note(f"synaptoroute: error: {one_line(error)}")
        raise typer.Exit(ERROR_EXIT) from None
    if as_json:
        print_json(_document(plans))
    else:
        _show(plans)
    if detailed_exitcode and not all(each.is_empty for each in plans):
        raise typer.Exit(CHANGES_EXIT)


def _plans(
    folder: Path, set_name: str | None, prune: bool, url: str, api_key: str | None
) -> list[SetPlan]:
    from synaptoroute.cli.set_files import read_folders

    folders = read_folders(folder)
    wanted = chosen_sets(folders, set_name)
    with NodeClient(url, api_key) as client:
        return [_plan_of(client, name, each, prune) for name, each in wanted]


def _plan_of(client: NodeClient, name: str, wanted: RouteFolder, prune: bool) -> SetPlan:
    from synaptoroute.cli.set_plan import plan_set
    from synaptoroute.cli.set_reader import read_present

    return plan_set(name, read_present(client, name), wanted, prune=prune)


def chosen_sets(folders: SetFolders, set_name: str | None) -> list[tuple[str, RouteFolder]]:
    """The sets to plan, each with the name that it gets on the node."""
    from synaptoroute.core.mutation import DEFAULT_SET
    from synaptoroute.importers.folder import is_set_name

    if set_name is not None and not is_set_name(set_name):
        raise BadUsage(f"--set: {set_name!r} is not the name of a set")
    if not folders.is_several:
        (only,) = folders.sets
        return [(set_name or only.name or DEFAULT_SET, only)]
    if set_name is None:
        return [(each.name, each) for each in folders.sets]
    found = [(each.name, each) for each in folders.sets if each.name == set_name]
    if not found:
        names = ", ".join(each.name for each in folders.sets)
        raise BadUsage(f"--set: the folder has no set {set_name!r}; it has {names}")
    return found


def _document(plans: list[SetPlan]) -> dict[str, Any]:
    return {
        "has_changes": not all(each.is_empty for each in plans),
        "sets": [each.document() for each in plans],
    }


def _show(plans: list[SetPlan]) -> None:
    from synaptoroute.cli.set_plan import plan_lines, summary_line

    for each in plans:
        for line in plan_lines(each):
            print_line(f"  {_clean(line)}")
        print_line(_clean(summary_line(each)))


def _clean(line: str) -> str:
    """A line without control characters, with its indent."""
    text = line.lstrip(" ")
    return " " * (len(line) - len(text)) + printable(text)


def _write_markdown(path: Path, plans: list[SetPlan]) -> None:
    from synaptoroute.cli.set_files import write_file
    from synaptoroute.cli.set_plan import plan_lines, summary_line

    parts = []
    for each in plans:
        lines = [_clean(line) for line in plan_lines(each)]
        parts.append(f"**{_clean(summary_line(each))}**\n")
        if lines:
            fence = _fence(lines)
            shown = "\n".join(
                line.replace("~", "!", 1) if line[:1] == "~" else line for line in lines
            )
            parts.append(f"{fence}diff\n{shown}\n{fence}\n")
    text = "\n".join(["### Plan of the route set\n", *parts])
    if len(text) > MARKDOWN_CHARACTERS_MAX:
        summaries = "\n".join(f"- {_clean(summary_line(each))}" for each in plans)
        text = (
            f"### Plan of the route set\n\n{summaries}\n\nThe plan is too long to be shown here.\n"
        )
    write_file(path, text.encode())


def _fence(lines: list[str]) -> str:
    """A fence that is longer than any run of backticks in the lines."""
    longest = run = 0
    for mark in "\n".join(lines):
        run = run + 1 if mark == "`" else 0
        longest = max(longest, run)
    return "`" * max(3, longest + 1)


def export(
    out: Annotated[
        Path,
        typer.Option("--out", file_okay=False, show_default=False, help="The folder to write."),
    ],
    set_name: SetName = None,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Remove files of the folder that the node does not have."),
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Write a route set as a folder that `apply` reads, one file a route.

    Equal sets give equal files. Files whose content is equal stay as they are.
    """
    from synaptoroute.cli.set_files import write_folders
    from synaptoroute.cli.set_reader import folder_of, read_present
    from synaptoroute.core.mutation import DEFAULT_SET
    from synaptoroute.importers.folder import SetFolders

    name = set_name or DEFAULT_SET
    with NodeClient(url, api_key) as client:
        present = read_present(client, name)
    if not present.exists:
        raise NodeRefused(f"there is no route set {name!r}", code="set_not_found", status=404)
    changes = write_folders(out, SetFolders([folder_of(name, present)]), prune=prune)
    if as_json:
        print_json(
            {
                "set": name,
                "routes": len(present.routes),
                "written": sorted(changes.written),
                "removed": list(changes.removed),
                "kept": changes.kept,
            }
        )
        return
    print_line(
        f"{out}: {len(present.routes)} routes of the set {name}; {len(changes.written)} files "
        f"written, {changes.kept} unchanged, {len(changes.removed)} removed"
    )
