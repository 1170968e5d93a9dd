"""One identity, several requests: the request that the log takes first decides for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from routers import HeldEncoder, many, route, running, stream
from synaptoroute.core.mutation import IDEMPOTENCY_WINDOW_ENTRIES, DeleteRoute, Proposal
from synaptoroute.core.replica import State
from synaptoroute.errors import IdempotencyConflict, PreconditionFailed, RouteError
from synaptoroute.models import ImportResult, Route, WriteResult
from synaptoroute.router import AdaptiveRouter, WriteOptions
from synaptoroute.router.op_ids import derived_op_id

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


async def test_node_off_the_log_does_not_answer_from_its_own_history() -> None:
    """What a diverged node has applied is not part of the log."""
    async with running() as router:
        once = options("k", 1, ack_timeout_seconds=0.3)
        first = await router.aput_route(route("a"), once)
        router._engine().applier.replica.state = State.DIVERGED  # type: ignore[attr-defined]
        again = await router.aput_route(route("a"), once)

    assert ("applied", "pending") == (first.status, again.status)


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


async def imported(
    router: AdaptiveRouter, body: int, start: asyncio.Event | None = None
) -> ImportResult | str:
    """Import one of a few documents under one identity; return the result or the error's code."""

    async def routes() -> AsyncIterator[Route]:
        for each in many(3, 50, f"body {body}"):
            if start is not None:
                await asyncio.sleep(0)
            yield each

    try:
        return await router.aimport(routes(), import_id="one")
    except RouteError as error:
        return error.code


async def test_one_of_several_imports_with_one_identity_wins() -> None:
    """The content decides: equal imports get one answer, others a conflict."""
    async with running() as router:
        answers = await asyncio.gather(
            *(imported(router, n % 3, asyncio.Event()) for n in range(12))
        )
        again = [await imported(router, body) for body in range(3)]
        stored = (await router.aget_route("r0000")).utterances
        left = await asyncio.wrap_future(router._engine().staged_imports())

    won = [n for n, each in enumerate(answers) if isinstance(each, ImportResult)]
    assert 1 == len({n % 3 for n in won})
    assert 4 == len(won)
    assert {"idempotency_conflict"} == {each for each in answers if isinstance(each, str)}
    assert all(answers[won[0]] == answers[n] for n in won)
    assert [answers[won[0]]] == [each for each in again if isinstance(each, ImportResult)]
    assert stored[0].startswith(f"body {won[0] % 3}")
    assert () == left


async def test_replacing_import_is_another_request_than_a_merging_one() -> None:
    async with running() as router:
        await router.aimport(stream(many(2)), import_id="one")
        with pytest.raises(IdempotencyConflict):
            await router.aimport(stream(many(2)), import_id="one", replace=True)
        again = await router.aimport(stream(many(2)), import_id="one")

    assert 2 == again.routes


async def test_rejected_import_may_be_repeated_with_other_content() -> None:
    """A rejection does not bind the identity: the cause is often the content."""
    async with running() as router:
        settings = await router.aget_settings()
        few = settings.model_copy(update={"capacity_slots": 20})
        await router.aput_settings(few)
        with pytest.raises(RouteError):
            await router.aimport(stream(many(5)), import_id="one")
        result = await router.aimport(stream(many(1)), import_id="one")

    assert "applied" == result.status
