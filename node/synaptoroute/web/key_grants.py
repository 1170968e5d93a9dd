"""Scopes of an API key in some route sets only, such as ``write@support-*``.

A grant is ``scope@pattern``.  In a pattern ``*`` stands for any characters, none included, and
``?`` for one; every other character stands for itself.  A pattern covers the whole name of a route
set or of an alias.  A name may contain spaces, which a line of the key file separates words by:
``?`` stands for them.

A key that may use an alias may query what the alias points to, whatever that is called: who sets
the alias must have the sets as well.
"""

from __future__ import annotations

import re
import unicodedata
from fnmatch import translate
from functools import cache
from typing import Final, Literal, NamedTuple, get_args

Scope = Literal["read", "write", "admin", "metrics"]
ALL_SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
SCOPES: Final[tuple[Scope, ...]] = ("read", "write", "admin")
"""Scopes of the API; they may be for some route sets only."""
PATTERN_CHARACTERS_MAX: Final = 128
_PATTERN: Final = re.compile(r"[^\x00- ,/\x7f]{1,128}")


class Grant(NamedTuple):
    """A scope, and the route sets in which it holds."""

    scope: Scope
    pattern: str

    def __str__(self) -> str:
        return f"{self.scope}@{self.pattern}"

    def covers(self, route_set: str) -> bool:
        """Whether the grant holds in a route set, or for an alias."""
        return bool(_compiled(self.pattern).fullmatch(route_set))


def parse_grant(text: str) -> Grant:
    """Read ``scope@pattern``.

    Raises:
        ValueError: It is malformed.
    """
    label, _, pattern = text.partition("@")
    scope: Scope | None = next((each for each in SCOPES if each == label), None)
    if scope is None:
        raise ValueError(f"the scopes of a route set are {', '.join(SCOPES)}")
    if not _PATTERN.fullmatch(pattern):
        raise ValueError(
            f"a pattern of route sets is 1 to {PATTERN_CHARACTERS_MAX} characters, without spaces,"
            " commas and slashes"
        )
    return Grant(scope, unicodedata.normalize("NFC", pattern))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # A bracket would begin a class of characters; here it stands for itself.
    return re.compile(translate(pattern.replace("[", "[[]")))
