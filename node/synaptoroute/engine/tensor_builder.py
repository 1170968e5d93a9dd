"""Builds tensors from a whole state, beside the tensor that serves."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from synaptoroute.core.change import Commit
from synaptoroute.core.mutation import Position
from synaptoroute.core.table import RouteTable
from synaptoroute.errors import NotReady
from synaptoroute.serving.scorer import Scorer, as_rows
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
        stored.derived,
    )
    return tensor


def derived_of(scorer: Scorer, position: Position, digest: str) -> bytes:
    """Dump what the tensor derived from its rows; empty if it is at another position.

    Runs on any thread but the scorer's, which it waits for.
    """

    def look(tensor: Tensor) -> bytes:
        published = scorer.published
        is_same = (published.position, published.digest) == (position, digest)
        return tensor.derived() if is_same else b""

    with suppress(NotReady):  # the scorer is stopping
        derived: bytes = scorer.call(look).result() if scorer.is_alive else look(scorer.tensor)
        return derived
    return b""


def switched_tensor(commit: Commit, table: RouteTable) -> Tensor:
    """Build a tensor from an entry that changed the encoder and so rewrote every row."""
    encoder, writes = commit.change.encoder, commit.change.writes
    assert encoder is not None, "nothing was switched: this is a bug"
    tensor = Tensor(encoder.dim, table.settings)
    slots = np.fromiter((write.slot for write in writes), np.int64, len(writes))
    vectors = as_rows([write.vector for write in writes], encoder.dim)
    routes, at = list(table.routes.values()), commit.entry.position.revision
    tensor.load(slots, vectors, routes, table.settings, at)
    return tensor
