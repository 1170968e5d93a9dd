"""Every rule of a JSON schema, and for each a value that breaks it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]

KEYWORDS = frozenset(
    {"type", "enum", "pattern", "minimum", "maximum", "minLength", "minItems"}
    | {"additionalProperties", "properties", "items"}
)
"""What ``rules`` knows how to break; ``properties`` and ``items`` only lead further down."""

_ANY_KEY = "any-key"
_UNKNOWN_KEY = "no-such-value"
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
# No null among them: it deletes a value of a chart instead of setting one.
_OF_EVERY_TYPE: Sequence[Any] = ("text", 7, True, [], {})
_ODD_TEXTS = ("", "no good!", "a\nb", " ", "://", "%")


@dataclass(frozen=True)
class Rule:
    """One rule, and a value against it.

    Attributes:
        path: Where it holds.
        keyword: Which kind it is of.
        value: What breaks it at that place.
    """

    path: Path
    keyword: str
    value: Any

    @property
    def document(self) -> dict[str, Any]:
        """Values of the chart with this one mistake."""
        made: Any = self.value
        for key in reversed(self.path):
            made = [made] if isinstance(key, int) else {key: made}
        found: dict[str, Any] = made
        return found


def rules(schema: Mapping[str, Any], path: Path = ()) -> Iterator[Rule]:
    """Walk through a schema; every rule that is broken alone at its place."""
    unknown = schema.keys() - KEYWORDS - {"$schema", "title", "description", "default"}
    assert not unknown, f"{path}: nobody knows how to break {unknown}"
    if path and "type" in schema:
        yield Rule(path, "type", _of_another_type(schema["type"]))
    for keyword in ("enum", "pattern", "minimum", "maximum", "minLength", "minItems"):
        if keyword in schema:
            yield Rule(path, keyword, _against(keyword, schema[keyword]))
    for name, below in schema.get("properties", {}).items():
        yield from rules(below, (*path, name))
    if isinstance(schema.get("items"), dict):
        yield from rules(schema["items"], (*path, 0))
    more = schema.get("additionalProperties", True)
    if more is False:
        yield Rule(path, "additionalProperties", {_UNKNOWN_KEY: 1})
    elif isinstance(more, dict):
        yield from rules(more, (*path, _ANY_KEY))


def _of_another_type(allowed: str | list[str]) -> Any:
    names = [allowed] if isinstance(allowed, str) else allowed
    types = {each for name in names for each in _TYPES[name]}
    return next(value for value in _OF_EVERY_TYPE if type(value) not in types)


def _against(keyword: str, limit: Any) -> Any:
    if keyword == "enum":
        return "no-such-choice"
    if keyword == "pattern":
        return next(text for text in _ODD_TEXTS if not re.search(limit, text))
    if keyword in ("minimum", "maximum"):
        return limit - 1 if keyword == "minimum" else limit + 1
    return "" if keyword == "minLength" else []


def together(every: Sequence[Rule]) -> list[list[Rule]]:
    """Put rules into as few groups as will do, no place of a group at or above another one."""
    groups: list[list[Rule]] = []
    for rule in every:
        for group in groups:
            if not any(_is_in_line(rule.path, other.path) for other in group):
                group.append(rule)
                break
        else:
            groups.append([rule])
    return groups


def _is_in_line(one: Path, other: Path) -> bool:
    """Whether one place is at or above the other."""
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def merged(group: Sequence[Rule]) -> dict[str, Any]:
    """One document with all the mistakes of a group."""
    document: dict[str, Any] = {}
    for rule in group:
        _merge(document, rule.document)
    return document


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        elif isinstance(value, list) and isinstance(into.get(key), list) and value and into[key]:
            _merge(into[key][0], value[0])
        else:
            into[key] = value
