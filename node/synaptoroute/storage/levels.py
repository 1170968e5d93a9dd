"""Versions 2 to 5 of the schema: what a database holds once its log is at level 2 or above.

The tables of a version are created in the transaction that applies the entry which raises the
level, not at the start of a release: until the cluster is finalized, the release before must be
able to open the file.  Version 4 adds no table: it says that routes may have names which the
release before refuses.  ``sets`` reads and writes the tables of version 5.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Final

from synaptoroute.core.change import Commit, FeedbackItem, FittedDecision
from synaptoroute.core.mutation import Position
from synaptoroute.core.replica import CHAINS_KEPT
from synaptoroute.core.rows import stored_key
from synaptoroute.snapshot_file import SCHEMA_STEPS
from synaptoroute.storage.corruption import CorruptFile
from synaptoroute.storage.records import checksum

FINALIZED_VERSION: Final = 2
DECISION_VERSION: Final = 3
NAMES_VERSION: Final = 4
SETS_VERSION: Final = 5
NEWEST_VERSION: Final = SETS_VERSION
_FINALIZED_TABLES: Final = ("cluster", "seal")
_DECISION_TABLES: Final = ("route_decision", "decision", "feedback")
_SET_TABLES: Final = ("route_set", "set_decision", "set_test", "alias")
_LEVEL: Final = "level"
_VOTER_KEYS: Final = "voter_keys"
_VOTER_LINKS: Final = "voter_links"
_INSERT: Final = "INSERT OR REPLACE INTO cluster VALUES (?, ?, ?)"


def is_finalized(connection: sqlite3.Connection, schema: str = "main") -> bool:
    """Whether a file has the tables of version 2."""
    found = connection.execute(
        f"SELECT count(*) FROM {schema}.sqlite_schema WHERE name IN ('seal', 'cluster')"
    ).fetchone()
    return bool(found[0] == 2)


def has_decision_tables(connection: sqlite3.Connection, schema: str = "main") -> bool:
    """Whether a file has the tables of version 3."""
    found = connection.execute(
        f"SELECT count(*) FROM {schema}.sqlite_schema WHERE name IN ('route_decision', 'decision')"
    ).fetchone()
    return bool(found[0] == 2)


def has_set_tables(connection: sqlite3.Connection, schema: str = "main") -> bool:
    """Whether a file has the tables of version 5."""
    found = connection.execute(
        f"SELECT count(*) FROM {schema}.sqlite_schema WHERE type = 'table' AND name IN"
        " ('route_set', 'set_decision', 'set_test', 'alias')"
    ).fetchone()
    return bool(found[0] == len(_SET_TABLES))


def tables_version(connection: sqlite3.Connection, schema: str = "main") -> int:
    """The newest version whose tables a file has; version 4 has none of its own."""
    if has_set_tables(connection, schema):
        return SETS_VERSION
    return 1 + is_finalized(connection, schema) + has_decision_tables(connection, schema)


def create_level_tables(connection: sqlite3.Connection, level: int) -> None:
    """Create the tables of a level, inside the caller's transaction, if they are not there."""
    for version in range(tables_version(connection) + 1, min(level, NEWEST_VERSION) + 1):
        for statement in SCHEMA_STEPS[version - FINALIZED_VERSION]:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")


def write_level(
    connection: sqlite3.Connection, level: int, voter_keys: Iterable[tuple[str, str]]
) -> None:
    """Write the level of the log and the keys of its voters, inside the caller's transaction."""
    create_level_tables(connection, max(level, FINALIZED_VERSION))
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


def read_confidence(connection: sqlite3.Connection) -> dict[int, float]:
    """Read the ``confidence_min`` of the routes that have one, by route id."""
    return dict(connection.execute("SELECT route_id, confidence_min FROM route_decision"))


def write_confidence(
    connection: sqlite3.Connection, confidence: Mapping[int, float | None]
) -> None:
    """Set or clear the ``confidence_min`` of routes, inside the caller's transaction."""
    gone = [(route_id,) for route_id in confidence]
    held = [(route_id, each) for route_id, each in confidence.items() if each is not None]
    connection.executemany("DELETE FROM route_decision WHERE route_id = ?", gone)
    connection.executemany("INSERT INTO route_decision VALUES (?, ?)", held)


def read_decision(connection: sqlite3.Connection) -> FittedDecision:
    """Read the numbers behind the confidence."""
    row = connection.execute("SELECT payload, node, at_ms, sum FROM decision").fetchone()
    if row is None:
        return FittedDecision()
    *fields, total = row
    if checksum(*fields) != total:
        raise CorruptFile("the numbers of the decision do not match their checksum")
    return FittedDecision(*fields)


def write_decision(connection: sqlite3.Connection, decision: FittedDecision) -> None:
    """Replace the numbers behind the confidence, inside the caller's transaction."""
    connection.execute("DELETE FROM decision")
    if decision.payload:
        row = (*decision, checksum(*decision))
        connection.execute("INSERT INTO decision VALUES (1, ?, ?, ?, ?)", row)


def add_voter_link(connection: sqlite3.Connection, link: str) -> None:
    """Append to the chain of the voters, inside the caller's transaction."""
    text = json.dumps([*read_voter_links(connection), link], separators=(",", ":"))
    connection.execute(_INSERT, (_VOTER_LINKS, text, checksum(_VOTER_LINKS, text)))


def read_voter_links(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Read the chain of the voters, see ``trust.voters``; it proves itself."""
    if not is_finalized(connection):
        return ()
    found = connection.execute("SELECT value FROM cluster WHERE key = ?", (_VOTER_LINKS,))
    row = found.fetchone()
    return tuple(json.loads(row[0])) if row else ()


def read_chains(connection: sqlite3.Connection, position: Position) -> tuple[tuple[int, str], ...]:
    """Read the chains of the newest entries of the op log, if it ends at the position."""
    rows = connection.execute(
        "SELECT seq, chain FROM oplog WHERE seq > ? ORDER BY seq", (position.seq - CHAINS_KEPT,)
    ).fetchall()
    is_whole = bool(rows) and rows[-1][0] == position.seq == rows[0][0] + len(rows) - 1
    return tuple(rows) if is_whole else ()


def read_seals(connection: sqlite3.Connection, position: Position) -> tuple[tuple[int, bytes], ...]:
    """Read the seals of the newest entries."""
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


def seal_floor(floor: int, newest: int) -> int:
    """Return the first seal that is kept of an op log that begins at ``floor``.

    Seals outlive their entries: by them an entry that is appended again is known, and whether it
    is must not depend on how a node came to its state.
    """
    return min(floor, newest - CHAINS_KEPT + 1)


def trim_seals(connection: sqlite3.Connection, floor: int, newest: int) -> None:
    """Delete the seals that are too old, inside the caller's transaction."""
    if is_finalized(connection):
        connection.execute("DELETE FROM seal WHERE seq < ?", (seal_floor(floor, newest),))


def write_feedback(
    connection: sqlite3.Connection,
    items: Iterable[FeedbackItem],
    gone: Iterable[FeedbackItem] = (),
    number: int = 0,
) -> None:
    """Delete and insert items of a set's review queue, inside the caller's transaction."""
    create_level_tables(connection, DECISION_VERSION)
    connection.executemany(
        "DELETE FROM feedback WHERE item_id = ?",
        [(stored_key(number, each.item_id),) for each in gone],
    )
    connection.executemany(
        "INSERT INTO feedback VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(stored_key(number, each.item_id), *each[1:]) for each in items],
    )


def copy_level_tables(
    connection: sqlite3.Connection, source: str, target: str, floor: int = 0
) -> None:
    """Copy what versions 2 to 5 add from one attached file to another, if it is there.

    Args:
        connection: Inside the caller's transaction.
        source: Name of the attached file to read.
        target: ``main``; its tables are created, or emptied, first.
        floor: The first seal that is copied.
    """
    empty_level_tables(connection, target)
    if is_finalized(connection, source):
        create_level_tables(connection, FINALIZED_VERSION)
        connection.execute(f"INSERT INTO {target}.cluster SELECT * FROM {source}.cluster")
        connection.execute(
            f"INSERT INTO {target}.seal SELECT * FROM {source}.seal WHERE seq >= ?", (floor,)
        )
    if has_decision_tables(connection, source):
        create_level_tables(connection, DECISION_VERSION)
        for table in _DECISION_TABLES:
            connection.execute(f"INSERT INTO {target}.{table} SELECT * FROM {source}.{table}")
    (version,) = connection.execute(f"PRAGMA {source}.user_version").fetchone()
    if version >= NAMES_VERSION:
        create_level_tables(connection, version)
    if has_set_tables(connection, source):
        for table in _SET_TABLES:
            connection.execute(f"INSERT INTO {target}.{table} SELECT * FROM {source}.{table}")


def empty_level_tables(connection: sqlite3.Connection, schema: str = "main") -> None:
    """Delete the rows of the tables of versions 2 to 5, inside the caller's transaction."""
    tables: tuple[str, ...] = _FINALIZED_TABLES if is_finalized(connection, schema) else ()
    if has_decision_tables(connection, schema):
        tables += _DECISION_TABLES
    if has_set_tables(connection, schema):
        tables += _SET_TABLES
    for table in tables:
        connection.execute(f"DELETE FROM {schema}.{table}")


def schema_rows(connection: sqlite3.Connection) -> set[tuple[str, str, str | None]]:
    """Read the schema without the tables of later versions, if those are as they must be."""
    rows = set(connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall())
    if is_finalized(connection):
        with sqlite3.connect(":memory:") as blank:
            create_level_tables(blank, tables_version(connection))
            rows -= set(blank.execute("SELECT type, name, sql FROM sqlite_schema").fetchall())
        blank.close()
    return rows
