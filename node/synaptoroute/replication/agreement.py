"""Checks of the entries that need the agreement of the voters, by one node.

``sequencer.votes`` verifies the votes; this module adds what the node itself knows: its cluster,
its settings, and whether it took part.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from typing import Final

from synaptoroute.core.codec import LEVEL
from synaptoroute.core.levels import VOTES_LEVEL
from synaptoroute.core.mutation import Ballot, Entry, OpenEpoch, Position, VoterAdd, VoterRemove
from synaptoroute.core.recovery import Report
from synaptoroute.core.replica import Electors, level_after
from synaptoroute.errors import OperatorSignatureNeeded, ProtocolError
from synaptoroute.replication.session import Session
from synaptoroute.sequencer.log_reads import Coverage
from synaptoroute.sequencer.scripts import Head
from synaptoroute.sequencer.votes import VoteCheck, read_vote, sign_vote
from synaptoroute.trust.operator import OPERATOR
from synaptoroute.trust.voters import AgreedChange, read_change

_log = logging.getLogger(__name__)

IN_TOUCH_SECONDS: Final = 30.0
"""A voter that was current so recently would have answered a ballot."""


class Agreement:
    """The demands of one node.

    ``check`` runs on the applier's thread; it reads single values of the session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._vote_check = VoteCheck(
            self._read,
            self._read_change,
            # A new node may read changes from before the voters were pinned, or an operator was
            # named; a majority then certifies its state as a whole.
            lambda: session.log.has_genesis and not session.is_uncertified,
            self._may_force,
        )

    def check(self, entry: Entry, electors: Electors) -> str | None:
        """Return why an entry is not followed; None if the voters agreed, or need not."""
        reason = self._vote_check(entry, electors)
        if reason is not None and entry.epoch > electors.base.epoch:
            self._session.refused_epoch = entry.epoch
        return reason

    def refuses(self, entry: Entry, base: Position, voters: tuple[str, ...]) -> bool:
        """Whether an entry after a position that no node has applied is not agreed to."""
        session = self._session
        is_voted = isinstance(entry.proposal.mutation, VoterAdd | VoterRemove)
        if session.level < VOTES_LEVEL or not (is_voted or entry.epoch != base.epoch):
            return False
        keys = session.engine.replica_status.voter_keys
        return self.check(entry, Electors(base, voters, keys)) is not None

    def say_what_is_trusted(self) -> None:
        """Log what this node believes without a majority."""
        if self._session.operator is None:
            _log.warning(
                "no operator's key is configured: an epoch that was opened without a majority is "
                "followed while the voters are away; see docs/operations.md"
            )

    def check_warrant(self, warrant: str, base: Position, level: int) -> None:
        """Check that nodes follow an epoch that is forced upon a base, at a level of the log.

        Raises:
            OperatorSignatureNeeded: The operator has not signed it.
        """
        session = self._session
        # An empty node does not know the level yet.
        is_new = session.position.epoch == 0 and bool(session.log.signing_keys.secret)
        if session.operator is None or level < VOTES_LEVEL:
            return
        if not session.log.is_strict and not is_new:
            return
        try:
            session.operator.check_force(warrant, session.cluster_id, base)
        except ProtocolError as error:
            raise OperatorSignatureNeeded(
                f"a forced recovery needs the operator's signature: {error.message}"
            ) from error

    async def warrant(self) -> str:
        """Read what is there as the operator's statement about this recovery; not verified.

        Raises:
            SequencerUnavailable: No answer.
        """
        return (await self._session.log.ballots.read([OPERATOR])).get(OPERATOR, "")

    # --- votes of this node, and of the others ------------------------------------------

    async def vote(self, ballot: Ballot, position: Position, voters: tuple[str, ...]) -> None:
        """Publish this node's report to a ballot, signed.

        Raises:
            SequencerUnavailable: No answer.
        """
        session = self._session
        report = Report(session.node_id, ballot, position, voters)
        statement = sign_vote(session.signer, session.cluster_id, report)
        await session.log.ballots.vote(session.node_id, statement)

    async def votes(self, reports: Iterable[Report]) -> dict[str, str]:
        """Read the votes that say the same as these reports, by node.

        Raises:
            SequencerUnavailable: No answer.
        """
        said = {report.node_id: report for report in reports}
        found = await self._session.log.ballots.read(said)
        votes = {}
        for name, statement in found.items():
            with contextlib.suppress(ProtocolError):
                if self._read(statement)[0] == said[name]:
                    votes[name] = statement
        return votes

    async def level_at(self, base: Position, head: Head) -> int:
        """Return the level of the log at a position: the header is the server's word.

        Raises:
            SequencerUnavailable: No answer.
        """
        session = self._session
        if not base.epoch:
            return min(head.level, LEVEL)  # The log begins again
        level, after = session.level, session.position
        while level != head.level and after.seq < base.seq:
            found = await session.log.read(after)
            if found.coverage is not Coverage.WHOLE or found.error or not found.entries:
                return head.level
            for entry in found.entries:
                level = level_after(level, entry.proposal.mutation)
            after = found.entries[-1].position
        return level

    # --- demands --------------------------------------------------------------------------

    def _read(self, statement: str) -> tuple[Report, str]:
        session = self._session
        return read_vote(session.log.verifier, statement, session.cluster_id)

    def _read_change(self, statement: str) -> AgreedChange:
        session = self._session
        said = read_change(session.log.verifier, statement)
        if said.change.cluster != session.cluster_id:
            raise ProtocolError(f"{said.by!r} agreed to a change in another cluster", forged=True)
        return said

    def _may_force(self, entry: Entry, electors: Electors, by: frozenset[str]) -> str | None:
        """Return why an epoch that was opened without a majority is not followed, or None."""
        session, opened = self._session, entry.proposal.mutation
        assert isinstance(opened, OpenEpoch), "only openings are forced: this is a bug"
        if session.is_uncertified:
            return None
        # An operator has chosen before, for all outages, that voters may be missing.
        is_chosen = session.config.recovery == "available" and opened.voters == electors.voters
        if session.operator is not None and not is_chosen:
            try:
                session.operator.check_force(opened.warrant, session.cluster_id, electors.base)
            except ProtocolError as error:
                return f"entry {entry.seq} opens epoch {entry.epoch} without a majority: {error}"
            return None
        if not is_chosen and (reason := self._refusal_of_voter(entry, electors, by)):
            return reason
        _log.warning(
            "epoch %s was opened without a majority of the voters, by %s; it is followed, because "
            "no operator's key is configured or recovery=available is set",
            entry.epoch,
            ", ".join(sorted(by)),
        )
        return None

    def _refusal_of_voter(self, entry: Entry, electors: Electors, by: frozenset[str]) -> str | None:
        """Return why this voter knows that an opening without a majority is not genuine."""
        session = self._session
        if session.node_id in by:
            # Whoever has this node's key may have voted in its name.
            is_own = session.engine.replica_status.promised.epoch >= entry.epoch
            return None if is_own else f"this node did not vote for epoch {entry.epoch}"
        if session.node_id not in electors.voters:
            return None
        # A voter that is in touch with the log answers every ballot, so a genuine opening without
        # a majority has its vote.  One that was away, or starts, cannot tell.
        if session.is_caught_up and session.staleness_ms < IN_TOUCH_SECONDS * 1_000:
            return f"entry {entry.seq} opens epoch {entry.epoch} without this voter, nor a majority"
        return None
