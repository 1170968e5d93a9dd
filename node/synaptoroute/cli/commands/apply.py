"""``synaptoroute plan``, ``apply`` and ``export``: route sets as files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.exit_codes import BadUsage, NodeRefused, one_line
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import note, print_json, print_line, printable
from synaptoroute.errors import SynaptoRouteError

if TYPE_CHECKING:
    from synaptoroute.cli.set_plan import AliasChangePlan, SetPlan
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
    from synaptoroute.cli.set_files import read_folders

    try:
        folders = read_folders(folder)
        with NodeClient(url, api_key) as client:
            plans, aliases = _read_plans(client, folders, set_name, prune)
        if markdown is not None:
            _write_markdown(markdown, plans, aliases)
    except SynaptoRouteError as error:
        if not detailed_exitcode:
            raise
        note(f"synaptoroute: error: {one_line(error)}")
        raise typer.Exit(ERROR_EXIT) from None
    if as_json:
        print_json(_document(plans, aliases))
    else:
        _show(plans, aliases)
    if detailed_exitcode and (aliases or not all(each.is_empty for each in plans)):
        raise typer.Exit(CHANGES_EXIT)


def apply(
    folder: Folder,
    set_name: SetName = None,
    prune: Prune = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the plan, as `plan` does.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    note_text: Annotated[
        str | None,
        typer.Option("--note", show_default=False, help="Why, for the history of the set."),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a route set what a folder says: all of it at one position, or nothing.

    A set that is not there is created. If somebody changed what the plan depends on, nothing is
    applied.
    """
    from synaptoroute.cli.set_applier import note_headers
    from synaptoroute.cli.set_files import read_folders

    note_headers(note_text)  # refuses a malformed note before anything is asked
    folders = read_folders(folder)
    with NodeClient(url, api_key) as client:
        plans, aliases = _read_plans(client, folders, set_name, prune)
        is_empty = not aliases and all(each.is_empty for each in plans)
        if not as_json:
            _show(plans, aliases)
        if not (is_empty or dry_run or yes):
            _confirm()
        versions = [] if is_empty or dry_run else _apply(client, plans, aliases, note_text)
    if as_json:
        print_json({**_document(plans, aliases), "versions": versions})
    elif versions:
        print_line(f"applied at {versions[-1]}")


def _apply(
    client: NodeClient,
    plans: list[SetPlan],
    aliases: list[AliasChangePlan],
    note_text: str | None,
) -> list[str]:
    """Apply set by set, then the aliases; return the version of each."""
    from synaptoroute.cli.set_applier import apply_alias, apply_plan

    versions = [apply_plan(client, each, note_text) for each in plans if not each.is_empty]
    return versions + [apply_alias(client, each, note_text) for each in aliases]


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise BadUsage("give --yes: there is no terminal to ask")
    typer.confirm("Apply?", abort=True, err=True)


def _read_plans(
    client: NodeClient, folders: SetFolders, set_name: str | None, prune: bool
) -> tuple[list[SetPlan], list[AliasChangePlan]]:
    from synaptoroute.cli.set_plan import plan_aliases
    from synaptoroute.cli.set_reader import read_aliases, require_sets

    chosen = chosen_sets(folders, set_name)
    plans = [_plan_of(client, name, each, prune) for name, each in chosen]
    wanted = (folders.aliases or {}) if set_name is None else {}
    aliases = plan_aliases(read_aliases(client, wanted), wanted)
    # Looked for before anything is applied: an alias comes last.
    named = {name for each in aliases for name in each.after.sets}
    require_sets(client, named - {name for name, _ in chosen})
    return plans, aliases


def _plan_of(client: NodeClient, name: str, wanted: RouteFolder, prune: bool) -> SetPlan:
    from synaptoroute.cli.set_plan import plan_set
    from synaptoroute.cli.set_reader import read_present

    return plan_set(name, read_present(client, name), wanted, prune=prune)


def chosen_sets(folders: SetFolders, set_name: str | None) -> list[tuple[str, RouteFolder]]:
    """The sets to plan, each with the name that it gets on the node."""
    from synaptoroute.core.mutation import DEFAULT_SET
    from synaptoroute.core.names import is_set_name

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


def _document(plans: list[SetPlan], aliases: list[AliasChangePlan]) -> dict[str, Any]:
    return {
        "has_changes": bool(aliases) or not all(each.is_empty for each in plans),
        "sets": [each.document() for each in plans],
        "aliases": [each.document() for each in aliases],
    }


def _show(plans: list[SetPlan], aliases: list[AliasChangePlan]) -> None:
    from synaptoroute.cli.set_plan import plan_lines, summary_line

    for each in plans:
        for line in plan_lines(each):
            print_line(f"  {_clean(line)}")
        print_line(_clean(summary_line(each)))
    for alias in aliases:
        print_line(f"  {_clean(alias.line())}")


def _clean(line: str) -> str:
    """A line without control characters, with its indent."""
    text = line.lstrip(" ")
    return " " * (len(line) - len(text)) + printable(text)


def _write_markdown(path: Path, plans: list[SetPlan], aliases: list[AliasChangePlan]) -> None:
    from synaptoroute.cli.set_files import write_file
    from synaptoroute.cli.set_plan import plan_lines, summary_line

    parts = []
    titled = [(summary_line(each), list(plan_lines(each))) for each in plans]
    if aliases:
        titled.append(("aliases", [each.line() for each in aliases]))
    for title, given in titled:
        lines = [_clean(line) for line in given]
        parts.append(f"**{_clean(title)}**\n")
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
