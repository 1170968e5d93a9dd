"""Queries at the door, and on their way to an answer.

A query that the cascade's static stage is sure of is answered where it is asked, past
lanes and queue; such a caller still gives way to the others of its event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from synaptoroute.config import EngineConfig
from synaptoroute.engine import Engine, Query
from synaptoroute.errors import DeadlineExceeded, InvalidQuery
from synaptoroute.models import CANDIDATES_MAX, QUERY_BYTES_MAX, Match, check_text, route_names

STATIC_QUERIES_A_TURN: Final = 16
"""A batch of sure queries lets others have their turn after so many."""


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


def deadline_seconds(deadline_ms: int | None, config: EngineConfig) -> float:
    """Say how long an answer may take.

    Raises:
        InvalidQuery: Less than a millisecond.
    """
    if deadline_ms is not None and deadline_ms < 1:
        raise InvalidQuery(f"deadline_ms must be at least 1, got {deadline_ms}")
    return (deadline_ms or config.query_deadline_ms) / 1_000


def answer_here(engine: Engine, queries: Sequence[Query]) -> list[Match]:
    """Answer on the caller's thread, before ``start``."""
    found = [_sure(engine, query) for query in queries]
    left = [query for query, match in zip(queries, found, strict=True) if match is None]
    rest = iter(engine.answer_now(left) if left else ())
    return [match or next(rest) for match in found]


def _sure(engine: Engine, query: Query) -> Match | None:
    cascade = engine.cascade
    return None if cascade is None else cascade.answer(query, engine.scorer.node)


async def ask(engine: Engine, query: Query, seconds: float) -> Match:
    """Answer one query, by the static stage or in the lanes.

    Raises:
        Overloaded, DeadlineExceeded, NotReady: See ``AdaptiveRouter.aquery``.
    """
    if engine.cascade is not None and (match := _sure(engine, query)) is not None:
        await asyncio.sleep(0)
        return match
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Match] = loop.create_future()
    query.future, query.loop, query.deadline_seconds = future, loop, seconds
    engine.submit(query)
    handle = loop.call_later(seconds, expire, [future], seconds)
    try:
        return await future
    finally:
        handle.cancel()


async def ask_all(engine: Engine, queries: Sequence[Query], seconds: float) -> list[Match]:
    """Answer several queries, all or none; see ``ask``."""
    if engine.cascade is None:
        return await _submit_all(engine, queries, seconds)
    found: list[Match | None] = []
    for query in queries:
        found.append(_sure(engine, query))
        if len(found) % STATIC_QUERIES_A_TURN == 0:
            await asyncio.sleep(0)
    left = [query for query, match in zip(queries, found, strict=True) if match is None]
    rest = iter(await _submit_all(engine, left, seconds))
    return [match or next(rest) for match in found]


async def _submit_all(engine: Engine, queries: Sequence[Query], seconds: float) -> list[Match]:
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Match]] = [loop.create_future() for _ in queries]
    for query, future in zip(queries, futures, strict=True):
        query.future, query.loop, query.deadline_seconds = future, loop, seconds
    engine.submit_all(queries)
    handle = loop.call_later(seconds, expire, futures, seconds)
    try:
        return await asyncio.gather(*futures)
    finally:
        handle.cancel()
        for future in futures:
            future.cancel()


def expire(futures: Sequence[asyncio.Future[Match]], seconds: float) -> None:
    """Give up on answers.  Runs on the event loop."""
    for future in futures:
        if not future.done():
            future.set_exception(DeadlineExceeded(f"no answer within {seconds:g} s"))
