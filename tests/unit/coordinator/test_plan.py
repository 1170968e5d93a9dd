"""The plan: fleet view + policy + controller state -> actions."""

from __future__ import annotations

import pytest

from fleet_views import DIGEST, fleet, head, policy, seen
from synaptoroute.sequencer.presence import AuditReport
from synaptoroute_coordinator.fleet import evaluate_audit
from synaptoroute_coordinator.plan import (
    AbortImport,
    ChangeVoter,
    CompleteAudit,
    ControllerState,
    OpenImport,
    PendingAudit,
    Repair,
    StartAudit,
    TakeBackup,
    Trim,
    plan_actions,
)

pytestmark = pytest.mark.unit

OTHER = "e" * 32
NOW = 1_000.0


def controller_state(**changes: object) -> ControllerState:
    """Return the state of a coordinator that has been active for a long time."""
    return ControllerState(0.0, **changes)  # type: ignore[arg-type]


SMALL_LOG = policy(retain_entries=1_000)


def test_healthy_fleet_needs_no_action() -> None:
    assert () == plan_actions(fleet(), policy(), controller_state(), NOW)


@pytest.mark.parametrize("log_state", ["recovering", "frozen"])
def test_no_action_while_the_log_is_closed(log_state: str) -> None:
    """Nothing may be trimmed during a recovery."""
    view = fleet(at=head(50_000, state=log_state))

    assert () == plan_actions(
        view, policy(retain_entries=10, audit_seconds=1), controller_state(), NOW
    )


# --- trim ------------------------------------------------------------------------------


def voters_at(*seqs: int) -> object:
    """Return a fleet of the voters a, b and c at these sequence numbers."""
    nodes = [seen(name, seq) for name, seq in zip("abc", seqs, strict=False)]
    return fleet(*nodes, at=head(max(seqs)))


def test_newest_entries_are_kept() -> None:
    """The policy says how many of the newest entries stay."""
    actions = plan_actions(voters_at(9_000, 9_000, 9_000), SMALL_LOG, controller_state(), NOW)

    assert (Trim(1, 8_001),) == actions


def test_trim_waits_for_live_nodes_while_there_is_room() -> None:
    """A node that is behind can still read from the log and need not ask a peer."""
    actions = plan_actions(voters_at(9_000, 9_000, 500), SMALL_LOG, controller_state(), NOW)

    assert (Trim(1, 501),) == actions


def test_full_log_is_trimmed_up_to_what_a_majority_holds() -> None:
    """Two of three voters hold 7,000: the floor is the entry after it."""
    view = fleet(
        seen("a", 9_000),
        seen("b", 7_000),
        seen("c", 10),
        at=head(9_000, kept_bytes=200_000_000),
    )
    actions = plan_actions(view, policy(retain_entries=100), controller_state(), NOW)

    assert (Trim(1, 7_001),) == actions


def test_nothing_is_trimmed_without_a_majority() -> None:
    """A voter without a heartbeat counts as holding nothing."""
    view = fleet(seen("a", 9_000), at=head(9_000, kept_bytes=200_000_000))

    assert () == plan_actions(view, policy(retain_entries=100), controller_state(), NOW)


def test_observers_do_not_count_for_the_majority() -> None:
    nodes = [seen("a", 9_000), *(seen(f"o{n}", 9_000) for n in range(5))]
    view = fleet(*nodes, at=head(9_000, kept_bytes=200_000_000))

    assert () == plan_actions(view, policy(retain_entries=100), controller_state(), NOW)


def test_small_trim_is_skipped() -> None:
    """Otherwise every cycle would trim a few entries."""
    actions = plan_actions(voters_at(1_020, 1_020, 1_020), SMALL_LOG, controller_state(), NOW)

    assert () == actions


# --- audits ----------------------------------------------------------------------------


def test_audit_is_due_at_once_and_then_periodically() -> None:
    asked = policy(audit_seconds=60)

    assert (StartAudit(False),) == plan_actions(fleet(), asked, controller_state(), NOW)
    assert () == plan_actions(fleet(), asked, controller_state(audit_seconds=NOW - 59), NOW)
    assert (StartAudit(False),) == plan_actions(
        fleet(), asked, controller_state(audit_seconds=NOW - 60), NOW
    )


def test_scrub_replaces_an_audit() -> None:
    """A deep audit compares digests as well."""
    asked = policy(audit_seconds=60, scrub_seconds=3_600)

    assert (StartAudit(True),) == plan_actions(fleet(), asked, controller_state(), NOW)


def test_new_leader_waits_before_the_first_audit() -> None:
    assert () == plan_actions(fleet(), policy(audit_seconds=60), ControllerState(NOW - 1), NOW)


def test_audit_completes_with_all_reports_or_at_the_timeout() -> None:
    """A node that died meanwhile is not waited for."""
    pending = PendingAudit(7, False, NOW - 2, ("a", "b", "c"))
    asked = policy(audit_seconds=60, audit_wait_seconds=10)
    two_live = fleet(seen("a"), seen("b"), seen("c", age_ms=9_000))

    assert () == plan_actions(fleet(), asked, controller_state(pending=pending, reported=2), NOW)
    assert (CompleteAudit(False),) == plan_actions(
        fleet(), asked, controller_state(pending=pending, reported=3), NOW
    )
    assert (CompleteAudit(False),) == plan_actions(
        two_live, asked, controller_state(pending=pending, reported=2), NOW
    )
    assert (CompleteAudit(True),) == plan_actions(
        fleet(), asked, controller_state(pending=pending), NOW + 10
    )


def wrong_c(**report: object) -> object:
    """Return the verdict of an audit that found c wrong."""
    reports = {name: AuditReport(1, DIGEST) for name in "ab"}
    reports["c"] = AuditReport(**({"epoch": 1, "digest": OTHER} | report))  # type: ignore[arg-type]
    return evaluate_audit(90, reports, "abc")


def test_minority_is_repaired_from_the_majority() -> None:
    """The donors are the nodes that agree."""
    (action,) = plan_actions(fleet(), policy(), controller_state(verdict=wrong_c()), NOW)

    assert isinstance(action, Repair)
    assert ("c", ("a", "b")) == (action.node, action.donors)


def test_no_second_repair_while_one_is_pending() -> None:
    """Nodes that are gone are not repaired, and none is if the policy forbids it."""
    found = controller_state(verdict=wrong_c(), repairing=frozenset("c"))
    gone = fleet(seen("a"), seen("b"), seen("c", age_ms=9_000))

    assert () == plan_actions(fleet(), policy(), found, NOW)
    assert () == plan_actions(gone, policy(), controller_state(verdict=wrong_c()), NOW)
    assert () == plan_actions(
        fleet(), policy(is_repair_on=False), controller_state(verdict=wrong_c()), NOW
    )


def test_repair_is_followed_by_another_audit() -> None:
    """Only a new finding leads to another repair."""
    controller = controller_state(verdict=wrong_c())
    controller.record_repair(90, "c")
    controller.repairing = frozenset()

    assert (StartAudit(False),) == plan_actions(fleet(), policy(), controller, NOW)

    controller.record_verdict(
        evaluate_audit(95, {name: AuditReport(1, DIGEST) for name in "abc"}, "abc")
    )

    assert () == plan_actions(fleet(), policy(), controller, NOW)


def test_node_is_not_repaired_more_than_three_times_in_a_row() -> None:
    """The alarm stays for an operator."""
    controller = controller_state(verdict=wrong_c(), repair_counts={"c": 3})

    assert () == plan_actions(fleet(), policy(), controller, NOW)


def test_node_named_by_two_verdicts_is_repaired_once() -> None:
    controller = controller_state(verdict=wrong_c(), deep_verdict=wrong_c())

    assert 1 == len(plan_actions(fleet(), policy(), controller, NOW))


def test_repaired_damage_is_cleared() -> None:
    """A shallow audit cannot see damage, so the node must have resynced first."""
    controller = controller_state()
    reports = {name: AuditReport(1, DIGEST, True, 5) for name in "ab"}
    reports["c"] = AuditReport(1, DIGEST, True, 5, memory_rows=1)
    controller.record_verdict(evaluate_audit(80, reports, "abc", is_deep=True))
    controller.repairing = frozenset("c")
    equal = {name: AuditReport(1, DIGEST) for name in "abc"}
    controller.record_verdict(evaluate_audit(90, equal, "abc"))

    assert controller.deep_verdict is not None

    controller.repairing = frozenset()
    controller.record_verdict(evaluate_audit(91, equal, "abc"))

    assert controller.deep_verdict is None


# --- imports and backups ---------------------------------------------------------------


def test_idle_import_is_aborted() -> None:
    """Every chunk restarts the timeout of its import."""
    controller = controller_state()
    controller.record_imports([OpenImport("i", 5)], NOW)
    asked = policy(import_idle_seconds=900)

    assert () == plan_actions(fleet(), asked, controller, NOW + 899)
    assert (AbortImport("i", 5),) == plan_actions(fleet(), asked, controller, NOW + 900)

    controller.record_imports([OpenImport("i", 9)], NOW + 899)

    assert () == plan_actions(fleet(), asked, controller, NOW + 900)


def test_backup_source_is_sound_and_least_busy() -> None:
    view = fleet(seen("a", digest=OTHER), seen("b", queue_count=9), seen("c"))
    (action,) = plan_actions(view, policy(backup_seconds=60), controller_state(), NOW)

    assert TakeBackup("c", "http://c") == action


@pytest.mark.parametrize(
    ("every", "failures", "due_after"),
    [(86_400, 0, 86_400), (86_400, 1, 60), (86_400, 3, 240), (86_400, 99, 86_400), (10, 1, 10)],
)
def test_backup_that_failed_is_tried_again_soon(every: int, failures: int, due_after: int) -> None:
    """A restart costs no backup of a day, and a full disk does not fill the audit log."""
    controller, asked = controller_state(), policy(backup_seconds=every)
    controller.backup_seconds, controller.backup_failures = NOW, failures

    assert () == plan_actions(fleet(), asked, controller, NOW + due_after - 1)
    assert (TakeBackup("a", "http://a"),) == plan_actions(
        fleet(), asked, controller, NOW + due_after
    )


def test_voter_is_missing_after_a_long_silence_only() -> None:
    controller = controller_state()
    controller.record_voters(fleet(), NOW)
    controller.record_voters(fleet(seen("a"), seen("b"), seen("c", age_ms=9_000)), NOW + 100)

    assert () == controller.missing_voters(NOW + 100, 300)
    assert ("c",) == controller.missing_voters(NOW + 300, 301 - 1)


def _replaced(*nodes: object, voters: tuple[str, ...] = ("a", "b", "c"), at: float = NOW) -> object:
    """The voter changes that are planned after c was lost and other nodes came."""
    state = controller_state()
    lost = [seen(name, url=f"http://{name}") for name in "abc"]
    state.record_voters(fleet(*lost, at=head(voters=voters)), 0.0)  # type: ignore[arg-type]
    view = fleet(*nodes, at=head(voters=voters))  # type: ignore[arg-type]
    state.record_voters(view, at)
    planned = plan_actions(view, policy(), state, at)
    return [(each.node, each.is_adding) for each in planned if isinstance(each, ChangeVoter)]


A, B, GONE = (
    seen("a", url="http://a"),
    seen("b", url="http://b"),
    seen("c", url="http://c", age_ms=900_000),
)
AGAIN = seen("d", url="http://c", role="observer")


def test_lost_voter_is_replaced_by_the_node_at_its_address() -> None:
    """The successor gets its vote first; then the lost voter loses its own."""
    assert [("d", True)] == _replaced(A, B, GONE, AGAIN)
    assert [("c", False)] == _replaced(A, B, GONE, AGAIN, voters=("a", "b", "c", "d"))
    assert [("d", True)] == _replaced(A, B, AGAIN)  # its row has expired meanwhile


@pytest.mark.parametrize(
    "nodes",
    [
        (A, B, GONE),
        (A, B, GONE, seen("d", url="http://d", role="observer")),
        (A, B, GONE, seen("d", url="http://c", role="observer", state="syncing")),
        (A, B, GONE, AGAIN, seen("e", url="http://c", role="observer")),
        (A, seen("b", url="http://b", age_ms=900_000), GONE, AGAIN),
        (A, B, seen("c", url="http://c"), AGAIN),
    ],
    ids=["nobody", "elsewhere", "not ready", "ambiguous", "no majority", "not lost"],
)
def test_voter_is_not_replaced_without_certainty(nodes: tuple[object, ...]) -> None:
    assert [] == _replaced(*nodes)


def test_voter_is_replaced_after_a_long_silence_only() -> None:
    assert [] == _replaced(A, B, GONE, AGAIN, at=100.0)
