"""Route files: ours in YAML, JSON and NDJSON, and those of other routers.

The values are read and checked by the same code as the node's own imports, so what
passes here passes there.  A file may carry ``version: 1`` beside ``routes``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from synaptoroute.cli.exit_codes import FileRejected
from synaptoroute.cli.importers import convert, kind_of
from synaptoroute.cli.plain_files import read_bytes
from synaptoroute.errors import InvalidRoute, SynaptoRouteError
from synaptoroute.models import Route
from synaptoroute.server.documents import KIND_BY_SUFFIX, parse_yaml, read_route
from synaptoroute.server.json_text import parse_json

FILE_BYTES_MAX: Final = 1_073_741_824
FILE_VERSION: Final = 1
_OWN_KEYS: Final = frozenset({"routes", "version"})


@dataclass(frozen=True, slots=True)
class RouteFile:
    """What a route file holds.

    Attributes:
        routes: The routes, in the order of the file.
        notes: What a person should know of the conversion; empty for our own files.
    """

    routes: tuple[Route, ...]
    notes: tuple[str, ...] = ()


def read_route_file(path: Path) -> RouteFile:
    """Read and check a route file.

    Raises:
        FileRejected: It cannot be read, or something in it is wrong; names the place.
    """
    try:
        items, notes = _items(path)
        return RouteFile(tuple(_checked(items)), tuple(notes))
    except SynaptoRouteError as error:
        if isinstance(error, FileRejected):
            raise
        raise FileRejected(f"{path}: {error.message}") from error


def inspect_route_file(path: Path) -> tuple[list[Route], list[str]]:
    """Read what can be read and say everything that is wrong, not only the first.

    Raises:
        FileRejected: The file as a whole cannot be read.
    """
    try:
        items, _ = _items(path)
    except FileRejected:
        raise
    except SynaptoRouteError as error:
        raise FileRejected(f"{path}: {error.message}") from error
    routes: list[Route] = []
    wrong: list[str] = []
    place_by_name: dict[str, str] = {}
    for place, item in items:
        try:
            routes.append(_check(item, place, place_by_name))
        except InvalidRoute as error:
            wrong.append(error.message)
    return routes, wrong


def _items(path: Path) -> tuple[list[tuple[str, Any]], list[str]]:
    """Read the routes of a file as (place, document), not checked yet."""
    body = read_bytes(path, FILE_BYTES_MAX)
    kind = KIND_BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise FileRejected(f"{path}: the name must end in {', '.join(KIND_BY_SUFFIX)}")
    if kind == "ndjson":
        lines = enumerate(body.split(b"\n"), start=1)
        return [(f"line {at}", parse_json(line)) for at, line in lines if line.strip()], []
    document = parse_yaml(body) if kind == "yaml" else parse_json(body)
    notes: list[str] = []
    if foreign := kind_of(document):
        document, notes = convert(document, foreign)
    return [(f"routes[{index}]", item) for index, item in enumerate(_listed(document))], notes


def _listed(document: Any) -> list[Any]:
    """Find the list of routes in a document."""
    if isinstance(document, dict):
        unknown = sorted(str(key)[:40] for key in document if key not in _OWN_KEYS)
        if unknown:
            raise InvalidRoute(f"unknown key {unknown[0]!r} beside `routes`")
        if document.get("version", FILE_VERSION) != FILE_VERSION:
            raise InvalidRoute(
                f"the file's version is not {FILE_VERSION}: a later release wrote it"
            )
        document = document.get("routes")
    if not isinstance(document, list):
        raise InvalidRoute("the file must be a list of routes, or an object of `routes`")
    return document


def _checked(items: Sequence[tuple[str, Any]]) -> Iterator[Route]:
    """Check each route and that there is one."""
    place_by_name: dict[str, str] = {}
    for place, item in items:
        yield _check(item, place, place_by_name)
    if not place_by_name:
        raise InvalidRoute("the file holds no route")


def _check(item: Any, place: str, place_by_name: dict[str, str]) -> Route:
    """Check one route; two of one name are a mistake that must not pass silently."""
    try:
        route = read_route(item)
    except InvalidRoute as error:
        name = item.get("name") if isinstance(item, dict) else None
        named = f" ({name})" if isinstance(name, str) else ""
        raise InvalidRoute(f"{place}{named}: {error.message}") from None
    first = place_by_name.setdefault(route.name, place)
    if first != place:
        raise InvalidRoute(f"{place}: the route {route.name!r} is given in {first} already")
    return route


def plain(route: Route) -> dict[str, Any]:
    """A route as a file has it: without what is absent."""
    document: dict[str, Any] = {"name": route.name, "utterances": route.utterances}
    if route.threshold is not None:
        document["threshold"] = route.threshold
    if route.metadata:
        document["metadata"] = route.metadata
    if route.payload is not None:
        document["payload"] = route.payload
    if route.vectors is not None:
        document["vectors"] = route.vectors
    return document


def ndjson_line(route: Route) -> bytes:
    """A route as one line of NDJSON."""
    text = json.dumps(plain(route), ensure_ascii=False, separators=(",", ":"))
    return text.encode() + b"\n"
