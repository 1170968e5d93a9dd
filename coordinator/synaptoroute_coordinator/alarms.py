"""Alarms over time: when one is raised, when it is cleared, and those that are over.

A condition that comes and goes makes one alarm, not many: a warning is raised once it has lasted
for a while, a critical alarm at once, and both are cleared only after the condition has been away
for a while.  Pure, apart from the state of the keeper.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from synaptoroute_coordinator.config import Policy
from synaptoroute_coordinator.events import CODES, Alarm, Severity

PAST_MAX: Final = 200
TEXTS_MAX: Final = 100
"""Nodes or sets of one alarm that are read from a saved document."""
CHARACTERS_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class PastAlarm:
    """An alarm that was cleared."""

    code: str
    severity: Severity
    message: str  # the newest
    since_ms: int
    until_ms: int


@dataclass(slots=True)
class _Condition:
    """A condition that was found, or was found not long ago."""

    alarm: Alarm
    since_ms: int
    since_seconds: float  # monotonic; when it was first found
    seen_seconds: float  # monotonic; when it was last found
    is_raised: bool = False


class AlarmKeeper:
    """Decides which alarms are raised.  Used on one event loop.

    Args:
        policy: How long a condition must last, and be away.
    """

    def __init__(self, policy: Policy) -> None:
        self._raise_seconds = policy.alarm_raise_seconds
        self._clear_seconds = policy.alarm_clear_seconds
        self._conditions: dict[str, _Condition] = {}
        self._past: deque[PastAlarm] = deque(maxlen=PAST_MAX)
        self._shown: tuple[Alarm, ...] = ()

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Raised alarms, those whose condition lasts first."""
        return self._shown

    @property
    def raised(self) -> tuple[Alarm, ...]:
        """All raised alarms, those too that are not shown while the fleet cannot be judged."""
        return tuple(each.alarm for each in self._conditions.values() if each.is_raised)

    @property
    def past(self) -> list[PastAlarm]:
        """Cleared alarms, the newest first."""
        return list(reversed(self._past))

    def update(
        self, found: Sequence[Alarm], now_seconds: float, now_ms: int, *, is_known: bool = True
    ) -> None:
        """Take what is found now.

        Args:
            found: Conditions that hold, at most one of each code.
            now_seconds: Monotonic.
            now_ms: Milliseconds since 1970.
            is_known: Whether the fleet can be judged.  While it cannot, a condition that is not
                found is neither shown nor over.
        """
        by_code = {alarm.code: alarm for alarm in found}
        for code, alarm in by_code.items():
            known = self._conditions.get(code)
            if known is None:
                known = _Condition(alarm, now_ms, now_seconds, now_seconds)
                self._conditions[code] = known
            known.alarm, known.seen_seconds = alarm, now_seconds
        if not is_known:
            for code, condition in self._conditions.items():
                if code not in by_code:  # its time away does not count
                    condition.seen_seconds = now_seconds
        self._raise(by_code, now_seconds)
        self._clear(now_seconds, now_ms)
        self._shown = tuple(
            replace(each.alarm, since_ms=each.since_ms, is_over=code not in by_code)
            for code, each in sorted(
                self._conditions.items(), key=lambda item: item[0] not in by_code
            )
            if each.is_raised and (is_known or code in by_code)
        )

    def _raise(self, found: Mapping[str, Alarm], now_seconds: float) -> None:
        for code, each in self._conditions.items():
            lasts_seconds = now_seconds - each.since_seconds
            is_due = each.alarm.severity == "critical" or lasts_seconds >= self._raise_seconds
            if code in found and is_due:
                each.is_raised = True

    def _clear(self, now_seconds: float, now_ms: int) -> None:
        for code, each in list(self._conditions.items()):
            away_seconds = now_seconds - each.seen_seconds
            if not each.is_raised and away_seconds > 0:
                del self._conditions[code]  # it did not last: it counts from its next time on
            elif away_seconds > 0 and away_seconds >= self._clear_seconds:
                del self._conditions[code]
                alarm = each.alarm
                until_ms = now_ms - round(away_seconds * 1_000)
                past = PastAlarm(code, alarm.severity, alarm.message, each.since_ms, until_ms)
                self._past.append(past)

    # --- what a restart must not forget ---

    def document(self) -> dict[str, Any]:
        raised = [
            asdict(replace(each.alarm, since_ms=each.since_ms))
            for each in self._conditions.values()
            if each.is_raised
        ]
        return {"raised": raised, "past": [asdict(each) for each in self._past]}

    def restore(self, document: Any, now_seconds: float) -> None:
        """Take what an earlier process saved; what is raised here already stays.

        A restored alarm is cleared if its condition is not found again.

        Raises:
            KeyError, TypeError, ValueError: The document is malformed.
        """
        past = [
            PastAlarm(*_head(each), int(each["until_ms"])) for each in document["past"][-PAST_MAX:]
        ]
        raised = []
        for each in document["raised"][: len(CODES)]:
            code, severity, message, since_ms = _head(each)
            nodes, sets = (tuple(map(str, each[of][:TEXTS_MAX])) for of in ("nodes", "sets"))
            raised.append((Alarm(code, severity, message, nodes, sets), since_ms))
        self._past.extendleft(reversed(past))
        for alarm, since_ms in raised:
            known = self._conditions.get(alarm.code)
            if known is None:
                known = _Condition(alarm, since_ms, now_seconds, now_seconds)
                self._conditions[alarm.code] = known
            known.is_raised, known.since_ms = True, min(since_ms, known.since_ms)


def _head(document: Any) -> tuple[str, Severity, str, int]:
    code, severity = document["code"], document["severity"]
    if code not in CODES or severity not in ("critical", "warning"):
        raise ValueError("not an alarm")
    return code, severity, str(document["message"])[:CHARACTERS_MAX], int(document["since_ms"])
