"""Connections to the database, its locks, and the translation of their errors.

SQLite before 3.51.3 may corrupt a file whose write-ahead log is reset while another
connection checkpoints (https://sqlite.org/wal.html#walresetbug).  Therefore exactly one
connection writes, the same one checkpoints, and all others open the file read-only.

Two locks guard the file: ``FileLock`` keeps a second process out, ``ReadWriteLock`` keeps
the readers of this process away while another file takes the database's place.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

from synaptoroute.errors import StorageUnavailable
from synaptoroute.private_files import FILE_MODE, make_private_file

Synchronous: TypeAlias = Literal["full", "normal", "off"]

PAGE_BYTES: Final = 16_384
WAL_AUTOCHECKPOINT_PAGES: Final = 1_000
WAL_KEPT_BYTES: Final = 67_108_864
BUSY_SECONDS: Final = 5.0
PROBE_BYTES: Final = 65_536  # More than the index of a write-ahead log needs
EXCLUSIVE_SECONDS_MAX: Final = 30.0

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
_MESSAGES: Final = {
    "disk_full": "the disk is full",
    "read_only": "the file or its folder is read-only",
    "permission": "the file cannot be opened",
    "busy": "another connection holds the database",
    "corrupt": "the database is damaged; a restart checks it and moves it aside",
    "io": "the disk failed",
}


# --- connections ---


def connect_writer(path: Path, synchronous: Synchronous) -> sqlite3.Connection:
    """Open the one connection that writes and checkpoints."""
    connection = _connect(path, "rwc")
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_AUTOCHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
        # Overwrite deleted texts if that costs no extra write.
        connection.execute("PRAGMA secure_delete = FAST")
        _check_writable(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_writable(connection: sqlite3.Connection) -> None:
    """Fail now, not at the first commit, if the file can only be read."""
    # SQLite opens a read-only file without an error and even begins transactions on it;
    # only an actual write is refused.
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(f"PRAGMA user_version = {version}")
    finally:
        connection.execute("ROLLBACK")


def connect_reader(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """Open a connection that can neither write nor checkpoint.

    With ``immutable`` no process may change the file while it is open; its WAL is ignored.
    """
    connection = _connect(path, "ro&immutable=1" if immutable else "ro")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA query_only = ON")
    return connection


def connect_draft(draft: Path) -> sqlite3.Connection:
    """Open a file that is discarded unless it is completed: no journal, no sync."""
    connection = _connect(draft, "rwc")
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def reader_uri(path: Path, *, immutable: bool = False) -> str:
    """URI of a read-only file, for ATTACH."""
    return f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"


def roll_back_journal(path: Path) -> None:
    """Undo a change of the journal mode that a crash interrupted; readers cannot."""
    with closing(_connect(path, "rw")) as connection:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    if mode == "rwc" and not path.exists():
        # SQLite gives a new file the mode that the umask leaves, and the WAL that of the file.
        make_private_file(path)
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
def transaction(
    connection: sqlite3.Connection, doing: str | None = None
) -> Iterator[sqlite3.Connection]:
    """Run a transaction: all of it becomes durable, or nothing.

    Raises:
        StorageUnavailable: SQLite or the file system failed, and ``doing`` is given.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
    except BaseException as error:
        # A failed COMMIT may leave the transaction open.  SQLite ends it even if the
        # rollback reports an error.
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        if doing is not None and isinstance(error, (sqlite3.Error, OSError)):
            raise unavailable(doing, error) from error
        raise


def sync(path: Path) -> None:
    """Make the bytes of a file durable, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_room(folder: Path) -> bool:
    """Whether a file of some size can be written to a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\xff" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return _reason_of(error) != "disk_full"
    return True


def sibling(path: Path, suffix: str) -> Path:
    """A file beside the database, such as its WAL."""
    return path.with_name(path.name + suffix)


# --- errors ---


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into ``StorageUnavailable``."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise unavailable(doing, error) from error


def unavailable(doing: str, error: sqlite3.Error | OSError) -> StorageUnavailable:
    """Build the error with its reason as a field and a sentence for a person."""
    reason = _reason_of(error)
    message = _MESSAGES.get(reason, "the storage failed")
    return StorageUnavailable(
        f"cannot {doing}: {message} ({error})", retry_after_seconds=5.0, reason=reason
    )


def _reason_of(error: sqlite3.Error | OSError) -> str:
    match error:
        case sqlite3.Error():
            code = getattr(error, "sqlite_errorcode", None)
            return "io" if code is None else _REASONS.get(code & _PRIMARY_CODE_MASK, "io")
        case PermissionError():
            return "permission"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            return "disk_full"
        case OSError(errno=errno.EROFS):
            return "read_only"
        case _:
            return "io"


# --- locks ---


class FileLock:
    """Exclusive ``flock`` on a file beside the database, against a second process.

    The kernel releases it when the process ends, however it ends, so no lock is stale.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, without waiting.

        Raises:
            StorageUnavailable: Another process holds it (reason ``locked``), or the lock
                file cannot be made.
        """
        assert self._descriptor is None, "the lock is held already: this is a bug"
        with translated(f"open the lock file {self.path.name}"):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            self._lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _lock(self, descriptor: int) -> None:
        with translated(f"lock {self.path.name}"):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                raise StorageUnavailable(
                    f"another process{f' ({holder})' if holder else ''} has the database open: "
                    f"{self.path.name} is locked",
                    reason="locked",
                ) from error
        # The process id is only for the message above, so a full disk does not matter.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Give the lock back, also where a forked child has not dropped its copy yet."""
        if self._descriptor is not None:
            with suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.drop()

    def drop(self) -> None:
        """Close the file; in a forked child the parent keeps the lock."""
        # The lock file stays: if it were removed, a process that still waits for the
        # removed file and one that makes a new file would both believe to hold the lock.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class ReadWriteLock:
    """Many readers of the file, or one thread that replaces it.

    SQLite finds WAL and index by the name of the database.  A connection that outlives
    the file it opened could take the next file's WAL for its own, so none may be open
    while the file is replaced.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reader_count = 0
        self._is_exclusive = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            if not self._changed.wait_for(lambda: not self._is_exclusive, EXCLUSIVE_SECONDS_MAX):
                raise StorageUnavailable("the database is being replaced", reason="busy")
            self._reader_count += 1
        try:
            yield
        finally:
            with self._changed:
                self._reader_count -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self, wait_seconds_max: float) -> Iterator[bool]:
        """Keep new readers out; yields whether those that read finished in time."""
        with self._changed:
            assert not self._is_exclusive, "the lock is held already: this is a bug"
            self._is_exclusive = True
            is_free = self._changed.wait_for(lambda: self._reader_count == 0, wait_seconds_max)
        try:
            yield is_free
        finally:
            with self._changed:
                self._is_exclusive = False
                self._changed.notify_all()
