"""The schema's life: made once, then moved from version to version.

``PRAGMA user_version`` holds the version, ``PRAGMA application_id`` says whose file it
is.  A migration is one function, runs in one transaction with the change of the version,
and is never edited once it was released.
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
"""From each older version, the step to the next."""

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
    """Make the tables of version 1, inside the caller's transaction."""
    script = files("synaptoroute.storage").joinpath("schema.sql").read_text("utf-8")
    lines = (line for line in script.splitlines() if not line.startswith("--"))
    for statement in "\n".join(lines).split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether nothing was ever put in the file."""
    (count,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return bool(count == 0)


def stored_version(connection: sqlite3.Connection) -> int:
    """Read the schema version.

    Raises:
        SchemaTooNew: A later release wrote the file.
        StorageUnavailable: The file is another program's.
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
    """Move the file to this release's version, one transaction a step."""
    for version in range(stored_version(connection), SCHEMA_VERSION):
        with transaction(connection):
            MIGRATIONS[version](connection)
            connection.execute(f"PRAGMA user_version = {version + 1}")
