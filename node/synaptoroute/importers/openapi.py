"""OpenAPI documents: an operation is a route whose payload says how to call it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from synaptoroute.importers.drafts import (
    Draft,
    Imported,
    finish,
    optional_list,
    payload_that_fits,
    require_object,
)
from synaptoroute.importers.refusal import FileRefused
from synaptoroute.importers.tools import first_sentence, words_of

NAME: Final = "openapi"
_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_REF_DEPTH_MAX: Final = 16


def is_openapi(document: Any) -> bool:
    """Whether a document describes an API."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("paths"), dict)
        and ("openapi" in document or "swagger" in document)
    )


def read_openapi(document: Any) -> Imported:
    """Read the operations of a document; deprecated ones are left out.

    Raises:
        FileRefused: An operation is malformed.
    """
    drafts, skipped = [], []
    notes: list[str] = []
    for place, method, path, shared, operation in _operations(document):
        name = operation.get("operationId") or f"{method} {path}"
        if operation.get("deprecated") is True:
            skipped.append((str(name), "it is deprecated"))
            continue
        drafts.append(_draft(document, place, name, (method, path), (*shared,), operation, notes))
    made = finish(NAME, drafts, notes)
    return Imported(NAME, made.routes, made.notes, made.renamed, (*skipped, *made.skipped))


def _operations(
    document: Mapping[str, Any],
) -> Iterator[tuple[str, str, str, list[Any], Mapping[str, Any]]]:
    for path, each in document["paths"].items():
        if not isinstance(path, str) or not isinstance(each, dict):
            raise FileRefused("invalid_route", f"paths[{path!r}] must be an object")
        item = require_object(_target_of(document, each), f"paths[{path!r}]")
        for method in _METHODS:
            if method in item:
                place = f"paths[{path!r}].{method}"
                operation = require_object(item[method], place)
                shared = optional_list(item.get("parameters"), f"paths[{path!r}].parameters")
                yield place, method.upper(), path, shared, operation


def _draft(
    document: Mapping[str, Any],
    place: str,
    name: Any,
    call: tuple[str, str],
    shared: tuple[Any, ...],
    operation: Mapping[str, Any],
    notes: list[str],
) -> Draft:
    method, path = call
    summary, description = operation.get("summary"), operation.get("description")
    texts = [summary, first_sentence(description)]
    if not any(texts):
        texts = [words_of(str(name)), f"{method} {words_of(path)}"]
    tags = operation.get("tags")
    return Draft(
        place,
        name,
        [text for text in texts if isinstance(text, str) and text.strip()],
        description if isinstance(description, str) else None,
        _payload(document, str(name), method, path, shared, operation, notes),
        {"tags": tags} if isinstance(tags, list) and tags else {},
    )


def _payload(
    document: Mapping[str, Any],
    name: str,
    method: str,
    path: str,
    shared: tuple[Any, ...],
    operation: Mapping[str, Any],
    notes: list[str],
) -> dict[str, Any]:
    call: dict[str, Any] = {"method": method, "path": path}
    if operation.get("operationId"):
        call["operation_id"] = operation["operationId"]
    schema = {
        key: value
        for key, value in (
            ("parameters", [*shared, *optional_list(operation.get("parameters"), "parameters")]),
            ("request_body", operation.get("requestBody")),
        )
        if value
    }
    whole = call | _resolved(document, schema, ())
    kept: dict[str, Any] | None = payload_that_fits(whole, payload_that_fits(call | schema))
    if kept is None:
        notes.append(f"{name!r}: its schema is over the limit of a payload and left out")
        return call
    if kept is not whole and kept != whole:
        notes.append(f"{name!r}: its schema keeps its references, to fit into a payload")
    return kept


def _resolved(document: Mapping[str, Any], value: Any, seen: tuple[str, ...]) -> Any:
    """A value with its local references replaced; one inside itself stays."""
    if isinstance(value, list):
        return [_resolved(document, each, seen) for each in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target = _target(document, reference)
        if target is None or reference in seen or len(seen) >= _REF_DEPTH_MAX:
            return value
        return _resolved(document, target, (*seen, reference))
    return {key: _resolved(document, each, seen) for key, each in value.items()}


def _target_of(document: Mapping[str, Any], item: Mapping[str, Any]) -> Any:
    """A path item, or the one that it refers to."""
    reference = item.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return item
    return _target(document, reference) or item


def _target(document: Any, reference: str) -> Any:
    for part in reference[2:].split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(document, dict) or part not in document:
            return None
        document = document[part]
    return document
