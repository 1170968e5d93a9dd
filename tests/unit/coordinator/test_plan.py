"""The plan: view + policy + memory -> actions."""

from __future__ import annotations

import pytest

from fleets import DIGEST, fleet, head, policy, seen
from synaptoroute.sequencer.presence import AuditReport
from synaptoroute_coordinator.fleet import judge_audit
from synaptoroute_coordinator.plan import (
    AbortImport,
    Judge,
    Memory,
    OpenImport,
    PendingAudit,
    Repair,
    StartAudit,
    TakeBackup,
    Trim,
    plan,
)

pytestmark = pytest.mark.unit

OTHER = "e" * 32
NOW = 1_000.0


def memory(**changes: object) -> Memory:
    """The memory of a coordinator that has been active for long."""
    return Memory(0.0, **changes)  # type: ignore[arg-type]


SMALL_LOG = policy(retain_entries=1_000)


def test_healthy_fleet_needs_nothing() -> None:
    """No action without a reason."""
    assert () == plan(fleet(), policy(), memory(), NOW)


@pytest.mark.parametrize("state", ["recovering", "frozen"])
def test_closed_log_is_left_alone(state: str) -> None:
    """While a recovery is going on nobody may take entries away."""
    view = fleet(at=head(50_000, state=state))

    assert () == plan(view, policy(retain_entries=10, audit_seconds=1), memory(), NOW)


# --- trim ------------------------------------------------------------------------------


def at(*seqs: int) -> object:
    """Voters a, b and c at these places, head at the largest."""
    nodes = [seen(name, seq) for name, seq in zip("abc", seqs, strict=False)]
    return fleet(*nodes, at=head(max(seqs)))


def test_newest_entries_are_kept() -> None:
    """The policy's number of entries stays."""
    actions = plan(at(9_000, 9_000, 9_000), SMALL_LOG, memory(), NOW)

    assert (Trim(1, 8_001),) == actions


def test_trim_waits_for_live_nodes_while_there_is_room() -> None:
    """A node that is behind need not ask a peer for what the log could still hold."""
    actions = plan(at(9_000, 9_000, 500), SMALL_LOG, memory(), NOW)

    assert (Trim(1, 501),) == actions


def test_trim_goes_to_a_majority_and_no_further_when_room_is_scarce() -> None:
    """Two of three voters hold 7,000: the floor is the entry after it."""
    view = fleet(
        seen("a", 9_000), seen("b", 7_000), seen("c", 10), at=head(9_000, kept_bytes=200_000_000)
    )
    actions = plan(view, policy(retain_entries=100), memory(), NOW)

    assert (Trim(1, 7_001),) == actions


def test_nothing_is_trimmed_without_a_majority() -> None:
    """Voters that were never heard hold nothing."""
    view = fleet(seen("a", 9_000), at=head(9_000, kept_bytes=200_000_000))

    assert () == plan(view, policy(retain_entries=100), memory(), NOW)


def test_observers_do_not_count_for_the_majority() -> None:
    """Only voters decide what survives."""
    nodes = [seen("a", 9_000), *(seen(f"o{n}", 9_000) for n in range(5))]
    view = fleet(*nodes, at=head(9_000, kept_bytes=200_000_000))

    assert () == plan(view, policy(retain_entries=100), memory(), NOW)


def test_small_trims_are_not_worth_it() -> None:
    """One call for a handful of entries would be made at every turn."""
    actions = plan(at(1_020, 1_020, 1_020), SMALL_LOG, memory(), NOW)

    assert () == actions


# --- audits ----------------------------------------------------------------------------


def test_audits_are_due_time_and_again() -> None:
    """Never before: at once; afterwards when the time is over."""
    asked = policy(audit_seconds=60)

    assert (StartAudit(False),) == plan(fleet(), asked, memory(), NOW)
    assert () == plan(fleet(), asked, memory(audit_seconds=NOW - 59), NOW)
    assert (StartAudit(False),) == plan(fleet(), asked, memory(audit_seconds=NOW - 60), NOW)


def test_scrub_takes_the_place_of_an_audit() -> None:
    """A deep audit compares digests as well."""
    asked = policy(audit_seconds=60, scrub_seconds=3_600)

    assert (StartAudit(True),) == plan(fleet(), asked, memory(), NOW)


def test_new_holder_looks_around_first() -> None:
    """A takeover is no reason for a storm."""
    assert () == plan(fleet(), policy(audit_seconds=60), Memory(NOW - 1), NOW)


def test_reports_are_waited_for_and_not_for_ever() -> None:
    """All have reported, or the time is over; a node that died meanwhile is not waited for."""
    pending = PendingAudit(7, False, NOW - 2, ("a", "b", "c"))
    asked = policy(audit_seconds=60, audit_wait_seconds=10)
    two_live = fleet(seen("a"), seen("b"), seen("c", age_ms=9_000))

    assert () == plan(fleet(), asked, memory(pending=pending, reported=2), NOW)
    assert (Judge(False),) == plan(fleet(), asked, memory(pending=pending, reported=3), NOW)
    assert (Judge(False),) == plan(two_live, asked, memory(pending=pending, reported=2), NOW)
    assert (Judge(True),) == plan(fleet(), asked, memory(pending=pending), NOW + 10)


def wrong_c(**report: object) -> object:
    """An audit that found c wrong."""
    reports = {name: AuditReport(1, DIGEST) for name in "ab"}
    reports["c"] = AuditReport(**({"epoch": 1, "digest": OTHER} | report))  # type: ignore[arg-type]
    return judge_audit(90, reports, "abc")


def test_minority_is_told_to_take_the_majority_s_state() -> None:
    """Donors are those that agree, and nobody else."""
    (action,) = plan(fleet(), policy(), memory(verdict=wrong_c()), NOW)

    assert isinstance(action, Repair)
    assert ("c", ("a", "b")) == (action.node, action.donors)


def test_repair_is_ordered_once() -> None:
    """A node that is at it is left alone; so is one that is gone, and one that is not to be."""
    found = memory(verdict=wrong_c(), repairing=frozenset("c"))
    gone = fleet(seen("a"), seen("b"), seen("c", age_ms=9_000))

    assert () == plan(fleet(), policy(), found, NOW)
    assert () == plan(gone, policy(), memory(verdict=wrong_c()), NOW)
    assert () == plan(fleet(), policy(is_repair_on=False), memory(verdict=wrong_c()), NOW)


def test_one_finding_gives_one_order_and_a_second_look() -> None:
    """Once the node has resynced somebody looks again, and only a new finding repairs again."""
    held = memory(verdict=wrong_c())
    held.note_repair(90, "c")
    held.repairing = frozenset()

    assert (StartAudit(False),) == plan(fleet(), policy(), held, NOW)

    held.note_verdict(judge_audit(95, {name: AuditReport(1, DIGEST) for name in "abc"}, "abc"))

    assert () == plan(fleet(), policy(), held, NOW)


def test_node_that_repairs_do_not_help_is_left_to_a_person() -> None:
    """Three in a row, then the alarm stands."""
    held = memory(verdict=wrong_c(), repair_counts={"c": 3})

    assert () == plan(fleet(), policy(), held, NOW)


def test_damaged_and_differing_node_is_told_once() -> None:
    """Two audits that name the same node give one order."""
    held = memory(verdict=wrong_c(), deep_verdict=wrong_c())

    assert 1 == len(plan(fleet(), policy(), held, NOW))


def test_mended_damage_is_forgotten() -> None:
    """A shallow audit cannot see damage, so a node must have resynced to be cleared."""
    held = memory()
    reports = {name: AuditReport(1, DIGEST, True, 5) for name in "ab"}
    reports["c"] = AuditReport(1, DIGEST, True, 5, memory_rows=1)
    held.note_verdict(judge_audit(80, reports, "abc", is_deep=True))
    held.repairing = frozenset("c")
    equal = {name: AuditReport(1, DIGEST) for name in "abc"}
    held.note_verdict(judge_audit(90, equal, "abc"))

    assert held.deep_verdict is not None

    held.repairing = frozenset()
    held.note_verdict(judge_audit(91, equal, "abc"))

    assert held.deep_verdict is None


# --- imports and backups ---------------------------------------------------------------


def test_import_without_a_chunk_for_long_is_aborted() -> None:
    """The clock of an import starts anew with every chunk."""
    held = memory()
    held.note_imports([OpenImport("i", 5)], NOW)
    asked = policy(import_idle_seconds=900)

    assert () == plan(fleet(), asked, held, NOW + 899)
    assert (AbortImport("i", 5),) == plan(fleet(), asked, held, NOW + 900)

    held.note_imports([OpenImport("i", 9)], NOW + 899)

    assert () == plan(fleet(), asked, held, NOW + 900)


def test_backup_is_taken_of_a_sound_node() -> None:
    """The one with the least to do, and never one that differs."""
    view = fleet(seen("a", digest=OTHER), seen("b", queue_count=9), seen("c"))
    (action,) = plan(view, policy(backup_seconds=60), memory(), NOW)

    assert TakeBackup("c", "http://c") == action


def test_missing_voters_are_counted_from_when_they_were_last_seen() -> None:
    """A short absence is none."""
    held = memory()
    held.note_voters(fleet(), NOW)
    held.note_voters(fleet(seen("a"), seen("b"), seen("c", age_ms=9_000)), NOW + 100)

    assert () == held.missing_voters(NOW + 100, 300)
    assert ("c",) == held.missing_voters(NOW + 300, 301 - 1)
