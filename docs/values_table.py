"""Write the table of values in the chart's README from the comments of values.yaml.

``make docs`` calls it; a test compares the two.  A comment ``# -- text`` describes the
value on the next line, and its place in the file gives its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "helm/synaptoroute"
README = CHART / "README.md"
VALUES = CHART / "values.yaml"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):")
_DEFAULT_CHARACTERS_MAX = 60


def described(text: str) -> Iterator[tuple[str, str]]:
    """Give the path and the description of each value, in the order of the file.

    Raises:
        ValueError: A line that ends a branch has no description.
    """
    names: list[str] = []
    meaning = ""
    for line in text.splitlines():
        if line.strip().startswith("# -- "):
            meaning = line.strip().removeprefix("# -- ")
        elif found := _KEY.match(line):
            depth = len(found.group(1)) // 2
            if depth <= len(names):
                names = [*names[:depth], found.group(2)]
                if meaning:
                    yield ".".join(names), meaning
                    # What lies below a described value is part of its default.
                    names.append("")
                    meaning = ""
        if names and names[-1] == "":
            names.pop()


def value_at(values: Any, path: str) -> Any:
    """Find a value by its dotted path."""
    for name in path.split("."):
        values = values[name]
    return values


def table(text: str) -> str:
    """The Markdown table: value, default, meaning."""
    values = yaml.safe_load(text)
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for path, meaning in described(text):
        default = json.dumps(value_at(values, path))
        shown = f"`{default}`" if len(default) <= _DEFAULT_CHARACTERS_MAX else "see values.yaml"
        rows.append(f"| `{path}` | {shown} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def rewritten(readme: str, text: str) -> str:
    """The README with a fresh table between its marks."""
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table(text)}\n{END}{tail}"


if __name__ == "__main__":
    README.write_text(
        rewritten(README.read_text(encoding="utf-8"), VALUES.read_text(encoding="utf-8")),
        encoding="utf-8",
    )
