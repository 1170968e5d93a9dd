"""Route sets are independent, and one log gives one state: random logs over several sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from replicas import fresh, log_of, proposal, replay, table_state
from set_logs import RAISED, set_logs
from strategies import DIM, logs
from synaptoroute.core.change import Snapshot
from synaptoroute.core.digest import sum_state
from synaptoroute.core.mutation import (
    Finalize,
    OpenEpoch,
    Proposal,
    PutSet,
    Revision,
    SwitchEncoder,
)
from synaptoroute.core.replica import Replica
from synaptoroute.core.table import RouteTable

pytestmark = pytest.mark.property

over_logs = settings(max_examples=40, deadline=None)


def state_of(replica: Replica) -> dict[str, Any]:
    """All of the sets that any later answer depends on."""
    sets = replica.sets
    tables = {
        number: {**table_state(table), "tests": dict(table.tests)}
        for number, table in sets.tables.items()
    }
    free = sets._free.peek(5)
    return {
        "tables": tables,
        "records": dict(sets.records),
        "numbers": dict(sets.numbers),
        "aliases": dict(sets.aliases),
        "free": free,
        "digest": sets.digest,
        "position": replica.position,
    }


@over_logs
@given(set_logs())
def test_equal_logs_give_equal_states_and_digests(log: list[Proposal]) -> None:
    entries = log_of(log)
    first, second = fresh(), fresh()

    assert replay(first, entries) == replay(second, entries)
    assert state_of(first) == state_of(second)


@over_logs
@given(set_logs(), set_logs())
def test_snapshot_and_tail_equal_full_replay(head: list[Proposal], tail: list[Proposal]) -> None:
    replayed = fresh()
    replay(replayed, log_of(head))
    restored = fresh(replayed.snapshot())

    assert state_of(replayed) == state_of(restored)

    rest = log_of(tail, after=replayed.position)

    assert replay(replayed, rest) == replay(restored, rest)
    assert state_of(replayed) == state_of(restored)
    assert replayed.snapshot() == restored.snapshot()


@over_logs
@given(set_logs())
def test_digest_is_that_of_the_state_alone(log: list[Proposal]) -> None:
    replica = fresh()
    replay(replica, log_of(log))
    snapshot = replica.snapshot()

    assert Replica(snapshot, dim=DIM).digest == replica.digest

    for state in snapshot.sets:
        fresh_sum = sum_state(
            state.settings,
            state.row_hashes,
            state.routes,
            state.imports,
            state.feedback,
            state.decision,
            state.tests,
        )
        assert fresh_sum.hex() == replica.sets.tables[state.record.number].digest.hex()


@over_logs
@given(set_logs())
def test_reverted_entries_leave_nothing(log: list[Proposal]) -> None:
    replica = fresh()
    for entry in log_of(log):
        before = state_of(replica)
        commits = replica.receive(entry).commits
        after = state_of(replica)
        replica.revert(commits)

        assert state_of(replica) == before

        replica.receive(entry)
        replica.advance()

        assert state_of(replica) == after


@over_logs
@given(logs(), logs())
def test_set_among_others_is_as_the_set_alone(mine: list[Proposal], other: list[Proposal]) -> None:
    """What is in one set does not depend on what is written to the others."""
    alone = RouteTable(dim=DIM)
    alone.settings = Snapshot().settings
    replica = fresh()
    founding = [RAISED, *(proposal(PutSet(name), i) for i, name in enumerate(("a", "b")))]
    replay(replica, log_of(founding))
    alone = replica.sets.tables[1].fork()
    own = [replace(each, op_id=b"m" * 8 + each.op_id[8:], route_set="a") for each in mine]
    foreign = [replace(each, op_id=b"o" * 8 + each.op_id[8:], route_set="b") for each in other]
    mixed = [each for pair in zip(own, foreign, strict=False) for each in pair]
    local = (OpenEpoch, SwitchEncoder, Finalize)
    mixed = [each for each in mixed if not isinstance(each.mutation, local)]
    for entry in log_of(mixed, after=replica.position):
        (commit,) = replay(replica, [entry])
        is_mine = entry.proposal.route_set == "a"
        if is_mine and not commit.is_duplicate and not _is_of_all_sets(entry.proposal):
            change = alone.apply(entry.proposal, Revision(entry.epoch, entry.seq))
            assert change.outcome == commit.change.outcome
            assert (change.writes, change.freed) == (commit.change.writes, commit.change.freed)

    assert table_state(alone) == table_state(replica.sets.tables[1])


def _is_of_all_sets(each: Proposal) -> bool:
    from synaptoroute.core.sets import _OF_ALL_SETS

    return isinstance(each.mutation, _OF_ALL_SETS)
