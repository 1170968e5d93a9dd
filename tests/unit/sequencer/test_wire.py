"""Goal: only messages in the exact format are accepted.

Method: round trips, and every kind of damage.
"""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.core.codec import encode_proposal, header_of
from synaptoroute.core.mutation import CHAIN_START, DeleteRoute, Entry, Position, Proposal
from synaptoroute.core.replica import make_entry
from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.wire import (
    MESSAGE_BYTES_MAX,
    NUMBER_MAX,
    RECORDS_MAX,
    Announced,
    Keepalive,
    SigningKeys,
    keepalive_record,
    parse_message,
    parse_stream_entry,
)

pytestmark = pytest.mark.unit

PLAIN = SigningKeys("default")
SIGNED = SigningKeys("default", {"k1": b"s" * 32})


def entry_of(seq: int = 1, name: str = "weather") -> Entry:
    """An entry as the sequencer would number it."""
    op_id = hashlib.blake2b(name.encode(), digest_size=16).digest()
    proposal = Proposal(op_id, DeleteRoute(name))
    return make_entry(Position(1, seq - 1, CHAIN_START), encode_proposal(proposal), proposal, 5)


def record(entry: Entry, kind: str = "E", signing_keys: SigningKeys = PLAIN) -> bytes:
    """A record as the script writes it."""
    body = signing_keys.seal(entry.frame)
    if kind == "P":
        body = body[: len(body) - len(entry.frame) + len(header_of(entry.frame))]
    line = f"SR1 {kind} {entry.epoch} {entry.seq} {entry.prev_chain} {entry.chain} "
    return f"{line}{entry.time_us} {len(body)}\n".encode() + body


@pytest.mark.parametrize("signing_keys", [PLAIN, SIGNED], ids=["plain", "signed"])
def test_message_gives_its_records_in_order(signing_keys: SigningKeys) -> None:
    """Entries, announcements and keepalives may share a message."""
    first, second = entry_of(1, "one"), entry_of(2, "two")
    beat = keepalive_record(1, 2, second.chain, 9, "open", "node-1")
    data = record(first, signing_keys=signing_keys) + record(second, "P", signing_keys) + beat
    announced = Announced(1, 2, second.chain, second.proposal.op_id)

    assert parse_message(data, signing_keys) == (
        first,
        announced,
        Keepalive(1, 2, second.chain, 9, "open", "node-1"),
    )


@given(st.binary(max_size=400))
def test_random_bytes_are_refused(data: bytes) -> None:
    """Random bytes are never accepted."""
    with pytest.raises(ProtocolError):
        parse_message(data, PLAIN)


@given(st.data())
@pytest.mark.parametrize("signing_keys", [PLAIN, SIGNED], ids=["plain", "signed"])
def test_altered_byte_is_refused_or_changes_the_time_only(
    signing_keys: SigningKeys, data: st.DataObject
) -> None:
    """An altered byte is refused, or changes only the time, which is not signed."""
    entry = entry_of()
    message = bytearray(record(entry, signing_keys=signing_keys))
    at = data.draw(st.integers(0, len(message) - 1))
    message[at] ^= data.draw(st.integers(1, 255))
    try:
        (parsed,) = parse_message(bytes(message), signing_keys)
    except ProtocolError:
        return
    if isinstance(parsed, Announced):
        assert (entry.seq, entry.chain) == (parsed.seq, parsed.chain)
        return

    assert isinstance(parsed, Entry)
    assert (entry.position, entry.frame) == (parsed.position, parsed.frame)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * (MESSAGE_BYTES_MAX + 1),
        keepalive_record(1, 1, CHAIN_START, 1, "open", "n") * (RECORDS_MAX + 1),
        keepalive_record(1, NUMBER_MAX + 1, CHAIN_START, 1, "open", "n"),
        keepalive_record(1, 1, CHAIN_START, 1, "closed", "n"),
        keepalive_record(1, 1, CHAIN_START[:-1], 1, "open", "n"),
        keepalive_record(1, 1, CHAIN_START, 1, "open", ""),
        keepalive_record(1, 1, CHAIN_START, 1, "open", "n")[:-1],
        record(entry_of())[:-1],
        record(entry_of()).replace(b"SR1 E 1 1 ", b"SR1 E 1 01 "),
        record(entry_of()).replace(b"SR1 E 1 1 ", b"SR1 E 1 2 "),
        record(entry_of()).replace(b"SR1 E 1 1 ", b"SR1 E 2 1 "),
        record(entry_of()).replace(b"SR1 E", b"SR1 P"),
        record(entry_of()).replace(b"SR1 E", b"SR2 E"),
        record(entry_of()) + b"\n",
    ],
)
def test_damaged_message_is_refused(data: bytes) -> None:
    """Every limit and every field is checked."""
    with pytest.raises(ProtocolError):
        parse_message(data, PLAIN)


def stream_fields(entry: Entry) -> dict[bytes, bytes]:
    """Fields of an entry in the stream."""
    return {
        b"t": str(entry.time_us).encode(),
        b"p": entry.prev_chain.encode(),
        b"c": entry.chain.encode(),
        b"b": b"100",
        b"f": entry.frame,
    }


def test_stream_entry_is_the_entry() -> None:
    """A field of a later release is ignored."""
    entry = entry_of()
    fields = stream_fields(entry) | {b"later": b"field"}
    flat = [part for item in fields.items() for part in item]

    assert parse_stream_entry(b"1-1", flat).decode(PLAIN) == entry


@pytest.mark.parametrize(
    ("stream_id", "changes"),
    [
        (b"1-2", {}),
        (b"2-1", {}),
        (b"1", {}),
        (b"1-1", {b"c": CHAIN_START.encode()}),
        (b"1-1", {b"p": b"f" * 40}),
        (b"1-1", {b"t": b"now"}),
        (b"1-1", {b"f": b""}),
        (b"1-1", {b"f": b"f" * 3_000_000}),
        (b"1-1", {b"f": None}),
    ],
)
def test_damaged_stream_entry_is_refused(
    stream_id: bytes, changes: dict[bytes, bytes | None]
) -> None:
    """An entry that contradicts its place, chain or frame is refused."""
    fields = stream_fields(entry_of()) | changes
    flat = [part for name, value in fields.items() if value is not None for part in (name, value)]

    with pytest.raises(ProtocolError):
        parse_stream_entry(stream_id, flat).decode(PLAIN)
