"""The part of a router's face for operators: recoveries, voters, writes left behind."""

from __future__ import annotations

from synaptoroute.cascade import Calibration
from synaptoroute.cascade.calibrator import calibrate_cascade
from synaptoroute.cascade.cascade import Cascade
from synaptoroute.core.mutation import VoterAdd, VoterRemove
from synaptoroute.core.recovery import Decision
from synaptoroute.errors import ConfigError
from synaptoroute.models import OrphanedWrite, RecoveryOutlook, WriteResult
from synaptoroute.replication.follower import Follower
from synaptoroute.router import orphans
from synaptoroute.router.looks import Looks
from synaptoroute.router.write_options import Guard

_QUORUM = Guard(ack="quorum")


class Repairs(Looks):
    """What a router does for the operators of its cluster."""

    _cascade: Cascade | None

    def _member(self) -> Follower:
        """How this router follows its log.

        Raises:
            ConfigError: It is on its own.
        """
        if self.follower is None:
            raise ConfigError("this router is on its own: there is no cluster to look after")
        return self.follower

    async def arecovery(self) -> RecoveryOutlook:
        """Say how a recovery stands, and what forcing it may cost.

        Raises:
            SequencerUnavailable: Redis does not answer.
        """
        follower = self._member()
        found = await follower.recovery.outlook()
        status = follower.status()
        outlook = RecoveryOutlook(
            log_state=status.log_state.value, detail=status.detail, is_needed=found is not None
        )
        if isinstance(found, Decision):
            kept = {"base": str(found.base.revision), "missing": list(found.absent)}
            outlook = outlook.model_copy(update={**kept, "risk": found.risk})
        return outlook

    async def aforce_recovery(self) -> RecoveryOutlook:
        """Open the log with the nodes that are there; give what that may have cost.

        The voters that are absent vote no longer.

        Raises:
            SequencerUnavailable: Redis does not answer.
        """
        before = await self.arecovery()
        await self._member().recovery.force()
        return before

    async def achange_voter(
        self, node_id: str, *, is_adding: bool, guard: Guard = _QUORUM
    ) -> WriteResult:
        """Let one node vote on recoveries, or no longer.

        Raises:
            SequencerUnavailable: With reason ``unheld`` where a majority does not hold
                the last change yet.
        """
        mutation = VoterAdd(node_id) if is_adding else VoterRemove(node_id)
        self._member()
        return await self._writer.write(mutation, guard)

    async def acalibrate(self) -> tuple[Calibration, WriteResult]:
        """Judge the cascade on the routes of now, on every node at one position.

        Happens by itself too, when the cascade is switched on and when routes changed.

        Raises:
            ConfigError: This node has no table of the encoder that serves.
            ClusterError: The log did not take it.
        """
        return await calibrate_cascade(
            self._engine, self._cascade, lambda change: self._writer.write(change, Guard())
        )

    async def aorphans(self) -> list[OrphanedWrite]:
        """List the writes that recoveries left behind on this node."""
        return await orphans.list_orphans(self._engine)

    async def areplay_orphan(self, op_id: bytes) -> WriteResult:
        """Make one of them again, with its identity and its conditions.

        Raises:
            RouteNotFound: There is no such write here.
        """
        try:
            return await orphans.replay_orphan(self._engine, self._writer, op_id)
        finally:
            if self.follower is not None:
                await self.follower.duties.count_orphans()
