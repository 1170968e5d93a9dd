"""Corruption: what counts as corrupt, how it is found, and how the file is quarantined.

A corrupt file is evidence and may hold what an operator can save.  It is renamed with its
WAL, never deleted and never written over.
"""

from __future__ import annotations

import sqlite3
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from synaptoroute.core.mutation import Position
from synaptoroute.errors import CodecError, StorageUnavailable
from synaptoroute.storage.connection import sibling, sync, translated, unavailable

_CORRUPTION_CODES: Final = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_MISMATCH,
}
_SHORT_READ: Final = 522
_MALFORMED: Final = (
    CodecError,
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)

_FILE_MAGIC: Final = b"SQLite format 3\x00"
_FILE_HEADER_BYTES: Final = 100
_FILE_WAL_VERSIONS: Final = b"\x02\x02"

_WAL_HEADER: Final = struct.Struct(">IIIIIIII")
_WAL_FRAME_HEADER: Final = struct.Struct(">IIIIII")
_WAL_SUMMED_BYTES: Final = 24
_WAL_MAGICS: Final = {0x377F0682: "<", 0x377F0683: ">"}
"""The magic number says in which byte order the checksums are computed."""
_INDEX_FRAME_COUNT_AT: Final = 16


class CorruptFile(Exception):
    """The content of the file cannot be what was written."""

    def __init__(self, reason: str, position: Position | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position


@contextmanager
def corruption_detected(position: Position | None = None) -> Iterator[None]:
    """Distinguish corrupt content, which quarantines the file, from a failing disk."""
    try:
        yield
    except CorruptFile as corrupt:
        corrupt.position = corrupt.position or position
        raise
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code & 0xFF in _CORRUPTION_CODES or code == _SHORT_READ:
            raise CorruptFile(f"SQLite says: {error}", position) from error
        raise unavailable("read the database", error) from error
    except _MALFORMED as error:
        raise CorruptFile(f"a row is malformed: {error!r}", position) from error


def corruption_message(reason: str) -> str:
    """Message about a file that turned out to be corrupt while it was in use."""
    return f"the database is damaged: {reason}; a restart moves it aside"


# --- before SQLite opens the file ---


def is_present(path: Path) -> bool:
    """Look at the file before SQLite does.

    Returns:
        Whether there is a database; an empty file counts as none.

    Raises:
        CorruptFile: It is no database, or its WAL belongs to a database that is lost.
        StorageUnavailable: It is not a file, or may not be read.
    """
    with translated(f"open {path.name}"):
        wal_bytes = _size(sibling(path, "-wal"))
        if not path.exists():
            header = b""
        elif not stat.S_ISREG(path.stat().st_mode):
            raise StorageUnavailable(
                f"{path.name} is not a file; choose another path", reason="not_a_file"
            )
        else:
            with path.open("rb") as file:
                header = file.read(_FILE_HEADER_BYTES)
    if not header:
        # SQLite would delete the WAL of an empty database, and with it the only copy of
        # what was committed.
        if wal_bytes:
            raise CorruptFile("the database is empty, its write-ahead log is not")
        return False
    if len(header) < _FILE_HEADER_BYTES or not header.startswith(_FILE_MAGIC):
        raise CorruptFile("the file is not a database")
    if wal_bytes and header[18:20] != _FILE_WAL_VERSIONS:
        raise CorruptFile("the database does not know of its write-ahead log")
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


# --- the write-ahead log ---


def is_wal_corrupt(path: Path) -> bool:
    """Whether the WAL lost transactions that were acknowledged.

    SQLite reads its WAL up to the first frame that does not match its checksum and takes
    the rest for a write that a crash interrupted.  With ``synchronous=FULL`` a crash can
    interrupt only the newest transaction.  Two commit marks behind the broken frame
    therefore mean that bytes of an acknowledged transaction changed.
    Source: https://sqlite.org/walformat.html, sections 2.1 and 2.2, and
    https://sqlite.org/fileformat2.html, section 4.

    Args:
        path: The database; a connection has read from it since it was last written.
    """
    wal, index = sibling(path, "-wal"), sibling(path, "-shm")
    if not wal.exists() or not index.exists():
        return False
    with wal.open("rb") as file, index.open("rb") as index_file:
        header = file.read(_WAL_HEADER.size)
        if len(header) < _WAL_HEADER.size:
            return False
        _, _, page_bytes, _, *salts, _, _ = _WAL_HEADER.unpack(header)
        if not _is_wal_header_sound(header):
            # The header is synced before the first frame: only corruption explains this.
            return len(file.read(1)) == 1
        index_file.seek(_INDEX_FRAME_COUNT_AT)
        (frame_count,) = struct.unpack("=I", index_file.read(4))
        return _commit_marks_behind(file, frame_count, page_bytes, salts) > 1


def _is_wal_header_sound(header: bytes) -> bool:
    magic, *_, sum_1, sum_2 = _WAL_HEADER.unpack(header)
    order = _WAL_MAGICS.get(magic)
    if order is None:
        return False
    first = second = 0
    for even, odd in struct.iter_unpack(f"{order}II", header[:_WAL_SUMMED_BYTES]):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return (first, second) == (sum_1, sum_2)


def _commit_marks_behind(
    file: BinaryIO, frame_count: int, page_bytes: int, salts: list[int]
) -> int:
    """Count the commit marks behind the first ``frame_count`` frames of the WAL."""
    marks = 0
    frame_bytes = _WAL_FRAME_HEADER.size + page_bytes
    at = _WAL_HEADER.size + frame_count * frame_bytes
    while True:
        file.seek(at)
        header = file.read(_WAL_FRAME_HEADER.size)
        if len(header) < _WAL_FRAME_HEADER.size:
            return marks
        _, pages_after, *frame_salts, _, _ = _WAL_FRAME_HEADER.unpack(header)
        # SQLite reuses the WAL from its start with new salts: frames with other salts
        # are left over from before and mean nothing.
        marks += pages_after != 0 and frame_salts == salts
        at += frame_bytes


# --- quarantine ---


def quarantine(path: Path, position: Position | None) -> Path:
    """Rename the database and its WAL out of the way.

    Returns:
        The new path, ``NAME.corrupt-POSITION``, with a number if the position is
        unknown or the name exists.

    Raises:
        StorageUnavailable: The files cannot be renamed.
    """
    # No writing connection may be open here: on closing it would work a corrupt WAL into
    # the file.  All connections up to now were read-only.
    with translated(f"move {path.name} aside"):
        target = _unused_name(path, position)
        for suffix in ("-wal", "-shm", "-journal", ""):
            source = sibling(path, suffix)
            if source.exists():
                source.rename(sibling(target, suffix))
        sync(path.parent)
    return target


def _unused_name(path: Path, position: Position | None) -> Path:
    stem = f"{path.name}.corrupt"
    names = [f"{stem}-{position.revision}"] if position is not None else []
    number = 1
    while True:
        names.append(f"{stem}-{number}" if position is None else f"{names[0]}-{number}")
        name = names[number - 1]
        if not any(sibling(path.with_name(name), each).exists() for each in ("", "-wal", "-shm")):
            return path.with_name(name)
        number += 1
