"""Version 2 of the schema: what a database holds once its log is at level 2.

The tables are created in the transaction that applies the entry which raises the level, not at
the start of a release: until the cluster is finalized, the release before must be able to open
the file.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Final

from synaptoroute.core.change import Commit
from synaptoroute.core.mutation import Position
from synaptoroute.core.replica import CHAINS_KEPT
from synaptoroute.snapshot_file import FINALIZED_SCHEMA
from synaptoroute.storage.corruption import CorruptFile
from synaptoroute.storage.records import checksum

FINALIZED_VERSION: Final = 2
_LEVEL: Final = "level"
_VOTER_KEYS: Final = "voter_keys"
_INSERT: Final = "INSERT OR REPLACE INTO cluster VALUES (?, ?, ?)"


def is_finalized(connection: sqlite3.Connection, schema: str = "main") -> bool:
    """Whether a file has the tables of version 2."""
    found = connection.execute(
        f"SELECT count(*) FROM {schema}.sqlite_schema WHERE name IN ('seal', 'cluster')"
    ).fetchone()
    return bool(found[0] == 2)


def create_finalized_tables(connection: sqlite3.Connection) -> None:
    """Create the tables of version 2, inside the caller's transaction, if they are not there."""
    if is_finalized(connection):
        return
    for statement in FINALIZED_SCHEMA:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {FINALIZED_VERSION}")


def write_level(
    connection: sqlite3.Connection, level: int, voter_keys: Iterable[tuple[str, str]]
) -> None:
    """Write the level of the log and the keys of its voters, inside the caller's transaction."""
    create_finalized_tables(connection)
    facts = {_LEVEL: str(level), _VOTER_KEYS: json.dumps(dict(voter_keys), sort_keys=True)}
    connection.executemany(
        _INSERT, [(key, text, checksum(key, text)) for key, text in facts.items()]
    )


def read_level(connection: sqlite3.Connection) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Read the level of the log and the keys of its voters."""
    if not is_finalized(connection):
        return 1, ()
    facts = {}
    for key, text, total in connection.execute("SELECT key, value, sum FROM cluster"):
        if checksum(key, text) != total:
            raise CorruptFile(f"the fact {key!r} of the cluster does not match its checksum")
        facts[key] = text
    keys = json.loads(facts.get(_VOTER_KEYS, "{}"))
    return int(facts.get(_LEVEL, "1")), tuple(sorted(keys.items()))


def read_chains(connection: sqlite3.Connection, position: Position) -> tuple[tuple[int, str], ...]:
    """Read the chains of the newest entries of the op log, if it ends at the position."""
    rows = connection.execute(
        "SELECT seq, chain FROM oplog WHERE seq > ? ORDER BY seq", (position.seq - CHAINS_KEPT,)
    ).fetchall()
    is_whole = bool(rows) and rows[-1][0] == position.seq == rows[0][0] + len(rows) - 1
    return tuple(rows) if is_whole else ()


def read_seals(connection: sqlite3.Connection, position: Position) -> tuple[tuple[int, bytes], ...]:
    """Read the seals of the newest entries of the op log."""
    after = position.seq - CHAINS_KEPT
    rows = connection.execute("SELECT seq, seal FROM seal WHERE seq > ? ORDER BY seq", (after,))
    return tuple(rows.fetchall())


def write_seals(connection: sqlite3.Connection, commits: Iterable[Commit]) -> None:
    """Keep the seals of entries, inside the caller's transaction."""
    entries = [commit.entry for commit in commits]
    seals = [(entry.seq, entry.seal) for entry in entries if entry.stood is not None]
    if seals and is_finalized(connection):
        # A seal of a history that was left may still have this place.
        connection.executemany("INSERT OR REPLACE INTO seal VALUES (?, ?)", seals)


def trim_seals(connection: sqlite3.Connection, floor: int) -> None:
    """Delete the seals before a place, inside the caller's transaction."""
    if is_finalized(connection):
        connection.execute("DELETE FROM seal WHERE seq < ?", (floor,))


def copy_finalized_tables(
    connection: sqlite3.Connection, source: str, target: str, floor: int = 0
) -> None:
    """Copy the tables of version 2 from one attached file to another, if they are there.

    Args:
        connection: Inside the caller's transaction.
        source: Name of the attached file to read.
        target: ``main``; its tables are created, or emptied, first.
        floor: The first seal that is copied.
    """
    if is_finalized(connection, target):
        connection.execute(f"DELETE FROM {target}.cluster")
        connection.execute(f"DELETE FROM {target}.seal")
    if is_finalized(connection, source):
        create_finalized_tables(connection)
        connection.execute(f"INSERT INTO {target}.cluster SELECT * FROM {source}.cluster")
        connection.execute(
            f"INSERT INTO {target}.seal SELECT * FROM {source}.seal WHERE seq >= ?", (floor,)
        )


def schema_rows(connection: sqlite3.Connection) -> set[tuple[str, str, str | None]]:
    """Read the schema of a file without the tables of version 2, if those are as they must be."""
    rows = set(connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall())
    if is_finalized(connection):
        with sqlite3.connect(":memory:") as blank:
            create_finalized_tables(blank)
            rows -= set(blank.execute("SELECT type, name, sql FROM sqlite_schema").fetchall())
        blank.close()
    return rows
