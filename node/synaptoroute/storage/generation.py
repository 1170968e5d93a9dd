"""All vectors at once: another encoder's, written beside the old ones, then swapped.

The new vectors go to ``slot_next`` in transactions of a few hundred, so the work may be
killed anywhere and goes on where it was.  A row whose text or owner changed meanwhile
loses its new vector, so what is swapped in is always that of the present text.  The
swap is one transaction.

The op log and staged imports hold vectors of the old encoder: the swap drops them, so
neither a peer nor a commit can bring an old vector back.  It keeps the position: it is
for a node without a cluster; a cluster changes its encoder through its log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from synaptoroute.core.digest import row_hash
from synaptoroute.core.snapshot import Snapshot
from synaptoroute.errors import ConfigError, InvalidVector
from synaptoroute.storage.corruption import Damaged
from synaptoroute.storage.records import meta_row, sums_of
from synaptoroute.storage.writer import INSERT_META

NEXT_FINGERPRINT: Final = "next_fingerprint"
NEXT_DIM: Final = "next_dim"
_FLOAT_BYTES: Final = 4
_ROWS_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True)
class Generation:
    """Vectors of another encoder that are being made.

    Attributes:
        fingerprint: The other encoder's.
        dim: Dimension of its vectors.
        done_slots: Slots that have their new vector.
        total_slots: Slots that need one.
    """

    fingerprint: str
    dim: int
    done_slots: int
    total_slots: int


def count_slots(connection: sqlite3.Connection) -> tuple[int, int]:
    """Count slots that have a new vector, and all slots."""
    (done,) = connection.execute("SELECT count(*) FROM slot_next").fetchone()
    (total,) = connection.execute("SELECT count(*) FROM slot").fetchone()
    return done, total


def read_unencoded(connection: sqlite3.Connection, rows_max: int) -> list[tuple[int, str]]:
    """Read the lowest slots without a new vector, with their texts."""
    return connection.execute(
        "SELECT slot, utterance FROM slot"
        " WHERE slot NOT IN (SELECT slot FROM slot_next) ORDER BY slot LIMIT ?",
        (rows_max,),
    ).fetchall()


def write_encoded(
    connection: sqlite3.Connection, rows: Sequence[tuple[int, bytes]], dim: int
) -> None:
    """Keep new vectors, inside the caller's transaction.

    Raises:
        InvalidVector: A vector has another dimension.
        ConfigError: A slot has no owner.
    """
    for slot, vector in rows:
        if len(vector) != dim * _FLOAT_BYTES:
            raise InvalidVector(f"the vector of slot {slot} is not float32[{dim}]")
        owner = connection.execute(
            "SELECT route_id, utterance FROM slot WHERE slot = ?", (slot,)
        ).fetchone()
        if owner is None:
            raise ConfigError(f"slot {slot} has no owner, so it cannot be re-encoded")
        route_id, utterance = owner
        connection.execute(
            "INSERT OR REPLACE INTO slot_next VALUES (?, ?, ?)",
            (slot, vector, row_hash(slot, route_id, utterance, vector)),
        )


def swap(
    connection: sqlite3.Connection, snapshot: Snapshot, generation: Generation
) -> tuple[Snapshot, str]:
    """Put the new vectors in the place of the old, inside the caller's transaction.

    Returns:
        The state afterwards and its digest.

    Raises:
        ConfigError: Slots are still without a new vector.
        Damaged: A new vector changed on the disk since it was written.
    """
    missing = len(read_unencoded(connection, 1))
    if missing or generation.done_slots != generation.total_slots:
        raise ConfigError(
            f"{generation.total_slots - generation.done_slots} utterances are not re-encoded yet"
        )
    row_hashes = dict(_checked_hashes(connection))
    connection.execute(
        "UPDATE slot SET vector = n.vector, row_hash = n.row_hash"
        " FROM slot_next AS n WHERE n.slot = slot.slot"
    )
    for table in ("slot_next", "oplog", "staging", "import_open"):
        connection.execute(f"DELETE FROM {table}")
    connection.execute("DELETE FROM node WHERE key IN (?, ?)", (NEXT_FINGERPRINT, NEXT_DIM))
    swapped = replace(snapshot, row_hashes=row_hashes, imports=())
    digest = sums_of(swapped).hex()
    connection.execute(
        INSERT_META,
        meta_row(
            swapped.position, digest, generation.fingerprint, generation.dim, swapped.settings
        ),
    )
    return swapped, digest


def _checked_hashes(connection: sqlite3.Connection) -> Iterator[tuple[int, bytes]]:
    """Recompute the hash of every new row."""
    cursor = connection.execute(
        "SELECT s.slot, s.route_id, s.utterance, n.vector, n.row_hash"
        " FROM slot AS s JOIN slot_next AS n ON n.slot = s.slot ORDER BY s.slot"
    )
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        for slot, route_id, utterance, vector, stored in rows:
            if row_hash(slot, route_id, utterance, vector) != stored:
                raise Damaged(f"the new vector of slot {slot} does not match its hash")
            yield slot, stored
