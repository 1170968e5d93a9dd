"""Histories and databases for storage tests: real proposals through the real replica."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from synaptoroute.core.change import Change, Commit, Snapshot
from synaptoroute.core.codec import LEVEL, encode_proposal
from synaptoroute.core.mutation import (
    CalibrateDecision,
    DeleteRoute,
    Finalize,
    ImportBegin,
    ImportChunk,
    Mutation,
    OpenEpoch,
    Proposal,
    PutRoute,
)
from synaptoroute.core.replica import Replica, Source, make_entry
from synaptoroute.core.rows import local_of, set_number_of, stored_number
from synaptoroute.storage import SQLiteStorage, Stored

DIM = 8
FINGERPRINT = "a" * 64


def vector(seed: int, dim: int = DIM) -> bytes:
    """Bytes of a unit vector."""
    drawn = np.random.default_rng(seed).standard_normal(dim).astype("<f4")
    return (drawn / np.linalg.norm(drawn)).astype("<f4").tobytes()


def put(name: str, count: int = 2, seed: int = 0, dim: int = DIM) -> PutRoute:
    """A route whose utterances and vectors follow from the seed."""
    return PutRoute(
        name,
        tuple(f"{name} {seed} utterance {each}" for each in range(count)),
        tuple(vector(seed * 1_000 + each, dim) for each in range(count)),
    )


class History:
    """A replica that numbers mutations and remembers the vector of each slot."""

    def __init__(self, snapshot: Snapshot | None = None, dim: int = DIM) -> None:
        self.replica = Replica(snapshot, dim=dim)
        self.vectors: dict[int, bytes] = {}

    def write(
        self, *mutations: Mutation, op_id: bytes | None = None, route_set: str = ""
    ) -> list[Commit]:
        """Apply mutations and return their commits."""
        commits: list[Commit] = []
        for mutation in mutations:
            op_id_of_this = op_id or uuid.uuid4().bytes
            proposal = Proposal(op_id_of_this, mutation, b"r" * 16, route_set=route_set)
            frame = encode_proposal(proposal)
            entry = make_entry(self.replica.position, frame, proposal, 1_700_000_000_000_000)
            commits += self.replica.receive(entry, Source.LOG).commits
        for commit in commits:
            follow(commit.change, self.vectors)
        self.replica.advance()
        return commits


def follow(change: Change, vectors: dict[int, bytes]) -> None:
    """Carry out a change in the vectors of all route sets, by stored slot."""
    for part in change.parts():
        number = part.set_number
        own = {slot: each for slot, each in vectors.items() if set_number_of(slot) == number}
        if part.is_set_removed:
            for slot in own:
                del vectors[slot]
        if part.forked_from is not None:
            for slot, each in list(vectors.items()):
                if set_number_of(slot) == part.forked_from:
                    vectors[stored_number(number, local_of(slot))] = each
        for slot in part.freed:
            vectors.pop(stored_number(number, slot), None)
        vectors.update((stored_number(number, each.slot), each.vector) for each in part.writes)


def held_vectors(stored: Stored) -> dict[int, bytes]:
    """Vector of every slot, as bytes."""
    rows = zip(stored.slots.tolist(), stored.vectors, strict=True)
    return {slot: row.tobytes() for slot, row in rows}


def assert_holds(stored: Stored, history: History) -> None:
    """Assert that the stored state equals the state in memory, with vectors and digest."""
    assert stored.snapshot == as_stored(history.replica.snapshot())
    assert stored.digest == history.replica.digest
    assert held_vectors(stored) == history.vectors


def as_stored(snapshot: Snapshot) -> Snapshot:
    """A snapshot as a database has it: of an epoch, it does not keep the level that it raised."""
    epochs = [replace(each, opened=replace(each.opened, level=1)) for each in snapshot.epochs]
    return replace(snapshot, epochs=tuple(epochs))


def commit_all(storage: SQLiteStorage, groups: Sequence[list[Commit]]) -> None:
    """Commit groups in order."""
    for group in groups:
        storage.commit(group)


# Another encoder than that of the histories.
NEXT = "b" * 64
NEXT_DIM = 12


def opened(path: Path, fingerprint: str = FINGERPRINT, dim: int = DIM) -> SQLiteStorage:
    """Open a database; the caller closes it."""
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


def decided(name: str, seed: int = 0, **fields: Any) -> PutRoute:
    """A route with a description, two negatives and a confidence of its own."""
    more = {
        "confidence_min": 0.25,
        "description": f"all about {name}",
        "description_vector": vector(seed * 1_000 + 100),
        "negatives": (f"not {name}", f"never {name}"),
        "negative_vectors": (vector(seed * 1_000 + 101), vector(seed * 1_000 + 102)),
    }
    return replace(put(name, 3, seed), **{**more, **fields})


def rich_history(storage: SQLiteStorage) -> History:
    """A state that uses every table."""
    history = History()
    storage.commit(history.write(OpenEpoch("e1", 0, ("n1",), FINGERPRINT, DIM)))
    storage.commit(history.write(put("a", 30), put("b", 5, 1), DeleteRoute("b"), put("c", 2, 2)))
    storage.commit(history.write(ImportBegin("i"), ImportChunk("i", 0, (put("d", 2, 3),))))
    storage.commit(history.write(Finalize(LEVEL), decided("e", 8), CalibrateDecision(b"fit")))
    return history
