"""Alarms over time: conditions that come and go, restarts, and a fleet that cannot be judged."""

from __future__ import annotations

from typing import Any

import pytest

from fleet_views import policy
from synaptoroute_coordinator.alarms import PAST_MAX, AlarmKeeper
from synaptoroute_coordinator.events import Alarm

pytestmark = pytest.mark.unit

GONE = Alarm("node_gone", "warning", "1 of 3 nodes are silent", ("b",))
CLOSED = Alarm("log_closed", "critical", "the log is away")
LIMITS = {"alarm_raise_seconds": 5, "alarm_clear_seconds": 30}


class Clock:
    """A keeper, and what it is told second by second."""

    def __init__(self) -> None:
        self.keeper = AlarmKeeper(policy(**LIMITS))
        self.seconds = 0

    def pass_seconds(self, seconds: int, *found: Alarm, is_known: bool = True) -> list[str]:
        """Let some seconds pass with these conditions; return the codes that are shown then."""
        for _ in range(seconds):
            self.seconds += 1
            now_ms = self.seconds * 1_000
            self.keeper.update(found, float(self.seconds), now_ms, is_known=is_known)
        return [alarm.code for alarm in self.keeper.alarms]


def test_warning_is_raised_once_it_has_lasted() -> None:
    clock = Clock()

    assert [] == clock.pass_seconds(5, GONE)
    assert ["node_gone"] == clock.pass_seconds(1, GONE)
    assert [1_000] == [alarm.since_ms for alarm in clock.keeper.alarms]


def test_condition_that_comes_and_goes_raises_no_warning() -> None:
    clock = Clock()
    shown = [clock.pass_seconds(2, *found) for _ in range(20) for found in ([GONE], [])]

    assert all(each == [] for each in shown)
    assert [] == clock.keeper.past


def test_critical_alarm_is_raised_at_once() -> None:
    assert ["log_closed"] == Clock().pass_seconds(1, CLOSED)


def test_alarm_is_cleared_when_its_condition_has_been_away() -> None:
    """It is one alarm though the condition came back in between."""
    clock = Clock()
    clock.pass_seconds(2, CLOSED)
    for _ in range(10):
        assert ["log_closed"] == clock.pass_seconds(20)
        assert ["log_closed"] == clock.pass_seconds(1, CLOSED)
    last = clock.seconds
    assert ["log_closed"] == clock.pass_seconds(29)
    assert [True] == [alarm.is_over for alarm in clock.keeper.alarms]
    assert [] == clock.pass_seconds(1)
    (past,) = clock.keeper.past

    assert ("log_closed", "critical", "the log is away") == (past.code, past.severity, past.message)
    assert (1_000, last * 1_000) == (past.since_ms, past.until_ms)


def test_lasting_alarms_are_shown_first() -> None:
    clock = Clock()
    clock.pass_seconds(1, CLOSED)
    clock.pass_seconds(6, GONE)

    assert [("node_gone", False), ("log_closed", True)] == [
        (alarm.code, alarm.is_over) for alarm in clock.keeper.alarms
    ]


def test_alarm_is_neither_shown_nor_cleared_while_the_fleet_is_unknown() -> None:
    """A restart of Redis does not end every alarm and raise it again."""
    clock = Clock()
    clock.pass_seconds(10, GONE)
    since_ms = clock.keeper.alarms[0].since_ms

    assert ["log_closed"] == clock.pass_seconds(100, CLOSED, is_known=False)
    assert ["node_gone", "log_closed"] == [alarm.code for alarm in clock.keeper.raised]
    assert ["node_gone", "log_closed"] == clock.pass_seconds(1, GONE)
    assert since_ms == clock.keeper.alarms[0].since_ms
    assert [] == clock.keeper.past


def test_restored_alarm_keeps_its_time_and_ends_without_its_condition() -> None:
    before = Clock()
    before.pass_seconds(3, CLOSED)
    before.pass_seconds(40)
    before.pass_seconds(10, GONE)
    after = Clock()
    after.seconds = before.seconds + 60
    after.keeper.restore(before.keeper.document(), float(after.seconds))

    assert ["node_gone"] == after.pass_seconds(1, GONE)
    assert before.keeper.alarms[0].since_ms == after.keeper.alarms[0].since_ms
    assert ["log_closed"] == [each.code for each in after.keeper.past]
    assert [] == after.pass_seconds(40)
    assert ["node_gone", "log_closed"] == [each.code for each in after.keeper.past]


def test_number_of_past_alarms_is_bounded() -> None:
    clock = Clock()
    for _ in range(PAST_MAX + 10):
        clock.pass_seconds(1, CLOSED)
        clock.pass_seconds(31)

    assert PAST_MAX == len(clock.keeper.past)
    assert clock.keeper.past[0].since_ms > clock.keeper.past[-1].since_ms


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {"past": []},
        {"past": [], "raised": [{"code": "drift"}]},
        {"past": [{"code": "x"}], "raised": []},
        {
            "past": [
                {"code": "<b>", "severity": "warning", "message": "", "since_ms": 1, "until_ms": 2}
            ],
            "raised": [],
        },
    ],
)
def test_malformed_alarms_are_refused(document: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Clock().keeper.restore(document, 0.0)
