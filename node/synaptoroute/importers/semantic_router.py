"""Files of semantic-router 0.x and 1.x, and of LiteLLM's auto-router, which reads the former.

1.x files have a ``router_type``.  A chain or a merge has nested ``routers``; their routes are
joined by name, as a merge joins the votes of its routers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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

NAME: Final = "semantic-router"
NESTED_MAX: Final = 16
_SCHEMAS: Final = ("function_schemas", "function_schema")
_THRESHOLDS: Final = ("score_threshold", "confidence_threshold")
_ROUTE_KEYS: Final = frozenset(
    {"name", "utterances", "description", "llm", "metadata", *_THRESHOLDS, *_SCHEMAS}
)


def is_semantic_router(document: Any) -> bool:
    """Whether a document is a router or a list of routes of semantic-router."""
    if isinstance(document, dict) and "router_type" in document:
        return True
    routes = document.get("routes") if isinstance(document, dict) else document
    if not isinstance(routes, list):
        return False
    keys = {key for item in routes if isinstance(item, dict) for key in item}
    has_encoder = isinstance(document, dict) and "encoder_type" in document
    return has_encoder or not keys.isdisjoint({*_THRESHOLDS, *_SCHEMAS, "llm"})


def read_semantic_router(document: Any, name: str = NAME) -> Imported:
    """Read a document of semantic-router.

    Raises:
        FileRefused: A route is malformed, or the routes are in a remote index.
    """
    drafts: dict[str, Draft] = {}
    notes: list[str] = []
    for place, item in _routes(document, "", 0, notes):
        draft = _draft(require_object(item, place), place)
        first = drafts.setdefault(str(draft.name), draft)
        if first is draft:
            continue
        if _router_of(first.place) == _router_of(place):
            raise FileRefused(
                "duplicate_route",
                f"{place}: the route {draft.name!r} is already defined in {first.place}",
            )
        _join(first, draft)
    found = list(drafts.values())
    for key in _THRESHOLDS:
        notes += thresholds_note(found, key)
    return finish(name, found, notes)


def _routes(document: Any, place: str, depth: int, notes: list[str]) -> Iterator[tuple[str, Any]]:
    """The routes of a router and of those nested in it, with their places."""
    prefix = f"{place}." if place else ""
    if isinstance(document, list):
        routes = document
    else:
        router = require_object(document, place or "the file")
        kind = router.get("router_type")
        if kind in ("chain", "merge") or "routers" in router:
            if depth >= NESTED_MAX:
                raise FileRefused("invalid_route", f"{place}: nested too deeply")
            nested = require_list(router.get("routers"), f"{prefix}routers")
            notes.append(f"the {kind} of {len(nested)} routers is joined: one route for each name")
            for index, each in enumerate(nested):
                yield from _routes(each, f"{prefix}routers[{index}]", depth + 1, notes)
            return
        if "routes" not in router:
            held_in = router.get("index")
            index_type = held_in.get("type") if isinstance(held_in, dict) else "a remote index"
            raise FileRefused(
                "file_empty",
                f"{place or 'the file'} has no routes: they are in its index ({index_type}); load "
                "the router, give it a local index, and save it again",
            )
        if router.get("calibrator") is not None:
            notes.append("the calibrator belongs to another encoder: it is left out")
        if router.get("confidence_threshold") is not None:
            notes.append("the confidence_threshold of the router is left out: fit one here")
        routes = require_list(router["routes"], f"{prefix}routes")
    for index, item in enumerate(routes):
        yield f"{prefix}routes[{index}]", item


def _router_of(place: str) -> str:
    return place.rpartition("routes[")[0]


def _draft(item: Mapping[str, Any], place: str) -> Draft:
    unknown = sorted(str(key)[:40] for key in item if key not in _ROUTE_KEYS)
    if unknown:
        raise FileRefused("invalid_route", f"{place}: {NAME} routes have no key {unknown[0]!r}")
    metadata = item.get("metadata") or {}
    metadata = dict(require_object(metadata, f"{place}.metadata"))
    metadata |= {key: item[key] for key in _THRESHOLDS if item.get(key) is not None}
    return Draft(
        place=place,
        name=item.get("name"),
        utterances=optional_list(item.get("utterances"), f"{place}.utterances"),
        description=item.get("description"),
        payload=next((item[key] for key in _SCHEMAS if item.get(key)), None),
        metadata=metadata,
    )


def _join(first: Draft, other: Draft) -> None:
    """Join the same route of another router into the first."""
    first.utterances += [each for each in other.utterances if each not in first.utterances]
    first.description = first.description or other.description
    first.payload = first.payload or other.payload
    first.metadata = {**other.metadata, **first.metadata}
