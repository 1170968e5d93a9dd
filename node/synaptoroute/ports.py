"""Values and protocols between the two planes of a node and their callers.

The serving plane answers queries, the replication plane follows the log.  Neither imports
the other.  ``Engine`` composes both; everything above it and the follower beside it use it
through ``EnginePort`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import AliasRecord, EpochRecord, Outcome, SetRecord, StagedImport
from synaptoroute.core.mutation import Ballot, Entry, Position, Proposal, Revision, Settings
from synaptoroute.core.replica import Replica, Source, State, Step
from synaptoroute.core.table import RouteTable
from synaptoroute.encoder import StaticTable, TextEncoder
from synaptoroute.storage import SQLiteStorage, Stored
from synaptoroute.tensor import Tensor

ResultT = TypeVar("ResultT")

# --- values --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IncomingEntry:
    """An entry of a log, and where it was read."""

    entry: Entry
    source: Source
    log_epoch: int


@dataclass(frozen=True, slots=True)
class ReceivedEntry:
    """An incoming entry and what the replica did with it."""

    incoming: IncomingEntry
    step: Step


@dataclass(frozen=True, slots=True)
class Published:
    """The state that queries see; replaced as a whole.  ``version`` is ``epoch.seq``."""

    position: Position
    digest: str
    routes_count: int
    slots_used: int
    settings: Settings
    version: str


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The replica at one moment."""

    state: State
    promised: Ballot
    epochs: tuple[EpochRecord, ...]
    level: int = 1  # Feature level of the log
    voter_keys: Mapping[str, str] = field(default_factory=dict)  # Public key by voter

    @property
    def voters(self) -> tuple[str, ...]:
        return self.epochs[-1].opened.voters if self.epochs else ()

    @property
    def epoch_id(self) -> str:
        """Ballot that opened the newest epoch; empty before the first."""
        return self.epochs[-1].opened.epoch_id if self.epochs else ""

    @property
    def promised_epoch(self) -> int:
        """Number of the promised ballot; logs of lower epochs are ignored."""
        return self.promised.epoch


@dataclass(frozen=True, slots=True)
class Admission:
    """The forecast of admission control for the queued work."""

    wait_seconds: float = 0.0
    batch_seconds: float = 0.0
    token_seconds: float = 0.0


CONFIDENCE_BOUNDS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Upper bounds of the histogram of confidences."""


@dataclass(frozen=True, slots=True)
class DecisionFigures:
    """Decisions since the start, without those that the cache of responses answered.

    Attributes:
        reasons: How many by reason.
        confidences: How many up to each of ``CONFIDENCE_BOUNDS``, above the one before.
        confidence_sum: Sum of their confidences.
    """

    reasons: tuple[tuple[str, int], ...] = ()
    confidences: tuple[int, ...] = (0,) * len(CONFIDENCE_BOUNDS)
    confidence_sum: float = 0.0

    def __add__(self, other: DecisionFigures) -> DecisionFigures:
        reasons = dict(self.reasons)
        for reason, count in other.reasons:
            reasons[reason] = reasons.get(reason, 0) + count
        pairs = zip(self.confidences, other.confidences, strict=True)
        return DecisionFigures(
            tuple(reasons.items()),
            tuple(left + right for left, right in pairs),
            self.confidence_sum + other.confidence_sum,
        )


RoutePair: TypeAlias = "tuple[str | None, str | None]"
"""Route of an answer, and route that another set would have answered; None for none."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A query that both sets answered differently.

    Attributes:
        text: After the redaction of the review queue's settings.
        at_ms: Wall clock, milliseconds since 1970.
        answered: Route of the answer; None for none.
        shadowed: Route that the shadow would have answered; None for none.
    """

    text: str
    at_ms: int
    answered: str | None
    shadowed: str | None
    answered_confidence: float | None
    shadowed_confidence: float | None


@dataclass(frozen=True, slots=True)
class ShadowFigures:
    """Counts of this node since both sets have their present content.

    Attributes:
        target: The set that answered.
        shadow: The set that was scored beside it.
        target_revision: Place of the last change of what answers there; None before the first.
        agreed: Queries to which both have the same route, or both none.
        skipped: Queries that were not compared: both sets read the text differently, or the
            shadow could not score them.
        pairs: Disagreements by route of the answer and route of the shadow, most first.
        other: Disagreements of further pairs.
        sample: The newest disagreements, newest first; only while the review queue of the
            answering set is on and keeps texts.
    """

    target: str
    shadow: str
    target_revision: Revision | None
    shadow_revision: Revision | None
    agreed: int = 0
    disagreed: int = 0
    skipped: int = 0
    pairs: tuple[tuple[RoutePair, int], ...] = ()
    other: int = 0
    sample: tuple[Disagreement, ...] = ()

    @property
    def compared(self) -> int:
        return self.agreed + self.disagreed


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """Totals since the start.

    Attributes:
        shared: Queries that shared the encoding of an equal text in flight.
        overloaded: Queries and writes refused by admission control.
        too_late: Queries among them whose predicted wait exceeded their deadline.
        abandoned: Texts dropped because their callers had gone.
        static: Queries answered by the first stage; included in ``queries``.
        deferred: Queries that the first stage left to the encoder.
        decisions: How they were decided, and how surely.
    """

    queries: int = 0
    shared: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    overloaded: int = 0
    too_late: int = 0
    abandoned: int = 0
    entries: int = 0
    static: int = 0
    deferred: int = 0
    decisions: DecisionFigures = field(default_factory=DecisionFigures)


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The engine at one moment.

    Attributes:
        are_threads_alive: Whether every thread that was started still runs.
        lanes: Encoder workers.
        storage_state: ``ok``, ``disk_full``, ``read_only`` or another reason.
        moved_aside: Where a corrupt database was moved at the start, if one was.
        tables: Names of the first stage's static tables on this node.
    """

    node: str
    are_threads_alive: bool
    queue_requests: int
    backlog_entries: int
    lanes: int
    storage_state: str
    moved_aside: str | None
    counters: EngineCounters
    admission: Admission
    tables: tuple[str, ...]


# --- protocols -----------------------------------------------------------------------------


class EngineObserver(Protocol):
    """Receives what the engine's threads report; every method must be quick."""

    def on_received(self, received: Sequence[ReceivedEntry]) -> None:
        """Entries were taken in.  Runs on the applier's thread."""
        ...

    def on_failed(self, error: Exception) -> None:
        """Entries could not be applied.  Runs on the applier's thread."""
        ...

    def on_visible(self, position: Position) -> None:
        """A new position is visible to queries.  Runs on the scorer's thread."""
        ...


class Encoders(Protocol):
    """The encoders of one node; any thread."""

    @property
    def known(self) -> Mapping[str, int]:
        """Dimension by fingerprint."""
        ...

    @property
    def names(self) -> dict[str, str]:
        """Display name by fingerprint."""
        ...

    def find(self, fingerprint: str) -> TextEncoder:
        """Find an encoder."""
        ...


@dataclass(frozen=True, slots=True)
class AppliedState:
    """State that a task on the applier's thread may read and write."""

    replica: Replica
    storage: SQLiteStorage
    route_set: str = ""  # The set that the task is about; empty for ``default``

    @property
    def table(self) -> RouteTable:
        """The content of that set, which must exist."""
        table = self.replica.sets.table_of(self.route_set)
        assert table is not None, "the set was removed: whoever runs the task looks first"
        return table


class EnginePort(Protocol):
    """The engine as router and follower see it."""

    @property
    def is_started(self) -> bool: ...

    @property
    def node_id(self) -> str: ...

    @property
    def encoder(self) -> TextEncoder:
        """The encoder that serves now."""
        ...

    @property
    def encoders(self) -> Encoders: ...

    @property
    def database(self) -> SQLiteStorage:
        """The database, to be read from any thread; writes go through ``run_on_applier``."""
        ...

    @property
    def published(self) -> Published:
        """The state of the default set."""
        ...

    def published_of(self, route_set: str) -> Published:
        """Return the state of a set or of the set that an alias names; empty for the default.

        Raises:
            SetNotFound: There is none of that name.
        """
        ...

    @property
    def set_names(self) -> Mapping[str, int]:
        """Numbers of the route sets that queries see, by name."""
        ...

    @property
    def aliases(self) -> Mapping[str, AliasRecord]:
        """Aliases that queries see, by name."""
        ...

    @property
    def replica_status(self) -> ReplicaStatus: ...

    def set_record(self, name: str) -> SetRecord | None:
        """Return the record of a route set as it is applied; any thread.

        None for a set that does not exist, and for ``default``, which is empty, before its first
        change at level 5 of the log.
        """
        ...

    @property
    def backlog_entries(self) -> int: ...

    @property
    def delays(self) -> tuple[tuple[int, int], ...]:
        """Pairs of seq and microseconds from the sequencer's clock to visible here."""
        ...

    def status(self) -> EngineStatus: ...

    def subscribe(self, observer: EngineObserver) -> None: ...

    # --- entries and writes ---

    def deliver(self, entries: Sequence[IncomingEntry]) -> None:
        """Take in entries of a log, in order."""
        ...

    def propose(self, proposals: Sequence[Proposal]) -> None:
        """Number, apply and publish proposals of a node that is its own log.

        Raises:
            Overloaded: Too many writes wait.
            NotReady: The engine has stopped.
        """
        ...

    def encode_utterances(
        self, texts: Sequence[str], encoder: TextEncoder | None = None
    ) -> list[Future[NDArray[np.float32]]]:
        """Encode utterances behind the queries; one future a job.

        A future that is cancelled before its job begins costs nothing.

        Args:
            texts: The utterances.
            encoder: The encoder to use; None for the one that serves now.

        Raises:
            Overloaded: Too many utterances wait.
            NotReady: The engine is stopping.
        """
        ...

    def expect_outcome(self, op_id: bytes, request_hash: bytes = b"") -> Future[Outcome]:
        """Wait for the outcome of a write for one request; register before it is sent.

        If another request decided the op_id, the outcome is a rejection with
        ``idempotency_conflict``.
        """
        ...

    def forget_outcome(self, op_id: bytes, future: Future[Outcome]) -> None: ...

    def expect_version(self, seq: int) -> Future[None]:
        """Wait until an entry is visible; check the position afterwards."""
        ...

    def forget_version(self, future: Future[None]) -> None: ...

    # --- reads ---

    def read(self, task: Callable[[Tensor], ResultT], route_set: str = "") -> Future[ResultT]:
        """Run a function on the tensor of a set between two batches, at one position.

        Raises:
            SetNotFound: By the future: no set and no alias has the name.
        """
        ...

    def read_sets(self, task: Callable[[Mapping[str, Tensor]], ResultT]) -> Future[ResultT]:
        """Run a function on the tensors of all sets by name, in order of number, at one position.

        It runs between two batches.
        """
        ...

    def known_texts(self, texts: Sequence[str], route_set: str = "") -> list[str]:
        """Keep the texts that an utterance of a set may equal; any thread, perhaps a write behind.

        Raises:
            SetNotFound: There is none of that name.
        """
        ...

    def run_on_applier(self, task: Callable[[AppliedState], ResultT]) -> Future[ResultT]:
        """Run a function between two groups of entries.

        What it reads of the replica, the database and, by ``read``, of the tensor is of
        one position.  Writes wait meanwhile, so it must be short.

        Raises:
            NotReady: The engine has stopped.
        """
        ...

    def static_table(self, fingerprint: str, name: str) -> StaticTable | None:
        """Find a static table of the cascade by its encoder and name; None if it is not here."""
        ...

    def learn_table(self, table: StaticTable) -> Future[None]:
        """Use a static table from now on, where a calibration names it or there was none."""
        ...

    def look_up(self, op_id: bytes, request_hash: bytes = b"") -> Future[Outcome | None]:
        """Find the outcome of a write inside the idempotency window, for one request."""
        ...

    def staged_imports(self, route_set: str = "") -> Future[tuple[StagedImport, ...]]:
        """List the open imports of a set.

        Raises:
            SetNotFound: By the future: no set has the name.
        """
        ...

    # --- whole states ---

    def content_root(self, position: Position) -> str | None:
        """Return the content root at a position, 64 hexadecimal digits; None if not known yet.

        The first call begins to keep the roots; those of older positions stay unknown.

        Raises:
            VersionLost: It cannot become known: the position is too old, or of another history.
        """
        ...

    def install_snapshot(
        self, source: Path, *, orphans_after_seq: int | None = None, root: str | None = None
    ) -> Future[Position]:
        """Replace database, replica and tensor by a peer's snapshot file.

        The tensor is built beside the one that serves and exchanged between two batches, so
        queries go on.

        Args:
            source: The file; it must not change meanwhile.
            orphans_after_seq: Keep own entries after this place as orphans.
            root: The content root that the file must have; None for any.

        Raises:
            StorageCorrupt: By the future: the file is damaged or has another root.
        """
        ...

    def adopt(self, stored: Stored) -> None:
        """Replace replica and tensor by what the database holds.  Runs on the applier's thread."""
        ...
