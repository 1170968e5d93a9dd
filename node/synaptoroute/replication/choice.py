"""The choice of the history that an epoch change keeps, by one node, from claims in Redis.

``core.recovery.decide`` decides; this module gives it what can be believed.  With a secret, reports
count only if their nodes signed them, the server's history only if its entries lead from a report
to its end, and histories that part are compared by their hash chains.  Runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from synaptoroute.core.codec import is_chained
from synaptoroute.core.levels import VOTES_LEVEL
from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.core.recovery import (
    Cause,
    Common,
    Decision,
    MissingReports,
    Mode,
    Report,
    ServerHistory,
    decide,
    decide_without_holders,
)
from synaptoroute.core.replica import voters_after
from synaptoroute.errors import OperatorSignatureNeeded
from synaptoroute.replication.agreement import Agreement
from synaptoroute.replication.forks import Forks
from synaptoroute.replication.session import Session
from synaptoroute.sequencer.epochs import LogCheck
from synaptoroute.sequencer.log_reads import Coverage
from synaptoroute.sequencer.scripts import Head
from synaptoroute.sequencer.votes import choose_votes, proved_reports

AVAILABLE_SECONDS: Final = 10.0  # How long ``recovery=available`` waits for a majority


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision, and what its opening needs."""

    found: Decision | MissingReports
    # Who does not know where the histories part decides nothing, unless an operator forced it.
    may_act: bool
    level: int  # Level of the log at the base
    votes: dict[str, str] = field(default_factory=dict)  # By node; none below ``VOTES_LEVEL``
    warrant: str = ""  # What the operator signed, if it is forced
    is_vote_lost: bool = False  # Whether this node has to vote again

    def chosen_votes(self, decision: Decision) -> tuple[str, ...]:
        return choose_votes(self.votes, decision.voters)


class Chooser:
    def __init__(self, session: Session, agreement: Agreement, forks: Forks) -> None:
        self._session = session
        self._agreement = agreement
        self._forks = forks

    async def choose(
        self,
        head: Head,
        ballot: Ballot,
        check: LogCheck,
        own: Position,
        waited_seconds: float,
        *,
        is_asked: bool = False,
    ) -> Choice:
        """Decide upon the reports to a ballot.

        Args:
            head: The header of the log.
            ballot: The ballot that closed it.
            check: The reports and the server's history, as Redis has them.
            own: Position that this node reported.
            waited_seconds: How long the ballot has waited.
            is_asked: Whether an operator asked this node to force it.  The cause in Redis is
                anybody's word: alone it lets no node go on without one that holds an entry.
        """
        reports: Sequence[Report] = [each for each in check.reports if each.ballot == ballot]
        kept = None if head.cause == Cause.DAMAGED.value else check.kept
        mode = self._mode(head, waited_seconds)
        if own.epoch < (refused := self._session.refused_epoch):
            # What follows an opening that nobody agreed to is no history of this cluster.
            reports = [each for each in reports if each.position.epoch < refused]
        # An empty node does not know the level of the log: what it opened at a higher one, without
        # votes, nobody would follow.
        is_new = own.epoch == 0 and bool(self._session.log.signing_keys.keys)
        is_asked = is_asked and mode is Mode.FORCED
        if not self._session.log.is_strict and not (is_new and is_asked):
            found = _decide(ballot, reports, kept, mode, is_asked=is_asked)
            is_able = not is_new or all(each.position.epoch == 0 for each in reports)
            return Choice(found, may_act=is_able or mode is Mode.FORCED, level=head.level)
        reports = await self._proved(reports)
        kept = kept and await self._verified(kept, reports)
        common = await self._forks.find(reports, waited_seconds)
        return await self._agreed(head, ballot, reports, kept, mode, common, is_asked)

    def _mode(self, head: Head, waited_seconds: float) -> Mode:
        if head.cause == Cause.FORCED.value:
            return Mode.FORCED
        is_available = self._session.config.recovery == "available"
        return Mode.AVAILABLE if is_available and waited_seconds > AVAILABLE_SECONDS else Mode.SAFE

    async def _agreed(
        self,
        head: Head,
        ballot: Ballot,
        reports: Sequence[Report],
        kept: ServerHistory | None,
        mode: Mode,
        common: Common | None,
        is_asked: bool,
    ) -> Choice:
        """Decide upon what is proved; from level 3 on, upon what can be proved to others."""
        votes, warrant, is_vote_lost = dict[str, str](), "", False
        found = _decide(ballot, reports, kept, mode, common, is_asked=is_asked)
        if isinstance(found, MissingReports):
            return Choice(found, common is not None, head.level)
        level = await self._agreement.level_at(found.base, head)
        if level >= VOTES_LEVEL:
            votes = await self._agreement.votes(reports)
            is_vote_lost = self._session.node_id not in votes
            reports = [report for report in reports if report.node_id in votes]
            found = _decide(ballot, reports, kept, mode, common, is_asked=is_asked)
        if mode is Mode.FORCED and isinstance(found, Decision):
            warrant = await self._agreement.warrant()
            try:
                self._agreement.check_warrant(warrant, found.base, level)
            except OperatorSignatureNeeded:
                mode, warrant = Mode.SAFE, ""  # the cause in Redis is anybody's word
                found = decide(ballot, reports, kept, mode, common)
        may_act = common is not None or mode is Mode.FORCED
        warrant = warrant if level >= VOTES_LEVEL else ""
        return Choice(found, may_act, level, votes, warrant, is_vote_lost)

    async def _proved(self, reports: Sequence[Report]) -> tuple[Report, ...]:
        """Keep the reports that their nodes signed: what Redis says of votes is a claim."""
        seen = await self._session.log.presence.nodes()
        return proved_reports(reports, seen, self._session.engine.replica_status.voter_keys)

    async def _verified(
        self, kept: ServerHistory, reports: Sequence[Report]
    ) -> ServerHistory | None:
        """Read the voters of the server's history from its entries, not from its header.

        None if no report leads to the end of that history: then the reports decide alone.
        """
        held = [each for each in reports if each.position.epoch]
        if not held:
            return kept  # No node has applied anything yet
        named = {voter for report in held for voter in report.voters}
        held = [each for each in held if each.node_id in named] or held
        starts = {each.position: each for each in held}
        for at in sorted(starts, key=lambda each: each.revision, reverse=True):
            voters = await self._follow(starts[at], kept.position)
            if voters is not None:
                followers = frozenset(each.node_id for each in held if each.position == at)
                return ServerHistory(kept.position, voters, followers)
        return None

    async def _follow(self, start: Report, end: Position) -> tuple[str, ...] | None:
        """Read the entries from a report to an end, because ends alone can be made up.

        Returns:
            The voters at the end; None if the log does not lead there.
        """
        after, voters = start.position, start.voters
        while after.seq < end.seq:
            found = await self._session.log.read(after)
            if found.coverage is not Coverage.WHOLE or found.error or not found.entries:
                return None
            for entry in found.entries:
                if entry.prev_chain != after.chain or not is_chained(entry):
                    return None
                if self._agreement.refuses(entry, after, voters):
                    return None
                voters, after = voters_after(voters, entry.proposal.mutation), entry.position
        return voters if after == end else None


def _decide(
    ballot: Ballot,
    reports: Sequence[Report],
    kept: ServerHistory | None,
    mode: Mode,
    common: Common | None = None,
    *,
    is_asked: bool,
) -> Decision | MissingReports:
    found = decide(ballot, reports, kept, mode, common)
    if is_asked and isinstance(found, MissingReports):
        return decide_without_holders(ballot, reports, kept) or found
    return found
