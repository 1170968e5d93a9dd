"""Tensors made of a whole state, beside the one that serves."""

from __future__ import annotations

import numpy as np

from synaptoroute.core.change import Commit
from synaptoroute.core.table import RouteTable
from synaptoroute.engine.applier import as_rows
from synaptoroute.storage import Stored
from synaptoroute.tensor import Tensor


def tensor_of(stored: Stored, dim: int) -> Tensor:
    """Build the serving view of a stored state."""
    snapshot = stored.snapshot
    tensor = Tensor(dim, snapshot.settings)
    tensor.load(
        stored.slots,
        stored.vectors,
        snapshot.routes,
        snapshot.settings,
        snapshot.position.revision,
    )
    return tensor


def switched_tensor(commit: Commit, table: RouteTable) -> Tensor:
    """Build it of an entry that changed the encoder: its change rewrote every row.

    Args:
        commit: The entry; the newest that the table holds.
        table: The state.
    """
    encoder, writes = commit.change.encoder, commit.change.writes
    assert encoder is not None, "nothing was switched: this is a bug"
    tensor = Tensor(encoder.dim, table.settings)
    slots = np.fromiter((write.slot for write in writes), np.int64, len(writes))
    vectors = as_rows([write.vector for write in writes], encoder.dim)
    routes, at = list(table.routes.values()), commit.entry.position.revision
    tensor.load(slots, vectors, routes, table.settings, at)
    return tensor
