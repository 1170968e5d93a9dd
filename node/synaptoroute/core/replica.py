"""One node's copy of the state, fed one entry at a time.

``receive`` looks at an entry and answers with a frozen ``Step``: what to make
durable and visible, what is missing, or why nothing is to be done.  The shell
carries a step out in a fixed order (commit to SQLite, write the tensor, advance,
answer) and calls ``advance``, or ``revert`` where the commit failed.

Nothing that arrives is trusted to be complete: an entry is applied only at the
place after the last one, and only if its hash chain continues ours.  The bus may
lose, repeat, reorder and lie, so what it says is never evidence of a fork: the
log is asked.  A fork that the log itself shows makes the replica ``DIVERGED``.  An
epoch is joined on the log's word alone: one that the bus made up would have the
replica take the true log for an old one, and ignore it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, TypeAlias

from synaptoroute.core.change import Change, Commit, Outcome
from synaptoroute.core.codec import digest_of, is_chained
from synaptoroute.core.digest import Digest, next_chain
from synaptoroute.core.mutation import (
    IDEMPOTENCY_WINDOW_ENTRIES,
    Ballot,
    Entry,
    Mutation,
    OpenEpoch,
    Position,
    Proposal,
    Revision,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.snapshot import EpochRecord, Remembered, Snapshot
from synaptoroute.core.table import RouteTable

VOTERS_MAX: Final = 99


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
    # To syncing where a later epoch took this replica's side.
    State.DIVERGED: frozenset({State.SYNCING, State.INSTALLING, State.HALTED}),
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
    UNCONFIRMED = "unconfirmed"


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


REORDER_ENTRIES_MAX: Final = 1_024
REORDER_BYTES_MAX: Final = 4_194_304
CHAINS_KEPT: Final = 4_096

Check: TypeAlias = Callable[[Mutation], str | None]
"""Says what is wrong with a mutation's vectors, or None; must be deterministic."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An entry that came too early, and the epoch of the log that it was read from."""

    entry: Entry
    log_epoch: int


@dataclass(frozen=True, slots=True)
class _Before:
    """What a commit that is not durable yet displaced."""

    position: Position
    epoch_count: int
    epoch_record: EpochRecord | None
    remembered: Remembered | None


class Replica:
    """The state after some prefix of the log, and what it takes to extend it.

    Invariants: ``position`` is that of ``table``; it never decreases inside an
    epoch but by ``revert``; each op_id has at most one effect inside the window;
    ``promised`` never decreases, and nothing is applied from a log below it.
    """

    def __init__(
        self,
        snapshot: Snapshot | None = None,
        *,
        dim: int = 0,
        check: Check | None = None,
        digest: Digest | None = None,
    ) -> None:
        """Restore a snapshot; ``digest`` is that of it, if known, and taken over."""
        held = snapshot or Snapshot()
        self.table = RouteTable.restore(
            held.settings, dim, held.routes, dict(held.row_hashes), held.imports, digest
        )
        self.position = held.position
        self.epochs = list(held.epochs)
        self.state = State.SYNCING
        self._promised = Ballot()
        self._check = check
        self._remembered = {each.op_id: each for each in held.remembered}
        self._in_order = deque(held.remembered)
        self._undo: list[_Before] = []
        self._chains = {held.position.seq: held.position.chain}
        self._waiting: dict[int, _Waiting] = {}
        self._waiting_bytes = 0

    @property
    def digest(self) -> str:
        """Digest of the whole state, 32 hexadecimal digits."""
        return self.table.digest.hex()

    @property
    def voters(self) -> tuple[str, ...]:
        """Who votes at this position, sorted."""
        return self.epochs[-1].opened.voters if self.epochs else ()

    @property
    def epoch_id(self) -> str:
        """Ballot that opened the epoch of this position; empty before the first."""
        return self.epochs[-1].opened.epoch_id if self.epochs else ""

    @property
    def promised(self) -> Ballot:
        """The newest ballot that binds this replica.

        To join an epoch binds as much as to promise it: whoever has joined takes part
        in no older one.
        """
        if not self.epochs:
            return self._promised
        joined = self.epochs[-1]
        return max(Ballot(joined.epoch, joined.opened.epoch_id), self._promised, key=_epoch_of)

    @property
    def promised_epoch(self) -> int:
        """Number of that ballot; logs of lower epochs are ignored."""
        return self.promised.epoch

    @promised_epoch.setter
    def promised_epoch(self, epoch: int) -> None:
        self._promised = Ballot(epoch)

    def promise(self, ballot: Ballot) -> None:
        """Take no entry of a log below a ballot from now on; the shell makes it durable first.

        At most one ballot of each number is promised: see ``recovery.may_promise``.
        """
        assert ballot.epoch > self._promised.epoch or ballot == self._promised, "a second promise"
        self._promised = ballot

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
        log_epoch = log_epoch or entry.epoch
        if log_epoch < self._promised.epoch:
            return Step(ignored=Ignored.PROMISED)
        if entry.seq <= self.position.seq:
            return self._receive_old(entry, source, log_epoch)
        if entry.epoch < self.position.epoch:
            return Step(ignored=Ignored.OLD_EPOCH)
        if not is_chained(entry):
            return self._doubt(source, f"entry {entry.seq} does not match its own chain")
        if entry.seq > self.position.seq + 1:
            return self._hold(_Waiting(entry, log_epoch))
        return self._extend(entry, source, log_epoch)

    def _receive_old(self, entry: Entry, source: Source, log_epoch: int) -> Step:
        """An entry at or before our position: a repetition, or another history."""
        known = self._chains.get(entry.seq)
        if known == entry.chain:
            return Step(ignored=Ignored.DUPLICATE)
        if log_epoch < self.position.epoch:
            return Step(ignored=Ignored.OLD_EPOCH)
        if known is None and entry.epoch <= self.position.epoch:
            return Step(ignored=Ignored.OLD)
        return self._doubt(source, f"entry {entry.seq} differs from the one that was applied")

    def _doubt(self, source: Source, reason: str) -> Step:
        """Contradiction: from the bus a reason to ask, from the log a fork."""
        if source is Source.BUS:
            return Step(fetch=Fetch(self.position.seq), ignored=Ignored.FORGED)
        self.move_to(State.DIVERGED)
        return Step(diverged=reason)

    def _hold(self, waiting: _Waiting) -> Step:
        """Keep an entry that came too early, as far as the limits allow.

        Only the places next to ours are kept, so that what claims to be far ahead
        cannot fill the room of what is about to be needed.
        """
        seq, size_bytes = waiting.entry.seq, len(waiting.entry.frame)
        if (
            seq not in self._waiting
            and seq <= self.position.seq + REORDER_ENTRIES_MAX
            and self._waiting_bytes + size_bytes <= REORDER_BYTES_MAX
        ):
            self._waiting[seq] = waiting
            self._waiting_bytes += size_bytes
        return Step(fetch=Fetch(self.position.seq), ignored=Ignored.BUFFERED)

    def _take_waiting(self, seq: int) -> _Waiting | None:
        """Take the entry that waits for a place, if there is one."""
        waiting = self._waiting.pop(seq, None)
        if waiting is not None:
            self._waiting_bytes -= len(waiting.entry.frame)
        return waiting

    def _take_behind(self, commit: Commit) -> _Waiting | None:
        """Take what waits for the next place; a change of the encoder ends a step."""
        return self._take_waiting(self.position.seq + 1) if commit.change.encoder is None else None

    def _extend(self, entry: Entry, source: Source, log_epoch: int) -> Step:
        """Apply the next entry and those that waited behind it, or, if it raises, none."""
        doubt = self._contradiction(entry)
        if doubt is not None:
            return self._doubt(source, doubt)
        if source is Source.BUS and entry.epoch != self.position.epoch:
            return Step(fetch=Fetch(self.position.seq), ignored=Ignored.UNCONFIRMED)
        self._take_waiting(entry.seq)
        epoch_min = max(log_epoch, self._promised.epoch)
        commits: list[Commit] = []
        is_behind = False
        try:
            commits.append(self._apply(entry))
            while (waiting := self._take_behind(commits[-1])) is not None:
                is_behind = not self._can_follow(waiting, epoch_min)
                if is_behind:
                    break
                commits.append(self._apply(waiting.entry))
        except BaseException:
            self.revert(tuple(commits))
            raise
        fetch = Fetch(self.position.seq) if is_behind or self._waiting else None
        return Step(tuple(commits), fetch=fetch)

    def _can_follow(self, waiting: _Waiting, epoch_min: int) -> bool:
        """Whether an entry that waited may be applied now, unasked.

        An older log may go on where the newer one took another way, and an epoch is
        joined only where the log itself was read.
        """
        return (
            waiting.log_epoch >= epoch_min
            and waiting.entry.epoch == self.position.epoch
            and self._contradiction(waiting.entry) is None
        )

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

    def _apply(self, entry: Entry) -> Commit:
        """Apply an entry that continues our history."""
        proposal = entry.proposal
        opens = entry.epoch != self.position.epoch
        known = None if opens else self._recall(proposal.op_id, entry.seq)
        change = (
            self._change(entry, opens) if known is None else Change(_repeat(known, proposal, entry))
        )
        count = len(self.epochs)
        record = self.epochs[-1] if count else None
        before = _Before(self.position, count, record, self._remembered.get(proposal.op_id))
        self._undo.append(before)
        if known is None:
            remembered = Remembered(
                proposal.op_id, entry.seq, proposal.request_hash, change.outcome
            )
            self._remembered[proposal.op_id] = remembered
            self._in_order.append(remembered)
        if change.epoch is not None:
            self.epochs.append(EpochRecord(entry.epoch, change.epoch))
        if change.voters is not None:
            opened = replace(self.epochs[-1].opened, voters=change.voters)
            self.epochs[-1] = EpochRecord(self.epochs[-1].epoch, opened)
        self.position = entry.position
        self._chains[entry.seq] = entry.chain
        return Commit(entry, change, self.digest, is_duplicate=known is not None)

    def _change(self, entry: Entry, opens: bool) -> Change:
        """Let the table judge an entry; that it opens an epoch, its chain has shown."""
        at = entry.position.revision
        mutation = entry.proposal.mutation
        if isinstance(mutation, OpenEpoch) and not opens:
            message = f"the epoch {entry.epoch} is open already"
            return Change(Outcome("rejected", at, code="invalid_request", message=message))
        wrong = self._check(mutation) if self._check and not opens else None
        if wrong is not None:
            return Change(Outcome("rejected", at, code="invalid_vector", message=wrong))
        if isinstance(mutation, VoterAdd | VoterRemove):
            judged = self.table.apply(entry.proposal, at)
            return judged if judged.outcome.code else plan_voters(self.voters, mutation, at)
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
        self._undo.clear()
        floor = self.position.seq - IDEMPOTENCY_WINDOW_ENTRIES
        while self._in_order and self._in_order[0].seq < floor:
            oldest = self._in_order.popleft()
            if self._remembered[oldest.op_id] is oldest:
                del self._remembered[oldest.op_id]
        while len(self._chains) > CHAINS_KEPT:
            del self._chains[self.position.seq - len(self._chains) + 1]

    def revert(self, commits: tuple[Commit, ...]) -> None:
        """Undo the newest commits since ``advance``, given oldest first: they are not durable."""
        for commit in reversed(commits):
            assert commit.entry.position == self.position, "revert in order: this is a bug"
            assert self._undo, "what is durable cannot be reverted: this is a bug"
            before = self._undo.pop()
            self.table.revert(commit.change)
            del self.epochs[before.epoch_count :]
            if before.epoch_record is not None:
                self.epochs[-1] = before.epoch_record
            if not commit.is_duplicate:
                self._forget(self._in_order.pop(), before.remembered)
            del self._chains[commit.entry.seq]
            self.position = before.position

    def _forget(self, newest: Remembered, before: Remembered | None) -> None:
        """Take back that an outcome is remembered."""
        if before is None:
            del self._remembered[newest.op_id]
        else:
            self._remembered[newest.op_id] = before

    def snapshot(self) -> Snapshot:
        """The whole state, frozen, without the vectors."""
        table = self.table
        floor = self.position.seq - IDEMPOTENCY_WINDOW_ENTRIES
        return Snapshot(
            position=self.position,
            settings=table.settings,
            routes=tuple(route for _, route in sorted(table.routes.items())),
            row_hashes=dict(table.row_hashes),
            remembered=tuple(each for each in self._in_order if each.seq >= floor),
            imports=tuple(staged for _, staged in sorted(table.imports.items())),
            epochs=tuple(self.epochs),
        )


def _epoch_of(ballot: Ballot) -> int:
    return ballot.epoch


def _repeat(known: Remembered, proposal: Proposal, entry: Entry) -> Outcome:
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


def number(position: Position, frame: bytes, proposal: Proposal, time_us: int) -> Entry:
    """Give a proposal the place after ``position``, as a sequencer does."""
    seq = position.seq + 1
    opens = isinstance(proposal.mutation, OpenEpoch)
    epoch = position.epoch + 1 if opens else position.epoch
    chain = next_chain(position.chain, epoch, seq, digest_of(frame))
    return Entry(epoch, seq, position.chain, chain, time_us, frame, proposal)


def plan_voters(voters: tuple[str, ...], mutation: VoterAdd | VoterRemove, at: Revision) -> Change:
    """Plan a change of the voters by one node."""
    name = mutation.node_id
    is_adding = isinstance(mutation, VoterAdd)
    if is_adding == (name in voters):
        return Change(Outcome("unchanged", at))
    if is_adding and len(voters) >= VOTERS_MAX:
        return _refused(at, f"a cluster has at most {VOTERS_MAX} voters")
    if not is_adding and len(voters) == 1:
        return _refused(at, "the last voter cannot be removed")
    after = {*voters, name} if is_adding else set(voters) - {name}
    return Change(Outcome("applied", at), voters=tuple(sorted(after)))


def _refused(at: Revision, message: str) -> Change:
    return Change(Outcome("rejected", at, code="invalid_request", message=message))
