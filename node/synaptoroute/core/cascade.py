"""Settings as the log decides them, those of the cascade among them.

A calibration belongs to what it was measured with: another aggregation or threshold
ends it, and so does switching the cascade off.
"""

from __future__ import annotations

from dataclasses import replace

from synaptoroute.core.change import Change, Outcome
from synaptoroute.core.desired_route import Rejection
from synaptoroute.core.mutation import Revision, Settings


def plan_settings(before: Settings, wanted: Settings, high_water: int, at: Revision) -> Change:
    """Plan new settings of the route set.

    Args:
        before: Those in force.
        wanted: Those asked for, without a calibration.
        high_water: One past the highest slot in use.
        at: Place in the log.

    Raises:
        Rejection: Slots in use would be beyond the capacity.
    """
    is_as_measured = (wanted.aggregation, wanted.topk, wanted.threshold) == (
        before.aggregation,
        before.topk,
        before.threshold,
    )
    if wanted.cascade and is_as_measured:
        wanted = replace(wanted, calibration=before.calibration)
    if wanted.capacity_slots < high_water:
        raise Rejection(
            "capacity_exceeded",
            f"capacity_slots must be at least {high_water}, so that every slot in use stays",
        )
    return _replace(before, wanted, at)


def plan_calibration(before: Settings, calibration: str, at: Revision) -> Change:
    """Plan a calibration of the cascade; one that is off stays as it is."""
    if not before.cascade:
        return Change(Outcome("unchanged", at))
    return _replace(before, replace(before, calibration=calibration), at)


def _replace(before: Settings, wanted: Settings, at: Revision) -> Change:
    if wanted == before:
        return Change(Outcome("unchanged", at))
    return Change(Outcome("applied", at), settings=wanted, settings_before=before)
