"""A table and a tensor that follow one log, for tests of the tensor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from route_sets import START, keep_rows, rebuilt, unit_rows
from synaptoroute.core.change import Change
from synaptoroute.core.mutation import Mutation, Proposal, PutRoute, Revision, Settings
from synaptoroute.core.table import RouteTable
from synaptoroute.tensor import Tensor

DIM = 8


class Node:
    """A table and a tensor that follow one log, and the rows in a dictionary."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.table = RouteTable(settings or Settings(), DIM)
        self.tensor = Tensor(DIM, self.table.settings)
        self.rows: dict[int, bytes] = {}
        self.at = START

    def plan(self, mutation: Mutation) -> Change:
        """Enact in the table and the dictionary only."""
        self.at = Revision(1, self.at.seq + 1)
        change = self.table.apply(Proposal(self.at.seq.to_bytes(16, "big"), mutation), self.at)
        assert change.outcome.status == "applied"
        keep_rows(self.rows, change)
        return change

    def apply(self, mutation: Mutation) -> None:
        """Enact everywhere."""
        self.tensor.apply(self.plan(mutation), self.at)

    def put(self, name: str, seeds: range) -> None:
        """Put a route of one row a seed."""
        self.apply(put(name, seeds))

    def assert_as_rebuilt(self) -> None:
        """A node that boots from the rows has the same bytes."""
        assert rebuilt(self.table, self.rows, DIM, self.at).checksum() == self.tensor.checksum()


def row(seed: int) -> NDArray[np.float32]:
    """A unit vector."""
    found: NDArray[np.float32] = unit_rows(1, DIM, seed)[0]
    return found


def put(name: str, seeds: range) -> PutRoute:
    """A route of one row a seed."""
    texts = tuple(f"text {seed}" for seed in seeds)
    return PutRoute(name, texts, tuple(row(seed).tobytes() for seed in seeds))


def arrays(change: Change) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Slots and rows that a change writes."""
    slots = np.array([write.slot for write in change.writes], np.int64)
    stored = b"".join(write.vector for write in change.writes)
    return slots, np.frombuffer(stored, np.float32).reshape(len(slots), DIM)
