"""External text cannot act on the terminal or change the output."""

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
from synaptoroute.web.api_keys import parse_keys

pytestmark = pytest.mark.unit


def test_control_codes_become_spaces() -> None:
    """An utterance cannot clear the screen or reverse the text."""
    assert printable("a\x1b[2Jb\nc\u202ed") == "a [2Jb c d"


def test_long_texts_are_cut() -> None:
    assert printable("x" * 1_000) == "x" * (CELL_CHARACTERS_MAX - 1) + "…"


def test_markup_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets are not interpreted."""
    print_table(("a", "b"), [("[bold]x[/]", ("[red]", "ok"))], right=("b",))
    shown = capsys.readouterr().out

    assert "[bold]x[/]" in shown
    assert "[red]" in shown


def test_json_keeps_unicode(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"ü": "🚀"})

    assert capsys.readouterr().out == '{\n  "ü": "🚀"\n}\n'


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Working", 3) as step:
        step(3)

    assert capsys.readouterr() == ("", "")


def test_missing_number_is_a_dash() -> None:
    assert (number(None), number(0.12345)) == ("–", "0.123")


def test_new_key_matches_its_line() -> None:
    """A node can read the printed line, which holds only the hash of the key."""
    result = CliRunner().invoke(
        app, ["keys", "new", "--name", "ops", "--scopes", "read,write", "--json"]
    )
    made = json.loads(result.stdout)
    (key,) = parse_keys(made["line"])

    assert (key.name, key.scopes) == ("ops", frozenset({"read", "write"}))
    assert made["key"] not in made["line"]
