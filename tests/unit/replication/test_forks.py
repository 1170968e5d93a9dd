"""Goal: a node finds where the histories of other voters part, and when it cannot know.

Method: op logs that are lists of entries, behind the calls that the real ones answer.
"""

from __future__ import annotations

from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, cast

import pytest

from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.mutation import (
    Ballot,
    DeleteRoute,
    Entry,
    OpenEpoch,
    Position,
    Proposal,
)
from synaptoroute.core.recovery import Common, Report
from synaptoroute.core.replica import make_entry
from synaptoroute.errors import ClusterError
from synaptoroute.replication.forks import ASK_AFTER_SECONDS, Forks
from synaptoroute.sequencer.peers import PeerLog

pytestmark = pytest.mark.unit
BALLOT, VOTERS = Ballot(2, "x"), ("a", "b", "c")


def order(*words: str) -> list[Entry]:
    """A history: the opening of the epoch, and an entry for each word."""
    entries: list[Entry] = []
    for number, word in enumerate(("", *words)):
        mutation = DeleteRoute(word) if word else OpenEpoch("e", 0, VOTERS)
        proposal = Proposal(number.to_bytes(16, "big"), mutation)
        before = entries[-1].position if entries else Position()
        entries.append(make_entry(before, encode_proposal(proposal), proposal, 0))
    return entries


class Fleet:
    """The op logs of three voters; the first one compares."""

    def __init__(self, **logs: list[Entry]) -> None:
        self.logs, self.asked = logs, 0
        self.silent: set[str] = set()
        database = SimpleNamespace(read_log=self._read_own)
        engine = SimpleNamespace(database=database)
        self.forks = Forks(
            cast(Any, SimpleNamespace(node_id="a", engine=engine)),
            cast(Any, SimpleNamespace(read_log=self._read_peer)),
            cast(Any, SimpleNamespace(url_of=lambda name: f"http://{name}")),
        )

    def _read_own(self, after_seq: int, *, entries_max: int, bytes_max: int) -> list[Entry]:
        del bytes_max
        return [e for e in self.logs["a"] if e.seq > after_seq][:entries_max]

    async def _read_peer(self, url: str, after: Position, node: str) -> PeerLog:
        assert url == f"http://{node}"
        self.asked += 1
        if node in self.silent:
            raise ClusterError("a peer does not answer")
        log = self.logs[node]
        held = {entry.seq: entry.chain for entry in log}
        if held.get(after.seq, after.chain) != after.chain:
            raise ClusterError("refused", status=int(HTTPStatus.BAD_REQUEST))
        # One entry at a time: a peer limits an answer.
        return PeerLog(tuple(e for e in log if e.seq > after.seq)[:1], log[-1].position)

    async def find(self, waited_seconds: float = 0.0) -> Common | None:
        reports = [
            Report(name, BALLOT, log[-1].position, VOTERS) for name, log in self.logs.items()
        ]
        return await self.forks.find(reports, waited_seconds)


async def test_longest_history_that_holds_the_others_asks_nobody() -> None:
    fleet = Fleet(a=order("1", "2", "3"), b=order("1", "2"), c=order("1"))

    assert {} == await fleet.find()
    assert 0 == fleet.asked


async def test_orders_of_three_voters_are_compared() -> None:
    fleet = Fleet(
        a=order("1", "2", "3", "4", "5", "6"),
        b=order("1", "2", "x", "y", "z"),
        c=order("1", "2", "x", "y", "w"),
    )

    assert {
        frozenset("ab"): 3,
        frozenset("ac"): 3,
        frozenset("bc"): 5,
    } == await fleet.find()


async def test_shorter_history_leaves_the_decision_to_the_longest_for_a_while() -> None:
    fleet = Fleet(a=order("1", "2"), b=order("1", "x", "y"), c=order("1", "2"))

    assert await fleet.find() is None
    assert 0 == fleet.asked
    found = await fleet.find(ASK_AFTER_SECONDS)
    assert {frozenset("ab"): 2, frozenset("bc"): 2} == found


async def test_longer_history_that_cannot_be_asked_is_left_the_decision() -> None:
    fleet = Fleet(a=order("1", "2"), b=order("1", "2", "3"), c=order("1", "2"))
    fleet.silent.add("b")

    assert {} == await fleet.find(ASK_AFTER_SECONDS)


async def test_node_does_not_know_where_another_order_begins_that_it_cannot_read() -> None:
    fleet = Fleet(a=order("1", "2", "3"), b=order("1", "x"), c=order("1"))
    fleet.silent.add("b")

    assert await fleet.find(ASK_AFTER_SECONDS) is None


async def test_node_of_an_older_epoch_cannot_judge() -> None:
    fleet = Fleet(a=order("1"), b=order("1"))
    newer = Report("b", BALLOT, Position(9, 9), VOTERS)
    own = Report("a", BALLOT, fleet.logs["a"][-1].position, VOTERS)

    assert await fleet.forks.find([own, newer], 9.0) is None
    assert {} == await fleet.forks.find([], 9.0)
