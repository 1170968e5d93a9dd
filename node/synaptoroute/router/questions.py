"""Queries at the door."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from synaptoroute.engine import Query
from synaptoroute.errors import DeadlineExceeded, InvalidQuery
from synaptoroute.models import CANDIDATES_MAX, QUERY_BYTES_MAX, Match, check_text, route_names


def question(
    text: str, limit: int, routes: Sequence[str] | None, explain: bool, use_cache: bool
) -> Query:
    """Check what a caller asks.

    Raises:
        InvalidQuery: The text, the limit or the filter is malformed.
    """
    if not isinstance(text, str):
        raise InvalidQuery("text must be a string")
    try:
        checked = check_text(text, QUERY_BYTES_MAX)
    except ValueError as error:
        raise InvalidQuery(f"text {error}") from error
    if not 1 <= limit <= CANDIDATES_MAX:
        raise InvalidQuery(f"limit must be 1 to {CANDIDATES_MAX}, got {limit}")
    if isinstance(routes, str):
        raise InvalidQuery("routes must be a list of names")
    try:
        names = None if routes is None else route_names(routes)
    except (TypeError, ValueError) as error:
        raise InvalidQuery(f"routes: {error}") from error
    return Query(checked, limit, names, explain, use_cache)


def expire(futures: Sequence[asyncio.Future[Match]], seconds: float) -> None:
    """Give up on answers.  Runs on the event loop."""
    for future in futures:
        if not future.done():
            future.set_exception(DeadlineExceeded(f"no answer within {seconds:g} s"))
