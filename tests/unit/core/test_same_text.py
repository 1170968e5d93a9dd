"""Which texts count as one text."""

from __future__ import annotations

import pytest

from synaptoroute.core.same_text import same_text_form

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Where is my parcel?", "where is my parcel"),
        ("  where \t is\nmy parcel ", "where is my parcel"),
        ("stop!!!", "STOP."),
        ("caf\u00e9", "cafe\u0301"),
        ("STRASSE", "stra\u00dfe"),
        ("\u2764\ufe0f", "\u2764"),
        ("re\u00adfund\u200b", "refund"),
        ("\u9000\u8ca8\u3002", "\u9000\u8ca8"),
        ("hello ? !", "hello"),
    ],
)
def test_texts_that_are_the_same(left: str, right: str) -> None:
    """Case, composition, white space, invisible characters and final punctuation do not count."""
    assert same_text_form(left) == same_text_form(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("\U0001f44d", "\U0001f44e"),
        ("\U0001f44d", "\U0001f44d\U0001f3fd"),
        ("order 12", "order 13"),
        ("resume", "r\u00e9sum\u00e9"),
        ("re-order", "reorder"),
        ("?", "!"),
        ("a?b", "ab"),
    ],
)
def test_texts_that_differ(left: str, right: str) -> None:
    """Accents, digits, inner punctuation and skin tones count; so does punctuation alone."""
    assert same_text_form(left) != same_text_form(right)


@pytest.mark.parametrize("text", ["\u0130stanbul", "\u01c5", "a\u0345\u0301", "?!", " \u00a0 x "])
def test_form_of_a_form_is_itself(text: str) -> None:
    """Normalising twice changes nothing."""
    form = same_text_form(text)

    assert form == same_text_form(form)
