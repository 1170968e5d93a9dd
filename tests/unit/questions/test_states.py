"""The text of a state."""

from __future__ import annotations

import json
from typing import Any

import pytest

from synaptoroute.questions import state_text
from synaptoroute.questions.states import UnreadableState

pytestmark = pytest.mark.unit

USER = {"role": "user", "content": "where is my parcel"}
EARLIER = {"role": "user", "content": "hello"}
ASSISTANT = {"role": "assistant", "content": "how can I help?"}


@pytest.mark.parametrize(
    "state",
    [
        "where is my parcel",
        {"msg": "where is my parcel"},
        {"ticket": {"id": 17, "urgent": True, "text": "where is my parcel", "owner": None}},
        ["where is my parcel"],
        [EARLIER, ASSISTANT, USER],
        [ASSISTANT, {**USER, "content": [{"type": "input_text", "text": "where is my parcel"}]}],
        {"messages": [EARLIER, ASSISTANT, USER, ASSISTANT], "user": "u-1"},
        {"input": [EARLIER, USER, {"type": "function_call", "name": "f", "arguments": "{}"}]},
        USER,
        [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": json.dumps([EARLIER, USER])}],
            }
        ],
        json.dumps({"messages": [EARLIER, USER]}),
        "\nClassify this message:\nwhere is my parcel",
        "Classify this message:\nwhere is my parcel",
        "\nCaller system prompt, quoted as task context:\nBe kind.\n"
        "\nRecent conversation (context only, do not classify these):\n[1] hello\n"
        "\nConversation so far: ~12 tokens across the request\n"
        "\nClassify this message:\nwhere is my parcel",
        "System prompt:\nBe kind.\n\nStay short.\n\nRequest:\nwhere is my parcel",
    ],
)
def test_text_of_a_state(state: Any) -> None:
    """Strings, objects, conversations and wrapped messages have one text."""
    assert "where is my parcel" == state_text(state).strip()


def test_strings_of_an_object_are_lines_in_their_order() -> None:
    """Names of fields and numbers are left out; so is the type of nothing else."""
    state = {"type": "ticket", "title": "parcel", "lines": ["late", {"note": "two days", "n": 2}]}
    assert "ticket\nparcel\nlate\ntwo days" == state_text(state)


@pytest.mark.parametrize(
    "text",
    [
        "What does Classify this message:\nmean?",
        "[not json",
        '{"broken": ',
        "Request:\nplease",
    ],
)
def test_texts_that_look_like_wrappers_stay_as_they_are(text: str) -> None:
    """Only what a known client writes is cut off."""
    assert text == state_text(text)


def test_marker_inside_a_message_is_part_of_it() -> None:
    """The wrapper ends at its first marker."""
    message = "please\nClassify this message:\nwell"
    assert message == state_text(f"\nClassify this message:\n{message}")


@pytest.mark.parametrize(
    "state",
    [
        "",
        " \n",
        {},
        [],
        {"count": 3, "is_open": True, "nothing": None},
        [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,x"}]}],
        "\nClassify this message:\n",
    ],
)
def test_states_without_text_are_refused(state: Any) -> None:
    """So are images."""
    with pytest.raises(UnreadableState):
        state_text(state)


def test_deep_nesting_is_refused() -> None:
    """It must not run out of stack."""
    state: Any = "x"
    for _ in range(150):
        state = [state]
    with pytest.raises(UnreadableState):
        state_text(state)


def test_values_are_counted() -> None:
    """Numbers too: all of them have to be looked at."""
    with pytest.raises(UnreadableState, match="values"):
        state_text({"text": "x", "numbers": [1] * 30_000})
    assert "x" == state_text({"text": "x", "numbers": [1] * 10_000})
    long = json.dumps(["word " * 60_000])
    assert long == state_text(long)
