"""Binary encoding of proposals: versioned, checksummed, canonical.

A frame is a fixed header and a payload::

    magic "SR" | format u8 | kind u8 | level u16 | flags u16 | payload bytes u32
    op_id 16 | request hash 16 | SHA-256 of the payload 32 | CRC-32 of all before u32
    payload: length of the JSON u32 | canonical JSON | vectors, float32 little-endian

The CRC protects the header and the SHA-256 the payload, so every altered byte is detected.
The header contains the payload's hash.  Therefore the hash chain needs the header alone,
and a bus message may announce an entry without carrying it.  Fields are JSON, so that later
releases can read them; vectors are never converted to text.

One proposal has exactly one frame: ``decode_proposal(encode_proposal(p)) == p``, and equal
proposals have equal bytes.  A payload in other bytes, or with fields that this release does
not know at this level, is refused: nodes that read it differently would diverge.
"""

from __future__ import annotations

import json
import struct
import zlib
from hashlib import sha256
from typing import Any, Final

from synaptoroute.core.digest import next_chain
from synaptoroute.core.field_values import Fields, read_revision, read_text
from synaptoroute.core.levels import AUTHORS_LEVEL, SETS_LEVEL, level_of
from synaptoroute.core.mutation import OP_ID_BYTES, Entry, Mutation, Proposal
from synaptoroute.core.mutation_fields import KIND_BY_TYPE, READERS, TYPE_BY_KIND, WRITERS
from synaptoroute.errors import CodecError, TooLarge, UnknownMutation

LEVEL: Final = 5  # Highest feature level that this release reads


_MAGIC: Final = b"SR"
FORMAT: Final = 1
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
    """Encode a proposal as a frame.

    Raises:
        CodecError: An op_id or a vector has the wrong size, a text is not valid
            Unicode, or a number is not finite.
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
        _level_of(proposal),
        0,
        len(payload),
        proposal.op_id,
        proposal.request_hash or _NO_HASH,
        sha256(payload).digest(),
    )
    return head + _CRC.pack(zlib.crc32(head)) + payload


def decode_proposal(frame: bytes) -> Proposal:
    """Decode a frame.

    Raises:
        CodecError: It is truncated, altered, too long, or not a frame of this format.
        UnknownMutation: It is valid, but of a kind or level of a later release.
    """
    kind, level, op_id, request_hash, payload = _unpack_frame(frame)
    try:
        text, vectors = _split_payload(payload)
        fields = json.loads(text.decode())
        proposal = Proposal(
            op_id=op_id,
            mutation=READERS[kind](fields, vectors),
            request_hash=b"" if request_hash == _NO_HASH else request_hash,
            if_match=read_revision(fields.get("if_match")),
            if_none_match="if_none_match" in fields,
            author=read_text(fields.get("author", "")),
            route_set=read_text(fields.get("route_set", "")),
            note=read_text(fields.get("note", "")),
        )
        # A second encoding of the same fields would give equal proposals different chains.
        is_canonical = _write_fields(proposal, kind)[0] == text and _level_of(proposal) == level
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise CodecError(f"a valid frame with malformed fields: {type(error).__name__}") from error
    if not is_canonical:
        raise CodecError("a valid frame whose fields are not written canonically")
    return proposal


def describe_frame(frame: bytes) -> tuple[type[Mutation], Fields]:
    """Read the kind and the fields of a frame without its vectors, for people.

    Raises:
        CodecError: It is truncated or altered.
        UnknownMutation: It is of a kind or level of a later release.
    """
    kind, *_, payload = _unpack_frame(frame)
    try:
        fields = json.loads(_split_payload(payload)[0].decode())
    except (RecursionError, ValueError, struct.error) as error:
        raise CodecError("a valid frame with malformed fields") from error
    if not isinstance(fields, dict):
        raise CodecError("a valid frame with malformed fields")
    return TYPE_BY_KIND[kind], fields


def _level_of(proposal: Proposal) -> int:
    level = level_of(proposal.mutation)
    if proposal.route_set or proposal.note:
        return max(level, SETS_LEVEL)
    return max(level, AUTHORS_LEVEL) if proposal.author else level


def _write_fields(proposal: Proposal, kind: int) -> tuple[bytes, list[bytes]]:
    fields, vectors = WRITERS[kind](proposal.mutation)
    if proposal.if_match is not None:
        fields["if_match"] = list(proposal.if_match)
    if proposal.if_none_match:
        fields["if_none_match"] = True
    if proposal.author:
        fields["author"] = proposal.author
    if proposal.route_set:
        fields["route_set"] = proposal.route_set
    if proposal.note:
        fields["note"] = proposal.note
    return _WRITE_JSON(fields).encode(), vectors


def _split_payload(payload: bytes) -> tuple[bytes, bytes]:
    (json_bytes,) = _LENGTH.unpack_from(payload)
    end = _LENGTH.size + json_bytes
    if end > len(payload):
        raise CodecError("the payload is shorter than its own length field")
    return payload[_LENGTH.size : end], payload[end:]


def header_of(frame: bytes) -> bytes:
    """Return the header; by its hash of the payload it covers the whole frame."""
    return frame[:HEADER_BYTES]


def digest_of(frame: bytes) -> str:
    """Digest of a frame for the hash chain, 64 hexadecimal digits.

    The header carries the payload's SHA-256, so it covers the whole frame.
    """
    return sha256(frame[:HEADER_BYTES]).hexdigest()


def is_chained(entry: Entry) -> bool:
    """Whether the chain of an entry follows from its other fields."""
    digest = digest_of(entry.frame)
    return entry.chain == next_chain(entry.prev_chain, entry.epoch, entry.seq, digest)


def op_id_of(header: bytes) -> bytes:
    """Read the op_id from a header without decoding the frame.

    Raises:
        CodecError: The header is truncated or altered.
    """
    op_id: bytes = _check_header(header)[6]
    return op_id


def _check_header(header: bytes) -> tuple[Any, ...]:
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


def _unpack_frame(frame: bytes) -> tuple[int, int, bytes, bytes, bytes]:
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
    return kind, level, op_id, request_hash, payload
