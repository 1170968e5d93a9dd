"""Another encoder for an existing database, step by step.

Storage keeps the new vectors beside the old ones and swaps them in one transaction;
this module encodes, checks every vector before it is kept, and reads the database
back afterwards.  It may be killed anywhere and started again.
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
from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import EncoderError, StorageCorrupt
from synaptoroute.storage import SQLiteStorage, Stored
from synaptoroute.storage.connection import connect_reader
from synaptoroute.storage.loader import read_meta

ROWS_AT_ONCE: Final = 256
"""Utterances of one transaction: what a killed run repeats at most."""
TEXTS_PER_THREAD: Final = 32
LENGTH_ERROR_MAX: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Migration:
    """What a run did.

    Attributes:
        former_fingerprint: Of the encoder that the vectors were of.
        fingerprint: Of the encoder they are of now.
        total_slots: Utterances in the database.
        resumed_slots: Those of them that a former run had re-encoded.
    """

    former_fingerprint: str
    fingerprint: str
    total_slots: int
    resumed_slots: int = 0

    @property
    def is_unchanged(self) -> bool:
        """Whether the database held this encoder's vectors before."""
        return self.former_fingerprint == self.fingerprint


def migrate_database(
    path: Path, encoder: TextEncoder, step: Callable[[int], None] = lambda _: None
) -> Migration:
    """Re-encode every utterance of a database, then swap.

    Args:
        path: The database; no node may have it open.
        encoder: The new encoder.
        step: Called with the number of utterances that were re-encoded.

    Raises:
        FileRejected: There is no such file.
        StorageUnavailable: A node has it open, or the disk fails; nothing changed.
        EncoderError: The encoder gives vectors that cannot be used.
    """
    if not path.is_file():
        raise FileRejected(f"{path} is not a file: nothing to migrate")
    storage = SQLiteStorage(path)
    try:
        before = storage.open_stored()
        former, dim = stored_encoder(path)
        if (former, dim) == (encoder.fingerprint, encoder.dim):
            return Migration(former, former, len(before.slots))
        begun = storage.re_embedding.begin(encoder.fingerprint, encoder.dim)
        step(begun.done_slots)
        for rows in _encoded(storage, encoder):
            storage.re_embedding.put(rows)
            step(len(rows))
        _compare(before, storage.re_embedding.finish())
    finally:
        storage.close()
    _read_back(path, encoder)
    return Migration(former, encoder.fingerprint, begun.total_slots, begun.done_slots)


def stored_encoder(path: Path) -> tuple[str, int]:
    """Read whose vectors a sound database holds: fingerprint and dimension."""
    with closing(connect_reader(path)) as reader:
        meta = read_meta(reader)
    return meta.fingerprint, meta.dim


def _encoded(storage: SQLiteStorage, encoder: TextEncoder) -> Iterator[list[tuple[int, bytes]]]:
    """Give what is still to be done, a transaction's worth at a time."""
    with _lanes(encoder) as encode:
        while rows := storage.re_embedding.missing(ROWS_AT_ONCE):
            vectors = encode([text for _, text in rows])
            yield [
                (slot, vector.tobytes()) for (slot, _), vector in zip(rows, vectors, strict=True)
            ]


@contextmanager
def _lanes(
    encoder: TextEncoder,
) -> Iterator[Callable[[list[str]], NDArray[np.float32]]]:
    """Encode on as many threads as the container has CPUs; checks every vector."""
    with ThreadPoolExecutor(cpu_limit(), thread_name_prefix="migrate") as threads:

        def encode(
            texts: list[str],
        ) -> NDArray[np.float32]:
            starts = range(0, len(texts), TEXTS_PER_THREAD)
            parts = [texts[start : start + TEXTS_PER_THREAD] for start in starts]
            vectors = np.concatenate(list(threads.map(encoder.encode_utterances, parts)))
            lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
            if not bool((np.abs(lengths - 1.0) <= LENGTH_ERROR_MAX).all()):
                raise EncoderError(f"{encoder.name} gave a vector that is not of unit length")
            return np.ascontiguousarray(vectors, dtype="<f4")

        yield encode


def _compare(before: Stored, after: Stored) -> None:
    """Only vectors may have changed: every route keeps its slots, texts and revision."""
    if before.snapshot.routes != after.snapshot.routes:
        raise StorageCorrupt("the routes differ after the change of the encoder: this is a bug")


def _read_back(path: Path, encoder: TextEncoder) -> None:
    """Open the database as a node with the new encoder would."""
    storage = SQLiteStorage(path)
    try:
        storage.open(fingerprint=encoder.fingerprint, dim=encoder.dim)
    finally:
        storage.close()
