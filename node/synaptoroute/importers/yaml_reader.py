"""Strict YAML of the types that JSON has: no key twice, no anchors, errors with their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import yaml

from synaptoroute.importers.refusal import FileRefused
from synaptoroute.models import JSON_DEPTH_MAX

DEPTH_MAX: Final = JSON_DEPTH_MAX + 8


def parse_yaml(text: str | bytes) -> Any:
    """Read YAML without anchors (a few lines of them can stand for gigabytes).

    Raises:
        FileRefused: ``file_syntax`` or ``duplicate_key``; the message names line and column.
    """
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, UnicodeError, ValueError, RecursionError) as error:
        raise _refusal(error) from None


class _Loader(yaml.CSafeLoader):
    """The safe loader without dates: ``2024-01-01`` stays the text that was written."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        made: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(made) != len(node.value):
            raise _duplicate(self, node)
        return made


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def _duplicate(loader: _Loader, node: Any) -> FileRefused:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            mark = key_node.start_mark
            return FileRefused(
                "duplicate_key",
                f"line {mark.line + 1}, column {mark.column + 1}: the key "
                f"{str(key)[:80]!r} is already in this object",
                line=mark.line + 1,
            )
        seen.add(key)
    # ``<<`` is merged by the safe loader, and nothing else shortens a mapping.
    line = node.start_mark.line + 1
    return FileRefused("file_syntax", f"line {line}: merge keys are not read here", line=line)


def _check_events(text: str | bytes) -> None:
    # The events are a flat stream: nothing recursive has run yet.
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _misuse(event, "anchors and aliases are not read here")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH_MAX:
            raise _misuse(event, "nested too deeply")


def _misuse(event: yaml.Event, what: str) -> FileRefused:
    line = event.start_mark.line + 1 if event.start_mark else None
    return FileRefused("file_syntax", f"line {line}: {what}", line=line)


def _refusal(error: Exception) -> FileRefused:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return FileRefused("file_syntax", "not valid YAML")
    problem = getattr(error, "problem", None)
    why = f": {problem}" if problem else ""
    return FileRefused(
        "file_syntax",
        f"line {mark.line + 1}, column {mark.column + 1}: not valid YAML{why}",
        line=mark.line + 1,
    )


def scalar_at(text: str, path: Sequence[str | int]) -> tuple[int, int, str | None] | None:
    """Line, column and, for an unquoted scalar, what was written at a path of a document."""
    return Places(text).scalar_at(path)


class Places:
    """Places of the values of a document; the text is parsed once, when it is needed."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._root: Any = None

    def scalar_at(self, path: Sequence[str | int]) -> tuple[int, int, str | None] | None:
        """As the function of this name."""
        if self._root is None:
            self._root = yaml.compose(self._text, Loader=_Loader)
        return _scalar_in(self._root, path)


def _scalar_in(node: Any, path: Sequence[str | int]) -> tuple[int, int, str | None] | None:
    for part in path:
        found = _child(node, part)
        if found is None:
            break
        node = found
    if node is None:
        return None
    mark = node.start_mark
    is_plain = isinstance(node, yaml.ScalarNode) and not node.style
    return mark.line + 1, mark.column + 1, node.value if is_plain else None


def _child(node: Any, part: str | int) -> Any:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        return node.value[part] if part < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        return next((each for key, each in node.value if key.value == part), None)
    return None
