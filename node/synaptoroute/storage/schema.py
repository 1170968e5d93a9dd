"""The schema: created once, then migrated from version to version.

``PRAGMA user_version`` holds the version, ``PRAGMA application_id`` marks the file as ours.
A migration is one function.  It runs in one transaction with the change of the version, and
is never edited once it was released.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Final

from synaptoroute.errors import SchemaTooNew, StorageUnavailable
from synaptoroute.storage.connection import transaction

APPLICATION_ID: Final = 0x53526F75
SCHEMA_VERSION = 1
MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {}
"""The step from each older version to the next."""

TABLES: Final = frozenset(
    {
        "meta",
        "node",
        "route",
        "slot",
        "slot_next",
        "oplog",
        "remembered",
        "import_open",
        "staging",
        "epoch",
        "orphan",
    }
)


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables of version 1, inside the caller's transaction."""
    # Comments are removed: SQLite stores the text of each statement, and snapshots are
    # compared with it character by character.
    script = files("synaptoroute.storage").joinpath("schema.sql").read_text("utf-8")
    lines = (line for line in script.splitlines() if not line.startswith("--"))
    for statement in "\n".join(lines).split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether the file has no tables."""
    (count,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return bool(count == 0)


def stored_version(connection: sqlite3.Connection) -> int:
    """Read the schema version.

    Raises:
        SchemaTooNew: A later release wrote the file.
        StorageUnavailable: The file belongs to another program.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if application_id != APPLICATION_ID and not {"meta", "slot", "oplog"} <= names:
        raise StorageUnavailable(
            "the file is the SQLite database of another program; choose another path",
            reason="foreign",
        )
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"the database has schema version {version}, this release knows up to "
            f"{SCHEMA_VERSION}; run the release that wrote it, or a later one",
            stored=version,
            known=SCHEMA_VERSION,
        )
    return int(version)


def migrate(connection: sqlite3.Connection) -> None:
    """Migrate the file to this release's version, one transaction per step."""
    for version in range(stored_version(connection), SCHEMA_VERSION):
        with transaction(connection):
            MIGRATIONS[version](connection)
            connection.execute(f"PRAGMA user_version = {version + 1}")
