"""Calls of the Lua scripts, with typed answers.

A script is called by its SHA-1 and loaded if the server does not know it.  That is normal after
a restart or a failover, and it means that nothing was executed.  Outcomes are values that a
script returns; an error reply means that it did not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

import redis.exceptions

from synaptoroute.core.codec import digest_of, header_of
from synaptoroute.core.levels import BASE_LEVEL
from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.core.recovery import LogView
from synaptoroute.core.replica import SEAL_ENTRIES_MAX, SEALED_LEVEL
from synaptoroute.errors import ProtocolError
from synaptoroute.failpoints import failpoint
from synaptoroute.sequencer.append_errors import NotPlaced, not_placed, text_of
from synaptoroute.sequencer.client import Link
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.wire import INLINE_BYTES_MAX, StreamEntry, parse_stream_entry

ALIVE_MS: Final = 5_000  # Nodes with an older heartbeat do not count as live
FORGET_MS: Final = 3_600_000  # Nodes with an older heartbeat are no longer listed


class Script(Enum):
    ACKED = "acked"
    APPEND = "append"
    AUDIT = "audit"
    BALLOT = "ballot"
    COMMAND_DONE = "command_done"
    KEEPALIVE = "keepalive"
    HEAD = "head"
    HEARTBEAT = "heartbeat"
    LEASE = "lease"
    NODES = "nodes"
    OPEN = "open"
    NODE_COMMAND = "node_command"
    READ = "read"
    REFILL = "refill"
    REOPEN = "reopen"
    LOG_CHECK = "log_check"
    SWITCH = "switch"
    TRIM = "trim"
    UNFREEZE = "unfreeze"


def _text_of(script: Script) -> bytes:
    """Text of a script, with the shared parts that it needs after its first line."""
    folder = files("synaptoroute.sequencer")
    first, rest = folder.joinpath(f"{script.value}.lua").read_bytes().split(b"\n", 1)
    parts = [folder.joinpath("common.lua").read_bytes()]
    if b"header(" in rest:  # writes do without: each function costs a call some time
        parts.append(folder.joinpath("header.lua").read_bytes())
    return b"".join((first, b"\n", *parts, rest))


TEXTS: Final = {script: _text_of(script) for script in Script}
_SHAS: Final = {
    script: sha1(text, usedforsecurity=False).hexdigest() for script, text in TEXTS.items()
}


@dataclass(frozen=True, slots=True)
class Head:
    """The header of the log when it was read."""

    epoch: int
    seq: int  # Place of the newest entry
    chain: str  # Hash chain at it
    state: str  # ``open``, ``recovering`` or ``frozen``
    is_same_server: bool  # Whether the log was opened on this server since it started
    role: str  # ``master`` or ``slave``; ``unknown`` if INFO is not allowed
    time_us: int  # Redis' clock
    floor: int  # Place of the oldest entry that is kept
    floor_chain: str  # Hash chain before it
    kept_bytes: int  # Bytes of the entries that are kept
    cluster_id: str
    epoch_id: str  # Ballot that opened the epoch
    ballot: Ballot | None  # The ballot that closed the log; None while it is open
    is_ballot_here: bool  # Whether that ballot was started on this server
    cause: str  # Why it was started; empty while the log is open
    fingerprint: str
    dim: int
    level: int  # Highest feature level that every node understands
    voters: tuple[str, ...]  # sorted
    torn: str = ""  # Name of the stream if it has another number of entries than the header says

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq, self.chain)

    @property
    def is_open(self) -> bool:
        """Whether writes are accepted."""
        return self.state == "open" and self.is_same_server

    @property
    def view(self) -> LogView:
        """The part that the rules of recovery use."""
        return LogView(
            self.position,
            self.epoch_id,
            self.state,
            self.is_same_server,
            self.ballot,
            self.is_ballot_here,
        )


@dataclass(frozen=True, slots=True)
class NoLog:
    """The server has no log for this namespace."""

    time_us: int
    role: str  # ``master``, ``slave`` or ``unknown``
    damage: str = ""  # What is wrong with the header that is there; empty if there is none


@dataclass(frozen=True, slots=True)
class Placed:
    epoch: int
    first_seq: int
    last_seq: int
    is_announced: bool = True  # Whether it was published; else nodes find it by polling


@dataclass(frozen=True, slots=True)
class Encoders:
    """A change of the encoder."""

    before: str  # Fingerprint of the one whose vectors the log carries
    after: str  # Fingerprint of the next one
    dim: int


@dataclass(frozen=True, slots=True)
class Range:
    """Entries as stored in the stream."""

    head: Position
    floor: int  # Place of the oldest entry that is kept
    state: str
    entries: tuple[StreamEntry, ...]  # In order; not verified yet
    epoch_id: str = ""
    error: ProtocolError | None = None  # Why the entry after them cannot be read


BEHIND_ENTRIES_MAX: Final = SEAL_ENTRIES_MAX // 2
"""Entries that a writer may be behind the log; the rest is for one call of other writers."""


class Scripts:
    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self.keys = keys

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Call a script; load it first if the server does not know it."""
        words = (_SHAS[script], len(keys), *keys, *args)
        try:
            return await self._link.call("EVALSHA", *words, script=script.value)
        except redis.exceptions.NoScriptError:
            await self._link.call("SCRIPT", "LOAD", TEXTS[script])
        try:
            return await self._link.call("EVALSHA", *words, script=script.value)
        except redis.exceptions.NoScriptError as error:
            raise ProtocolError("the server forgot a script right after it was loaded") from error

    async def head(self) -> Head | NoLog:
        return head_of(await self.run(Script.HEAD, [self.keys.meta], []))

    async def append(
        self,
        position: Position,  # Position of the writer; it must be in the log's epoch
        fingerprint: str,  # Encoder of the writer's vectors
        # Each frame, plain and as it is stored (signed or not)
        frames: Sequence[tuple[bytes, bytes]],
        *,
        log_bytes_max: int,  # Limit of the bytes that the log keeps
        inline_bytes_max: int = INLINE_BYTES_MAX,  # Largest frame that is published whole
        # The voters before and after, joined by commas, if they change
        voters: tuple[str, str] = ("", ""),
        epoch_id: str = "",  # Ballot that opened the writer's epoch; empty for any
        level: int = BASE_LEVEL,  # Level of the log that the writer has applied
        level_after: int = 0,  # Level of the log afterwards; 0 if it stays
    ) -> Placed | NotPlaced:
        """Append frames at consecutive places, all or none."""
        args: list[Any] = [position.epoch, position.seq, position.chain, fingerprint, level]
        args += [self.keys.bus, log_bytes_max, inline_bytes_max, *voters, epoch_id]
        args += [level_after or "", BEHIND_ENTRIES_MAX if level >= SEALED_LEVEL else 0]
        for frame, body in frames:
            header_bytes = len(body) - len(frame) + len(header_of(frame))
            args += [digest_of(frame), body[:header_bytes], body]
        epoch = position.epoch
        keys = [self.keys.meta, self.keys.log(epoch), self.keys.positions(epoch)]
        failpoint("append.begun")
        answer = await self.run(Script.APPEND, keys, args)
        failpoint("append.placed")
        if answer[0] == b"OK":
            heard = answer[5] == b"heard"
            return Placed(epoch, int(answer[1]), int(answer[2]), heard)
        return not_placed(answer)

    async def switch(
        self,
        at: Position,
        frame: bytes,
        body: bytes,
        encoders: Encoders,
        name: str = "",
        level: int = BASE_LEVEL,
    ) -> int | NotPlaced:
        """Append an entry directly after a position; see ``switch.lua``."""
        header_bytes = len(body) - len(frame) + len(header_of(frame))
        args: list[Any] = [at.epoch, at.seq, at.chain, encoders.before, level, self.keys.bus]
        args += [encoders.after, encoders.dim, digest_of(frame), body[:header_bytes], body, name]
        answer = await self.run(Script.SWITCH, [self.keys.meta, self.keys.log(at.epoch)], args)
        return int(answer[1]) if answer[0] == b"OK" else not_placed(answer)

    async def read(
        self, epoch: int, after: Position, entries_max: int, bytes_max: int
    ) -> Range | NotPlaced:
        """Read entries of an epoch's log after a position."""
        keys = [self.keys.meta, self.keys.log(epoch)]
        args = [epoch, after.epoch, after.seq, entries_max, bytes_max]
        answer = await self.run(Script.READ, keys, args)
        if answer[0] != b"OK":
            return not_placed(answer)
        entries, error = _entries_of(answer[5])
        return Range(
            head=Position(epoch, int(answer[1]), text_of(answer[2])),
            floor=int(answer[3]),
            state=text_of(answer[4]),
            entries=entries,
            epoch_id=text_of(answer[6]),
            error=error,
        )


def _entries_of(
    found: Sequence[Sequence[Any]],
) -> tuple[tuple[StreamEntry, ...], ProtocolError | None]:
    """Read entries up to the first that is malformed."""
    entries: list[StreamEntry] = []
    for each in found:
        try:
            entries.append(parse_stream_entry(each[0], each[1]))
        except ProtocolError as error:
            return tuple(entries), error
    return tuple(entries), None


def head_of(answer: Sequence[bytes]) -> Head | NoLog:
    """Type the answer of ``head.lua`` and ``heartbeat.lua``."""
    try:
        if answer[0] == b"LOST":
            damage = text_of(answer[3]) if len(answer) > 3 else ""
            return NoLog(int(answer[1]), text_of(answer[2]), damage)
        flat = [text_of(each) for each in answer[4:]]
        meta = dict(zip(flat[::2], flat[1::2], strict=True))
        return Head(
            epoch=int(meta["epoch"]),
            seq=int(meta["seq"]),
            chain=meta["chain"],
            state=meta["state"],
            is_same_server=meta["replid"] == text_of(answer[3]),
            role=text_of(answer[2]),
            time_us=int(answer[1]),
            floor=int(meta["floor"]),
            floor_chain=meta["floor_chain"],
            kept_bytes=int(meta["bytes"]) - int(meta["floor_bytes"]),
            cluster_id=meta["lineage"],
            epoch_id=meta["epoch_id"],
            ballot=ballot_of(meta["rec_id"]),
            is_ballot_here=meta["rec_replid"] == text_of(answer[3]),
            cause=meta.get("rec_cause", ""),
            fingerprint=meta["fingerprint"],
            dim=int(meta["dim"]),
            level=int(meta["level"]),
            voters=voters_of(meta["voters"]),
            torn=meta.get("is_torn", ""),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise ProtocolError(f"the header of the log is malformed: {error!r}") from error


def ballot_of(text: str) -> Ballot | None:
    """Read the ballot of a header; None if there is none or it is malformed."""
    try:
        return Ballot.parse(text)
    except ValueError:
        return None


def voters_of(joined: str) -> tuple[str, ...]:
    return tuple(voter for voter in joined.split(",") if voter)
