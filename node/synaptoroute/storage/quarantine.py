"""What stands at the path, and how a file that cannot be trusted gets out of the way.

A damaged file is evidence and may hold what an operator can save, so it is renamed
with its log, never deleted, never written over.  The connections that found the damage
were read-only: one that can write would, on closing, work a damaged log into the file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from synaptoroute.core.mutation import Position
from synaptoroute.errors import StorageUnavailable
from synaptoroute.storage.connection import translated
from synaptoroute.storage.corruption import Damaged

_MAGIC: Final = b"SQLite format 3\x00"
_HEADER_BYTES: Final = 100
_WAL_VERSIONS: Final = b"\x02\x02"


def is_present(path: Path) -> bool:
    """Look at what stands at the path before SQLite does.

    Returns:
        Whether there is a database; an empty file counts as none.

    Raises:
        Damaged: It is no database, or it lost what its log belongs to: SQLite would
            delete such a log.
        StorageUnavailable: It is not a file, or may not be read.
    """
    with translated(f"open {path.name}"):
        log_bytes = _size(sibling(path, "-wal"))
        if not path.exists():
            header = b""
        elif not stat.S_ISREG(path.stat().st_mode):
            raise StorageUnavailable(
                f"{path.name} is not a file; choose another path", reason="not_a_file"
            )
        else:
            with path.open("rb") as file:
                header = file.read(_HEADER_BYTES)
    if not header:
        if log_bytes:
            raise Damaged("the database is empty, its write-ahead log is not")
        return False
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise Damaged("the file is not a database")
    if log_bytes and header[18:20] != _WAL_VERSIONS:
        raise Damaged("the database does not know of its write-ahead log")
    return True


def sibling(path: Path, suffix: str) -> Path:
    """A file that SQLite keeps beside the database."""
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def move_aside(path: Path, position: Position | None) -> Path:
    """Rename the database and its log out of the way.

    Returns:
        The new path, ``NAME.corrupt-POSITION`` or, where that is unknown or taken,
        with a number.

    Raises:
        StorageUnavailable: The files cannot be renamed.
    """
    with translated(f"move {path.name} aside"):
        target = _unused(path, position)
        for suffix in ("-wal", "-shm", "-journal", ""):
            source = sibling(path, suffix)
            if source.exists():
                source.rename(sibling(target, suffix))
        sync_folder(path.parent)
    return target


def _unused(path: Path, position: Position | None) -> Path:
    """A name that nothing has, not even a log."""
    stem = f"{path.name}.corrupt"
    names = [f"{stem}-{position.revision}"] if position is not None else []
    number = 1
    while True:
        names.append(f"{stem}-{number}" if position is None else f"{names[0]}-{number}")
        name = names[number - 1]
        if not any(sibling(path.with_name(name), each).exists() for each in ("", "-wal", "-shm")):
            return path.with_name(name)
        number += 1


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
