"""One node of the simulated cluster: a real replica, real rules, a model disk.

``life`` is the follower as a generator: each ``yield`` is one call to the server, and
anything may happen before the next turn.  What the real shell does in several tasks is
one here; what the scheduler does between two turns is what other tasks would have done.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from sim.model_disk import Disk, DiskFull
from sim.model_server import ModelServer
from synaptoroute.core.levels import VOTES_LEVEL, may_hold
from synaptoroute.core.mutation import Ballot, Entry, Position, Proposal, VoterAdd, VoterRemove
from synaptoroute.core.recovery import (
    Action,
    Assessment,
    Cause,
    Common,
    Decision,
    MissingReports,
    Mode,
    Report,
    ServerHistory,
    assess_log,
    common_seq,
    decide,
    is_majority,
    may_promise,
)
from synaptoroute.core.replica import (
    SEALED_LEVEL,
    TRANSITIONS,
    Electors,
    Replica,
    Source,
    State,
    voters_after,
)
from synaptoroute.replication.forks import Compared, fork_points, newest_of
from synaptoroute.replication.head_reads import confirms
from synaptoroute.sequencer.epochs import LogCheck, RecoveryOutcome, RecoveryResult
from synaptoroute.sequencer.log_reads import Coverage, ReadResult
from synaptoroute.sequencer.peers import PeerHead
from synaptoroute.sequencer.replica_reads import is_consecutive, with_head
from synaptoroute.sequencer.scripts import Head, NoLog
from synaptoroute.sequencer.votes import VoteCheck, choose_votes

if TYPE_CHECKING:
    from sim.world import World

Call = Callable[[ModelServer], Any]
Life = Generator[Call, Any, None]
Read = Generator[Call, Any, ReadResult | None]
REFILL_AT_ONCE = 16
STUCK_MS = 5_000
ASK_AFTER_MS = 2_500
PATIENCE_MS = 1_000


class Unreachable(Exception):
    """No answer; whether the call happened is unknown."""


class Node:
    """A node that may crash, be cut off, and come back with what its disk holds."""

    replica_type: type[Replica] = Replica

    def __init__(self, world: World, name: str, disk: Disk) -> None:
        self.world, self.name, self.disk = world, name, disk
        self.is_up, self.is_cut = True, False
        self.server: ModelServer = world.server
        self.inbox: list[Entry] = []
        self.start()

    def start(self) -> None:
        """Begin with what the disk holds."""
        self.is_up = True
        self.replica = self.disk.boot(self.replica_type)
        self.replica.require_seals(self.check_votes)
        self.inbox = []
        self.imports_seen: dict[str, int] = {}
        self.diverged = False
        self.forged_after: Position | None = None
        self.is_missing = False
        self.is_open = False
        self.answered: Ballot | None = None
        self.ballot_since: tuple[Ballot, int] | None = None
        self.ballots_seen = 0
        self._life: Life = self.life()
        self._call: Call = next(self._life)

    def crash(self) -> None:
        """Lose everything but the disk."""
        self.is_up = False
        self.inbox = []

    @property
    def node_id(self) -> str:
        """Identity, kept on the disk."""
        return self.disk.node_id

    def epoch_id(self) -> str:
        """Ballot that opened this node's epoch."""
        return self.replica.epoch_id

    def may_write(self, proposal: Proposal) -> bool:
        """Whether it accepts a write at the level of its log; ablations accept all."""
        return may_hold(self.replica.level, proposal)

    # --- turns -----------------------------------------------------------------------------

    def turn(self, *, is_lost: bool = False, is_cut: bool = False) -> None:
        """Make the call that is due and go on to the next one.

        Args:
            is_lost: The answer does not come back.
            is_cut: The call does not even arrive.
        """
        if is_cut or self.is_cut or not self.server.is_alive:
            self._call = self._life.throw(Unreachable())
            return
        answer = self._call(self.server)
        self.world.carry(self.server)
        if is_lost:
            self._call = self._life.throw(Unreachable())
        else:
            self._call = self._life.send(answer)

    def life(self) -> Life:
        """Send heartbeats, judge their answers, and do what follows, forever."""
        while True:
            try:
                position = self.replica.position
                head = yield lambda s, p=position: s.heartbeat(self.node_id, p)
                yield from self._judged(head, position)
            except (Unreachable, DiskFull):
                self.is_open = False

    def _judged(self, head: Head | NoLog, position: Position) -> Life:
        view = None if isinstance(head, NoLog) else head.view
        assessment = self.judge(view, position)
        self.is_open = assessment.action is Action.FOLLOW
        if self.is_open:
            self.ballots_seen = 0
        if isinstance(head, NoLog) or assessment.action is Action.START_BALLOT:
            if assessment.action is Action.START_BALLOT:
                yield from self._begin(assessment, head)
        elif assessment.action is Action.JOIN_BALLOT:
            yield from self._take_part(head)
        elif assessment.action is Action.LEAVE_EPOCH:
            self.diverged = True
            yield from self._resync()
        elif assessment.action is Action.FOLLOW and self.is_behind(head):
            yield from self._catch_up()

    def judge(self, view: Any, position: Position) -> Assessment:
        """The real rule; ablations replace it."""
        return assess_log(view, position, self.replica.promised, self.epoch_id())

    def is_behind(self, head: Head) -> bool:
        """Whether the head shows something to fetch."""
        here = self.replica.position
        return self.diverged or (here.epoch, here.seq) < (head.epoch, head.seq)

    # --- room in the log -------------------------------------------------------------------

    def droppable_floor(self) -> int:
        """The place before which everything may be dropped; 0 if nothing may be."""
        meta, own = self.server.store.meta, self.replica.position
        if meta is None or meta["state"] != "open" or own.epoch != meta["epoch"]:
            return 0
        floor = min(self.server.quorum_seq() + 1, own.seq + 1, meta["seq"])
        return int(floor) if floor > meta["floor"] else 0

    def make_room(self) -> bool:
        """Drop what a majority and this node hold; ablations leave it to a coordinator."""
        floor = self.droppable_floor()
        return bool(floor and self.server.trim(floor))

    # --- recovery --------------------------------------------------------------------------

    def _begin(self, assessment: Assessment, head: Head | NoLog) -> Life:
        assert assessment.cause is not None
        seen = "" if isinstance(head, NoLog) else str(head.ballot or head.epoch_id)
        yield from self._ballot(assessment.cause, seen)

    def _ballot(self, cause: Cause, seen: str) -> Life:
        above = max(self.replica.position.epoch, self.replica.promised_epoch)
        name, voters = self.world.ballot_name(), self.replica.voters
        encoder, level = self.disk.encoder, self.replica.level
        yield lambda s: s.begin(cause, above, seen, name, voters, encoder, level)

    def promise(self, ballot: Ballot) -> bool:
        """Promise durably; ablations do not."""
        if not may_promise(self.replica.promised, ballot):
            return False
        if self.replica.promised != ballot:
            self.disk.keep_promise(ballot)
            self.replica.promise(ballot)
        return True

    def _take_part(self, head: Head) -> Life:
        ballot = head.ballot
        assert ballot is not None
        now_ms = self.world.now_ms
        if self.ballot_since is None or self.ballot_since[0] != ballot:
            self.ballot_since = (ballot, now_ms)
            self.ballots_seen += 1
        if self.answered != ballot:
            if not self.promise(ballot):
                return
            position, voters = self.replica.position, self.replica.voters
            self.world.vote(Report(self.node_id, ballot, position, voters))
            yield lambda s: s.heartbeat(self.node_id, position, ballot, voters)
            self.answered = ballot
        log_check = yield lambda s: s.check_log(head.epoch, ballot)
        if isinstance(log_check, RecoveryResult):
            return
        if all(report.node_id != self.node_id for report in log_check.reports):
            self.answered = None
            return
        yield from self._conclude(head, ballot, log_check)

    def decide(
        self, ballot: Ballot, reports: tuple[Report, ...], log_check: LogCheck, head: Head
    ) -> Decision | MissingReports:
        """The real rule; ablations replace it."""
        kept = None if head.cause == Cause.DAMAGED.value else log_check.kept
        mode = Mode.FORCED if head.cause == Cause.FORCED.value else Mode.SAFE
        kept = kept and self.verified(kept, reports)
        return decide(ballot, reports, kept, mode, self.forks(reports))

    def verified(self, kept: ServerHistory, reports: tuple[Report, ...]) -> ServerHistory | None:
        """Read the server's history whole, as the shell does; ablations believe its ends."""
        named = {voter for report in reports for voter in report.voters}
        held = [r for r in reports if r.position.epoch and r.node_id in named]
        if not held or self.replica.level < SEALED_LEVEL:
            return kept
        for at in sorted({r.position for r in held}, key=lambda p: p.revision, reverse=True):
            voters = next(r.voters for r in held if r.position == at)
            after: Position | None = at
            while after is not None and after.seq < kept.position.seq:
                after, voters = self._next(after, voters)
            if after == kept.position:
                followers = frozenset(r.node_id for r in held if r.position == at)
                return ServerHistory(kept.position, voters, followers)
        return None

    def _next(
        self, after: Position, voters: tuple[str, ...]
    ) -> tuple[Position | None, tuple[str, ...]]:
        found = self.server.read(after)
        is_whole = found is not None and found.coverage is Coverage.WHOLE
        if found is None or not is_whole or not found.entries:
            return None, voters
        for entry in found.entries:
            if entry.prev_chain != after.chain or entry.stood is None:
                return None, voters
            if self.refuses(entry, after, voters):
                return None, voters
            after, voters = entry.position, voters_after(voters, entry.proposal.mutation)
        return after, voters

    def refuses(self, entry: Entry, base: Position, voters: tuple[str, ...]) -> bool:
        """Whether the voters have not agreed to an entry of the server's history."""
        is_voted = isinstance(entry.proposal.mutation, VoterAdd | VoterRemove)
        check = self.check_votes
        if check is None or not (is_voted or entry.epoch != base.epoch):
            return False
        is_checked = self.replica.level >= VOTES_LEVEL
        return is_checked and check(entry, Electors(base, voters, {})) is not None

    def forks(self, reports: tuple[Report, ...]) -> Common | None:
        """Find where histories part, as the shell does; ablations do not ask."""
        if self.replica.position.epoch == 0 and any(each.position.epoch for each in reports):
            return None  # it does not know the level of the log
        if self.replica.level < SEALED_LEVEL:
            return {}
        newest = newest_of(reports)
        own = next((each for each in newest if each.node_id == self.node_id), None)
        if not newest or own is None:
            return None if newest else {}
        if own.position.seq < newest[0].position.seq and not self.is_patient(ASK_AFTER_MS):
            return None
        peers = {node.node_id: node for node in self.world.peers_of(self)}
        chains = self.disk.chains
        compared = {}
        for each in newest:
            there = each.position
            if chains.get(there.seq, there.chain) == there.chain and there.seq <= own.position.seq:
                compared[each.node_id] = Compared(there.seq)
            elif (peer := peers.get(each.node_id)) is not None:
                theirs = peer.disk.chains
                agreed = common_seq(0, chains, sorted(theirs.items()))
                tail = {seq: chain for seq, chain in theirs.items() if seq > agreed}
                compared[each.node_id] = Compared(agreed, tail)
            elif there.seq > own.position.seq:
                compared[each.node_id] = Compared(own.position.seq)
            else:
                return None
        return fork_points(own, compared, newest)

    def is_patient(self, ms: int) -> bool:
        """Whether the ballot has waited so long."""
        return self.ballot_since is not None and self.world.now_ms - self.ballot_since[1] > ms

    def proved(self, reports: tuple[Report, ...]) -> tuple[Report, ...]:
        """The reports that their nodes signed; ablations count all."""
        votes = self.server.store.votes
        return tuple(report for report in reports if votes.get(report.node_id) == report)

    def votes(self, ballot: Ballot) -> dict[str, str]:
        """The votes for a ballot, by node; below their level there are none."""
        if self.replica.level < VOTES_LEVEL:
            return {}
        found = self.world.votes.items()
        return {vote.node_id: text for text, vote in found if vote.ballot == ballot}

    @property
    def check_votes(self) -> Callable[[Entry, Electors], str | None] | None:
        """What finds openings without a majority; ablations have none."""
        return VoteCheck(
            self.world.read_vote, self.world.read_change, lambda: True, lambda *_: None
        )

    def _conclude(self, head: Head, ballot: Ballot, log_check: LogCheck) -> Life:
        reports = self.proved(log_check.reports)
        found = self.decide(ballot, reports, log_check, head)
        assert self.ballot_since is not None
        waited_ms = self.world.now_ms - self.ballot_since[1]
        if isinstance(found, MissingReports):
            return
        if waited_ms < PATIENCE_MS and (log_check.silent or found.absent):
            return
        may_act = self.forks(reports) is not None or head.cause == Cause.FORCED.value
        if may_act and (found.is_kept or self.node_id in found.holders):
            yield from self._act(head, ballot, found)
        elif waited_ms > STUCK_MS * 2 ** min(self.ballots_seen, 4):
            # Whoever holds the lease is at work.
            proof = yield lambda s: s.acquire(self.node_id)
            if proof is not None:
                yield from self._ballot(Cause.OUTBID, str(ballot))
                yield lambda s: s.release(proof)

    def encoder_at(self, head: Head, decision: Decision) -> tuple[str, int]:
        """The encoder of the history that was chosen; ablations believe the header."""
        return (head.fingerprint, head.dim) if decision.is_kept else self.disk.encoder

    def _act(self, head: Head, ballot: Ballot, decision: Decision) -> Life:
        proof = yield lambda s: s.acquire(self.node_id)
        if proof is None:
            return
        base = decision.base
        floor, floor_chain = base.seq + 1, base.chain
        if not decision.is_kept:
            after = max(decision.refill_after_seq, self.world.refill_floor(base))
            entries = [e for e in self.disk.oplog if after < e.seq <= base.seq]
            if entries and entries[-1].chain == base.chain:
                floor, floor_chain = entries[0].seq, entries[0].prev_chain
            else:
                entries = []
            is_first = True
            while is_first or entries:
                part, entries = entries[:REFILL_AT_ONCE], entries[REFILL_AT_ONCE:]
                if not is_first and not (yield lambda s: s.renew(proof)):
                    return
                acted = yield lambda s, p=part, f=is_first: s.refill_with(proof, ballot, p, f)
                is_first = False
                if acted.outcome is not RecoveryOutcome.OK:
                    return
        encoder = self.encoder_at(head, decision)
        level = head.level if decision.is_kept else self.replica.level
        votes = choose_votes(self.votes(ballot), decision.voters)
        acted = yield lambda s: s.reopen(
            proof, ballot, decision, encoder, floor, floor_chain, votes, level
        )
        if acted.outcome is RecoveryOutcome.OK:
            self.world.note_opened(ballot, decision)
        yield lambda s: s.release(proof)

    # --- reads of the newest state ---------------------------------------------------------

    def peer_head(self) -> PeerHead:
        """What it answers to its peers."""
        replica = self.replica
        at, promised = self.disk.position, replica.promised
        return PeerHead(self.node_id, "", at, promised, replica.epoch_id)

    def is_confirmation(self, answer: PeerHead, head: Head) -> bool:
        """The real rule; ablations replace it."""
        return confirms(answer, head)

    def holds_head(self, answer: PeerHead, head: Head) -> bool:
        """Whether a head is in the history of a voter; ablations compare numbers."""
        return self.server.is_held(head.position, answer.position)

    def has_reached(self, answer: PeerHead) -> bool:
        """Whether this node holds what a voter holds; ablations are content with the head."""
        return answer.position.revision <= self.disk.position.revision

    def confirm(self, head: Head) -> bool:
        """Ask the voters whether a head is the newest; ablations do not."""
        answers = [node.peer_head() for node in (self, *self.world.peers_of(self))]
        sound = [
            each
            for each in answers
            if self.is_confirmation(each, head) and self.holds_head(each, head)
        ]
        if any(not self.has_reached(each) for each in sound):
            return False
        confirmed = {each.node_id for each in sound}
        electorates = (self.replica.voters, head.voters)
        return all(is_majority(confirmed, voters) for voters in electorates)

    def confirm_answer(self, head: Head) -> bool:
        """Have an answer confirmed that is newer than the head; ablations do not."""
        if self.disk.position.revision == head.position.revision:
            return True
        newer = self.server.head() if self.server.is_alive and not self.is_cut else None
        return (
            isinstance(newer, Head)
            and newer.is_open
            and newer.position.revision >= self.disk.position.revision
            and self.confirm(newer)
        )

    # --- following ---------------------------------------------------------------------------

    def hear(self, entry: Entry) -> None:
        """Take one message of the bus."""
        self.apply(entry, Source.BUS, 0)

    def apply(self, entry: Entry, source: Source, log_epoch: int) -> bool:
        """Receive, commit, advance, as the applier does; whether anything was applied."""
        step = self.replica.receive(entry, source, log_epoch)
        if step.diverged is not None:
            self.diverged = True
        if step.forged is not None:
            self.forged_after, self.is_missing = self.replica.position, False
        if not step.commits:
            return False
        try:
            self.disk.commit(step.commits)
        except DiskFull:
            self.replica.revert(step.commits)
            return False
        self.replica.advance()
        self.world.note_commits(self, step.commits)
        return True

    def _move_to(self, state: State) -> None:
        if state in TRANSITIONS[self.replica.state]:
            self.replica.move_to(state)

    def _catch_up(self) -> Life:
        while True:
            position = self.replica.position
            if self.diverged:
                yield from self._resync()
                return
            result = yield from self._read(position)
            if result is None:
                return
            if not self._take(position, result):
                yield from self._drop_forged()
                return

    def _read(self, position: Position) -> Read:
        """Read at the replica what the primary confirms, else at the primary, as the shell does."""
        replica = None if self.is_cut else self.world.replica
        found = replica.read(position) if replica is not None else None
        if found is not None and found.entries:
            confirmed = yield from self.confirmed(position, found)
            self.world.counts["replica_reads" if confirmed else "replica_refused"] += 1
            if confirmed is not None:
                return confirmed
        result: ReadResult | None = yield lambda s: s.read(position)
        return result

    def confirmed(self, position: Position, found: ReadResult) -> Read:
        """Have the primary confirm a replica's entries; ablations believe the replica."""
        head = yield lambda s: s.head()
        last = found.entries[-1].position
        if not is_consecutive(position, found) or isinstance(head, NoLog):
            return None
        if last.seq == head.seq:
            chain = head.chain
        else:
            there = yield lambda s: s.read(Position(last.epoch, last.seq - 1), 1)
            chain = there.entries[0].chain if there is not None and there.entries else ""
        is_known = last.revision <= head.position.revision and chain == last.chain
        return with_head(found, head) if is_known else None

    def _drop_forged(self) -> Life:
        """Have the voters drop what no member wrote, as the shell does."""
        position, self.forged_after = self.forged_after, None
        is_sealed = self.replica.level >= SEALED_LEVEL
        if position is None or not is_sealed or self.node_id not in self.replica.voters:
            return
        head = yield lambda s: s.head()
        at = position.revision
        seen = {node.node_id: node for node in (self, *self.world.peers_of(self))}
        agreeing = {name for name, each in seen.items() if each.replica.position.revision <= at}
        if not isinstance(head, Head):
            return
        # What is merely missing may still come from the one node that has it.
        beyond = {
            name
            for name, each in seen.items()
            if name not in agreeing and self.may_hold_more(each.replica.position, head)
        }
        if self.is_missing and beyond.intersection(self.replica.voters):
            return
        if (
            head.is_open
            and head.seq > position.seq
            and self.replica.position == position
            and is_majority(agreeing, self.replica.voters)
        ):
            yield from self._ballot(Cause.DAMAGED, head.epoch_id)

    def may_hold_more(self, position: Position, head: Head) -> bool:
        """Whether a node beyond this one may hold what the log lacks: not in an earlier epoch."""
        return position.epoch >= head.epoch

    def _take(self, position: Position, result: ReadResult) -> bool:
        """Apply what the log gave; whether there may be more."""
        if result.coverage is Coverage.WHOLE:
            moved = False
            for entry in result.entries:
                moved |= self.apply(entry, Source.LOG, result.epoch)
            return moved
        if result.coverage is Coverage.BEYOND:
            self.diverged = result.epoch > position.epoch
            return self.diverged
        if result.coverage is Coverage.HOLE and result.epoch > position.epoch:
            self.diverged = not self._confirms(position)
            if self.diverged:
                return True
        is_found = self._from_peers(position)
        if not is_found:
            self.forged_after, self.is_missing = self.replica.position, True
        return is_found

    def _from_peers(self, position: Position) -> bool:
        """Bridge a hole by a peer's op log, else leave it to a snapshot."""
        for peer in self.world.peers_of(self):
            entries = peer.disk.read_log(position.seq)
            if entries and entries[0].prev_chain == position.chain:
                for entry in entries:
                    self.apply(entry, Source.BUS, 0)
            if self.replica.position != position:
                return True
        return self._install_any(position, orphans_after_seq=None)

    def _resync(self) -> Life:
        """Leave a history that the log contradicts; keep what goes beyond it."""
        if self.is_taken_back():
            self.diverged = False
            self._move_to(State.SYNCING)
            return
        head = yield lambda s: s.head()
        if self.stays(head):
            if head.is_open:
                yield from self._ballot(Cause.DAMAGED, head.epoch_id)
            return
        own = {entry.seq: entry.chain for entry in self.disk.oplog}
        start = self.disk.oplog[0].seq - 1 if self.disk.oplog else self.replica.position.seq
        epoch = self.disk.oplog[0].epoch if self.disk.oplog else 0
        result = yield lambda s: s.read(Position(epoch, start), 10_000)
        if result is None or result.state != "open":
            return
        theirs = [(entry.seq, entry.chain) for entry in result.entries]
        shared = common_seq(start, own, theirs)
        if self._install_any(self.replica.position, orphans_after_seq=shared):
            self.diverged = False

    def stays(self, head: Head | NoLog) -> bool:
        """Whether it keeps its history, and has the voters decide; ablations leave it.

        An epoch has one order of entries, so a log of the same epoch with another one lies.
        """
        is_voter = self.node_id in self.replica.voters and self.replica.level >= SEALED_LEVEL
        return isinstance(head, Head) and is_voter and head.epoch_id == self.epoch_id()

    def is_taken_back(self) -> bool:
        """Whether a later epoch has taken this node's side; ablations never look again."""
        return self._confirms(self.replica.position)

    def _install_any(self, position: Position, orphans_after_seq: int | None) -> bool:
        """Install the first peer's snapshot that the log confirms."""
        for peer in self.world.peers_of(self):
            there = peer.replica.position
            is_ahead = there.revision > position.revision
            if (orphans_after_seq is None and not is_ahead) or peer.diverged:
                continue
            if there.epoch < self.replica.promised_epoch or not self._confirms(there):
                continue
            image = peer.disk.image(peer.replica)
            try:
                self.disk.install(image, orphans_after_seq)
            except DiskFull:
                return False
            promised = self.replica.promised
            self.replica = self.replica_type(image.snapshot, dim=1, requires_seals=True)
            self.replica.require_seals(self.check_votes)
            self.replica.promise(max(promised, self.disk.promise))
            self._move_to(State.LIVE)
            self.world.note_installed(self)
            return True
        return False

    def _confirms(self, position: Position) -> bool:
        """Whether the log has a position in its history."""
        head = self.server.head()
        if isinstance(head, NoLog) or self.is_cut or not self.server.is_alive:
            return False
        if position.seq == head.seq:
            return position.chain == head.chain
        if position.seq == head.floor - 1:
            return position.chain == head.floor_chain
        log = self.server.store.logs.get(head.epoch, [])
        return any(e.chain == position.chain and e.seq == position.seq for e in log)
