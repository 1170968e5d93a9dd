"""``synaptoroute sets export`` and ``import``: whole route sets in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.exit_codes import BadUsage, NodeRefused
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import print_json, print_line

if TYPE_CHECKING:
    from synaptoroute.importers.folder import SetFolders


def export(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", show_default=False, help="Route sets.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", dir_okay=False, show_default=False, help="The archive to write."),
    ],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Write whole route sets into one archive: routes, settings, tests, limits and aliases.

    Equal sets give equal bytes. The aliases are those that name no other set.
    """
    from synaptoroute.cli.set_files import tar_of, write_file
    from synaptoroute.cli.set_reader import aliases_of, folder_of, read_present
    from synaptoroute.importers.folder import SetFolders

    wanted = sorted(set(names))
    folders = []
    with NodeClient(url, api_key) as client:
        for name in wanted:
            present = read_present(client, name)
            if not present.exists:
                raise NodeRefused(
                    f"there is no route set {name!r}", code="set_not_found", status=404
                )
            folder = folder_of(name, present)
            folder.name = name
            folders.append(folder)
        aliases = aliases_of(client, wanted)
    body = tar_of(SetFolders(folders, aliases or None, is_several=True))
    write_file(out, body)
    routes = sum(len(each.routes) for each in folders)
    if as_json:
        print_json({"sets": wanted, "routes": routes, "aliases": sorted(aliases)})
        return
    print_line(f"{out}: {len(wanted)} sets, {routes} routes, {len(aliases)} aliases")


def import_(
    file: Annotated[
        Path, typer.Argument(exists=True, help="An archive of `sets export`, or its folder.")
    ],
    as_name: Annotated[
        str | None,
        typer.Option("--as", show_default=False, help="Import the only set under this name."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make sets that exist what the archive says.")
    ] = False,
    note_text: Annotated[
        str | None,
        typer.Option("--note", show_default=False, help="Why, for the history of the set."),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create route sets from an archive, each at one position, and then their aliases.

    Sets that exist are refused before anything is written, unless --replace is given.
    """
    from synaptoroute.cli.set_applier import apply_alias, apply_plan, note_headers
    from synaptoroute.cli.set_files import read_folders
    from synaptoroute.cli.set_plan import plan_aliases, plan_set
    from synaptoroute.cli.set_reader import read_aliases, read_present

    note_headers(note_text)  # refuses a malformed note before anything is asked
    folders = _named(read_folders(file), as_name)
    with NodeClient(url, api_key) as client:
        present = {each.name: read_present(client, each.name) for each in folders.sets}
        known = read_aliases(client, folders.aliases or {})
        taken = [name for name, found in present.items() if found.exists and found.routes]
        if not replace and (taken or known):
            first = (taken or list(known))[0]
            raise NodeRefused(
                f"{first!r} exists: --replace makes it what the archive says",
                code="set_exists",
                status=409,
            )
        plans = [plan_set(each.name, present[each.name], each, prune=True) for each in folders.sets]
        aliases = plan_aliases(known, folders.aliases or {})
        versions = [apply_plan(client, plan, note_text) for plan in plans if not plan.is_empty]
        versions += [apply_alias(client, alias, note_text) for alias in aliases]
    if as_json:
        print_json(
            {
                "sets": [each.name for each in folders.sets],
                "aliases": [each.name for each in aliases],
                "version": versions[-1] if versions else None,
            }
        )
        return
    for each in folders.sets:
        print_line(f"{each.name}: {len(each.routes)} routes")
    for alias in aliases:
        print_line(alias.line())
    print_line(f"at {versions[-1]}" if versions else "nothing to do")


def _named(folders: SetFolders, as_name: str | None) -> SetFolders:
    """The sets of an archive, each with a name: its own, or the one that is given."""
    from synaptoroute.core.names import is_set_name
    from synaptoroute.importers.folder import SetFolders

    if as_name is not None:
        if len(folders.sets) != 1 or not is_set_name(as_name):
            raise BadUsage("--as takes the name of a set, for an archive of one set")
        folders.sets[0].name = as_name
        return SetFolders(folders.sets)
    if any(not each.name for each in folders.sets):
        raise BadUsage("the archive does not name its set: give a name with --as")
    return folders
