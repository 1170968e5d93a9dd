"""Whether the write-ahead log lost what was committed.

SQLite reads its log up to the first frame that does not match its checksum, and takes
the rest for a write that a crash cut short.  With ``synchronous=FULL`` a crash can cut
short only the newest transaction.  Two commit marks behind the broken frame therefore
mean that bytes of an acknowledged transaction changed.
Source: https://sqlite.org/walformat.html, sections 2.1 and 2.2, and
https://sqlite.org/fileformat2.html, section 4.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Final

from synaptoroute.storage.quarantine import sibling

_LOG_HEADER: Final = struct.Struct(">IIIIIIII")
_FRAME_HEADER: Final = struct.Struct(">IIIIII")
_INDEX_FRAME_COUNT_AT: Final = 16
_SUMMED_BYTES: Final = 24
_MAGICS: Final = {0x377F0682: "<", 0x377F0683: ">"}
"""The magic number says in which byte order the checksums are computed."""


def is_log_damaged(path: Path) -> bool:
    """Whether acknowledged transactions stand behind the point SQLite reads up to.

    Args:
        path: The database; a connection has read from it since it was last written.
    """
    log, index = sibling(path, "-wal"), sibling(path, "-shm")
    if not log.exists() or not index.exists():
        return False
    with log.open("rb") as file, index.open("rb") as index_file:
        header = file.read(_LOG_HEADER.size)
        if len(header) < _LOG_HEADER.size:
            return False
        _, _, page_bytes, _, *salts, _, _ = _LOG_HEADER.unpack(header)
        if not _is_header_sound(header):
            # The header is synced before the first frame: only damage explains this.
            return len(file.read(1)) == 1
        index_file.seek(_INDEX_FRAME_COUNT_AT)
        (frame_count,) = struct.unpack("=I", index_file.read(4))
        return _commit_marks_behind(file, frame_count, page_bytes, salts) > 1


def _is_header_sound(header: bytes) -> bool:
    """Check the log's header against its own checksum."""
    magic, *_, sum_1, sum_2 = _LOG_HEADER.unpack(header)
    order = _MAGICS.get(magic)
    if order is None:
        return False
    first = second = 0
    for even, odd in struct.iter_unpack(f"{order}II", header[:_SUMMED_BYTES]):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return (first, second) == (sum_1, sum_2)


def _commit_marks_behind(
    file: BinaryIO, frame_count: int, page_bytes: int, salts: list[int]
) -> int:
    """Count commit marks of this life of the log behind its first ``frame_count`` frames."""
    marks = 0
    frame_bytes = _FRAME_HEADER.size + page_bytes
    at = _LOG_HEADER.size + frame_count * frame_bytes
    while len(header := _read_at(file, at)) == _FRAME_HEADER.size:
        _, pages_after, *frame_salts, _, _ = _FRAME_HEADER.unpack(header)
        # Frames with other salts are left over from a former life of the log.
        marks += pages_after != 0 and frame_salts == salts
        at += frame_bytes
    return marks


def _read_at(file: BinaryIO, at: int) -> bytes:
    file.seek(at)
    return file.read(_FRAME_HEADER.size)
