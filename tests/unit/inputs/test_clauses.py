"""Cutting texts into clauses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.inputs.clauses import CLAUSES_MAX, split_clauses

pytestmark = pytest.mark.unit


def clauses(text: str) -> list[str]:
    return [text[start:end] for start, end in split_clauses(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("turn on the lights and play some music", ["turn on the lights", "play some music"]),
        ("cancel my order and then send me a refund", ["cancel my order", "send me a refund"]),
        (
            "Where is my order? I also want a refund.",
            ["Where is my order?", "I also want a refund."],
        ),
        ("Cancel my order, also tell me a joke", ["Cancel my order", "tell me a joke"]),
        ("what's my balance; and then, how do I pay?", ["what's my balance;", "how do I pay?"]),
        ("book a table\nand call me an uber", ["book a table", "call me an uber"]),
        (
            "find a hotel, book a flight and tell my boss i am away",
            ["find a hotel", "book a flight", "tell my boss i am away"],
        ),
        (
            "Please cancel my order but keep my account",
            ["Please cancel my order", "keep my account"],
        ),
    ],
)
def test_two_intents_are_cut(text: str, expected: list[str]) -> None:
    assert clauses(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "salt and pepper",
        "transfer 100 dollars from my savings and my checking account",
        "change my name and address",
        "what is the order and call history",
        "if my card is lost, can i get a new one",
        "Hello, I want to cancel my order",
        "Hi there. Can you help me",
        "I lost my card. What should I do?",
        "set the thermostat to 70.5 degrees",
        "Mr. Smith and I have a reservation",
        "send it to dr. miller at e.g. st. mary",
        "rock and roll",
        "is it cold and then is it",
        "...",
        "and",
        "a. b. c.",
    ],
)
def test_one_intent_is_not_cut(text: str) -> None:
    assert clauses(text) == [text]


def test_count_is_bounded() -> None:
    text = " and ".join(f"tell me joke number {at}" for at in range(30))
    found = clauses(text)
    assert len(found) == CLAUSES_MAX
    assert found[-1].endswith("number 29")


@pytest.mark.parametrize(
    "text",
    [
        "and " * 8_000,
        ", and then " * 3_000,
        ".\n" * 16_000,
        "tell me a joke, " * 2_000,
        "a" * 32_000,
    ],
)
def test_a_text_of_many_borders_is_cut_in_bounded_time(text: str) -> None:
    """Each border is judged by a bounded number of words; the time limit of tests is the bound."""
    for _ in range(20):
        assert len(split_clauses(text)) <= CLAUSES_MAX


@given(st.text(st.sampled_from("ab .,;?!\n") | st.characters(), max_size=80))
def test_spans_are_ordered_and_not_empty(text: str) -> None:
    spans = split_clauses(text)
    ends = [0, *(end for _, end in spans)]
    assert all(before <= start for before, (start, _) in zip(ends, spans, strict=False))
    assert all(text[start:end] == text[start:end].strip() for start, end in spans)
    if text.strip():
        assert all(start < end for start, end in spans)
    if len(spans) == 1:
        assert text[slice(*spans[0])] == text.strip()
