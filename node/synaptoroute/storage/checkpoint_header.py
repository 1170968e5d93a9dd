"""The first page of a checkpoint: what the file holds, and the checksums of its sections.

A section is hundreds of pages long and is read at once, so it is summed with XXH3, which
is as fast as memory (https://xxhash.com); the header by itself with CRC-32.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from synaptoroute.core.mutation import OP_ID_BYTES, Position
from synaptoroute.storage.records import VECTOR_DTYPE

FORMAT_VERSION: Final = 2
PAGE_BYTES: Final = 4_096
HASH_BYTES: Final = 16
NUMBER_BYTES: Final = 8
_MAGIC: Final = b"SRoute\r\n"
_HEADER: Final = struct.Struct("<8sIIQQQQQQQQQQQ40s32s")
_SUM: Final = struct.Struct("<I")
_COUNT_MAX: Final = 1 << 40
HEADER_BYTES: Final = _HEADER.size + _SUM.size

sum_of = xxh3_64_intdigest
"""Checksum of a section; a long one is summed without holding up other threads."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the file holds, and the checksums of its three sections."""

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
    position: Position
    encoder: bytes

    @property
    def vector_bytes(self) -> int:
        """Length of the first section."""
        return self.row_count * self.dim * VECTOR_DTYPE.itemsize

    @property
    def column_bytes(self) -> int:
        """Length of the third section."""
        of_rows = (2 * NUMBER_BYTES + HASH_BYTES) * self.row_count
        of_outcomes = (NUMBER_BYTES + OP_ID_BYTES + 1) * self.outcome_count
        texts = self.text_bytes + self.request_hash_bytes + self.outcome_bytes
        return of_rows + of_outcomes + texts

    @property
    def columns_at(self) -> int:
        """Where the third section starts."""
        return PAGE_BYTES + self.vector_bytes + self.derived_bytes

    @property
    def file_bytes(self) -> int:
        """Length of the file."""
        return self.columns_at + self.column_bytes

    def pack(self) -> bytes:
        """The header's bytes, with their own checksum."""
        packed = _HEADER.pack(
            _MAGIC,
            FORMAT_VERSION,
            self.dim,
            self.row_count,
            self.derived_bytes,
            self.text_bytes,
            self.outcome_count,
            self.request_hash_bytes,
            self.outcome_bytes,
            self.vectors_sum,
            self.derived_sum,
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
    magic, version, dim, *counts = fields[:9]
    if (magic, version) != (_MAGIC, FORMAT_VERSION) or max(dim, *counts) > _COUNT_MAX:
        return None
    *sums, epoch, seq, chain, encoder = fields[9:]
    position = Position(epoch, seq, chain.decode("ascii"))
    values: list[Any] = [dim, *counts, *sums, position, encoder]
    return Header(*values)


def encoder_of(fingerprint: str) -> bytes:
    """The encoder's fingerprint at a fixed length."""
    return sha256(fingerprint.encode()).digest()
