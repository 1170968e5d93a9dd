"""Replica: idempotency, reverted steps, and transitions between states."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from replicas import (
    EMPTY,
    at,
    following,
    forked,
    fresh,
    full_state,
    history,
    ignored,
    log_of,
    proposal,
    put,
    replay,
)
from synaptoroute.core import replica as replica_module
from synaptoroute.core.change import Commit
from synaptoroute.core.mutation import (
    CHAIN_START,
    DeleteRoute,
    Mutation,
)
from synaptoroute.core.replica import TRANSITIONS, Ignored, Replica, Source, State

pytestmark = pytest.mark.unit


HASH_A, HASH_B = b"a" * 16, b"b" * 16


def test_repeated_write_has_one_effect() -> None:
    """The second entry moves the position and answers with the first outcome."""
    replica, entries = at(1)
    first = proposal(put("a"), 1, request_hash=HASH_A)
    one, two, three = replay(
        replica, log_of([first, proposal(DeleteRoute("a"), 2), first], entries[0].position)
    )

    assert three.is_duplicate
    assert one.change.outcome == three.change.outcome
    assert replace(three.change, outcome=two.change.outcome) == type(three.change)(
        two.change.outcome
    )
    assert {} == replica.table.routes
    assert 4 == replica.position.seq


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (HASH_A, HASH_B, "idempotency_conflict"),
        (HASH_A, HASH_A, None),
        (b"", HASH_A, None),
        (HASH_A, b"", None),
    ],
)
def test_one_key_for_two_requests_is_a_conflict(
    first: bytes, second: bytes, code: str | None
) -> None:
    """Where both say what was asked; the first outcome stays remembered."""
    replica, entries = at(1)
    log = [
        proposal(put("a"), 1, request_hash=first),
        proposal(put("b"), 1, request_hash=second),
        proposal(put("a"), 1, request_hash=first),
    ]
    commits = replay(replica, log_of(log, entries[0].position))

    assert code == commits[1].change.outcome.code
    assert commits[0].change.outcome == commits[2].change.outcome
    assert ["a"] == list(replica.table.routes)


@pytest.mark.parametrize("distance", [1, 3, 4, 5, 6])
def test_repeat_is_detected_inside_the_window(
    distance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alike for replicas that replayed, restored before it, or took it all as one group."""
    monkeypatch.setattr(replica_module, "IDEMPOTENCY_WINDOW_ENTRIES", 4)
    log = [proposal(put("a"), 1), *(proposal(put(f"x{i}"), 10 + i) for i in range(distance - 1))]
    entries = log_of([*log, proposal(put("a"), 1)])
    replayed, grouped = fresh(), fresh()
    replay(replayed, entries[:-1])
    restored = fresh(replayed.snapshot())
    for entry in entries[:-1]:
        grouped.receive(entry)
    known = replayed.outcome_of(log[0].op_id)

    assert (distance - 1 <= 4) == (known is not None)
    assert known == restored.outcome_of(log[0].op_id) == grouped.outcome_of(log[0].op_id)
    for replica in (replayed, restored, grouped):
        (commit,) = replica.receive(entries[-1]).commits
        assert (distance <= 4) == commit.is_duplicate
        assert replayed.snapshot().remembered[-1] == replica.snapshot().remembered[-1]


def test_revert_restores_the_displaced_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An op_id used again behind the window and taken back is known as before."""
    monkeypatch.setattr(replica_module, "IDEMPOTENCY_WINDOW_ENTRIES", 2)
    entries = log_of([proposal(put("a"), 1), proposal(put("b"), 2), proposal(put("c"), 3)])
    replica = fresh()
    replay(replica, entries[:3])
    group = [entries[3], *following(entries[3], put("a"), index=1)]
    before = full_state(replica)
    commits = [commit for entry in group for commit in replica.receive(entry).commits]

    assert not commits[1].is_duplicate

    replica.revert(tuple(commits))

    assert before == full_state(replica)
    again = following(entries[2], put("a"), index=1)[0]
    assert replica.receive(again).commits[0].is_duplicate


def test_snapshot_contains_only_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equally before and after the replica forgets older outcomes."""
    monkeypatch.setattr(replica_module, "IDEMPOTENCY_WINDOW_ENTRIES", 2)
    replica = fresh()
    for entry in history(6):
        replica.receive(entry)
    taken = replica.snapshot()
    replica.advance()

    assert [4, 5, 6] == [remembered.seq for remembered in taken.remembered]
    assert taken == replica.snapshot()


def test_outcome_of_an_unknown_write_is_none() -> None:
    """It may not have been sequenced."""
    replica, _ = at(2)

    assert replica.outcome_of(b"\x00" * 16) is None


def test_revert_restores_groups_of_any_size() -> None:
    """Newest first, and across the opening of an epoch."""
    replica, entries = at(2)
    tail = following(entries[-1], put("a", "1", "2"), put("a", "2"), DeleteRoute("r0"))
    tail.append(forked(tail[-1].position, epoch=2))
    tail.extend(following(tail[-1], put("b"), index=900))
    for size in range(len(tail) + 1):
        before = full_state(replica)
        commits = [commit for entry in tail[:size] for commit in replica.receive(entry).commits]
        assert size == len(commits)
        replica.revert(tuple(commits))
        assert before == full_state(replica)


def test_revert_out_of_order_is_a_bug() -> None:
    """So is the revert of durable entries."""
    replica, entries = fresh(), history(3)
    commits = [commit for entry in entries for commit in replica.receive(entry).commits]
    with pytest.raises(AssertionError, match="revert in order"):
        replica.revert(tuple(commits[:2]))

    replica.advance()
    with pytest.raises(AssertionError, match="durable"):
        replica.revert(tuple(commits))


def test_entry_that_raises_reverts_the_step() -> None:
    """Either a step is returned, or nothing has changed."""

    def check(mutation: Mutation) -> str | None:
        if mutation == put("poison"):
            raise RuntimeError("poison")
        return None

    replica = Replica(EMPTY, dim=2, check=check)
    entries = history(2)
    replay(replica, entries)
    later = following(entries[-1], put("x"), put("y"), put("poison"))
    for entry in later[:0:-1]:
        replica.receive(entry, Source.BUS)
    before = full_state(replica)
    with pytest.raises(RuntimeError, match="poison"):
        replica.receive(later[0])

    assert before == full_state(replica)
    assert 2 == len([c for entry in later[:2] for c in replica.receive(entry).commits])


def test_check_of_the_vectors_rejects_an_entry() -> None:
    """Its message becomes the outcome, and only the position changes."""
    replica = Replica(EMPTY, dim=2, check=lambda _: "a vector is not finite")
    entries = history(2)
    commits: list[Commit] = replay(replica, entries)

    assert 1 == len(replica.epochs)
    outcome = commits[1].change.outcome
    assert ("rejected", "invalid_vector") == (outcome.status, outcome.code)
    assert "a vector is not finite" == outcome.message
    assert {} == replica.table.routes


def test_make_entry_continues_a_position() -> None:
    """Sequence numbers have no gaps, and epochs begin with their openings."""
    entries = history(2)
    assert (1, 1, CHAIN_START) == (entries[0].epoch, entries[0].seq, entries[0].prev_chain)
    assert (1, 2, entries[0].chain) == (entries[1].epoch, entries[1].seq, entries[1].prev_chain)


def test_replica_of_a_snapshot_is_at_its_position() -> None:
    """With the digest and everything else that later entries depend on."""
    replica, _ = at(5)
    restored = fresh(replica.snapshot())

    assert (replica.position, replica.digest) == (restored.position, restored.digest)
    assert replica.snapshot() == restored.snapshot()


@pytest.mark.parametrize(("before", "after"), list(product(State, State)))
def test_states_change_only_along_transitions(before: State, after: State) -> None:
    """Staying is always allowed; any other change must be in ``TRANSITIONS``."""
    replica = fresh()
    replica.state = before
    if after is before or after in TRANSITIONS[before]:
        replica.move_to(after)
        assert after is replica.state
    else:
        with pytest.raises(AssertionError, match="this is a bug"):
            replica.move_to(after)
        assert before is replica.state


def test_every_state_can_be_reached_and_left() -> None:
    assert set(State) == set(TRANSITIONS)
    assert all(TRANSITIONS[state] for state in State)
    assert set(State) == {after for ways in TRANSITIONS.values() for after in ways}


@pytest.mark.parametrize("state", [State.DIVERGED, State.HALTED, State.INSTALLING])
def test_replica_that_does_not_follow_ignores_entries(state: State) -> None:
    """From the log or the bus."""
    replica, entries = at(2)
    replica.state = state
    entry = following(entries[-1], put("x"))[0]

    for source in Source:
        assert Ignored.NOT_FOLLOWING is ignored(replica, entry, source)


@pytest.mark.parametrize("state", [State.SYNCING, State.LIVE, State.CATCHING_UP])
def test_replica_that_follows_applies_entries(state: State) -> None:
    """In each of the states that follow."""
    replica, entries = at(2)
    replica.state = state

    assert 1 == len(replica.receive(following(entries[-1], put("x"))[0]).commits)
