"""Goal: a position counts only if its chain is in the history of the node that counts.

Method: a history that is a dictionary of chains by place.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from synaptoroute.core.mutation import Position, Revision
from synaptoroute.replication.held_positions import UNKNOWN_MAX, HeldPositions

pytestmark = pytest.mark.unit


class History:
    """What a node has applied: one chain for each place."""

    def __init__(self, seq: int) -> None:
        self.seq, self.number, self.lookups = seq, 0, 0
        self.held = HeldPositions(self.position, self.chains_at, lambda: self.number)

    def position(self) -> Position:
        return Position(1, self.seq, chain(self.seq))

    async def chains_at(self, seqs: Sequence[int]) -> list[str | None]:
        self.lookups += 1
        return [chain(seq) if seq <= self.seq else None for seq in seqs]


def chain(seq: int, order: str = "a") -> str:
    return f"{order}{seq:039d}"


def at(seq: int, order: str = "a") -> Position:
    return Position(1, seq, chain(seq, order))


async def test_position_of_another_order_does_not_count() -> None:
    history = History(9)

    found = await history.held.of({"a": at(7), "b": at(8, "b")})

    assert {"a": at(7)} == found
    assert await history.held.contains(at(8))
    assert not await history.held.contains(at(8, "b"))


async def test_position_ahead_counts_once_this_node_has_reached_it() -> None:
    """Though the other node has told newer ones since."""
    history = History(5)
    for seq in range(6, 20):
        assert {} == await history.held.of({"a": at(seq)})

    history.seq = 8

    assert {"a": at(8)} == await history.held.of({"a": at(20)})


async def test_known_positions_are_not_looked_up_again() -> None:
    history = History(9)
    for _ in range(5):
        await history.held.of({"a": at(7), "b": at(9)})

    assert 1 == history.lookups


async def test_positions_are_compared_again_after_the_history_was_replaced() -> None:
    history = History(9)
    await history.held.of({"a": at(7)})
    history.number += 1

    assert {"a": at(6)} == await history.held.of({"a": at(6)})


async def test_what_is_remembered_of_a_node_is_bounded() -> None:
    history = History(1)
    for seq in range(2, 3 * UNKNOWN_MAX):
        await history.held.of({"a": at(seq)})
    history.seq = UNKNOWN_MAX

    assert {} == await history.held.of({"a": at(3 * UNKNOWN_MAX)})


async def test_position_of_an_applied_entry_is_known_until_another_one_has_its_place() -> None:
    history = History(9)
    entry = await history.held.position_at(Revision(1, 7))

    assert at(7) == entry
    assert await history.held.position_at(Revision(1, 12)) is None
    assert await history.held.contains(at(7))
