"""One log gives one state: random logs, cut, repeated, reverted and forged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicas import EMPTY, Shadow, free_numbers, fresh, full_state, log_of, replay, table_state
from strategies import logs
from synaptoroute.core import replica as replica_module
from synaptoroute.core.codec import decode_proposal
from synaptoroute.core.digest import Digest
from synaptoroute.core.free_numbers import FreeNumbers
from synaptoroute.core.mutation import Proposal, PutRoute
from synaptoroute.core.replica import Replica

pytestmark = pytest.mark.property

over_logs = settings(max_examples=40)


@over_logs
@given(logs())
def test_equal_logs_give_equal_states(log: list[Proposal]) -> None:
    """Two replicas of one log have equal states, digests and steps."""
    entries = log_of(log)
    first, second = fresh(), fresh()

    assert replay(first, entries) == replay(second, entries)
    assert full_state(first) == full_state(second)


@over_logs
@given(logs())
def test_decoded_proposals_give_the_state_of_the_original_ones(log: list[Proposal]) -> None:
    """The node that proposed and the nodes that decoded the frame have equal states."""
    entries = log_of(log)
    decoded = [replace(entry, proposal=decode_proposal(entry.frame)) for entry in entries]
    proposer, follower = fresh(), fresh()
    replay(proposer, entries)
    replay(follower, decoded)

    assert full_state(proposer) == full_state(follower)


@over_logs
@given(logs(), logs())
def test_snapshot_and_tail_equal_full_replay(head: list[Proposal], tail: list[Proposal]) -> None:
    """Without the free slots in the snapshot, later slots, digests and outcomes are the same."""
    replayed = fresh()
    entries = log_of(head)
    replay(replayed, entries)
    restored = fresh(replayed.snapshot())

    assert table_state(replayed.table) == table_state(restored.table)

    rest = log_of(tail, after=replayed.position)

    assert replay(replayed, rest) == replay(restored, rest)
    assert table_state(replayed.table) == table_state(restored.table)
    assert replayed.snapshot() == restored.snapshot()


@over_logs
@given(logs())
def test_route_is_created_once_between_its_deletions(log: list[Proposal]) -> None:
    """``created`` is set exactly if an applied put finds no route with its name."""
    replica = fresh()
    for entry in log_of(log):
        names = set(replica.table.routes)
        mutation = entry.proposal.mutation
        for commit in replay(replica, [entry]):
            if commit.is_duplicate:
                continue  # it has the outcome of the first entry
            is_new = isinstance(mutation, PutRoute) and mutation.name not in names
            is_applied = commit.change.outcome.status == "applied"
            assert (is_new and is_applied) == commit.change.outcome.created


@over_logs
@given(logs())
def test_incremental_digest_equals_a_new_one(log: list[Proposal]) -> None:
    """After every entry, rows rebuilt from changes alone give the digest and the owners."""
    replica, shadow = fresh(), Shadow()
    for entry in log_of(log):
        for commit in replay(replica, [entry]):
            shadow.carry_out(commit.change)
        shadow.check(replica.table)


@over_logs
@given(logs())
def test_only_applied_entries_change_anything(log: list[Proposal]) -> None:
    """Rejected, unchanged and repeated entries leave the table as it was."""
    replica = fresh()
    for entry in log_of(log):
        before = table_state(replica.table)
        (commit,) = replay(replica, [entry])
        change = commit.change
        if commit.is_duplicate or change.outcome.status != "applied":
            assert replace(change, outcome=change.outcome) == type(change)(change.outcome)
            assert before == table_state(replica.table)


@over_logs
@given(logs())
def test_new_slots_are_the_lowest_free_ones(log: list[Proposal]) -> None:
    """The lowest free slots are taken; own slots are reused only if none is left."""
    replica = fresh()
    for entry in log_of(log):
        owned = set(replica.table.row_hashes)
        capacity_slots = replica.table.settings.capacity_slots
        (commit,) = replay(replica, [entry])
        written = [write.slot for write in commit.change.writes]
        free = [slot for slot in range(capacity_slots) if slot not in owned]
        new = [slot for slot in written if slot not in owned]
        assert free[: len(new)] == new
        if len(new) < len(written):
            assert free == new


@over_logs
@given(logs(), st.lists(st.integers(1, 6), max_size=12))
def test_revert_restores_everything(log: list[Proposal], sizes: list[int]) -> None:
    """Groups of any size are reverted and applied again."""
    entries = log_of(log)
    plain, replica = fresh(), fresh()
    for size in [*sizes, len(entries)]:
        group, entries = entries[:size], entries[size:]
        before = full_state(replica)
        commits = [commit for entry in group for commit in replica.receive(entry).commits]
        replica.revert(tuple(commits))

        assert before == full_state(replica)
        assert commits == [c for entry in group for c in replica.receive(entry).commits]

        replica.advance()
        for entry in group:
            plain.receive(entry)
        plain.advance()

    assert full_state(plain) == full_state(replica)


@over_logs
@given(logs(12, op_count=6), st.integers(0, 5), st.data())
def test_window_is_equal_for_restored_and_replayed_replicas(
    log: list[Proposal], window_entries: int, data: st.DataObject
) -> None:
    """Whoever restores, and wherever, forgets an op_id at the same distance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica_module, "IDEMPOTENCY_WINDOW_ENTRIES", window_entries)
        entries = log_of(log)
        cut = data.draw(st.integers(0, len(entries)), label="cut")
        replayed = fresh()
        replay(replayed, entries[:cut])
        restored = fresh(replayed.snapshot())

        assert replay(replayed, entries[cut:]) == replay(restored, entries[cut:])
        assert replayed.snapshot() == restored.snapshot()
        for each in log:
            assert replayed.outcome_of(each.op_id) == restored.outcome_of(each.op_id)


@over_logs
@given(logs(12, op_count=6), st.integers(0, 4), st.lists(st.integers(1, 9), max_size=10))
def test_window_does_not_depend_on_the_groups(
    log: list[Proposal], window_entries: int, sizes: list[int]
) -> None:
    """Large groups, reverted once, remember and forget as single entries do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica_module, "IDEMPOTENCY_WINDOW_ENTRIES", window_entries)
        entries = log_of(log)
        single, grouped = fresh(), fresh()
        expected = replay(single, entries)
        actual = []
        for size in [*sizes, len(entries)]:
            group, entries = entries[:size], entries[size:]
            before = full_state(grouped)
            grouped.revert(tuple(c for entry in group for c in grouped.receive(entry).commits))
            assert before == full_state(grouped)
            actual += [c for entry in group for c in grouped.receive(entry).commits]
            grouped.advance()

        assert expected == actual
        assert single.snapshot() == grouped.snapshot()


@given(st.sets(st.integers(0, 40)), st.lists(st.integers(0, 40)), st.integers(0, 10))
def test_free_numbers_depend_only_on_the_used_ones(
    used: set[int], toggles: list[int], count: int
) -> None:
    """Any history of claims and frees hands out the numbers that a fresh start does."""
    numbers = FreeNumbers()
    numbers.claim_all(used)
    now = set(used)
    for each in toggles:
        if each in now:
            numbers.free(each)
        else:
            numbers.claim(each)
        now ^= {each}
    again = FreeNumbers()
    again.claim_all(now)
    lowest = [each for each in range(100) if each not in now][:count]

    assert lowest == numbers.peek(count)
    assert free_numbers(again) == free_numbers(numbers)
    assert max(now, default=-1) + 1 == numbers.high_water


@given(st.dictionaries(st.integers(0, 2_000), st.binary(min_size=16, max_size=16), max_size=60))
def test_digest_of_many_rows_equals_the_digest_of_each(rows: dict[int, bytes]) -> None:
    """The boot adds the rows at once, in any order, and gets the same sums."""
    at_once, single = Digest(), Digest()
    at_once.add_rows(rows.items())
    for slot, hashed in reversed(rows.items()):
        single.add_row(slot, hashed)

    assert single.hex() == at_once.hex()
    assert single.buckets == at_once.buckets

    for slot, hashed in rows.items():
        single.remove_row(slot, hashed)

    assert Digest().hex() == single.hex()
    assert Digest().buckets == single.buckets


@over_logs
@given(logs())
def test_snapshot_is_not_changed_by_later_entries(log: list[Proposal]) -> None:
    """Snapshots are frozen while the replica continues."""
    entries = log_of(log)
    replica = Replica(EMPTY, dim=2)
    half = len(entries) // 2
    replay(replica, entries[:half])
    taken = replica.snapshot()
    copied = replace(taken, row_hashes=dict(taken.row_hashes))
    replay(replica, entries[half:])

    assert copied == taken
