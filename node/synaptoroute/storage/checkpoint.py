"""The checkpoint: verified rows beside the database, in the shape a boot wants them.

It is a cache and never a truth.  A row in it counts only where the database's digest,
or the row hash in the database, says that this is the row; so it may be of any
position, even of another history, and rows of different positions may stand side by
side.  Whatever is torn, flipped, cut or foreign makes it no checkpoint at all.

The file: a header in the first page, float32[n, dim] from the second page on, then the
columns.  The header is written last, under a draft's name that only becomes the
checkpoint's once all of it is on the disk.
"""

from __future__ import annotations

import json
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
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.mutation import OP_ID_BYTES, Position
from synaptoroute.core.snapshot import Remembered
from synaptoroute.storage.aside import sibling, sync_folder
from synaptoroute.storage.outcomes import as_remembered, text_of
from synaptoroute.storage.records import VECTOR_DTYPE
from synaptoroute.storage.rows import Rows, room_for

SUFFIX: Final = ".checkpoint"
FORMAT_VERSION: Final = 1
_DRAFT_SUFFIX: Final = ".checkpoint-draft"
_MAGIC: Final = b"SRoute\r\n"
_VECTORS_AT: Final = 4_096
_HEADER: Final = struct.Struct("<8sIIQQQQQIIQQ40s32s")
_SUM: Final = struct.Struct("<I")
_HASH_BYTES: Final = 16
_COUNT_MAX: Final = 1 << 32
_SLOT_DTYPE: Final = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class Header:
    """What the file holds, and the checksums of its two sections."""

    dim: int
    row_count: int
    text_bytes: int
    outcome_count: int
    request_hash_bytes: int
    outcome_bytes: int
    vectors_sum: int
    columns_sum: int
    position: Position
    encoder: bytes

    @property
    def vector_bytes(self) -> int:
        """Length of the first section."""
        return self.row_count * self.dim * VECTOR_DTYPE.itemsize

    @property
    def column_bytes(self) -> int:
        """Length of the second section."""
        of_rows = (2 * _SLOT_DTYPE.itemsize + _HASH_BYTES) * self.row_count
        of_outcomes = (_SLOT_DTYPE.itemsize + OP_ID_BYTES + 1) * self.outcome_count
        texts = self.text_bytes + self.request_hash_bytes + self.outcome_bytes
        return of_rows + of_outcomes + texts

    def pack(self) -> bytes:
        """The header's bytes, with their own checksum."""
        packed = _HEADER.pack(
            _MAGIC,
            FORMAT_VERSION,
            self.dim,
            self.row_count,
            self.text_bytes,
            self.outcome_count,
            self.request_hash_bytes,
            self.outcome_bytes,
            self.vectors_sum,
            self.columns_sum,
            self.position.epoch,
            self.position.seq,
            self.position.chain.encode(),
            self.encoder,
        )
        return packed + _SUM.pack(zlib.crc32(packed))


def unpack_header(content: bytes) -> Header | None:
    """Read a header; None where it is not one of this format."""
    packed, total = content[: _HEADER.size], content[_HEADER.size :]
    if len(total) != _SUM.size or _SUM.unpack(total) != (zlib.crc32(packed),):
        return None
    fields: tuple[Any, ...] = _HEADER.unpack(packed)
    magic, version, *numbers, epoch, seq, chain, encoder = fields
    if (magic, version) != (_MAGIC, FORMAT_VERSION) or max(numbers) > _COUNT_MAX:
        return None
    dim, rows, text_bytes, outcomes, hash_bytes, outcome_bytes, vectors_sum, columns_sum = numbers
    position = Position(epoch, seq, chain.decode("ascii"))
    return Header(
        dim=dim,
        row_count=rows,
        text_bytes=text_bytes,
        outcome_count=outcomes,
        request_hash_bytes=hash_bytes,
        outcome_bytes=outcome_bytes,
        vectors_sum=vectors_sum,
        columns_sum=columns_sum,
        position=position,
        encoder=encoder,
    )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a sound file holds.

    Attributes:
        rows: Rows as they stood in the database when they were copied.
        remembered: Outcomes inside the idempotency window, in order of seq.
        position: Where ``remembered`` ends.
    """

    rows: Rows
    remembered: list[Remembered]
    position: Position


def encoder_of(fingerprint: str) -> bytes:
    """The encoder's fingerprint at a fixed length."""
    return sha256(fingerprint.encode()).digest()


class CheckpointReader:
    """Reads a checkpoint; the vectors come in on a thread of their own meanwhile.

    Invariants: after ``close`` the thread is gone and nothing holds the file.
    """

    def __init__(self, path: Path, fingerprint: str, dim: int) -> None:
        self.path = checkpoint_of(path)
        self._encoder = encoder_of(fingerprint)
        self._dim = dim
        self._descriptor = -1
        self._thread: threading.Thread | None = None
        self._header: Header | None = None
        self._vectors: NDArray[np.float32] | None = None
        self._is_sound = False

    def __enter__(self) -> CheckpointReader:
        with suppress(OSError, MemoryError, UnicodeError):
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self._header = self._read_header()
        if self._header is not None:
            self._vectors = room_for(self._header.row_count, self._dim)
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
        header = unpack_header(os.pread(self._descriptor, _HEADER.size + _SUM.size, 0))
        if header is None or (header.dim, header.encoder) != (self._dim, self._encoder):
            return None
        whole_bytes = _VECTORS_AT + header.vector_bytes + header.column_bytes
        is_whole = os.fstat(self._descriptor).st_size == whole_bytes
        return header if is_whole else None

    def _read_vectors(self) -> None:
        """Read and sum the vectors in two long calls, neither of which holds up Python."""
        assert self._header is not None
        assert self._vectors is not None
        with suppress(OSError):
            into = self._vectors.reshape(-1).view(np.uint8).data
            done = 0
            while done < len(into):
                read = os.preadv(self._descriptor, [into[done:]], _VECTORS_AT + done)
                if read == 0:
                    return
                done += read
            self._is_sound = zlib.crc32(into) == self._header.vectors_sum

    def read_columns(self) -> Checkpoint | None:
        """Read all but the vectors; None where there is no sound checkpoint.

        The vectors of the rows may not be looked at before ``is_sound`` said so.
        """
        header, vectors = self._header, self._vectors
        if header is None or vectors is None:
            return None
        with suppress(OSError, ValueError, struct.error):
            columns = os.pread(
                self._descriptor, header.column_bytes, _VECTORS_AT + header.vector_bytes
            )
            if zlib.crc32(columns) == header.columns_sum:
                return _unpack_columns(header, columns, vectors)
        return None

    def is_sound(self) -> bool:
        """Wait for the vectors and say whether they are those that were written."""
        if self._thread is not None:
            self._thread.join()
        return self._is_sound


def _unpack_columns(
    header: Header, columns: bytes, vectors: NDArray[np.float32]
) -> Checkpoint | None:
    """Cut the second section into its columns."""
    rows, outcomes = header.row_count, header.outcome_count
    at = iter(
        pairwise(
            accumulate(
                (
                    _SLOT_DTYPE.itemsize * rows,
                    _SLOT_DTYPE.itemsize * rows,
                    _HASH_BYTES * rows,
                    header.text_bytes,
                    _SLOT_DTYPE.itemsize * outcomes,
                    OP_ID_BYTES * outcomes,
                    outcomes,
                    header.request_hash_bytes,
                    header.outcome_bytes,
                ),
                initial=0,
            )
        )
    )
    parts = [columns[start:stop] for start, stop in at]
    slots, route_ids, row_hashes, texts, seqs, op_ids, lengths, hashes, outcome_texts = parts
    utterances = json.loads(texts)
    lines = outcome_texts.decode().split("\n") if outcomes else []
    if len(utterances) != rows or len(lines) != outcomes or sum(lengths) != len(hashes):
        return None
    return Checkpoint(
        Rows(
            np.frombuffer(slots, _SLOT_DTYPE).astype(np.int64),
            np.frombuffer(route_ids, _SLOT_DTYPE).astype(np.int64),
            utterances,
            list(struct.unpack(f"{_HASH_BYTES}s" * rows, row_hashes)),
            vectors,
        ),
        as_remembered(
            struct.unpack(f"{OP_ID_BYTES}s" * outcomes, op_ids),
            np.frombuffer(seqs, _SLOT_DTYPE).tolist(),
            _cut(hashes, lengths),
            lines,
        ),
        header.position,
    )


def _cut(joined: bytes, lengths: bytes) -> list[bytes]:
    """Undo a join of byte strings; nearly always all are of one length."""
    if lengths.count(_HASH_BYTES) == len(lengths):
        return list(struct.unpack(f"{_HASH_BYTES}s" * len(lengths), joined))
    bounds = accumulate(lengths, initial=0)
    return [joined[start:stop] for start, stop in pairwise(bounds)]


class CheckpointWriter:
    """Writes a checkpoint row by row; until ``finish`` the former one stays in place."""

    def __init__(self, path: Path, fingerprint: str, dim: int) -> None:
        self._path = checkpoint_of(path)
        self._draft = sibling(path, _DRAFT_SUFFIX)
        self._encoder = encoder_of(fingerprint)
        self._dim = dim
        self._rows: list[tuple[int, int, str, bytes]] = []
        self._vectors_sum = 0
        self._file = self._draft.open("wb")
        self._file.write(bytes(_VECTORS_AT))

    def add(self, part: Sequence[Any], vectors: NDArray[np.float32]) -> None:
        """Add verified rows, slots ascending: tuples of the columns of ``slot``."""
        content = vectors.tobytes()
        self._vectors_sum = zlib.crc32(content, self._vectors_sum)
        self._file.write(content)
        self._rows.extend((row[0], row[1], row[2], row[4]) for row in part)

    def finish(self, remembered: Sequence[Remembered], position: Position) -> None:
        """Make it the checkpoint.

        Args:
            remembered: Outcomes inside the idempotency window, in order of seq.
            position: Where they end.

        Raises:
            OSError: The former checkpoint, if any, is still the one.
        """
        slots, route_ids, texts, row_hashes = (
            zip(*self._rows, strict=True) if self._rows else ((), (), (), ())
        )
        utterances = json.dumps(texts, separators=(",", ":"), ensure_ascii=False).encode()
        request_hashes = b"".join(each.request_hash for each in remembered)
        outcomes = "\n".join(map(text_of, remembered)).encode()
        columns = b"".join(
            (
                np.array(slots, _SLOT_DTYPE).tobytes(),
                np.array(route_ids, _SLOT_DTYPE).tobytes(),
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
            self._dim,
            len(self._rows),
            len(utterances),
            len(remembered),
            len(request_hashes),
            len(outcomes),
            self._vectors_sum,
            zlib.crc32(columns),
            position,
            self._encoder,
        )
        self._file.write(columns)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.seek(0)
        self._file.write(header.pack())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._draft.rename(self._path)
        sync_folder(self._path.parent)

    def close(self) -> None:
        """Drop the draft, if it was not finished."""
        self._file.close()
        self._draft.unlink(missing_ok=True)


def checkpoint_of(path: Path) -> Path:
    """The checkpoint of a database."""
    return sibling(path, SUFFIX)


def drop_checkpoint(path: Path) -> None:
    """Remove the checkpoint of a database, if it can be removed, and a draft."""
    for suffix in (SUFFIX, _DRAFT_SUFFIX):
        with suppress(OSError):
            sibling(path, suffix).unlink()
