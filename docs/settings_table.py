"""Write the table of settings in docs/operations.md from the settings themselves.

``make docs`` calls it; a test compares the two, so the table cannot go stale.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from synaptoroute.config import ENV_PREFIX, NodeConfig

OPERATIONS = Path(__file__).with_name("operations.md")
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"
_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def descriptions(config: type[BaseSettings]) -> dict[str, str]:
    """What the docstrings of a settings class and of those it extends say of each field."""
    found: dict[str, str] = {}
    for class_ in reversed(config.__mro__):
        if issubclass(class_, BaseSettings) and class_ is not BaseSettings:
            attributes = inspect.cleandoc(class_.__doc__ or "").partition("Attributes:")[2]
            for name, text in _ATTRIBUTE.findall(attributes):
                found[name] = " ".join(text.split()).replace("``", "`")
    return found


def table(config: type[BaseSettings] = NodeConfig) -> str:
    """The Markdown table: variable, default, limits, meaning."""
    meanings = descriptions(config)
    rows = ["| variable | default | limits | meaning |", "|---|---|---|---|"]
    for name, field in config.model_fields.items():
        variable = f"`{ENV_PREFIX}{name.upper()}`"
        cells = (variable, _default(field), _limits(field), meanings.get(name, ""))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _limits(field: FieldInfo) -> str:
    choices = _choices(field.annotation)
    if choices:
        return " or ".join(f"`{choice}`" for choice in choices)
    bounds = {
        name: getattr(item, name)
        for item in field.metadata
        for name in ("ge", "le", "max_length", "pattern")
        if getattr(item, name, None) is not None
    }
    if "ge" in bounds and "le" in bounds:
        return f"{bounds['ge']:,} to {bounds['le']:,}"
    if "pattern" in bounds:
        return f"`{bounds['pattern']}`"
    if "max_length" in bounds:
        return f"{bounds['max_length']} characters"
    return {bool: "`true` or `false`", SecretStr: "secret"}.get(_plain(field.annotation), "")


def _choices(annotation: Any) -> tuple[str, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _plain(annotation: Any) -> Any:
    """The type beside None in an optional annotation."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return kinds[0] if kinds else annotation


def main() -> None:
    """Replace what stands between the two marks."""
    text = OPERATIONS.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    OPERATIONS.write_text(f"{head}{BEGIN}\n{table()}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
