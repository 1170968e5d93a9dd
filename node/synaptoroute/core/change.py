"""The effects of one log entry, and the whole state between two entries, as data.

A *change* is everything that one entry changes: enough to write it to SQLite, to update
the tensor and to undo it.  All values are frozen, so they may cross threads.

A *snapshot* is a replica's whole state at one position, without the vectors.  A snapshot and the
entries after it give the same state as a replay of the whole log.  It does not contain the free
slots: the lowest free slot is always taken first, so they follow from the owners.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

from synaptoroute.core.mutation import (
    Entry,
    Finalize,
    ImportBegin,
    ImportChunk,
    OpenEpoch,
    Position,
    Revision,
    SetLimits,
    SetTest,
    Settings,
)
from synaptoroute.core.rows import RowKind, owner_of

OutcomeStatus: TypeAlias = Literal["applied", "unchanged", "rejected"]
_OTHER_REQUEST: Final = "the idempotency key was used before for another request"


class Rejection(Exception):
    """A proposal cannot be applied; the table turns it into a rejected outcome."""

    def __init__(self, code: str, message: str, revision: Revision | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.revision = revision

    def change(self, at: Revision) -> Change:
        """The change of the refused proposal: nothing but its outcome."""
        return Change(Outcome("rejected", at, self.revision, self.code, self.message))


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an entry; the same on every node."""

    status: OutcomeStatus  # ``applied``, ``unchanged`` (nothing to do) or ``rejected``
    at: Revision  # Place in the log at which it was decided
    revision: Revision | None = None  # The route's revision afterwards; None if there is no route
    code: str | None = None  # Error code of a rejection (see ``synaptoroute.errors``)
    message: str = ""  # One sentence about a rejection
    count: int = 0  # Utterances added or removed, or routes imported
    # Whether the entry created its route.  Not compared: an earlier release does not store it,
    # so an outcome in its database or its snapshot lacks it.
    created: bool = field(default=False, compare=False)


class RouteRecord(NamedTuple):
    """A route after some entry.

    A boot makes thousands of them, so this is a plain tuple.
    """

    route_id: int  # Small number of the route, lowest free first; the row of its centroid
    name: str
    slots: tuple[int, ...]  # The rows of its utterances in the tensor, ascending
    utterances: tuple[str, ...]  # Texts in the order of ``slots``
    threshold: float | None  # Its own threshold, or None for the default of the settings
    metadata: str  # Canonical JSON object
    payload: str  # Canonical JSON value
    revision: Revision  # Place of its last change in the log; its ETag
    confidence_min: float | None = None  # Its own, or None for the default of the settings
    description: str | None = None
    description_slot: int | None = None  # The row of the description, if there is one
    negatives: tuple[str, ...] = ()  # Texts in the order of ``negative_slots``
    negative_slots: tuple[int, ...] = ()  # Their rows, ascending

    @property
    def example_slots(self) -> tuple[int, ...]:
        """Rows that speak for the route, ascending: its utterances and its description."""
        if self.description_slot is None:
            return self.slots
        return tuple(sorted((*self.slots, self.description_slot)))

    def texts(self) -> list[str]:
        """Texts of all rows of the route, in the order of ``rows``."""
        if self.description is None or self.description_slot is None:
            return [*self.utterances, *self.negatives]
        return [*self.utterances, self.description, *self.negatives]

    def rows(self) -> list[tuple[int, int, str]]:
        """All rows of the route: slot, owner (see ``core.rows``) and text."""
        own = self.route_id
        found = [(slot, own, text) for slot, text in zip(self.slots, self.utterances, strict=True)]
        if self.description is not None and self.description_slot is not None:
            owner = owner_of(own, RowKind.DESCRIPTION)
            found.append((self.description_slot, owner, self.description))
        if self.negatives:
            owner = owner_of(own, RowKind.NEGATIVE)
            pairs = zip(self.negative_slots, self.negatives, strict=True)
            found += [(slot, owner, text) for slot, text in pairs]
        return found


class FittedDecision(NamedTuple):
    """The numbers behind the confidence of answers, as the newest ``CalibrateDecision`` set them.

    The origin is for people: an equal payload of another node or time changes nothing.
    """

    payload: bytes = b""  # Empty for none
    node: str = ""
    at_ms: int = 0  # Milliseconds since 1970


NO_DECISION: Final = FittedDecision()


class SlotWrite(NamedTuple):
    """One row of the tensor to fill, in the order of the database's columns."""

    slot: int
    owner: int  # Its new owner: the route and the kind of the row (see ``core.rows``)
    utterance: str  # The text, of whatever kind
    vector: bytes  # float32[dim], little-endian bytes
    row_hash: bytes  # 16 bytes over all of the above (see ``digest``)


class FeedbackItem(NamedTuple):
    """One item of the review queue, in the order of the database's columns."""

    item_id: str  # 16 hexadecimal digits
    text: str  # Empty if the queue keeps no texts
    route: str | None  # The route that is right; None for no route
    was: str | None  # The route of the answer; None for no route
    at_ms: int  # When it was said last, milliseconds since 1970
    times: int  # How often it was said
    seq: int  # Place of its newest entry in the log


@dataclass(frozen=True, slots=True)
class StagedImport:
    """An import that is not committed yet."""

    begin: ImportBegin  # The mutation that opened it
    chunks: tuple[ImportChunk, ...] = ()  # Staged chunks, in order of number
    touched_seq: int = 0  # Sequence number of its newest entry, to find abandoned imports
    row_count: int = 0  # Utterances in the chunks


@dataclass(frozen=True, slots=True)
class EncoderChange:
    """The encoder whose vectors the rows hold from this entry on."""

    fingerprint: str
    dim: int
    dim_before: int  # for undo


class SetRecord(NamedTuple):
    """A route set after some entry, without its content."""

    number: int  # Lowest free first; 0 is ``default``
    name: str
    limits: SetLimits
    created: Revision  # Place of the entry that created it
    revision: Revision  # Place of the last change of what answers: routes, settings, fit, tests
    forked_from: str = ""  # The set that it was copied from


class AliasChange(NamedTuple):
    """One change of an alias."""

    at: Revision
    at_ms: int  # Milliseconds since 1970, for people
    author: str
    note: str
    before: str  # The set that answered before; empty for a new alias
    target: str
    shadow: str
    shadow_share: float
    canary: str
    canary_share: float
    evidence: str  # Canonical JSON, or empty


ALIAS_CHANGES_KEPT: Final = 50


class AliasRecord(NamedTuple):
    """An alias after some entry."""

    name: str
    target: str
    shadow: str
    shadow_share: float
    canary: str
    canary_share: float
    revision: Revision
    history: tuple[AliasChange, ...]  # Newest first, at most ``ALIAS_CHANGES_KEPT``


@dataclass(frozen=True, slots=True)
class Change:
    """Everything that one entry changes: for SQLite, the tensor and undo."""

    outcome: Outcome  # The outcome; the other fields are set only if it is ``applied``
    # Rows to fill, in slot order, each slot once.  Rows that were free before have no visible
    # owner, so they can be filled ahead.
    writes: tuple[SlotWrite, ...] = ()
    # Slots without an owner now, ascending; none of them is in ``writes``
    freed: tuple[int, ...] = ()
    put: tuple[RouteRecord, ...] = ()  # Routes that are new or changed, in order of name
    # Routes that are removed, as they were, in order of name
    deleted: tuple[RouteRecord, ...] = ()
    settings: Settings | None = None  # New settings, if they changed
    staged: ImportChunk | None = None  # A chunk to keep, if one was staged
    opened: ImportBegin | None = None  # An import that was opened
    # An import, committed or aborted, whose chunks are to be dropped
    closed: StagedImport | None = None
    epoch: OpenEpoch | None = None  # The epoch that the entry opened
    finalized: Finalize | None = None  # The level of the log from now on, if it rose
    voters: tuple[str, ...] | None = None  # The new voters, sorted, if they changed
    # What proves that change, canonical JSON, if voters agreed to it; see ``trust.voters``
    voter_link: str = ""
    encoder: EncoderChange | None = None  # The encoder of all rows from now on, if it changed
    feedback: tuple[FeedbackItem, ...] = ()  # Items of the review queue that are new or changed
    # Items that leave the review queue, and earlier states of those in ``feedback``
    feedback_before: tuple[FeedbackItem, ...] = ()
    # Earlier records of the routes in ``put`` that existed; for undo
    before: tuple[RouteRecord, ...] = ()
    # Slots whose owner or content changed, with their old row hash; for undo
    replaced: tuple[tuple[int, bytes], ...] = ()
    settings_before: Settings | None = None  # Settings before, if they changed; for undo
    decision: FittedDecision | None = None  # The numbers behind the confidence, if they changed
    decision_before: FittedDecision = NO_DECISION  # The numbers before; for undo
    staged_before: StagedImport | None = None  # The import before ``staged`` was added; for undo
    set_number: int = 0  # The route set that all of the above is in
    # The record of that set, if the set was created or what answers changed in it
    set_record: SetRecord | None = None
    set_record_before: SetRecord | None = None
    forked_from: int | None = None  # Number of the set whose content the new set copies
    # The set was removed: everything that has its number goes
    is_set_removed: bool = False
    tests: tuple[SetTest, ...] = ()  # Tests that are new or changed, in order of text
    tests_before: tuple[SetTest, ...] = ()  # Tests that go, and earlier states of those
    alias: AliasRecord | None = None  # An alias that is new or changed
    alias_before: AliasRecord | None = None  # Its earlier state; alone if the alias is removed
    # Changes of other sets by the same entry, in order of number; an encoder's switch has them
    others: tuple[Change, ...] = ()

    def parts(self) -> tuple[Change, ...]:
        """The change of each set, this one first."""
        return (self, *self.others) if self.others else (self,)


class Remembered(NamedTuple):
    """The outcome of a write, kept so that a repeat has no effect.

    A boot makes one for each entry of the idempotency window, so this is a plain tuple.
    """

    op_id: bytes  # 16 bytes that identify the write
    seq: int
    request_hash: bytes  # Of the client's request; empty if unknown
    outcome: Outcome

    def outcome_for(self, request_hash: bytes, at: Revision) -> Outcome:
        """The outcome for a request with the same op_id that is decided at ``at``.

        A request with another hash than the remembered one is a conflict.  An empty hash on
        either side is unknown and matches every request.
        """
        if self.request_hash and request_hash and self.request_hash != request_hash:
            return Outcome("rejected", at, code="idempotency_conflict", message=_OTHER_REQUEST)
        return self.outcome


@dataclass(frozen=True, slots=True)
class Commit:
    """An entry and its change, to be made durable and then visible."""

    entry: Entry
    change: Change  # Its change; empty for a duplicate
    digest: str  # Digest of the whole state afterwards, 32 hexadecimal digits
    is_duplicate: bool = False  # Whether the op_id was seen before; then only the position moves
    decided: Remembered | None = None  # What the op_id is remembered with; None only in tests

    def outcome_for(self, request_hash: bytes) -> Outcome:
        """The outcome for a writer that sent this op_id with ``request_hash``.

        The entry may be of another writer, even on another node, that used the same op_id.
        """
        if self.decided is None or request_hash == self.entry.proposal.request_hash:
            return self.change.outcome
        return self.decided.outcome_for(request_hash, self.entry.position.revision)


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """An epoch in this history."""

    epoch: int
    opened: OpenEpoch  # With ``voters`` as changed since


@dataclass(frozen=True, slots=True)
class SetState:
    """Content of a route set that is not ``default``; slots and route ids are its own."""

    record: SetRecord
    settings: Settings
    routes: tuple[RouteRecord, ...] = ()  # In order of name
    row_hashes: Mapping[int, bytes] = field(default_factory=dict)
    imports: tuple[StagedImport, ...] = ()
    decision: FittedDecision = NO_DECISION
    feedback: tuple[FeedbackItem, ...] = ()
    tests: tuple[SetTest, ...] = ()  # In order of text


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a replica at ``position``."""

    position: Position = field(default_factory=Position)
    settings: Settings = field(default_factory=Settings)
    routes: tuple[RouteRecord, ...] = ()  # In order of name
    # Row hash of every slot that has an owner
    row_hashes: Mapping[int, bytes] = field(default_factory=dict)
    # Outcomes inside the idempotency window, in order of seq
    remembered: tuple[Remembered, ...] = ()
    imports: tuple[StagedImport, ...] = ()  # Open imports, in order of identity
    decision: FittedDecision = NO_DECISION  # The numbers behind the confidence
    epochs: tuple[EpochRecord, ...] = ()
    feedback: tuple[FeedbackItem, ...] = ()  # The review queue, in order of identity
    level: int = 1  # Feature level of the log
    voter_keys: tuple[tuple[str, str], ...] = ()  # Public keys of voters, sorted by name
    record: SetRecord | None = None  # Of ``default``, if something changed in it at level 5
    tests: tuple[SetTest, ...] = ()  # Of ``default``, in order of text
    sets: tuple[SetState, ...] = ()  # The other route sets, in order of number
    aliases: tuple[AliasRecord, ...] = ()  # In order of name
    # Chains of the newest places before the position, in order; none if they are not known
    chains: tuple[tuple[int, str], ...] = field(default=(), compare=False)
    # Seals of the newest entries, in order of seq
    seals: tuple[tuple[int, bytes], ...] = field(default=(), compare=False)
