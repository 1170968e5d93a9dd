"""JSON Schemas of the files of a route folder, for editors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from synaptoroute.importers.folder import ALIASES, SET, SETTINGS, TESTS, AliasFile, SetFile
from synaptoroute.models import Route, RouteSetSettings

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
ROUTE: Final = "route"


def schema_of(kind: str) -> dict[str, Any]:
    """The schema of a kind of file, one of ``SCHEMAS``."""
    return {"$schema": DIALECT, **SCHEMAS[kind]()}


def _route() -> dict[str, Any]:
    schema = Route.model_json_schema()
    del schema["properties"]["vectors"]  # read from other route files alone
    schema["title"], schema["description"] = "Route", "A route: its name and its example texts."
    return _bare(schema)


def _settings() -> dict[str, Any]:
    schema = RouteSetSettings.model_json_schema()
    del schema["required"]  # what a file does not name stays as it is
    for each in schema["properties"].values():
        each.pop("default", None)
    schema["title"], schema["description"] = "Settings", "Settings of a route set."
    return _bare(schema)


def _tests() -> dict[str, Any]:
    route = {"type": ["string", "null"]}
    item = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "route": route},
        "required": ["text", "route"],
        "additionalProperties": False,
    }
    return {
        "title": "Tests",
        "description": "Texts and the routes that are right; null or - for no route.",
        "anyOf": [
            {"type": "object", "additionalProperties": route},
            {"type": "array", "items": item},
        ],
    }


def _set() -> dict[str, Any]:
    return _bare(SetFile.model_json_schema())


def _aliases() -> dict[str, Any]:
    alias = AliasFile.model_json_schema()
    return {
        "title": "Aliases",
        "description": "Aliases, each with the set that answers.",
        "type": "object",
        "additionalProperties": _bare(alias),
    }


def _bare(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without the docstrings of classes that it refers to."""
    for each in schema.get("$defs", {}).values():
        each["description"] = each.get("description", "").partition("\n")[0]
    return schema


SCHEMAS: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    ROUTE: _route,
    SETTINGS: _settings,
    TESTS: _tests,
    SET: _set,
    ALIASES: _aliases,
}
