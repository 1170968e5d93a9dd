"""Files of labelled queries: texts, each with the route it belongs to, or none.

One query per line, ``text<TAB>route``; ``-`` stands for no route; ``#`` starts a
comment line.  Files that end in ``.jsonl`` or ``.ndjson`` hold objects with ``text``
and ``route``, where null stands for no route.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from synaptoroute.cli.exit_codes import FileRejected

QUERIES_BYTES_MAX: Final = 268_435_456
NO_ROUTE: Final = "-"
_JSON_SUFFIXES: Final = frozenset({".jsonl", ".ndjson"})


@dataclass(frozen=True, slots=True)
class LabelledQuery:
    """One query and its right route; None stands for no route."""

    text: str
    route: str | None


def read_labelled(path: Path) -> list[LabelledQuery]:
    """Read a file of labelled queries."""
    try:
        text = read_bytes(path, QUERIES_BYTES_MAX).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileRejected(f"{path} is not UTF-8") from error
    read = _json_line if path.suffix.lower() in _JSON_SUFFIXES else _text_line
    queries = []
    for number, line in _lines(text):
        query = read(line)
        if query is None:
            raise FileRejected(f"{path}: line {number} is not a query with its route")
        queries.append(query)
    if not queries:
        raise FileRejected(f"{path} has no queries")
    return queries


def check_known(queries: Sequence[LabelledQuery], names: frozenset[str], path: Path) -> None:
    """Refuse labels that are no routes: they would count as errors of the router."""
    unknown = sorted({query.route for query in queries if query.route} - names)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise FileRejected(f"{path}: unknown routes: {', '.join(map(repr, unknown[:3]))}{more}")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.rstrip("\r")


def _text_line(line: str) -> LabelledQuery | None:
    text, tab, route = line.rpartition("\t")
    if not tab or not text.strip() or not route.strip():
        return None
    return LabelledQuery(text.strip(), None if route.strip() == NO_ROUTE else route.strip())


def _json_line(line: str) -> LabelledQuery | None:
    try:
        document = json.loads(line)
        text, route = document["text"], document["route"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(text, str) or not text.strip() or not isinstance(route, str | None):
        return None
    return LabelledQuery(text.strip(), None if route in (None, "", NO_ROUTE) else route)


def read_bytes(path: Path, bytes_max: int) -> bytes:
    """Read a file of limited size."""
    try:
        with path.open("rb") as file:
            body = file.read(bytes_max + 1)
    except OSError as error:
        raise FileRejected(f"{path} cannot be read: {error.strerror}") from error
    if len(body) > bytes_max:
        raise FileRejected(f"{path} has more than {bytes_max} bytes")
    return body
