"""The text of a question's state, which may be a string, an object or an array.

Rule 1: a conversation is its last message of a user.  Rule 2: of other objects and arrays the
strings count, in their order, one a line; names of fields, numbers, Booleans and null do not.
Rule 3: a text that is a JSON object or array is read as that.  Rule 4: known wrappers around a
message are cut off.  What else surrounds a text is cut by the ``ignore`` patterns of the set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final

DEPTH_MAX: Final = 64
VALUES_MAX: Final = 20_000
"""Values of an object or array that are looked at: it blocks the event loop meanwhile."""
JSON_CHARACTERS_MAX: Final = 262_144
"""A longer string is not read as JSON."""
_CONVERSATIONS: Final = ("messages", "input", "conversation")
"""Fields of an object that may hold a conversation, in this order."""
_IMAGE_PARTS: Final = frozenset({"input_image", "image", "image_url", "input_audio", "input_file"})
_ROLES: Final = frozenset({"user", "assistant", "system", "developer", "tool", "human", "ai"})
_USERS: Final = ("user", "human")

# LiteLLM's router for complexity writes its classifier one text, of which the last part is the
# message; the parts before it are optional.
_LITELLM_HEADS: Final = (
    "Classify this message:\n",
    "Caller system prompt, quoted as task context:\n",
    "Recent conversation (context only, do not classify these):\n",
    "Conversation so far: ~",
)
_LITELLM_MESSAGE: Final = re.compile(r"(?:\A|\n)Classify this message:\n")
_LITELLM_JEV: Final = re.compile(r"\ASystem prompt:\n.*?\n\nRequest:\n", re.DOTALL)


class UnreadableState(ValueError):
    """A state without any text, or with a part that is no text."""


def state_text(state: Any) -> str:
    """Return the text of a state.

    Raises:
        UnreadableState: It has no text, or holds images.
    """
    text = _unwrapped(_text_of_json(plain_text(state)))
    if not text.strip():
        raise UnreadableState("has no text")
    return text


def plain_text(value: Any) -> str:
    """Return the text of a value as JSON has it, without rules for strings.

    Raises:
        UnreadableState: It holds images, is nested too deeply, or has too many values.
    """
    if isinstance(value, str):
        return value
    conversation = _conversation_of(value)
    if conversation is not None:
        value = _last_of_user(conversation)
    return "\n".join(_strings(value, 0, count()))


def _text_of_json(text: str) -> str:
    if len(text) > JSON_CHARACTERS_MAX or not text.lstrip().startswith(("{", "[")):
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return plain_text(found) or text


def _unwrapped(text: str) -> str:
    lead = text.lstrip()
    if lead.startswith(_LITELLM_HEADS):
        found = _LITELLM_MESSAGE.search(lead)
        return lead[found.end() :] if found else text
    return _LITELLM_JEV.sub("", text, count=1)


def _conversation_of(value: Any) -> Sequence[Any] | None:
    if isinstance(value, Mapping):
        if _is_message(value):
            return [value]
        for name in _CONVERSATIONS:
            if isinstance(value.get(name), list) and _is_conversation(value[name]):
                return list(value[name])
        return None
    return value if isinstance(value, list) and _is_conversation(value) else None


def _is_conversation(items: Sequence[Any]) -> bool:
    """Whether some items are messages, and the others are calls of tools or their results."""
    if len(items) > VALUES_MAX:
        return False
    return any(map(_is_message, items)) and all(isinstance(item, Mapping) for item in items)


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and item.get("role") in _ROLES and "content" in item


def _last_of_user(items: Sequence[Any]) -> Any:
    """The content of the last message of a user, or of the last message."""
    messages = [item for item in items if _is_message(item)]
    asked = [item for item in messages if item["role"] in _USERS]
    return (asked or messages)[-1]["content"]


def _strings(value: Any, depth: int, seen: Iterator[int]) -> Iterator[str]:
    if depth > DEPTH_MAX:
        raise UnreadableState("is nested too deeply")
    if next(seen) > VALUES_MAX:
        raise UnreadableState(f"has more than {VALUES_MAX} values")
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, Mapping):
        kind = value.get("type")
        if isinstance(kind, str) and kind in _IMAGE_PARTS:
            raise UnreadableState(f"holds a part of type {kind!r}; only text is read")
        for name, item in value.items():
            # The type of a part of a message says nothing about the message.
            if not (name == "type" and "text" in value):
                yield from _strings(item, depth + 1, seen)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, depth + 1, seen)
