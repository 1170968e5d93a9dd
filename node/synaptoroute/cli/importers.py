"""Route files of other routers, converted to ours.

semantic-router (0.x and 1.x, JSON and YAML) writes ``encoder_type`` beside its routes
and ``score_threshold`` in them; LiteLLM's ``router.json`` is the same format.  RedisVL
calls utterances ``references`` and has ``distance_threshold``.

Rule: a threshold is valid only for the encoder and aggregation it was fitted to, so a
foreign threshold is kept in the metadata and never applied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from synaptoroute.errors import InvalidRoute
from synaptoroute.models import NAME_CHARACTERS_MAX

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
