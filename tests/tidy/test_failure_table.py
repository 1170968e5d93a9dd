"""The failure table of docs/operations.md against the tests: what it names is there."""

from __future__ import annotations

import re

import pytest

from repository import ROOT
from synaptoroute.replication.status import LogState

pytestmark = pytest.mark.tidy

ROWS_COUNT = 48
_ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)
_NAME = re.compile(r"`(test_\w+)`")
_TEST = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)


def section(path: str, heading: str) -> str:
    """A section of a document."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def names_of_tests() -> set[str]:
    """Names of all tests."""
    paths = (ROOT / "tests").rglob("test_*.py")
    return {name for path in paths for name in _TEST.findall(path.read_text(encoding="utf-8"))}


def test_failure_table_has_every_row_once() -> None:
    """Forty-eight rows, in order."""
    numbers = [int(row[0]) for row in _ROW.findall(section("docs/operations.md", "Failure table"))]

    assert list(range(1, ROWS_COUNT + 1)) == numbers


def test_rows_that_are_promised_name_a_test() -> None:
    """Every row names its test."""
    for number, _, _, test in _ROW.findall(section("docs/operations.md", "Failure table")):
        assert _NAME.search(test), number


@pytest.mark.parametrize(
    "path", ["docs/operations.md", "docs/protocol.md", "docs/known-defects.md"]
)
def test_tests_that_documents_name_exist(path: str) -> None:
    """Nobody is sent to a test that was renamed."""
    text = (ROOT / path).read_text(encoding="utf-8")

    assert set() == set(_NAME.findall(text)) - names_of_tests()


def test_every_state_of_the_log_is_explained() -> None:
    """An operator finds what the node says."""
    text = section("docs/operations.md", "How the log stands, and what an operator does")
    states = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)

    assert sorted(state.value for state in LogState) == sorted(states)
