"""Judging the head of the log: founding it, following it, reopening it.

A log is founded once, by nodes that are all empty.  After a restart of Redis its
replication id is another one; writes stay closed until every live node has proved
that its position is a prefix of what Redis still holds.  What was really lost is not
papered over here: the state is named, and writes stay closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from synaptoroute.cluster.epochs import (
    RETRY,
    VOTERS_MAX,
    FoundingOutcome,
    Reopening,
    ReopeningOutcome,
)
from synaptoroute.cluster.lease import Held
from synaptoroute.cluster.scripts import Head, NoLog
from synaptoroute.core.mutation import Position
from synaptoroute.errors import ClusterError, ProtocolError, StorageUnavailable
from synaptoroute.follower.status import LogState

if TYPE_CHECKING:
    from synaptoroute.follower.follower import Follower

LINEAGE_KEY: Final = "lineage"
REOPEN_SECONDS_MAX: Final = 30.0
REOPEN_POLL_SECONDS: Final = 0.1
HELD_SECONDS: Final = 0.5
"""How long a node waits that sees another one reopen the log."""
VERDICT_SECONDS: Final = 5.0
"""How long a proof of loss stands before it is looked for again."""
RECOVERY_LEASE: Final = "recovery"


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Why a log could not be reopened.

    Attributes:
        ballot: The recovery in which it was found.
        state: How the log stands.
        detail: What proves it.
        until: Until when it is not looked for again, by the monotonic clock.
    """

    ballot: str
    state: LogState
    detail: str
    until: float


class Opening:
    """What one node does about the state of the log."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._reopening: asyncio.Task[None] | None = None
        self._verdict: _Verdict | None = None

    async def judge(self, head: Head | NoLog, reported: Position) -> None:
        """Decide what a head means; ``reported`` is the position before it was read."""
        follower = self._follower
        if isinstance(head, NoLog):
            await self._judge_no_log(head, reported)
            return
        if self._is_foreign(head, reported):
            follower.set_state(LogState.FOREIGN)
            return
        await self._keep_lineage(head.lineage)
        encoder = follower.engine.encoder
        if (head.fingerprint, head.dim) != (encoder.fingerprint, encoder.dim):
            follower.set_state(
                LogState.MISMATCH,
                f"the log carries vectors of encoder {head.fingerprint[:12]} (dimension "
                f"{head.dim}), this node has {encoder.fingerprint[:12]} ({encoder.dim})",
            )
        elif head.state == "frozen":
            follower.set_state(LogState.FROZEN)
        elif not head.is_open:
            self._judge_recovering(head)
        elif _is_beyond(reported, head):
            follower.set_state(
                LogState.REGRESSED,
                f"Redis stands at {head.position.revision}, this node at {reported.revision}",
            )
        else:
            self._verdict = None
            follower.accept_head(head)

    def _is_foreign(self, head: Head, reported: Position) -> bool:
        """Whether the log is not the one that this node's database comes from.

        Numbers alone cannot tell: a log that was founded anew grows past the old one.
        """
        if reported.epoch == 0:
            return False
        engine = self._follower.engine
        known = engine.storage.meta_get(LINEAGE_KEY)
        if known and known != head.lineage:
            return True
        epochs = engine.applier.replica.epochs
        own = epochs[-1] if epochs else None
        return own is not None and own.epoch == head.epoch and own.opened.epoch_id != head.epoch_id

    async def _keep_lineage(self, lineage: str) -> None:
        """Remember the cluster's identity, by which nodes know each other."""
        applier, storage = self._follower.engine.applier, self._follower.engine.storage
        if not lineage or lineage == storage.meta_get(LINEAGE_KEY):
            return
        with contextlib.suppress(StorageUnavailable):  # a full disk; the next heartbeat tries
            await asyncio.wrap_future(applier.call(lambda: storage.meta_set(LINEAGE_KEY, lineage)))

    # --- founding --------------------------------------------------------------------------

    async def _judge_no_log(self, head: NoLog, reported: Position) -> None:
        follower = self._follower
        if head.role == "slave":
            follower.set_state(LogState.AWAY, "this Redis server is a replica")
        elif reported.epoch > 0:
            follower.set_state(LogState.LOST)
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

    # --- reopening ---------------------------------------------------------------------------

    def _judge_recovering(self, head: Head) -> None:
        """Help to reopen; a proof of loss that was found stands for a while."""
        verdict = self._verdict
        if verdict and verdict.ballot == head.rec_id and time.monotonic() < verdict.until:
            self._follower.set_state(verdict.state, verdict.detail)
            return
        self._follower.set_state(LogState.RECOVERING)
        self._reopen_soon()

    def _reopen_soon(self) -> None:
        """Prove in a task of its own that nothing was lost."""
        if self._reopening is None or self._reopening.done():
            self._reopening = asyncio.create_task(self._reopen(), name="reopening")

    async def _reopen(self) -> None:
        follower = self._follower
        lease = follower.log.lease(RECOVERY_LEASE, follower.node_id)
        try:
            held = await lease.acquire()
            if not isinstance(held, Held):
                await asyncio.sleep(HELD_SECONDS * random.uniform(0.2, 1.0))
                follower.poke()
                return
            try:
                await self._prove(lease_seconds=REOPEN_SECONDS_MAX)
            finally:
                await lease.release(held)
        except (ClusterError, ProtocolError) as error:
            follower.set_state(LogState.RECOVERING, str(error))
        follower.poke()

    async def _prove(self, lease_seconds: float) -> None:
        """Open a ballot, have every node report, and reopen when all have."""
        follower = self._follower
        deadline = time.monotonic() + lease_seconds
        while time.monotonic() < deadline:
            ballot = await follower.log.epochs.recover()
            if isinstance(ballot, Reopening):
                self._conclude(ballot, "")
                return
            await follower.pulse.beat()
            head = await follower.log.head()
            if isinstance(head, NoLog):
                follower.set_state(LogState.LOST)
                return
            reopening = await follower.log.epochs.reopen(head.epoch, ballot)
            if reopening.outcome not in RETRY:
                self._conclude(reopening, ballot)
                return
            follower.detail = f"waiting for {', '.join(reopening.nodes) or 'another recovery'}"
            await asyncio.sleep(REOPEN_POLL_SECONDS)

    def _conclude(self, reopening: Reopening, ballot: str) -> None:
        follower = self._follower
        match reopening.outcome:
            case ReopeningOutcome.OPEN:
                follower.counts.reopenings += 1
                return
            case ReopeningOutcome.LOST:
                state, detail = LogState.LOST, ""
            case ReopeningOutcome.FROZEN:
                state, detail = LogState.FROZEN, ""
            case ReopeningOutcome.TORN:
                state, detail = LogState.DAMAGED, reopening.detail
            case _:
                where = f" at {reopening.at}" if reopening.at else ""
                nodes = ", ".join(reopening.nodes)
                state, detail = LogState.REGRESSED, f"node {nodes} proves a loss{where}"
        self._verdict = _Verdict(ballot, state, detail, time.monotonic() + VERDICT_SECONDS)
        follower.set_state(state, detail)

    async def close(self) -> None:
        """Give up a reopening that is under way."""
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.gather(self._reopening, return_exceptions=True)


def _is_beyond(position: Position, head: Head) -> bool:
    """Whether a node holds what the log does not have."""
    if position.epoch != head.epoch:
        return position.epoch > head.epoch
    return position.seq > head.seq or (position.seq == head.seq and position.chain != head.chain)


def _voters_of(expect: int) -> int:
    """How many of the founders vote: an odd number, at most the limit."""
    count = min(expect, VOTERS_MAX)
    return count if count % 2 else count - 1
