"""What a route shall be, before its slots are chosen.

A *target* states a route's wanted rows and fields.  Every mutation of routes
becomes targets and deletions, and ``table`` plans the rows of all of them in one
allocation, so that a put, an addition and an import follow one rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from synaptoroute.core.change import Outcome, RouteRecord
from synaptoroute.core.mutation import Revision


@dataclass(slots=True)
class Target:
    """A route as it shall be: rows to keep, rows to add, fields."""

    name: str
    before: RouteRecord | None
    threshold: float | None
    metadata: str
    payload: str
    kept: dict[int, str] = field(default_factory=dict)
    added: list[tuple[str, bytes]] = field(default_factory=list)


class Rejection(Exception):
    """A proposal that cannot be applied; becomes a rejected outcome."""

    def __init__(self, code: str, message: str, revision: Revision | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.revision = revision


def stale_slots(target: Target) -> tuple[int, ...]:
    """Slots that a target has now and shall not keep."""
    if target.before is None:
        return ()
    return tuple(slot for slot in target.before.slots if slot not in target.kept)


def is_same(target: Target) -> bool:
    """Whether the route already is what it shall be."""
    before = target.before
    return (
        before is not None
        and not target.added
        and len(target.kept) == len(before.slots)
        and (before.threshold, before.metadata, before.payload)
        == (target.threshold, target.metadata, target.payload)
    )


def record(target: Target, route_id: int, rows: dict[int, str], at: Revision) -> RouteRecord:
    slots = tuple(sorted(rows))
    return RouteRecord(
        route_id=route_id,
        name=target.name,
        slots=slots,
        utterances=tuple(rows[slot] for slot in slots),
        threshold=target.threshold,
        metadata=target.metadata,
        payload=target.payload,
        revision=at,
    )


def outcome(
    wanted: list[Target], changed: list[Target], gone: tuple[RouteRecord, ...], at: Revision
) -> Outcome:
    """Say what came of targets and deletions."""
    if not changed and not gone:
        before = wanted[0].before if len(wanted) == 1 else None
        return Outcome("unchanged", at, before.revision if before else None)
    if len(wanted) == 1 and not gone:
        target = wanted[0]
        count = len(target.added) or len(stale_slots(target))
        return Outcome("applied", at, at, count=count)
    return Outcome("applied", at, count=sum(len(route.slots) for route in gone))
