"""Patterns of texts that are cut out of a query before anything else looks at it.

An agent harness, a mail client or a chat server wraps what a person wrote in blocks that
drown it: reminders of the system, XML-like tags, timestamps, quoted mail.  ``ignore`` of the
settings names them by regular expressions of RE2, whose time is linear in the text whatever
the pattern is: an expression of a caller must not be able to hold up a node.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

_PROGRAM_BYTES_MAX: Final = 1_048_576
"""Memory of one compiled pattern: ``x{1000}`` nested is short and large."""
_SETS_KEPT: Final = 16
_CUTS_MAX: Final = 1_000
"""Cuts of one pattern in one text."""
_PROBES: Final = ("", "a b\n1-")
_SPACES: Final = re.compile(r"[ \t]{2,}|[ \t]*\n\s*")


def _compile(pattern: str) -> Any:
    import re2  # here: the coordinator reads the models of settings without it

    options = re2.Options()
    options.max_mem = _PROGRAM_BYTES_MAX
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except UnicodeEncodeError as error:
        raise ValueError("a pattern must be valid Unicode") from error
    except re2.error as error:
        raise ValueError(f"{pattern!r} is not a pattern of RE2: {_reason(error)}") from error


def check_pattern(pattern: str) -> str:
    """Check a pattern where it is written.

    Raises:
        ValueError: It is not of RE2's syntax, or matches the empty text.
    """
    if "\x00" in pattern:
        raise ValueError("a pattern must not contain the character U+0000")
    compiled = _compile(pattern)
    if any(not found.group() for probe in _PROBES for found in compiled.finditer(probe)):
        raise ValueError(f"the pattern {pattern!r} matches the empty text, which cuts nothing")
    return pattern


def cut(text: str, patterns: tuple[str, ...]) -> str:
    """Cut everything out that a pattern matches, one pattern after the other.

    White space around a cut becomes one space or one line break.  A text that no pattern
    matches is returned as it is.
    """
    left = text
    for compiled in _compiled(patterns):
        left, count = compiled.subn(" ", left, count=_CUTS_MAX)
        if count:
            left = _SPACES.sub(_one_space, left).strip()
    return left


def _one_space(found: re.Match[str]) -> str:
    return "\n" if "\n" in found.group() else " "


@lru_cache(maxsize=_SETS_KEPT)
def _compiled(patterns: tuple[str, ...]) -> tuple[Any, ...]:
    # A pattern that cannot be read has come past ``check_patterns``, from another release of
    # RE2: it is left out here and named by ``unreadable``, rather than fail every query.
    return tuple(_compile(pattern) for pattern in patterns if pattern not in unreadable((pattern,)))


def unreadable(patterns: Sequence[str]) -> list[str]:
    """The patterns that this node cannot read."""
    found = []
    for pattern in patterns:
        try:
            check_pattern(pattern)
        except ValueError:
            found.append(pattern)
    return found


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode() if isinstance(reason, bytes) else str(reason)
