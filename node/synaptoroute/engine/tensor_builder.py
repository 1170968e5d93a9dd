"""Tensors made of a whole state, beside the one that serves."""

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
    """What the tensor derived from the rows of a state; nothing if it stands elsewhere.

    Any thread but the scorer's.
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
