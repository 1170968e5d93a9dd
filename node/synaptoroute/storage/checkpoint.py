"""The checkpoint: verified rows beside the database, in the shape a boot wants them.

It is a cache and never a truth.  A row in it counts only where the database's digest,
or the row hash in the database, says that this is the row; so it may be of any
position, even of another history, and rows of different positions may stand side by
side.  Whatever is torn, flipped, cut or foreign makes it no checkpoint at all.

The file: a header in the first page, float32[n, dim] from the second page on, then what
the node derived from these rows, then the columns.  The header is written last, under a
draft's name that only becomes the checkpoint's once all of it is on the disk.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64

from synaptoroute.core.mutation import OP_ID_BYTES, Position
from synaptoroute.core.snapshot import Remembered
from synaptoroute.storage.checkpoint_header import (
    HASH_BYTES,
    HEADER_BYTES,
    NUMBER_BYTES,
    PAGE_BYTES,
    Header,
    encoder_of,
    sum_of,
    unpack_header,
)
from synaptoroute.storage.outcomes import as_remembered, text_of
from synaptoroute.storage.quarantine import sibling, sync_folder
from synaptoroute.storage.rows import Rows, room_for

SUFFIX: Final = ".checkpoint"
_DRAFT_SUFFIX: Final = ".checkpoint-draft"
_SLOT_DTYPE: Final = np.dtype("<i8")
_HASH_DTYPE: Final = np.dtype(f"V{HASH_BYTES}")
_OP_ID_DTYPE: Final = np.dtype(f"V{OP_ID_BYTES}")
_TEXTS_END: Final = "\0"
"""Between utterances, none of which can hold it (see ``core.limits``)."""


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
        self._derived = np.empty(0, np.uint8)
        self._is_sound = False

    def __enter__(self) -> CheckpointReader:
        with suppress(OSError, MemoryError, UnicodeError):
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self._header = self._read_header()
        if self._header is not None:
            self._vectors = room_for(self._header.row_count, self._dim)
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
        header = unpack_header(os.pread(self._descriptor, HEADER_BYTES, 0))
        if header is None or (header.dim, header.encoder) != (self._dim, self._encoder):
            return None
        is_whole = os.fstat(self._descriptor).st_size == header.file_bytes
        return header if is_whole else None

    def _read_vectors(self) -> None:
        """Read and sum the vectors in few long calls, none of which holds up Python."""
        header = self._header
        assert header is not None
        assert self._vectors is not None
        vectors = self._vectors.reshape(-1).view(np.uint8)
        with suppress(OSError):
            self._is_sound = (
                self._read(vectors, PAGE_BYTES)
                and self._read(self._derived, PAGE_BYTES + header.vector_bytes)
                and sum_of(vectors.data) == header.vectors_sum
                and sum_of(self._derived.data) == header.derived_sum
            )

    def _read(self, into: NDArray[np.uint8], at: int) -> bool:
        """Fill all of ``into`` from a place of the file on, if there is so much."""
        done = 0
        while done < len(into):
            read = os.preadv(self._descriptor, [into[done:].data], at + done)
            if read == 0:
                return False
            done += read
        return True

    def read_columns(self) -> Checkpoint | None:
        """Read the columns; None where there is no sound checkpoint.

        The vectors of the rows may not be looked at before ``is_sound`` said so.
        """
        header, vectors = self._header, self._vectors
        if header is None or vectors is None:
            return None
        with suppress(OSError, ValueError, struct.error):
            columns = os.pread(self._descriptor, header.column_bytes, header.columns_at)
            if sum_of(columns) == header.columns_sum:
                return _unpack_columns(header, columns, vectors)
        return None

    def is_sound(self) -> bool:
        """Wait for the vectors and say whether they are those that were written."""
        if self._thread is not None:
            self._thread.join()
        return self._is_sound

    @property
    def derived(self) -> NDArray[np.uint8] | None:
        """What was derived from exactly the rows at ``position``; only if ``is_sound``."""
        return self._derived if len(self._derived) else None


def _unpack_columns(
    header: Header, columns: bytes, vectors: NDArray[np.float32]
) -> Checkpoint | None:
    """Cut the third section into its columns."""
    rows, outcomes = header.row_count, header.outcome_count
    sizes_bytes = (
        NUMBER_BYTES * rows,
        NUMBER_BYTES * rows,
        HASH_BYTES * rows,
        header.text_bytes,
        NUMBER_BYTES * outcomes,
        OP_ID_BYTES * outcomes,
        outcomes,
        header.request_hash_bytes,
        header.outcome_bytes,
    )
    at = pairwise(accumulate(sizes_bytes, initial=0))
    parts = [columns[start:stop] for start, stop in at]
    slots, route_ids, row_hashes, texts, seqs, op_ids, lengths, hashes, outcome_texts = parts
    utterances = texts.decode().split(_TEXTS_END) if rows else []
    lines = outcome_texts.decode().split("\n") if outcomes else []
    if len(utterances) != rows or len(lines) != outcomes or sum(lengths) != len(hashes):
        return None
    return Checkpoint(
        Rows(
            np.frombuffer(slots, _SLOT_DTYPE).astype(np.int64),
            np.frombuffer(route_ids, _SLOT_DTYPE).astype(np.int64),
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
    """Undo a join of byte strings; nearly always all are of one length."""
    if lengths.count(HASH_BYTES) == len(lengths):
        return [*np.frombuffer(joined, _HASH_DTYPE).tolist()]
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
        self._vectors_sum = xxh3_64()
        self._file = self._draft.open("wb")
        self._file.write(bytes(PAGE_BYTES))

    def add(self, part: Sequence[Any], vectors: NDArray[np.float32]) -> None:
        """Add verified rows, slots ascending: tuples of the columns of ``slot``."""
        content = vectors.tobytes()
        self._vectors_sum.update(content)
        self._file.write(content)
        self._rows.extend((row[0], row[1], row[2], row[4]) for row in part)

    def finish(
        self, remembered: Sequence[Remembered], position: Position, derived: bytes = b""
    ) -> None:
        """Make it the checkpoint.

        Args:
            remembered: Outcomes inside the idempotency window, in order of seq.
            position: Where they end.
            derived: What the node derived from the rows at this position, if it did.

        Raises:
            OSError: The former checkpoint, if any, is still the one.
        """
        slots, route_ids, texts, row_hashes = (
            zip(*self._rows, strict=True) if self._rows else ((), (), (), ())
        )
        utterances = _TEXTS_END.join(texts).encode()
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
            dim=self._dim,
            row_count=len(self._rows),
            derived_bytes=len(derived),
            text_bytes=len(utterances),
            outcome_count=len(remembered),
            request_hash_bytes=len(request_hashes),
            outcome_bytes=len(outcomes),
            vectors_sum=self._vectors_sum.intdigest(),
            derived_sum=sum_of(derived),
            columns_sum=sum_of(columns),
            position=position,
            encoder=self._encoder,
        )
        self._file.write(derived)
        self._file.write(columns)
        self._put_in_place(header)

    def _put_in_place(self, header: Header) -> None:
        """Sync what was written, then the header, then the name."""
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
