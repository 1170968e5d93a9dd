"""Negative controls: one mechanism switched off at a time.

The switches exist here alone, as subclasses; the product has none.  A mechanism whose
absence breaks nothing is either not needed or not tested, so the run fails then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sim.model_server import ModelServer
from sim.node import Life, Node, Read
from sim.world import Kinds
from synaptoroute.core.change import Change, Commit, Remembered
from synaptoroute.core.codec import LEVEL
from synaptoroute.core.feedback import ITEMS_MAX as FEEDBACK_ITEMS_MAX
from synaptoroute.core.feedback import FeedbackSettings, write_feedback_settings
from synaptoroute.core.levels import may_hold
from synaptoroute.core.mutation import (
    Ballot,
    CommitPlan,
    Entry,
    Position,
    Proposal,
    PutAlias,
    PutFeedback,
    PutTests,
    Revision,
)
from synaptoroute.core.recovery import (
    Action,
    Assessment,
    Cause,
    Common,
    Decision,
    LogView,
    MissingReports,
    Mode,
    Report,
    ServerHistory,
    assess_log,
    decide,
)
from synaptoroute.core.replica import Replica, Source, Step
from synaptoroute.core.seen import seen_of
from synaptoroute.replication.head_reads import has_left
from synaptoroute.sequencer.epochs import LogCheck
from synaptoroute.sequencer.log_reads import ReadResult
from synaptoroute.sequencer.peers import PeerHead
from synaptoroute.sequencer.scripts import Head, NoLog
from synaptoroute.sequencer.votes import VoteCheck

# --- no hash chain: places alone say whether histories agree ---------------------------------


class UnchainedReplica(Replica):
    """Takes any entry with the next number."""

    def _receive_old(self, entry: Entry, source: Source, log_epoch: int) -> Step:
        self._chains[entry.seq] = entry.chain
        return super()._receive_old(entry, source, log_epoch)

    def _contradiction(self, entry: Entry) -> str | None:
        return super()._contradiction(replace(entry, prev_chain=self.position.chain))


class UnchainedServer(ModelServer):
    """Compares numbers alone."""

    def is_past(self, position: Position, meta: dict[str, Any]) -> bool:
        return bool(position.seq > meta["seq"])

    def is_forked(self, report: Report, chain: str) -> bool:
        return False


class UnchainedNode(Node):
    """Judges by numbers alone."""

    replica_type = UnchainedReplica

    def judge(self, view: LogView | None, position: Position) -> Assessment:
        if view is not None and position.seq == view.position.seq:
            position = replace(position, chain=view.position.chain)
        return super().judge(view, position)

    def _confirms(self, position: Position) -> bool:
        head = self.server.head()
        return isinstance(head, Head) and position.seq <= head.seq


# --- no replication id: a server is believed to be the one it was -------------------------------


class UnfencedServer(ModelServer):
    """Does not notice that it is another server now."""

    def is_here(self, replid: str) -> bool:
        return True


# --- no promises: a node reports, and goes on as if it had not ---------------------------------


class UnboundReplica(Replica):
    """Takes part in any epoch that continues its history."""

    def promise(self, ballot: Ballot) -> None:
        self.reported = ballot


class UnboundNode(Node):
    """Answers every ballot."""

    replica_type = UnboundReplica

    def promise(self, ballot: Ballot) -> bool:
        return True

    def judge(self, view: LogView | None, position: Position) -> Assessment:
        return assess_log(view, position, Ballot(), self.epoch_id())


# --- no safe trim: the oldest entries go by number ---------------------------------------------


class CarelessServer(ModelServer):
    """Trims like a stream with a greatest length."""

    def may_trim(self, floor: int) -> bool:
        return True


# --- a ballot that a replica inherited goes on there -------------------------------------------


class InheritingServer(ModelServer):
    """Takes any ballot for its own."""

    def is_ballot_here(self, replid: str) -> bool:
        return bool(replid)


# --- no majority: what the server holds, or the first report, is the truth ---------------------


class TrustingNode(Node):
    """Opens upon what there is."""

    def decide(
        self, ballot: Ballot, reports: tuple[Report, ...], log_check: LogCheck, head: Head
    ) -> Decision | MissingReports:
        found = decide(ballot, reports, log_check.kept, Mode.AVAILABLE)
        if isinstance(found, Decision) and log_check.kept is not None:
            return replace(found, base=log_check.kept.position, is_kept=True, absent=())
        return replace(found, absent=()) if isinstance(found, Decision) else found


# --- no dedupe: a write that is sent twice happens twice ---------------------------------------


class ForgetfulReplica(Replica):
    """Remembers no write."""

    def _recall(self, op_id: bytes, seq: int) -> Remembered | None:
        return None


class ForgetfulNode(Node):
    """Applies what it applied before."""

    replica_type = ForgetfulReplica


# --- no comparison of requests: whoever waits for an op_id gets what the entry got -------------


class SharingReplica(Replica):
    """Does not tell which request decided an op_id."""

    def _apply(self, entry: Entry) -> Commit:
        return replace(super()._apply(entry), decided=None)


class SharingNode(Node):
    """Answers every client that waits for an op_id alike."""

    replica_type = SharingReplica


# --- no gap check: what arrives is applied -----------------------------------------------------


class GappyReplica(Replica):
    """Takes whatever comes next, whatever is missing before it."""

    def receive(self, entry: Entry, source: Source = Source.LOG, log_epoch: int = 0) -> Step:
        if entry.seq > self.position.seq + 1:
            self.position = replace(self.position, seq=entry.seq - 1)
            self._chains.clear()
        return super().receive(entry, source, log_epoch)

    def _contradiction(self, entry: Entry) -> str | None:
        return super()._contradiction(replace(entry, prev_chain=self.position.chain))


class GappyNode(Node):
    """Applies what arrives."""

    replica_type = GappyReplica


# --- no head poll: the bus is all there is -----------------------------------------------------


class DeafNode(Node):
    """Fetches only what a message showed to be missing."""

    def is_behind(self, head: Head) -> bool:
        here = self.replica.position
        return self.diverged or here.epoch < head.epoch


# --- the same epoch goes on after a restart, without a promise ---------------------------------


class InPlaceServer(ModelServer):
    """Lets a restarted log go on in its epoch."""

    def resume(self, ballot: Ballot) -> None:
        """Open again without a new epoch."""
        meta = self.store.meta
        if meta is not None and meta["rec_id"] == str(ballot):
            meta |= {"state": "open", "replid": self.replid, "rec_id": "", "rec_replid": ""}


class InPlaceNode(Node):
    """Reports without a promise where Redis only restarted, and goes on if it is whole."""

    def promise(self, ballot: Ballot) -> bool:
        meta = self.server.store.meta
        if meta is not None and meta["rec_cause"] == Cause.RESTARTED.value:
            return True
        return super().promise(ballot)

    def judge(self, view: LogView | None, position: Position) -> Assessment:
        found = super().judge(view, position)
        is_resumed = found.action is Action.START_BALLOT and found.cause is Cause.OUTBID
        meta = self.server.store.meta
        if is_resumed and meta is not None and meta["rec_cause"] == Cause.RESTARTED.value:
            return Assessment(Action.JOIN_BALLOT)
        return found

    def _act(self, head: Head, ballot: Ballot, decision: Decision) -> Life:
        meta = self.server.store.meta
        is_restart = meta is not None and meta["rec_cause"] == Cause.RESTARTED.value
        if is_restart and decision.is_kept and isinstance(self.server, InPlaceServer):
            yield lambda s: s.resume(ballot)
            return
        yield from super()._act(head, ballot, decision)


# --- a history that was contradicted once is never followed again --------------------------------


class StubbornNode(Node):
    """Waits for a snapshot, though the log has taken its side meanwhile."""

    def is_taken_back(self) -> bool:
        return False


# --- a removed voter counts for the majority, and what it holds does not ------------------------


class DismissiveNode(Node):
    """Lets only those win who hold themselves for voters."""

    def decide(
        self, ballot: Ballot, reports: tuple[Report, ...], log_check: LogCheck, head: Head
    ) -> Decision | MissingReports:
        shown = tuple(
            report if report.node_id in report.voters else replace(report, position=Position())
            for report in reports
        )
        return super().decide(ballot, shown, log_check, head)


# --- the header of a lost log is made of what the node that found the loss knew ------------------


class CredulousNode(Node):
    """Opens an epoch with the encoder that the header names."""

    def encoder_at(self, head: Head, decision: Decision) -> tuple[str, int]:
        return head.fingerprint, head.dim


# --- Redis' word for the newest head is enough -------------------------------------------------


class UnconfirmedNode(Node):
    """Asks no voter."""

    def confirm(self, head: Head) -> bool:
        return True


class HastyNode(Node):
    """Asks the voters for their promises alone, whatever they hold."""

    def is_confirmation(self, answer: PeerHead, head: Head) -> bool:
        return not has_left(answer, head)

    def holds_head(self, answer: PeerHead, head: Head) -> bool:
        return True


class RunawayNode(Node):
    """Answers with what it applied after the confirmation."""

    def confirm_answer(self, head: Head) -> bool:
        return True


# --- an entry is what the server says ---------------------------------------------------------


class UnsealedReplica(Replica):
    """Takes entries that no member sealed."""

    def _forgery(self, entry: Entry) -> str | None:
        return None


class UnsealedNode(Node):
    """Has such a replica."""

    replica_type = UnsealedReplica


class PassiveNode(Node):
    """Refuses what is forged, and leaves it in the log."""

    def _drop_forged(self) -> Life:
        return
        yield


# --- no room, no limit, no name: what keeps the log small and imports alive ---------------------


class CrampedNode(Node):
    """Waits for somebody else to trim the log."""

    def make_room(self) -> bool:
        return False


class BoundlessServer(ModelServer):
    """Takes what comes."""

    def is_full(self, added_bytes: int) -> bool:
        return False


class NamelessServer(ModelServer):
    """Places an abort wherever the log is now."""

    def is_named(self, entry: Entry, name: str) -> bool:
        return False


# --- no signatures on votes: what the server says of the voters is believed ---------------------


class CountingServer(ModelServer):
    """Counts whatever positions it holds."""

    def is_proved(self, at: Position) -> bool:
        meta = self.store.meta
        return meta is not None and meta["epoch"] == at.epoch and self.quorum_seq() >= at.seq


class BelievingNode(Node):
    """Counts every report to a ballot."""

    def proved(self, reports: tuple[Report, ...]) -> tuple[Report, ...]:
        return reports


# --- no votes in the entry that opens an epoch ----------------------------------------------------


class FollowingNode(Node):
    """Follows every epoch that a member opens."""

    @property
    def check_votes(self) -> None:
        return None


class AdmittingNode(Node):
    """Follows every change of the voters that a member writes."""

    @property
    def check_votes(self) -> VoteCheck:
        world = self.world
        return VoteCheck(world.read_vote, world.read_change, lambda: False, lambda *_: None)


# --- what a server shows may be any order of genuine entries ------------------------------------


class LinearNode(Node):
    """Takes the longest history of an epoch for one that continues the others."""

    def forks(self, reports: tuple[Report, ...]) -> Common | None:
        return {}


class UnrootedNode(Node):
    """Keeps the server's history wherever it begins."""

    def decide(
        self, ballot: Ballot, reports: tuple[Report, ...], log_check: LogCheck, head: Head
    ) -> Decision | MissingReports:
        names = frozenset(report.node_id for report in reports)
        kept = log_check.kept and replace(log_check.kept, followers=names)
        return super().decide(ballot, reports, replace(log_check, kept=kept), head)

    def verified(self, kept: ServerHistory, reports: tuple[Report, ...]) -> ServerHistory | None:
        return kept


class NumberedServer(ModelServer):
    """Compares the numbers in the voters' statements alone."""

    def is_held(self, entry: Position, position: Position) -> bool:
        return position.seq >= entry.seq


class NumberedNode(Node):
    """Takes a voter with a higher number for one that holds the head."""

    def holds_head(self, answer: PeerHead, head: Head) -> bool:
        return True


class ContentNode(Node):
    """Answers with the head that the server shows, though voters hold more."""

    def has_reached(self, answer: PeerHead) -> bool:
        return True


class FickleNode(Node):
    """Leaves its history for another one of the same epoch."""

    def stays(self, head: Head | NoLog) -> bool:
        return False


class DeferentNode(Node):
    """Waits for nodes that stand beyond it in an epoch that the log has left."""

    def may_hold_more(self, position: Position, head: Head) -> bool:
        return True


# --- no level: nodes write and apply what older releases cannot read ----------------------------


class EagerReplica(Replica):
    """Applies entries above the level of the log."""

    def _change(self, entry: Entry, opens: bool) -> Change:
        if may_hold(self.level, entry.proposal):
            return super()._change(entry, opens)
        return self.sets.apply(entry.proposal, Revision(entry.epoch, entry.seq), self.level)


class EagerNode(Node):
    """Writes feedback, reviews and fits before the level of the log is raised."""

    replica_type = EagerReplica

    def may_write(self, proposal: Proposal) -> bool:
        return True


# --- no bound of the review queue ----------------------------------------------------------------


class HoardingReplica(Replica):
    """Takes feedback however full the queue is."""

    def _change(self, entry: Entry, opens: bool) -> Change:
        kept = self.table.settings
        if isinstance(entry.proposal.mutation, PutFeedback) and kept.feedback:
            boundless = write_feedback_settings(FeedbackSettings(items_max=FEEDBACK_ITEMS_MAX))
            self.table.settings = replace(kept, feedback=boundless)
        try:
            return super()._change(entry, opens)
        finally:
            if isinstance(entry.proposal.mutation, PutFeedback):
                self.table.settings = kept


class HoardingNode(Node):
    """Never says that the queue is full."""

    replica_type = HoardingReplica


# --- route sets: writes go to the set that they name, aliases to what was measured ----------------


class OneSetReplica(Replica):
    """Applies every write to the set of the write before."""

    _last = ""

    def _change(self, entry: Entry, opens: bool) -> Change:
        proposal = entry.proposal
        if not proposal.route_set or isinstance(proposal.mutation, PutTests):
            return super()._change(entry, opens)
        strayed = replace(proposal, route_set=self._last or proposal.route_set)
        self._last = proposal.route_set
        return super()._change(replace(entry, proposal=strayed), opens)


class OneSetNode(Node):
    """Does not look at the set that a write names."""

    replica_type = OneSetReplica


class UnmeasuredReplica(Replica):
    """Promotes a set whatever was measured."""

    def _change(self, entry: Entry, opens: bool) -> Change:
        proposal = entry.proposal
        if isinstance(alias := proposal.mutation, PutAlias):
            unbound = replace(proposal, mutation=replace(alias, target_revision=None))
            entry = replace(entry, proposal=unbound)
        return super()._change(entry, opens)


class UnmeasuredNode(Node):
    """Does not bind an alias to the content that was measured."""

    replica_type = UnmeasuredReplica


class BlindReplica(Replica):
    """Carries out a plan whatever it saw."""

    def _change(self, entry: Entry, opens: bool) -> Change:
        proposal = entry.proposal
        table = self.sets.table_of(proposal.route_set)
        if isinstance(plan := proposal.mutation, CommitPlan) and table is not None:
            texts = [test.text for test in plan.tests]
            seen = seen_of(table.routes, plan.removed, None, table.tests, texts)
            proposal = replace(proposal, mutation=replace(plan, seen=seen))
        return super()._change(replace(entry, proposal=proposal), opens)


class BlindNode(Node):
    """Does not compare what a plan saw with what is there."""

    replica_type = BlindReplica


# --- a replica's word is enough ------------------------------------------------------------------


class GullibleNode(Node):
    """Takes the entries of a replica without asking the primary."""

    def confirmed(self, position: Position, found: ReadResult) -> Read:
        yield lambda s: s.head()
        return found


@dataclass(frozen=True)
class Ablation:
    """One mechanism switched off.

    Attributes:
        what: What is missing.
        kinds: The classes without it.
        seeds: So many schedules must be enough to show it.
        focus: Faults against which it stands, drawn more often.
        level: Level of the log; at 1 nothing repairs a log that claims what no voter holds.
    """

    what: str
    kinds: Kinds
    seeds: int
    focus: str = ""
    level: int = LEVEL


ABLATIONS = {
    "chain": Ablation("the hash chain", Kinds(UnchainedNode, UnchainedServer), 300),
    "replid": Ablation("the fence by replication id", Kinds(server=UnfencedServer), 300),
    "promise": Ablation("durable promises", Kinds(UnboundNode), 300),
    "safe_trim": Ablation(
        "the majority before a trim", Kinds(server=CarelessServer), 200, "trim", 1
    ),
    "ballot_here": Ablation(
        "ballots bound to a server", Kinds(server=InheritingServer), 400, "recovery"
    ),
    "majority": Ablation("the majority of a recovery", Kinds(TrustingNode), 100),
    "op_id": Ablation("dedupe by op_id", Kinds(ForgetfulNode), 100),
    "request_hash": Ablation("comparison of requests by hash", Kinds(SharingNode), 100),
    "gap_check": Ablation("the gap check", Kinds(GappyNode), 100),
    "head_poll": Ablation("the head poll", Kinds(DeafNode), 100),
    "encoder": Ablation("the encoder of the chosen history", Kinds(CredulousNode), 400, "encoder"),
    "confirm": Ablation("the confirmation of a head", Kinds(UnconfirmedNode), 100, "head"),
    "confirm_held": Ablation("the majority that holds the head", Kinds(HastyNode), 200, "head"),
    "seal": Ablation("the seals of entries", Kinds(UnsealedNode), 100, "hijack"),
    "drop_forged": Ablation("the ballot against forgeries", Kinds(PassiveNode), 100, "hijack"),
    "voters": Ablation("the agreement to new voters", Kinds(AdmittingNode), 100, "hijack"),
    "votes": Ablation("the votes in an opening", Kinds(FollowingNode), 100, "hijack"),
    "room": Ablation("the trim by the node that writes", Kinds(CrampedNode), 50, "room"),
    "log_limit": Ablation("the limit of the log", Kinds(server=BoundlessServer), 50, "room"),
    "import_name": Ablation(
        "the name in the abort of an import", Kinds(server=NamelessServer), 200, "import"
    ),
    "level": Ablation("the level of a write", Kinds(EagerNode), 20, "learn", 2),
    "queue_bound": Ablation("the bound of the queue", Kinds(HoardingNode), 40, "learn"),
    "own_set": Ablation("the set of a write", Kinds(OneSetNode), 40, "sets"),
    "seen": Ablation("what a plan saw", Kinds(BlindNode), 100, "sets"),
    "measured": Ablation("the content that was measured", Kinds(UnmeasuredNode), 100, "sets"),
    "forks": Ablation("the comparison of forks", Kinds(LinearNode), 200, "split"),
    "signed_chain": Ablation(
        "the chain in signed positions", Kinds(server=NumberedServer), 200, "split"
    ),
    "stays": Ablation("the voters that stay in an epoch", Kinds(FickleNode), 200, "split"),
    "replica": Ablation("the confirmation of a replica", Kinds(GullibleNode), 20, "replica"),
    "in_place": Ablation("an epoch for each restart", Kinds(InPlaceNode, InPlaceServer), 200),
}

RARE = {
    "head_chain": Ablation("the chain of a confirmed head", Kinds(NumberedNode), 0, "split"),
    "head_reached": Ablation("what the voters hold beyond a head", Kinds(ContentNode), 0, "split"),
    "followers": Ablation("a voter that can follow the server", Kinds(UnrootedNode), 0),
    "signed_positions": Ablation("signed positions", Kinds(server=CountingServer), 0, "hijack"),
    "signed_reports": Ablation("signed reports to a ballot", Kinds(BelievingNode), 0, "hijack"),
    "confirm_answer": Ablation("the confirmed answer", Kinds(RunawayNode), 0, "head"),
    "left_epoch": Ablation("the epoch of nodes beyond", Kinds(DeferentNode), 0, "hijack"),
    "return": Ablation("the return to a history", Kinds(StubbornNode), 0),
    "removed_voter": Ablation("what removed voters hold", Kinds(DismissiveNode), 0),
}
"""Mechanisms that too few schedules need: a scenario shows what happens without them."""
