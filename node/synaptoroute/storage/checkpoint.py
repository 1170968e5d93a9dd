"""The checkpoint: a copy of verified rows beside the database that makes a boot fast.

It is a cache.  A row of it is used only if the digest or the row hash in the database
confirms it.  The checkpoint may therefore be of any position, even of another history,
and its rows may be of different positions.  A file with any defect is ignored.

Layout: a header in the first page, float32[n, dim] from the second page on, then bytes
that the node derived from these rows, then the columns.  The file is written as a draft
and renamed once all of it is on the disk.  Sections are summed with XXH3, which is as fast
as memory (https://xxhash.com), the header with CRC-32.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from synaptoroute.core.change import Remembered
from synaptoroute.core.mutation import OP_ID_BYTES, Position
from synaptoroute.private_files import open_private
from synaptoroute.storage.connection import sibling, sync
from synaptoroute.storage.records import (
    VECTOR_DTYPE,
    Rows,
    allocate_vectors,
    as_remembered,
    outcome_text,
)

FORMAT_VERSION: Final = 2
SUFFIX: Final = ".checkpoint"
_DRAFT_SUFFIX: Final = ".checkpoint-draft"
_PAGE_BYTES: Final = 4_096
_HASH_BYTES: Final = 16
_NUMBER_BYTES: Final = 8
_MAGIC: Final = b"SRoute\r\n"
_HEADER: Final = struct.Struct("<8sIIQQQQQQQQQQQ40s32s")
_SUM: Final = struct.Struct("<I")
_HEADER_BYTES: Final = _HEADER.size + _SUM.size
_COUNT_MAX: Final = 1 << 40
_SLOT_DTYPE: Final = np.dtype("<i8")
_HASH_DTYPE: Final = np.dtype(f"V{_HASH_BYTES}")
_OP_ID_DTYPE: Final = np.dtype(f"V{OP_ID_BYTES}")
_TEXTS_END: Final = "\0"
"""Separates utterances, none of which can hold it (see ``core.validation``)."""

section_sum = xxh3_64_intdigest  # Checksum of a section


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a sound file."""

    rows: Rows  # As they were in the database when they were copied
    remembered: list[Remembered]
    position: Position  # Where ``remembered`` ends


class Header(NamedTuple):
    """The first page, after magic and version: sizes and checksums of the sections."""

    dim: int
    row_count: int
    derived_bytes: int
    text_bytes: int
    outcome_count: int
    request_hash_bytes: int
    outcome_bytes: int
    vectors_sum: int
    derived_sum: int
    columns_sum: int
    epoch: int
    seq: int
    chain: bytes
    encoder: bytes

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq, self.chain.decode("ascii"))

    @property
    def vector_bytes(self) -> int:
        return self.row_count * self.dim * VECTOR_DTYPE.itemsize

    @property
    def column_bytes(self) -> int:
        of_rows = (2 * _NUMBER_BYTES + _HASH_BYTES) * self.row_count
        of_outcomes = (_NUMBER_BYTES + OP_ID_BYTES + 1) * self.outcome_count
        texts = self.text_bytes + self.request_hash_bytes + self.outcome_bytes
        return of_rows + of_outcomes + texts

    @property
    def columns_at(self) -> int:
        return _PAGE_BYTES + self.vector_bytes + self.derived_bytes

    @property
    def file_bytes(self) -> int:
        return self.columns_at + self.column_bytes

    def pack(self) -> bytes:
        """The header's bytes, with their own checksum."""
        packed = _HEADER.pack(_MAGIC, FORMAT_VERSION, *self)
        return packed + _SUM.pack(zlib.crc32(packed))


def unpack_header(content: bytes) -> Header | None:
    """Read a header; None if it is not of this format."""
    packed, total = content[: _HEADER.size], content[_HEADER.size :]
    if len(total) != _SUM.size or _SUM.unpack(total) != (zlib.crc32(packed),):
        return None
    magic, version, *fields = _HEADER.unpack(packed)
    # Sizes are bounded before they are used to allocate.
    if (magic, version) != (_MAGIC, FORMAT_VERSION) or max(fields[:7]) > _COUNT_MAX:
        return None
    return Header(*fields)


def _encoder_digest(fingerprint: str) -> bytes:
    return sha256(fingerprint.encode()).digest()


class CheckpointReader:
    """Reads a checkpoint; a thread of its own reads the vectors meanwhile.

    Invariants: after ``__exit__`` the thread has ended and the file is closed.
    """

    def __init__(self, path: Path, fingerprint: str, dim: int) -> None:
        self.path = checkpoint_of(path)
        self._encoder = _encoder_digest(fingerprint)
        self._dim = dim
        self._descriptor = -1
        self._thread: threading.Thread | None = None
        self._header: Header | None = None
        self._vectors: NDArray[np.float32] | None = None
        self._derived = np.empty(0, np.uint8)
        self._is_sound = False

    def __enter__(self) -> CheckpointReader:
        with suppress(OSError, MemoryError, UnicodeError):
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self._header = self._read_header()
        if self._header is not None:
            self._vectors = allocate_vectors(self._header.row_count, self._dim)
            self._derived = np.empty(self._header.derived_bytes, np.uint8)
            self._thread = threading.Thread(
                target=self._read_vectors, name="storage-checkpoint-read", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._thread.join()
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _read_header(self) -> Header | None:
        header = unpack_header(os.pread(self._descriptor, _HEADER_BYTES, 0))
        if header is None or (header.dim, header.encoder) != (self._dim, self._encoder):
            return None
        is_whole = os.fstat(self._descriptor).st_size == header.file_bytes
        return header if is_whole else None

    def _read_vectors(self) -> None:
        header = self._header
        assert header is not None
        assert self._vectors is not None
        vectors = self._vectors.reshape(-1).view(np.uint8)
        # Few long calls: each releases the GIL, so the columns are parsed meanwhile.
        with suppress(OSError):
            self._is_sound = (
                self._read(vectors, _PAGE_BYTES)
                and self._read(self._derived, _PAGE_BYTES + header.vector_bytes)
                and section_sum(vectors.data) == header.vectors_sum
                and section_sum(self._derived.data) == header.derived_sum
            )

    def _read(self, into: NDArray[np.uint8], at: int) -> bool:
        done = 0
        while done < len(into):
            read = os.preadv(self._descriptor, [into[done:].data], at + done)
            if read == 0:
                return False
            done += read
        return True

    def read_columns(self) -> Checkpoint | None:
        """Read the columns; None if there is no sound checkpoint.

        The vectors of the rows are not complete before ``is_sound`` returns True.
        """
        header, vectors = self._header, self._vectors
        if header is None or vectors is None:
            return None
        with suppress(OSError, ValueError, struct.error):
            columns = os.pread(self._descriptor, header.column_bytes, header.columns_at)
            if section_sum(columns) == header.columns_sum:
                return _unpack_columns(header, columns, vectors)
        return None

    def is_sound(self) -> bool:
        """Wait for the vectors and return whether they match their checksum."""
        if self._thread is not None:
            self._thread.join()
        return self._is_sound

    @property
    def derived(self) -> NDArray[np.uint8] | None:
        """Bytes derived from exactly the rows at ``position``; only if ``is_sound``."""
        return self._derived if len(self._derived) else None


def _unpack_columns(
    header: Header, columns: bytes, vectors: NDArray[np.float32]
) -> Checkpoint | None:
    rows, outcomes = header.row_count, header.outcome_count
    sizes_bytes = (
        _NUMBER_BYTES * rows,
        _NUMBER_BYTES * rows,
        _HASH_BYTES * rows,
        header.text_bytes,
        _NUMBER_BYTES * outcomes,
        OP_ID_BYTES * outcomes,
        outcomes,
        header.request_hash_bytes,
        header.outcome_bytes,
    )
    at = pairwise(accumulate(sizes_bytes, initial=0))
    parts = [columns[start:stop] for start, stop in at]
    slots, owners, row_hashes, texts, seqs, op_ids, lengths, hashes, outcome_texts = parts
    utterances = texts.decode().split(_TEXTS_END) if rows else []
    lines = outcome_texts.decode().split("\n") if outcomes else []
    if len(utterances) != rows or len(lines) != outcomes or sum(lengths) != len(hashes):
        return None
    return Checkpoint(
        Rows(
            np.frombuffer(slots, _SLOT_DTYPE).astype(np.int64),
            np.frombuffer(owners, _SLOT_DTYPE).astype(np.int64),
            utterances,
            np.frombuffer(row_hashes, _HASH_DTYPE).tolist(),
            vectors,
        ),
        as_remembered(
            np.frombuffer(op_ids, _OP_ID_DTYPE).tolist(),
            np.frombuffer(seqs, _SLOT_DTYPE).tolist(),
            _cut(hashes, lengths),
            lines,
        ),
        header.position,
    )


def _cut(joined: bytes, lengths: bytes) -> list[bytes]:
    # Nearly always all have the same length: then no Python loop is needed.
    if lengths.count(_HASH_BYTES) == len(lengths):
        return [*np.frombuffer(joined, _HASH_DTYPE).tolist()]
    bounds = accumulate(lengths, initial=0)
    return [joined[start:stop] for start, stop in pairwise(bounds)]


class CheckpointWriter:
    """Writes a checkpoint row by row; the previous one stays in place until ``finish``."""

    def __init__(self, path: Path, fingerprint: str, dim: int) -> None:
        self._path = checkpoint_of(path)
        self._draft = sibling(path, _DRAFT_SUFFIX)
        self._encoder = _encoder_digest(fingerprint)
        self._dim = dim
        self._rows: list[tuple[int, int, str, bytes]] = []
        self._vectors_sum = xxh3_64()
        self._file = open_private(self._draft, "wb")
        self._file.write(bytes(_PAGE_BYTES))

    def add(self, part: Sequence[Any], vectors: NDArray[np.float32]) -> None:
        """Add verified rows, slots ascending: tuples of the columns of ``slot``."""
        content = vectors.tobytes()
        self._vectors_sum.update(content)
        self._file.write(content)
        self._rows.extend((row[0], row[1], row[2], row[4]) for row in part)

    def finish(
        self, remembered: Sequence[Remembered], position: Position, derived: bytes = b""
    ) -> None:
        """Make it the checkpoint; after an error the previous one is still in place.

        ``position`` is that of the last outcome.  ``derived`` are bytes that the node derived
        from the rows at this position.
        """
        slots, owners, texts, row_hashes = (
            zip(*self._rows, strict=True) if self._rows else ((), (), (), ())
        )
        utterances = _TEXTS_END.join(texts).encode()
        request_hashes = b"".join(each.request_hash for each in remembered)
        outcomes = "\n".join(map(outcome_text, remembered)).encode()
        columns = b"".join(
            (
                np.array(slots, _SLOT_DTYPE).tobytes(),
                np.array(owners, _SLOT_DTYPE).tobytes(),
                *row_hashes,
                utterances,
                np.array([each.seq for each in remembered], _SLOT_DTYPE).tobytes(),
                *(each.op_id for each in remembered),
                bytes(len(each.request_hash) for each in remembered),
                request_hashes,
                outcomes,
            )
        )
        header = Header(
            dim=self._dim,
            row_count=len(self._rows),
            derived_bytes=len(derived),
            text_bytes=len(utterances),
            outcome_count=len(remembered),
            request_hash_bytes=len(request_hashes),
            outcome_bytes=len(outcomes),
            vectors_sum=self._vectors_sum.intdigest(),
            derived_sum=section_sum(derived),
            columns_sum=section_sum(columns),
            epoch=position.epoch,
            seq=position.seq,
            chain=position.chain.encode(),
            encoder=self._encoder,
        )
        self._file.write(derived)
        self._file.write(columns)
        self._put_in_place(header)

    def _put_in_place(self, header: Header) -> None:
        # The header counts as the commit mark: written before the sections are on the
        # disk, it could describe bytes that a power failure lost.
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.seek(0)
        self._file.write(header.pack())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._draft.rename(self._path)
        sync(self._path.parent)

    def close(self) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)


def checkpoint_of(path: Path) -> Path:
    return sibling(path, SUFFIX)


def drop_checkpoint(path: Path) -> None:
    """Remove the checkpoint of a database and its draft, if possible."""
    for suffix in (SUFFIX, _DRAFT_SUFFIX):
        with suppress(OSError):
            sibling(path, suffix).unlink()
