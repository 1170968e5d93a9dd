"""Route sets for the tests of the tensor and of scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Change, RouteRecord
from synaptoroute.core.mutation import Revision, Settings
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
    vectors: NDArray[np.float32], owners: Sequence[int], settings: Settings | None = None
) -> Tensor:
    """A tensor of float32[n, dim] whose row i belongs to route ``owners[i]``; -1 for none."""
    settings = settings or Settings(threshold=-1.0)
    routes = [
        record(route_id, [slot for slot, owner in enumerate(owners) if owner == route_id])
        for route_id in sorted(set(owners) - {-1})
    ]
    tensor = Tensor(vectors.shape[1], settings)
    tensor.load(np.arange(len(vectors)), vectors, routes, settings, START)
    return tensor


def rows_by_slot(tensor: Tensor) -> Mapping[int, NDArray[np.float32]]:
    """Every owned row of a tensor."""
    slots = [slot for route in tensor.routes.values() for slot in route.slots]
    return dict(zip(slots, tensor.vectors_of(np.array(slots, np.int64)), strict=True))


def rebuilt(table: RouteTable, rows: Mapping[int, bytes], dim: int, at: Revision) -> Tensor:
    """The tensor a node would boot with: rows and records, no history."""
    slots = sorted(slot for route in table.routes.values() for slot in route.slots)
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
