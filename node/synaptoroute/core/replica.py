"""One node's copy of the replicated state, fed one log entry at a time.

``receive`` takes an entry and returns a frozen ``Step``: the commits to make durable and
visible, the entries to fetch, or the reason why nothing changes.  The shell executes a step in a
fixed order (commit to SQLite, write the tensor, advance, answer) and calls ``advance``,
or ``revert`` if the commit failed.

An entry is applied only at the place after the last one, and only if its hash chain
continues ours.  The bus may lose, repeat, reorder and forge messages, so a message is
never evidence of a fork: the log is asked.  A fork that the log itself shows makes the
replica ``DIVERGED``.  An epoch is joined only when it was read from the log: with a forged
epoch from the bus, the replica would take the real log for an old one and ignore it.

Source of the follower's states and transitions: etcd/raft's ``tracker``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, TypeAlias

from synaptoroute.core.change import Change, Commit, EpochRecord, Outcome, Remembered, Snapshot
from synaptoroute.core.codec import digest_of, is_chained
from synaptoroute.core.digest import Digest, next_chain
from synaptoroute.core.levels import VOTES_LEVEL, may_hold
from synaptoroute.core.mutation import (
    IDEMPOTENCY_WINDOW_ENTRIES,
    Ballot,
    Entry,
    Finalize,
    Mutation,
    OpenEpoch,
    Position,
    Proposal,
    Revision,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.sets import RouteSets
from synaptoroute.core.table import RouteTable

VOTERS_MAX: Final = 99


class State(Enum):
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
    # To SYNCING if a later epoch continues this replica's history.
    State.DIVERGED: frozenset({State.SYNCING, State.INSTALLING, State.HALTED}),
    State.HALTED: frozenset({State.SYNCING, State.INSTALLING}),
}


class Source(Enum):
    BUS = "bus"
    LOG = "log"


class Ignored(Enum):
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
    """A request for missing entries."""

    after_seq: int


@dataclass(frozen=True, slots=True)
class Step:
    """Orders to the shell after one entry."""

    commits: tuple[Commit, ...] = ()  # To make durable and visible, in order, in one transaction
    fetch: Fetch | None = None
    ignored: Ignored | None = None  # Why the entry changes nothing
    diverged: str | None = None  # How the log contradicts this replica's history
    forged: str | None = None  # Why the log's next entry was not written by a member


REORDER_ENTRIES_MAX: Final = 1_024
REORDER_BYTES_MAX: Final = 4_194_304
CHAINS_KEPT: Final = 4_096
SEAL_ENTRIES_MAX: Final = 2_048
"""An entry is valid at most so many places after the position at which its author sealed it.

Less than the chains that are kept, so the author's place can be compared, and far less than the
idempotency window: an old genuine entry that a server appends once more is a repetition of its
op_id, or it is refused.
"""
SEALED_LEVEL: Final = 2  # From this level of the log on, every entry needs a seal

Check: TypeAlias = Callable[[Mutation], str | None]
"""Returns what is wrong with a mutation's vectors, or None.  Must be deterministic."""


@dataclass(frozen=True, slots=True)
class Electors:
    """The voters and keys that decide what follows a position."""

    base: Position
    voters: tuple[str, ...]
    keys: Mapping[str, str]  # Public key by voter, as far as they are known
    chains: Mapping[int, str] = field(default_factory=dict)  # Of the newest places


VoteCheck: TypeAlias = Callable[[Entry, Electors], str | None]
"""Returns why the voters have not agreed to an entry that needs their agreement, or None."""


@dataclass(frozen=True, slots=True)
class _Buffered:
    """An entry that arrived too early, and the epoch of the log that it was read from."""

    entry: Entry
    log_epoch: int


@dataclass(frozen=True, slots=True)
class _Undo:
    """State before a commit that is not durable yet."""

    position: Position
    epoch_count: int
    epoch_record: EpochRecord | None
    remembered: Remembered | None
    level: int
    voter_keys: dict[str, str]


class Replica:
    """The state after a prefix of the log, and the means to extend it.

    Invariants: ``position`` is the position of ``sets``; inside an epoch only ``revert``
    decreases it.  Each op_id has at most one effect inside the idempotency window.
    ``promised`` never decreases, and no entry of a log below it is applied.
    """

    def __init__(
        self,
        snapshot: Snapshot | None = None,
        *,
        dim: int = 0,
        check: Check | None = None,
        sums: Mapping[int, Digest] | None = None,
        requires_seals: bool = False,
    ) -> None:
        """Restore a snapshot.

        Args:
            snapshot: The state; none for an empty replica.
            dim: Dimension of the vectors; 0 if it is not known.
            check: Finds what is wrong with a mutation's vectors.
            sums: The sum of each route set of the snapshot by number, if they are known.
            requires_seals: Refuse entries that no member sealed, from level 2 of the log on.
        """
        state = snapshot or Snapshot()
        self.sets = RouteSets.restore(state, dim, sums)
        self.position = state.position
        self.epochs = list(state.epochs)
        self.level = state.level
        self.voter_keys = dict(state.voter_keys)  # Public key by voter; replaced, never changed
        self.requires_seals = requires_seals
        self.check_votes: VoteCheck | None = None  # Set by ``require_seals``
        self.state = State.SYNCING
        self._promised = Ballot()
        self._check = check
        self._remembered = {each.op_id: each for each in state.remembered}
        self._in_order = deque(state.remembered)
        self._undo: list[_Undo] = []
        self._chains = {**dict(state.chains), state.position.seq: state.position.chain}
        self._seals = {seal: seq for seq, seal in state.seals}  # In order of seq
        self._buffered: dict[int, _Buffered] = {}
        self._buffered_bytes = 0

    @property
    def digest(self) -> str:
        """Digest of the whole state, 32 hexadecimal digits."""
        return self.sets.digest

    @property
    def table(self) -> RouteTable:
        """The table of the route set ``default``."""
        return self.sets.default

    def chain_at(self, seq: int) -> str | None:
        """Hash chain of this history at a place; None if it is not known any more, or not yet."""
        return self._chains.get(seq)

    @property
    def voters(self) -> tuple[str, ...]:
        return self.epochs[-1].opened.voters if self.epochs else ()

    @property
    def epoch_id(self) -> str:
        """Id of the ballot that opened the current epoch; empty before the first."""
        return self.epochs[-1].opened.epoch_id if self.epochs else ""

    @property
    def promised(self) -> Ballot:
        """The newest ballot that binds this replica."""
        # Joining an epoch binds as much as a promise: the replica takes part in no older one.
        if not self.epochs:
            return self._promised
        joined = self.epochs[-1]
        return max(Ballot(joined.epoch, joined.opened.epoch_id), self._promised, key=_epoch_of)

    @property
    def promised_epoch(self) -> int:
        """Epoch number of that ballot; logs of lower epochs are ignored."""
        return self.promised.epoch

    @promised_epoch.setter
    def promised_epoch(self, epoch: int) -> None:
        self._promised = Ballot(epoch)

    def require_seals(self, check_votes: VoteCheck | None = None) -> None:
        """Refuse what nobody may have written, from here on.

        Args:
            check_votes: Finds what the voters have not agreed to, from level 3 of the log on;
                entries that no member sealed are refused from level 2 on.
        """
        self.requires_seals, self.check_votes = True, check_votes

    def promise(self, ballot: Ballot) -> None:
        """Refuse entries of logs below a ballot from now on."""
        # The shell makes the promise durable before it calls this: a promise that a crash
        # forgets could be broken.  See recovery.may_promise for the rule of one per number.
        assert ballot.epoch > self._promised.epoch or ballot == self._promised, "a second promise"
        self._promised = ballot

    def move_to(self, state: State) -> None:
        """Enter a state that ``TRANSITIONS`` allows."""
        if state is self.state:
            return
        assert state in TRANSITIONS[self.state], f"{self.state} to {state}: this is a bug"
        self.state = state

    def receive(self, entry: Entry, source: Source = Source.LOG, log_epoch: int = 0) -> Step:
        """Receive one entry.

        Args:
            entry: The entry as sequenced, with its frame decoded.
            source: Whether it was read from the log or from the bus.
            log_epoch: Epoch of the log it was read from; 0 takes the entry's own.

        Returns:
            What to do.  An entry that fills a gap also applies the buffered ones after it.
        """
        log_epoch = log_epoch or entry.epoch
        if (refusal := self._refusal(log_epoch)) is not None:
            return Step(ignored=refusal)
        if entry.seq <= self.position.seq:
            return self._receive_old(entry, source, log_epoch)
        if entry.epoch < self.position.epoch:
            return Step(ignored=Ignored.OLD_EPOCH)
        if not is_chained(entry):
            return self._contradicted(source, f"entry {entry.seq} does not match its own chain")
        if entry.seq > self.position.seq + 1:
            return self._buffer(_Buffered(entry, log_epoch))
        return self._extend(entry, source, log_epoch)

    def append(self, frame: bytes, proposal: Proposal, time_us: int) -> Step:
        """Number a proposal and apply it: this replica is its own sequencer."""
        entry = make_entry(self.position, frame, proposal, time_us)
        if (refusal := self._refusal(entry.epoch)) is not None:
            return Step(ignored=refusal)
        # make_entry computed the place and the chain just now, so receive() has nothing to
        # check here that could fail.
        return self._extend(entry, Source.LOG, entry.epoch)

    def _refusal(self, log_epoch: int) -> Ignored | None:
        if self.state in (State.DIVERGED, State.HALTED, State.INSTALLING):
            return Ignored.NOT_FOLLOWING
        return Ignored.PROMISED if log_epoch < self._promised.epoch else None

    def _receive_old(self, entry: Entry, source: Source, log_epoch: int) -> Step:
        """Handle an entry at or before our position: a repetition, or another history."""
        known = self._chains.get(entry.seq)
        if known == entry.chain:
            return Step(ignored=Ignored.DUPLICATE)
        if log_epoch < self.position.epoch:
            return Step(ignored=Ignored.OLD_EPOCH)
        if known is None and entry.epoch <= self.position.epoch:
            return Step(ignored=Ignored.OLD)
        return self._contradicted(
            source, f"entry {entry.seq} differs from the one that was applied"
        )

    def _contradicted(self, source: Source, reason: str) -> Step:
        """Handle a contradiction: from the bus, ask the log; from the log, it is a fork."""
        if source is Source.BUS:
            return Step(fetch=Fetch(self.position.seq), ignored=Ignored.FORGED)
        self.move_to(State.DIVERGED)
        return Step(diverged=reason)

    def _buffer(self, early: _Buffered) -> Step:
        seq, size_bytes = early.entry.seq, len(early.entry.frame)
        # Only the places next to ours are kept: forged entries that claim to be far ahead
        # must not use up the room for the entries that are needed next.
        if (
            seq not in self._buffered
            and seq <= self.position.seq + REORDER_ENTRIES_MAX
            and self._buffered_bytes + size_bytes <= REORDER_BYTES_MAX
        ):
            self._buffered[seq] = early
            self._buffered_bytes += size_bytes
        return Step(fetch=Fetch(self.position.seq), ignored=Ignored.BUFFERED)

    def _pop_buffered(self, seq: int) -> _Buffered | None:
        early = self._buffered.pop(seq, None)
        if early is not None:
            self._buffered_bytes -= len(early.entry.frame)
        return early

    def _extend(self, entry: Entry, source: Source, log_epoch: int) -> Step:
        """Apply the next entry and the buffered ones after it; if that raises, none of them."""
        contradiction = self._contradiction(entry)
        if contradiction is not None:
            return self._contradicted(source, contradiction)
        # Only for an entry that continues this history: one of another history was sealed on
        # that, rightly.
        if (forged := self._forgery(entry)) is not None:
            if source is Source.BUS:
                return Step(fetch=Fetch(self.position.seq), ignored=Ignored.FORGED)
            return Step(forged=forged, ignored=Ignored.FORGED)
        if source is Source.BUS and entry.epoch != self.position.epoch:
            return Step(fetch=Fetch(self.position.seq), ignored=Ignored.UNCONFIRMED)
        if self._buffered:
            self._pop_buffered(entry.seq)
        epoch_min = max(log_epoch, self._promised.epoch)
        commits: list[Commit] = []
        is_behind = False
        try:
            commits.append(self._apply(entry))
            # A change of the encoder ends a step: the shell has to replace the tensor first.
            while self._buffered and commits[-1].change.encoder is None:
                following = self._pop_buffered(self.position.seq + 1)
                if following is None:
                    break
                is_behind = not self._can_follow(following, epoch_min)
                if is_behind:
                    break
                commits.append(self._apply(following.entry))
        except BaseException:
            self.revert(tuple(commits))
            raise
        fetch = Fetch(self.position.seq) if is_behind or self._buffered else None
        return Step(tuple(commits), fetch=fetch)

    def _can_follow(self, early: _Buffered, epoch_min: int) -> bool:
        # An older log may continue where the newer one took another way, and an epoch is
        # joined only if the log itself was read.
        return (
            early.log_epoch >= epoch_min
            and early.entry.epoch == self.position.epoch
            and self._contradiction(early.entry) is None
            and self._forgery(early.entry) is None
        )

    def _forgery(self, entry: Entry) -> str | None:
        """Why no member can have written an entry at its place; None if one can.

        The signature itself was verified where the entry came in.  Whether the author stood
        on this very history can be seen only here.
        """
        if not self.requires_seals or self.level < SEALED_LEVEL:
            return None
        stood = entry.stood
        if stood is None:
            return f"entry {entry.seq} has no seal"
        if not 0 < entry.seq - stood.seq <= SEAL_ENTRIES_MAX or stood.epoch > entry.epoch:
            return f"entry {entry.seq} was sealed at {stood.revision}, too far from its place"
        known = self._chains.get(stood.seq)
        if known is not None and known != stood.chain:
            return f"entry {entry.seq} was sealed on another history"
        if (first := self._seals.get(entry.seal)) is not None:
            return f"entry {entry.seq} has the seal of entry {first}"
        if self.check_votes is None or self.level < VOTES_LEVEL:
            return None
        is_voted = isinstance(entry.proposal.mutation, VoterAdd | VoterRemove)
        if entry.epoch == self.position.epoch and not is_voted:
            return None
        electors = Electors(self.position, self.voters, self.voter_keys, self._chains)
        return self.check_votes(entry, electors)

    def _contradiction(self, entry: Entry) -> str | None:
        if entry.prev_chain != self.position.chain:
            return f"entry {entry.seq} does not continue the history that was applied"
        if entry.epoch == self.position.epoch:
            return None
        opened = entry.proposal.mutation
        if not isinstance(opened, OpenEpoch) or opened.base_seq != self.position.seq:
            return f"entry {entry.seq} is of epoch {entry.epoch}, which no entry opened"
        return None

    def _apply(self, entry: Entry) -> Commit:
        proposal = entry.proposal
        opens = entry.epoch != self.position.epoch
        known = None if opens else self._recall(proposal.op_id, entry.seq)
        change = (
            self._change(entry, opens)
            if known is None
            else Change(known.outcome_for(proposal.request_hash, entry.position.revision))
        )
        count = len(self.epochs)
        record = self.epochs[-1] if count else None
        before = _Undo(
            self.position,
            count,
            record,
            self._remembered.get(proposal.op_id),
            self.level,
            self.voter_keys,
        )
        self._undo.append(before)
        decided = known
        if decided is None:
            decided = Remembered(proposal.op_id, entry.seq, proposal.request_hash, change.outcome)
            self._remembered[proposal.op_id] = decided
            self._in_order.append(decided)
        if change.epoch is not None:
            self.epochs.append(EpochRecord(entry.epoch, change.epoch))
        if change.voters is not None:
            opened = replace(self.epochs[-1].opened, voters=change.voters)
            self.epochs[-1] = EpochRecord(self.epochs[-1].epoch, opened)
        if change.finalized is not None:  # also by the entry that founds a log at its level
            self.level = change.finalized.level
            self.voter_keys = dict(change.finalized.voter_keys)
        self.position = entry.position
        self._chains[entry.seq] = entry.chain
        if entry.stood is not None:
            self._seals[entry.seal] = entry.seq
        is_duplicate = known is not None
        return Commit(entry, change, self.sets.digest, is_duplicate, decided)

    def _change(self, entry: Entry, opens: bool) -> Change:
        at = Revision(entry.epoch, entry.seq)
        mutation = entry.proposal.mutation
        if isinstance(mutation, OpenEpoch) and not opens:
            message = f"the epoch {entry.epoch} is open already"
            return Change(Outcome("rejected", at, code="invalid_request", message=message))
        wrong = self._check(mutation) if self._check and not opens else None
        if wrong is not None:
            return Change(Outcome("rejected", at, code="invalid_vector", message=wrong))
        if not may_hold(self.level, entry.proposal):
            return _refused(at, f"the log is at level {self.level}", "not_finalized")
        if isinstance(mutation, Finalize):
            checked = self.sets.apply(entry.proposal, at, self.level)
            return checked if checked.outcome.code else self._plan_finalize(mutation, at)
        if isinstance(mutation, VoterAdd | VoterRemove):
            # The table checks the mutation alone; the voters belong to the epochs kept here.
            checked = self.sets.apply(entry.proposal, at, self.level)
            if checked.outcome.code:
                return checked
            planned = plan_voters(self.voters, mutation, at)
            return self._with_keys(planned, entry.proposal.op_id, mutation)
        return self.sets.apply(entry.proposal, at, self.level)

    def _plan_finalize(self, mutation: Finalize, at: Revision) -> Change:
        if mutation.level <= self.level:
            return Change(Outcome("unchanged", at))
        # Whoever raises the level does not replace the keys that the log knows.
        keys = dict(mutation.voter_keys) | self.voter_keys
        raised = replace(mutation, voter_keys=tuple(sorted(keys.items())))
        return Change(Outcome("applied", at), finalized=raised)

    def _with_keys(self, change: Change, op_id: bytes, mutation: VoterAdd | VoterRemove) -> Change:
        """Keep the key of a new voter, forget that of a removed one, and link the change.

        A voter that was removed may come back with another key.
        """
        if change.voters is None:
            return change
        keys = {name: key for name, key in self.voter_keys.items() if name in change.voters}
        name, is_adding = mutation.node_id, False
        key = self.voter_keys.get(name, "")
        if isinstance(mutation, VoterAdd):
            is_adding, key = True, mutation.public_key
            if key:
                keys[name] = key
        if mutation.votes:
            link = {
                "op": op_id.hex(),
                "is_adding": is_adding,
                "key": key,
                "before": sorted(self.voter_keys.get(name, "") for name in self.voters),
                "votes": list(mutation.votes),
            }
            change = replace(change, voter_link=json.dumps(link, separators=(",", ":")))
        if keys == self.voter_keys:
            return change
        return replace(change, finalized=Finalize(self.level, tuple(sorted(keys.items()))))

    def _recall(self, op_id: bytes, seq: int) -> Remembered | None:
        """Find an outcome inside the idempotency window, counted from ``seq``."""
        known = self._remembered.get(op_id)
        if known is None or seq - known.seq > IDEMPOTENCY_WINDOW_ENTRIES:
            return None
        return known

    def outcome_of(self, op_id: bytes) -> Remembered | None:
        return self._recall(op_id, self.position.seq)

    def advance(self) -> None:
        """Confirm that everything up to the position is durable; forget what is too old."""
        self._undo.clear()
        self.sets.advance()
        floor = self.position.seq - IDEMPOTENCY_WINDOW_ENTRIES
        while self._in_order and self._in_order[0].seq < floor:
            oldest = self._in_order.popleft()
            if self._remembered[oldest.op_id] is oldest:
                del self._remembered[oldest.op_id]
        while len(self._seals) > CHAINS_KEPT:
            del self._seals[next(iter(self._seals))]
        while len(self._chains) > CHAINS_KEPT:
            del self._chains[self.position.seq - len(self._chains) + 1]

    def revert(self, commits: tuple[Commit, ...]) -> None:
        """Undo commits since ``advance``, oldest first: they did not become durable."""
        for commit in reversed(commits):
            assert commit.entry.position == self.position, "revert in order: this is a bug"
            assert self._undo, "what is durable cannot be reverted: this is a bug"
            before = self._undo.pop()
            self.sets.revert(commit.change)
            del self.epochs[before.epoch_count :]
            if before.epoch_record is not None:
                self.epochs[-1] = before.epoch_record
            if not commit.is_duplicate:
                self._forget(self._in_order.pop(), before.remembered)
            del self._chains[commit.entry.seq]
            if commit.entry.stood is not None:
                self._seals.pop(commit.entry.seal, None)
            self.position = before.position
            self.level, self.voter_keys = before.level, before.voter_keys

    def _forget(self, newest: Remembered, before: Remembered | None) -> None:
        if before is None:
            del self._remembered[newest.op_id]
        else:
            self._remembered[newest.op_id] = before

    def snapshot(self) -> Snapshot:
        """Return the whole state, frozen, without the vectors."""
        table = self.table
        floor = self.position.seq - IDEMPOTENCY_WINDOW_ENTRIES
        return Snapshot(
            position=self.position,
            settings=table.settings,
            routes=tuple(route for _, route in sorted(table.routes.items())),
            row_hashes=dict(table.row_hashes),
            remembered=tuple(each for each in self._in_order if each.seq >= floor),
            imports=tuple(staged for _, staged in sorted(table.imports.items())),
            decision=table.decision,
            epochs=tuple(self.epochs),
            feedback=tuple(item for _, item in sorted(table.feedback.items())),
            level=self.level,
            voter_keys=tuple(sorted(self.voter_keys.items())),
            record=self.sets.records.get(0),
            tests=tuple(test for _, test in sorted(table.tests.items())),
            sets=self.sets.states(),
            aliases=tuple(alias for _, alias in sorted(self.sets.aliases.items())),
        )


def _epoch_of(ballot: Ballot) -> int:
    return ballot.epoch


def make_entry(position: Position, frame: bytes, proposal: Proposal, time_us: int) -> Entry:
    """Make the entry after ``position``, as a sequencer does."""
    seq = position.seq + 1
    opens = isinstance(proposal.mutation, OpenEpoch)
    epoch = position.epoch + 1 if opens else position.epoch
    chain = next_chain(position.chain, epoch, seq, digest_of(frame))
    return Entry(epoch, seq, position.chain, chain, time_us, frame, proposal)


def plan_voters(voters: tuple[str, ...], mutation: VoterAdd | VoterRemove, at: Revision) -> Change:
    """Plan a change of the voters by one node."""
    # One node at a time: then any majority before the change meets any majority after it.
    # That a majority holds the last change before the next is appended is up to the
    # sequencer (voters.lua).  Source: D. Ongaro, "bug in single-server membership changes",
    # raft-dev, 2015.
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


def voters_after(voters: tuple[str, ...], mutation: Mutation) -> tuple[str, ...]:
    """Return the voters after an entry that may change them."""
    if isinstance(mutation, OpenEpoch):
        return mutation.voters
    if isinstance(mutation, VoterAdd | VoterRemove):
        return plan_voters(voters, mutation, Revision(0, 0)).voters or voters
    return voters


def level_after(level: int, mutation: Mutation) -> int:
    """Return the level of the log after an entry that may raise it."""
    return max(level, mutation.level) if isinstance(mutation, Finalize | OpenEpoch) else level


def _refused(at: Revision, message: str, code: str = "invalid_request") -> Change:
    return Change(Outcome("rejected", at, code=code, message=message))
