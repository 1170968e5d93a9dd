"""Route documents: what an import reads and an export writes.

NDJSON has one route a line and is read and written without being held whole.
JSON and YAML documents are a list of routes, or an object of ``routes`` and,
optionally, ``version: 1``.  Every error names its place: a line, or
``routes[3].utterances[0]``.

YAML is read without anchors (a few lines of them can stand for gigabytes) and
without nesting that a recursive reader could not follow.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from synaptoroute.errors import ConfigError, InvalidRoute, SynaptoRouteError, TooLarge
from synaptoroute.importers.own import explained, read_route
from synaptoroute.importers.refusal import FileRefused, joined
from synaptoroute.importers.text import decode
from synaptoroute.importers.yaml_reader import parse_yaml as read_yaml
from synaptoroute.models import Route, StoredRoute
from synaptoroute.server.bodies import parse_json, unrepeated
from synaptoroute.web.problems import MalformedBody

DocumentKind = Literal["ndjson", "json", "yaml"]
MEDIA_TYPES: Final[dict[DocumentKind, str]] = {
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "yaml": "application/yaml",
}
KIND_BY_MEDIA_TYPE: Final[dict[str, DocumentKind]] = {
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/json-lines": "ndjson",
    "application/json": "json",
    "application/yaml": "yaml",
    "application/x-yaml": "yaml",
    "text/yaml": "yaml",
}
KIND_BY_SUFFIX: Final[dict[str, DocumentKind]] = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".yaml": "yaml",
    ".yml": "yaml",
}
FORMAT_VERSION: Final = 1
LOOP_LINE_BYTES_MAX: Final = 65_536
"""Longer lines of NDJSON are parsed on a thread: one with 50 vectors takes 5 ms."""
_WRITTEN: Final = re.compile(r"`[^`]*` is")


class _Names:
    """Route names of a document; a name that is given twice is an error."""

    def __init__(self) -> None:
        self._place_by_name: dict[str, str] = {}

    def note(self, route: Route, place: str, line: int | None = None) -> Route:
        first = self._place_by_name.setdefault(route.name, place)
        if first is not place:
            raise InvalidRoute(
                f"{place}: the route {route.name!r} is given in {first} already", line=line
            )
        return route

    def require_some(self) -> None:
        if not self._place_by_name:
            raise InvalidRoute("an import must hold at least one route")


async def ndjson_routes(pieces: AsyncIterator[bytes], line_bytes_max: int) -> AsyncIterator[Route]:
    """Yield the routes of an NDJSON stream, holding one line at a time."""
    names = _Names()
    async for route in routes_of_lines(lines_of(pieces, line_bytes_max), names):
        yield route
    names.require_some()


async def routes_of_lines(
    lines: AsyncIterator[bytes], names: _Names | None = None, *, first: int = 1
) -> AsyncIterator[Route]:
    """Yield a route a line; ``first`` is the number of the first line."""
    known, number = names or _Names(), first
    async for line in lines:
        if line.strip():
            if len(line) > LOOP_LINE_BYTES_MAX:
                yield await asyncio.to_thread(_line_route, line, number, known)
            else:
                yield _line_route(line, number, known)
        number += 1


async def lines_of(pieces: AsyncIterator[bytes], line_bytes_max: int) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for piece in pieces:
        searched_bytes = len(rest)
        rest += piece
        while (end := rest.find(b"\n", searched_bytes)) >= 0:
            _check_line(end, line_bytes_max)
            yield bytes(rest[:end])
            del rest[: end + 1]
            searched_bytes = 0
        _check_line(len(rest), line_bytes_max)
    if rest:
        yield bytes(rest)


def _check_line(size_bytes: int, line_bytes_max: int) -> None:
    if size_bytes > line_bytes_max:
        raise TooLarge(
            f"a line of an import must be at most {line_bytes_max} bytes", limit=line_bytes_max
        )


def _line_route(line: bytes, number: int, names: _Names) -> Route:
    try:
        document = parse_json(line)
    except MalformedBody as error:
        raise MalformedBody(f"line {number}: {error.message}", line=number) from None
    return names.note(read_route(document, line=number), f"line {number}", number)


def parse_document(body: bytes, kind: Literal["json", "yaml"]) -> list[Route]:
    """Read a whole JSON or YAML document; may run on any thread."""
    document, text = (parse_json(body), "") if kind == "json" else _parsed(body)
    items, prefix = _items(document)
    names = _Names()
    routes = []
    for index, item in enumerate(items):
        place = f"{prefix}[{index}]"
        try:
            route = read_route(item, place)
        except InvalidRoute as error:
            path = (prefix, index) if prefix else (index,)
            raise _with_place(error, explained(item, path, place, text) if text else []) from None
        routes.append(names.note(route, place))
    names.require_some()
    return routes


def _with_place(error: InvalidRoute, explained_errors: list[str]) -> InvalidRoute:
    """The same error, with the lines of a YAML document."""
    if not explained_errors:
        return error
    message = _WRITTEN.sub("a value is", joined(explained_errors))  # never the value itself
    return InvalidRoute(message, errors=error.fields["errors"])


def _items(document: Any) -> tuple[list[Any], str]:
    """Return the list of routes, and the prefix of the names of its places."""
    prefix = ""
    if isinstance(document, dict) and "routes" in document:
        unknown = document.keys() - {"routes", "version"}
        if unknown or document.get("version", FORMAT_VERSION) != FORMAT_VERSION:
            raise InvalidRoute(f"beside `routes` only `version: {FORMAT_VERSION}` may stand")
        document, prefix = document["routes"], "routes"
    if document is None:
        document = []
    if not isinstance(document, list):
        raise InvalidRoute("the document must be a list of routes, or an object of `routes`")
    return document, prefix


def parse_yaml(body: bytes) -> Any:
    """Read YAML by the rules of ``importers.yaml_reader``."""
    return _parsed(body)[0]


def _parsed(body: bytes) -> tuple[Any, str]:
    """A YAML document and its text."""
    try:
        text = decode(body)
        return read_yaml(text), text
    except FileRefused as error:
        if error.code == "file_empty":
            return None, ""
        raise MalformedBody(unrepeated(error), line=error.line) from None


def load_routes_file(path: Path) -> list[Route]:
    """Read a route file by its suffix: YAML, JSON or NDJSON; may run on any thread.

    Raises:
        ConfigError: The file cannot be read, or its content is refused; names the place.
    """
    kind = KIND_BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"the route file {path} must end in {', '.join(KIND_BY_SUFFIX)}")
    try:
        body = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the route file {path} cannot be read: {error.strerror}") from error
    try:
        return _file_lines(body) if kind == "ndjson" else parse_document(body, kind)
    except SynaptoRouteError as error:
        raise ConfigError(f"the route file {path} is refused: {error.message}") from error


def _file_lines(body: bytes) -> list[Route]:
    names = _Names()
    routes = [
        _line_route(line, number, names)
        for number, line in enumerate(body.split(b"\n"), start=1)
        if line.strip()
    ]
    names.require_some()
    return routes


async def each_route(routes: Iterable[Route]) -> AsyncIterator[Route]:
    """Yield routes as an import takes them."""
    for route in routes:
        yield route


def plain_route(route: Route | StoredRoute) -> dict[str, Any]:
    """Make the document of a route, without absent fields and vectors, as an import reads it."""
    document: dict[str, Any] = {"name": route.name, "utterances": route.utterances}
    if route.threshold is not None:
        document["threshold"] = route.threshold
    if route.metadata:
        document["metadata"] = route.metadata
    if route.payload is not None:
        document["payload"] = route.payload
    if route.confidence_min is not None:
        document["confidence_min"] = route.confidence_min
    if route.description is not None:
        document["description"] = route.description
    if route.negatives:
        document["negatives"] = route.negatives
    return document


def render_document(routes: Sequence[StoredRoute], kind: DocumentKind) -> Iterator[bytes]:
    """Write a document piece by piece, one route each."""
    head, between, tail = _FRAMES[kind]
    write = _WRITERS[kind]
    if not routes:
        yield _EMPTY[kind]
        return
    yield head
    for index, route in enumerate(routes):
        yield (between if index else b"") + write(plain_route(route))
    yield tail


def _json_bytes(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _yaml_bytes(document: dict[str, Any]) -> bytes:
    text: str = yaml.dump(
        [document], Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text.encode()


_FRAMES: Final[dict[DocumentKind, tuple[bytes, bytes, bytes]]] = {
    "ndjson": (b"", b"\n", b"\n"),
    "json": (b'{"version":1,"routes":[', b",\n", b"]}\n"),
    "yaml": (b"version: 1\nroutes:\n", b"", b""),
}
_EMPTY: Final[dict[DocumentKind, bytes]] = {
    "ndjson": b"",
    "json": b'{"version":1,"routes":[]}\n',
    "yaml": b"version: 1\nroutes: []\n",
}
_WRITERS: Final[dict[DocumentKind, Callable[[dict[str, Any]], bytes]]] = {
    "ndjson": _json_bytes,
    "json": _json_bytes,
    "yaml": _yaml_bytes,
}
