"""Validation of queries, and their way to an answer.

A query is validated once: here, or by a caller that says so with ``is_checked``, as the HTTP
server does, whose errors name the fields of its request.  A query that the cascade's first stage
is sure of is answered on the event loop, past the queue and the encoder workers, together
with those that arrived in the same turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, TypedDict, Unpack

from synaptoroute.config import EngineConfig
from synaptoroute.errors import DeadlineExceeded, InvalidQuery, TooLarge
from synaptoroute.models import (
    CANDIDATES_MAX,
    QUERY_BATCH_TEXTS_MAX,
    QUERY_BYTES_MAX,
    Match,
    check_context,
    check_prior,
    check_text,
    route_names,
)
from synaptoroute.router.lifecycle import Live, is_elsewhere
from synaptoroute.router.splits import SplitText
from synaptoroute.serving.query import Query, QueryEngine
from synaptoroute.serving.query_trace import record_steps
from synaptoroute.tracing import SPAN

FIRST_STAGE_QUERIES_MAX: Final = 32
"""Queries of a batch that the first stage answers before it yields to the event loop."""


class QueryArguments(TypedDict, total=False):
    """The options of a query.

    Attributes:
        limit: Number of candidates to report, 1 to 100; 1, the default, reports none.
        routes: Choose among these routes only.
        explain: Report at least five candidates, and how the text was read.
        deadline_ms: Give up after that many milliseconds, at least 1.
        use_cache: False encodes the text again, for measurements.
        context: Earlier turns of the conversation, oldest first: at most 8 texts of 32,768
            bytes together.  They count behind the text, see ``serving.context``.
        session: Keeps the queries of one session on one side of an alias with a canary.
        cache_scope: Embeddings are shared with queries of the same scope alone.
        prior: Weights of routes by name, -20 to 20, of at most 100 routes: logarithms of the
            factors by which their odds are multiplied, see ``serving.prior``.
    """

    limit: int
    routes: Sequence[str] | None
    explain: bool
    deadline_ms: int | None
    use_cache: bool
    context: Sequence[str]
    prior: Mapping[str, float] | None
    session: str | None
    cache_scope: str


_NO_OPTIONS: Final = QueryArguments()


def make_query(
    text: str, options: QueryArguments = _NO_OPTIONS, *, is_checked: bool = False
) -> Query:
    """Validate and make a query."""
    if not options and isinstance(text, str):  # as most are
        return Query(text if is_checked else _checked(text), 1, None, False)
    limit, routes = options.get("limit", 1), options.get("routes")
    query = Query(text, limit, None, options.get("explain", False), options.get("use_cache", True))
    context, prior = options.get("context", ()), options.get("prior")
    query.session, query.cache_scope = options.get("session"), options.get("cache_scope", "")
    if is_checked:
        query.prior = prior
        query.context = tuple(context)
        query.routes = None if routes is None else frozenset(routes)
        return query
    if not isinstance(text, str):
        raise InvalidQuery("text must be a string")
    query.text = _checked(text)
    if not 1 <= limit <= CANDIDATES_MAX:
        raise InvalidQuery(f"limit must be 1 to {CANDIDATES_MAX}, got {limit}")
    if isinstance(routes, str):
        raise InvalidQuery("routes must be a list of names")
    try:
        query.routes = None if routes is None else route_names(routes)
    except (TypeError, ValueError) as error:
        raise InvalidQuery(f"routes: {error}") from error
    try:
        query.context = check_context(context)
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidQuery(f"context: {error}") from error
    try:
        query.prior = None if prior is None else check_prior(prior)
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidQuery(f"prior: {error}") from error
    return query


def _checked(text: str) -> str:
    try:
        return check_text(text, QUERY_BYTES_MAX)
    except ValueError as error:
        raise InvalidQuery(f"text {error}") from error


def begin_query(
    engine: QueryEngine,
    config: EngineConfig,
    text: str,
    *,
    is_checked: bool = False,
    flow: str = "",
    **options: Unpack[QueryArguments],
) -> Match | asyncio.Future[Match]:
    """Start a query: the first stage answers at once, or the query is queued.

    The future fails by itself at the deadline.  Cancelling it takes the query out of the
    queue.  ``flow`` names the client: an overloaded node shares its capacity among clients.
    """
    seconds = _deadline_seconds(options.get("deadline_ms"), config)
    try:
        query = make_query(text, options, is_checked=is_checked)
    except InvalidQuery:
        # Overload is reported first: otherwise a client would learn that its query is
        # malformed only after it has retried.  A valid query is admitted by submit().
        if engine.is_started:
            engine.check_queue((text,), options.get("use_cache", True), seconds, flow)
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
    if (span := SPAN.get()) is not None:
        span.mark("parse")
        future.add_done_callback(lambda _: record_steps(span, [query]))
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


def query_alone(
    engine: QueryEngine, config: EngineConfig, text: str, options: QueryArguments, live: Live
) -> Match | None:
    """Answer a query on this thread if nothing else is queued; None for the usual way.

    The usual way also reports what is wrong with a query, in the order that it has.
    """
    # On an event loop's thread the caller must await, and the usual way says so.
    if not is_elsewhere(live) or SPAN.get() is not None:
        return None
    try:
        _deadline_seconds(options.get("deadline_ms"), config)
        query = make_query(text, options)
    except InvalidQuery:
        return None
    return engine.answer_alone(query)


def answer_on_this_thread(engine: QueryEngine, queries: Sequence[Query]) -> list[Match]:
    """Answer on the caller's thread, before ``start``."""
    found = engine.answer_sure(queries)
    if len(queries) == 1:
        return [found[0] or engine.answer_now(queries)[0]]
    left = [query for query, match in zip(queries, found, strict=True) if match is None]
    rest = iter(engine.answer_now(left) if left else ())
    return [match or next(rest) for match in found]


async def query_batch(
    engine: QueryEngine,
    config: EngineConfig,
    texts: Sequence[str],
    *,
    is_checked: bool = False,
    flow: str = "",
    **options: Unpack[QueryArguments],
) -> list[Match]:
    """Answer several queries, all or none; see ``begin_query``."""
    seconds = _check_batch(engine, config, texts, options, flow)
    queries = [make_query(text, options, is_checked=is_checked) for text in texts]
    return await answer_queries(engine, queries, seconds, flow)


async def query_splits(
    engine: QueryEngine,
    config: EngineConfig,
    texts: Sequence[str],
    *,
    flow: str = "",
    **options: Unpack[QueryArguments],
) -> list[list[Match]]:
    """Answer the clauses of each text, all or none; see ``splits``."""
    seconds = _check_batch(engine, config, texts, options, flow)
    splits = [split_query(text, options) for text in texts]
    queries = [query for _, own in splits for query in own]
    if len(queries) > config.queue_requests_max:
        raise TooLarge(
            f"the queue holds {config.queue_requests_max} queries at most; the clauses of these "
            f"texts make {len(queries)}"
        )
    matches = iter(await answer_queries(engine, queries, seconds, flow))
    return [split.combine([next(matches) for _ in own]) for split, own in splits]


def split_query(text: str, options: QueryArguments) -> tuple[SplitText, list[Query]]:
    """Make the queries of a text's clauses; see ``make_query``."""
    whole = make_query(text, options)
    split = SplitText.of(text)
    others = [make_query(each, options) for each in split.texts[1:]]
    if others:
        # Only the clauses are what a person asked.
        for probe in (whole, *others[len(split.spans) :]):
            probe.is_probe = True
    return split, [whole, *others]


def _check_batch(
    engine: QueryEngine,
    config: EngineConfig,
    texts: Sequence[str],
    options: QueryArguments,
    flow: str,
) -> float:
    """Check a batch before its texts are validated; returns the seconds until its deadline."""
    if isinstance(texts, str):
        raise InvalidQuery("texts must be a list of strings")
    if len(texts) > QUERY_BATCH_TEXTS_MAX:
        raise InvalidQuery(f"a batch has at most {QUERY_BATCH_TEXTS_MAX} texts")
    seconds = _deadline_seconds(options.get("deadline_ms"), config)
    if engine.is_started:
        if len(texts) > config.queue_requests_max:
            raise TooLarge(f"the queue holds {config.queue_requests_max} queries at most")
        # Before a thousand texts are validated: under overload that work would be wasted.
        engine.check_queue(texts, options.get("use_cache", True), seconds, flow)
    return seconds


async def answer_queries(
    engine: QueryEngine, queries: Sequence[Query], seconds: float, flow: str
) -> list[Match]:
    """Answer queries that were validated, all or none."""
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
    if (span := SPAN.get()) is not None:
        span.mark("parse")
    engine.submit_all(queries)
    handle = loop.call_later(seconds, _expire, futures, seconds)
    try:
        return await asyncio.gather(*futures)
    finally:
        handle.cancel()
        if span is not None:
            record_steps(span, queries)
        for future in futures:
            future.cancel()


def _expire(futures: Sequence[asyncio.Future[Match]], seconds: float) -> None:
    """Fail the answers that are not there at the deadline.  Runs on the event loop."""
    for future in futures:
        if not future.done():
            future.set_exception(DeadlineExceeded(f"no answer within {seconds:g} s"))
