"""What looks like personal data is replaced by the name of its kind."""

from __future__ import annotations

import pytest

from synaptoroute.learning.redaction import DEFAULT_KINDS, KINDS, cut_kinds

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to jane.doe+x@mail.example.org please", "write to [email] please"),
        ("call +49 (0)30 123-456", "call [long_number]"),
        ("card 4111 1111 1111 1111", "card [long_number]"),
        ("order 12345 is late", "order 12345 is late"),
        ("it cost 12.50 in 2024", "it cost 12.50 in 2024"),
        ("I want my money back", "I want my money back"),
    ],
)
def test_default_kinds(text: str, expected: str) -> None:
    assert expected == cut_kinds(text, DEFAULT_KINDS)


def test_all_kinds() -> None:
    text = "see https://a.example/x?y=1 for 123e4567-e89b-12d3-a456-426614174000"

    assert "see [url] for [uuid]" == cut_kinds(text, KINDS)
    assert text == cut_kinds(text, ())


@pytest.mark.timeout(5)
@pytest.mark.parametrize("piece", ["a", "1", "1 ", "a@", "a.", "a@a.", "(", "+"])
def test_time_is_linear(piece: str) -> None:
    """32 KB of anything end within the timeout."""
    cut_kinds(piece * (32_768 // len(piece)), KINDS)
