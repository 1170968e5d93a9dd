"""Route files: our own in YAML, JSON and NDJSON, and those of other routers.

Routes are parsed and validated by the same code as the imports of a node, so a file that
passes here passes there.  A file may have ``version: 1`` beside ``routes``.

semantic-router (0.x and 1.x, JSON and YAML) writes ``encoder_type`` beside its routes
and ``score_threshold`` in them; LiteLLM's ``router.json`` is the same format.  RedisVL
calls utterances ``references`` and has ``distance_threshold``.  A threshold is valid only
for the encoder and aggregation it was fitted to, so a foreign threshold is kept in the
metadata and never applied.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from synaptoroute.cli.exit_codes import FileRejected
from synaptoroute.cli.options import read_bytes
from synaptoroute.errors import InvalidRoute, SynaptoRouteError
from synaptoroute.models import NAME_CHARACTERS_MAX, Route
from synaptoroute.server.bodies import parse_json
from synaptoroute.server.documents import KIND_BY_SUFFIX, parse_yaml, read_route

FILE_BYTES_MAX: Final = 1_073_741_824
FILE_VERSION: Final = 1
_OWN_KEYS: Final = frozenset({"routes", "version"})


@dataclass(frozen=True, slots=True)
class RouteFile:
    """The content of a route file, and notes on what a conversion changed."""

    routes: tuple[Route, ...]
    notes: tuple[str, ...] = ()


def read_route_file(path: Path) -> RouteFile:
    """Read and validate a route file."""
    try:
        items, notes = _items(path)
        return RouteFile(tuple(_validate_all(items)), tuple(notes))
    except SynaptoRouteError as error:
        if isinstance(error, FileRejected):
            raise
        raise FileRejected(f"{path}: {error.message}") from error


def inspect_route_file(path: Path) -> tuple[list[Route], list[str]]:
    """Read the valid routes and list every error, not only the first."""
    try:
        items, _ = _items(path)
    except FileRejected:
        raise
    except SynaptoRouteError as error:
        raise FileRejected(f"{path}: {error.message}") from error
    routes: list[Route] = []
    errors: list[str] = []
    place_by_name: dict[str, str] = {}
    for place, item in items:
        try:
            routes.append(_validate(item, place, place_by_name))
        except InvalidRoute as error:
            errors.append(error.message)
    return routes, errors


def _items(path: Path) -> tuple[list[tuple[str, Any]], list[str]]:
    """Read the routes of a file as (place, document), not validated yet."""
    body = read_bytes(path, FILE_BYTES_MAX)
    kind = KIND_BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise FileRejected(f"{path}: the name must end in {', '.join(KIND_BY_SUFFIX)}")
    if kind == "ndjson":
        lines = enumerate(body.split(b"\n"), start=1)
        return [(f"line {at}", parse_json(line)) for at, line in lines if line.strip()], []
    document = parse_yaml(body) if kind == "yaml" else parse_json(body)
    notes: list[str] = []
    if foreign := detect_format(document):
        document, notes = convert(document, foreign)
    return [(f"routes[{index}]", item) for index, item in enumerate(_route_list(document))], notes


def _route_list(document: Any) -> list[Any]:
    if isinstance(document, dict):
        unknown = sorted(str(key)[:40] for key in document if key not in _OWN_KEYS)
        if unknown:
            raise InvalidRoute(f"unknown key {unknown[0]!r} beside `routes`")
        if document.get("version", FILE_VERSION) != FILE_VERSION:
            raise InvalidRoute(
                f"the file's version is not {FILE_VERSION}: it needs a later release"
            )
        document = document.get("routes")
    if not isinstance(document, list):
        raise InvalidRoute("the file must be a list of routes, or an object with `routes`")
    return document


def _validate_all(items: Sequence[tuple[str, Any]]) -> Iterator[Route]:
    """Validate each route, and that there is at least one."""
    place_by_name: dict[str, str] = {}
    for place, item in items:
        yield _validate(item, place, place_by_name)
    if not place_by_name:
        raise InvalidRoute("the file has no routes")


def _validate(item: Any, place: str, place_by_name: dict[str, str]) -> Route:
    """Validate one route.  A name that occurs twice is an error."""
    try:
        route = read_route(item)
    except InvalidRoute as error:
        name = item.get("name") if isinstance(item, dict) else None
        named = f" ({name})" if isinstance(name, str) else ""
        raise InvalidRoute(f"{place}{named}: {error.message}") from None
    # Two routes with one name are a mistake: one of them would be lost without notice.
    first = place_by_name.setdefault(route.name, place)
    if first != place:
        raise InvalidRoute(f"{place}: the route {route.name!r} is already defined in {first}")
    return route


def plain_route(route: Route) -> dict[str, Any]:
    """Make the document of a route for a file, without absent fields."""
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
    if route.vectors is not None:
        document["vectors"] = route.vectors
    return document


def ndjson_line(route: Route) -> bytes:
    text = json.dumps(plain_route(route), ensure_ascii=False, separators=(",", ":"))
    return text.encode() + b"\n"


# --- comparing -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RouteDiff:
    """The changes that an import would make."""

    created: tuple[str, ...] = ()
    changed: tuple[tuple[str, str], ...] = ()
    unchanged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the import would change nothing."""
        return not (self.created or self.changed or self.removed)


def compare(
    present: Iterable[Mapping[str, Any]], wanted: Iterable[Mapping[str, Any]], *, replace: bool
) -> RouteDiff:
    """Compare routes of a node with routes of a file; ``replace`` removes those not in the file."""
    old, new = ({route["name"]: route for route in side} for side in (present, wanted))
    created, changed, unchanged = [], [], []
    for name in sorted(new):
        if name not in old:
            created.append(name)
        elif what := _describe_changes(old[name], new[name]):
            changed.append((name, what))
        else:
            unchanged.append(name)
    removed = sorted(old.keys() - new.keys()) if replace else []
    return RouteDiff(tuple(created), tuple(changed), tuple(unchanged), tuple(removed))


def _describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Describe how two versions of a route differ; empty if they do not."""
    parts = []
    before, after = set(old["utterances"]), set(new["utterances"])
    if before != after:
        parts.append(f"utterances +{len(after - before)} −{len(before - after)}")
    elif list(old["utterances"]) != list(new["utterances"]):
        parts.append("order of utterances")
    before, after = set(old.get("negatives") or ()), set(new.get("negatives") or ())
    if before != after:  # a node keeps no order of them
        parts.append(f"negatives +{len(after - before)} −{len(before - after)}")
    parts += [
        f"{key} {_limit_text(old.get(key))} → {_limit_text(new.get(key))}"
        for key in ("threshold", "confidence_min")
        if old.get(key) != new.get(key)
    ]
    keys = ("description", "metadata", "payload")
    parts += [key for key in keys if (old.get(key) or None) != (new.get(key) or None)]
    return ", ".join(parts)


def _limit_text(limit: float | None) -> str:
    return "default" if limit is None else f"{limit:g}"


# --- files of other routers --------------------------------------------------------------


FileFormat = Literal["semantic-router", "redisvl"]

_THRESHOLD: Final[Mapping[FileFormat, str]] = {
    "semantic-router": "score_threshold",
    "redisvl": "distance_threshold",
}
_UTTERANCES: Final[Mapping[FileFormat, str]] = {
    "semantic-router": "utterances",
    "redisvl": "references",
}
_SCHEMAS: Final = ("function_schemas", "function_schema")
_KNOWN: Final[Mapping[FileFormat, frozenset[str]]] = {
    "semantic-router": frozenset(
        {"name", "utterances", "description", "llm", "score_threshold", "metadata", *_SCHEMAS}
    ),
    "redisvl": frozenset({"name", "references", "metadata", "distance_threshold"}),
}
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9 _.:\-]+")


def detect_format(document: Any) -> FileFormat | None:
    """Recognise a file of another router; None for our own and for other files."""
    routes = document.get("routes") if isinstance(document, dict) else document
    if not isinstance(routes, list):
        return None
    keys = {key for item in routes if isinstance(item, dict) for key in item}
    if "references" in keys:
        return "redisvl"
    has_encoder = isinstance(document, dict) and "encoder_type" in document
    if has_encoder or "score_threshold" in keys or not keys.isdisjoint(_SCHEMAS):
        return "semantic-router"
    return None


def convert(document: Any, file_format: FileFormat) -> tuple[list[dict[str, Any]], list[str]]:
    """Convert a file of another router to our routes, and list what was changed."""
    routes = document["routes"] if isinstance(document, dict) else document
    converted, renamed, thresholds = [], [], 0
    for index, item in enumerate(routes):
        route = _convert_route(item, file_format, f"routes[{index}]")
        if route["name"] != item["name"]:
            renamed.append(f"{item['name']!r} is now {route['name']!r}")
        thresholds += _THRESHOLD[file_format] in route["metadata"]
        converted.append(route)
    notes = [f"read as a {file_format} file", *renamed]
    if thresholds:
        notes.append(
            f"{thresholds} thresholds belong to another encoder: kept as metadata "
            f"{_THRESHOLD[file_format]!r}, not applied; fit new ones with `synaptoroute calibrate`"
        )
    return converted, notes


def _convert_route(item: Any, file_format: FileFormat, place: str) -> dict[str, Any]:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise InvalidRoute(f"{place} is not a route with a name")
    unknown = sorted(str(key)[:40] for key in item if key not in _KNOWN[file_format])
    if unknown:
        raise InvalidRoute(f"{place}: {file_format} routes have no key {unknown[0]!r}")
    metadata = dict(item.get("metadata") or {})
    for key in ("description", _THRESHOLD[file_format]):
        if item.get(key) is not None:
            metadata[key] = item[key]
    schema = next((item[key] for key in _SCHEMAS if item.get(key)), None)
    route = {
        "name": _convert_name(item["name"], place),
        "utterances": item.get(_UTTERANCES[file_format]) or [],
        "metadata": metadata,
    }
    return {**route, "payload": schema} if schema is not None else route


def _convert_name(name: str, place: str) -> str:
    """Replace characters that our names may not contain."""
    valid = _NOT_IN_NAMES.sub("_", name).strip().lstrip("_.:- ")[:NAME_CHARACTERS_MAX].strip()
    if not valid:
        raise InvalidRoute(f"{place}: the name {name!r} has no letter or digit")
    return valid
