"""The fleet's view, verdicts, alarms, events and figures: pure functions of values."""

from __future__ import annotations

import pytest

from fleets import DIGEST, fleet, head, policy, seen
from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.presence import AuditReport, parse_audit_report
from synaptoroute.sequencer.scripts import NoLog
from synaptoroute_coordinator.fleet import (
    Telemetry,
    alarms_of,
    changes,
    fold,
    judge_audit,
    parse_sample,
    telemetry_of,
)
from synaptoroute_coordinator.fleet.alarms import CODES
from synaptoroute_coordinator.fleet.telemetry import quantile_ms

pytestmark = pytest.mark.unit

OTHER = "e" * 32


def codes(view: object, **more: object) -> set[str]:
    """Codes of the alarms of a view."""
    return {alarm.code for alarm in alarms_of(view, policy(), **more)}  # type: ignore[arg-type]


# --- view ------------------------------------------------------------------------------


def test_equal_nodes_agree() -> None:
    """Nodes at one place with one digest agree."""
    view = fleet()

    assert ["agrees"] * 3 == [node.digest_state for node in view.nodes]
    assert ["ok"] * 3 == [node.health for node in view.nodes]
    assert set() == codes(view)


def test_minority_at_one_place_differs() -> None:
    """Two against one: the one is wrong, the two are not."""
    view = fleet(seen("a"), seen("b"), seen("c", digest=OTHER))

    assert ["agrees", "agrees", "differs"] == [node.digest_state for node in view.nodes]
    assert "bad" == view.nodes[2].health


def test_two_nodes_that_differ_are_both_doubted() -> None:
    """Without a majority nobody is right."""
    view = fleet(seen("a"), seen("b", digest=OTHER))

    assert ["differs", "differs"] == [node.digest_state for node in view.nodes]


def test_node_alone_at_its_place_is_not_compared() -> None:
    """Another position is lag, no divergence."""
    view = fleet(seen("a"), seen("b"), seen("c", 97, digest=OTHER))

    assert "alone" == view.nodes[2].digest_state
    assert 3 == view.nodes[2].lag_entries


def test_audit_finding_stands_until_the_next_audit() -> None:
    """A node that an audit found wrong stays so, whatever it says of itself now."""
    reports = {"a": AuditReport(1, DIGEST), "b": AuditReport(1, DIGEST), "c": AuditReport(1, OTHER)}
    verdict = judge_audit(90, reports, ["a", "b", "c"])

    assert "differs" == fleet(verdict=verdict).nodes[2].digest_state


def test_names_are_in_natural_order() -> None:
    """node-2 comes before node-10."""
    named = {
        each: Telemetry(name=f"node-{number}")
        for each, number in zip("abc", (10, 2, 1), strict=False)
    }
    view = fleet(telemetry=named)

    assert ["node-1", "node-2", "node-10"] == [node.name for node in view.nodes]


def test_log_that_does_not_answer_leaves_the_nodes() -> None:
    """Redis away is a state of the log, not of the nodes."""
    view = fold(None, [seen("a")])

    assert ("away", 1) == (view.log.state, len(view.live))
    assert "lost" == fold(NoLog(1, "master"), []).log.state
    assert "recovering" == fold(head(is_same_server=False), []).log.state


# --- verdicts --------------------------------------------------------------------------


def test_verdict_names_the_minority_and_the_silent() -> None:
    """Agreeing, differing and silent nodes are told apart."""
    reports = {n: AuditReport(1, DIGEST) for n in "ab"} | {"c": AuditReport(1, OTHER)}
    verdict = judge_audit(7, reports, "abcd")

    assert (("a", "b"), ("c",), ("d",)) == (verdict.agreeing, verdict.differing, verdict.silent)
    assert ("c",) == verdict.wrong


def test_verdict_without_majority_accuses_nobody_for_repair() -> None:
    """One against one: both are doubted, neither is told to resync."""
    verdict = judge_audit(7, {"a": AuditReport(1, DIGEST), "b": AuditReport(1, OTHER)}, "ab")

    assert not verdict.has_majority
    assert ("a", "b") == verdict.differing
    assert () == verdict.wrong


def test_damaged_node_is_wrong_though_its_digest_agrees() -> None:
    """A flipped bit in memory does not show in the digest, but in the scrub."""
    reports = {
        "a": AuditReport(1, DIGEST, True, 5),
        "b": AuditReport(1, DIGEST, True, 5),
        "c": AuditReport(1, DIGEST, True, 5, memory_rows=1),
    }
    verdict = judge_audit(7, reports, "abc", is_deep=True)

    assert (("a", "b"), ("c",)) == (verdict.agreeing, verdict.wrong)
    assert not verdict.is_sound


def test_damaged_node_without_a_sound_donor_is_not_repaired() -> None:
    """There is nothing to take from."""
    verdict = judge_audit(7, {"a": AuditReport(1, DIGEST, True, 5, 1)}, "a", is_deep=True)

    assert (("a",), ()) == (verdict.unsound, verdict.wrong)


@pytest.mark.parametrize("row", [b"", b"[]", b"{}", b'{"epoch":"1"}', b"x" * 5_000])
def test_malformed_report_is_refused(row: bytes) -> None:
    """Whoever reaches Redis can write there."""
    with pytest.raises(ProtocolError):
        parse_audit_report(row)


# --- alarms ----------------------------------------------------------------------------


def test_each_condition_raises_its_alarm() -> None:
    """Every code can be reached, and nothing else is raised."""
    raised = set()
    raised |= codes(fleet(seen("a"), seen("b"), seen("c", digest=OTHER)))
    raised |= codes(fleet(seen("a"), seen("b"), seen("c", age_ms=6_000)))
    raised |= codes(fleet(at=head(5_000)))
    raised |= codes(fleet(at=head(state="frozen")))
    raised |= codes(fleet(at=head(kept_bytes=250_000_000)))
    raised |= codes(fleet(holder=""))
    raised |= codes(fleet(), missing_voters=("a",))
    raised |= codes(fleet(), backup_error="disk full")
    raised |= codes(fleet(seen("a", fingerprint="g"), seen("b"), seen("c")))
    unsound = judge_audit(7, {"a": AuditReport(1, DIGEST, True, 5, 1)}, "a", is_deep=True)
    raised |= codes(fleet(deep_verdict=unsound))

    assert set(CODES) == raised


def test_majority_of_voters_missing_is_critical() -> None:
    """One of three is a warning, two are not."""
    by_count = [
        alarms_of(fleet(), policy(), missing_voters=missing)[0].severity
        for missing in (("a",), ("a", "b"))
    ]

    assert ["warning", "critical"] == by_count


# --- events ----------------------------------------------------------------------------


def test_first_view_is_no_news() -> None:
    """A coordinator that starts does not tell what it finds as if it had happened."""
    assert () == changes(None, fleet())
    assert () == changes(fleet(), fleet())


def test_node_that_goes_and_returns_is_told() -> None:
    """Silence and return, each once."""
    gone = fleet(seen("a"), seen("b"), seen("c", age_ms=9_000))

    assert ["gone"] == [event.kind for event in changes(fleet(), gone)]
    assert ["returned"] == [event.kind for event in changes(gone, fleet())]


def test_alarms_are_told_when_they_begin_and_end() -> None:
    """Not while they last."""
    silent = fleet(holder="")
    alarms = alarms_of(silent, policy())

    assert ["alarm"] == [event.kind for event in changes(silent, silent, (), alarms)]
    assert [] == [event.kind for event in changes(silent, silent, alarms, alarms)]
    assert ["alarm_over"] == [event.kind for event in changes(silent, silent, alarms, ())]


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


def test_rates_and_latencies_are_those_since_the_look_before() -> None:
    """Totals of a long life do not blur what happens now."""
    before = parse_sample(METRICS.format(queries=1_000, fast=0), 10.0)
    now = parse_sample(METRICS.format(queries=1_100, fast=50), 12.0)
    figures = telemetry_of("node-0", before, now)

    assert 50.0 == figures.queries_per_second
    assert (10.0, True, 7) == (figures.p50_ms, figures.is_ready, figures.routes)


def test_restarted_node_starts_anew() -> None:
    """A counter that went back is no negative rate."""
    before = parse_sample(METRICS.format(queries=1_000, fast=0), 10.0)
    now = parse_sample(METRICS.format(queries=3, fast=3), 12.0)

    assert 0.0 == telemetry_of("", before, now).queries_per_second


def test_quantile_of_nothing_is_nothing() -> None:
    """No query, no latency."""
    assert quantile_ms({}, 0.5) is None
    assert quantile_ms({0.1: 0.0}, 0.5) is None
    assert 100.0 == quantile_ms({0.1: 0.0, float("inf"): 5.0}, 0.5)
