"""Goal: after a jump of Redis' clock, leases and heartbeats of dead nodes still expire.

Method: a real Valkey under a wall clock that jumps while it runs.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from conftest import StartServer
from redis_logs import opened, put, report
from servers import Server
from synaptoroute.core.mutation import Position
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.presence import Acked
from synaptoroute.sequencer.scripts import ALIVE_MS
from wall_clock import HOUR_SECONDS, WallClock

pytestmark = pytest.mark.integration


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    """The clock of the server."""
    return WallClock(tmp_path / "clock")


@pytest.fixture
def skewed(start_server: StartServer, clock: WallClock) -> Server:
    """A server that goes by it; the allocator of Debian's Redis asks for the time and cannot."""
    with clock.rules():
        return start_server("valkey")


async def test_lease_of_a_dead_holder_expires_after_the_clock_went_back(
    skewed: Server, clock: WallClock
) -> None:
    """The new holder gets a larger token, and the old holder loses its lease."""
    async with opened(skewed.url) as log:
        dead, other = log.lease("recovery", "dead"), log.lease("recovery", "other")
        first = await dead.acquire()
        too_soon = await other.acquire()
        clock.jump_to(-HOUR_SECONDS)
        second = await other.acquire()
        assert isinstance(first, Held)
        assert isinstance(second, Held)
        renewed = await dead.renew(first)

    assert not isinstance(too_soon, Held)
    assert second.token > first.token
    assert not isinstance(renewed, Held)


async def test_live_holder_keeps_its_lease_after_a_clock_jump(
    skewed: Server, clock: WallClock
) -> None:
    """A live holder renews first; after a jump it may lose the lease but never shares it."""
    async with opened(skewed.url) as log:
        mine, other = log.lease("recovery", "mine"), log.lease("recovery", "other")
        held = await mine.acquire()
        assert isinstance(held, Held)
        clock.jump_to(-HOUR_SECONDS)
        kept = await mine.renew(held)
        refused = await other.acquire()
        clock.jump_to(HOUR_SECONDS)
        lost = await mine.renew(held)
        taken = await other.acquire()

    assert held == kept
    assert not isinstance(refused, Held)
    assert not isinstance(lost, Held)
    assert isinstance(taken, Held)
    assert taken.token > held.token


async def test_node_that_died_before_a_clock_jump_is_not_counted(
    skewed: Server, clock: WallClock
) -> None:
    """A heartbeat from the future counts as one of now, and ages normally."""
    async with opened(skewed.url) as log:
        await log.append([put("r")])
        at = [entry.position for entry in (await log.read(Position())).entries]
        await log.presence.heartbeat(report("dead", at[0]))
        clock.jump_to(-HOUR_SECONDS)
        await log.presence.heartbeat(report("a", at[1]))
        together = await log.presence.acked(1)
        await asyncio.sleep(ALIVE_MS / 1_000 + 0.5)
        await log.presence.heartbeat(report("a", at[1]))
        alone = await log.presence.acked(1)
        ages = {seen.report.node_id: seen.age_ms for seen in await log.presence.nodes()}

    assert isinstance(together, Acked)
    assert isinstance(alone, Acked)
    assert not together.is_all(2)
    assert alone.is_all(2)
    assert ages["dead"] > ALIVE_MS
