"""Tables of texts and labels: CSV, TSV and JSON lines, for routes and for labelled queries.

One format everywhere: a text and its route, ``-`` or nothing for no route.  TSV is
``text<TAB>route`` without a header, or has one; CSV needs a header, with commas or semicolons.
JSON lines are objects with a text and a route.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from synaptoroute.importers.refusal import FileRefused

NO_ROUTE: Final = "-"
TEXT_COLUMNS: Final = (
    "text", "utterance", "query", "example", "phrase", "question", "input", "sentence", "message",
    "sample",
)  # fmt: skip
ROUTE_COLUMNS: Final = ("route", "label", "intent", "name", "category", "class", "target", "tag")
_DELIMITERS: Final = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text and its route.

    Attributes:
        line: Where it begins in the file, counted from one.
        route: The label as written; None for no route.
    """

    line: int
    text: str
    route: str | None


def read_delimited(text: str, delimiter: str = "") -> list[LabelledText]:
    """Read CSV or TSV.

    Raises:
        FileRefused: ``file_syntax``; names the line.
    """
    delimiter = delimiter or delimiter_of(text) or ","
    is_tsv = delimiter == "\t"
    rows = _tsv_rows(text) if is_tsv else _csv_rows(text, delimiter)
    columns: tuple[int, int] | None = None
    found = []
    for index, (line, row) in enumerate(rows):
        if index == 0:
            columns = _columns(row)
            if columns is not None:
                continue
            if not is_tsv:
                raise FileRefused(
                    "file_syntax",
                    f"line {line}: the first row must name the columns, such as `text` and "
                    f"`route`; it has {', '.join(map(repr, row[:6]))}",
                    line=line,
                )
        if columns is None:  # a text may have tabs; its route has none
            row = ["\t".join(row[:-1]), row[-1]]
        found.append(_labelled(line, row, columns))
    return found


def _labelled(line: int, row: Sequence[str], columns: tuple[int, int] | None) -> LabelledText:
    text_at, route_at = columns or (0, 1)
    if len(row) <= max(text_at, route_at) or (columns is None and len(row) != 2):
        raise FileRefused(
            "file_syntax", f"line {line}: not a text with its route: {len(row)} columns", line=line
        )
    text, route = row[text_at].strip(), row[route_at].strip()
    if not text:
        raise FileRefused("file_syntax", f"line {line}: the text is empty", line=line)
    if columns is None and not route:
        raise FileRefused("file_syntax", f"line {line}: the route is empty", line=line)
    return LabelledText(line, text, None if route in ("", NO_ROUTE) else route)


def _tsv_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    for line, row in enumerate(text.split("\n"), start=1):
        row = row.rstrip("\r")
        if not row.strip() or row.lstrip().startswith("#"):
            continue
        yield line, row.split("\t")


def _csv_rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise FileRefused(
            "file_syntax", f"line {reader.line_num}: not valid CSV: {error}", line=reader.line_num
        ) from None


def delimiter_of(text: str) -> str | None:
    """The delimiter with which the first row names the columns; None if none does."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    for delimiter in _DELIMITERS:
        try:
            row = next(csv.reader([first], delimiter=delimiter), [])
        except csv.Error:
            continue
        if _columns(row) is not None:
            return delimiter
    return None


def _columns(row: Sequence[str]) -> tuple[int, int] | None:
    """Columns of the text and of the route, by a header; None if it is none."""
    names = [cell.strip().lower() for cell in row]
    text_at = next((names.index(each) for each in TEXT_COLUMNS if each in names), None)
    route_at = next((names.index(each) for each in ROUTE_COLUMNS if each in names), None)
    if text_at is None or route_at is None:
        return None
    return text_at, route_at


# --- JSON lines ------------------------------------------------------------------------


def is_labelled_line(document: Any) -> bool:
    """Whether an object has a text and a route, and is no route itself."""
    if not isinstance(document, Mapping) or "utterances" in document:
        return False
    return _keys_of(document) is not None


def read_labelled_lines(lines: Iterable[tuple[int, Any]]) -> list[LabelledText]:
    """Read objects with a text and a route.

    Raises:
        FileRefused: ``file_syntax``; names the line.
    """
    found = []
    for line, document in lines:
        keys = _keys_of(document) if isinstance(document, Mapping) else None
        if keys is None:
            raise FileRefused(
                "file_syntax", f"line {line}: not an object with `text` and `route`", line=line
            )
        text, route = document[keys[0]], document[keys[1]]
        if not isinstance(text, str) or not text.strip():
            raise FileRefused("file_syntax", f"line {line}: the text is empty or none", line=line)
        if route is not None and not isinstance(route, str):
            raise FileRefused(
                "file_syntax", f"line {line}: the route must be a text or null", line=line
            )
        label = (route or "").strip()
        found.append(LabelledText(line, text.strip(), None if label in ("", NO_ROUTE) else label))
    return found


def _keys_of(document: Mapping[str, Any]) -> tuple[str, str] | None:
    text = next((each for each in TEXT_COLUMNS if each in document), None)
    route = next((each for each in ROUTE_COLUMNS if each in document), None)
    return None if text is None or route is None else (text, route)
