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

Each kind of mutation has one writer and one reader: fields that become canonical JSON, and
the vectors beside them.  The number of a kind is permanent, because logs and databases
contain it: numbers are added, never changed or reused.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from math import isfinite
from typing import Any, Final

from synaptoroute.core.digest import next_chain
from synaptoroute.core.levels import AUTHORS_LEVEL, BASE_LEVEL, level_of
from synaptoroute.core.mutation import (
    AGGREGATIONS,
    DEFAULT_UNMATCHED_SHARE,
    KEEP,
    OP_ID_BYTES,
    AddUtterances,
    Audit,
    Calibrate,
    CalibrateDecision,
    DeleteRoute,
    Entry,
    Finalize,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Keep,
    Mutation,
    OpenEpoch,
    PatchRoute,
    Proposal,
    PutFeedback,
    PutRoute,
    PutSettings,
    RemoveUtterances,
    ReviseRoutes,
    Revision,
    RouteRevision,
    Settings,
    SwitchEncoder,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.errors import CodecError, TooLarge, UnknownMutation

Fields = dict[str, Any]
Vectors = list[bytes]

COUNT_MAX: Final = (1 << 53) - 1  # Largest integer that JSON, Lua and SQLite all represent exactly
DIM_MAX: Final = 65_536
LEVEL: Final = 4  # Highest feature level that this release reads


def _rows(routes: Iterable[PutRoute | AddUtterances]) -> Vectors:
    vectors: Vectors = []
    for route in routes:
        if len(route.vectors) != len(route.utterances):
            raise ValueError("one vector an utterance is needed")
        vectors.extend(route.vectors)
        if isinstance(route, PutRoute) and (route.description is not None or route.negatives):
            vectors += _extra_vectors(route.description, route.negatives, route)
    return _equally_long(vectors)


def _extra_vectors(
    description: str | None, negatives: tuple[str, ...], held: PutRoute | PatchRoute
) -> Vectors:
    """Vectors of a description and of negatives, in this order."""
    if bool(held.description_vector) != (description is not None):
        raise ValueError("a description has one vector")
    if len(held.negative_vectors) != len(negatives):
        raise ValueError("one vector a negative is needed")
    return [held.description_vector] * (description is not None) + [*held.negative_vectors]


def _equally_long(vectors: Vectors) -> Vectors:
    sizes = set(map(len, vectors))
    if len(sizes) > 1:
        raise ValueError("vectors of different sizes")
    size_bytes = sizes.pop() if sizes else 4
    if size_bytes % 4 or not size_bytes:
        raise ValueError("a vector is not a row of float32")
    return vectors


def _split(vectors: bytes, count: int) -> tuple[bytes, ...]:
    if count == 0:
        if vectors:
            raise ValueError("vectors without utterances")
        return ()
    size_bytes, rest = divmod(len(vectors), count)
    if rest or size_bytes % 4 or not size_bytes:
        raise ValueError(f"{len(vectors)} bytes are not {count} float32 vectors")
    return tuple(vectors[i : i + size_bytes] for i in range(0, len(vectors), size_bytes))


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError("a list of texts is expected")
    return tuple(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is expected")
    return value


def _number(value: Any) -> float | None:
    if value is not None and (not isinstance(value, float) or not isfinite(value)):
        raise TypeError("a finite number with a decimal point is expected")
    return value


def _write_number(value: float | None) -> float | None:
    # Equal numbers must have equal bytes: 1 and 1.0, -0.0 and 0.0.
    return None if value is None else float(value) + 0.0


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= COUNT_MAX:
        raise TypeError("a count is expected")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false is expected")
    return value


def read_revision(value: Any) -> Revision | None:
    if value is None:
        return None
    epoch, seq = value
    return Revision(_count(epoch), _count(seq))


def _route_fields(route: PutRoute) -> Fields:
    fields: Fields = {"name": route.name, "utterances": list(route.utterances)}
    if route.threshold is not None:
        fields["threshold"] = _write_number(route.threshold)
    if route.metadata != "{}":
        fields["metadata"] = route.metadata
    if route.payload != "null":
        fields["payload"] = route.payload
    if route.confidence_min is not None:
        fields["confidence_min"] = _write_number(route.confidence_min)
    if route.description is not None:
        fields["description"] = route.description
    if route.negatives:
        fields["negatives"] = list(route.negatives)
    return fields


def _row_counts(fields: Mapping[str, Any]) -> tuple[int, int, int]:
    """Utterances, descriptions and negatives of a route, in the order of their vectors."""
    has_description = fields.get("description") is not None
    return len(fields["utterances"]), int(has_description), len(fields.get("negatives", ()))


def _route_of(fields: Mapping[str, Any], vectors: tuple[bytes, ...]) -> PutRoute:
    description = fields.get("description")
    count, described, _ = _row_counts(fields)
    return PutRoute(
        name=_text(fields["name"]),
        utterances=_texts(fields["utterances"]),
        vectors=vectors[:count],
        threshold=_number(fields.get("threshold")),
        metadata=_text(fields.get("metadata", "{}")),
        payload=_text(fields.get("payload", "null")),
        confidence_min=_number(fields.get("confidence_min")),
        description=None if description is None else _text(description),
        description_vector=vectors[count] if described else b"",
        negatives=_texts(fields.get("negatives", [])),
        negative_vectors=vectors[count + described :],
    )


def _write_put(route: PutRoute) -> tuple[Fields, Vectors]:
    return _route_fields(route), _rows([route])


def _read_put(fields: Fields, vectors: bytes) -> PutRoute:
    return _route_of(fields, _split(vectors, sum(_row_counts(fields))))


def _write_add(add: AddUtterances) -> tuple[Fields, Vectors]:
    return {"name": add.name, "utterances": list(add.utterances)}, _rows([add])


def _read_add(fields: Fields, vectors: bytes) -> AddUtterances:
    texts = _texts(fields["utterances"])
    return AddUtterances(_text(fields["name"]), texts, _split(vectors, len(texts)))


def _write_patch(patch: PatchRoute) -> tuple[Fields, Vectors]:
    fields: Fields = {"name": patch.name}
    if patch.threshold is not KEEP:
        fields["threshold"] = _write_number(patch.threshold)
    if patch.metadata is not KEEP:
        fields["metadata"] = patch.metadata
    if patch.payload is not KEEP:
        fields["payload"] = patch.payload
    if patch.confidence_min is not KEEP:
        fields["confidence_min"] = _write_number(patch.confidence_min)
    if patch.description is not KEEP:
        fields["description"] = patch.description
    if patch.negatives is not KEEP:
        fields["negatives"] = list(patch.negatives)
    description = None if patch.description is KEEP else patch.description
    negatives = () if patch.negatives is KEEP else patch.negatives
    return fields, _equally_long(_extra_vectors(description, negatives, patch))


def _read_patch(fields: Fields, vectors: bytes) -> PatchRoute:
    description: str | Keep | None = KEEP
    if "description" in fields:
        text = fields["description"]
        description = None if text is None else _text(text)
    described = isinstance(description, str)
    negatives = _texts(fields["negatives"]) if "negatives" in fields else KEEP
    rows = _split(vectors, described + len(() if negatives is KEEP else negatives))
    return PatchRoute(
        name=_text(fields["name"]),
        threshold=_number_or_keep(fields, "threshold"),
        metadata=_text(fields["metadata"]) if "metadata" in fields else KEEP,
        payload=_text(fields["payload"]) if "payload" in fields else KEEP,
        confidence_min=_number_or_keep(fields, "confidence_min"),
        description=description,
        description_vector=rows[0] if described else b"",
        negatives=negatives,
        negative_vectors=rows[described:],
    )


def _number_or_keep(fields: Fields, name: str) -> float | Keep | None:
    return _number(fields[name]) if name in fields else KEEP


def _write_settings(put: PutSettings) -> tuple[Fields, Vectors]:
    settings = put.settings
    fields: Fields = {
        "aggregation": settings.aggregation,
        "topk": settings.topk,
        "threshold": _write_number(settings.threshold),
        "capacity_slots": settings.capacity_slots,
    }
    if settings.cascade:  # omitted when off, as in the frames of older releases
        fields["cascade"] = True
    if settings.calibration:
        fields["calibration"] = settings.calibration
    if settings.feedback:
        fields["feedback"] = settings.feedback
    if settings.confidence_min is not None:
        fields["confidence_min"] = _write_number(settings.confidence_min)
    if settings.expected_unmatched_share != DEFAULT_UNMATCHED_SHARE:
        fields["expected_unmatched_share"] = _write_number(settings.expected_unmatched_share)
    if settings.ignore:
        fields["ignore"] = list(settings.ignore)
    if settings.repair_words:
        fields["repair_words"] = True
    return fields, []


def _read_settings(fields: Fields, vectors: bytes) -> PutSettings:
    _split(vectors, 0)
    if fields["aggregation"] not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation {fields['aggregation']!r}")
    share = _number(fields.get("expected_unmatched_share", DEFAULT_UNMATCHED_SHARE))
    if share is None:
        raise ValueError("the expected share of unmatched queries is a number")
    return PutSettings(
        Settings(
            aggregation=fields["aggregation"],
            topk=_count(fields["topk"]),
            threshold=_number(fields["threshold"]),
            capacity_slots=_count(fields["capacity_slots"]),
            cascade=_flag(fields.get("cascade", False)),
            calibration=_text(fields.get("calibration", "")),
            feedback=_text(fields.get("feedback", "")),
            confidence_min=_number(fields.get("confidence_min")),
            expected_unmatched_share=share,
            ignore=_texts(fields.get("ignore", [])),
            repair_words=_flag(fields.get("repair_words", False)),
        )
    )


def _write_decision(calibrate: CalibrateDecision) -> tuple[Fields, Vectors]:
    return {"node": calibrate.node, "at_ms": calibrate.at_ms}, [calibrate.payload]


def _read_decision(fields: Fields, payload: bytes) -> CalibrateDecision:
    return CalibrateDecision(payload, _text(fields["node"]), _count(fields["at_ms"]))


def _write_chunk(chunk: ImportChunk) -> tuple[Fields, Vectors]:
    fields: Fields = {
        "import_id": chunk.import_id,
        "number": chunk.number,
        "parts": [_route_fields(part) for part in chunk.parts],
    }
    return fields, _rows(chunk.parts)


def _read_chunk(fields: Fields, vectors: bytes) -> ImportChunk:
    counts = [sum(_row_counts(part)) for part in fields["parts"]]
    rows = iter(_split(vectors, sum(counts)))
    parts = tuple(
        _route_of(part, tuple(next(rows) for _ in range(count)))
        for part, count in zip(fields["parts"], counts, strict=True)
    )
    return ImportChunk(_text(fields["import_id"]), _count(fields["number"]), parts)


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)


_NAMES_OR_NONE: Final = {"route": _optional_text, "was": _optional_text}


def _write_revision(revision: ReviseRoutes) -> tuple[Fields, Vectors]:
    routes = [_route_revision_fields(each) for each in revision.routes]
    fields: Fields = {"resolved": list(revision.resolved), "routes": routes}
    if revision.settings is not None:
        fields["settings"] = _write_settings(PutSettings(revision.settings))[0]
    vectors: Vectors = []
    for route in revision.routes:
        counts = len(route.vectors), len(route.negative_vectors)
        if counts != (len(route.utterances), len(route.negatives)):
            raise ValueError("one vector a text is needed")
        vectors += (*route.vectors, *route.negative_vectors)
    return fields, _equally_long(vectors)


def _route_revision_fields(route: RouteRevision) -> Fields:
    fields: Fields = {"name": route.name, "utterances": list(route.utterances)}
    if route.is_new:
        fields["is_new"] = True
    if route.revision is not None:
        fields["revision"] = list(route.revision)
    for name in ("threshold", "confidence_min"):
        if (limit := getattr(route, name)) is not KEEP:
            fields[name] = _write_number(limit)
    if route.negatives:
        fields["negatives"] = list(route.negatives)
    return fields


def _read_revision(fields: Fields, vectors: bytes) -> ReviseRoutes:
    found = fields["routes"]
    counts = [(len(each["utterances"]), len(each.get("negatives", ()))) for each in found]
    rows = iter(_split(vectors, sum(map(sum, counts))))
    routes = tuple(
        RouteRevision(
            name=_text(each["name"]),
            utterances=_texts(each["utterances"]),
            vectors=tuple(next(rows) for _ in range(utterances)),
            is_new=_flag(each.get("is_new", False)),
            revision=read_revision(each.get("revision")),
            threshold=_number_or_keep(each, "threshold"),
            confidence_min=_number_or_keep(each, "confidence_min"),
            negatives=_texts(each.get("negatives", [])),
            negative_vectors=tuple(next(rows) for _ in range(negatives)),
        )
        for each, (utterances, negatives) in zip(found, counts, strict=True)
    )
    settings = _read_settings(fields["settings"], b"").settings if "settings" in fields else None
    return ReviseRoutes(routes, _texts(fields["resolved"]), settings)


def _dim(value: Any) -> int:
    dim = _count(value)
    if dim > DIM_MAX:
        raise ValueError(f"a vector has at most {DIM_MAX} dimensions")
    return dim


PUBLIC_KEY_DIGITS: Final = 64


def _voter_keys(value: Any) -> tuple[tuple[str, str], ...]:
    for name, key in value.items():
        if not name or len(_text(key)) != PUBLIC_KEY_DIGITS or len(bytes.fromhex(key)) != 32:
            raise ValueError("a voter has a name and a public key")
    return tuple(sorted(value.items()))


def _write_finalize(finalize: Finalize) -> tuple[Fields, Vectors]:
    return {"level": finalize.level, "voter_keys": dict(finalize.voter_keys)}, []


def _read_finalize(fields: Fields, vectors: bytes) -> Finalize:
    _split(vectors, 0)
    return Finalize(_count(fields["level"]), _voter_keys(fields["voter_keys"]))


def _write_epoch(opened: OpenEpoch) -> tuple[Fields, Vectors]:
    names = ("epoch_id", "base_seq", "voters", "fingerprint", "dim")
    fields: Fields = {name: getattr(opened, name) for name in names}
    if opened.level > BASE_LEVEL:  # omitted otherwise, as in the frames of older releases
        fields["level"], fields["voter_keys"] = opened.level, dict(opened.voter_keys)
    more = {"votes": list(opened.votes), "warrant": opened.warrant}
    return {**fields, **{name: value for name, value in more.items() if value}}, []


def _read_epoch(fields: Fields, vectors: bytes) -> OpenEpoch:
    _split(vectors, 0)
    return OpenEpoch(
        epoch_id=_text(fields["epoch_id"]),
        base_seq=_count(fields["base_seq"]),
        voters=_texts(fields["voters"]),
        fingerprint=_text(fields["fingerprint"]),
        dim=_dim(fields["dim"]),
        level=_count(fields.get("level", BASE_LEVEL)),
        voter_keys=_voter_keys(fields.get("voter_keys", {})),
        votes=_texts(fields.get("votes", [])),
        warrant=_text(fields.get("warrant", "")),
    )


def _write_voter(change: VoterAdd | VoterRemove) -> tuple[Fields, Vectors]:
    key = change.public_key if isinstance(change, VoterAdd) else ""
    more = {"public_key": key, "votes": list(change.votes)}
    return {"node_id": change.node_id, **{name: value for name, value in more.items() if value}}, []


def _read_voter_add(fields: Fields, vectors: bytes) -> VoterAdd:
    _split(vectors, 0)
    key, votes = fields.get("public_key", ""), fields.get("votes", [])
    return VoterAdd(_text(fields["node_id"]), _text(key), _texts(votes))


def _read_voter_remove(fields: Fields, vectors: bytes) -> VoterRemove:
    _split(vectors, 0)
    return VoterRemove(_text(fields["node_id"]), _texts(fields.get("votes", [])))


_Writer = Callable[[Any], tuple[Fields, Vectors]]
_Reader = Callable[[Fields, bytes], Mutation]
_Kind = tuple[int, type[Mutation], _Writer, _Reader]


def _plain(kind: int, of: Callable[..., Mutation], **readers: Callable[[Any], Any]) -> _Kind:
    def write(mutation: Mutation) -> tuple[Fields, Vectors]:
        return {name: getattr(mutation, name) for name in readers}, []

    def read(fields: Fields, vectors: bytes) -> Mutation:
        _split(vectors, 0)
        return of(**{name: reader(fields[name]) for name, reader in readers.items()})

    assert isinstance(of, type)
    return kind, of, write, read


_KINDS: Final[tuple[_Kind, ...]] = (
    (1, PutRoute, _write_put, _read_put),
    _plain(2, DeleteRoute, name=_text),
    (3, AddUtterances, _write_add, _read_add),
    _plain(4, RemoveUtterances, name=_text, utterances=_texts),
    (5, PatchRoute, _write_patch, _read_patch),
    (6, PutSettings, _write_settings, _read_settings),
    _plain(7, ImportBegin, import_id=_text, replace=_flag),
    (8, ImportChunk, _write_chunk, _read_chunk),
    _plain(9, ImportCommit, import_id=_text, chunk_count=_count),
    _plain(10, ImportAbort, import_id=_text),
    (11, OpenEpoch, _write_epoch, _read_epoch),
    (12, VoterAdd, _write_voter, _read_voter_add),
    (13, VoterRemove, _write_voter, _read_voter_remove),
    _plain(20, Audit, audit_id=_text, is_deep=_flag),
    _plain(21, SwitchEncoder, import_id=_text),
    _plain(22, Calibrate, calibration=_text),
    _plain(23, Calibrate, calibration=_text),
    (24, Finalize, _write_finalize, _read_finalize),
    (25, CalibrateDecision, _write_decision, _read_decision),
    _plain(26, PutFeedback, item_id=_text, text=_text, at_ms=_count, **_NAMES_OR_NONE),
    (27, ReviseRoutes, _write_revision, _read_revision),
)
# If a type has two kinds, the later one is written.  Kind 22 allowed at most 1,024 characters.
# A release that knows only 22 would reject a longer calibration while other nodes apply it,
# so longer ones have the kind 23, which such a release does not understand at all.
KIND_BY_TYPE: Final[dict[type[Mutation], int]] = {kind[1]: kind[0] for kind in _KINDS}
WRITERS: Final[dict[int, _Writer]] = {kind[0]: kind[2] for kind in _KINDS}
_TYPE_BY_KIND: Final[dict[int, type[Mutation]]] = {kind[0]: kind[1] for kind in _KINDS}
READERS: Final[dict[int, _Reader]] = {kind[0]: kind[3] for kind in _KINDS}


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
            author=_text(fields.get("author", "")),
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
    return _TYPE_BY_KIND[kind], fields


def _level_of(proposal: Proposal) -> int:
    level = level_of(proposal.mutation)
    return max(level, AUTHORS_LEVEL) if proposal.author else level


def _write_fields(proposal: Proposal, kind: int) -> tuple[bytes, list[bytes]]:
    fields, vectors = WRITERS[kind](proposal.mutation)
    if proposal.if_match is not None:
        fields["if_match"] = list(proposal.if_match)
    if proposal.if_none_match:
        fields["if_none_match"] = True
    if proposal.author:
        fields["author"] = proposal.author
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
