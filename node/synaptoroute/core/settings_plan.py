"""Plans changes of the settings of a route set."""

from __future__ import annotations

from dataclasses import replace

from synaptoroute.core.change import Change, Outcome, Rejection
from synaptoroute.core.mutation import Revision, Settings


def plan_settings(before: Settings, wanted: Settings, high_water: int, at: Revision) -> Change:
    """Plan new settings.

    Raises:
        Rejection: A slot in use would be beyond the capacity.
    """
    # A calibration is valid for the settings it was measured with: another rule of decision
    # drops it, and so does switching the cascade off.  From on to ``auto`` drops it, too: below
    # level 5 of the log that is off.
    is_kept = wanted.cascade and not (wanted.cascade == "auto" and before.cascade is True)
    if is_kept and _rule_of(wanted) == _rule_of(before):
        wanted = replace(wanted, calibration=before.calibration)
    if wanted.capacity_slots < high_water:
        raise Rejection(
            "capacity_exceeded",
            f"capacity_slots must be at least {high_water}, so that every slot in use stays",
        )
    return _replace(before, wanted, at)


def _rule_of(settings: Settings) -> tuple[object, ...]:
    return (
        settings.aggregation,
        settings.topk,
        settings.threshold,
        settings.confidence_min,
        settings.expected_unmatched_share,
    )


def plan_calibration(before: Settings, calibration: str, at: Revision) -> Change:
    """Plan a calibration of the cascade; it has no effect while the cascade is off."""
    if not before.cascade:
        return Change(Outcome("unchanged", at))
    return _replace(before, replace(before, calibration=calibration), at)


def _replace(before: Settings, wanted: Settings, at: Revision) -> Change:
    if wanted == before:
        return Change(Outcome("unchanged", at))
    return Change(Outcome("applied", at), settings=wanted, settings_before=before)
