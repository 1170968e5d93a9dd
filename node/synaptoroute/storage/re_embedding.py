"""Replaces all vectors of a database by those of another encoder.

The new vectors wait in ``slot_next`` beside the old ones, written in transactions of a
few hundred, so the work may be killed anywhere and continues where it was.  One
transaction swaps them in.  It keeps the position, so it is for a node without a cluster: a
cluster changes its encoder through its log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from synaptoroute.core.change import Snapshot
from synaptoroute.core.digest import stored_row_hash
from synaptoroute.core.rows import local_of, set_number_of
from synaptoroute.errors import ConfigError, InvalidVector, StorageUnavailable
from synaptoroute.storage.connection import transaction, translated
from synaptoroute.storage.corruption import CorruptFile
from synaptoroute.storage.database import NEXT_DIM, NEXT_FINGERPRINT, Database
from synaptoroute.storage.loader import load
from synaptoroute.storage.records import (
    ROWS_AT_ONCE,
    VECTOR_DTYPE,
    Meta,
    Stored,
    meta_row,
    state_digest,
)
from synaptoroute.storage.writer import INSERT_META, write_fact


@dataclass(frozen=True, slots=True)
class ReEmbeddingProgress:
    """Progress of writing the vectors of another encoder."""

    fingerprint: str
    dim: int
    done_slots: int
    total_slots: int


class ReEmbedding:
    """The change of the encoder of one open database.  Runs on the writing thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pending(self) -> ReEmbeddingProgress | None:
        """Return how far a change of the encoder has come; None if there is none."""
        writer, facts = self._database.writer, self._database.facts
        if NEXT_FINGERPRINT not in facts:
            return None
        with translated("count re-embedded rows"):
            (done,) = writer.execute("SELECT count(*) FROM slot_next").fetchone()
            (total,) = writer.execute("SELECT count(*) FROM slot").fetchone()
        return ReEmbeddingProgress(facts[NEXT_FINGERPRINT], int(facts[NEXT_DIM]), done, total)

    def begin(self, fingerprint: str, dim: int) -> ReEmbeddingProgress:
        """Begin to replace all vectors, or continue where an earlier run ended.

        Pending vectors of a third encoder are dropped.
        """
        database = self._database
        if (database.meta.fingerprint, database.meta.dim) == (fingerprint, dim):
            raise ConfigError(f"the stored vectors are of encoder {fingerprint} already")
        wanted = {NEXT_FINGERPRINT: fingerprint, NEXT_DIM: str(dim)}
        if any(database.facts.get(key) != value for key, value in wanted.items()):
            with transaction(database.writable(), "begin a change of the encoder") as writer:
                writer.execute("DELETE FROM slot_next")
                for key, value in wanted.items():
                    write_fact(writer, key, value)
            database.facts = {**database.facts, **wanted}
        return self._required()

    def missing(self, rows_max: int) -> list[tuple[int, str]]:
        """Read the lowest slots that need their new vector, with their texts."""
        self._required()
        with translated("read rows to re-embed"):
            return _read_missing(self._database.writer, rows_max)

    def put(self, rows: Sequence[tuple[int, bytes]]) -> None:
        """Keep new vectors: pairs of slot and float32[dim] bytes, all or none.

        Raises:
            InvalidVector: A vector has another dimension than the new encoder's.
            ConfigError: A slot has no owner.
        """
        vector_bytes = self._required().dim * VECTOR_DTYPE.itemsize
        with transaction(self._database.writable(), "keep re-embedded rows") as writer:
            for slot, vector in rows:
                if len(vector) != vector_bytes:
                    raise InvalidVector(
                        f"the vector of slot {slot} has {len(vector)} bytes, not {vector_bytes}"
                    )
                _write_next(writer, slot, vector)

    def finish(self) -> Stored:
        """Swap all vectors at once and read the state back, verified.

        Afterwards the op log is empty and open imports are dropped: both held vectors
        of the old encoder.

        Raises:
            ConfigError: Vectors are missing; nothing changed.
            StorageUnavailable: Nothing changed; with reason ``corrupt`` the new vectors
                were damaged and have to be made again.
        """
        pending, database = self._required(), self._database
        try:
            snapshot = load(database.path).snapshot
            with transaction(database.writable(), "swap the vectors") as writer:
                meta = _swap(writer, snapshot, pending)
        except CorruptFile as corrupt:
            with transaction(database.writable(), "drop damaged vectors") as writer:
                writer.execute("DELETE FROM slot_next")
            raise StorageUnavailable(
                f"the vectors have to be made again: {corrupt.reason}", reason="corrupt"
            ) from corrupt
        database.set_state(meta, pending.total_slots)
        return load(database.path)

    def _required(self) -> ReEmbeddingProgress:
        pending = self.pending()
        if pending is None:
            raise ConfigError("no change of the encoder was begun")
        return pending


def _read_missing(connection: sqlite3.Connection, rows_max: int) -> list[tuple[int, str]]:
    return connection.execute(
        "SELECT slot, utterance FROM slot"
        " WHERE slot NOT IN (SELECT slot FROM slot_next) ORDER BY slot LIMIT ?",
        (rows_max,),
    ).fetchall()


def _write_next(connection: sqlite3.Connection, slot: int, vector: bytes) -> None:
    row = connection.execute(
        "SELECT route_id, utterance FROM slot WHERE slot = ?", (slot,)
    ).fetchone()
    if row is None:
        raise ConfigError(f"slot {slot} has no owner, so it cannot be re-embedded")
    owner, utterance = row
    connection.execute(
        "INSERT OR REPLACE INTO slot_next VALUES (?, ?, ?)",
        (slot, vector, stored_row_hash(slot, owner, utterance, vector)),
    )


def _swap(connection: sqlite3.Connection, snapshot: Snapshot, pending: ReEmbeddingProgress) -> Meta:
    if _read_missing(connection, 1) or pending.done_slots != pending.total_slots:
        raise ConfigError(
            f"{pending.total_slots - pending.done_slots} utterances are not re-encoded yet"
        )
    row_hashes: dict[int, dict[int, bytes]] = {}
    for slot, hashed in _verified_hashes(connection):
        row_hashes.setdefault(set_number_of(slot), {})[local_of(slot)] = hashed
    connection.execute(
        "UPDATE slot SET vector = n.vector, row_hash = n.row_hash"
        " FROM slot_next AS n WHERE n.slot = slot.slot"
    )
    # Op log and staged imports hold vectors of the old encoder: kept, a peer or a commit
    # would bring one back.
    for table in ("slot_next", "oplog", "staging", "import_open"):
        connection.execute(f"DELETE FROM {table}")
    connection.execute("DELETE FROM node WHERE key IN (?, ?)", (NEXT_FINGERPRINT, NEXT_DIM))
    sets = tuple(
        replace(state, row_hashes=row_hashes.get(state.record.number, {}), imports=())
        for state in snapshot.sets
    )
    swapped = replace(snapshot, row_hashes=row_hashes.get(0, {}), imports=(), sets=sets)
    digest = state_digest(swapped)
    meta = Meta(swapped.position, digest, pending.fingerprint, pending.dim, swapped.settings)
    connection.execute(INSERT_META, meta_row(meta))
    return meta


def _verified_hashes(connection: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    cursor = connection.execute(
        "SELECT s.slot, s.route_id, s.utterance, n.vector, n.row_hash"
        " FROM slot AS s JOIN slot_next AS n ON n.slot = s.slot ORDER BY s.slot"
    )
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        for slot, owner, utterance, vector, stored in rows:
            if stored_row_hash(slot, owner, utterance, vector) != stored:
                raise CorruptFile(f"the new vector of slot {slot} does not match its hash")
            yield slot, stored
