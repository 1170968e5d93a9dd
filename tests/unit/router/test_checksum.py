"""What two nodes compare: the tensors of all route sets count."""

from __future__ import annotations

import pytest

from routers import route, running

pytestmark = pytest.mark.unit


async def test_tensors_of_all_sets_count() -> None:
    async with running() as router:
        await router.aput_route(route("a"))
        alone = await router.achecksum()
        await router.sets.put("support", None)
        await router.set("support").aput_route(route("a"))
        both = await router.achecksum()
        await router.set("support").aput_route(route("b"))
        changed = await router.achecksum()
        await router.set("support").adelete_route("b")
        back = await router.achecksum()

    assert len({each["tensor_sha256"] for each in (alone, both, changed)}) == 3
    assert back["tensor_sha256"] == both["tensor_sha256"]
    assert back["digest"] != both["digest"], "the set has another revision"
