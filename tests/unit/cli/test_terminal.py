"""External text cannot act on the terminal or change the output."""

from __future__ import annotations

import json
import time
from pathlib import Path

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


@pytest.mark.parametrize("text", ["90d", "12h", "2999-01-31", "2999-01-31T12:00:00+01:00"])
def test_new_key_expires_and_joins_its_file(tmp_path: Path, text: str) -> None:
    """The file is made with mode 0600 and keeps the lines that it has."""
    path = tmp_path / "keys"
    for name in ("one", "two"):
        words = ["keys", "new", "--name", name, "--expires", text, "--file", str(path)]
        assert 0 == CliRunner().invoke(app, words).exit_code
    one, two = parse_keys(path.read_text())

    assert ("one", "two") == (one.name, two.name)
    assert one.expires_at is not None
    assert one.expires_at > time.time()
    assert 0o600 == path.stat().st_mode & 0o777


@pytest.mark.parametrize("text", ["0d", "2001-01-01", "soon", "-1d"])
def test_expiry_that_is_malformed_or_past_is_refused(text: str) -> None:
    words = ["keys", "new", "--name", "ops", f"--expires={text}"]

    assert 2 == CliRunner().invoke(app, words).exit_code
