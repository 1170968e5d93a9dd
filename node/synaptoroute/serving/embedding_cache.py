"""The encoders of a node and the caches of their embeddings.

A node serves with one encoder and may hold a second one, so that the cluster can change
from one to the other at one place of the log.  With each it holds the one that the same preset
stood for in earlier releases, so that their databases and clusters go on.  An encoder and its
cache are exchanged together, so a text is never scored against vectors of another encoder.

The cache is keyed by the exact token sequence.  A near-duplicate cache would need the
embedding before it could look, and would add wrong answers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder import TextEncoder
from synaptoroute.encoder.fast_encoder import FastEncoder
from synaptoroute.errors import EncoderMismatch


class EmbeddingCache:
    """Least-recently-used cache of embeddings; the workers share it under a lock.

    The rows lie in one array, so a full cache allocates nothing.
    """

    def __init__(self, rows: int, dim: int) -> None:
        self._rows = np.empty((rows, dim), dtype=np.float32)
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
            # A copy: the row may be given to another text as soon as the lock is free.
            found: NDArray[np.float32] = self._rows[row].copy()
            return found

    def clear(self) -> None:
        """Forget every embedding."""
        with self._lock:
            self._row_of.clear()

    def put(self, key: bytes, embedding: NDArray[np.float32]) -> None:
        """Store an embedding; a full cache replaces the least recently used one."""
        capacity_rows = len(self._rows)
        if not capacity_rows:
            return
        with self._lock:
            row = self._row_of.pop(key, None)
            if row is None:
                if len(self._row_of) < capacity_rows:
                    row = len(self._row_of)
                else:
                    _, row = self._row_of.popitem(last=False)
            self._rows[row] = embedding
            self._row_of[key] = row


@dataclass(frozen=True, slots=True, eq=False)
class CachedEncoder:
    """An encoder and the cache of its embeddings."""

    encoder: TextEncoder
    cache: EmbeddingCache


class EncoderSet:
    """The encoders of one node; built once, read from any thread.

    Attributes:
        known: Dimension by fingerprint.
        names: Display name by fingerprint.
    """

    def __init__(self, encoders: Sequence[TextEncoder], cache_rows: int) -> None:
        chosen = {each.fingerprint: each for each in encoders}
        for each in encoders:
            former = each.former() if isinstance(each, FastEncoder) else None
            if former is not None:
                chosen.setdefault(former.fingerprint, former)
        held = chosen.values()
        self._held = {
            each.fingerprint: CachedEncoder(each, EmbeddingCache(cache_rows, each.dim))
            for each in held
        }
        self.known = {each.fingerprint: each.dim for each in held}
        self.names = {each.fingerprint: each.name for each in held}

    def cached(self, fingerprint: str) -> CachedEncoder:
        """Find an encoder with its cache."""
        found = self._held.get(fingerprint)
        if found is None:
            raise EncoderMismatch(
                f"this node does not have the encoder {fingerprint[:12]}: "
                "set next_model to it and restart the node",
                expected=fingerprint,
            )
        return found

    def find(self, fingerprint: str) -> TextEncoder:
        return self.cached(fingerprint).encoder

    def clear(self) -> None:
        """Forget every embedding of every encoder."""
        for each in self._held.values():
            each.cache.clear()

    @property
    def cache_counts(self) -> tuple[int, int]:
        caches = [each.cache for each in self._held.values()]
        return sum(each.hits for each in caches), sum(each.misses for each in caches)
