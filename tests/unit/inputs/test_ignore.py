"""Patterns that are cut out of queries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.inputs.ignore import (
    check_pattern,
    cut,
    unreadable,
)

pytestmark = pytest.mark.unit

REMINDER = r"(?s)<system-reminder>.*?</system-reminder>"
QUOTED = r"(?m)^>.*$"
STAMP = r"\[\d{4}-\d\d-\d\d[^\]]*\]"


@pytest.mark.parametrize(
    ("pattern", "text", "left"),
    [
        (REMINDER, "<system-reminder>\na\n</system-reminder>\n\nmy money?", "my money?"),
        (REMINDER, "a <system-reminder>x</system-reminder> b", "a b"),
        (QUOTED, "my money?\n> old mail\n> older\nthanks", "my money?\nthanks"),
        (STAMP, "[2026-01-01 10:00] my money?", "my money?"),
        (r"(?i)<[a-z_-]+>", "<User_Query>my money?", "my money?"),
        (REMINDER, "<system-reminder>all of it</system-reminder>", ""),
    ],
)
def test_noise_is_cut(pattern: str, text: str, left: str) -> None:
    assert cut(text, (check_pattern(pattern),)) == left


def test_a_text_that_nothing_matches_stays_as_it_is() -> None:
    text = "  two  spaces\n\n and lines "
    assert cut(text, (REMINDER, QUOTED)) == text


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "(",
        r"(a)\1",
        "(?=x)",
        "a*",
        "^",
        r"\b",
        "a\x00",
        "\ud800",
        "((((a{100}){100}){100}){100})",
    ],
)
def test_malformed_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        check_pattern(pattern)
    assert unreadable([pattern]) == [pattern]


def test_a_pattern_that_cannot_be_read_here_cuts_nothing() -> None:
    """An entry of another release must not fail every query."""
    assert cut("(a) b", ("(", "b")) == "(a)"


@given(st.text(max_size=200))
def test_cuts_are_repeatable(text: str) -> None:
    once = cut(text, (REMINDER, QUOTED, STAMP))
    assert cut(once, (REMINDER, QUOTED, STAMP)) == once or len(once) < len(text)
