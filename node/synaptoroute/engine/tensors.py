"""Builds the tensors of whole states: of a boot, of a snapshot, and of a change of the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Change, Commit, SetRecord, SetState
from synaptoroute.core.mutation import Revision
from synaptoroute.core.sets import RouteSets
from synaptoroute.core.table import RouteTable
from synaptoroute.serving.served_set import TensorSource
from synaptoroute.serving.slices import as_rows
from synaptoroute.storage import Stored
from synaptoroute.tensor import Tensor

LOADED_LATER_ROWS_MAX: Final = 512
"""The tensor of a route set of up to so many rows is built when it is first used, or by the scorer
once that has nothing else to do; a boot with a thousand of them does not wait."""


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


def other_tensors_of(stored: Stored) -> Iterator[tuple[SetRecord, TensorSource]]:
    """Build the serving views of the other sets: record and tensor of each.

    Of a small set, unless its first stage answers, it gives what builds the tensor.
    """
    at = stored.snapshot.position.revision
    for state in stored.snapshot.sets:
        slots, vectors = stored.rows_of(state.record.number)
        if len(slots) > LOADED_LATER_ROWS_MAX or state.settings.calibration:
            yield state.record, _build(slots, vectors, state, at)
        else:
            # A copy, since the rows of all sets would be kept for the last small one.
            yield state.record, partial(_build, slots, vectors.copy(), state, at)


def _build(
    slots: NDArray[np.int64], vectors: NDArray[np.float32], state: SetState, at: Revision
) -> Tensor:
    settings, decision = state.settings, state.decision.payload
    tensor = Tensor(vectors.shape[1], settings, is_small=True)
    tensor.load(slots, vectors, state.routes, settings, at, decision=decision, is_owner=False)
    return tensor


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
