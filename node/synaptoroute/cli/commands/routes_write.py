"""``synaptoroute routes put`` and ``rm``: one route."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from synaptoroute.cli.client import NodeClient, route_path
from synaptoroute.cli.exit_codes import BadUsage
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import print_json, print_line

IfMatch = Annotated[
    str | None,
    typer.Option(show_default=False, help="Only if the route stands at this revision."),
]


def put(
    name: Annotated[
        str | None,
        typer.Argument(show_default=False, help="Name of the route, where no file is given."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", dir_okay=False, show_default=False, help="Routes to put."),
    ] = None,
    utterance: Annotated[
        list[str] | None,
        typer.Option("--utterance", "-u", show_default=False, help="An example; repeat it."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=-1.0, max=1.0, show_default="the default one", help="Own threshold."),
    ] = None,
    payload: Annotated[
        str | None,
        typer.Option(show_default=False, help="JSON that is returned with every match."),
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(show_default=False, help="JSON object for people and tools.")
    ] = None,
    if_match: IfMatch = None,
    if_new: Annotated[
        bool, typer.Option("--if-new", help="Only if no route has the name yet.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create a route, or replace all of it; from options or from a file."""
    if (file is None) == (name is None):
        raise BadUsage("give either a name with -u, or --file")
    if file is not None:
        if utterance or payload or metadata or threshold is not None:
            raise BadUsage("--file brings the whole route: other options do not go with it")
        routes = _from_file(file)
    else:
        assert name is not None
        routes = [_from_options(name, utterance or [], threshold, payload, metadata)]
    if len(routes) > 1 and if_match is not None:
        raise BadUsage("--if-match goes with a single route")
    headers = _conditions(if_match, if_new)
    with NodeClient(url, api_key) as client:
        results = [_put(client, route, headers) for route in routes]
    if as_json:
        print_json(results if file is not None else results[0])
        return
    for route, result in zip(routes, results, strict=True):
        print_line(f"{route['name']}: {result['status']} at {result['version']}")


def rm(
    name: Annotated[list[str], typer.Argument(help="Names of routes.")],
    if_match: IfMatch = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Remove routes."""
    if len(name) > 1 and if_match is not None:
        raise BadUsage("--if-match goes with a single route")
    headers = _conditions(if_match, False)
    results = []
    with NodeClient(url, api_key) as client:
        for each in name:
            results.append(client.write("DELETE", route_path(each), headers=headers))
            if not as_json:
                print_line(f"{each}: removed at {results[-1]['version']}")
    if as_json:
        print_json(results)


def _put(client: NodeClient, route: dict[str, Any], headers: dict[str, str]) -> Any:
    return client.write("PUT", route_path(route["name"]), route, headers=headers)


def _conditions(if_match: str | None, if_new: bool) -> dict[str, str]:
    """Conditions as HTTP headers."""
    headers = {}
    if if_match is not None:
        headers["If-Match"] = f'"{if_match.strip(chr(34))}"'
    if if_new:
        headers["If-None-Match"] = "*"
    return headers


def _from_file(file: Path) -> list[dict[str, Any]]:
    from synaptoroute.cli.route_files import plain, read_route_file

    return [plain(route) for route in read_route_file(file).routes]


def _from_options(
    name: str,
    utterances: list[str],
    threshold: float | None,
    payload: str | None,
    metadata: str | None,
) -> dict[str, Any]:
    """Build a route; what is malformed in it, the node says."""
    if not utterances:
        raise BadUsage("give at least one example with -u")
    route: dict[str, Any] = {"name": name, "utterances": utterances}
    if threshold is not None:
        route["threshold"] = threshold
    for key, text in (("payload", payload), ("metadata", metadata)):
        if text is not None:
            route[key] = _json_option(key, text)
    return route


def _json_option(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadUsage(f"--{key} is not JSON: {error}") from error
