"""Queries at the door, and on their way to an answer.

A query that the cascade's static stage is sure of is answered on the event loop where it
is asked, past lanes and queue, together with those that came in the same turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from synaptoroute.config import EngineConfig
from synaptoroute.errors import DeadlineExceeded, InvalidQuery, TooLarge
from synaptoroute.models import (
    CANDIDATES_MAX,
    QUERY_BATCH_TEXTS_MAX,
    QUERY_BYTES_MAX,
    Match,
    check_text,
    route_names,
)
from synaptoroute.serving.query import Query, QueryEngine

STATIC_QUERIES_A_TURN: Final = 32
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


def answer_here(engine: QueryEngine, queries: Sequence[Query]) -> list[Match]:
    """Answer on the caller's thread, before ``start``."""
    found = engine.answer_sure(queries)
    left = [query for query, match in zip(queries, found, strict=True) if match is None]
    rest = iter(engine.answer_now(left) if left else ())
    return [match or next(rest) for match in found]


def begin(
    engine: QueryEngine,
    config: EngineConfig,
    text: str,
    *,
    limit: int = 1,
    routes: Sequence[str] | None = None,
    explain: bool = False,
    deadline_ms: int | None = None,
    use_cache: bool = True,
) -> Match | asyncio.Future[Match]:
    """Have one query answered: by the static stage at once, or in the lanes.

    The future ends in time by itself; to cancel it takes the query out of the queue.

    Raises:
        InvalidQuery, Overloaded, NotReady: See ``AdaptiveRouter.aquery``.
    """
    seconds = deadline_seconds(deadline_ms, config)
    if engine.is_started:
        engine.check_queue((text,), use_cache, seconds)
    query = question(text, limit, routes, explain, use_cache)
    if not engine.is_started:
        return answer_here(engine, [query])[0]
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Match] = loop.create_future()
    query.future, query.loop, query.deadline_seconds = future, loop, seconds
    engine.submit(query)
    handle = loop.call_later(seconds, expire, [future], seconds)
    future.add_done_callback(lambda _: handle.cancel())
    return future


async def answered(begun: Match | asyncio.Future[Match]) -> Match:
    """Wait for an answer; who has it at once gives way to the others of the event loop."""
    if isinstance(begun, Match):
        await asyncio.sleep(0)
        return begun
    return await begun


async def ask_all(
    engine: QueryEngine,
    config: EngineConfig,
    texts: Sequence[str],
    *,
    limit: int,
    routes: Sequence[str] | None,
    explain: bool,
    deadline_ms: int | None,
    use_cache: bool,
) -> list[Match]:
    """Answer several queries, all or none; see ``begin``.

    Raises:
        TooLarge: More texts than the queue could ever hold.
    """
    if isinstance(texts, str):
        raise InvalidQuery("texts must be a list of strings")
    if len(texts) > QUERY_BATCH_TEXTS_MAX:
        raise InvalidQuery(f"a batch has at most {QUERY_BATCH_TEXTS_MAX} texts")
    seconds = deadline_seconds(deadline_ms, config)
    if engine.is_started:
        if len(texts) > config.queue_requests_max:
            raise TooLarge(f"the queue holds {config.queue_requests_max} queries at most")
        engine.check_queue(texts, use_cache, seconds)
    queries = [question(text, limit, routes, explain, use_cache) for text in texts]
    if not engine.is_started:
        return answer_here(engine, queries)
    if not engine.has_first_stage:
        return await _submit_all(engine, queries, seconds)
    return await _in_stages(engine, queries, seconds)


async def _in_stages(engine: QueryEngine, queries: Sequence[Query], seconds: float) -> list[Match]:
    """Answer what the static stage is sure of, then the rest."""
    found: list[Match | None] = []
    for start in range(0, len(queries), STATIC_QUERIES_A_TURN):
        found += engine.answer_sure(queries[start : start + STATIC_QUERIES_A_TURN])
        await asyncio.sleep(0)
    left = [query for query, match in zip(queries, found, strict=True) if match is None]
    rest = iter(await _submit_all(engine, left, seconds))
    return [match or next(rest) for match in found]


async def _submit_all(engine: QueryEngine, queries: Sequence[Query], seconds: float) -> list[Match]:
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
