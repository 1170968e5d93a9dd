"""``synaptoroute sets`` and ``alias``: the route sets of a cluster, and what points to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from synaptoroute.cli.client import NodeClient, set_segment
from synaptoroute.cli.exit_codes import BadUsage
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import note, print_json, print_line, print_table

PAGE: Final = 100

SetName = Annotated[str, typer.Argument(help="Name of the route set.")]
AliasName = Annotated[str, typer.Argument(help="Name of the alias.")]
Note = Annotated[
    str | None, typer.Option("--note", show_default=False, help="Why, for the history.")
]
IfMatch = Annotated[
    str | None, typer.Option(show_default=False, help="Only if it is at this revision.")
]


def list_sets(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the route sets that the key may know."""
    with NodeClient(url, api_key) as client:
        found = list(_pages(client, "/v1/sets", "sets"))
    if as_json:
        print_json(found)
        return
    columns = ("set", "routes", "utterances", "revision", "aliases", "limits")
    rows = (
        (
            each["name"],
            str(each["routes"]),
            str(each["utterances"]),
            each["revision"],
            ", ".join(each["aliases"]) or "-",
            " ".join(f"{name}={value}" for name, value in each["limits"].items() if value) or "-",
        )
        for each in found
    )
    print_table(columns, rows, right=("routes", "utterances", "revision"))


def create(
    name: SetName,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="A limit, such as utterances_max=10000, routes_max, bytes_max, "
            "writes_per_second_max or write_bytes_per_second_max. May be given several times."
        ),
    ] = None,
    reason: Note = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create a route set, or replace the limits of one."""
    document: dict[str, Any] = {}
    if limit:
        document["limits"] = dict(map(_limit, limit))
    with NodeClient(url, api_key) as client:
        result = client.write("PUT", _set_path(name), document, headers=_headers(reason))
    _print(result, as_json, f"{name} is there")


def fork(
    name: SetName,
    into: Annotated[str, typer.Argument(help="Name of the copy.")],
    reason: Note = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Copy a route set with its routes, settings, tests and limits."""
    with NodeClient(url, api_key) as client:
        path = f"{_set_path(name)}/fork"
        result = client.write("POST", path, {"as": into}, headers=_headers(reason))
    _print(result, as_json, f"{into} is a copy of {name}: {result['count']} rows")


def rm(
    name: SetName,
    if_match: IfMatch = None,
    reason: Note = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Remove a route set with everything in it."""
    with NodeClient(url, api_key) as client:
        headers = _headers(reason, if_match)
        result = client.write("DELETE", _set_path(name), headers=headers)
    _print(result, as_json, f"{name} is removed")


def list_aliases(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the aliases that the key may know."""
    with NodeClient(url, api_key) as client:
        found = list(_pages(client, "/v1/aliases", "aliases"))
    if as_json:
        print_json(found)
        return
    columns = ("alias", "set", "shadow", "canary", "revision")
    rows = (
        (
            each["name"],
            each["set"],
            _with_share(each, "shadow"),
            _with_share(each, "canary"),
            each["revision"],
        )
        for each in found
    )
    print_table(columns, rows, right=("revision",))


def show_alias(
    name: AliasName, url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show an alias and its changes."""
    with NodeClient(url, api_key) as client:
        found = client.get(_alias_path(name))
    if as_json:
        print_json(found)
        return
    print_line(f"{found['name']}: {found['set']}")
    for label in ("shadow", "canary"):
        if found[label]:
            print_line(f"  {label}     {_with_share(found, label)}")
    print_line(f"  revision   {found['revision']}")
    columns = ("version", "from", "to", "author", "note")
    rows = (
        (
            each["version"],
            each["before"] or "-",
            each["set"],
            each["author"] or "-",
            each["note"] or "",
        )
        for each in found["history"]
    )
    print_table(columns, rows)


def set_alias(
    name: AliasName,
    target: Annotated[str, typer.Argument(metavar="SET", help="The set that answers.")],
    shadow: Annotated[
        str | None,
        typer.Option(show_default=False, help="Score this set as well, without answering."),
    ] = None,
    shadow_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the queries for the shadow.")
    ] = 1.0,
    canary: Annotated[
        str | None, typer.Option(show_default=False, help="Let this set answer some sessions.")
    ] = None,
    canary_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the sessions for the canary.")
    ] = 0.05,
    if_match: IfMatch = None,
    reason: Note = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a route set, on every node at one position.

    What is not given is taken away: without --shadow nothing is shadowed any more.
    """
    document: dict[str, Any] = {"set": target}
    for label, other, share in (("shadow", shadow, shadow_share), ("canary", canary, canary_share)):
        if other is not None:
            document |= {label: other, f"{label}_share": share}
    with NodeClient(url, api_key) as client:
        headers = _headers(reason, if_match)
        result = client.write("PUT", _alias_path(name), document, headers=headers)
    _print(result, as_json, f"{name} points to {target}")


def rm_alias(
    name: AliasName,
    if_match: IfMatch = None,
    reason: Note = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Remove an alias; the sets stay."""
    with NodeClient(url, api_key) as client:
        headers = _headers(reason, if_match)
        result = client.write("DELETE", _alias_path(name), headers=headers)
    _print(result, as_json, f"{name} is removed")


def _pages(client: NodeClient, path: str, field: str) -> Iterator[dict[str, Any]]:
    parameters: dict[str, str | int] = {"limit": PAGE}
    while True:
        page = client.get(path, **parameters)
        yield from page[field]
        if not page["next_after"]:
            return
        parameters["after"] = page["next_after"]


def _limit(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not (value.isascii() and value.isdigit()):
        raise BadUsage(f"--limit: {text!r} is not a name and a whole number, such as routes_max=50")
    return name, int(value)


def _headers(reason: str | None, if_match: str | None = None) -> dict[str, str]:
    headers = {} if reason is None else {"SR-Note": reason}
    if if_match is not None:
        headers["If-Match"] = f'"{if_match.strip(chr(34))}"'
    return headers


def _with_share(alias: dict[str, Any], label: str) -> str:
    return f"{alias[label]} at {alias[f'{label}_share']:g}" if alias[label] else "-"


def _print(result: dict[str, Any], as_json: bool, line: str) -> None:
    if as_json:
        print_json(result)
        return
    note(f"{line}, version {result['version']}")


def _set_path(name: str) -> str:
    return f"/v1/sets/{set_segment(name)}"


def _alias_path(name: str) -> str:
    return f"/v1/aliases/{set_segment(name)}"
