"""Connections to the database, and what their errors mean.

Rule 1: exactly one connection writes, and the same one checkpoints; SQLite before
3.51.3 may corrupt a file whose write-ahead log is reset while another connection
checkpoints (https://sqlite.org/wal.html#walresetbug).  Rule 2: readers open the file
read-only, so rule 1 does not rest on good behaviour.  Rule 3: no transaction outlives
the call that began it, whatever happens in between.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

from synaptoroute.errors import StorageUnavailable

Synchronous: TypeAlias = Literal["full", "normal", "off"]

PAGE_BYTES: Final = 16_384
WAL_AUTOCHECKPOINT_PAGES: Final = 1_000
WAL_KEPT_BYTES: Final = 67_108_864
BUSY_SECONDS: Final = 5.0

_PRIMARY_CODE_MASK: Final = 0xFF
_REASONS: Final = {
    sqlite3.SQLITE_FULL: "disk_full",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_PERM: "permission",
    sqlite3.SQLITE_CANTOPEN: "permission",
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "corrupt",
}
_SAYINGS: Final = {
    "disk_full": "the disk is full",
    "read_only": "the file or its folder is read-only",
    "permission": "the file cannot be opened",
    "busy": "another connection holds the database",
    "corrupt": "the database is damaged; a restart checks it and moves it aside",
    "io": "the disk failed",
}


def connect_writer(path: Path, synchronous: Synchronous) -> sqlite3.Connection:
    """Open the one connection that writes and checkpoints.

    Raises:
        sqlite3.Error: The file cannot be opened for writing.
    """
    connection = _connect(path, "rwc")
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_AUTOCHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
        # Overwrite deleted texts where that costs no extra write.
        connection.execute("PRAGMA secure_delete = FAST")
        _try_to_write(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _try_to_write(connection: sqlite3.Connection) -> None:
    """Let a file that can only be read say so now, not at the first commit.

    SQLite quietly opens such a file for reading, and even begins transactions on it.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(f"PRAGMA user_version = {version}")
    finally:
        connection.execute("ROLLBACK")


def connect_reader(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """Open a connection that can neither write nor checkpoint.

    Args:
        path: The database.
        immutable: Nobody changes the file while it is open; a log beside it is ignored.
    """
    connection = _connect(path, "ro&immutable=1" if immutable else "ro")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA query_only = ON")
    return connection


def roll_back(path: Path) -> None:
    """Undo a change of the journal mode that a crash cut short; readers cannot.

    Raises:
        sqlite3.Error: The file cannot be read or written.
    """
    with closing(_connect(path, "rw")) as connection:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()


def reader_uri(path: Path) -> str:
    """Name a file that nobody changes, for ATTACH."""
    return f"{path.absolute().as_uri()}?mode=ro&immutable=1"


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        # The caller's thread opens it, the applier's thread uses it afterwards.
        check_same_thread=False,
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Make what is inside durable as a whole, or undo it as a whole."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite ends the transaction even where the rollback itself reports an error.
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into ``StorageUnavailable``."""
    try:
        yield
    except sqlite3.Error as error:
        raise unavailable(doing, reason_of(error), error) from error
    except OSError as error:
        raise unavailable(doing, _reason_of_os(error), error) from error


def reason_of(error: sqlite3.Error) -> str:
    """Sort an error of SQLite: disk_full, read_only, permission, busy, corrupt or io."""
    code = getattr(error, "sqlite_errorcode", None)
    return _REASONS.get(code & _PRIMARY_CODE_MASK, "io") if code is not None else "io"


def _reason_of_os(error: OSError) -> str:
    match error:
        case PermissionError():
            return "permission"
        case OSError(errno=28):
            return "disk_full"
        case OSError(errno=30):
            return "read_only"
        case _:
            return "io"


def unavailable(doing: str, reason: str, error: Exception) -> StorageUnavailable:
    """Build the error with its reason as a field and a sentence for a person."""
    saying = _SAYINGS.get(reason, "the storage failed")
    return StorageUnavailable(
        f"cannot {doing}: {saying} ({error})", retry_after_seconds=5.0, reason=reason
    )
