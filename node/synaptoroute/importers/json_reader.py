"""Strict JSON: RFC 8259, no key twice, and errors that name their place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic_core import from_json

from synaptoroute.importers.refusal import FileRefused
from synaptoroute.importers.text import UTF8_BOM, line_and_column, wide_encoding

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\]:,]', re.DOTALL)
Path = tuple[str | int, ...]


def parse_json(body: bytes, *, takes_last: bool = False) -> Any:
    """Read JSON as RFC 8259 has it, with or without a byte order mark.

    NaN, Infinity, lone surrogates, invalid UTF-8 and a nesting over 200 are refused, and so is a
    key that an object has twice, unless ``takes_last``.

    Raises:
        FileRefused: ``file_syntax`` or ``duplicate_key``; the message names line and column.
    """
    body = body.removeprefix(UTF8_BOM)
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        if wide := wide_encoding(body):
            raise FileRefused("file_encoding", f"{wide}: send UTF-8") from None
        found = re.search(r"at line (\d+) column \d+", str(error))
        line = int(found[1]) if found else None
        raise FileRefused("file_syntax", f"not valid JSON: {error}", line=line) from None
    if takes_last:
        return document
    # The parser keeps the last of two keys without a word: what it dropped would be lost.
    try:
        json.loads(body, object_pairs_hook=_distinct, parse_int=str, parse_float=str)
    except _KeyTwice:
        raise _duplicate(body.decode()) from None
    return document


class _KeyTwice(Exception):
    """An object has a key twice."""


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({key for key, _ in pairs}) != len(pairs):
        raise _KeyTwice


def _duplicate(text: str) -> FileRefused:
    seen: set[tuple[Path, str]] = set()
    for path, key, at in _keys(text):
        if (path, key) in seen:
            line, column = line_and_column(text, at)
            return FileRefused(
                "duplicate_key",
                f"line {line}, column {column}: the key {key[:80]!r} is already in "
                f"{path_text(path) or 'this object'}",
                line=line,
            )
        seen.add((path, key))
    raise AssertionError("the parser found a key twice")


def _keys(text: str) -> Iterator[tuple[Path, str, int]]:
    """The keys of a valid document: path of their object, key, and offset."""
    stack: list[Any] = []  # A list's index, or an object's current key
    is_object: list[bool] = []
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in "{[":
            stack.append(None if mark == "{" else 0)
            is_object.append(mark == "{")
        elif mark in "}]":
            stack.pop()
            is_object.pop()
        elif mark == ",":
            stack[-1] = None if is_object[-1] else (stack[-1] or 0) + 1
        elif mark != ":" and is_object and is_object[-1] and stack[-1] is None:
            stack[-1] = key = json.loads(mark)
            yield tuple(stack[:-1]), key, token.start()


def path_text(path: Path) -> str:
    """Write a path such as ``routes[3].name``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part[:40]}" if text else part[:40]
    return text


def place_of(text: str, path: Path) -> tuple[int, int] | None:
    """Line and column of the key or the object at a path, in a valid document."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    if not path:
        return None
    for owner, key, at in _keys(text):
        if (*owner, key) == path:
            return line_and_column(text, at)
    return None
