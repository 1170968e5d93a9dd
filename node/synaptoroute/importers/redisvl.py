"""Files of RedisVL's SemanticRouter, which calls utterances ``references``."""

from __future__ import annotations

from typing import Any, Final

from synaptoroute.importers.drafts import (
    Draft,
    Imported,
    finish,
    optional_list,
    require_list,
    require_object,
    thresholds_note,
)
from synaptoroute.importers.refusal import FileRefused

NAME: Final = "redisvl"
_THRESHOLD: Final = "distance_threshold"
_KEYS: Final = frozenset({"name", "references", "metadata", _THRESHOLD})


def is_redisvl(document: Any) -> bool:
    """Whether a document is a router or a list of routes of RedisVL."""
    routes = document.get("routes") if isinstance(document, dict) else document
    return isinstance(routes, list) and any(
        isinstance(item, dict) and "references" in item for item in routes
    )


def read_redisvl(document: Any) -> Imported:
    """Read a document of RedisVL.

    Raises:
        FileRefused: A route is malformed.
    """
    routes = document.get("routes") if isinstance(document, dict) else document
    drafts = []
    for index, each in enumerate(require_list(routes, "routes")):
        place = f"routes[{index}]"
        item = require_object(each, place)
        if unknown := sorted(str(key)[:40] for key in item if key not in _KEYS):
            raise FileRefused("invalid_route", f"{place}: {NAME} routes have no key {unknown[0]!r}")
        metadata = dict(require_object(item.get("metadata") or {}, f"{place}.metadata"))
        if item.get(_THRESHOLD) is not None:
            metadata[_THRESHOLD] = item[_THRESHOLD]
        references = optional_list(item.get("references"), f"{place}.references")
        drafts.append(Draft(place, item.get("name"), references, metadata=metadata))
    return finish(NAME, drafts, thresholds_note(drafts, _THRESHOLD))
