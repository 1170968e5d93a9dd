"""Formats figures and Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def number(value: float | None) -> str:
    """Four digits at most, thousands set apart."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def spread(cell: dict[str, float]) -> str:
    """Median, then least and greatest."""
    return f"{number(cell['median'])} ({number(cell['low'])} to {number(cell['high'])})"
