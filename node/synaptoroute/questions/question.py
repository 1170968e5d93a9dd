"""Questions and their options."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, TypeAlias

CHOICES_MIN: Final = 2
CHOICES_MAX: Final = 255
QUESTIONS_MAX: Final = 400
OPTIONS_KEPT: Final = 4_096
"""Options that are kept: the questions of a client seldom change."""
OPTION_CHARACTERS_MAX: Final = 2_000
"""Of an option's text; an encoder reads less."""
NONE_NAMES: Final = frozenset(
    {
        "none",
        "none of the above",
        "none of these",
        "no match",
        "no route",
        "other",
        "others",
        "something else",
        "unknown",
        "not applicable",
        "n a",
        "out of scope",
        "oos",
    }
)
"""Options that stand for no route, in lower case, with a space for each ``_``, ``-`` and ``/``."""
_SEPARATORS: Final = re.compile(r"[\s_\-/.]+")
_WORD_START: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_SIDES: Final = re.compile(
    r"(?:\A|\n\n)Answer true when: (?P<true>.+?)\n\nAnswer false when: (?P<false>.+)\Z", re.DOTALL
)
"""How LiteLLM writes the two sides of a question into OpenAI's instructions."""

Value: TypeAlias = str | bool


def is_none_name(value: Value) -> bool:
    """Whether an option stands for no route, unless a route has its name."""
    return isinstance(value, str) and _words(value).casefold() in NONE_NAMES


def _words(name: str) -> str:
    """Write an identifier as words: ``order-status`` and ``orderStatus`` as ``order status``."""
    return _SEPARATORS.sub(" ", _WORD_START.sub(" ", name)).strip()


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a question.

    Attributes:
        value: Its name as the caller wrote it; ``True`` and ``"true"`` are two options.
        text: What is encoded of it if no route has its name: the words of its name, and its
            description.
        is_none: Whether it stands for no route, if no route has its name.
    """

    value: Value
    text: str
    is_none: bool = False

    @staticmethod
    @lru_cache(maxsize=OPTIONS_KEPT, typed=True)
    def of(value: Value, description: str = "") -> Option:
        """Make an option of a name and a description, which may be empty."""
        name = ("true" if value else "false") if isinstance(value, bool) else _words(value)
        text = f"{name}: {description}" if description and name else description or name
        return Option(value, text[:OPTION_CHARACTERS_MAX], is_none_name(value))

    @property
    def route(self) -> str | None:
        """Name of the route that it may be; None for a Boolean, which is never a route."""
        return self.value if isinstance(self.value, str) else None


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A question with one right option.

    Attributes:
        name: The caller's name for it, or None.
        options: 2 to 255, with distinct values.
    """

    options: tuple[Option, ...]
    name: str | None = field(default=None)


@dataclass(frozen=True, slots=True)
class SidesQuestion:
    """A question with two described sides, of which the first is the one that is asked for.

    Attributes:
        name: The caller's name for it, or None.
        options: The two sides.
    """

    options: tuple[Option, Option]
    name: str | None = field(default=None)

    @classmethod
    def of(cls, true: str, false: str, name: str | None = None) -> SidesQuestion:
        """Make a question of the descriptions of its sides."""
        sides = [
            Option(value, text.strip()[:OPTION_CHARACTERS_MAX])
            for value, text in ((True, true), (False, false))
        ]
        return cls((sides[0], sides[1]), name)


Question: TypeAlias = ChoiceQuestion | SidesQuestion


def sides_in(instructions: Any) -> tuple[str, str] | None:
    """Read the two sides out of instructions; None if they describe none."""
    found = _SIDES.search(instructions) if isinstance(instructions, str) else None
    return None if found is None else (found["true"], found["false"])
