"""Fleet views, audit verdicts, alarms, events and telemetry: pure functions of values."""

from __future__ import annotations

import pytest

from fleet_views import DIGEST, fleet, head, policy, seen
from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.presence import AuditReport, parse_audit_report
from synaptoroute.sequencer.scripts import NoLog
from synaptoroute_coordinator.events import CODES, find_alarms, find_changes
from synaptoroute_coordinator.fleet import (
    Telemetry,
    build_view,
    evaluate_audit,
    parse_sample,
    quantile_ms,
    telemetry_of,
)

pytestmark = pytest.mark.unit

OTHER = "e" * 32


def alarm_codes(view: object, **more: object) -> set[str]:
    """Return the codes of the alarms of a view."""
    return {alarm.code for alarm in find_alarms(view, policy(), **more)}  # type: ignore[arg-type]


# --- view ------------------------------------------------------------------------------


def test_equal_nodes_agree() -> None:
    """Nodes at one position with one digest agree."""
    view = fleet()

    assert ["agrees"] * 3 == [node.digest_state for node in view.nodes]
    assert ["ok"] * 3 == [node.health for node in view.nodes]
    assert set() == alarm_codes(view)


def test_minority_at_one_position_differs() -> None:
    """Of three nodes, the one with another digest is wrong."""
    view = fleet(seen("a"), seen("b"), seen("c", digest=OTHER))

    assert ["agrees", "agrees", "differs"] == [node.digest_state for node in view.nodes]
    assert "bad" == view.nodes[2].health


def test_two_differing_nodes_without_majority_both_differ() -> None:
    view = fleet(seen("a"), seen("b", digest=OTHER))

    assert ["differs", "differs"] == [node.digest_state for node in view.nodes]


def test_node_alone_at_its_position_is_not_compared() -> None:
    """Another position is lag, not divergence."""
    view = fleet(seen("a"), seen("b"), seen("c", 97, digest=OTHER))

    assert "alone" == view.nodes[2].digest_state
    assert 3 == view.nodes[2].lag_entries


def test_audit_finding_stands_until_the_next_audit() -> None:
    """The node differs even if its newest heartbeat shows the right digest."""
    reports = {"a": AuditReport(1, DIGEST), "b": AuditReport(1, DIGEST), "c": AuditReport(1, OTHER)}
    verdict = evaluate_audit(90, reports, ["a", "b", "c"])

    assert "differs" == fleet(verdict=verdict).nodes[2].digest_state


def test_names_are_in_natural_order() -> None:
    """node-2 comes before node-10."""
    named = {
        each: Telemetry(name=f"node-{number}")
        for each, number in zip("abc", (10, 2, 1), strict=False)
    }
    view = fleet(telemetry=named)

    assert ["node-1", "node-2", "node-10"] == [node.name for node in view.nodes]


def test_nodes_are_shown_while_the_log_does_not_answer() -> None:
    view = build_view(None, [seen("a")])

    assert ("away", 1) == (view.log.state, len(view.live))
    assert "lost" == build_view(NoLog(1, "master"), []).log.state
    assert "recovering" == build_view(head(is_same_server=False), []).log.state


def test_log_that_no_node_has_opened_yet_is_no_lost_log() -> None:
    """Redis was emptied only if a node holds entries."""
    new = build_view(NoLog(1, "master"), [seen("a", 0, epoch=0)])
    lost = build_view(NoLog(1, "master"), [seen("a", 0, epoch=0), seen("b")])

    first = find_alarms(new, policy())[0]
    assert ("log_closed", "warning") == (first.code, first.severity)
    assert "no node has opened" in first.message
    assert "critical" == next(
        each.severity for each in find_alarms(lost, policy()) if each.code == "log_closed"
    )


def test_view_without_redis_is_unknown_and_not_healthy() -> None:
    """Neither health nor lag nor digests are known; what answers the coordinator is live."""
    view = build_view(None, [seen("a"), seen("b", digest=OTHER)], answering=frozenset({"b"}))

    assert ["unknown", "unknown"] == [node.health for node in view.nodes]
    assert ["unknown", "unknown"] == [node.digest_state for node in view.nodes]
    assert [False, True] == [node.is_live for node in view.nodes]
    assert {"log_closed"} == alarm_codes(view, missing_voters=("a",))
    assert "unknown" in find_alarms(view, policy())[0].message


def test_return_of_redis_is_no_return_of_nodes() -> None:
    """Only the log changed between a view that is known and one that is not."""
    before, away, after = fleet(), build_view(None, [seen("a")], answering=frozenset()), fleet()

    assert ["log"] == [event.kind for event in find_changes(before, away)]
    assert ["log", "coordinator"] == [event.kind for event in find_changes(away, after)]


# --- verdicts --------------------------------------------------------------------------


def test_verdict_lists_agreeing_differing_and_silent_nodes() -> None:
    reports = {n: AuditReport(1, DIGEST) for n in "ab"} | {"c": AuditReport(1, OTHER)}
    verdict = evaluate_audit(7, reports, "abcd")

    assert (("a", "b"), ("c",), ("d",)) == (verdict.agreeing, verdict.differing, verdict.silent)
    assert ("c",) == verdict.wrong


def test_verdict_without_majority_repairs_nobody() -> None:
    """Both nodes differ, and neither is told to resync."""
    verdict = evaluate_audit(7, {"a": AuditReport(1, DIGEST), "b": AuditReport(1, OTHER)}, "ab")

    assert not verdict.has_majority
    assert ("a", "b") == verdict.differing
    assert () == verdict.wrong


def test_damaged_node_is_wrong_though_its_digest_agrees() -> None:
    """A flipped bit in memory shows in the scrub only, not in the digest."""
    reports = {
        "a": AuditReport(1, DIGEST, True, 5),
        "b": AuditReport(1, DIGEST, True, 5),
        "c": AuditReport(1, DIGEST, True, 5, memory_rows=1),
    }
    verdict = evaluate_audit(7, reports, "abc", is_deep=True)

    assert (("a", "b"), ("c",)) == (verdict.agreeing, verdict.wrong)
    assert not verdict.is_sound


def test_damaged_node_without_a_sound_donor_is_not_repaired() -> None:
    verdict = evaluate_audit(7, {"a": AuditReport(1, DIGEST, True, 5, 1)}, "a", is_deep=True)

    assert (("a",), ()) == (verdict.unsound, verdict.wrong)


@pytest.mark.parametrize("row", [b"", b"[]", b"{}", b'{"epoch":"1"}', b"x" * 5_000])
def test_malformed_report_is_refused(row: bytes) -> None:
    """Any client of Redis can write a report."""
    with pytest.raises(ProtocolError):
        parse_audit_report(row)


# --- alarms ----------------------------------------------------------------------------


def test_every_alarm_can_be_raised() -> None:
    raised = set()
    raised |= alarm_codes(fleet(seen("a"), seen("b"), seen("c", digest=OTHER)))
    raised |= alarm_codes(fleet(seen("a"), seen("b"), seen("c", age_ms=6_000)))
    raised |= alarm_codes(fleet(at=head(5_000)))
    raised |= alarm_codes(fleet(at=head(state="frozen")))
    raised |= alarm_codes(fleet(at=head(kept_bytes=250_000_000)))
    raised |= alarm_codes(fleet(at=head(kept_bytes=268_000_000)))
    raised |= alarm_codes(fleet(holder=""))
    raised |= alarm_codes(fleet(), missing_voters=("a",))
    raised |= alarm_codes(fleet(), backup_error="disk full")
    raised |= alarm_codes(fleet(), clones={"a": "boot 2 at http://copy"})
    raised |= alarm_codes(fleet(), drifts={"default": "without a route 30% (5% before)"})
    raised |= alarm_codes(fleet(), refused_rows={"a": "an old row of 'a'"})
    raised |= alarm_codes(fleet(seen("a", fingerprint="g"), seen("b"), seen("c")))
    unsound = evaluate_audit(7, {"a": AuditReport(1, DIGEST, True, 5, 1)}, "a", is_deep=True)
    raised |= alarm_codes(fleet(deep_verdict=unsound))

    assert set(CODES) == raised


def test_majority_of_voters_missing_is_critical() -> None:
    """One of three missing is a warning."""
    by_count = [
        find_alarms(fleet(), policy(), missing_voters=missing)[0].severity
        for missing in (("a",), ("a", "b"))
    ]

    assert ["warning", "critical"] == by_count


# --- events ----------------------------------------------------------------------------


def test_first_view_gives_no_events() -> None:
    """A coordinator that starts does not report the current state as changes."""
    assert () == find_changes(None, fleet())
    assert () == find_changes(fleet(), fleet())


def test_node_that_leaves_and_returns_gives_two_events() -> None:
    gone = fleet(seen("a"), seen("b"), seen("c", age_ms=9_000))

    assert ["gone"] == [event.kind for event in find_changes(fleet(), gone)]
    assert ["returned"] == [event.kind for event in find_changes(gone, fleet())]


def test_alarm_gives_events_at_its_start_and_end_only() -> None:
    silent = fleet(holder="")
    alarms = find_alarms(silent, policy())

    assert ["alarm"] == [event.kind for event in find_changes(silent, silent, (), alarms)]
    assert [] == [event.kind for event in find_changes(silent, silent, alarms, alarms)]
    assert ["alarm_over"] == [event.kind for event in find_changes(silent, silent, alarms, ())]


# --- figures ---------------------------------------------------------------------------

METRICS = """\
# TYPE synaptoroute_queries_total counter
synaptoroute_queries_total {queries}
synaptoroute_ready 1.0
synaptoroute_routes 7.0
synaptoroute_request_duration_seconds_bucket{{endpoint="/v1/query",le="0.01"}} {fast}
synaptoroute_request_duration_seconds_bucket{{endpoint="/v1/query",le="0.1"}} {queries}
synaptoroute_request_duration_seconds_bucket{{endpoint="/v1/query",le="+Inf"}} {queries}
synaptoroute_request_duration_seconds_bucket{{endpoint="/metrics",le="+Inf"}} 9999
"""


def test_rates_and_latencies_cover_the_time_since_the_last_scrape() -> None:
    before = parse_sample(METRICS.format(queries=1_000, fast=0), 10.0)
    now = parse_sample(METRICS.format(queries=1_100, fast=50), 12.0)
    telemetry = telemetry_of("node-0", before, now)

    assert 50.0 == telemetry.queries_per_second
    assert (10.0, True, 7) == (telemetry.p50_ms, telemetry.is_ready, telemetry.routes)


def test_restarted_node_has_no_negative_rate() -> None:
    before = parse_sample(METRICS.format(queries=1_000, fast=0), 10.0)
    now = parse_sample(METRICS.format(queries=3, fast=3), 12.0)

    assert 0.0 == telemetry_of("", before, now).queries_per_second


def test_quantile_without_queries_is_none() -> None:
    assert quantile_ms({}, 0.5) is None
    assert quantile_ms({0.1: 0.0}, 0.5) is None
    assert 100.0 == quantile_ms({0.1: 0.0, float("inf"): 5.0}, 0.5)
