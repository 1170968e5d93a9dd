"""The history shows what was: random logs over several route sets, read backwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings

from replicas import fresh, log_of
from set_logs import busy_set_logs, set_logs
from synaptoroute.core.change import RouteRecord, Snapshot
from synaptoroute.core.codec import describe_frame
from synaptoroute.core.mutation import Proposal, SetLimits
from synaptoroute.core.replica import Replica
from synaptoroute.router.past_states import PastStates, Subject, settings_of

pytestmark = pytest.mark.property

States = dict[Subject, Any]


def shown_route(record: RouteRecord) -> dict[str, Any]:
    """A route as the history shows it, texts in any order."""
    return {
        "utterances": sorted(record.utterances),
        "threshold": record.threshold,
        "confidence_min": record.confidence_min,
        "description": record.description,
        "negatives": sorted(record.negatives),
        "metadata": json.loads(record.metadata),
        "payload": json.loads(record.payload),
    }


def in_order(state: Mapping[str, Any] | None) -> Any:
    """A state with its texts in order."""
    if state is None or "utterances" not in state:
        return state
    return {**state, **{name: sorted(state[name]) for name in ("utterances", "negatives")}}


def states_of(replica: Replica) -> States:
    """Everything that the history shows, as it is now."""
    sets = replica.sets
    found: States = {}
    for name, number in sets.numbers.items():
        table = sets.tables[number]
        found[Subject("settings", "", name)] = settings_of(table.settings)
        found[Subject("tests", "", name)] = {text: test.route for text, test in table.tests.items()}
        for route in table.routes.values():
            found[Subject("route", route.name, name)] = shown_route(route)
        record = sets.records.get(number)
        limits = record.limits if record is not None else SetLimits()
        found[Subject("set", name, name)] = {"limits": asdict(limits)}
    for alias in sets.aliases.values():
        found[Subject("alias", alias.name, alias.name)] = {
            "target": alias.target,
            "shadow": alias.shadow,
            "shadow_share": alias.shadow_share,
            "canary": alias.canary,
            "canary_share": alias.canary_share,
        }
    return found


def check(log: list[Proposal]) -> int:
    """Compare what the history says with what was, before and after each entry."""
    replica, past = fresh(Snapshot()), PastStates()
    states = [states_of(replica)]
    rows = []
    for entry in log_of(log):
        commits = replica.receive(entry).commits
        replica.advance()
        for commit in commits:
            rows.append((entry, commit.change.outcome))
            states.append(states_of(replica))
    for entry, outcome in reversed(rows):
        kind, fields = describe_frame(entry.frame)
        is_applied = outcome.status == "applied" and outcome.at.seq == entry.seq
        past.add(entry.seq, kind, fields, is_applied=is_applied)
    compared = 0
    for place, (entry, _) in enumerate(rows):
        subjects = past.subjects_of(entry.seq)
        assert subjects is not None
        for subject in subjects:
            before, after = past.before(subject, entry.seq), past.after(subject, entry.seq)
            was, then = states[place].get(subject), states[place + 1].get(subject)
            assert in_order(before) == (was or before if subject.kind in EMPTY else was), subject
            assert in_order(after) == (then or after if subject.kind in EMPTY else then), subject
            compared += 1
    return compared


EMPTY = ("settings", "tests")
"""Of a set that does not exist they are what a new one has."""


@settings(max_examples=30, deadline=None)
@given(set_logs())
def test_history_of_a_log_over_several_sets_is_what_was(log: list[Proposal]) -> None:
    check(log)


@settings(max_examples=30, deadline=None)
@given(busy_set_logs())
def test_history_of_a_busy_log_is_what_was(log: list[Proposal]) -> None:
    assert check(log) >= 3
