"""Frames that no encoder of ours writes, with checksums that are right."""

from __future__ import annotations

import json
import struct
import zlib
from hashlib import sha256
from typing import Any

from synaptoroute.core.codec import HEADER_BYTES


def frame_of(payload: bytes, kind: int = 1, level: int = 1, flags: int = 0) -> bytes:
    """A sound header before any payload."""
    head = struct.pack(
        "<2sBBHHI16s16s32s",
        b"SR",
        1,
        kind,
        level,
        flags,
        len(payload),
        b"\x01" * 16,
        b"\x00" * 16,
        sha256(payload).digest(),
    )
    return head + struct.pack("<I", zlib.crc32(head)) + payload


def frame_of_text(text: str | bytes, vectors: bytes = b"", kind: int = 1) -> bytes:
    """A sound frame around any text where JSON belongs."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return frame_of(struct.pack("<I", len(raw)) + raw + vectors, kind)


def frame_of_fields(fields: Any, vectors: bytes = b"", kind: int = 1) -> bytes:
    """A sound frame around any fields, written as ours are."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return frame_of_text(text, vectors, kind)


def fields_of(frame: bytes) -> tuple[Any, bytes]:
    """Fields and vectors of a frame of ours."""
    payload = frame[HEADER_BYTES:]
    (size,) = struct.unpack_from("<I", payload)
    return json.loads(payload[4 : 4 + size]), payload[4 + size :]
