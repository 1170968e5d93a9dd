"""Embeddings kept by exact token sequence.

Exact only: a near-duplicate cache needs the embedding before it can look, and adds
wrong answers.  The rows lie in one slab, so a full cache costs no allocation.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray


class EmbeddingCache:
    """Least-recently-used cache of embeddings; lanes share it under a short lock."""

    def __init__(self, rows: int, dim: int) -> None:
        self._slab = np.empty((rows, dim), dtype=np.float32)
        self._row_of: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._row_of)

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        """Return a copy of the embedding, float32[dim], or None."""
        with self._lock:
            row = self._row_of.get(key)
            if row is None:
                self.misses += 1
                return None
            self.hits += 1
            self._row_of.move_to_end(key)
            found: NDArray[np.float32] = self._slab[row].copy()
            return found

    def put(self, key: bytes, embedding: NDArray[np.float32]) -> None:
        """Keep an embedding, in place of the least recently used one if full."""
        capacity_rows = len(self._slab)
        if not capacity_rows:
            return
        with self._lock:
            row = self._row_of.pop(key, None)
            if row is None:
                if len(self._row_of) < capacity_rows:
                    row = len(self._row_of)
                else:
                    _, row = self._row_of.popitem(last=False)
            self._slab[row] = embedding
            self._row_of[key] = row
