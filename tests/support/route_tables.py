"""A table of routes under test, with all that its changes leave in a database."""

from __future__ import annotations

import struct
from typing import Any

from replicas import Shadow, proposal, table_state
from synaptoroute.core.change import Change
from synaptoroute.core.mutation import Mutation, PutRoute, Revision, Settings
from synaptoroute.core.table import RouteTable


def vector(x: float = 0) -> bytes:
    """A row of two dimensions."""
    return struct.pack("<2f", x, 1)


def route(name: str, *texts: str, x: float = 0, **fields: Any) -> PutRoute:
    """A whole route whose rows are alike."""
    return PutRoute(name, texts, (vector(x),) * len(texts), **fields)


class World:
    """A table, its seq, and the rows that its changes left in a database."""

    def __init__(self, capacity_slots: int = 12) -> None:
        self.table = RouteTable(Settings(capacity_slots=capacity_slots), dim=2)
        self.shadow = Shadow()
        self.seq = 0

    def do(self, mutation: Mutation, **conditions: Any) -> Change:
        """Apply one mutation; a rejected or unchanged one must change nothing."""
        self.seq += 1
        before = table_state(self.table)
        change = self.table.apply(proposal(mutation, self.seq, **conditions), self.at)
        self.shadow.carry_out(change)
        self.shadow.check(self.table)
        if change.outcome.status != "applied":
            assert before == table_state(self.table)
            assert Change(change.outcome) == change
        return change

    @property
    def at(self) -> Revision:
        """Place of the newest mutation."""
        return Revision(1, self.seq)

    def code(self, mutation: Mutation, **conditions: Any) -> str | None:
        """Code of the rejection."""
        return self.do(mutation, **conditions).outcome.code

    def slots(self, name: str) -> tuple[int, ...]:
        """Slots of a route."""
        return self.table.routes[name].slots
