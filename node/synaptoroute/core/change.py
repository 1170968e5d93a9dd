"""The effects of one log entry, as data.

A *change* is everything that one entry changes: enough to write it to SQLite, to update
the tensor and to undo it.  All values are frozen, so they may cross threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from synaptoroute.core.mutation import (
    Entry,
    ImportBegin,
    ImportChunk,
    OpenEpoch,
    Revision,
    Settings,
)

OutcomeStatus: TypeAlias = Literal["applied", "unchanged", "rejected"]


class Rejection(Exception):
    """A proposal cannot be applied; the table turns it into a rejected outcome."""

    def __init__(self, code: str, message: str, revision: Revision | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.revision = revision


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an entry; the same on every node.

    Attributes:
        status: ``applied``, ``unchanged`` (nothing to do) or ``rejected``.
        at: Place in the log at which it was decided.
        revision: The route's revision afterwards; None if there is no route.
        code: Error code of a rejection (see ``synaptoroute.errors``).
        message: One sentence about a rejection.
        count: Utterances added or removed, or routes imported.
        created: Whether the entry created its route.  Known when the entry is applied;
            it is not stored, so it is false for an outcome that was read back or repeated.
    """

    status: OutcomeStatus
    at: Revision
    revision: Revision | None = None
    code: str | None = None
    message: str = ""
    count: int = 0
    # Not compared: stored outcomes must equal the ones in memory.
    created: bool = field(default=False, compare=False)


class RouteRecord(NamedTuple):
    """A route as it stands after some entry.

    A boot makes thousands of them, so this is a plain tuple.

    Attributes:
        route_id: Small number of the route, lowest free first; the row of its centroid.
        name: Name of the route.
        slots: Its rows in the tensor, ascending.
        utterances: Texts in the order of ``slots``.
        threshold: Its own threshold, or None for the default of the settings.
        metadata: Canonical JSON object.
        payload: Canonical JSON value.
        revision: Place of its last change in the log; its ETag.
    """

    route_id: int
    name: str
    slots: tuple[int, ...]
    utterances: tuple[str, ...]
    threshold: float | None
    metadata: str
    payload: str
    revision: Revision


class SlotWrite(NamedTuple):
    """One row of the tensor to fill, in the order of the database's columns.

    Attributes:
        slot: Row number.
        route_id: Its new owner.
        utterance: Its text.
        vector: float32[dim], little-endian bytes.
        row_hash: 16 bytes over all of the above (see ``digest``).
    """

    slot: int
    route_id: int
    utterance: str
    vector: bytes
    row_hash: bytes


@dataclass(frozen=True, slots=True)
class StagedImport:
    """An import that is not committed yet.

    Attributes:
        begin: The mutation that opened it.
        chunks: Staged chunks, in order of number.
        touched_seq: Sequence number of its newest entry, to find abandoned imports.
        row_count: Utterances in the chunks.
    """

    begin: ImportBegin
    chunks: tuple[ImportChunk, ...] = ()
    touched_seq: int = 0
    row_count: int = 0


@dataclass(frozen=True, slots=True)
class EncoderChange:
    """The encoder whose vectors the rows hold from this entry on.

    Attributes:
        fingerprint: Fingerprint of the encoder.
        dim: Dimension of its vectors.
        dim_before: Dimension of the vectors before; for undo.
    """

    fingerprint: str
    dim: int
    dim_before: int


@dataclass(frozen=True, slots=True)
class Change:
    """Everything that one entry changes: for SQLite, the tensor and undo.

    Attributes:
        outcome: The outcome; the other fields are set only if it is ``applied``.
        writes: Rows to fill, in slot order, each slot once.  Rows that were free
            before have no visible owner, so they can be filled ahead.
        freed: Slots without an owner now, ascending; none of them is in ``writes``.
        put: Routes that are new or changed, in order of name.
        deleted: Routes that are removed, as they stood, in order of name.
        settings: New settings, if they changed.
        staged: A chunk to keep, if one was staged.
        opened: An import that was opened.
        closed: An import, committed or aborted, whose chunks are to be dropped.
        epoch: The epoch that the entry opened.
        voters: The new voters, sorted, if they changed.
        encoder: The encoder of all rows from now on, if it changed.
        before: Earlier records of the routes in ``put`` that existed; for undo.
        replaced: Slots whose owner or content changed, with their old row hash; for undo.
        settings_before: Settings before, if they changed; for undo.
        staged_before: The import before ``staged`` was added; for undo.
    """

    outcome: Outcome
    writes: tuple[SlotWrite, ...] = ()
    freed: tuple[int, ...] = ()
    put: tuple[RouteRecord, ...] = ()
    deleted: tuple[RouteRecord, ...] = ()
    settings: Settings | None = None
    staged: ImportChunk | None = None
    opened: ImportBegin | None = None
    closed: StagedImport | None = None
    epoch: OpenEpoch | None = None
    voters: tuple[str, ...] | None = None
    encoder: EncoderChange | None = None
    before: tuple[RouteRecord, ...] = ()
    replaced: tuple[tuple[int, bytes], ...] = ()
    settings_before: Settings | None = None
    staged_before: StagedImport | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """An entry and its change, to be made durable and then visible.

    Attributes:
        entry: The entry as sequenced.
        change: Its change; empty for a duplicate.
        digest: Digest of the whole state afterwards, 32 hexadecimal digits.
        is_duplicate: Whether the op_id was seen before; then only the position moves.
    """

    entry: Entry
    change: Change
    digest: str
    is_duplicate: bool = False
