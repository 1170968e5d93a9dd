"""The log of a node without Redis."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from synaptoroute.core.mutation import DeleteRoute, Proposal
from synaptoroute.errors import Overloaded
from synaptoroute.log import LocalLog, Log

pytestmark = pytest.mark.unit


def proposals(count: int) -> list[Proposal]:
    return [Proposal(bytes([n]) * 16, DeleteRoute(f"r{n}")) for n in range(count)]


async def test_local_log_hands_on_in_order_and_numbers_nothing() -> None:
    """What is appended arrives at the engine, which gives it its place when it applies it."""
    arrived: list[Proposal] = []
    log = LocalLog()
    log.attach(arrived.extend)
    appended = [await log.append(proposals(3)), await log.append(proposals(1))]

    assert [*proposals(3), *proposals(1)] == arrived
    assert [None, None] == [each.at for each in appended]
    assert log.is_local


async def test_refusal_reaches_the_writer() -> None:
    """A full engine refuses through the log."""

    def refuse(_: Sequence[Proposal]) -> None:
        raise Overloaded("full")

    log = LocalLog()
    log.attach(refuse)
    with pytest.raises(Overloaded):
        await log.append(proposals(1))


def test_local_log_is_a_log() -> None:
    """It stands where any log stands."""
    log: Log = LocalLog()

    assert log.is_local
