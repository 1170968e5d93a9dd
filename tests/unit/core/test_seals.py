"""Replica: entries that no member can have written at their place, and the level of the log."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicas import EMPTY, log_of, proposal, put
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.mutation import Entry, Finalize, OpenEpoch, Position
from synaptoroute.core.replica import SEAL_ENTRIES_MAX, Ignored, Replica, Source, make_entry

pytestmark = pytest.mark.unit

KEYS = (("n1", "0" * 64),)


def sealed_replica(level: int = 2) -> tuple[Replica, Entry]:
    """A replica that requires seals, after the entry that founded its log."""
    opened = OpenEpoch("b", 0, ("n1",), "", 0, level, KEYS if level > 1 else ())
    founding = make_entry(Position(), encode_proposal(each := proposal(opened, 0)), each, 0)
    replica = Replica(EMPTY, dim=2, requires_seals=True)
    replica.receive(founding)
    replica.advance()
    return replica, founding


def after(replica: Replica, stood: Position | None, count: int = 1) -> list[Entry]:
    """Entries after the replica's position, sealed at a place."""
    names = [proposal(put(f"r{number}"), 100 + number) for number in range(count)]
    entries = log_of(names, replica.position)
    return [replace(each, stood=stood, seal=b"%d" % each.seq if stood else b"") for each in entries]


def test_log_is_founded_at_a_level_with_the_keys_of_its_voters() -> None:
    replica, _ = sealed_replica()

    assert (2, dict(KEYS)) == (replica.level, replica.voter_keys)
    assert (2, KEYS) == (replica.snapshot().level, replica.snapshot().voter_keys)


def test_entry_that_was_sealed_on_this_history_is_applied() -> None:
    replica, founding = sealed_replica()
    (entry,) = after(replica, founding.position)

    assert replica.receive(entry).commits


@pytest.mark.parametrize(
    "stood",
    [
        None,
        Position(1, 1, "f" * 40),
        Position(1, 2, "f" * 40),
        Position(1, 9, "f" * 40),
        Position(2, 1, "f" * 40),
    ],
    ids=["unsealed", "other history", "own place", "later place", "later epoch"],
)
@pytest.mark.parametrize("source", list(Source))
def test_entry_that_no_member_wrote_here_is_refused(stood: Position | None, source: Source) -> None:
    replica, founding = sealed_replica()
    (entry,) = after(replica, stood)
    step = replica.receive(entry, source)

    assert not step.commits
    assert Ignored.FORGED is step.ignored
    assert (source is Source.LOG) == (step.forged is not None)
    assert founding.position == replica.position


def test_entry_that_was_sealed_too_long_ago_is_refused() -> None:
    replica, founding = sealed_replica()
    for number in range(SEAL_ENTRIES_MAX):
        (entry,) = after(replica, replica.position)
        entry = replace(entry, proposal=replace(entry.proposal, op_id=number.to_bytes(16, "big")))
        replica.receive(entry)
        replica.advance()
    (late,) = after(replica, founding.position)

    assert replica.receive(late).forged is not None


def test_early_entry_of_the_bus_is_judged_when_its_turn_comes() -> None:
    replica, founding = sealed_replica()
    first, second = after(replica, founding.position, 2)
    replica.receive(replace(second, stood=None), Source.BUS)
    step = replica.receive(first, Source.BUS)

    assert [first] == [commit.entry for commit in step.commits]
    assert step.fetch is not None


def test_seal_is_valid_once() -> None:
    """A server appends a genuine entry once more: nothing happens, not even to the position."""
    replica, founding = sealed_replica()
    (entry,) = after(replica, founding.position)
    replica.receive(entry)
    replica.advance()
    (again,) = log_of([entry.proposal], replica.position)
    again = replace(again, stood=entry.stood, seal=entry.seal)

    assert replica.receive(again).forged is not None
    assert entry.position == replica.position
    assert replica.receive(replace(again, seal=b"another")).commits


def test_seals_are_required_from_the_entry_on_that_raises_the_level() -> None:
    replica, _ = sealed_replica(level=1)
    raising = proposal(Finalize(2, KEYS), 1)
    plain, raised, unsealed = log_of(
        [proposal(put("a"), 2), raising, proposal(put("b"), 3)], replica.position
    )
    commits = [*replica.receive(plain).commits, *replica.receive(raised).commits]

    assert ["applied", "applied"] == [commit.change.outcome.status for commit in commits]
    assert (2, dict(KEYS)) == (replica.level, replica.voter_keys)
    assert replica.receive(unsealed).forged is not None


def test_level_is_raised_with_the_keys_that_the_log_knows() -> None:
    """Whoever raises it cannot speak for a voter by naming another key."""
    replica, founding = sealed_replica(level=2)
    named = (("n1", "f" * 64), ("n2", "e" * 64))
    (raised,) = log_of([proposal(Finalize(3, named), 1)], replica.position)
    entry = replace(raised, stood=founding.position, seal=b"seal")
    assert replica.receive(entry).commits

    assert (3, {"n1": "0" * 64, "n2": "e" * 64}) == (replica.level, replica.voter_keys)


def test_reverted_entry_takes_its_level_back() -> None:
    replica, _ = sealed_replica(level=1)
    (raised,) = log_of([proposal(Finalize(2, KEYS), 1)], replica.position)
    replica.revert(replica.receive(raised).commits)

    assert (1, {}) == (replica.level, replica.voter_keys)


def test_level_never_falls_and_a_repetition_changes_nothing() -> None:
    replica, founding = sealed_replica()
    entries = log_of([proposal(Finalize(2), 7), proposal(Finalize(1), 8)], replica.position)
    outcomes = [
        replica.receive(replace(each, stood=founding.position, seal=b"%d" % each.seq))
        .commits[0]
        .change.outcome
        for each in entries
    ]

    assert ["unchanged", "rejected"] == [outcome.status for outcome in outcomes]
    assert 2 == replica.level


def test_replica_that_requires_no_seals_takes_entries_without() -> None:
    replica, _ = sealed_replica()
    replica.requires_seals = False
    (entry,) = after(replica, None)

    assert replica.receive(entry).commits
