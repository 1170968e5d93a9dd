"""Values of the log: mutations, proposals, entries and positions.

A *mutation* is one intended change.  A *proposal* is a mutation with the identity and the
preconditions of the write that asked for it.  An *entry* is a proposal with its place in
the log.  All are frozen.  Texts are Unicode without surrogates, vectors are raw
little-endian float32 bytes, JSON is canonical text (sorted keys, no spaces), so that equal
values have equal bytes on every node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, NamedTuple, TypeAlias

OP_ID_BYTES: Final = 16
CHAIN_START: Final = "0" * 40
IDEMPOTENCY_WINDOW_ENTRIES: Final = 65_536  # Entries after which every node forgets an op_id

Aggregation: TypeAlias = Literal["blend", "max", "mean", "centroid", "topk", "adaptive"]
CascadeMode: TypeAlias = Literal["auto"] | bool
AGGREGATIONS: Final[tuple[Aggregation, ...]] = (
    "blend",
    "max",
    "mean",
    "centroid",
    "topk",
    "adaptive",
)

DEFAULT_CAPACITY_SLOTS: Final = 262_144
DEFAULT_SET: Final = "default"
"""The route set that is there from the beginning; its number is 0."""
DEFAULT_UNMATCHED_SHARE: Final = 0.1


class Keep(Enum):
    """Marks a field that stays as it is, where None is a value."""

    KEEP = "keep"


KEEP: Final = Keep.KEEP


class Revision(NamedTuple):
    """Place of an entry in the log; ordered.  Written ``epoch.seq``."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.seq}"


class Ballot(NamedTuple):
    """One attempt to open an epoch; ordered.  Written ``epoch.id``."""

    epoch: int = 0  # Number of the epoch to open
    id: str = ""  # Distinguishes attempts with one number; letters and digits

    def __str__(self) -> str:
        return f"{self.epoch}.{self.id}"

    @classmethod
    def parse(cls, text: str) -> Ballot:
        """Parse ``epoch.id``.

        Raises:
            ValueError: The text is malformed.
        """
        epoch, _, name = text.partition(".")
        if not (epoch.isascii() and epoch.isdigit() and name.isascii() and name.isalnum()):
            raise ValueError(f"{text!r} is not a ballot")
        return cls(int(epoch), name)


@dataclass(frozen=True, slots=True)
class Position:
    """Position of a replica in the log."""

    epoch: int = 0  # Epoch of the log, from 1; 0 for a replica that knows no log yet
    seq: int = 0  # Sequence number of the last applied entry, or 0
    chain: str = CHAIN_START  # Hash chain at that entry, 40 hexadecimal digits

    @property
    def revision(self) -> Revision:
        return Revision(self.epoch, self.seq)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the route set; replicated, so every node scores alike."""

    aggregation: Aggregation = "blend"  # How the scores of a route's utterances become one score
    topk: int = 3  # Number of utterances averaged by the ``topk`` aggregation
    # Lowest score of a match, for routes without their own threshold; None for no such limit.
    # Chosen on CLINC150's validation texts, see docs/accuracy.md.
    threshold: float | None = 0.49
    # Rows of the tensor.  Never lowered below the highest slot in use.
    capacity_slots: int = DEFAULT_CAPACITY_SLOTS
    # Whether sure queries skip the encoder: ``auto`` where the measurement allows it, from level 5
    # of the log on.  Below that level ``auto`` is off, and False cannot be told apart from it.
    cascade: CascadeMode = "auto"
    # Calibration of the cascade, a canonical JSON object; empty before the first one, and without
    # a cascade.  Set by ``Calibrate``, never by ``PutSettings``.
    calibration: str = ""
    # Settings of the review queue, a canonical JSON object (see ``feedback``); empty if it is off
    feedback: str = ""
    # Lowest confidence of a match, for routes without their own; None for no such limit
    confidence_min: float | None = None
    # Share of queries that are expected to belong to no route, between 0.001 and 0.9
    expected_unmatched_share: float = DEFAULT_UNMATCHED_SHARE
    ignore: tuple[str, ...] = ()  # Patterns of texts that are cut out of a query
    repair_words: bool = False  # Whether misspelled words of a query are read as known words

    def threshold_of(self, own: float | None) -> float:
        """Threshold in effect of a route with its own; minus infinity for none."""
        threshold = self.threshold if own is None else own
        return float("-inf") if threshold is None else threshold


FOUNDING_SETTINGS: Final = Settings(
    aggregation="adaptive", threshold=None, confidence_min=0.5, repair_words=True
)
"""Settings of a log that is founded at level 3 or above."""


@dataclass(frozen=True, slots=True)
class PutRoute:
    """Create a route or replace the whole route."""

    name: str
    utterances: tuple[str, ...]  # Distinct texts, at least one
    vectors: tuple[bytes, ...]  # float32[dim] as little-endian bytes, one an utterance
    threshold: float | None = None  # Lowest score at which the route matches; None for the default
    metadata: str = "{}"  # Canonical JSON object, for people and tools
    payload: str = "null"  # Canonical JSON value returned with every match
    # Lowest confidence at which the route matches; None for the default
    confidence_min: float | None = None
    description: str | None = None  # Embedded as one more example, never shown as an utterance
    description_vector: bytes = b""  # Empty without a description
    negatives: tuple[str, ...] = ()  # Distinct texts that must not get the route
    negative_vectors: tuple[bytes, ...] = ()  # One a negative


@dataclass(frozen=True, slots=True)
class DeleteRoute:
    """Remove a route and free its slots."""

    name: str


@dataclass(frozen=True, slots=True)
class AddUtterances:
    """Add examples to a route; existing ones stay as they are."""

    name: str
    utterances: tuple[str, ...]
    vectors: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RemoveUtterances:
    """Remove examples from a route; the last one cannot be removed."""

    name: str
    utterances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PatchRoute:
    """Change a route's fields without touching its utterances."""

    name: str
    threshold: float | Keep | None = KEEP
    metadata: str | Keep = KEEP
    payload: str | Keep = KEEP
    confidence_min: float | Keep | None = KEEP
    description: str | Keep | None = KEEP
    description_vector: bytes = b""  # Empty unless a description is set
    negatives: tuple[str, ...] | Keep = KEEP
    negative_vectors: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class PutSettings:
    """Replace the settings of the route set."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class Calibrate:
    """Replace the calibration of the cascade; no effect while the cascade is off."""

    calibration: str


@dataclass(frozen=True, slots=True)
class CalibrateDecision:
    """Replace the numbers behind the confidence of answers.

    The log does not read them.  Numbers of another encoder or aggregation have no effect.
    """

    payload: bytes  # As ``decision.calibration`` writes them; empty to drop them
    node: str = ""  # The node that fitted them
    at_ms: int = 0  # When it did, milliseconds since 1970 by its clock; for people only


@dataclass(frozen=True, slots=True)
class ImportBegin:
    """Open an import: its chunks are staged and invisible to queries."""

    import_id: str
    replace: bool = False  # Whether the commit removes the routes that the import does not contain


@dataclass(frozen=True, slots=True)
class ImportChunk:
    """Stage routes, or parts of routes, under a number.

    The utterances and the negatives of one route in several chunks are joined in the order of
    the numbers.  All else counts as the first part says it.  A repeated number has no
    effect, so a resumed import may send a chunk again.
    """

    import_id: str
    number: int
    parts: tuple[PutRoute, ...]


@dataclass(frozen=True, slots=True)
class ImportCommit:
    """Make all chunks of an import visible at once."""

    import_id: str
    chunk_count: int  # Chunks 0 to ``chunk_count - 1`` must be staged


@dataclass(frozen=True, slots=True)
class ImportAbort:
    """Drop an import and its staged chunks."""

    import_id: str


@dataclass(frozen=True, slots=True)
class OpenEpoch:
    """First entry of an epoch: it settles the history before it."""

    epoch_id: str  # Identity of the ballot that opened the epoch
    base_seq: int  # The last sequence number kept from the epochs before
    voters: tuple[str, ...] = ()  # Nodes that vote on recoveries, sorted
    fingerprint: str = ""  # Fingerprint of the encoder whose vectors the log carries
    dim: int = 0  # Dimension of those vectors
    # Level of the log from here on, if the epoch raises it; a new log is founded at its level
    level: int = 1
    voter_keys: tuple[tuple[str, str], ...] = ()  # As in ``Finalize``
    # The signed reports to the ballot from which the opening follows, from level 3 of the log on;
    # see ``sequencer.votes``
    votes: tuple[str, ...] = ()
    # What the operator signed, if it was opened without a majority; see ``trust.operator``
    warrant: str = ""


@dataclass(frozen=True, slots=True)
class VoterAdd:
    """Add a voter: the node votes on recoveries and counts for a quorum."""

    node_id: str
    public_key: str = ""  # The key with which it votes, from level 3 of the log on
    votes: tuple[str, ...] = ()  # Statements of the voters before it; see ``trust.voters``


@dataclass(frozen=True, slots=True)
class VoterRemove:
    """Remove a voter; the last one cannot be removed."""

    node_id: str
    votes: tuple[str, ...] = ()  # As in ``VoterAdd``


@dataclass(frozen=True, slots=True)
class Audit:
    """Make every node report its digest at this place of the log; changes nothing."""

    audit_id: str
    is_deep: bool = False  # Whether nodes also compare memory and disk with the digest, row by row


@dataclass(frozen=True, slots=True)
class SwitchEncoder:
    """Switch every row to its vector in a generation."""

    import_id: str  # Identity of the generation, which contains the encoder (see ``imports``)


@dataclass(frozen=True, slots=True)
class PutFeedback:
    """Put what somebody said about an answer into the review queue."""

    item_id: str  # 16 hexadecimal digits that follow from text, route and ``was``
    text: str  # After redaction; empty if the queue keeps no texts
    route: str | None  # The route that is right; None for no route
    was: str | None  # The route of the answer; None for no route
    at_ms: int  # Clock of the node that took it, milliseconds since 1970


@dataclass(frozen=True, slots=True)
class RouteRevision:
    """Changes of one route inside a revision; utterances and negatives that it has stay."""

    name: str
    utterances: tuple[str, ...] = ()  # Distinct texts to add
    vectors: tuple[bytes, ...] = ()  # float32[dim] as little-endian bytes, one an utterance
    is_new: bool = False  # Whether the route is created; it must not exist
    revision: Revision | None = None  # The route must have this revision; None for any
    threshold: float | Keep | None = KEEP
    confidence_min: float | Keep | None = KEEP
    negatives: tuple[str, ...] = ()  # Distinct texts to add that must not get the route
    negative_vectors: tuple[bytes, ...] = ()  # One a negative


@dataclass(frozen=True, slots=True)
class ReviseRoutes:
    """Change several routes, resolve items of the review queue, and set the settings, at once.

    All of it is applied, or nothing.
    """

    routes: tuple[RouteRevision, ...] = ()  # In order of name, each name once
    resolved: tuple[str, ...] = ()  # Items that leave the queue, sorted
    settings: Settings | None = None  # As in ``PutSettings``; None leaves them as they are


@dataclass(frozen=True, slots=True)
class Finalize:
    """Raise the level of the log: from here on, nodes use the formats of that level.

    A node that does not know the level cannot follow, so it is sent only once all do.
    """

    level: int
    voter_keys: tuple[tuple[str, str], ...] = ()  # Voters and their public keys, sorted


@dataclass(frozen=True, slots=True)
class SetLimits:
    """Limits of one route set; 0 is no limit."""

    utterances_max: int = 0  # Rows: utterances, descriptions and negatives
    routes_max: int = 0
    bytes_max: int = 0  # Bytes of names, texts, payloads and metadata
    writes_per_second_max: int = 0  # Kept by each node for the writes that it takes
    write_bytes_per_second_max: int = 0  # Of frames, as above


class SetTest(NamedTuple):
    """A labelled query that belongs to a route set."""

    text: str
    route: str | None  # The route that is right; None for no route


@dataclass(frozen=True, slots=True)
class PutSet:
    """Create a route set, or replace limits of one."""

    name: str
    limits: SetLimits = field(default_factory=SetLimits)
    kept: frozenset[str] = frozenset()  # Limits that stay as they are; 0 in ``limits``


@dataclass(frozen=True, slots=True)
class DeleteSet:
    """Remove a route set with everything in it; no alias may name it."""

    name: str


@dataclass(frozen=True, slots=True)
class ForkSet:
    """Create a route set as a copy of another one: routes, settings, tests, limits, fit.

    Every node copies its own rows, so no vectors travel.
    """

    name: str
    into: str


@dataclass(frozen=True, slots=True)
class PutAlias:
    """Point an alias at a route set, with what is tried beside it."""

    name: str
    target: str  # The set that answers
    shadow: str = ""  # A set that is scored as well and answers nothing; empty for none
    shadow_share: float = 0.0  # Share of queries that are scored on the shadow, 0 to 1
    canary: str = ""  # A set that answers a share of the sessions; empty for none
    canary_share: float = 0.0  # Share of sessions, 0 to 1
    # The target must have this revision, so that evidence is about the content that answers
    target_revision: Revision | None = None
    evidence: str = ""  # Canonical JSON: what the gate measured; empty without a gate
    at_ms: int = 0  # Clock of the node that took it, milliseconds since 1970; for people only


@dataclass(frozen=True, slots=True)
class DeleteAlias:
    """Remove an alias."""

    name: str


@dataclass(frozen=True, slots=True)
class PutTests:
    """Add, replace or remove tests of a route set, by their text."""

    tests: tuple[SetTest, ...] = ()  # Each text once
    removed: tuple[str, ...] = ()  # Texts, sorted; those that are not there are ignored
    replace: bool = False  # Whether the tests that it does not name are removed


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """Commit an import with everything else that a plan changes in a set, at once.

    All of it is applied, or nothing: nothing if what the plan saw has changed.
    """

    import_id: str  # Empty if the plan puts no route
    chunk_count: int  # As of ``ImportCommit``
    seen: str  # Hash of what the plan saw, see ``core.seen``
    removed: tuple[str, ...] = ()  # Routes to remove, sorted; the import has none of them
    settings: Settings | None = None  # As in ``PutSettings``; None leaves them as they are
    tests: tuple[SetTest, ...] = ()  # Tests to add or replace, each text once
    tests_removed: tuple[str, ...] = ()  # Texts of tests to remove, sorted


@dataclass(frozen=True, slots=True)
class EraseTexts:
    """Remove texts from every route set: routes, tests, feedback, open imports.

    The entry holds hashes alone, so that the log does not keep what it erases.
    """

    hashes: tuple[str, ...]  # SHA-256 of each text as it is stored, hexadecimal, sorted


SetMutation: TypeAlias = PutSet | DeleteSet | ForkSet | PutAlias | DeleteAlias
"""Changes of the sets themselves; all others change what is in one."""

Mutation: TypeAlias = (
    PutRoute
    | DeleteRoute
    | AddUtterances
    | RemoveUtterances
    | PatchRoute
    | PutSettings
    | ImportBegin
    | ImportChunk
    | ImportCommit
    | ImportAbort
    | OpenEpoch
    | VoterAdd
    | VoterRemove
    | Audit
    | SwitchEncoder
    | Calibrate
    | CalibrateDecision
    | PutFeedback
    | ReviseRoutes
    | Finalize
    | SetMutation
    | PutTests
    | CommitPlan
    | EraseTexts
)


def vectors_of(mutation: Mutation) -> tuple[bytes, ...]:
    """All vectors that a mutation brings."""
    match mutation:
        case PutRoute():
            described = (mutation.description_vector,) if mutation.description_vector else ()
            return (*mutation.vectors, *described, *mutation.negative_vectors)
        case PatchRoute():
            described = (mutation.description_vector,) if mutation.description_vector else ()
            return (*described, *mutation.negative_vectors)
        case AddUtterances():
            return mutation.vectors
        case ReviseRoutes(routes=routes):
            return tuple(
                vector for each in routes for vector in (*each.vectors, *each.negative_vectors)
            )
        case ImportChunk():
            return tuple(vector for part in mutation.parts for vector in vectors_of(part))
        case _:
            return ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """A mutation with the identity and the preconditions of the write."""

    op_id: bytes  # 16 bytes that identify the write; a second entry with them has no effect
    mutation: Mutation
    # 16 bytes over the client's request, so that one key with two different requests is refused;
    # empty if no client can repeat it
    request_hash: bytes = b""
    if_match: Revision | None = None  # The route must have this revision
    if_none_match: bool = False  # The route must not exist
    author: str = ""  # Name of the API key that wrote it; only at level 2 of the log
    # The set whose content it changes; empty for ``default``.  From level 5 of the log on
    route_set: str = ""
    note: str = ""  # What the client says about the change; from level 5 of the log on


@dataclass(frozen=True, slots=True)
class Entry:
    """A proposal at its place in the log."""

    epoch: int  # Epoch of the log
    seq: int  # Sequence number, from 1, without gaps
    prev_chain: str  # Hash chain before this entry
    chain: str  # Hash chain at this entry
    time_us: int  # Sequencer's clock, microseconds since 1970; for people only
    frame: bytes  # The proposal's bytes as sequenced (see ``codec``)
    proposal: Proposal
    # The proof of its author (see ``sequencer.wire``), and where the author stood when it made it.
    # Not a part of what the entry says, so they do not count for equality.
    seal: bytes = field(default=b"", compare=False)
    stood: Position | None = field(default=None, compare=False)

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq, self.chain)
