"""``synaptoroute keys new``: make an API key."""

from __future__ import annotations

from typing import Annotated

import typer

from synaptoroute.cli.options import AsJson
from synaptoroute.cli.terminal import note, print_json, print_line


def new(
    name: Annotated[str, typer.Option(help="Whose key it is; appears in the node's log.")],
    scopes: Annotated[
        str, typer.Option(help="read, write, admin: one or several, with commas.")
    ] = "read",
    as_json: AsJson = False,
) -> None:
    """Make an API key and the line for the node's file of keys.

    The key is shown once; the file holds only its hash.
    """
    from synaptoroute.web.keys import key_line, make_key

    key = make_key()
    line = key_line(key, [scope.strip() for scope in scopes.split(",")], name)
    if as_json:
        print_json({"key": key, "line": line})
        return
    note("The key, shown only now (clients send it as: Authorization: Bearer KEY):")
    print_line(key)
    note("The line for the file that SYNAPTOROUTE_API_KEYS_FILE names:")
    print_line(line)
