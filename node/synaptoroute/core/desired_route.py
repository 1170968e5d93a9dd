"""A route as a mutation wants it, before its new rows have slots."""

from __future__ import annotations

from dataclasses import dataclass, field

from synaptoroute.core.change import Outcome, RouteRecord
from synaptoroute.core.mutation import Revision
from synaptoroute.core.rows import RowKind


@dataclass(slots=True)
class DesiredRoute:
    """A route as a mutation wants it, before its new rows have slots."""

    name: str
    before: RouteRecord | None
    threshold: float | None
    metadata: str
    payload: str
    confidence_min: float | None
    # Slots that stay as they are, with kind and text
    kept: dict[int, tuple[RowKind, str]] = field(default_factory=dict)
    # Rows that need a slot: kind, text and vector
    added: list[tuple[RowKind, str, bytes]] = field(default_factory=list)

    def stale_slots(self) -> list[int]:
        """Return the slots that the route owns now and gives up."""
        if self.before is None:
            return []
        return [slot for slot, _, _ in self.before.rows() if slot not in self.kept]

    def changed_utterances(self) -> int:
        """Count the utterances that are added; if none is, those that are removed."""
        added = len([kind for kind, _, _ in self.added if kind is RowKind.UTTERANCE])
        if added or self.before is None:
            return added
        return len([slot for slot in self.before.slots if slot not in self.kept])

    def is_unchanged(self) -> bool:
        """Whether the mutation changes nothing."""
        before = self.before
        return (
            before is not None
            and not self.added
            and not self.stale_slots()
            and (before.threshold, before.metadata, before.payload, before.confidence_min)
            == (self.threshold, self.metadata, self.payload, self.confidence_min)
        )

    def record(
        self, route_id: int, rows: dict[int, tuple[RowKind, str]], at: Revision
    ) -> RouteRecord:
        """Return the route with these rows: kind and text by slot."""
        slots: tuple[list[int], list[int], list[int]] = ([], [], [])  # by kind
        texts: tuple[list[str], list[str], list[str]] = ([], [], [])
        for slot in sorted(rows):
            kind, text = rows[slot]
            slots[kind].append(slot)
            texts[kind].append(text)
        utterance, description, negative = RowKind
        return RouteRecord(
            route_id=route_id,
            name=self.name,
            slots=tuple(slots[utterance]),
            utterances=tuple(texts[utterance]),
            threshold=self.threshold,
            metadata=self.metadata,
            payload=self.payload,
            revision=at,
            confidence_min=self.confidence_min,
            description=texts[description][0] if texts[description] else None,
            description_slot=slots[description][0] if slots[description] else None,
            negatives=tuple(texts[negative]),
            negative_slots=tuple(slots[negative]),
        )


def outcome_of(
    wanted: list[DesiredRoute],
    changed: list[DesiredRoute],
    gone: tuple[RouteRecord, ...],
    at: Revision,
) -> Outcome:
    """Return the outcome of a change of routes."""
    if not changed and not gone:
        before = wanted[0].before if len(wanted) == 1 else None
        return Outcome("unchanged", at, before.revision if before else None)
    if len(wanted) == 1 and not gone:
        route = wanted[0]
        count = route.changed_utterances()
        # The order of the log decides which of two concurrent puts created the route.
        return Outcome("applied", at, at, count=count, created=route.before is None)
    return Outcome("applied", at, count=sum(len(route.slots) for route in gone))
