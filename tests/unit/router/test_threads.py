"""Callers outside the router's event loop: other loops, other threads, no loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from routers import HeldEncoder, route, running
from synaptoroute.errors import ConfigError, NotReady
from synaptoroute.router import AdaptiveRouter

pytestmark = pytest.mark.unit


@pytest.fixture
def encoder() -> HeldEncoder:
    return HeldEncoder()


async def test_two_event_loops_share_one_router(tmp_path: Path) -> None:
    """Callers on another loop get their answers on their own loop."""
    async with running(tmp_path / "node.sqlite") as router:
        await router.aput_route(route("alpha"))

        async def elsewhere() -> list[str | None]:
            await router.aput_route(route("beta"))
            answers = await asyncio.gather(*(router.aquery("beta") for _ in range(20)))
            answers += await router.aquery_batch(["alpha", "beta"])
            stored = await router.aget_route("beta")
            return [stored.name, *(answer.route for answer in answers)]

        there, here = await asyncio.gather(
            asyncio.to_thread(asyncio.run, elsewhere()),
            asyncio.gather(*(router.aquery("alpha") for _ in range(20))),
        )

    assert ["beta"] * 21 + ["alpha", "beta"] == there
    assert ["alpha"] * 20 == [answer.route for answer in here]


async def test_closed_loop_of_a_caller_is_harmless(encoder: HeldEncoder) -> None:
    """The loop closes while its query is encoded; the scorer continues."""
    async with running(encoder=encoder, lanes=1) as router:

        def abandon() -> None:
            loop = asyncio.new_event_loop()
            task = loop.create_task(router.aquery("lost"))
            loop.run_until_complete(asyncio.sleep(0))
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            loop.close()

        encoder.hold()
        first = asyncio.create_task(router.aquery("first"))
        await encoder.held_up()
        await asyncio.to_thread(abandon)
        encoder.gate.set()
        await first
        answer = await router.aquery("afterwards")

    assert "no_routes" == answer.reason


async def test_synchronous_methods_work_from_another_thread(tmp_path: Path) -> None:
    """After start, other threads use the methods of release 0.2."""
    async with running(tmp_path / "node.sqlite") as router:

        def use() -> list[str | None]:
            router.add_route(route("alpha", "one"))
            router.add_utterances("alpha", ["two"])
            found = [router.query("two").route]
            router.delete_route("alpha")
            return [*found, router.query("two").route]

        answers = await asyncio.to_thread(use)

    assert ["alpha", None] == answers


@pytest.mark.may_block
async def test_synchronous_methods_on_the_thread_of_the_loop() -> None:
    """A write returns when it is visible; a query is refused: it would block its own loop."""
    async with running() as router:
        written = router.add_route(route("alpha"))
        with pytest.raises(ConfigError):
            router.query("alpha")
        answer = await router.aquery("alpha")

    assert ("alpha", written.version) == (answer.route, answer.version)


def test_synchronous_query_after_the_loop_ended_is_refused() -> None:
    """The router raises an error instead of waiting for ever."""
    router = AdaptiveRouter(HeldEncoder())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(router.start())
    with pytest.raises(NotReady):
        router.query("anything")
    loop.run_until_complete(router.stop())
    loop.close()


async def test_threads_query_in_parallel() -> None:
    """Many threads may query at the same time."""
    async with running() as router:
        await router.aput_route(route("alpha"))
        found: list[str | None] = []

        def ask() -> None:
            found.extend(router.query("alpha").route for _ in range(20))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)

    assert ["alpha"] * 80 == found
