"""Frames: each proposal has exactly one, and anything else is refused with a CodecError."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest

from replicas import fields_of, frame_of, frame_of_fields, frame_of_text
from synaptoroute.core import codec
from synaptoroute.core.codec import (
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    LEVEL,
    decode_proposal,
    digest_of,
    encode_proposal,
    header_of,
    op_id_of,
)
from synaptoroute.core.mutation import (
    KEEP,
    AddUtterances,
    Calibrate,
    DeleteRoute,
    Finalize,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    OpenEpoch,
    PatchRoute,
    Proposal,
    PutRoute,
    PutSettings,
    RemoveUtterances,
    Revision,
    Settings,
)
from synaptoroute.core.mutation_fields import DIM_MAX
from synaptoroute.errors import CodecError, TooLarge, UnknownMutation

pytestmark = pytest.mark.unit

OP_ID = bytes(range(16))
VECTORS = (struct.pack("<2f", 1, 0), struct.pack("<2f", 0, 1))
PUT = PutRoute("billing", ("where is my bill", "Rechnung"), VECTORS, 0.5, '{"a":1}', "[1]")
MUTATIONS: list[Mutation] = [
    PUT,
    PutRoute("r", ("ü",), VECTORS[:1]),
    DeleteRoute("billing"),
    AddUtterances("billing", ("x",), VECTORS[:1]),
    RemoveUtterances("billing", ("x", "y")),
    PatchRoute("billing"),
    PatchRoute("billing", None, "{}", "null"),
    PatchRoute("billing", 0.25, KEEP, "1"),
    PutSettings(Settings("topk", 5, 0.1, 10)),
    PutSettings(Settings(cascade=True)),
    Calibrate('{"at":"1.1"}'),
    ImportBegin("spring", replace=True),
    ImportChunk("spring", 3, (PUT, PutRoute("r", ("a",), VECTORS[:1]))),
    ImportChunk("spring", 0, ()),
    ImportCommit("spring", 4),
    ImportAbort("spring"),
    OpenEpoch("e1", 9, ("n1", "n2"), "f" * 64, 384),
]


def framed(mutation: Mutation) -> bytes:
    """The frame of a mutation without conditions."""
    return encode_proposal(Proposal(OP_ID, mutation))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: type(m).__name__)
def test_every_kind_reads_back_equal(mutation: Mutation) -> None:
    """Including its preconditions and its request hash."""
    proposal = Proposal(OP_ID, mutation, b"h" * 16, Revision(1, 2), if_none_match=True)

    assert proposal == decode_proposal(encode_proposal(proposal))
    assert Proposal(OP_ID, mutation) == decode_proposal(framed(mutation))


def test_kinds_keep_their_numbers() -> None:
    """Logs and databases contain the numbers."""
    assert [1, 1, 2, 3, 4, 5, 5, 5, 6, 6, 23, 7, 8, 8, 9, 10, 11] == [
        framed(m)[3] for m in MUTATIONS
    ]


def test_calibration_of_the_older_kind_is_still_read() -> None:
    """Logs contain both kinds; an older release halts at the new one."""
    frame = bytearray(framed(Calibrate('{"at":"1.1"}')))
    frame[3] = 22
    head = bytes(frame[: HEADER_BYTES - 4])
    frame[HEADER_BYTES - 4 : HEADER_BYTES] = struct.pack("<I", zlib.crc32(head))

    assert Proposal(OP_ID, Calibrate('{"at":"1.1"}')) == decode_proposal(bytes(frame))


def test_frame_does_not_change_between_releases() -> None:
    """The hash chain of an entry depends on every byte."""
    frame = framed(PutRoute("r", ("a",), (b"\x01\x02\x03\x04",)))

    assert (
        b'\x1f\x00\x00\x00{"name":"r","utterances":["a"]}\x01\x02\x03\x04' == (frame[HEADER_BYTES:])
    )
    assert "308845c1af5fedbdd2c609591df3ec5afdfaaaea498c25489724788fe4e666c7" == digest_of(frame)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PutRoute("r", ("a",), VECTORS[:1], 1), PutRoute("r", ("a",), VECTORS[:1], 1.0)),
        (PatchRoute("r", -0.0), PatchRoute("r", 0.0)),
        (PutSettings(Settings(threshold=0)), PutSettings(Settings(threshold=-0.0))),
    ],
)
def test_equal_proposals_have_equal_bytes(one: Mutation, other: Mutation) -> None:
    """Even if equal numbers are written differently, such as 1 and 1.0."""
    assert one == other
    assert framed(one) == framed(other)
    assert one == decode_proposal(framed(one)).mutation


def test_header_identifies_the_frame() -> None:
    """It contains the op_id and the hash of the payload."""
    frame, other = framed(PUT), framed(replace(PUT, payload="[2]"))

    assert OP_ID == op_id_of(header_of(frame))
    assert digest_of(frame) != digest_of(other)
    assert digest_of(frame) == digest_of(header_of(frame))


@pytest.mark.parametrize("header", [b"", framed(PUT)[: HEADER_BYTES - 1], b"\x00" * HEADER_BYTES])
def test_op_id_of_a_damaged_header_is_not_read(header: bytes) -> None:
    """The wrong writer would get an answer."""
    with pytest.raises(CodecError):
        op_id_of(header)


@pytest.mark.parametrize(
    "proposal",
    [
        Proposal(b"short", DeleteRoute("r")),
        Proposal(OP_ID, DeleteRoute("r"), request_hash=b"short"),
        Proposal(OP_ID, DeleteRoute("r"), request_hash=b"\x00" * 16),
        Proposal(OP_ID, DeleteRoute("\ud800")),
        Proposal(OP_ID, PatchRoute("r", float("nan"))),
        Proposal(OP_ID, PatchRoute("r", float("inf"))),
        Proposal(OP_ID, PatchRoute("r", 10**400)),
        Proposal(OP_ID, PutRoute("r", ("a",), ())),
        Proposal(OP_ID, PutRoute("r", ("a",), (b"",))),
        Proposal(OP_ID, PutRoute("r", ("a",), (b"123",))),
        Proposal(OP_ID, PutRoute("r", ("a", "b"), (b"1234", b"12345678"))),
        Proposal(OP_ID, PutRoute("r", ("a", "b"), (b"1234" * 3, b"1234"))),
        Proposal(OP_ID, AddUtterances("r", ("a",), VECTORS)),
        Proposal(
            OP_ID,
            ImportChunk(
                "i",
                0,
                (PutRoute("r", ("a",), (b"1234" * 2,)), PutRoute("s", ("a",), (b"1234" * 4,))),
            ),
        ),
    ],
    ids=lambda proposal: type(proposal.mutation).__name__,
)
def test_malformed_proposal_is_not_encoded(proposal: Proposal) -> None:
    """A proposal that could not be decoded to an equal one is refused."""
    with pytest.raises(CodecError):
        encode_proposal(proposal)


def test_proposal_over_the_limit_is_not_encoded() -> None:
    """The encoder and the decoder have the same limit."""
    size_bytes = len(framed(PutRoute("r", ("",), (b"1234",))))
    largest = framed(PutRoute("r", ("x" * (FRAME_BYTES_MAX - size_bytes),), (b"1234",)))

    assert FRAME_BYTES_MAX == len(largest)
    assert largest == encode_proposal(decode_proposal(largest))
    with pytest.raises(TooLarge):
        framed(PutRoute("r", ("x" * (FRAME_BYTES_MAX - size_bytes + 1),), (b"1234",)))


@pytest.mark.parametrize(
    "text",
    [
        '{"name":"r", "utterances":["a"]}',
        '{"utterances":["a"],"name":"r"}',
        '{"name":"r","name":"r","utterances":["a"]}',
        '{"name":"\\u0072","utterances":["a"]}',
        '{"name":"r","payload":"null","utterances":["a"]}',
        '{"if_match":null,"name":"r","utterances":["a"]}',
        '{"if_none_match":false,"name":"r","utterances":["a"]}',
        '{"later":1,"name":"r","utterances":["a"]}',
        '{"name":"r","threshold":null,"utterances":["a"]}',
        '{"name":"r","threshold":0.50,"utterances":["a"]}',
        '{"name":"r","threshold":-0.0,"utterances":["a"]}',
        '\ufeff{"name":"r","utterances":["a"]}',
        '{"name":"r","utterances":["a"]}\n',
    ],
)
def test_frame_that_is_not_canonical_is_refused(text: str) -> None:
    """Every accepted frame equals the frame that this release would write."""
    with pytest.raises(CodecError):
        decode_proposal(frame_of_text(text, VECTORS[0]))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b'"name"',
        b"{",
        b"\xff\xfe",
        '{"name":"r","utterances":["a"]}'.encode("utf-16"),
        '{"name":"r","utterances":["a"]}'.encode("utf-32"),
        b'{"name":"r","utterances":"a"}',
        b'{"name":"r","utterances":[1]}',
        b'{"name":"r","utterances":{"a":1}}',
        b'{"name":"r","utterances":1}',
        b'{"name":1,"utterances":["a"]}',
        b'{"name":"\\ud800","utterances":["a"]}',
        b'{"name":"\xed\xa0\x80","utterances":["a"]}',
        b'{"name":"r","threshold":NaN,"utterances":["a"]}',
        b'{"name":"r","threshold":-Infinity,"utterances":["a"]}',
        b'{"name":"r","threshold":1e999,"utterances":["a"]}',
        b'{"name":"r","threshold":true,"utterances":["a"]}',
        b'{"name":"r","threshold":1,"utterances":["a"]}',
        b'{"name":"r","threshold":' + b"9" * 400 + b',"utterances":["a"]}',
        b'{"name":"r","threshold":' + b"9" * 5_000 + b',"utterances":["a"]}',
        b'{"metadata":{},"name":"r","utterances":["a"]}',
        b'{"if_match":[1],"name":"r","utterances":["a"]}',
        b'{"if_match":[1,2,3],"name":"r","utterances":["a"]}',
        b'{"if_match":[1,-2],"name":"r","utterances":["a"]}',
        b'{"if_match":[1,1.5],"name":"r","utterances":["a"]}',
        b'{"if_match":["1","2"],"name":"r","utterances":["a"]}',
        b'{"if_match":[1,true],"name":"r","utterances":["a"]}',
        b'{"if_match":[1,18446744073709551616],"name":"r","utterances":["a"]}',
        b'{"if_none_match":1,"name":"r","utterances":["a"]}',
        b'{"name":' + b"[" * 100_000 + b',"utterances":["a"]}',
    ],
)
def test_malformed_text_is_refused(text: bytes) -> None:
    """Including texts that JSON parsers are known to accept."""
    with pytest.raises(CodecError):
        decode_proposal(frame_of_text(text, VECTORS[0]))


@pytest.mark.parametrize("vectors", [b"", b"1", b"123", b"12345"])
def test_vectors_that_are_not_rows_of_float32_are_refused(vectors: bytes) -> None:
    """There must be one row of float32 for each utterance."""
    with pytest.raises(CodecError):
        decode_proposal(frame_of_fields({"name": "r", "utterances": ["a"]}, vectors))


@pytest.mark.parametrize(
    "mutation",
    [m for m in MUTATIONS if not isinstance(m, PutRoute | AddUtterances | ImportChunk)],
    ids=lambda m: type(m).__name__,
)
def test_vectors_of_a_kind_without_vectors_are_refused(mutation: Mutation) -> None:
    frame = framed(mutation)
    with pytest.raises(CodecError):
        decode_proposal(frame_of(frame[HEADER_BYTES:] + b"\x00" * 8, frame[3]))


FORGED_VALUES: list[Any] = [None, True, -1, 1.5, 1 << 53, 10**400, "", [], {}, [[]], "\ud800"]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: type(m).__name__)
def test_forged_fields_raise_only_codec_errors(mutation: Mutation) -> None:
    """Each field of each kind, missing or with a value of each wrong type."""
    frame = framed(mutation)
    fields, vectors = fields_of(frame)
    for name in fields:
        for value in FORGED_VALUES:
            forged = frame_of_fields({**fields, name: value}, vectors, frame[3])
            try:
                decoded = decode_proposal(forged)
            except CodecError:
                continue
            assert forged[HEADER_BYTES:] == encode_proposal(decoded)[HEADER_BYTES:]
        rest = {key: value for key, value in fields.items() if key != name}
        try:
            decode_proposal(frame_of_fields(rest, vectors, frame[3]))
        except CodecError:
            continue


def test_epoch_with_too_large_a_dimension_is_refused() -> None:
    """No node allocates memory for it."""
    assert framed(OpenEpoch("e", 0, dim=DIM_MAX)) == encode_proposal(
        decode_proposal(framed(OpenEpoch("e", 0, dim=DIM_MAX)))
    )
    with pytest.raises(CodecError):
        decode_proposal(framed(OpenEpoch("e", 0, dim=DIM_MAX + 1)))


@pytest.mark.parametrize("length", [0, 3, 5, 1 << 31])
def test_payload_shorter_than_its_length_field_is_refused(length: int) -> None:
    with pytest.raises(CodecError):
        decode_proposal(frame_of(struct.pack("<I", length)[:3]))
    with pytest.raises(CodecError):
        decode_proposal(frame_of(struct.pack("<I", length) + b"{}"))


def test_error_names_an_unknown_kind() -> None:
    """The follower halts and reports the kind."""
    with pytest.raises(UnknownMutation) as caught:
        decode_proposal(frame_of(b"\x00\x00\x00\x00", kind=200))

    assert 200 == caught.value.fields["kind"]


@pytest.mark.parametrize(("level", "flags"), [(LEVEL + 1, 0), (1, 1)])
def test_later_levels_and_flags_are_refused(level: int, flags: int) -> None:
    """A known kind may have more fields at a later level."""
    payload = framed(PUT)[HEADER_BYTES:]
    with pytest.raises(UnknownMutation):
        decode_proposal(frame_of(payload, level=level, flags=flags))


def test_level_that_the_content_does_not_need_is_refused() -> None:
    """Otherwise one proposal would have two frames."""
    payload = framed(PUT)[HEADER_BYTES:]
    with pytest.raises(CodecError):
        decode_proposal(frame_of(payload, level=2))


def test_author_and_level_need_level_2() -> None:
    """A release that knows level 1 only refuses these frames instead of misreading them."""
    keys = (("n1", "0" * 64),)
    for proposal in (
        Proposal(OP_ID, PUT, author="ops"),
        Proposal(OP_ID, Finalize(2, keys)),
        Proposal(OP_ID, OpenEpoch("b", 0, ("n1",), "f", 2, 2, keys)),
    ):
        frame = encode_proposal(proposal)
        assert frame[4:6] == b"\x02\x00"
        assert decode_proposal(frame) == proposal


def test_entry_that_sets_a_level_carries_it() -> None:
    """A release that does not know the level stops before the entry instead of applying it."""
    keys, later = (("n1", "0" * 64),), LEVEL + 1
    for mutation in (Finalize(later, keys), OpenEpoch("b", 0, ("n1",), "f", 2, later, keys)):
        frame = encode_proposal(Proposal(OP_ID, mutation))
        assert frame[4:6] == bytes((later, 0))
        with pytest.raises(UnknownMutation):
            decode_proposal(frame)


def test_later_release_writes_no_frame_of_its_level_before_it_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An author, or a log that is founded with this release, needs level 2 only."""
    keys = (("n1", "0" * 64),)
    founded = OpenEpoch("b", 0, ("n1",), "f", 2, 2, keys)
    for proposal in (Proposal(OP_ID, PUT, author="ops"), Proposal(OP_ID, founded)):
        frame = encode_proposal(proposal)
        monkeypatch.setattr(codec, "LEVEL", LEVEL + 1)
        assert frame == encode_proposal(proposal)
        assert proposal == decode_proposal(frame)
        monkeypatch.undo()


def test_damaged_frame_is_not_reported_as_unknown() -> None:
    """Even if the damaged bytes look like a later release."""
    frame = bytearray(frame_of(b"\x00\x00\x00\x00", kind=200))
    frame[-1] ^= 1
    with pytest.raises(CodecError):
        decode_proposal(bytes(frame))


def test_texts_are_readable_in_a_frame() -> None:
    """People can read a frame's fields in a database."""
    fields, _ = fields_of(framed(PUT))

    assert json.loads(fields["metadata"]) == {"a": 1}
    assert b"Rechnung" in framed(PUT)
