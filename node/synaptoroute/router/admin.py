"""Operations on a cluster: recoveries, voters, and writes that a recovery left behind.

Such an orphaned write is replayed as the same write, with the same op_id and the same
preconditions, at a new place of the log.  If it was applied elsewhere meanwhile, the replay
has no second effect.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, Field

from synaptoroute.core.codec import LEVEL, decode_proposal
from synaptoroute.core.mutation import (
    AddUtterances,
    DeleteRoute,
    Finalize,
    Mutation,
    PatchRoute,
    Proposal,
    PutRoute,
    PutSettings,
    RemoveUtterances,
    Revision,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.recovery import Decision
from synaptoroute.errors import ConfigError, ProtocolError, RouteError, RouteNotFound
from synaptoroute.models import WriteResult
from synaptoroute.ports import EnginePort
from synaptoroute.router.writes import WriteOptions, Writer
from synaptoroute.storage import Orphan

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower
    from synaptoroute.sequencer.node_rows import NodeReport

_QUORUM: Final = WriteOptions(ack="quorum")
_NAMED: Final = (PutRoute, DeleteRoute, AddUtterances, RemoveUtterances, PatchRoute)


class OrphanedWrite(BaseModel):
    """A write that a recovery dropped from the log and that one node still had.

    Attributes:
        op_id: Identity of the write, 32 hexadecimal digits.
        version: Its ``epoch.seq``.
        kind: Kind of the write, such as ``PutRoute``.
        route: The route that it changed; None if it concerned all routes.
        moved_at_ms: When it was set aside, in milliseconds since 1970.
        route_set: The route set that it changed; None for ``default``.
    """

    op_id: str
    version: str
    kind: str
    route: str | None
    moved_at_ms: int
    route_set: str | None = Field(default=None, exclude_if=lambda value: value is None)


class RecoveryOutlook(BaseModel):
    """The state of a recovery, and what forcing it may lose.

    Attributes:
        log_state: State of the log.
        detail: What the recovery waits for; empty if nothing.
        is_needed: Whether the log is closed, or open without a majority of its voters, which
            this node needs to become ready.
        base: ``epoch.seq`` of the last entry that would be kept; empty if unknown.
        missing: Voters that have not answered.
        risk: What a forced recovery may lose; empty if nothing that a majority held.
        namespace: Namespace of the cluster.
        cluster_id: Identity of the cluster.
        operator_key: Public key with which the operator must sign a forced recovery; empty if
            none is configured.
    """

    log_state: str
    detail: str
    is_needed: bool
    base: str = ""
    missing: list[str] = []  # pydantic copies a default for each object
    risk: str = ""
    namespace: str = ""
    cluster_id: str = ""
    operator_key: str = ""


class LevelOutlook(BaseModel):
    """The level of the cluster's formats, and what keeps it from rising.

    Attributes:
        level: Level in use.
        level_known: Highest level that this release knows.
        waiting_for: Nodes that do not know it yet, or voters that are away; empty if none.
        version: Version of the entry that raised the level; empty if nothing was written.
    """

    level: int
    level_known: int
    waiting_for: list[str] = []  # pydantic copies a default for each object
    version: str = ""


class ClusterAdmin:
    """The operations of one node's router."""

    def __init__(
        self,
        engine: EnginePort,
        writer: Writer,
        follower: Follower | None,
        writer_of: Callable[[str], Writer],
    ) -> None:
        """Prepare.

        Args:
            engine: The engine.
            writer: Writes what is about no route set.
            follower: How the router follows its cluster; None for one on its own.
            writer_of: Finds what writes into a route set; empty for ``default``.
        """
        self._engine = engine
        self._writer = writer
        self._follower = follower
        self._writer_of = writer_of

    def _member(self) -> Follower:
        """Return how this router follows the log of its cluster."""
        if self._follower is None:
            raise ConfigError("this router is on its own and belongs to no cluster")
        return self._follower

    async def recovery(self) -> RecoveryOutlook:
        follower = self._member()
        from synaptoroute.replication.session import LogState  # a member has loaded it

        found = await follower.recovery.outlook()
        status = follower.status()
        session = follower.session
        outlook = RecoveryOutlook(
            log_state=status.log_state.value,
            detail=status.detail,
            # Where the log is open without its voters, nodes that know a state go on.
            is_needed=found is not None
            and (status.log_state is not LogState.OPEN or session.is_uncertified),
            namespace=session.log.signing_keys.namespace,
            cluster_id=session.cluster_id,
            operator_key=status.operator_key,
        )
        if isinstance(found, Decision):
            kept = {"base": str(found.base.revision), "missing": list(found.absent)}
            outlook = outlook.model_copy(update={**kept, "risk": found.risk})
        return outlook

    async def force_recovery(self, warrant: str = "") -> RecoveryOutlook:
        before = await self.recovery()
        await self._member().recovery.force(warrant)
        return before

    async def unfreeze(self) -> RecoveryOutlook:
        """Undo a state ``frozen`` of the log; return its state afterwards."""
        session = self._member().session
        from synaptoroute.replication.session import LogState  # a member has loaded both
        from synaptoroute.sequencer.scripts import Head

        await session.log.epochs.unfreeze(session.node_id)
        session.heartbeat_wanted.set()
        head = await session.log.head()
        state = head.state if isinstance(head, Head) else LogState.LOST.value
        return (await self.recovery()).model_copy(update={"log_state": state})

    async def change_voter(
        self, node_id: str, is_adding: bool, options: WriteOptions, warrant: str = ""
    ) -> WriteResult:
        follower = self._member()
        op_id = options.op_id or uuid.uuid4().bytes  # The voters agree to this very write
        options = replace(options, op_id=op_id)
        mutation: Mutation = await follower.voter_changes.prepare(
            VoterAdd(node_id) if is_adding else VoterRemove(node_id), op_id, warrant
        )
        return await self._writer.write(mutation, options)

    async def level(self) -> LevelOutlook:
        """Show the level of the log, and which nodes keep it from rising."""
        status = self._engine.replica_status
        waiting: list[str] = []
        if self._follower is not None:
            seen = await self._follower.session.log.presence.nodes()
            reports = {each.report.node_id: each.report for each in seen if each.is_live}
            names = sorted({*reports, *status.voters})
            waiting = [name for name in names if not _knows_level(reports.get(name))]
        return LevelOutlook(level=status.level, level_known=LEVEL, waiting_for=waiting)

    async def finalize(self) -> LevelOutlook:
        """Raise the level of the log to the highest that this release knows."""
        outlook = await self.level()
        if outlook.level >= LEVEL or outlook.waiting_for:
            return outlook
        # The same for every caller, so that two of them have one effect.
        op_id = uuid.uuid5(uuid.NAMESPACE_OID, f"finalize {LEVEL}").bytes
        finalize = Finalize(LEVEL, await self._keys_of_voters())
        result = await self._writer.write(finalize, WriteOptions(op_id=op_id))
        return outlook.model_copy(update={"level": LEVEL, "version": str(result.version)})

    async def _keys_of_voters(self) -> tuple[tuple[str, str], ...]:
        """The keys by which the voters sign their rows, sorted by name."""
        if self._follower is None:
            return ()
        voters = self._engine.replica_status.voters
        seen = await self._follower.session.log.presence.nodes()
        keys = {each.report.node_id: each.public_key for each in seen if each.public_key}
        return tuple(sorted((name, keys[name]) for name in voters if name in keys))

    async def orphans(self) -> list[OrphanedWrite]:
        """List the orphaned writes in the order in which they were put aside."""
        orphans = await asyncio.to_thread(self._engine.database.orphans)
        return [shown for each in orphans if (shown := _shown(each)) is not None]

    async def replay_orphan(self, op_id: bytes) -> WriteResult:
        """Replay an orphaned write, and forget it once it is decided.

        Raises:
            RouteNotFound: This node has no such write.
            RouteError: It is rejected now; it is forgotten, too.
            SequencerUnavailable: The log did not take it; it is kept.
        """
        try:
            return await self._replay(op_id)
        finally:
            if self._follower is not None:
                await self._follower.session.count_orphans()

    async def _replay(self, op_id: bytes) -> WriteResult:
        orphans = await asyncio.to_thread(self._engine.database.orphans)
        found = next((each for each in orphans if each.op_id == op_id), None)
        proposal = _proposal_of(found) if found else None
        if proposal is None or not _is_replayable(proposal.mutation):
            raise RouteNotFound("this node has no orphaned write with this identity")
        options = WriteOptions(
            op_id=op_id,
            request_hash=proposal.request_hash,
            if_match=proposal.if_match,
            if_none_match=proposal.if_none_match,
            note=proposal.note,
        )
        try:
            writer = self._writer_of(proposal.route_set)
            result = await writer.write(proposal.mutation, options)
        except RouteError:
            await self._forget(op_id)
            raise
        if result.status != "pending":
            await self._forget(op_id)
        return result

    async def _forget(self, op_id: bytes) -> None:
        # On the applier's thread: it owns the database's write connection.
        forgotten = self._engine.run_on_applier(lambda state: state.storage.drop_orphan(op_id))
        await asyncio.wrap_future(forgotten)


class ClusterOperations:
    """Operations of a router on its cluster, beside routes and queries."""

    def _admin(self) -> ClusterAdmin:
        raise NotImplementedError

    async def arecovery(self) -> RecoveryOutlook:
        """Describe the state of a recovery, and what forcing it may lose.

        Raises:
            SequencerUnavailable: Redis does not answer.
        """
        return await self._admin().recovery()

    async def aforce_recovery(self, warrant: str = "") -> RecoveryOutlook:
        """Open the log with the nodes that are present; return what that may have lost.

        The absent voters lose their vote.

        Raises:
            OperatorSignatureNeeded: The cluster knows the operator's key, and ``warrant`` is not
                its signature.
            SequencerUnavailable: Redis does not answer.
        """
        return await self._admin().force_recovery(warrant)

    async def aunfreeze(self) -> RecoveryOutlook:
        """Open a log that was frozen: the header said so, whoever wrote it."""
        return await self._admin().unfreeze()

    async def achange_voter(
        self,
        node_id: str,
        *,
        is_adding: bool,
        options: WriteOptions = _QUORUM,
        warrant: str = "",
    ) -> WriteResult:
        """Give one node a vote on recoveries, or take it away.

        Raises:
            OperatorSignatureNeeded: The voters are pinned, it replaces no lost voter, and
                ``warrant`` is not the operator's signature; see ``trust.operator``.
            SequencerUnavailable: With reason ``unheld`` if a majority does not hold the
                last change yet.
        """
        return await self._admin().change_voter(node_id, is_adding, options, warrant)

    async def alevel(self) -> LevelOutlook:
        """Show the level of the cluster's formats, and which nodes keep it from rising.

        Raises:
            SequencerUnavailable: Redis does not answer.
        """
        return await self._admin().level()

    async def afinalize(self) -> LevelOutlook:
        """Raise the formats to the newest level, if every node knows it.

        An older release cannot join the cluster, or open this database, any more.

        Raises:
            SequencerUnavailable: The log did not take it.
        """
        return await self._admin().finalize()

    async def aorphans(self) -> list[OrphanedWrite]:
        """List the writes that recoveries left behind on this node."""
        return await self._admin().orphans()

    async def areplay_orphan(self, op_id: bytes) -> WriteResult:
        """Replay an orphaned write, with its identity and its preconditions.

        Raises:
            RouteNotFound: This node has no such write.
        """
        return await self._admin().replay_orphan(op_id)


def _knows_level(report: NodeReport | None) -> bool:
    return report is not None and report.level >= LEVEL


def _proposal_of(orphan: Orphan) -> Proposal | None:
    try:
        return decode_proposal(orphan.frame)
    except ProtocolError:
        return None


def _is_replayable(mutation: Mutation) -> bool:
    return isinstance(mutation, (*_NAMED, PutSettings))


def _shown(orphan: Orphan) -> OrphanedWrite | None:
    """Describe an orphaned write; None for one that no client made."""
    proposal = _proposal_of(orphan)
    if proposal is None or not _is_replayable(proposal.mutation):
        return None
    mutation = proposal.mutation
    return OrphanedWrite(
        op_id=orphan.op_id.hex(),
        version=str(Revision(orphan.epoch, orphan.seq)),
        kind=type(mutation).__name__,
        route=mutation.name if isinstance(mutation, _NAMED) else None,
        moved_at_ms=orphan.moved_at_us // 1_000,
        route_set=proposal.route_set or None,
    )
