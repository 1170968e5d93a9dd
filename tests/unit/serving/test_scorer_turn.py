"""The thread that ranks: a worker for a query that is alone, else the scorer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from routers import WAIT_SECONDS, HeldEncoder, route, running
from synaptoroute.engine import Engine
from synaptoroute.router import AdaptiveRouter
from synaptoroute.scoring import Ranking, rank
from synaptoroute.serving import served_set as served_set_module
from synaptoroute.serving.scorer import Scorer
from synaptoroute.tensor import Tensor

pytestmark = pytest.mark.unit


@pytest.fixture
def rankers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that ranked, in order, without their numbers."""
    names: list[str] = []

    def noted(*arguments: Any) -> Sequence[Ranking]:
        names.append(threading.current_thread().name.removesuffix("-0").removesuffix("-1"))
        return rank(*arguments)

    monkeypatch.setattr(served_set_module, "rank", noted)
    return names


async def test_lone_query_is_ranked_by_its_worker(rankers: list[str]) -> None:
    """The queue is empty otherwise: the scorer is not woken."""
    async with running() as router:
        await router.aput_route(route("alpha"))
        answers = []
        for _ in range(3):
            await _idle(_scorer_of(router))
            answers.append(await router.aquery("alpha"))

    assert ["alpha"] * 3 == [answer.route for answer in answers]
    assert ["synaptoroute-encoder"] * 3 == rankers


async def test_queries_together_are_ranked_by_the_scorer(rankers: list[str]) -> None:
    """Two callers wait: the worker is needed for encoding."""
    encoder = HeldEncoder()
    async with running(encoder=encoder) as router:
        await router.aput_route(route("alpha"))
        encoder.hold()
        asked = [asyncio.create_task(router.aquery("alpha")) for _ in range(2)]
        await encoder.held_up()
        encoder.gate.set()
        answers = await asyncio.gather(*asked)

    assert ["alpha"] * 2 == [answer.route for answer in answers]
    assert ["synaptoroute-scorer"] == rankers


async def test_lone_query_waits_for_a_task_on_the_tensor(rankers: list[str]) -> None:
    """While the tensor is locked, a worker leaves its query to the scorer."""
    async with running() as router:
        await router.aput_route(route("alpha"))
        scorer = _scorer_of(router)
        has_begun, may_end = threading.Event(), threading.Event()

        def hold(_: Tensor) -> None:
            has_begun.set()
            assert may_end.wait(WAIT_SECONDS)

        held = scorer.call(hold)
        assert await asyncio.to_thread(has_begun.wait, WAIT_SECONDS)
        asked = asyncio.create_task(router.aquery("alpha"))
        while not len(scorer._inbox):
            await asyncio.sleep(0.001)
        may_end.set()
        answer = await asked
        await asyncio.wrap_future(held)

    assert "alpha" == answer.route
    assert ["synaptoroute-scorer"] == rankers


async def test_lone_queries_beside_writes_see_one_position(tmp_path: Path) -> None:
    """Either thread answers for the version that it names, and never for an older one."""
    async with running(tmp_path / "node.sqlite") as router:
        first = await router.aput_route(route("alpha", "what is asked"))
        names = {first.version: "alpha"}

        async def write() -> None:
            for number in range(60):
                old, new = ("alpha", "beta") if number % 2 == 0 else ("beta", "alpha")
                gone = await router.adelete_route(old)
                names[gone.version] = ""
                put = await router.aput_route(route(new, "what is asked"))
                names[put.version] = new

        writing = asyncio.create_task(write())
        found = []
        while not writing.done():
            found.append(await router.aquery("what is asked", use_cache=False))
        await writing

    assert [names[each.version] for each in found] == [each.route or "" for each in found]
    sequence = [int(each.version.rpartition(".")[2]) for each in found]
    assert sorted(sequence) == sequence


def _scorer_of(router: AdaptiveRouter) -> Scorer:
    engine = router._lifecycle.engine
    assert isinstance(engine, Engine)
    return engine.scorer


async def _idle(scorer: Scorer) -> None:
    """Wait until no work is deferred and the last answer is done."""
    while scorer.tensor.is_behind or scorer._tensor_lock.locked():
        await asyncio.sleep(0.001)
