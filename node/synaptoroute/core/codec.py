"""Bytes of a proposal: versioned, checksummed, canonical.

A frame is a fixed header and a payload::

    magic "SR" | format u8 | kind u8 | level u16 | flags u16 | payload bytes u32
    op_id 16 | request hash 16 | SHA-256 of the payload 32 | CRC-32 of all before u32
    payload: length of the JSON u32 | canonical JSON | vectors, float32 little-endian

The CRC guards the header, the SHA-256 the payload, so one altered byte anywhere
is refused.  The header binds the payload by its hash, so the hash chain needs the
header alone, and a bus message may announce an entry without carrying it.  JSON
keeps the fields readable to later releases; vectors never pass through text.

Rule: one proposal, one frame.  ``decode_proposal(encode_proposal(p)) == p``, equal
proposals have equal bytes, and a payload that says the same in other bytes, or
more than this release understands at this level, is refused: a field that one node
obeys and another one overlooks would part them.
"""

from __future__ import annotations

import json
import struct
import zlib
from hashlib import sha256
from typing import Any, Final

from synaptoroute.core.digest import frame_digest, next_chain
from synaptoroute.core.mutation import OP_ID_BYTES, Entry, Proposal
from synaptoroute.core.mutation_codec import KIND_BY_TYPE, READERS, WRITERS, read_revision
from synaptoroute.errors import CodecError, TooLarge, UnknownMutation

_MAGIC: Final = b"SR"
FORMAT: Final = 1
LEVEL: Final = 1
"""Feature level that this release writes; an entry of a higher one is not understood."""
_HEAD = struct.Struct("<2sBBHHI16s16s32s")
_CRC = struct.Struct("<I")
_LENGTH = struct.Struct("<I")
HEADER_BYTES: Final = _HEAD.size + _CRC.size
FRAME_BYTES_MAX: Final = 2_097_152
_NO_HASH: Final = b"\x00" * 16
_WRITE_JSON = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def encode_proposal(proposal: Proposal) -> bytes:
    """Write a proposal as a frame.

    Raises:
        CodecError: Malformed: an op_id or a vector of the wrong size, a text that is
            not valid Unicode, a number that is not finite.
        TooLarge: The frame would be over ``FRAME_BYTES_MAX``.
    """
    if len(proposal.op_id) != OP_ID_BYTES:
        raise CodecError(f"an op_id has {OP_ID_BYTES} bytes, got {len(proposal.op_id)}")
    if len(proposal.request_hash) not in (0, len(_NO_HASH)) or proposal.request_hash == _NO_HASH:
        raise CodecError(f"a request hash has {len(_NO_HASH)} bytes, not all zero, or none")
    kind = KIND_BY_TYPE[type(proposal.mutation)]
    try:
        text, vectors = _write_fields(proposal, kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"a proposal's fields cannot be written: {error}") from error
    payload = b"".join((_LENGTH.pack(len(text)), text, *vectors))
    if HEADER_BYTES + len(payload) > FRAME_BYTES_MAX:
        raise TooLarge(
            f"one write takes at most {FRAME_BYTES_MAX} bytes with its vectors, "
            f"got {HEADER_BYTES + len(payload)}; use an import"
        )
    head = _HEAD.pack(
        _MAGIC,
        FORMAT,
        kind,
        LEVEL,
        0,
        len(payload),
        proposal.op_id,
        proposal.request_hash or _NO_HASH,
        sha256(payload).digest(),
    )
    return head + _CRC.pack(zlib.crc32(head)) + payload


def decode_proposal(frame: bytes) -> Proposal:
    """Read a frame.

    Raises:
        CodecError: Truncated, altered, too long, or not a frame of this format.
        UnknownMutation: Sound, but of a kind or level of a later release.
    """
    kind, op_id, request_hash, payload = _open_frame(frame)
    try:
        text, vectors = _split_payload(payload)
        fields = json.loads(text.decode())
        proposal = Proposal(
            op_id=op_id,
            mutation=READERS[kind](fields, vectors),
            request_hash=b"" if request_hash == _NO_HASH else request_hash,
            if_match=read_revision(fields.get("if_match")),
            if_none_match="if_none_match" in fields,
        )
        is_canonical = _write_fields(proposal, kind)[0] == text
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise CodecError(f"a sound frame with malformed fields: {type(error).__name__}") from error
    if not is_canonical:
        raise CodecError("a sound frame whose fields are not written canonically")
    return proposal


def _write_fields(proposal: Proposal, kind: int) -> tuple[bytes, list[bytes]]:
    """Write what is not in the header: canonical JSON, and the vectors beside it."""
    fields, vectors = WRITERS[kind](proposal.mutation)
    if proposal.if_match is not None:
        fields["if_match"] = list(proposal.if_match)
    if proposal.if_none_match:
        fields["if_none_match"] = True
    return _WRITE_JSON(fields).encode(), vectors


def _split_payload(payload: bytes) -> tuple[bytes, bytes]:
    """Split a payload into its JSON and its vectors."""
    (json_bytes,) = _LENGTH.unpack_from(payload)
    end = _LENGTH.size + json_bytes
    if end > len(payload):
        raise CodecError("the payload is shorter than its own length field")
    return payload[_LENGTH.size : end], payload[end:]


def header_of(frame: bytes) -> bytes:
    """The part of a frame that stands for the whole of it."""
    return frame[:HEADER_BYTES]


def digest_of(frame: bytes) -> str:
    """Digest of a frame for the hash chain, 64 hexadecimal digits."""
    return frame_digest(header_of(frame))


def is_chained(entry: Entry) -> bool:
    """Whether an entry's chain follows from its own fields."""
    digest = digest_of(entry.frame)
    return entry.chain == next_chain(entry.prev_chain, entry.epoch, entry.seq, digest)


def op_id_of(header: bytes) -> bytes:
    """Read the op_id from a header without opening the frame.

    Raises:
        CodecError: The header is truncated or altered.
    """
    op_id: bytes = _check_header(header)[6]
    return op_id


def _check_header(header: bytes) -> tuple[Any, ...]:
    """Verify and unpack a header."""
    if len(header) < HEADER_BYTES:
        raise CodecError(f"a frame has at least {HEADER_BYTES} bytes, got {len(header)}")
    head = header[: _HEAD.size]
    (crc,) = _CRC.unpack_from(header, _HEAD.size)
    if zlib.crc32(head) != crc:
        raise CodecError("the header does not match its checksum")
    unpacked = _HEAD.unpack(head)
    if unpacked[0] != _MAGIC or unpacked[1] != FORMAT:
        raise CodecError("not a frame of this format")
    return unpacked


def _open_frame(frame: bytes) -> tuple[int, bytes, bytes, bytes]:
    """Verify a frame and split it."""
    if len(frame) > FRAME_BYTES_MAX:
        raise CodecError(f"a frame has at most {FRAME_BYTES_MAX} bytes, got {len(frame)}")
    _, _, kind, level, flags, payload_bytes, op_id, request_hash, digest = _check_header(frame)
    payload = frame[HEADER_BYTES:]
    if len(payload) != payload_bytes or sha256(payload).digest() != digest:
        raise CodecError("the payload does not match its checksum")
    if kind not in READERS or level > LEVEL or flags:
        raise UnknownMutation(
            f"kind {kind} at level {level} was introduced by a later release", kind=kind
        )
    return kind, op_id, request_hash, payload
