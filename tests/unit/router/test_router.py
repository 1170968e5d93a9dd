"""Queries through the whole engine: batching, sharing, overload, deadlines."""

from __future__ import annotations

import asyncio

import pytest

from routers import HeldEncoder, route, running, until
from synaptoroute.errors import (
    DeadlineExceeded,
    EncoderError,
    InvalidQuery,
    Overloaded,
    TooLarge,
)
from synaptoroute.models import Match, RouteSetSettings
from synaptoroute.router import AdaptiveRouter

pytestmark = pytest.mark.unit


@pytest.fixture
def encoder() -> HeldEncoder:
    return HeldEncoder()


async def asked(router: AdaptiveRouter, *texts: str) -> list[asyncio.Task[Match]]:
    """Queries on their way."""
    tasks = [asyncio.create_task(router.aquery(text)) for text in texts]
    await asyncio.sleep(0)
    return tasks


async def test_batch_forms_while_the_lane_is_busy(encoder: HeldEncoder) -> None:
    """Queries that arrive during one encoding form the next batch, without a window."""
    async with running(encoder=encoder, lanes=1) as router:
        await router.aput_route(route("a"))
        encoder.hold()
        first = await asked(router, "first")
        await encoder.held_up()
        rest = await asked(router, *(f"text {number}" for number in range(10)))
        encoder.batches.clear()
        encoder.gate.set()
        await asyncio.gather(*first, *rest)

    assert [10] == [len(batch) for batch in encoder.batches]


async def test_lone_query_does_not_wait_for_a_batch(encoder: HeldEncoder) -> None:
    """Without a window the first query is encoded alone, at once."""
    async with running(encoder=encoder) as router:
        await router.aquery("alone")

    assert [1] == [len(batch) for batch in encoder.batches]


async def test_window_gathers_queries(encoder: HeldEncoder) -> None:
    """With a window, queries that arrive one after the other are encoded together."""
    async with running(encoder=encoder, lanes=1, batch_window_ms=150) as router:
        tasks = await asked(router, "one")
        await asyncio.sleep(0.01)
        tasks += await asked(router, "two")
        await asyncio.gather(*tasks)

    assert [2] == [len(batch) for batch in encoder.batches]


async def test_token_budget_splits_a_batch(encoder: HeldEncoder) -> None:
    """Queries over the budget go back and are encoded in the next batch, in order."""
    texts = [" ".join(f"w{number}" for _ in range(6)) for number in range(8)]
    async with running(encoder=encoder, lanes=1, batch_tokens_max=16) as router:
        encoder.hold()
        tasks = await asked(router, *texts)
        await encoder.held_up()
        encoder.gate.set()
        await asyncio.gather(*tasks)
    sizes = [len(batch) for batch in encoder.batches]

    assert 8 == sum(sizes)
    assert 2 == max(sizes)


async def test_text_over_the_budget_is_encoded_alone(encoder: HeldEncoder) -> None:
    """A text longer than the whole budget is still answered."""
    async with running(encoder=encoder, lanes=1, batch_tokens_max=16) as router:
        answer = await router.aquery(" ".join(f"w{number}" for number in range(100)))

    assert "no_routes" == answer.reason


async def test_identical_texts_in_flight_are_encoded_once(encoder: HeldEncoder) -> None:
    """Fifty callers with one text cost one encoding."""
    async with running(encoder=encoder, embedding_cache_rows=0) as router:
        await router.aput_route(route("a", "same text"))
        encoder.hold()
        tasks = await asked(router, *["same text"] * 50)
        await encoder.held_up()
        tasks += await asked(router, *["same text"] * 50)
        encoder.gate.set()
        answers = await asyncio.gather(*tasks)
        shared = router.status().counters.shared

    assert 1 == encoder.count_of("same text")
    assert ["a"] * 100 == [answer.route for answer in answers]
    assert 99 == shared


async def test_query_that_joins_a_flight_sees_its_own_write(encoder: HeldEncoder) -> None:
    """A caller that joins after its write is answered at that write or later."""
    async with running(encoder=encoder, lanes=1) as router:
        await router.aput_route(route("old", "other"))
        encoder.hold()
        early = await asked(router, "refund please")
        await encoder.held_up()
        vector = encoder.tokenize(["refund please"])[0]
        encoded = HeldEncoder().encode_tokens([vector])[0].tolist()
        new = route("new", "refund please").model_copy(update={"vectors": [encoded]})
        written = await router.aput_route(new)
        late = await asked(router, "refund please")
        encoder.gate.set()
        answers = await asyncio.gather(*early, *late)

    assert 1 == encoder.count_of("refund please")
    assert ["new", "new"] == [answer.route for answer in answers]
    assert [written.version] * 2 == [answer.version for answer in answers]


async def test_cached_text_is_not_encoded_again(encoder: HeldEncoder) -> None:
    """The cache serves exact repeats; ``use_cache=False`` bypasses it."""
    async with running(encoder=encoder) as router:
        await router.aput_route(route("a"))
        encoder.batches.clear()
        for _ in range(5):
            await router.aquery("a query")
        repeated = encoder.count_of("a query")
        for _ in range(5):
            await router.aquery("a query", use_cache=False)
        counters = router.status().counters

    assert 1 == repeated
    assert 6 == encoder.count_of("a query")
    assert (4, 1) == (counters.cache_hits, counters.cache_misses)


async def test_measurements_of_one_text_are_not_shared(encoder: HeldEncoder) -> None:
    """With ``use_cache=False`` each of several identical queries is encoded."""
    async with running(encoder=encoder) as router:
        await asyncio.gather(*(router.aquery("x", use_cache=False) for _ in range(7)))

    assert 7 == encoder.count_of("x")


async def test_cached_embedding_never_gives_a_stale_match(encoder: HeldEncoder) -> None:
    """Embeddings are cached, matches are not: a deleted route never matches again."""
    async with running(encoder=encoder) as router:
        await router.aput_route(route("best", "reset my password", threshold=-1.0))
        await router.aput_route(route("next", "reset my router", threshold=-1.0))
        before = await router.aquery("reset my password")
        await router.adelete_route("best")
        after = await router.aquery("reset my password")
        await router.adelete_route("next")
        unmatched = await router.aquery("reset my password")

    assert ("best", "next") == (before.route, after.route)
    assert (None, "no_routes") == (unmatched.route, unmatched.reason)
    assert 1 == encoder.count_of("reset my password")


async def test_overload_is_refused(encoder: HeldEncoder) -> None:
    """While the lanes are blocked, no more queries are accepted than the queue can hold."""
    async with running(encoder=encoder, lanes=1, queue_requests_max=50) as router:
        encoder.hold()
        tasks = await asked(router, *(f"text {number}" for number in range(500)))
        refused = [task for task in tasks if task.done()]
        errors = [task.exception() for task in refused]
        waiting = router.status().queue_requests
        encoder.gate.set()
        answered = await asyncio.gather(*(task for task in tasks if task not in refused))
        counters = router.status().counters
        recovered = await router.aquery("afterwards")

    assert 450 == len(refused)
    assert all(isinstance(error, Overloaded) for error in errors)
    assert all(error.retry_after_seconds for error in errors if isinstance(error, Overloaded))
    assert 50 == waiting == len(answered)
    assert 450 == counters.overloaded
    assert "no_routes" == recovered.reason


async def test_overload_is_reported_before_a_malformed_query(encoder: HeldEncoder) -> None:
    """Both apply; the answer must be the same as for a valid query."""
    async with running(encoder=encoder, lanes=1, queue_requests_max=2) as router:
        await router.aput_route(route("a"))
        with pytest.raises(InvalidQuery):
            await router.aquery("")
        encoder.hold()
        waiting = [asyncio.create_task(router.aquery(f"text {n}")) for n in range(2)]
        await encoder.held_up()
        with pytest.raises(Overloaded):
            await router.aquery("")
        encoder.gate.set()
        await asyncio.gather(*waiting)


async def test_abandoned_queries_are_not_encoded(encoder: HeldEncoder) -> None:
    """Queries whose callers have gone are not encoded, and their places become free."""
    async with running(encoder=encoder, lanes=1) as router:
        encoder.hold()
        first = await asked(router, "first")
        await encoder.held_up()
        tasks = await asked(router, *(f"gone {number}" for number in range(20)), "stays")
        for task in tasks[:-1]:
            task.cancel()
        await asyncio.gather(*tasks[:-1], return_exceptions=True)
        encoder.gate.set()
        await asyncio.gather(*first, tasks[-1])
        await until(lambda: router.status().queue_requests == 0)
        counters = router.status().counters

    assert 0 == sum(encoder.count_of(f"gone {number}") for number in range(20))
    assert 1 == encoder.count_of("stays")
    assert 20 == counters.abandoned


async def test_query_over_its_deadline_is_not_encoded(encoder: HeldEncoder) -> None:
    """It fails at the deadline and is not encoded afterwards."""
    async with running(encoder=encoder, lanes=1) as router:
        encoder.hold()
        first = await asked(router, "first")
        await encoder.held_up()
        with pytest.raises(DeadlineExceeded):
            await router.aquery("too late", deadline_ms=20)
        with pytest.raises(DeadlineExceeded):
            await router.aquery_batch(["also", "too late"], deadline_ms=20)
        encoder.gate.set()
        await asyncio.gather(*first)
        await until(lambda: router.status().queue_requests == 0)

    assert 0 == encoder.count_of("too late") + encoder.count_of("also")


async def test_encoder_error_fails_only_its_batch(encoder: HeldEncoder) -> None:
    """The callers of that batch get the error, and the lane continues."""
    async with running(encoder=encoder, lanes=1) as router:
        encoder.fails_on = "poison"
        with pytest.raises(EncoderError, match="the model broke") as caught:
            await router.aquery("poison")
        healthy = await router.aquery("healthy")
        with pytest.raises(EncoderError):
            await router.aquery("poison")
        is_ready = router.status().is_ready

    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "no_routes" == healthy.reason
    assert is_ready


async def test_batch_is_answered_in_order_or_not_at_all(encoder: HeldEncoder) -> None:
    """A batch keeps the order of its texts; one failure fails all of it."""
    async with running(encoder=encoder, lanes=1) as router:
        for name in ("alpha", "beta", "gamma"):
            await router.aput_route(route(name))
        answers = await router.aquery_batch(["gamma", "alpha", "beta", "alpha"])
        empty = await router.aquery_batch([])
        encoder.fails_on = "poison"
        with pytest.raises(EncoderError):
            await router.aquery_batch(["alpha", "poison", "beta"])
        with pytest.raises(InvalidQuery):
            await router.aquery_batch(["alpha", ""])
        await until(lambda: router.status().queue_requests == 0)

    assert ["gamma", "alpha", "beta", "alpha"] == [answer.route for answer in answers]
    assert [] == empty


async def test_batch_that_does_not_fit_is_refused(encoder: HeldEncoder) -> None:
    """A batch is never accepted in part; one that can never fit gets TooLarge."""
    async with running(encoder=encoder, lanes=1, queue_requests_max=10) as router:
        encoder.hold()
        first = await asked(router, "first")
        await encoder.held_up()
        with pytest.raises(Overloaded):
            await router.aquery_batch([f"text {number}" for number in range(10)])
        waiting = router.status().queue_requests
        with pytest.raises(TooLarge):
            await router.aquery_batch([f"text {number}" for number in range(11)])
        encoder.gate.set()
        await asyncio.gather(*first)

    assert 1 == waiting


async def test_batch_sees_exactly_one_position(encoder: HeldEncoder) -> None:
    """A batch never sees one of two routes that change together without the other."""
    texts = ["left side", "right side"]
    pairs = [[0.0] * 64, [0.0] * 64]
    pairs[0][0] = pairs[1][1] = 1.0
    seen: set[tuple[str, float]] = set()
    async with running(encoder=encoder) as router:

        async def flip() -> None:
            base = await router.aget_settings()
            for number in range(60):
                threshold = -1.0 if number % 2 else 1.0
                settings = base.model_copy(update={"threshold": threshold})
                await router.aput_settings(RouteSetSettings(**settings.model_dump()))

        await router.aput_route(route("pair", *texts).model_copy(update={"vectors": pairs}))
        flipping = asyncio.create_task(flip())
        while not flipping.done():
            for answer in await router.aquery_batch(texts):
                assert answer.threshold is not None
                seen.add((answer.version, answer.threshold))
        await flipping

    assert len({version for version, _ in seen}) == len(seen)


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": ""},
        {"text": " \n "},
        {"text": "a\x00b"},
        {"text": "lone \ud800"},
        {"text": "x" * 40_000},
        {"text": 5},
        {"text": "x", "limit": 0},
        {"text": "x", "limit": 101},
        {"text": "x", "routes": "billing"},
        {"text": "x", "routes": ["a", ""]},
        {"text": "x", "routes": [5]},
        {"text": "x", "routes": ["a"] * 1_001},
        {"text": "x", "deadline_ms": 0},
        {"text": "x", "deadline_ms": -5},
    ],
    ids=repr,
)
async def test_malformed_query_is_refused(arguments: dict[str, object]) -> None:
    """Each malformed argument is an InvalidQuery before anything is queued."""
    async with running() as router:
        with pytest.raises(InvalidQuery):
            await router.aquery(**arguments)  # type: ignore[arg-type]
        queries = router.status().counters.queries

    assert 0 == queries


async def test_explained_match_is_consistent() -> None:
    """Candidates, margin and runner-up belong to the same ranking."""
    async with running() as router:
        for name in ("billing refund", "billing receipt", "weather"):
            await router.aput_route(route(name.replace(" ", "-"), name))
        explained = await router.aquery("billing refund", explain=True)
        limited = await router.aquery("billing refund", limit=2)
        filtered = await router.aquery("billing refund", routes=["weather", "unknown"])
        unmatched = await router.aquery("billing refund", routes=["unknown"])
    assert explained.candidates is not None
    assert limited.candidates is not None
    first, second = explained.candidates[:2]

    assert ["billing-refund", "billing-receipt", "weather"] == [
        each.route for each in explained.candidates
    ]
    assert (first.score, first.score - second.score) == (explained.score, explained.margin)
    assert second.route == explained.runner_up
    assert explained.candidates[:2] == limited.candidates
    assert filtered.route in (None, "weather")
    assert (None, "filter_empty") == (unmatched.route, unmatched.reason)
