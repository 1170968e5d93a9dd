"""Frames that are altered, cut, or forged with valid checksums."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicas import EMPTY, Shadow, fields_of, frame_of, frame_of_fields, fresh, log_of, replay
from set_logs import OF_SETS
from strategies import EPOCH_OPENINGS, MUTATIONS, NAMES, proposals
from synaptoroute.core.codec import (
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    LEVEL,
    decode_proposal,
    encode_proposal,
    header_of,
    op_id_of,
)
from synaptoroute.core.mutation import Proposal, Revision
from synaptoroute.core.mutation_fields import READERS
from synaptoroute.core.table import RouteTable
from synaptoroute.errors import CodecError, UnknownMutation

pytestmark = pytest.mark.property

SET_NAMES = st.sampled_from(["", "", "support", "support@2"])
NOTES = st.sampled_from(["", "", "a note", "ü"])


@given(proposals(MUTATIONS | EPOCH_OPENINGS | OF_SETS), SET_NAMES, NOTES)
def test_codec_round_trip_is_canonical(proposal: Proposal, route_set: str, note: str) -> None:
    """Decoding gives an equal proposal, and encoding it again the same bytes."""
    proposal = replace(proposal, route_set=route_set, note=note)
    frame = encode_proposal(proposal)
    decoded = decode_proposal(frame)

    assert proposal == decoded
    assert frame == encode_proposal(decoded)
    assert proposal.op_id == op_id_of(header_of(frame))


@settings(max_examples=25)
@given(proposals(MUTATIONS | EPOCH_OPENINGS | OF_SETS), st.integers(1, 255))
def test_altered_frame_is_refused(proposal: Proposal, flip: int) -> None:
    """At every position, with every other value."""
    frame = encode_proposal(proposal)
    for place in range(len(frame)):
        altered = bytearray(frame)
        altered[place] ^= flip
        with pytest.raises(CodecError):
            decode_proposal(bytes(altered))


@settings(max_examples=25)
@given(proposals(), st.binary(min_size=1, max_size=8))
def test_truncated_or_extended_frame_is_refused(proposal: Proposal, more: bytes) -> None:
    """At every other length."""
    frame = encode_proposal(proposal)
    for size in range(len(frame)):
        with pytest.raises(CodecError):
            decode_proposal(frame[:size])
    with pytest.raises(CodecError):
        decode_proposal(frame + more)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(noise: bytes) -> None:
    """With a CodecError."""
    with pytest.raises(CodecError):
        decode_proposal(noise)


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=6)
    | NAMES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "utterances", "threshold"]), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELD_NAMES = st.sampled_from(
    [
        "name",
        "utterances",
        "threshold",
        "metadata",
        "payload",
        "aggregation",
        "topk",
        "capacity_slots",
        "import_id",
        "replace",
        "number",
        "parts",
        "chunk_count",
        "confidence_min",
        "description",
        "negatives",
        "expected_unmatched_share",
        "ignore",
        "epoch_id",
        "base_seq",
        "voters",
        "fingerprint",
        "dim",
        "if_match",
        "if_none_match",
    ]
)


@settings(max_examples=250)
@given(
    st.sampled_from(sorted(READERS)),
    st.dictionaries(FIELD_NAMES, JSON_VALUES, max_size=8) | JSON_VALUES,
    st.binary(max_size=24),
    st.sampled_from([1, LEVEL]),
)
def test_forged_fields_are_refused_or_decided(
    kind: int, fields: Any, vectors: bytes, level: int
) -> None:
    """A valid frame with any fields is refused by the codec or decided by the table."""
    frame = frame_of_fields(fields, vectors, kind, level)
    try:
        proposal = decode_proposal(frame)
    except CodecError:
        return
    assert frame[HEADER_BYTES:] == encode_proposal(proposal)[HEADER_BYTES:]
    table = RouteTable(EMPTY.settings, dim=2)
    change = table.apply(proposal, Revision(1, 1))
    assert change.outcome.status in ("applied", "unchanged", "rejected")


MUTATED_FIELDS: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            float("nan"),
            float("inf"),
            -0.0,
            1e999,
            2**53,
            2**63,
            10**400,
            -1,
            True,
            False,
            None,
            "",
            "\x00",
            "\ud800",
            "x" * 200,
            "x" * 9_000,
            [],
            {},
            [[]],
            ["a", "a"],
            "[" * 5_000,
            '{"b":1,"a":2}',
            "NaN",
        ]
    ),
    JSON_VALUES,
)


@settings(max_examples=250)
@given(proposals(MUTATIONS | EPOCH_OPENINGS), st.data())
def test_proposal_with_one_forged_field_does_not_corrupt_the_replica(
    proposal: Proposal, data: st.DataObject
) -> None:
    """Nearly valid frames are refused or decided; the table can still be stored."""
    frame = encode_proposal(replace(proposal, if_match=None, if_none_match=False))
    fields, vectors = fields_of(frame)
    target = fields
    if fields.get("parts") and data.draw(st.booleans(), label="inside a part"):
        target = fields["parts"][0]
    names = st.sampled_from(sorted(target)) | FIELD_NAMES if target else FIELD_NAMES
    name = data.draw(names, label="field")
    target[name] = data.draw(MUTATED_FIELDS, label="value")
    level = data.draw(st.sampled_from([frame[4], 1, LEVEL]), label="level")
    forged = frame_of_fields(fields, vectors, frame[3], level)
    try:
        decoded = decode_proposal(forged)
    except CodecError:
        return
    replica = fresh()
    shadow = Shadow()
    for commit in replay(replica, log_of([decoded])):
        shadow.carry_out(commit.change)
    shadow.check(replica.table)
    for route in replica.table.routes.values():
        assert 128 >= len(route.name.encode())
        assert all(8_192 >= len(text.encode()) for text in route.utterances)
        assert isinstance(json.loads(route.metadata), dict)
        json.loads(route.payload)
    assert 4_000_000 >= replica.table.settings.capacity_slots


@given(st.integers(0, 255), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_later_kinds_levels_and_flags_are_unknown_not_damaged(
    kind: int, level: int, flags: int
) -> None:
    """A valid frame of a later release is not reported as damaged."""
    frame = frame_of(struct.pack("<I", 2) + b"{}", kind, level, flags)
    is_known = kind in READERS and level <= LEVEL and flags == 0
    with pytest.raises(CodecError if is_known else UnknownMutation):
        decode_proposal(frame)


def test_frames_over_the_limit_are_refused() -> None:
    """Before anything in them is read."""
    with pytest.raises(CodecError, match="at most"):
        decode_proposal(b"\x00" * (FRAME_BYTES_MAX + 1))
