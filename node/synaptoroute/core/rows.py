"""Kinds of rows, and the number that names the owner of a row.

A route has one row for each utterance, one for its description and one for each of its negatives.
An owner is a route's number and the kind of the row in one integer.  An utterance's owner is the
route's number itself, so rows without a new kind have the same bytes in every release.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

ROUTE_ID_BITS: Final = 28
SET_BITS: Final = 32
_LOCAL_MASK: Final = (1 << SET_BITS) - 1
_KEY_MARK: Final = "\x1f"
_ROUTE_ID_MASK: Final = (1 << ROUTE_ID_BITS) - 1


class RowKind(IntEnum):
    """Kind of a row: an utterance, a description or a negative of its route."""

    UTTERANCE = 0
    DESCRIPTION = 1  # Counts as one more example; never shown as an utterance
    NEGATIVE = 2  # A text that must not get the route


def owner_of(route_id: int, kind: RowKind) -> int:
    """Owner of a row, at most 30 bits."""
    return route_id | kind << ROUTE_ID_BITS


def route_id_of(owner: int) -> int:
    return owner & _ROUTE_ID_MASK


def kind_of(owner: int) -> RowKind:
    """Kind of a row.

    Raises:
        ValueError: No such kind exists.
    """
    return RowKind(owner >> ROUTE_ID_BITS)


# --- how a database keeps the rows of all route sets in one table -----------------------------


def stored_number(set_number: int, local: int) -> int:
    """A slot, a route id or an owner of a set as the database stores it."""
    return set_number << SET_BITS | local


def set_number_of(stored: int) -> int:
    """Number of the set that a stored slot, route id or owner belongs to."""
    return stored >> SET_BITS


def local_of(stored: int) -> int:
    """The slot, route id or owner inside its set."""
    return stored & _LOCAL_MASK


def stored_key(set_number: int, key: str) -> str:
    """A name, an import's or an item's identity as the database stores it."""
    # No such text begins with a control character, so the keys of ``default`` stay as they are.
    return f"{_KEY_MARK}{set_number}{_KEY_MARK}{key}" if set_number else key


def split_key(stored: str) -> tuple[int, str]:
    """Set number and text of a stored key."""
    if not stored.startswith(_KEY_MARK):
        return 0, stored
    number, _, key = stored[1:].partition(_KEY_MARK)
    return int(number), key
