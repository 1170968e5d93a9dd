"""Route files of this project: YAML, JSON and NDJSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from synaptoroute.errors import InvalidRoute
from synaptoroute.importers.json_reader import Path, parse_json, place_of
from synaptoroute.importers.refusal import FileRefused, joined
from synaptoroute.importers.yaml_reader import scalar_at
from synaptoroute.models import Route
from synaptoroute.web.problems import field_errors, first_message

FILE_VERSION: Final = 1
OWN_KEYS: Final = frozenset({"routes", "version"})
Kind = Literal["json", "yaml", "ndjson"]
_TEXT_FIELDS: Final = ("name", "utterances", "negatives", "description")
_ROUTE: Final = TypeAdapter(Route)


def read_route(document: Any, place: str = "", line: int | None = None) -> Route:
    """Validate a route.

    Raises:
        InvalidRoute: It is malformed; names the fields, and ``line`` if it is given.
    """
    try:
        return _ROUTE.validate_python(document, strict=True)
    except ValidationError as error:
        found = field_errors(error, prefix=f"{place}." if place else "")
        where = f"line {line}: " if line is not None else ""
        raise InvalidRoute(
            where + first_message(found, "the route is malformed"), line=line, errors=found
        ) from None


def read_own(document: Any, kind: Kind, text: str = "") -> tuple[list[Route], list[str]]:
    """Read a document of this project; return its valid routes, and every error with its place.

    Args:
        document: As a parser returned it; a list of (line, document) for NDJSON.
        text: What it was parsed from, for the places.

    Raises:
        FileRefused: It is no list of routes.
    """
    routes: list[Route] = []
    errors: list[str] = []
    place_by_name: dict[str, str] = {}
    for path, place, item in _items(document, kind):
        try:
            route = _ROUTE.validate_python(item, strict=True)
        except ValidationError as error:
            errors += _described(error, path, place, item, kind, text)
            continue
        first = place_by_name.setdefault(route.name, place)
        if first is not place:
            errors.append(f"{place}: the route {route.name!r} is already defined in {first}")
            continue
        routes.append(route)
    return routes, errors


def explained(item: Any, path: Path, place: str, text: str) -> list[str]:
    """Errors of one route of a YAML document, each with its place."""
    try:
        _ROUTE.validate_python(item, strict=True)
    except ValidationError as error:
        return _described(error, path, place, item, "yaml", text)
    return []


def read_lines(text: str) -> list[tuple[int, Any]]:
    """Parse NDJSON: line numbers and documents."""
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found.append((number, parse_json(line.encode())))
            except FileRefused as error:
                raise _on_line(error, number) from None
    return found


def _on_line(error: FileRefused, number: int) -> FileRefused:
    """The error of a line, which the parser took for a whole text."""
    what = error.message.replace(" at line 1 column ", " at column ")
    message = f"line {number}, " if what.startswith("line 1, ") else f"line {number}: "
    return FileRefused(error.code, message + what.removeprefix("line 1, "), line=number)


def _items(document: Any, kind: Kind) -> Iterator[tuple[Path, str, Any]]:
    if kind == "ndjson":
        for line, item in document:
            yield (), f"line {line}", item
        return
    path: Path = ()
    if isinstance(document, dict):
        unknown = sorted(str(key)[:40] for key in document if key not in OWN_KEYS)
        if unknown:
            raise FileRefused("unknown_format", f"unknown key {unknown[0]!r} beside `routes`")
        if document.get("version", FILE_VERSION) != FILE_VERSION:
            raise FileRefused(
                "unknown_format",
                f"the file's version is not {FILE_VERSION}: it needs a later release",
            )
        document, path = document.get("routes"), ("routes",)
    if not isinstance(document, list):
        raise FileRefused(
            "unknown_format", "the file must be a list of routes, or an object with `routes`"
        )
    for index, item in enumerate(document):
        yield (*path, index), f"routes[{index}]", item


def _described(
    error: ValidationError, path: Path, place: str, item: Any, kind: Kind, text: str
) -> list[str]:
    """The errors of one route, each with its place."""
    name = item.get("name") if isinstance(item, dict) else None
    named = f" ({name[:60]})" if isinstance(name, str) else ""
    described = []
    locations = [each["loc"] for each in error.errors(include_url=False, include_context=False)]
    for found, location in zip(field_errors(error), locations, strict=False):
        field, message = found["field"], found["message"]
        at = hint = ""
        if kind == "yaml" and text:
            at, hint = _yaml_place(text, (*path, *location), item, location)
        elif kind == "json" and text and (known := place_of(text, (*path, *location))):
            at = f", line {known[0]}, column {known[1]}"
        described.append(f"{place}{named}{at}: {f'{field}: ' if field else ''}{hint or message}")
    return described


def _yaml_place(
    text: str, path: Sequence[str | int], item: Any, location: Sequence[str | int]
) -> tuple[str, str]:
    """Return where a value is written, and what to do if YAML read it as no text."""
    known = scalar_at(text, path)
    if known is None:
        return "", ""
    line, column, written = known
    value: Any = item
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            value = ""
    if isinstance(value, float) and not math.isfinite(value):
        return f", line {line}, column {column}", f"`{written}` is not a finite number"
    kinds = {bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    kind = kinds.get(type(value))
    is_text_expected = bool(location) and location[0] in _TEXT_FIELDS
    hint = ""
    if kind and written is not None and is_text_expected:
        shown = f"`{written[:40]}`" if written else "the empty value"
        hint = f"{shown} is read as {kind}: quote it"
    return f", line {line}, column {column}", hint


def require_routes(routes: list[Route], errors: list[str]) -> tuple[Route, ...]:
    """The routes of a file without errors, of which there must be one at least."""
    if errors:
        raise FileRefused("invalid_route", joined(errors))
    if not routes:
        raise FileRefused("file_empty", "the file has no routes")
    return tuple(routes)
