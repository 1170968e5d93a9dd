"""Builds the tensors of whole states: of a boot, of a snapshot, and of a change of the encoder."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from synaptoroute.core.change import Change, Commit, SetRecord
from synaptoroute.core.sets import RouteSets
from synaptoroute.core.table import RouteTable
from synaptoroute.serving.scorer import as_rows
from synaptoroute.storage import Stored
from synaptoroute.tensor import Tensor


def tensor_of(stored: Stored, dim: int) -> Tensor:
    """Build the serving view of the default set of a stored state."""
    snapshot = stored.snapshot
    slots, vectors = stored.rows_of(0)
    tensor = Tensor(dim, snapshot.settings)
    tensor.load(
        slots,
        vectors,
        snapshot.routes,
        snapshot.settings,
        snapshot.position.revision,
        stored.derived,
        snapshot.decision.payload,
        # The rows of other sets follow in the same memory.
        is_owner=not snapshot.sets,
    )
    return tensor


def other_tensors_of(stored: Stored, dim: int) -> Iterator[tuple[SetRecord, Tensor]]:
    """Build the serving views of the other sets: record and tensor of each."""
    at = stored.snapshot.position.revision
    for state in stored.snapshot.sets:
        number, settings = state.record.number, state.settings
        slots, vectors = stored.rows_of(number)
        tensor = Tensor(dim, settings, is_small=True)
        tensor.load(
            slots,
            vectors,
            state.routes,
            settings,
            at,
            decision=state.decision.payload,
            is_owner=False,
        )
        yield state.record, tensor


def switched_tensor(commit: Commit, table: RouteTable) -> Tensor:
    """Build the tensor of the default set from an entry that changed the encoder.

    Such an entry rewrote every row.
    """
    tensor = Tensor(_dim_of(commit), table.settings)
    _load_switched(tensor, commit, commit.change, table)
    return tensor


def other_switched_tensors(commit: Commit, sets: RouteSets) -> Iterator[tuple[SetRecord, Tensor]]:
    """Build those of the other sets: record and tensor of each."""
    parts = {part.set_number: part for part in commit.change.parts()}
    for number, record in sets.records.items():
        if number:
            table = sets.tables[number]
            tensor = Tensor(_dim_of(commit), table.settings, is_small=True)
            # A set without rows has no part in the change.
            part = parts.get(number)
            if part is not None:
                _load_switched(tensor, commit, part, table)
            yield record, tensor


def _dim_of(commit: Commit) -> int:
    encoder = commit.change.encoder
    assert encoder is not None, "nothing was switched: this is a bug"
    return encoder.dim


def _load_switched(tensor: Tensor, commit: Commit, part: Change, table: RouteTable) -> None:
    writes, settings = part.writes, table.settings
    slots = np.fromiter((write.slot for write in writes), np.int64, len(writes))
    vectors = as_rows([write.vector for write in writes], tensor.dim)
    routes, at = list(table.routes.values()), commit.entry.position.revision
    tensor.load(slots, vectors, routes, settings, at, decision=table.decision.payload)
