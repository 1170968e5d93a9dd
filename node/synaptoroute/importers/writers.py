"""Routes in the formats of other programs: semantic-router 1.x, and tables of labelled texts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import yaml

from synaptoroute.models import Route

SEMANTIC_ROUTER: Final = "semantic-router"
ENCODER: Final = {"type": "fastembed", "name": "sentence-transformers/all-MiniLM-L6-v2"}
"""semantic-router's name for the model of the bundled encoder."""
_KEPT_AS_METADATA: Final = ("payload", "threshold", "confidence_min", "negatives")


def to_semantic_router(routes: Sequence[Route], *, as_yaml: bool) -> tuple[bytes, list[str]]:
    """Write a file that semantic-router 1.x loads, and say what it cannot hold.

    Thresholds, payloads and negatives are in the metadata of each route.
    """
    written, notes = [], _left_out(routes, _KEPT_AS_METADATA, "kept as metadata")
    for route in routes:
        kept = {key: getattr(route, key) for key in _KEPT_AS_METADATA}
        held = {key: value for key, value in kept.items() if value not in (None, [])}
        written.append(
            {
                "name": route.name,
                "utterances": route.utterances,
                "description": route.description,
                "confidence_threshold": None,
                "metadata": {**route.metadata, **held},
            }
        )
    document = {
        "router_type": "indexed",
        "encoder": ENCODER,
        "index": {"type": "local"},
        "routes": written,
    }
    if as_yaml:
        text = yaml.dump(
            document, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=100
        )
    else:
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    return text.encode(), notes


def to_csv(routes: Sequence[Route]) -> tuple[bytes, list[str]]:
    """Write a table of texts and routes with a header, and say what it cannot hold."""
    output = io.StringIO(newline="")
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(("text", "route"))
    writer.writerows((text, route.name) for route in routes for text in route.utterances)
    return output.getvalue().encode(), _table_notes(routes)


def to_jsonl(routes: Sequence[Route]) -> tuple[bytes, list[str]]:
    """Write a JSON object with ``text`` and ``route`` a line."""
    lines = [
        json.dumps({"text": text, "route": route.name}, ensure_ascii=False) + "\n"
        for route in routes
        for text in route.utterances
    ]
    return "".join(lines).encode(), _table_notes(routes)


TABLES: Final[dict[str, Callable[[Sequence[Route]], tuple[bytes, list[str]]]]] = {
    "csv": to_csv,
    "jsonl": to_jsonl,
}


def _table_notes(routes: Sequence[Route]) -> list[str]:
    keys = ("description", "metadata", *_KEPT_AS_METADATA)
    return _left_out(routes, keys, "left out: a table has texts and routes only")


def _left_out(routes: Sequence[Route], keys: Sequence[str], what: str) -> list[str]:
    notes = []
    for key in keys:
        held: list[Any] = [getattr(route, key) for route in routes]
        if count := sum(value not in (None, [], {}) for value in held):
            notes.append(f"the {key} of {count} routes: {what}")
    return notes
