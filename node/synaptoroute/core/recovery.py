"""Epoch changes: what survives when the sequencer lost its history, or may have.

Redis orders the writes; a majority of the voters decides which of them are kept.
A *ballot* closes the log.  Every node that sees it promises it durably, takes no
part in lower epochs from then on, and reports where it stands.  With reports from a
majority the longest history among them wins, and the next epoch is opened upon it.
So an entry that a majority held is in some report, and the winner's history has it.

Four rules bind the fields below; without any one of them a schedule exists that
loses or doubles a write (the simulator finds it):

R1  Whoever promised a ballot above the log's epoch begins a higher ballot: else it
    would refuse the open log for ever (``judge``).
R2  At most one ballot of each number is promised; comparing the pair would let two
    servers open one number (``may_promise``).
R3  The log drops no entry that a majority of the voters does not hold (``trim.lua``).
R4  A ballot belongs to the server that it was begun on; one that a replica inherited
    is void (``LogView.is_ballot_here``).

Pure: no clock, no randomness.  Source: Liskov and Cowling, "Viewstamped Replication
Revisited", 2012, section 4.2, with the log's server as the place where they meet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from synaptoroute.core.mutation import Ballot, OpenEpoch, Position

REFILL_ENTRIES_MIN: Final = 1_000
"""So many entries before the base go back to the log, for nodes that are away now."""
REFILL_ENTRIES_MAX: Final = 10_000


class Act(Enum):
    """What a node does about the log that it sees."""

    FOLLOW = "follow"
    """Apply what it holds."""
    FOUND = "found"
    """Neither it nor the server holds anything: found a log."""
    BEGIN = "begin"
    """Close it with a ballot: ``Judgement.reason`` says why."""
    ANSWER = "answer"
    """Promise its ballot and report."""
    LEAVE = "leave"
    """Leave this node's own epoch: the log opened another one of that number."""
    REST = "rest"
    """An operator closed it."""


class Cause(Enum):
    """Why a log is closed by a ballot."""

    LOST = "lost"
    """The server holds no log."""
    RESTARTED = "restarted"
    """The server is not the one that the log was opened on."""
    INHERITED = "inherited"
    """The ballot was begun on another server."""
    PROMISED = "promised"
    """A node has promised a higher ballot than the log's epoch."""
    OUTBID = "outbid"
    """A node has promised a higher ballot than the one that goes on, or nobody ends it."""
    REGRESSED = "regressed"
    """A node holds what the log has lost."""
    DAMAGED = "damaged"
    """The log does not hold what its header says."""
    FORCED = "forced"
    """An operator asked for it."""


class Mode(Enum):
    """With whose reports a recovery may end."""

    SAFE = "safe"
    """A majority of the voters: nothing that a majority held is lost."""
    AVAILABLE = "available"
    """Those who are there: may lose what only the absent ones hold."""
    FORCED = "forced"
    """Like ``AVAILABLE``, and the absent voters vote no longer."""


@dataclass(frozen=True, slots=True)
class LogView:
    """The log, as its server shows it.

    Attributes:
        position: Its newest entry.
        epoch_id: Ballot that opened its epoch.
        state: ``open``, ``recovering`` or ``frozen``.
        is_same_server: It was opened on this server, in this life of the server.
        ballot: The ballot that closed it, while it is recovering.
        is_ballot_here: That ballot was begun on this server, in this life (R4).
    """

    position: Position
    epoch_id: str
    state: str
    is_same_server: bool
    ballot: Ballot | None = None
    is_ballot_here: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a node does, and why.

    Attributes:
        act: What.
        cause: Why a ballot is begun.
    """

    act: Act
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A node's answer to a ballot, given after its promise was durable.

    Attributes:
        node_id: Who.
        ballot: Which ballot it has promised.
        position: What it holds; it grows no more in epochs below the ballot.
        voters: Who votes, at that position.
    """

    node_id: str
    ballot: Ballot
    position: Position
    voters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """What the server still holds, where it is whole and contradicts no report.

    Attributes:
        position: Its newest entry.
        voters: Who votes, at that entry.
    """

    position: Position
    voters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Reports are missing.

    Attributes:
        missing: Voters that have not answered; empty where no report tells the voters.
        voter_count: How many there are.
    """

    missing: tuple[str, ...]
    voter_count: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What the next epoch begins with.

    Attributes:
        base: The last entry that is kept.
        is_kept: The server's own stream holds all up to it.
        holders: Nodes that stand exactly there: each can fill the log again.
        voters: Who votes in the next epoch.
        absent: Voters that did not answer.
        is_majority: Whether those who answered are a majority; else what only the
            absent ones hold is lost.
        refill_after_seq: The log is filled again after this place.
    """

    base: Position
    is_kept: bool
    holders: tuple[str, ...]
    voters: tuple[str, ...]
    absent: tuple[str, ...]
    is_majority: bool
    refill_after_seq: int

    def opening(self, ballot: Ballot, fingerprint: str, dim: int) -> OpenEpoch:
        """Make the first entry of the next epoch."""
        return OpenEpoch(ballot.id, self.base.seq, self.voters, fingerprint, dim)

    @property
    def risk(self) -> str:
        """Say what may be lost by it; empty if nothing that a majority held."""
        if self.is_majority:
            return ""
        names = ", ".join(self.absent) or "the voters"
        return (
            f"writes after {self.base.revision} that only {names} hold are lost for this "
            "cluster, also those that were acknowledged by a quorum"
        )


def is_majority(present: Iterable[str], voters: Iterable[str]) -> bool:
    """Whether more than half of the voters are present; nobody is never a majority."""
    wanted = set(voters)
    return 2 * len(wanted.intersection(present)) > len(wanted)


def judge(
    view: LogView | None, position: Position, promised: Ballot, epoch_id: str = ""
) -> Judgement:
    """Decide what the log that is seen means for a node.

    Args:
        view: The log; None where the server holds none.
        position: What the node held before the log was looked at.
        promised: The newest ballot that binds it.
        epoch_id: Ballot that opened the node's epoch; empty if unknown.
    """
    if view is None:
        return _begin(Cause.LOST) if position.epoch else Judgement(Act.FOUND)
    if view.state == "frozen":
        return Judgement(Act.REST)
    if view.state == "recovering":
        if view.ballot is None or not view.is_ballot_here:
            return _begin(Cause.INHERITED)
        may = may_promise(promised, view.ballot)
        return Judgement(Act.ANSWER) if may else _begin(Cause.OUTBID)
    if not view.is_same_server:
        return _begin(Cause.RESTARTED)
    if view.position.epoch < promised.epoch:
        return _begin(Cause.PROMISED)
    if position.epoch == view.position.epoch:
        if epoch_id and epoch_id != view.epoch_id:
            return Judgement(Act.LEAVE)
        if _is_beyond(position, view.position):
            return _begin(Cause.REGRESSED)
    return Judgement(Act.FOLLOW)


def _begin(cause: Cause) -> Judgement:
    return Judgement(Act.BEGIN, cause)


def _is_beyond(position: Position, head: Position) -> bool:
    """Whether a node of the log's epoch holds what the log does not have."""
    return position.seq > head.seq or (position.seq == head.seq and position.chain != head.chain)


def may_promise(promised: Ballot, asked: Ballot) -> bool:
    """Whether a ballot may be promised: a higher number, or the very same ballot (R2)."""
    return asked.epoch > promised.epoch or asked == promised


def decide(
    ballot: Ballot, reports: Iterable[Report], kept: Kept | None, mode: Mode = Mode.SAFE
) -> Decision | Waiting:
    """Choose the history that survives, or say whose reports are missing.

    Only voters can win: what an observer alone holds was never promised to last, and a
    node outside the quorum must not be able to bring in a history of its own.  A voter is
    whom anybody holds for one: a node that has applied its own removal still counts for
    the majority of those who have not, and so must what it holds.

    Args:
        ballot: The ballot that goes on; reports to another one do not count.
        reports: What the nodes answered, one each.
        kept: What the server holds, where it is whole and contradicts no report.
        mode: Whose reports suffice.
    """
    counted = [report for report in reports if report.ballot == ballot]
    best = _best(counted, kept, mode)
    if best is None:
        return Waiting((), 0)
    names = {report.node_id for report in counted}
    absent = tuple(voter for voter in best.voters if voter not in names)
    is_kept = kept is not None and _reaches(kept.position, best.position)
    after = kept if is_kept and kept is not None else Kept(best.position, best.voters)
    enough = is_majority(names, best.voters) and is_majority(names, after.voters)
    if mode is Mode.SAFE and not enough:
        return Waiting(absent, len(best.voters))
    return Decision(
        base=after.position,
        is_kept=is_kept,
        holders=tuple(sorted(r.node_id for r in counted if r.position == after.position)),
        voters=_voters_after(mode, after.voters, names, best.node_id),
        absent=absent,
        is_majority=enough,
        refill_after_seq=_refill_after(after.position, counted),
    )


def _best(reports: Sequence[Report], kept: Kept | None, mode: Mode) -> Report | None:
    """The longest history that a voter reported; None where nobody may win.

    Whoever is counted for any majority must be among those who may win: the two
    majorities that meet may meet in that node alone.
    """
    named = {voter for report in reports for voter in report.voters}
    if kept is not None:
        named.update(kept.voters)
    held = [report for report in reports if report.position.epoch]
    if voters := [report for report in held if report.node_id in named]:
        return _longest(voters)
    if mode is not Mode.SAFE and held:
        return _longest(held)
    # Nobody has applied as much as the log's first entry, which names the voters.
    if kept is not None and any(report.node_id in kept.voters for report in reports):
        return Report("", Ballot(), Position(), kept.voters)
    return None


def _longest(reports: Sequence[Report]) -> Report:
    """The highest (epoch, seq); between chains of one place, the one that most hold."""
    held = Counter(report.position for report in reports)
    return max(
        reports,
        key=lambda r: (r.position.revision, held[r.position], r.position.chain, r.node_id),
    )


def _reaches(head: Position, best: Position) -> bool:
    """Whether the server's own history is at least as long as the best report's."""
    return head == best or head.revision > best.revision


def _voters_after(
    mode: Mode, voters: tuple[str, ...], present: set[str], best: str
) -> tuple[str, ...]:
    if mode is not Mode.FORCED:
        return voters
    return tuple(voter for voter in voters if voter in present) or (best,)


def _refill_after(base: Position, reports: Iterable[Report]) -> int:
    """Where the log must begin again, so that who is behind need not ask a peer."""
    behind = [report.position.seq for report in reports if report.position.epoch]
    wanted = min([*behind, base.seq - REFILL_ENTRIES_MIN])
    return max(0, base.seq - REFILL_ENTRIES_MAX, wanted)


def common_seq(start: int, own: Mapping[int, str], theirs: Iterable[tuple[int, str]]) -> int:
    """The last place at which two histories agree that agree at ``start``.

    Args:
        start: A place at which they agree.
        own: Hash chain at each place of the one.
        theirs: Places and hash chains of the other, in order from ``start + 1``.
    """
    common = start
    for seq, chain in theirs:
        if own.get(seq) != chain:
            break
        common = seq
    return common
