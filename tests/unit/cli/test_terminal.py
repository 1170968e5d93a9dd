"""Goal: what comes from outside cannot act on the terminal or change what is shown."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from synaptoroute.cli.app import app
from synaptoroute.cli.terminal import (
    CELL_CHARACTERS_MAX,
    number,
    print_json,
    print_table,
    printable,
    progress,
)
from synaptoroute.web.keys import parse_keys

pytestmark = pytest.mark.unit


def test_control_codes_become_spaces() -> None:
    """An utterance cannot clear the screen or reverse the text."""
    assert printable("a\x1b[2Jb\nc\u202ed") == "a [2Jb c d"


def test_long_texts_are_cut() -> None:
    """One utterance does not fill the screen."""
    assert printable("x" * 1_000) == "x" * (CELL_CHARACTERS_MAX - 1) + "…"


def test_markup_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets are no instructions."""
    print_table(("a", "b"), [("[bold]x[/]", ("[red]", "ok"))], right=("b",))
    shown = capsys.readouterr().out

    assert "[bold]x[/]" in shown
    assert "[red]" in shown


def test_json_keeps_unicode(capsys: pytest.CaptureFixture[str]) -> None:
    """Machines read it, people can too."""
    print_json({"ü": "🚀"})

    assert capsys.readouterr().out == '{\n  "ü": "🚀"\n}\n'


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A log file gets no bars."""
    with progress("Working", 3) as step:
        step(3)

    assert capsys.readouterr() == ("", "")


def test_a_missing_number_is_a_dash() -> None:
    """None is not zero."""
    assert (number(None), number(0.12345)) == ("–", "0.123")


def test_a_new_key_opens_what_its_line_says() -> None:
    """The line that is printed is one that a node reads, and holds the key's hash only."""
    result = CliRunner().invoke(
        app, ["keys", "new", "--name", "ops", "--scopes", "read,write", "--json"]
    )
    made = json.loads(result.stdout)
    (key,) = parse_keys(made["line"])

    assert (key.name, key.scopes) == ("ops", frozenset({"read", "write"}))
    assert made["key"] not in made["line"]
