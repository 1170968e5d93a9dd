"""Route sets for the tests of the tensor and of scoring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Change, RouteRecord
from synaptoroute.core.mutation import Mutation, Proposal, PutRoute, Revision, Settings
from synaptoroute.core.table import RouteTable
from synaptoroute.tensor import Tensor

START = Revision(1, 1)


def unit_rows(count: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """Random unit vectors, float32[count, dim]."""
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def record(route_id: int, slots: Sequence[int], threshold: float | None = None) -> RouteRecord:
    """A route that owns these slots."""
    texts = tuple(f"text {slot}" for slot in slots)
    name = f"route {route_id}"
    return RouteRecord(route_id, name, tuple(slots), texts, threshold, "{}", "null", START)


def loaded(
    vectors: NDArray[np.float32],
    owners: Sequence[int],
    settings: Settings | None = None,
    decision: bytes = b"",
) -> Tensor:
    """A tensor of float32[n, dim] whose row i belongs to route ``owners[i]``; -1 for none."""
    settings = settings or Settings(threshold=-1.0)
    routes = [
        record(route_id, [slot for slot, owner in enumerate(owners) if owner == route_id])
        for route_id in sorted(set(owners) - {-1})
    ]
    tensor = Tensor(vectors.shape[1], settings)
    tensor.load(np.arange(len(vectors)), vectors, routes, settings, START, decision=decision)
    return tensor


def rows_by_slot(tensor: Tensor) -> Mapping[int, NDArray[np.float32]]:
    """Every owned row of a tensor."""
    slots = [slot for route in tensor.routes.values() for slot, _, _ in route.rows()]
    return dict(zip(slots, tensor.vectors_of(np.array(slots, np.int64)), strict=True))


def rebuilt(table: RouteTable, rows: Mapping[int, bytes], dim: int, at: Revision) -> Tensor:
    """The tensor a node would boot with: rows and records, no history."""
    slots = sorted(slot for route in table.routes.values() for slot, _, _ in route.rows())
    stored = b"".join(rows[slot] for slot in slots)
    vectors = np.frombuffer(stored, np.float32).reshape(len(slots), dim)
    tensor = Tensor(dim, table.settings)
    routes = sorted(table.routes.values(), key=lambda route: route.name)
    tensor.load(np.array(slots, np.int64), vectors, routes, table.settings, at)
    return tensor


def keep_rows(rows: dict[int, bytes], change: Change) -> None:
    """Follow a change in a plain dictionary of rows."""
    for slot in change.freed:
        del rows[slot]
    rows.update({write.slot: write.vector for write in change.writes})


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
        """A node that boots from the rows has the same bytes, and finds the same texts."""
        fresh = rebuilt(self.table, self.rows, DIM, self.at)
        assert fresh.checksum() == self.tensor.checksum()
        texts = {text for each in self.table.routes.values() for text in each.utterances}
        assert exact_matches(fresh, texts) == exact_matches(self.tensor, texts)
        assert len(fresh.texts) == len(self.tensor.texts) == len(texts)


def exact_matches(tensor: Tensor, texts: Iterable[str]) -> dict[str, tuple[int, int] | None]:
    """Route and slot of each text."""
    return {text: tensor.exact_match(text, tensor.texts.find(text), None) for text in texts}


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
