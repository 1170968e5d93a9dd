"""Goal: whatever the bus does, a replica is at a prefix of a history that a log had.

Method: a log that grows, forks and opens epochs; one follower that hears it through
a bus that loses, repeats, reorders and forges, reads it at times, fails to commit,
restarts and promises; one reference that replays every history in order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from replicas import fresh, full_state, log_of, op_id_of, opening, table_state
from strategies import ROUTE_MUTATIONS, proposals
from synaptoroute.core import replica as replica_module
from synaptoroute.core.codec import digest_of, encode_proposal
from synaptoroute.core.digest import next_chain
from synaptoroute.core.mutation import DeleteRoute, Entry, Proposal
from synaptoroute.core.replica import Ignored, Replica, Source, State, Step

pytestmark = pytest.mark.property

PLACES = st.integers(0, 1_000)
FORGERIES = st.sampled_from(["chain", "prev_chain", "rechained", "seq", "epoch", "far", "frame"])


def rechained(entry: Entry, **fields: Any) -> Entry:
    """Make a forged entry whose chain matches its fields."""
    forged = replace(entry, **fields)
    digest = digest_of(forged.frame)
    return replace(forged, chain=next_chain(forged.prev_chain, forged.epoch, forged.seq, digest))


class Following(RuleBasedStateMachine):
    """A follower, its log, and every earlier history of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(replica_module, "IDEMPOTENCY_WINDOW_ENTRIES", 6)
        self.patch.setattr(replica_module, "REORDER_ENTRIES_MAX", 5)
        self.log: list[Entry] = []
        self.heard: list[Entry] = []
        self.states: dict[str, tuple[dict[str, Any], Any]] = {}
        self.follower = fresh()
        self.op_count = 0

    @initialize()
    def found(self) -> None:
        """Open the first epoch."""
        self.reference = fresh()
        self.note()
        self.extend(log_of([])[0])

    def note(self) -> None:
        """Store the expected state of a replica at this place of this history."""
        self.states[self.reference.position.chain] = (
            table_state(self.reference.table),
            self.reference.snapshot(),
        )

    def extend(self, entry: Entry) -> None:
        """Append an entry to the log."""
        assert len(self.reference.receive(entry).commits) == 1
        self.reference.advance()
        self.log.append(entry)
        self.heard.append(entry)
        self.note()

    @property
    def log_epoch(self) -> int:
        """Current epoch of the log."""
        return self.reference.position.epoch

    def is_prefix(self) -> bool:
        """Whether the follower holds a prefix of the current log."""
        chain = self.follower.position.chain
        return self.follower.position.seq == 0 or any(chain == each.chain for each in self.log)

    # --- what the world does -----------------------------------------------------

    @rule(proposal=proposals(ROUTE_MUTATIONS))
    def write(self, proposal: Proposal) -> None:
        """Append a client's write."""
        self.extend(log_of([proposal], after=self.reference.position)[0])

    @rule()
    def open_epoch(self) -> None:
        """Open a new epoch without losses."""
        head = self.reference.position
        self.extend(log_of([opening(head.seq)], after=head)[0])

    @rule(lost=st.integers(1, 4))
    def fork(self, lost: int) -> None:
        """The log lost its tail; the next epoch starts before it."""
        base = max(1, len(self.log) - lost)
        epoch = self.log_epoch
        kept, self.log = self.log[:base], []
        self.reference = fresh()
        for entry in kept:
            self.extend(entry)
        position = replace(self.reference.position, epoch=epoch)
        self.extend(log_of([opening(base)], after=position)[0])

    # --- what the follower meets ---------------------------------------------------

    @rule(place=PLACES)
    def bus_delivers(self, place: int) -> None:
        """Deliver any entry of any history: late, early, repeated, out of order."""
        self.take(self.heard[-1 - place % len(self.heard)], Source.BUS)

    @rule(place=PLACES, how=FORGERIES)
    def bus_forges(self, place: int, how: str) -> None:
        """Deliver a forged entry: it changes nothing, and the follower does not diverge."""
        entry = self.heard[place % len(self.heard)]
        other = Proposal(op_id_of(place), DeleteRoute("billing"))
        forged = {
            "chain": replace(entry, chain="f" * 40),
            "prev_chain": replace(entry, prev_chain="e" * 40),
            "rechained": rechained(entry, prev_chain="d" * 40),
            "seq": rechained(entry, seq=entry.seq + 1),
            "epoch": rechained(entry, epoch=entry.epoch + 1),
            "far": rechained(entry, seq=entry.seq + 10**9),
            "frame": replace(entry, frame=encode_proposal(other), proposal=other),
        }[how]
        before = full_state(self.follower)
        step = self.take(forged, Source.BUS)
        assert step.commits == ()
        assert before == full_state(self.follower)

    @rule(count=st.integers(1, 6), back=st.integers(0, 3))
    def log_is_read(self, count: int, back: int) -> None:
        """Read the log from the follower's position, or a little before it."""
        after = max(0, self.follower.position.seq - back)
        for entry in self.log[after : after + count]:
            self.take(entry, Source.LOG)

    @rule(place=PLACES)
    @precondition(lambda self: self.follower.state is not State.DIVERGED)
    def commit_fails(self, place: int) -> None:
        """Fail a commit: the step is reverted completely."""
        before = full_state(self.follower)
        step = self.follower.receive(self.heard[place % len(self.heard)], Source.BUS)
        self.follower.revert(step.commits)
        assert before == full_state(self.follower)

    @rule()
    @precondition(lambda self: self.follower.state is not State.DIVERGED)
    def restart(self) -> None:
        """Restart the follower from its durable state."""
        promised = self.follower.promised_epoch
        self.follower = Replica(self.follower.snapshot(), dim=2)
        self.follower.promised_epoch = promised

    @rule()
    def promise(self) -> None:
        """Promise not to follow logs older than the newest."""
        self.follower.promised_epoch = self.log_epoch

    @rule()
    @precondition(lambda self: self.follower.state is State.DIVERGED)
    def install(self) -> None:
        """Install a snapshot of the log's history on a diverged follower."""
        self.follower.move_to(State.INSTALLING)
        assert self.follower.receive(self.log[0]).ignored is Ignored.NOT_FOLLOWING
        promised = self.follower.promised_epoch
        self.follower = Replica(self.reference.snapshot(), dim=2)
        self.follower.promised_epoch = promised

    def take(self, entry: Entry, source: Source) -> Step:
        """Execute one step as the shell does."""
        was_prefix = self.is_prefix()
        log_epoch = self.log_epoch if source is Source.LOG else 0
        step = self.follower.receive(entry, source, log_epoch)
        if step.diverged is not None:
            assert source is Source.LOG
            assert self.follower.state is State.DIVERGED
            assert not was_prefix
        if step.commits and self.follower.promised_epoch == self.log_epoch and was_prefix:
            assert self.is_prefix()
        self.follower.advance()
        return step

    # --- what always holds -----------------------------------------------------------

    @invariant()
    def follower_is_at_a_prefix(self) -> None:
        """Its state is the one that belongs to its chain."""
        if not self.states:
            return
        table, snapshot = self.states[self.follower.position.chain]
        assert table == table_state(self.follower.table)
        assert snapshot == self.follower.snapshot()
        assert len(self.follower._buffered) <= 5
        waiting = (len(each.entry.frame) for each in self.follower._buffered.values())
        assert sum(waiting) == self.follower._buffered_bytes

    def teardown(self) -> None:
        """After the faults, reading the log brings the follower to its head or makes it diverge."""
        try:
            if self.states and self.follower.state is not State.DIVERGED:
                self.heal()
        finally:
            self.patch.undo()

    def heal(self) -> None:
        """Read the whole log."""
        was_prefix = self.is_prefix()
        for entry in self.log:
            self.take(entry, Source.LOG)
        if was_prefix:
            assert self.reference.position == self.follower.position
            assert self.reference.snapshot() == self.follower.snapshot()
        else:
            assert self.follower.state is State.DIVERGED


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
