"""Epoch changes: which writes survive if the sequencer lost its history, or may have.

Redis orders the writes; a majority of the voters decides which of them are kept.  A
*ballot* closes the log.  Every node that sees the ballot promises it durably, takes no
part in lower epochs from then on, and reports its position.  With reports from a majority,
the longest reported history wins and the next epoch is opened on top of it.  An entry that
a majority held is in at least one of these reports, so the winning history contains it.

A server that lies may show voters of one epoch different orders of genuine entries.  Then the
longest history wins only among those that contain every entry that a majority may have held
(``_possibly_held``); if the reports leave that open, the absent voters are waited for.

Four rules make this safe.  For each of them there is a schedule that loses or doubles a
write without it; the simulator finds it:

R1  A node that promised a ballot above the log's epoch starts a higher ballot: otherwise
    it would refuse the open log for ever (``assess_log``).
R2  At most one ballot of each number is promised: if the pair were compared, two servers
    could open the same number (``may_promise``).
R3  The log drops no entry that a majority of the voters does not hold (``trim.lua``).
R4  A ballot belongs to the server on which it was started; a ballot that a replica
    inherited is void (``LogView.is_ballot_here``).

Pure: no clock, no randomness.  Source: Liskov and Cowling, "Viewstamped Replication
Revisited", 2012, section 4.2, with the log's server as the place where the nodes meet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from synaptoroute.core.mutation import Ballot, OpenEpoch, Position
from synaptoroute.core.replica import VOTERS_MAX

REFILL_ENTRIES_MIN: Final = 1_000
"""Entries before the base that are refilled at least, for nodes that are away now."""
REFILL_ENTRIES_MAX: Final = 10_000


class Action(Enum):
    """Actions of a node on the log that it sees."""

    FOLLOW = "follow"  # Apply its entries
    CREATE_LOG = "create_log"  # Create a log: neither the node nor the server has any
    START_BALLOT = "start_ballot"  # Close the log with a ballot: ``Assessment.cause`` says why
    JOIN_BALLOT = "join_ballot"  # Promise the log's ballot and report
    LEAVE_EPOCH = "leave_epoch"
    """Leave this node's own epoch: the log opened another one with that number."""
    WAIT = "wait"  # Do nothing: an operator closed the log


class Cause(Enum):
    """Why a log is closed by a ballot."""

    LOST = "lost"  # The server has no log
    RESTARTED = "restarted"  # The log was opened on another server
    INHERITED = "inherited"  # The ballot was started on another server
    PROMISED = "promised"  # A node has promised a higher ballot than the log's epoch
    OUTBID = "outbid"
    """A node has promised a higher ballot than the current one, or no node completes it."""
    REGRESSED = "regressed"  # A node holds entries that the log has lost
    DAMAGED = "damaged"  # The log does not match its header
    FORCED = "forced"  # An operator asked for it


class Mode(Enum):
    """The rule for which reports are enough to end a recovery."""

    SAFE = "safe"  # A majority of the voters: no entry that a majority held is lost
    AVAILABLE = "available"
    """The nodes that are present: may lose entries that only absent nodes hold."""
    FORCED = "forced"  # Like ``AVAILABLE``, and the absent voters lose their vote


@dataclass(frozen=True, slots=True)
class LogView:
    """The log as its server shows it."""

    position: Position
    epoch_id: str  # Ballot that opened its epoch
    state: str  # ``open``, ``recovering`` or ``frozen``
    is_same_server: bool  # It was opened on this server, since the server started
    ballot: Ballot | None = None  # The ballot that closed it, while it recovers
    # That ballot was started on this server, since the server started (R4)
    is_ballot_here: bool = False


@dataclass(frozen=True, slots=True)
class Assessment:
    """The action of a node on a log, and its reason."""

    action: Action
    cause: Cause | None = None  # Why it starts a ballot


@dataclass(frozen=True, slots=True)
class Report:
    """A node's answer to a ballot, given after its promise was durable."""

    node_id: str
    ballot: Ballot  # The ballot that it has promised
    position: Position  # No longer advances in epochs below the ballot
    voters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerHistory:
    """The history on the server, if it is complete and contradicts no report."""

    position: Position
    voters: tuple[str, ...]
    # Nodes that reported a position in it, from which its entries lead to its end.  A history
    # that begins after what every voter holds can be followed by none of them.
    followers: frozenset[str]


Common: TypeAlias = Mapping[frozenset[str], int]
"""The last seq at which the histories of two nodes agree, where it is less than both reports."""


@dataclass(frozen=True, slots=True)
class MissingReports:
    """Reports are missing, so nothing can be decided yet."""

    missing: tuple[str, ...]  # Voters that have not answered; empty if no report names the voters
    voter_count: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The beginning of the next epoch."""

    base: Position  # The last entry that is kept
    is_kept: bool  # Whether the server's own stream holds everything up to it
    holders: tuple[str, ...]  # Nodes exactly at that position: each can fill the log again
    voters: tuple[str, ...]  # The voters of the next epoch
    absent: tuple[str, ...]  # Voters that did not answer
    is_majority: bool  # Otherwise entries that only absent nodes hold are lost
    refill_after_seq: int

    def opening(self, ballot: Ballot, fingerprint: str, dim: int) -> OpenEpoch:
        return OpenEpoch(ballot.id, self.base.seq, self.voters, fingerprint, dim)

    @property
    def risk(self) -> str:
        """A description of what the decision may lose; empty if a majority held none of it."""
        if self.is_majority:
            return ""
        if not self.base.epoch:
            return (
                "no node that answered holds a route, and the log on the server lacks its first "
                "entries: all routes are lost for this cluster; before it is forced, start a node "
                "that has them, or restore a backup"
            )
        names = ", ".join(self.absent) or "the voters"
        return (
            f"writes after {self.base.revision} that only {names} hold are lost for this "
            "cluster, also those that were acknowledged by a quorum"
        )


def is_majority(present: Iterable[str], voters: Iterable[str]) -> bool:
    """Whether more than half of the voters are present; without voters, never."""
    wanted = set(voters)
    return 2 * len(wanted.intersection(present)) > len(wanted)


def assess_log(
    view: LogView | None, position: Position, promised: Ballot, epoch_id: str = ""
) -> Assessment:
    """Decide what a node does about the log that it sees.

    Args:
        view: The log; None if the server has none.
        position: Position of the node, read before the log.
        promised: The newest ballot that binds the node.
        epoch_id: Ballot that opened the node's epoch; empty if unknown.
    """
    if view is None:
        return _start_ballot(Cause.LOST) if position.epoch else Assessment(Action.CREATE_LOG)
    if view.state == "frozen":
        return Assessment(Action.WAIT)
    if view.state == "recovering":
        if view.ballot is None or not view.is_ballot_here:
            return _start_ballot(Cause.INHERITED)
        may = may_promise(promised, view.ballot)
        return Assessment(Action.JOIN_BALLOT) if may else _start_ballot(Cause.OUTBID)
    if not view.is_same_server:
        return _start_ballot(Cause.RESTARTED)
    if view.position.epoch < promised.epoch:
        return _start_ballot(Cause.PROMISED)
    if position.epoch == view.position.epoch:
        if epoch_id and epoch_id != view.epoch_id:
            return Assessment(Action.LEAVE_EPOCH)
        if _is_beyond(position, view.position):
            return _start_ballot(Cause.REGRESSED)
    return Assessment(Action.FOLLOW)


def _start_ballot(cause: Cause) -> Assessment:
    return Assessment(Action.START_BALLOT, cause)


def _is_beyond(position: Position, head: Position) -> bool:
    return position.seq > head.seq or (position.seq == head.seq and position.chain != head.chain)


def may_promise(promised: Ballot, asked: Ballot) -> bool:
    """Whether a ballot may be promised: a higher number, or the same ballot again (R2)."""
    return asked.epoch > promised.epoch or asked == promised


def decide(
    ballot: Ballot,
    reports: Iterable[Report],
    kept: ServerHistory | None,
    mode: Mode = Mode.SAFE,
    common: Common | None = None,
) -> Decision | MissingReports:
    """Choose the history that survives, or return which reports are missing.

    Args:
        ballot: The current ballot; reports to another one do not count.
        reports: One report of each node that answered.
        kept: The history on the server, if it is complete and contradicts no report.
        mode: Which reports are enough.
        common: Where histories of one epoch fork; those that are not named continue each other.
    """
    counted = [report for report in reports if report.ballot == ballot]
    names = {report.node_id for report in counted}
    ranked = _candidates(counted, kept, mode)
    if not ranked:
        return MissingReports((), 0)
    forks = _Forks(ranked, names, common or {})
    certain = next((each for each in ranked if forks.is_certain(each)), None)
    best = certain or ranked[0]
    absent = tuple(voter for voter in best.voters if voter not in names)
    is_kept = kept is not None and _is_followed(kept, best, counted)
    after = kept if is_kept and kept is not None else best
    enough = is_majority(names, best.voters) and is_majority(names, after.voters)
    if mode is Mode.SAFE and (certain is None or not enough):
        return MissingReports(absent or forks.absent, len(best.voters))
    return Decision(
        base=after.position,
        is_kept=is_kept,
        holders=tuple(sorted(r.node_id for r in counted if r.position == after.position)),
        voters=_voters_after(mode, after.voters, names),
        absent=absent,
        is_majority=enough and certain is not None,
        refill_after_seq=_refill_after(after.position, counted),
    )


def decide_without_holders(
    ballot: Ballot, reports: Iterable[Report], kept: ServerHistory | None
) -> Decision | None:
    """Choose the beginning of an epoch where no node that answered holds an entry.

    The server's history is kept if empty nodes can follow it from its first entry.  Otherwise
    there is nothing to keep, and the log begins again.  Those who answered become the voters.
    Only for a node that an operator has asked: nothing here shows that the voters are gone.

    Args:
        ballot: The current ballot; reports to another one do not count.
        reports: One report of each node that answered.
        kept: The history on the server, if it is complete.

    Returns:
        None if a node holds an entry, so that ``decide`` has a history to choose.
    """
    counted = [report for report in reports if report.ballot == ballot]
    if not counted or any(report.position.epoch for report in counted):
        return None
    present = tuple(sorted(report.node_id for report in counted))
    is_kept = kept is not None and bool(kept.followers.intersection(present))
    return Decision(
        base=kept.position if kept is not None and is_kept else Position(),
        is_kept=is_kept,
        holders=() if is_kept else present,
        voters=present[:VOTERS_MAX],
        absent=tuple(name for name in kept.voters if name not in present) if kept else (),
        is_majority=False,
        refill_after_seq=0,
    )


def _candidates(reports: Sequence[Report], kept: ServerHistory | None, mode: Mode) -> list[Report]:
    """The reports of the newest epoch that may win, the longest first."""
    # Only voters can win: an entry that only an observer holds was never promised to last,
    # and a node outside the quorum must not bring in a history of its own.  A node that any
    # report names as a voter is one: a node that has applied its own removal still counts
    # for the majority of those that have not, and two majorities may overlap in that node
    # alone.
    named = {voter for report in reports for voter in report.voters}
    if kept is not None:
        named.update(kept.voters)
    held = [report for report in reports if report.position.epoch]
    if voters := [report for report in held if report.node_id in named]:
        return _ranked(voters)
    if mode is not Mode.SAFE and held:
        return _ranked(held)
    # No node has applied even the first entry of the log, which names the voters.
    if kept is not None and kept.followers.intersection(kept.voters):
        return [Report("", Ballot(), Position(), kept.voters)]
    return []


def _ranked(reports: Sequence[Report]) -> list[Report]:
    """By length; between chains at one place, the one with the most holders first.

    Only of the newest epoch: it began with everything that a majority held of those before.
    """
    newest = max(report.position.epoch for report in reports)
    held = Counter(report.position for report in reports)
    return sorted(
        (report for report in reports if report.position.epoch == newest),
        key=lambda r: (r.position.revision, held[r.position], r.position.chain, r.node_id),
        reverse=True,
    )


class _Forks:
    """The histories of one epoch that were reported, and where they part.

    Args:
        reports: The reports of that epoch by nodes that may win.
        present: All nodes that answered.
        common: See ``Common``.
    """

    def __init__(self, reports: Sequence[Report], present: Collection[str], common: Common) -> None:
        self._reports = reports
        self._present = present
        self._common = common

    @property
    def absent(self) -> tuple[str, ...]:
        """Voters of any of the histories that have not answered."""
        named = {voter for report in self._reports for voter in report.voters}
        return tuple(sorted(named.difference(self._present)))

    def is_certain(self, chosen: Report) -> bool:
        """Whether a history contains every entry that a majority may have held."""
        return all(
            self._possibly_held(each, voters) <= self._agreed(chosen, each)
            for each in self._reports
            for voters in (chosen.voters, each.voters)
        )

    def _agreed(self, one: Report, other: Report) -> int:
        """The last seq at which two histories agree."""
        at, there = one.position, other.position
        if at == there:
            return at.seq
        # Two chains at one place part before it, wherever that is.
        most = min(at.seq, there.seq) - (at.seq == there.seq)
        return min(most, self._common.get(frozenset((one.node_id, other.node_id)), most))

    def _possibly_held(self, of: Report, voters: tuple[str, ...]) -> int:
        """The last seq of a history that a majority may hold: those that have it, and absent."""
        absent = set(voters).difference(self._present)
        return max(
            (
                seq
                for seq in {self._agreed(of, each) for each in self._reports}
                if is_majority(
                    absent.union(r.node_id for r in self._reports if self._agreed(of, r) >= seq),
                    voters,
                )
            ),
            default=0,
        )


def _is_followed(kept: ServerHistory, best: Report, reports: Iterable[Report]) -> bool:
    """Whether the server's history may be kept: it goes on where the winner stands.

    Or it is of a later epoch, which began with everything that a majority held, and a voter
    can follow it.
    """
    if not _reaches(kept.position, best.position):
        return False
    followed_by = {report.node_id for report in reports if report.position == best.position}
    if kept.position.epoch > best.position.epoch:
        followed_by.update(kept.voters)
    return bool(kept.followers.intersection(followed_by))


def _reaches(head: Position, best: Position) -> bool:
    return head == best or head.revision > best.revision


def _voters_after(mode: Mode, voters: tuple[str, ...], present: set[str]) -> tuple[str, ...]:
    if mode is not Mode.FORCED:
        return voters
    # Where no voter is left, those who answered take over, as founders do.
    left = tuple(voter for voter in voters if voter in present)
    return left or tuple(sorted(present))[:VOTERS_MAX]


def _refill_after(base: Position, reports: Iterable[Report]) -> int:
    """First seq of the refilled log, low enough that nodes that are behind need no peer."""
    behind = [report.position.seq for report in reports if report.position.epoch]
    wanted = min([*behind, base.seq - REFILL_ENTRIES_MIN])
    return max(0, base.seq - REFILL_ENTRIES_MAX, wanted)


def common_seq(start: int, own: Mapping[int, str], theirs: Iterable[tuple[int, str]]) -> int:
    """The last sequence number at which two histories agree.

    Args:
        start: A sequence number at which they agree.
        own: Hash chains of one history, by sequence number.
        theirs: Sequence numbers and hash chains of the other, in order from ``start + 1``.
    """
    common = start
    for seq, chain in theirs:
        if own.get(seq) != chain:
            break
        common = seq
    return common
