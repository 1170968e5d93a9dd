"""Slices of the rows of a large change, which are written before it becomes visible."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import Commit
from synaptoroute.core.mutation import Revision
from synaptoroute.tensor.text_index import text_keys

LARGE_ROWS_MIN: Final = 512
"""A change of more rows is prepared on the applier's thread and written in slices."""
SLICE_ROWS_MAX: Final = 128
"""Rows of a slice, written between two batches in less than a millisecond."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice of a change's rows, to be written before anyone can see them."""

    slots: NDArray[np.int64]
    owners: NDArray[np.int64]
    vectors: NDArray[np.float32]
    at: Revision
    done: threading.Event
    keys: Sequence[int]
    set_number: int


def slices_of(commit: Commit, dim: int) -> Iterator[Slice]:
    """Cut the rows of a change into slices.  Runs on the applier's thread."""
    at = commit.entry.position.revision
    for change in commit.change.parts():
        for start in range(0, len(change.writes), SLICE_ROWS_MAX):
            part = change.writes[start : start + SLICE_ROWS_MAX]
            slots = np.fromiter((write.slot for write in part), np.int64, len(part))
            owners = np.fromiter((write.owner for write in part), np.int64, len(part))
            vectors = as_rows([write.vector for write in part], dim)
            keys = text_keys([write.utterance for write in part])
            done = threading.Event()
            yield Slice(slots, owners, vectors, at, done, keys, change.set_number)


def as_rows(vectors: Sequence[bytes], dim: int) -> NDArray[np.float32]:
    """Join the bytes of vectors to float32[n, dim]."""
    return np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), dim)
