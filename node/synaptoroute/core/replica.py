"""One node's copy of the state, fed one entry at a time.

``receive`` looks at an entry and answers with a frozen ``Step``: what to make
durable and visible, what is missing, or why nothing is to be done.  The shell
carries a step out in a fixed order (commit to SQLite, write the tensor, advance,
answer) and calls ``advance``, or ``revert`` where the commit failed.

Nothing that arrives is trusted to be complete: an entry is applied only at the
place after the last one, and only if its hash chain continues ours.  The bus may
lose, repeat, reorder and lie, so what it says is never evidence of a fork: the
log is asked.  A fork that the log itself shows makes the replica ``DIVERGED``.
Source of the states: the follower states of etcd/raft's ``tracker``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from synaptoroute.core.codec import digest_of
from synaptoroute.core.digest import next_chain
from synaptoroute.core.mutation import (
    IDEMPOTENCY_WINDOW_ENTRIES,
    Change,
    Commit,
    Entry,
    Mutation,
    OpenEpoch,
    Outcome,
    Position,
    Proposal,
)
from synaptoroute.core.snapshot import EpochRecord, Remembered, Snapshot
from synaptoroute.core.table import RouteTable

REORDER_ENTRIES_MAX: Final = 1_024
REORDER_BYTES_MAX: Final = 4_194_304
CHAINS_KEPT: Final = 4_096

Check: TypeAlias = Callable[[Mutation], str | None]
"""Says what is wrong with a mutation's vectors, or None; must be deterministic."""


class State(Enum):
    """What a replica is doing."""

    SYNCING = "syncing"
    LIVE = "live"
    CATCHING_UP = "catching_up"
    INSTALLING = "installing"
    DIVERGED = "diverged"
    HALTED = "halted"


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.SYNCING: frozenset({State.LIVE, State.INSTALLING, State.DIVERGED, State.HALTED}),
    State.LIVE: frozenset({State.CATCHING_UP, State.INSTALLING, State.DIVERGED, State.HALTED}),
    State.CATCHING_UP: frozenset({State.LIVE, State.INSTALLING, State.DIVERGED, State.HALTED}),
    State.INSTALLING: frozenset({State.SYNCING, State.DIVERGED, State.HALTED}),
    State.DIVERGED: frozenset({State.INSTALLING, State.HALTED}),
    State.HALTED: frozenset({State.SYNCING, State.INSTALLING}),
}


class Source(Enum):
    """Where an entry was read."""

    BUS = "bus"
    LOG = "log"


class Ignored(Enum):
    """Why an entry changes nothing."""

    DUPLICATE = "duplicate"
    OLD = "old"
    OLD_EPOCH = "old_epoch"
    PROMISED = "promised"
    BUFFERED = "buffered"
    NOT_FOLLOWING = "not_following"
    FORGED = "forged"


@dataclass(frozen=True, slots=True)
class Fetch:
    """Entries that are missing.

    Attributes:
        after_seq: The last sequence number that is held.
    """

    after_seq: int


@dataclass(frozen=True, slots=True)
class Step:
    """What the shell shall do after one entry.

    Attributes:
        commits: To be made durable and visible, in order, in one transaction.
        fetch: What to ask the log for.
        ignored: Why the entry changes nothing, where it does not.
        diverged: What the log shows that this replica's history contradicts.
    """

    commits: tuple[Commit, ...] = ()
    fetch: Fetch | None = None
    ignored: Ignored | None = None
    diverged: str | None = None


class Replica:
    """The state after some prefix of the log, and what it takes to extend it.

    Invariants: ``position`` is that of ``table``; it never decreases inside an
    epoch but by ``revert``; each op_id has at most one effect inside the window.
    """

    def __init__(
        self, snapshot: Snapshot | None = None, *, dim: int = 0, check: Check | None = None
    ) -> None:
        held = snapshot or Snapshot()
        self.table = RouteTable.restore(
            held.settings, dim, held.routes, dict(held.row_hashes), held.imports
        )
        self.position = held.position
        self.epochs = list(held.epochs)
        self.state = State.SYNCING
        self.promised_epoch = 0
        self._check = check
        self._remembered = {each.op_id: each for each in held.remembered}
        self._chains = {held.position.seq: held.position.chain}
        self._waiting: dict[int, Entry] = {}
        self._waiting_bytes = 0

    @property
    def digest(self) -> str:
        """Digest of the whole state, 32 hexadecimal digits."""
        return self.table.digest.hex()

    def move_to(self, state: State) -> None:
        """Enter a state; only along ``TRANSITIONS``."""
        if state is self.state:
            return
        assert state in TRANSITIONS[self.state], f"{self.state} to {state}: this is a bug"
        self.state = state

    def receive(self, entry: Entry, source: Source = Source.LOG, log_epoch: int = 0) -> Step:
        """Take in one entry.

        Args:
            entry: As sequenced; its frame is decoded already.
            source: Whether the log itself or the bus says so.
            log_epoch: Epoch of the log it was read from; 0 takes the entry's own.

        Returns:
            What to do.  An entry that fills a gap brings those that waited for it.
        """
        if self.state in (State.DIVERGED, State.HALTED, State.INSTALLING):
            return Step(ignored=Ignored.NOT_FOLLOWING)
        if (log_epoch or entry.epoch) < self.promised_epoch:
            return Step(ignored=Ignored.PROMISED)
        if entry.seq <= self.position.seq:
            return self._receive_old(entry, source)
        if entry.epoch < self.position.epoch:
            return Step(ignored=Ignored.OLD_EPOCH)
        if not _is_chained(entry):
            return self._doubt(source, f"entry {entry.seq} does not match its own chain")
        if entry.seq > self.position.seq + 1:
            return self._hold(entry)
        return self._extend(entry, source)

    def _receive_old(self, entry: Entry, source: Source) -> Step:
        """An entry at or before our position: a repetition, or another history."""
        known = self._chains.get(entry.seq)
        if known is None:
            return Step(ignored=Ignored.OLD)
        if known == entry.chain:
            return Step(ignored=Ignored.DUPLICATE)
        if entry.epoch < self.position.epoch and source is Source.BUS:
            return Step(ignored=Ignored.OLD_EPOCH)
        return self._doubt(source, f"entry {entry.seq} differs from the one that was applied")

    def _doubt(self, source: Source, reason: str) -> Step:
        """Contradiction: from the bus a reason to ask, from the log a fork."""
        if source is Source.BUS:
            return Step(fetch=Fetch(self.position.seq), ignored=Ignored.FORGED)
        return Step(diverged=reason)

    def _hold(self, entry: Entry) -> Step:
        """Keep an entry that came too early, as far as the limits allow."""
        size_bytes = len(entry.frame)
        if (
            entry.seq not in self._waiting
            and len(self._waiting) < REORDER_ENTRIES_MAX
            and self._waiting_bytes + size_bytes <= REORDER_BYTES_MAX
        ):
            self._waiting[entry.seq] = entry
            self._waiting_bytes += size_bytes
        return Step(fetch=Fetch(self.position.seq), ignored=Ignored.BUFFERED)

    def _extend(self, entry: Entry, source: Source) -> Step:
        """Apply the next entry and those that waited behind it."""
        doubt = self._contradiction(entry)
        if doubt is not None:
            return self._doubt(source, doubt)
        commits = [self._apply(entry)]
        while (held := self._waiting.pop(self.position.seq + 1, None)) is not None:
            self._waiting_bytes -= len(held.frame)
            if self._contradiction(held) is not None:
                return Step(tuple(commits), fetch=Fetch(self.position.seq))
            commits.append(self._apply(held))
        self._drop_passed()
        fetch = Fetch(self.position.seq) if self._waiting else None
        return Step(tuple(commits), fetch=fetch)

    def _contradiction(self, entry: Entry) -> str | None:
        """Say why an entry cannot follow our position; None if it can."""
        if entry.prev_chain != self.position.chain:
            return f"entry {entry.seq} does not continue the history that was applied"
        if entry.epoch == self.position.epoch:
            return None
        opened = entry.proposal.mutation
        if not isinstance(opened, OpenEpoch) or opened.base_seq != self.position.seq:
            return f"entry {entry.seq} is of epoch {entry.epoch}, which nothing opened"
        return None

    def _drop_passed(self) -> None:
        """Forget entries that waited for places which are behind us now."""
        for seq in [seq for seq in self._waiting if seq <= self.position.seq]:
            self._waiting_bytes -= len(self._waiting.pop(seq).frame)

    def _apply(self, entry: Entry) -> Commit:
        """Apply an entry that continues our history."""
        proposal = entry.proposal
        known = self._recall(proposal.op_id, entry.seq)
        if known is not None:
            change = Change(_repeated(known, proposal, entry))
        else:
            change = self._change(entry)
            self._remembered.pop(proposal.op_id, None)
            self._remembered[proposal.op_id] = Remembered(
                proposal.op_id, entry.seq, proposal.request_hash, change.outcome
            )
        if change.epoch is not None:
            self.epochs.append(EpochRecord(entry.epoch, change.epoch))
        self.position = entry.position
        self._chains[entry.seq] = entry.chain
        return Commit(entry, change, self.digest, is_duplicate=known is not None)

    def _change(self, entry: Entry) -> Change:
        at = entry.position.revision
        wrong = self._check(entry.proposal.mutation) if self._check else None
        if wrong is not None:
            return Change(Outcome("rejected", at, code="invalid_vector", message=wrong))
        return self.table.apply(entry.proposal, at)

    def _recall(self, op_id: bytes, seq: int) -> Remembered | None:
        """Find an outcome inside the window, counted from ``seq``."""
        known = self._remembered.get(op_id)
        if known is None or seq - known.seq > IDEMPOTENCY_WINDOW_ENTRIES:
            return None
        return known

    def outcome_of(self, op_id: bytes) -> Remembered | None:
        """Say what came of a write, if it is inside the window."""
        return self._recall(op_id, self.position.seq)

    def advance(self) -> None:
        """Say that everything up to the position is durable: forget what is too old."""
        floor = self.position.seq - IDEMPOTENCY_WINDOW_ENTRIES
        while self._remembered:
            oldest = next(iter(self._remembered.values()))
            if oldest.seq >= floor:
                break
            del self._remembered[oldest.op_id]
        while len(self._chains) > CHAINS_KEPT:
            del self._chains[next(iter(self._chains))]

    def revert(self, commits: tuple[Commit, ...]) -> None:
        """Undo the newest commits, given oldest first, because they are not durable."""
        for commit in reversed(commits):
            assert commit.entry.position == self.position, "revert in order: this is a bug"
            self.table.revert(commit.change)
            if commit.change.epoch is not None:
                self.epochs.pop()
            if not commit.is_duplicate:
                del self._remembered[commit.entry.proposal.op_id]
            del self._chains[commit.entry.seq]
            epoch = self._epoch_before(commit)
            self.position = Position(epoch, commit.entry.seq - 1, commit.entry.prev_chain)

    def _epoch_before(self, commit: Commit) -> int:
        """Epoch of the position before a commit."""
        if commit.change.epoch is None:
            return commit.entry.epoch
        return self.epochs[-1].epoch if self.epochs else 0

    def snapshot(self) -> Snapshot:
        """The whole state, frozen, without the vectors."""
        table = self.table
        return Snapshot(
            position=self.position,
            settings=table.settings,
            routes=tuple(route for _, route in sorted(table.routes.items())),
            row_hashes=dict(table.row_hashes),
            remembered=tuple(self._remembered.values()),
            imports=tuple(staged for _, staged in sorted(table.imports.items())),
            epochs=tuple(self.epochs),
        )


def _repeated(known: Remembered, proposal: Proposal, entry: Entry) -> Outcome:
    """Outcome of a write that was made before."""
    hashes = (known.request_hash, proposal.request_hash)
    if all(hashes) and hashes[0] != hashes[1]:
        return Outcome(
            "rejected",
            entry.position.revision,
            code="idempotency_conflict",
            message="the idempotency key was used before for another request",
        )
    return known.outcome


def _is_chained(entry: Entry) -> bool:
    """Whether an entry's chain follows from its own fields."""
    digest = digest_of(entry.frame)
    return entry.chain == next_chain(entry.prev_chain, entry.epoch, entry.seq, digest)


def number(position: Position, frame: bytes, proposal: Proposal, time_us: int) -> Entry:
    """Give a proposal the place after ``position``, as a sequencer does."""
    seq = position.seq + 1
    opens = isinstance(proposal.mutation, OpenEpoch)
    epoch = position.epoch + 1 if opens else position.epoch
    chain = next_chain(position.chain, epoch, seq, digest_of(frame))
    return Entry(epoch, seq, position.chain, chain, time_us, frame, proposal)


__all__ = [
    "CHAINS_KEPT",
    "Fetch",
    "Ignored",
    "Replica",
    "Source",
    "State",
    "Step",
    "number",
]
