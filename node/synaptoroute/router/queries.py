"""Validation of queries, and their way to an answer.

A query is validated once: here, or by a caller that says so with ``is_checked``, as the HTTP
server does, whose errors name the fields of its request.  A query that the cascade's first stage
is sure of is answered on the event loop, past the queue and the encoder workers, together
with those that arrived in the same turn of the loop.
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

FIRST_STAGE_QUERIES_MAX: Final = 32
"""Queries of a batch that the first stage answers before it yields to the event loop."""


def make_query(
    text: str,
    limit: int = 1,
    routes: Sequence[str] | None = None,
    explain: bool = False,
    use_cache: bool = True,
    is_checked: bool = False,
) -> Query:
    """Validate and make a query."""
    if is_checked:
        return Query(text, limit, None if routes is None else frozenset(routes), explain, use_cache)
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


def begin_query(
    engine: QueryEngine,
    config: EngineConfig,
    text: str,
    *,
    limit: int = 1,
    routes: Sequence[str] | None = None,
    explain: bool = False,
    deadline_ms: int | None = None,
    use_cache: bool = True,
    is_checked: bool = False,
    flow: str = "",
) -> Match | asyncio.Future[Match]:
    """Start a query: the first stage answers at once, or the query is queued.

    The future fails by itself at the deadline.  Cancelling it takes the query out of the
    queue.  ``flow`` names the client: an overloaded node shares its capacity among clients.
    """
    seconds = _deadline_seconds(deadline_ms, config)
    try:
        query = make_query(text, limit, routes, explain, use_cache, is_checked)
    except InvalidQuery:
        # Overload is reported first: otherwise a client would learn that its query is
        # malformed only after it has retried.  A valid query is admitted by submit().
        if engine.is_started:
            engine.check_queue((text,), use_cache, seconds, flow)
        raise
    if not engine.is_started:
        return answer_on_this_thread(engine, [query])[0]
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Match] = loop.create_future()
    query.future, query.loop, query.deadline_seconds = future, loop, seconds
    query.flow = flow
    engine.submit(query)
    handle = loop.call_later(seconds, _expire, [future], seconds)
    future.add_done_callback(lambda _: handle.cancel())
    return future


def _deadline_seconds(deadline_ms: int | None, config: EngineConfig) -> float:
    """Time in which a query must be answered."""
    if deadline_ms is not None and deadline_ms < 1:
        raise InvalidQuery(f"deadline_ms must be at least 1, got {deadline_ms}")
    return (deadline_ms or config.query_deadline_ms) / 1_000


async def answered(begun: Match | asyncio.Future[Match]) -> Match:
    """Wait for the answer of a query that was started."""
    if isinstance(begun, Match):
        # Yield once: a client that sends sure queries in a row must not starve the loop.
        await asyncio.sleep(0)
        return begun
    return await begun


def answer_on_this_thread(engine: QueryEngine, queries: Sequence[Query]) -> list[Match]:
    """Answer on the caller's thread, before ``start``."""
    found = engine.answer_sure(queries)
    left = [query for query, match in zip(queries, found, strict=True) if match is None]
    rest = iter(engine.answer_now(left) if left else ())
    return [match or next(rest) for match in found]


async def query_batch(
    engine: QueryEngine,
    config: EngineConfig,
    texts: Sequence[str],
    *,
    limit: int,
    routes: Sequence[str] | None,
    explain: bool,
    deadline_ms: int | None,
    use_cache: bool,
    is_checked: bool,
    flow: str,
) -> list[Match]:
    """Answer several queries, all or none; see ``begin_query``."""
    if isinstance(texts, str):
        raise InvalidQuery("texts must be a list of strings")
    if len(texts) > QUERY_BATCH_TEXTS_MAX:
        raise InvalidQuery(f"a batch has at most {QUERY_BATCH_TEXTS_MAX} texts")
    seconds = _deadline_seconds(deadline_ms, config)
    if engine.is_started:
        if len(texts) > config.queue_requests_max:
            raise TooLarge(f"the queue holds {config.queue_requests_max} queries at most")
        # Before a thousand texts are validated: under overload that work would be wasted.
        engine.check_queue(texts, use_cache, seconds, flow)
    arguments = (limit, routes, explain, use_cache, is_checked)
    queries = [make_query(text, *arguments) for text in texts]
    if not engine.is_started:
        return answer_on_this_thread(engine, queries)
    for query in queries:
        query.flow = flow
    if not engine.has_first_stage:
        return await _submit_all(engine, queries, seconds)
    found: list[Match | None] = []
    for start in range(0, len(queries), FIRST_STAGE_QUERIES_MAX):
        found += engine.answer_sure(queries[start : start + FIRST_STAGE_QUERIES_MAX])
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
    handle = loop.call_later(seconds, _expire, futures, seconds)
    try:
        return await asyncio.gather(*futures)
    finally:
        handle.cancel()
        for future in futures:
            future.cancel()


def _expire(futures: Sequence[asyncio.Future[Match]], seconds: float) -> None:
    """Fail the answers that are not there at the deadline.  Runs on the event loop."""
    for future in futures:
        if not future.done():
            future.set_exception(DeadlineExceeded(f"no answer within {seconds:g} s"))
