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


async def test_local_log_passes_proposals_on_in_order() -> None:
    """It numbers nothing: the engine does when it applies them."""
    arrived: list[Proposal] = []
    log = LocalLog()
    log.attach(arrived.extend)
    appended = [await log.append(proposals(3)), await log.append(proposals(1))]

    assert [*proposals(3), *proposals(1)] == arrived
    assert [None, None] == [each.at for each in appended]
    assert log.is_local


async def test_error_of_the_engine_reaches_the_writer() -> None:

    def refuse(_: Sequence[Proposal]) -> None:
        raise Overloaded("full")

    log = LocalLog()
    log.attach(refuse)
    with pytest.raises(Overloaded):
        await log.append(proposals(1))


def test_local_log_implements_log() -> None:
    log: Log = LocalLog()

    assert log.is_local
