"""One identity, several requests: the request that the log takes first decides for all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from routers import HeldEncoder, route, running
from synaptoroute.core.mutation import IDEMPOTENCY_WINDOW_ENTRIES, DeleteRoute, Proposal
from synaptoroute.errors import IdempotencyConflict, PreconditionFailed
from synaptoroute.models import WriteResult
from synaptoroute.router import AdaptiveRouter, WriteOptions
from synaptoroute.router.writes import derived_op_id

pytestmark = pytest.mark.unit

WRITERS = 24
BODIES = 3


def options(key: str, body: int | str, **more: object) -> WriteOptions:
    """Options of a request with a key, as the HTTP server makes them."""
    digest = derived_op_id("body", str(body))
    return WriteOptions(derived_op_id(key), digest, **more)  # type: ignore[arg-type]


Write = Callable[[AdaptiveRouter, int, WriteOptions], Awaitable[WriteResult]]
WRITES: dict[str, Write] = {
    "put": lambda r, body, o: r.aput_route(route("new", f"words {body}"), o),
    "patch": lambda r, body, o: r.apatch_route("old", payload=body, options=o),
    "delete": lambda r, body, o: r.adelete_route(f"old{body}", o),
    "add": lambda r, body, o: r.aadd_utterances("old", [f"more {body}"], None, o),
    "remove": lambda r, body, o: r.aremove_utterances("old", [f"old words {body}"], o),
}


@pytest.mark.parametrize("kind", list(WRITES))
@pytest.mark.parametrize("ack", ["accepted", "applied", "quorum"])
async def test_one_body_wins_for_every_concurrent_request(kind: str, ack: str) -> None:
    """All requests with the winner's body get one answer, all others a conflict."""
    async with running() as router:
        await router.aput_route(route("old", "old", *(f"old words {n}" for n in range(BODIES))))
        for body in range(BODIES):
            await router.aput_route(route(f"old{body}"))

        async def write(number: int) -> tuple[int, WriteResult | Exception]:
            body = number % BODIES
            try:
                made = options("k", body, ack=ack)
                return body, await WRITES[kind](router, body, made)
            except IdempotencyConflict as error:
                return body, error

        answers = await asyncio.gather(*map(write, range(WRITERS)))
        answers += [await write(number) for number in range(BODIES)]

    winners = {body for body, answer in answers if isinstance(answer, WriteResult)}
    results = [answer for _, answer in answers if isinstance(answer, WriteResult)]
    assert 1 == len(winners)
    assert WRITERS // BODIES + 1 == len(results)
    assert all(results[0] == each for each in results)


async def test_repeat_after_a_restart_gets_the_same_answer(tmp_path: Path) -> None:
    """Also ``created``, which decides between 200 and 201."""
    async with running(tmp_path / "a.sqlite") as router:
        first = await router.aput_route(route("a"), options("k", 1))
    async with running(tmp_path / "a.sqlite") as router:
        again = await router.aput_route(route("a"), options("k", 1))
        with pytest.raises(IdempotencyConflict):
            await router.aput_route(route("a", "other"), options("k", 2))

    assert first.created
    assert first == again


async def test_repeat_is_not_encoded_again() -> None:
    """The node answers from what it has applied."""
    encoder = HeldEncoder()
    async with running(encoder=encoder) as router:
        await router.aput_route(route("a"), options("k", 1))
        await router.aput_route(route("a"), options("k", 1))

    assert [["a"]] == encoder.utterances


async def test_rejected_write_stays_rejected_for_its_body_alone() -> None:
    """A repeat gets the rejection of the first attempt; another body gets a conflict."""
    async with running() as router:
        written = await router.aput_route(route("a"))
        stale = options("k", 1, if_none_match=True)
        with pytest.raises(PreconditionFailed):
            await router.aput_route(route("a", "b"), stale)
        await router.adelete_route("a")
        with pytest.raises(PreconditionFailed) as again:
            await router.aput_route(route("a", "b"), stale)
        with pytest.raises(IdempotencyConflict):
            await router.aput_route(route("a", "c"), options("k", 2))

    assert written.version == again.value.fields["current"]


async def test_key_is_free_again_after_the_window() -> None:
    """After the window the first request decides anew, and the former body is another one."""
    async with running() as router:
        first = await router.aput_route(route("a"), options("k", 1))
        filler = DeleteRoute("nobody")
        for start in range(0, IDEMPOTENCY_WINDOW_ENTRIES + 1, 8_192):
            router._engine().propose(
                [
                    Proposal(derived_op_id("filler", str(start + n)), filler)
                    for n in range(min(8_192, IDEMPOTENCY_WINDOW_ENTRIES + 1 - start))
                ]
            )
            await asyncio.wrap_future(router._engine().staged_imports())
        second = await router.aput_route(route("a", "other"), options("k", 2))
        with pytest.raises(IdempotencyConflict):
            await router.aput_route(route("a"), options("k", 1))
        repeated = await router.aput_route(route("a", "other"), options("k", 2))

    assert first.version != second.version
    assert second == repeated
