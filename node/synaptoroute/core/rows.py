"""Kinds of rows, and the number that names the owner of a row.

A route has one row for each utterance, one for its description and one for each of its negatives.
An owner is a route's number and the kind of the row in one integer.  An utterance's owner is the
route's number itself, so rows without a new kind have the same bytes in every release.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

ROUTE_ID_BITS: Final = 28
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
