"""Databases under test: opened, gone on with, filled and rotten."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from histories import DIM, FINGERPRINT, History, put
from synaptoroute.core.mutation import DeleteRoute, ImportBegin, ImportChunk, Mutation, OpenEpoch
from synaptoroute.storage import SQLiteStorage, Stored

# Another encoder than that of the histories.
NEXT = "b" * 64
NEXT_DIM = 12


def opened(path: Path, fingerprint: str = FINGERPRINT, dim: int = DIM) -> SQLiteStorage:
    """A database that is open; whoever asked closes it."""
    storage = SQLiteStorage(path)
    storage.open(fingerprint=fingerprint, dim=dim)
    return storage


def boot(path: Path) -> Stored:
    """Open and close, and say what was found."""
    storage = SQLiteStorage(path)
    stored = storage.open(fingerprint=FINGERPRINT, dim=DIM)
    storage.close()
    return stored


def commit(path: Path, history: History, *mutations: Mutation) -> None:
    """Go on with a database without touching its checkpoint."""
    storage = opened(path)
    storage.commit(history.write(*mutations))
    storage.close()


def rot(path: Path) -> None:
    """Change a vector on the disk as no writer would."""
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("UPDATE slot SET vector = zeroblob(32) WHERE slot = 7")
        raw.commit()


def rich_history(storage: SQLiteStorage) -> History:
    """A state that uses every table."""
    history = History()
    storage.commit(history.write(OpenEpoch("e1", 0, ("n1",), FINGERPRINT, DIM)))
    storage.commit(history.write(put("a", 30), put("b", 5, 1), DeleteRoute("b"), put("c", 2, 2)))
    storage.commit(history.write(ImportBegin("i"), ImportChunk("i", 0, (put("d", 2, 3),))))
    return history
