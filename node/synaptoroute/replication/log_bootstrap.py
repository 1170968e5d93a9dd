"""Judging the head of the log: founding it, following it, having it recovered.

A log is founded once, by nodes that are all empty.  What a head means for a node that
holds something is decided by ``core.recovery``; ``recovery`` beside this carries it out.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from synaptoroute.core.mutation import Position
from synaptoroute.core.recovery import Action, Cause, assess_log
from synaptoroute.core.replica import VOTERS_MAX
from synaptoroute.errors import StorageUnavailable
from synaptoroute.replication.recovery import CLUSTER_ID_KEY
from synaptoroute.replication.status import LogState
from synaptoroute.sequencer.epochs import FoundingOutcome
from synaptoroute.sequencer.scripts import Head, NoLog

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower


_STATE_OF_CAUSE: Final = {
    Cause.LOST: LogState.LOST,
    Cause.REGRESSED: LogState.REGRESSED,
    Cause.DAMAGED: LogState.DAMAGED,
}


class Opening:
    """What one node does about the state of the log.

    Attributes:
        mismatch: Which encoder this node lacks to follow the log; empty if it lacks none.
            It stays while the log recovers: a header that was lost names no encoder.
    """

    def __init__(self, follower: Follower) -> None:
        self.mismatch = ""
        self._follower = follower

    async def judge(self, head: Head | NoLog, reported: Position) -> None:
        """Decide what a head means; ``reported`` is the position before it was read."""
        follower = self._follower
        if head.role == "slave":
            follower.set_state(LogState.AWAY, "this Redis server is a replica")
            return
        if isinstance(head, NoLog):
            await self._judge_no_log(reported)
            return
        if self._is_foreign(head, reported):
            follower.set_state(LogState.FOREIGN)
            return
        await self._keep_lineage(head.cluster_id)
        self._judge_log(head, reported)

    def _judge_log(self, head: Head, reported: Position) -> None:
        """Decide what the log of this node's own cluster means."""
        follower = self._follower
        replica = follower.engine.replica_status
        epochs = replica.epochs
        epoch_id = epochs[-1].opened.epoch_id if epochs else ""
        assessment = assess_log(head.view, reported, replica.promised, epoch_id)
        match assessment.action:
            case Action.WAIT:
                follower.set_state(LogState.FROZEN)
            case Action.START_BALLOT | Action.JOIN_BALLOT:
                self._recover(assessment.cause, head, reported)
            case _ if self._lacks_encoder(head):
                follower.set_state(LogState.MISMATCH, self.mismatch)
            case Action.LEAVE_EPOCH:
                follower.accept_head(head)
                follower.distrust(f"epoch {head.epoch} was opened by another ballot", ())
            case _:
                follower.accept_head(head)

    def _lacks_encoder(self, head: Head) -> bool:
        """Whether this node cannot follow an open log for want of its encoder.

        Asked of a log that may be followed only: a voter answers a ballot with whatever
        encoder it has, or the voters of a newer one would be kept out by an old header.
        """
        engine = self._follower.engine
        # An encoder that stands by will do: the entry that changes to it is on its way here.
        if engine.encoders.known.get(head.fingerprint) == head.dim:
            self.mismatch = ""
        else:
            self.mismatch = (
                f"the log carries vectors of encoder {head.fingerprint[:12]} (dimension "
                f"{head.dim}), this node has {engine.encoder.fingerprint[:12]} "
                f"({engine.encoder.dim})"
            )
        return bool(self.mismatch)

    def _recover(self, cause: Cause | None, head: Head, reported: Position) -> None:
        """Say how the log stands, and take part in its recovery."""
        follower = self._follower
        state = LogState.RECOVERING if cause is None else _STATE_OF_CAUSE.get(cause)
        detail = follower.recovery.detail
        if cause is Cause.REGRESSED:
            detail = f"Redis stands at {head.position.revision}, this node at {reported.revision}"
        follower.set_state(state or LogState.RECOVERING, detail)
        follower.recovery.wake()

    def _is_foreign(self, head: Head, reported: Position) -> bool:
        """Whether the log is not the one that this node's database comes from.

        Numbers alone cannot tell: a log that was founded anew grows past the old one.
        """
        if reported.epoch == 0:
            return False
        engine = self._follower.engine
        known = engine.database.meta_get(CLUSTER_ID_KEY)
        if known:
            return known != head.cluster_id
        epochs = engine.replica_status.epochs
        own = epochs[-1] if epochs else None
        return own is not None and own.epoch == head.epoch and own.opened.epoch_id != head.epoch_id

    async def _keep_lineage(self, lineage: str) -> None:
        """Remember the cluster's identity, by which nodes know each other."""
        engine = self._follower.engine
        if not lineage or lineage == engine.database.meta_get(CLUSTER_ID_KEY):
            return
        with contextlib.suppress(StorageUnavailable):  # a full disk; the next heartbeat tries
            await asyncio.wrap_future(
                engine.run_on_applier(lambda state: state.storage.meta_set(CLUSTER_ID_KEY, lineage))
            )

    # --- founding --------------------------------------------------------------------------

    async def _judge_no_log(self, reported: Position) -> None:
        if reported.epoch > 0:
            self._follower.set_state(LogState.LOST)
            self._follower.recovery.wake()
        else:
            await self._found()

    async def _found(self) -> None:
        """Found the log, if the expected nodes are there and all of them are empty."""
        follower = self._follower
        follower.set_state(LogState.FOUNDING)
        live = [seen.report for seen in await follower.log.presence.nodes() if seen.is_live]
        if any(report.epoch > 0 for report in live):
            follower.set_state(LogState.LOST, "a node holds entries of a log that is gone")
            return
        names = sorted(report.node_id for report in live)
        expect = follower.config.bootstrap_expect
        if len(names) < expect or follower.node_id not in names[:expect]:
            follower.detail = f"{len(names)} of {expect} nodes are there to found the log"
            return
        encoder = follower.engine.encoder
        founding = await follower.log.epochs.found(
            fingerprint=encoder.fingerprint,
            dim=encoder.dim,
            voters=names[: _voters_of(expect)],
        )
        if founding.outcome in (FoundingOutcome.FOUNDED, FoundingOutcome.EXISTS):
            follower.poke()
        else:
            follower.set_state(LogState.LOST, f"a log could not be founded: {founding.detail}")


def _voters_of(expect: int) -> int:
    """How many of the founders vote: an odd number, at most the limit."""
    count = min(expect, VOTERS_MAX)
    return count if count % 2 else count - 1
