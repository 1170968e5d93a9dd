"""Output for people: tables on standard output, progress on standard error.

Rule 1: results go to standard output, everything else to standard error.
Rule 2: progress bars are drawn only if standard error is a terminal.
Rule 3: external text is printed as text, never as markup or control codes.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_COLUMNS: Final = 160
"""Width of a table if the output is not a terminal."""
CELL_CHARACTERS_MAX: Final = 200

STYLES: Final = {"ok": "green", "warn": "yellow", "fail": "bold red", "no": "dim"}
Cell = str | tuple[str, str]
"""A text, or a text and one of the names of ``STYLES``."""


def printable(text: str) -> str:
    """Make a text safe for a terminal: replace control characters by spaces."""
    safe = "".join(" " if unicodedata.category(mark) in {"Cc", "Cf"} else mark for mark in text)
    return safe if len(safe) <= CELL_CHARACTERS_MAX else safe[: CELL_CHARACTERS_MAX - 1] + "…"


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_line(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Print one line on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    title: str | None = None,
    right: Sequence[str] = (),
) -> None:
    """Print a table on standard output; columns named in ``right`` are aligned to the right."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", no_wrap=column in right
        )
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    console().print(table)


def console(*, stderr: bool = False) -> Console:
    """Make a console that is wide enough if its output is not a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_COLUMNS
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error; yield a function that advances it."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    parts = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*parts, console=console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=total)
        yield lambda step: bars.advance(task, step)


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """Show a spinner on standard error."""
    if not sys.stderr.isatty():
        yield
        return
    with console(stderr=True).status(label):
        yield


def _cell(cell: Cell) -> Any:
    from rich.text import Text

    text, style = (cell, "") if isinstance(cell, str) else (cell[0], STYLES[cell[1]])
    return Text(printable(text), style=style)


def number(value: float | None, digits: int = 3) -> str:
    """Format a score, or a dash if there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
