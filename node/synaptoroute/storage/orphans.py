"""Entries of a history that lost: kept until an operator says what becomes of them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

ORPHANS_MAX = 10_000
"""So many are read at once; an op log holds no more."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """One entry that the winning history does not have.

    Attributes:
        op_id: 16 bytes that name the write.
        epoch: Life of the log in which it was placed.
        seq: Its place there.
        frame: The proposal's bytes.
        moved_at_us: When it was put aside, microseconds since 1970.
    """

    op_id: bytes
    epoch: int
    seq: int
    frame: bytes
    moved_at_us: int


def read_orphans(connection: sqlite3.Connection) -> list[Orphan]:
    """Read them in the order in which they were put aside; each write once."""
    cursor = connection.execute(
        "SELECT op_id, epoch, seq, frame, moved_at_us FROM orphan WHERE orphan_id IN"
        " (SELECT min(orphan_id) FROM orphan GROUP BY op_id) ORDER BY orphan_id LIMIT ?",
        (ORPHANS_MAX,),
    )
    return [Orphan(*row) for row in cursor]


def count_orphans(connection: sqlite3.Connection) -> int:
    """Count the writes."""
    (count,) = connection.execute("SELECT count(DISTINCT op_id) FROM orphan").fetchone()
    return int(count)


def drop_orphan(connection: sqlite3.Connection, op_id: bytes) -> None:
    """Forget a write, inside the caller's transaction."""
    connection.execute("DELETE FROM orphan WHERE op_id = ?", (op_id,))
