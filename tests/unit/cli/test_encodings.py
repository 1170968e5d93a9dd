"""Arguments and output in every locale, and wrong usage in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

PROGRAM = "import sys; sys.argv[0] = 'synaptoroute'; from synaptoroute.cli import main; main()"
NOWHERE = ["--url", "http://127.0.0.1:1"]
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ROUTES = """
routes:
  - name: straße
    utterances: ["große Straße", "👍 hello"]
"""


def run(*words: str | bytes, folder: Path, **settings: str) -> subprocess.CompletedProcess[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHONIO")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=folder,
        env={**kept, **settings},
        input=b"",
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("settings", [{}, PLAIN], ids=["utf-8", "plain"])
def test_argument_that_is_not_utf8_is_refused(tmp_path: Path, settings: dict[str, str]) -> None:
    for words in (["query", b"caf\xe9"], ["routes", "put", b"caf\xe9", "-u", "x"]):
        done = run(*words, *NOWHERE, folder=tmp_path, **settings)

        assert 2 == done.returncode
        assert [rb"synaptoroute: error: usage: the argument caf\xe9 is not UTF-8"] == (
            done.stderr.splitlines()
        )


def test_utf8_argument_is_read_in_a_plain_locale(tmp_path: Path) -> None:
    """It reaches the request, which fails because no node is there."""
    done = run("query", "👍 straße", *NOWHERE, folder=tmp_path, **PLAIN)

    assert 3 == done.returncode, done.stderr
    assert b"node_unreachable" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_terminal_cannot_show_is_escaped(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "routes.yaml").write_text(ROUTES, encoding="utf-8")
    done = run("routes", "lint", "routes.yaml", folder=tmp_path, PYTHONIOENCODING=encoding)

    assert 0 == done.returncode, done.stderr
    assert "straße".encode(encoding, errors="backslashreplace") in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nope"], "No such option: --nope See: synaptoroute --help"),
        (["routes", "lint", "--nope"], "synaptoroute routes lint --help"),
        (["routes", "nope"], "No such command 'nope'"),
        (["cluster", "recover", "--wait-seconds", "x"], "Invalid value for '--wait-seconds'"),
        (["restore", "README.md", "--database", "x"], "README.md is not a backup"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "README.md").write_text("text")
    done = run(*words, folder=tmp_path)

    assert 2 == done.returncode
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("synaptoroute: error: usage: ")
    assert said in line


def test_group_without_a_command_shows_its_help(tmp_path: Path) -> None:
    done = run("routes", folder=tmp_path)

    assert 2 == done.returncode
    assert b"Commands:" in done.stdout + done.stderr
