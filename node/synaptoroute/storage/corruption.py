"""What damage is, and how it is told from a disk that fails."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from synaptoroute.core.mutation import Position
from synaptoroute.errors import CodecError
from synaptoroute.storage.connection import reason_of, unavailable

_DAMAGE_CODES: Final = {
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
    KeyError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
)


class Damaged(Exception):
    """What the file says cannot be true; the shell moves the file aside."""

    def __init__(self, reason: str, position: Position | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position


@contextmanager
def finding_damage(position: Position | None = None) -> Iterator[None]:
    """Tell damage from a disk that fails: the one moves the file, the other does not.

    Raises:
        Damaged: The bytes cannot be what was written.
        StorageUnavailable: They could not be read.
    """
    try:
        yield
    except Damaged as damage:
        damage.position = damage.position or position
        raise
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code & 0xFF in _DAMAGE_CODES or code == _SHORT_READ:
            raise Damaged(f"SQLite says: {error}", position) from error
        raise unavailable("read the database", reason_of(error), error) from error
    except _MALFORMED as error:
        raise Damaged(f"a row is malformed: {error!r}", position) from error
