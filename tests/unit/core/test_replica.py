"""Replica: it applies only entries that continue its history."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from replicas import (
    at,
    following,
    forked,
    fresh,
    full_state,
    history,
    ignored,
    log_of,
    op_id_of,
    opening,
    proposal,
    put,
    replay,
)
from synaptoroute.core import replica as replica_module
from synaptoroute.core.codec import LEVEL, digest_of, encode_proposal
from synaptoroute.core.digest import next_chain
from synaptoroute.core.mutation import (
    Entry,
    Finalize,
    OpenEpoch,
    Position,
    Proposal,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.replica import Fetch, Ignored, Source, State, Step, make_entry

pytestmark = pytest.mark.unit


def test_entries_in_order_are_applied_one_by_one() -> None:
    """Each commit has its change and the digest afterwards."""
    replica, entries = fresh(), history(3)
    for entry in entries:
        (commit,) = replica.receive(entry).commits
        assert (entry, replica.digest) == (commit.entry, commit.digest)
        assert entry.position == replica.position
        assert not commit.is_duplicate


def test_gap_fetches_the_missing_entries() -> None:
    """The early entry is buffered and applied with the one that fills the gap."""
    replica, entries = at(2)
    later = following(entries[-1], put("x"), put("y"), put("z"))

    assert Step(fetch=Fetch(2), ignored=Ignored.BUFFERED) == replica.receive(later[2], Source.BUS)
    assert Step(fetch=Fetch(2), ignored=Ignored.BUFFERED) == replica.receive(later[1], Source.BUS)

    step = replica.receive(later[0])

    assert later == [commit.entry for commit in step.commits]
    assert step.fetch is None


def test_second_gap_is_fetched_too() -> None:
    """Entries behind a second gap stay buffered."""
    replica, entries = at(2)
    later = following(entries[-1], put("x"), put("y"), put("z"))
    replica.receive(later[2], Source.BUS)

    assert Fetch(3) == replica.receive(later[0]).fetch


def test_repeated_entries_are_duplicates() -> None:
    """From the bus and the log, at the position and before it."""
    replica, entries = at(4)

    for entry, source in product(entries, Source):
        assert Ignored.DUPLICATE is ignored(replica, entry, source)


def test_entries_before_the_known_chains_are_old() -> None:
    """A restored replica knows only the chain at its position."""
    replica, entries = at(4)
    restored = fresh(replica.snapshot())

    assert Ignored.OLD is ignored(restored, entries[1])
    assert Ignored.DUPLICATE is ignored(restored, entries[3])


def test_chains_are_kept_for_the_newest_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork before them is still detected by its epoch."""
    monkeypatch.setattr(replica_module, "CHAINS_KEPT", 3)
    replica, entries = at(8)

    assert [6, 7, 8] == sorted(replica._chains)
    assert Ignored.OLD is ignored(replica, entries[4])
    assert Ignored.DUPLICATE is ignored(replica, entries[5])


def test_buffer_for_early_entries_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """In places and bytes; entries that claim to be far ahead are not buffered."""
    monkeypatch.setattr(replica_module, "REORDER_ENTRIES_MAX", 3)
    replica, entries = at(1)
    later = following(entries[-1], *(put(f"x{i}") for i in range(6)))
    for entry in reversed(later[1:]):
        replica.receive(entry, Source.BUS)

    assert [3, 4] == sorted(replica._buffered)

    monkeypatch.setattr(replica_module, "REORDER_BYTES_MAX", len(later[1].frame))
    narrow, _ = at(1)
    narrow.receive(later[1], Source.BUS)
    narrow.receive(later[2], Source.BUS)

    assert [3] == sorted(narrow._buffered)
    assert len(later[1].frame) == narrow._buffered_bytes


@pytest.mark.parametrize("field", ["chain", "prev_chain", "frame", "epoch", "seq"])
def test_forged_bus_entries_change_nothing(field: str) -> None:
    """At the next place, before it and after it; the replica does not diverge."""
    for seq in (2, 3, 4, 5):
        replica, entries = at(3)
        later = following(entries[-1], put("x"), put("y"))
        genuine = [*entries, *later][seq - 1]
        forged = {
            "chain": replace(genuine, chain="f" * 40),
            "prev_chain": replace(genuine, prev_chain="f" * 40),
            "frame": replace(genuine, frame=entries[0].frame),
            "epoch": rechained(replace(genuine, epoch=7)),
            "seq": rechained(replace(genuine, seq=seq + 1)),
        }[field]
        ignored(replica, forged, Source.BUS)
        assert State.SYNCING is replica.state

        replay(replica, later)
        assert later[-1].position == replica.position


def rechained(entry: Entry) -> Entry:
    """An entry whose chain follows from its own fields."""
    digest = digest_of(entry.frame)
    return replace(entry, chain=next_chain(entry.prev_chain, entry.epoch, entry.seq, digest))


def test_forged_early_entry_is_dropped_at_its_place() -> None:
    """The log is asked for the real entry."""
    replica, entries = at(2)
    later = following(entries[-1], put("x"), put("y"))
    replica.receive(rechained(replace(later[1], prev_chain="f" * 40)), Source.BUS)
    step = replica.receive(later[0], Source.BUS)

    assert 1 == len(step.commits)
    assert Fetch(3) == step.fetch
    assert 1 == len(replica.receive(later[1]).commits)


def test_fork_in_the_log_is_a_divergence() -> None:
    """At the next place, at an earlier one, and with a chain that does not match the entry."""
    for wrong in ("next", "before", "chain"):
        replica, entries = at(4)
        other = following(entries[1], put("other"), put("other"), put("other"))
        entry = {
            "next": other[2],
            "before": other[0],
            "chain": replace(following(entries[3], put("x"))[0], chain="f" * 40),
        }[wrong]
        before = full_state(replica)
        step = replica.receive(entry, Source.LOG)

        assert step.diverged is not None
        assert () == step.commits
        assert State.DIVERGED is replica.state
        assert before == full_state(replica)
        assert Ignored.NOT_FOLLOWING is ignored(replica, entry)


def test_orphaned_tail_diverges_without_known_chains() -> None:
    """An entry of a later epoch at a place that we hold proves the fork."""
    replica, entries = at(6)
    restored = fresh(replica.snapshot())

    assert restored.receive(forked(entries[2].position, epoch=2)).diverged is not None


def test_log_of_an_older_epoch_proves_no_fork() -> None:
    """A master that was left behind shows its own history."""
    replica, entries = at(3)
    replay(replica, [forked(entries[2].position, epoch=2)])
    stale = following(entries[2], put("stale"))[0]

    assert Ignored.OLD_EPOCH is ignored(replica, stale, Source.LOG, 1)
    assert Ignored.OLD_EPOCH is ignored(replica, stale, Source.BUS)
    assert Ignored.OLD_EPOCH is ignored(replica, following(stale, put("y"))[0], Source.LOG, 1)
    assert replica.receive(stale, Source.LOG, 2).diverged is not None


@pytest.mark.parametrize("base", [1, 2, 4, 5])
def test_epoch_is_joined_only_at_its_base(base: int) -> None:
    """After it there is a gap, before it a fork, and a wrong base is refused."""
    replica, entries = at(3)
    tail = following(entries[-1], put("x"), put("y"))
    position = [*entries, *tail][base - 1].position
    step = replica.receive(forked(position, epoch=2))

    if base < 3:
        assert step.diverged is not None
    else:
        assert Ignored.BUFFERED is step.ignored

    liar, _ = at(3)
    lie = log_of([opening(base)], entries[-1].position)[0]

    assert liar.receive(lie).diverged is not None
    assert [1] == [record.epoch for record in liar.epochs]


def test_epoch_is_joined_at_its_base() -> None:
    """Position, epochs and revisions continue from there."""
    replica, entries = at(3)
    opened = forked(entries[-1].position, epoch=5)
    (commit,) = replay(replica, [opened])

    assert commit.change.epoch == opened.proposal.mutation
    assert Position(5, 4, opened.chain) == replica.position
    assert [1, 5] == [record.epoch for record in replica.epochs]


def test_epoch_from_the_bus_is_not_joined() -> None:
    """With a forged epoch, the replica would ignore the real log for ever."""
    replica, entries = at(3)
    opened = forked(entries[-1].position, epoch=9)

    assert Ignored.UNCONFIRMED is ignored(replica, opened, Source.BUS)
    assert Fetch(3) == replica.receive(opened, Source.BUS).fetch

    behind, _ = at(2)
    behind.receive(opened, Source.BUS)
    step = behind.receive(entries[2], Source.BUS)

    assert 1 == len(step.commits)
    assert Fetch(3) == step.fetch
    assert 1 == len(behind.receive(opened, Source.LOG).commits)


def test_entry_of_an_unopened_epoch_is_a_fork() -> None:
    """An epoch begins with its OpenEpoch."""
    replica, entries = at(3)
    entry = rechained(replace(following(entries[-1], put("x"))[0], epoch=2))

    assert replica.receive(entry).diverged is not None


def test_repeated_put_has_the_same_outcome() -> None:
    """The repeat gets the answer of the first entry, with its place and ``created``."""
    replica, _ = at(2)
    first = Proposal(op_id_of(77), put("new"))
    written, repeated = log_of([first, first], replica.position)
    commits = [*replay(replica, [written]), *replay(replica, [repeated])]

    assert [True, True] == [commit.change.outcome.created for commit in commits]
    assert [False, True] == [commit.is_duplicate for commit in commits]
    assert commits[0].change.outcome == commits[1].change.outcome


def test_appended_proposal_equals_a_received_entry() -> None:
    """A node that is its own sequencer gets the state of one that follows a log."""
    (own, _), (following_log, _) = at(2), at(2)
    proposed = Proposal(op_id_of(77), put("new"))
    frame = encode_proposal(proposed)
    (commit,) = own.append(frame, proposed, 5).commits
    (received,) = following_log.receive(commit.entry).commits

    assert make_entry(at(2)[0].position, frame, proposed, 5) == commit.entry
    assert commit == received
    assert full_state(own) == full_state(following_log)


@pytest.mark.parametrize("state", [State.DIVERGED, State.HALTED, State.INSTALLING])
def test_replica_that_does_not_follow_appends_nothing(state: State) -> None:
    replica, _ = at(2)
    replica.move_to(state)
    proposed = Proposal(op_id_of(77), put("new"))

    assert Ignored.NOT_FOLLOWING is replica.append(encode_proposal(proposed), proposed, 5).ignored


def test_epoch_cannot_be_opened_inside_itself() -> None:
    """Such an entry is rejected on every node and only moves the position."""
    replica, entries = at(2)
    again = Proposal(op_id_of(77), OpenEpoch("again", base_seq=2))
    entry = make_entry(replica.position, b"frame", again, 0)
    entry = rechained(replace(entry, epoch=1))
    (commit,) = replay(replica, [entry])

    assert ("rejected", "invalid_request") == (
        commit.change.outcome.status,
        commit.change.outcome.code,
    )
    assert 1 == len(replica.epochs)
    assert Position(1, 3, entry.chain) == replica.position
    assert entries[0].proposal.mutation == replica.epochs[0].opened


def test_opening_an_epoch_is_never_a_duplicate() -> None:
    """Even if its op_id was used before: its place in the chain decides."""
    replica, entries = at(3)
    opened = replace(opening(3), op_id=entries[1].proposal.op_id)
    before = full_state(replica)
    step = replica.receive(log_of([opened], replica.position)[0])

    assert not step.commits[0].is_duplicate
    assert 2 == len(replica.epochs)

    replica.revert(step.commits)

    assert before == full_state(replica)


def test_promise_excludes_older_logs() -> None:
    """And entries that were buffered before the promise."""
    replica, entries = at(2)
    later = following(entries[-1], put("x"), put("y"))
    replica.receive(later[1], Source.BUS)
    replica.promised_epoch = 2

    assert Ignored.PROMISED is ignored(replica, later[0], Source.BUS)
    assert Ignored.PROMISED is ignored(replica, later[0], Source.LOG, 1)

    step = replica.receive(later[0], Source.LOG, 2)

    assert [later[0]] == [commit.entry for commit in step.commits]
    assert Fetch(3) == step.fetch
    assert 1 == len(replica.receive(forked(later[0].position, epoch=2), Source.LOG, 2).commits)


def test_buffered_entry_of_an_older_log_is_not_applied() -> None:
    """The new epoch may have started where the old master continued."""
    replica, entries = at(2)
    later = following(entries[-1], put("kept"), put("orphan"))
    replica.receive(later[1], Source.BUS)
    step = replica.receive(later[0], Source.LOG, 2)

    assert [later[0]] == [commit.entry for commit in step.commits]
    assert Fetch(3) == step.fetch
    assert State.SYNCING is replica.state


def test_key_of_a_removed_voter_is_forgotten() -> None:
    """It may come back with another key; reverted, the key is known again."""
    keys = (("n1", "a" * 64), ("n2", "b" * 64))
    replica = fresh()
    replay(replica, log_of([proposal(VoterAdd("n2"), 1), proposal(Finalize(LEVEL + 1, keys), 2)]))
    entry = log_of([proposal(VoterRemove("n2"), 3)], after=replica.position)[0]
    step = replica.receive(entry)

    assert replica.voter_keys == {"n1": "a" * 64}
    replica.revert(step.commits)
    assert replica.voter_keys == dict(keys)
