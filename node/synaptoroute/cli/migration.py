"""Re-encoding of an existing database with another encoder.

Storage keeps the new vectors beside the old ones and swaps them in one transaction.
This module encodes, checks every vector before it is stored, and reads the database back
afterwards.  It may be killed at any point and started again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.cli.exit_codes import FileRejected
from synaptoroute.config import cpu_limit
from synaptoroute.core.change import RouteRecord
from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import EncoderError, StorageCorrupt
from synaptoroute.storage import SQLiteStorage, Stored
from synaptoroute.storage.connection import connect_reader
from synaptoroute.storage.loader import read_meta

ROWS_PER_TRANSACTION: Final = 256
"""Utterances per transaction, which is the most that a killed run repeats."""
TEXTS_PER_THREAD: Final = 32
LENGTH_ERROR_MAX: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Migration:
    """The result of a run; ``resumed_slots`` were re-encoded by an earlier run."""

    former_fingerprint: str
    fingerprint: str
    total_slots: int
    resumed_slots: int = 0

    @property
    def is_unchanged(self) -> bool:
        """Whether the database already held vectors of this encoder."""
        return self.former_fingerprint == self.fingerprint


def migrate_database(
    path: Path, encoder: TextEncoder, step: Callable[[int], None] = lambda _: None
) -> Migration:
    """Re-encode every utterance of a database, then swap the vectors.

    Args:
        path: The database; no node may have it open.
        step: Called with the number of utterances just re-encoded.

    Raises:
        FileRejected: The file does not exist.
        StorageUnavailable: A node has it open, or the disk fails; nothing changed.
        EncoderError: The encoder returns invalid vectors.
    """
    if not path.is_file():
        raise FileRejected(f"{path} is not a file")
    storage = SQLiteStorage(path)
    try:
        before = storage.open_stored()
        former, dim = stored_encoder(path)
        if (former, dim) == (encoder.fingerprint, encoder.dim):
            return Migration(former, former, len(before.slots))
        started = storage.re_embedding.begin(encoder.fingerprint, encoder.dim)
        # Progress of an earlier run that was killed; its vectors are still staged.
        step(started.done_slots)
        for rows in _encoded(storage, encoder):
            storage.re_embedding.put(rows)
            step(len(rows))
        _compare(before, storage.re_embedding.finish())
    finally:
        storage.close()
    _read_back(path, encoder)
    return Migration(former, encoder.fingerprint, started.total_slots, started.done_slots)


def stored_encoder(path: Path) -> tuple[str, int]:
    """Read the encoder of a sound database: fingerprint and dimension."""
    with closing(connect_reader(path)) as reader:
        meta = read_meta(reader)
    return meta.fingerprint, meta.dim


def _encoded(storage: SQLiteStorage, encoder: TextEncoder) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the vectors still missing, one transaction at a time."""
    with _encode_threads(encoder) as encode:
        while rows := storage.re_embedding.missing(ROWS_PER_TRANSACTION):
            vectors = encode([text for _, text in rows])
            yield [
                (slot, vector.tobytes()) for (slot, _), vector in zip(rows, vectors, strict=True)
            ]


@contextmanager
def _encode_threads(encoder: TextEncoder) -> Iterator[Callable[[list[str]], NDArray[np.float32]]]:
    """Encode on as many threads as there are CPUs, and check every vector."""
    with ThreadPoolExecutor(cpu_limit(), thread_name_prefix="migrate") as threads:

        def encode(texts: list[str]) -> NDArray[np.float32]:
            starts = range(0, len(texts), TEXTS_PER_THREAD)
            parts = [texts[start : start + TEXTS_PER_THREAD] for start in starts]
            vectors = np.concatenate(list(threads.map(encoder.encode_utterances, parts)))
            lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
            if not bool((np.abs(lengths - 1.0) <= LENGTH_ERROR_MAX).all()):
                raise EncoderError(f"{encoder.name} returned a vector that is not of unit length")
            return np.ascontiguousarray(vectors, dtype="<f4")

        yield encode


def _compare(before: Stored, after: Stored) -> None:
    """Check that only vectors have changed: routes keep their slots, texts and revisions."""
    if _routes_of(before) != _routes_of(after):
        raise StorageCorrupt("the routes changed during the migration: this is a bug")


def _routes_of(stored: Stored) -> list[tuple[RouteRecord, ...]]:
    snapshot = stored.snapshot
    return [snapshot.routes, *(state.routes for state in snapshot.sets)]


def _read_back(path: Path, encoder: TextEncoder) -> None:
    """Open the database as a node with the new encoder does."""
    storage = SQLiteStorage(path)
    try:
        storage.open(fingerprint=encoder.fingerprint, dim=encoder.dim)
    finally:
        storage.close()
