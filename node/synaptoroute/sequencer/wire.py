r"""The format of the bus and of the stream, and the signatures over entries.

A bus message is a series of records, each a line of text and a body::

    SR1 E <epoch> <seq> <chain before> <chain> <time_us> <body bytes>\n <sealed frame>
    SR1 P <epoch> <seq> <chain before> <chain> <time_us> <body bytes>\n <sealed header>
    SR1 B <epoch> <seq> <chain> <time_us> <state> <sender>\n

``E`` carries an entry.  ``P`` announces an entry that is too large for the bus and has to be
read from the log.  ``B`` is a keepalive with the head of the log.  Any client that reaches the
channel can publish, so everything that is not exactly in this format raises ``ProtocolError``
and is counted.

Seals protect the routes from a client that has access to Redis only.  There are two formats,
both with a code of the cluster secret (HMAC-SHA256)::

    level 1  "SK" | key id 8 | code 32 | frame
    level 2  "S2" | key id 8 | epoch u64 | seq u64 | chain 20 | author's key 32 | nonce 8 | code 32
             | frame

The code covers the namespace, the frame's header and, at level 2, everything before it.  The
header carries the SHA-256 of the payload, so the seal covers the whole frame, and an announcement
without the payload can be verified, too.  The place of an entry is not covered, because the
sequencer assigns it later.  At level 2 the seal names the position at which the author stood: the
replica refuses an entry that was sealed on another history or too far from its place.  Each seal
is unique by its nonce, and the replica refuses one that it has seen, so a server cannot append a
genuine entry once more.

The seal stays with its entry: in the stream, in the op log of every node, in what peers send, and
in a refilled stream.  ``SigningKeys.open`` verifies it on every one of these paths.

The keys are those of the cluster secret, see ``trust.cluster_secret``.
"""

from __future__ import annotations

import hmac
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeAlias

from synaptoroute.core.codec import (
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    decode_proposal,
    digest_of,
    header_of,
    op_id_of,
)
from synaptoroute.core.digest import next_chain
from synaptoroute.core.mutation import Entry, Position
from synaptoroute.errors import ProtocolError, UnknownMutation
from synaptoroute.trust.cluster_secret import ClusterSecret, read_keys

_MAGIC: Final = b"SK"
_MAGIC_2: Final = b"S2"
_ID_BYTES: Final = 8
_MAC_BYTES: Final = 32
_KEY_BYTES: Final = 32
_STOOD: Final = struct.Struct(">QQ20s")
SEAL_1_BYTES: Final = len(_MAGIC) + _ID_BYTES + _MAC_BYTES
_NONCE_BYTES: Final = 8
SEAL_2_BYTES: Final = SEAL_1_BYTES + _STOOD.size + _KEY_BYTES + _NONCE_BYTES
SEAL_BYTES: Final = SEAL_2_BYTES  # The longest one
_DOMAIN: Final = b"synaptoroute entry 1\x00"
_DOMAIN_2: Final = b"synaptoroute entry 2\x00"


class SigningKeys:
    """Keys of one namespace; without keys nothing is signed and nothing is refused.

    Every part of the room holds the same object, so one ``reload`` reaches all of them.
    """

    def __init__(
        self,
        namespace: str,  # Part of what is signed: an entry is not valid in another cluster
        # Secret by key id; the first one signs, all of them verify
        keys: Mapping[str, bytes] | None = None,
        # Accept entries without a signature, while keys are introduced
        allow_unsigned: bool = False,
        path: Path | None = None,  # The file that ``reload`` reads again
        author_key: bytes = bytes(_KEY_BYTES),  # Public key of this node; zeros if it has none
    ) -> None:
        """Use keys that are known already; see ``load`` for those of a file."""
        self.namespace = namespace
        self.secret = ClusterSecret(namespace, keys, path)
        self._author_key = author_key
        self._allow_unsigned = allow_unsigned

    @classmethod
    def load(
        cls,
        namespace: str,
        path: Path | None,
        *,
        allow_unsigned: bool = False,
        author_key: bytes = bytes(_KEY_BYTES),
    ) -> SigningKeys:
        """Read the key file, if there is one; blocks."""
        keys = read_keys(path) if path else {}
        return cls(namespace, keys, allow_unsigned, path, author_key)

    @property
    def keys(self) -> Mapping[str, bytes]:
        return self.secret.keys

    def reload(self) -> None:
        """Read the key file again; blocks.  The former keys stay if the file is malformed."""
        self.secret.reload()

    def seal(self, frame: bytes, stood: Position | None = None) -> bytes:
        """Put a seal before a frame, if there are keys.

        Args:
            frame: The frame.
            stood: The author's position, for a seal of level 2; None for one of level 1.
        """
        keys = self.keys
        if not keys:
            return frame
        key_id, secret = next(iter(keys.items()))
        head = key_id.encode().ljust(_ID_BYTES, b"\x00")
        if stood is None:
            return _MAGIC + head + self._code(secret, _DOMAIN, b"", header_of(frame)) + frame
        place = _STOOD.pack(stood.epoch, stood.seq, bytes.fromhex(stood.chain))
        head = _MAGIC_2 + head + place + self._author_key + os.urandom(_NONCE_BYTES)
        return head + self._code(secret, _DOMAIN_2, head, header_of(frame)) + frame

    def open(self, body: bytes, *, is_seal_needed: bool = True) -> Opened:
        """Verify a frame, or the header of one, and take the seal off.

        Args:
            body: The frame with its seal.
            is_seal_needed: Whether a missing seal is an error here.  Peers send entries of
                level 1 without one; the replica refuses them from level 2 on.

        Raises:
            ProtocolError: It is not what a member sealed (``forged=True``).
        """
        seal_bytes = _seal_bytes(body)
        seal, frame = body[:seal_bytes], body[seal_bytes:]
        stood = _stood_of(seal)
        # Read once: ``reload`` may replace the keys on another thread meanwhile.
        keys = self.keys
        if not keys or (not seal and (self._allow_unsigned or not is_seal_needed)):
            return Opened(frame, seal, stood)
        if not seal:
            raise ProtocolError("an entry without a signature", forged=True)
        key_id = seal[len(_MAGIC) : len(_MAGIC) + _ID_BYTES].rstrip(b"\x00")
        secret = keys.get(key_id.decode("ascii", errors="replace"))
        if len(frame) < HEADER_BYTES or secret is None:
            raise ProtocolError("an entry signed with a key that is not valid", forged=True)
        if stood is None:
            code = self._code(secret, _DOMAIN, b"", header_of(frame))
        else:
            code = self._code(secret, _DOMAIN_2, seal[:-_MAC_BYTES], header_of(frame))
        if not hmac.compare_digest(seal[-_MAC_BYTES:], code):
            raise ProtocolError("an entry whose signature is wrong", forged=True)
        return Opened(frame, seal, stood)

    def _code(self, secret: bytes, domain: bytes, head: bytes, header: bytes) -> bytes:
        signed = domain + self.namespace.encode() + b"\x00" + head + header
        return hmac.digest(secret, signed, sha256)


@dataclass(frozen=True, slots=True)
class Opened:
    """A frame, or the header of one, whose seal was verified."""

    frame: bytes
    seal: bytes  # As it came; empty if there was none
    stood: Position | None  # Where the author stood; None for a seal of level 1


def _seal_bytes(body: bytes) -> int:
    magic = body[: len(_MAGIC)]
    return {_MAGIC: SEAL_1_BYTES, _MAGIC_2: SEAL_2_BYTES}.get(magic, 0)


def _stood_of(seal: bytes) -> Position | None:
    if len(seal) < SEAL_2_BYTES:
        return None
    epoch, seq, chain = _STOOD.unpack_from(seal, len(_MAGIC) + _ID_BYTES)
    return Position(epoch, seq, chain.hex())


INLINE_BYTES_MAX: Final = 16_384
MESSAGE_BYTES_MAX: Final = 131_072
RECORDS_MAX: Final = 512
BODY_BYTES_MAX: Final = FRAME_BYTES_MAX + SEAL_BYTES
NUMBER_MAX: Final = 1 << 53  # Above this Lua's numbers are not exact

_LINE_BYTES_MAX: Final = 256
_NUMBER: Final = rb"(0|[1-9][0-9]{0,15})"
_CHAIN: Final = rb"([0-9a-f]{40})"
_ENTRY: Final = re.compile(
    rb"SR1 ([EP]) " + rb" ".join((_NUMBER, _NUMBER, _CHAIN, _CHAIN, _NUMBER, _NUMBER))
)
_KEEPALIVE: Final = re.compile(
    rb"SR1 B "
    + rb" ".join((_NUMBER, _NUMBER, _CHAIN, _NUMBER))
    + rb" (open|recovering|frozen) ([!-~]{1,128})"
)
_STREAM_ID: Final = re.compile(_NUMBER + rb"-" + _NUMBER)


@dataclass(frozen=True, slots=True)
class Announced:
    epoch: int
    seq: int
    chain: str
    op_id: bytes


@dataclass(frozen=True, slots=True)
class Keepalive:
    """A keepalive: the head of the log when it was sent."""

    epoch: int
    seq: int
    chain: str
    time_us: int  # Redis' clock
    state: str  # ``open``, ``recovering`` or ``frozen``
    source: str


Message: TypeAlias = Entry | Announced | Keepalive


def parse_message(data: bytes, signing_keys: SigningKeys) -> tuple[Message, ...]:
    """Read a bus message."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise ProtocolError(f"a message has at most {MESSAGE_BYTES_MAX} bytes, got {len(data)}")
    messages: list[Message] = []
    at = 0
    while at < len(data):
        if len(messages) == RECORDS_MAX:
            raise ProtocolError(f"a message has at most {RECORDS_MAX} records")
        end = data.find(b"\n", at, at + _LINE_BYTES_MAX)
        if end < 0:
            raise ProtocolError("a record without its line")
        line, at = data[at:end], end + 1
        if keepalive := _KEEPALIVE.fullmatch(line):
            messages.append(_keepalive_of(keepalive))
            continue
        record = _ENTRY.fullmatch(line)
        if record is None:
            raise ProtocolError("a line that is no record")
        body = data[at : at + int(record[7])]
        if len(body) != int(record[7]):
            raise ProtocolError("a record that is cut off")
        at += len(body)
        messages.append(_record_of(record, body, signing_keys))
    if not messages:
        raise ProtocolError("an empty message")
    return tuple(messages)


def _keepalive_of(found: re.Match[bytes]) -> Keepalive:
    epoch, seq, time_us = _numbers(found[1], found[2], found[4])
    return Keepalive(epoch, seq, found[3].decode(), time_us, found[5].decode(), found[6].decode())


def _record_of(
    record: re.Match[bytes], body: bytes, signing_keys: SigningKeys
) -> Entry | Announced:
    epoch, seq, time_us = _numbers(record[2], record[3], record[6])
    prev_chain, chain = record[4].decode(), record[5].decode()
    opened = signing_keys.open(body)
    frame = opened.frame
    if record[1] == b"P":
        if len(frame) != HEADER_BYTES:
            raise ProtocolError("an announcement is the header of a frame")
        return _announce(epoch, seq, prev_chain, chain, frame)
    try:
        return _entry(epoch, seq, prev_chain, chain, time_us, opened)
    except UnknownMutation:
        # An unknown mutation halts a node.  Only the log may do that, never the bus: so the
        # entry is treated as announced, and the log is read.
        return _announce(epoch, seq, prev_chain, chain, frame)


def _announce(epoch: int, seq: int, prev_chain: str, chain: str, frame: bytes) -> Announced:
    _check_chain(epoch, seq, prev_chain, chain, frame)
    return Announced(epoch, seq, chain, op_id_of(frame))


def _entry(
    epoch: int, seq: int, prev_chain: str, chain: str, time_us: int, opened: Opened
) -> Entry:
    frame = opened.frame
    _check_chain(epoch, seq, prev_chain, chain, frame)
    proposal = decode_proposal(frame)
    return Entry(epoch, seq, prev_chain, chain, time_us, frame, proposal, opened.seal, opened.stood)


def _check_chain(epoch: int, seq: int, prev_chain: str, chain: str, frame: bytes) -> None:
    if next_chain(prev_chain, epoch, seq, digest_of(frame)) != chain:
        raise ProtocolError(f"entry {epoch}.{seq} does not match its own chain", seq=seq)


def _numbers(*texts: bytes) -> tuple[int, ...]:
    numbers = tuple(int(text) for text in texts)
    if max(numbers) > NUMBER_MAX:
        raise ProtocolError("a number above 2**53")
    return numbers


def keepalive_record(
    epoch: int, seq: int, chain: str, time_us: int, state: str, source: str
) -> bytes:
    """Write a keepalive record, as ``keepalive.lua`` does."""
    return f"SR1 B {epoch} {seq} {chain} {time_us} {state} {source}\n".encode()


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """An entry of the stream with its frame, not decoded."""

    epoch: int
    seq: int
    prev_chain: str
    chain: str
    time_us: int  # Redis' clock when it was appended
    body: bytes  # Its frame, sealed

    def decode(self, signing_keys: SigningKeys, *, is_seal_needed: bool = True) -> Entry:
        """Verify the seal, the chain and the frame; see ``SigningKeys.open``."""
        opened = signing_keys.open(self.body, is_seal_needed=is_seal_needed)
        return _entry(self.epoch, self.seq, self.prev_chain, self.chain, self.time_us, opened)


def parse_stream_entry(stream_id: bytes, flat: Sequence[bytes]) -> StreamEntry:
    """Read an entry of the stream; a field of a later release is ignored."""
    place = _STREAM_ID.fullmatch(stream_id)
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    try:
        prev_chain, chain, body = fields[b"p"], fields[b"c"], fields[b"f"]
        time_text = fields[b"t"]
    except KeyError as error:
        raise ProtocolError(f"stream entry {stream_id!r} lacks the field {error}") from error
    if place is None or not all(
        re.fullmatch(pattern, text)
        for pattern, text in ((_CHAIN, prev_chain), (_CHAIN, chain), (_NUMBER, time_text))
    ):
        raise ProtocolError(f"stream entry {stream_id!r} is malformed")
    if len(body) > BODY_BYTES_MAX:
        raise ProtocolError(f"stream entry {stream_id!r} has {len(body)} bytes")
    epoch, seq, time_us = _numbers(place[1], place[2], time_text)
    return StreamEntry(epoch, seq, prev_chain.decode(), chain.decode(), time_us, body)
