"""Goal: tasks of a follower end when it closes, even if a cancellation is lost.

Method: a task that takes its first cancellation for a timeout of its own, as the client
library may, and goes on.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from synaptoroute.replication.maintenance import Maintenance
from synaptoroute.replication.recovery import Recovery
from synaptoroute.threads import end_task

pytestmark = pytest.mark.timeout(20)


async def stubborn() -> None:
    """Ignore the first cancellation."""
    try:
        await asyncio.sleep(3_600)
    except asyncio.CancelledError:
        await asyncio.sleep(3_600)


async def started() -> asyncio.Task[None]:
    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    return task


async def test_task_is_cancelled_until_it_ends() -> None:
    task = await started()
    await end_task(task)
    assert task.cancelled()


async def test_recovery_ends_with_its_follower() -> None:
    session = SimpleNamespace(log=SimpleNamespace(epochs=None))
    recovery = Recovery(cast(Any, session), cast(Any, None), cast(Any, None))
    recovery._task = await started()
    await recovery.close()
    assert recovery._task.cancelled()


async def test_maintenance_ends_with_its_follower() -> None:
    nothing = cast(Any, None)
    maintenance = Maintenance(nothing, nothing, nothing, nothing, nothing, nothing)
    tasks = [await started() for _ in range(2)]
    maintenance._tasks.update(tasks)
    await maintenance.close()
    assert [True, True] == [task.cancelled() for task in tasks]
