"""Carrying out an epoch change: what ``core.recovery`` decides, done step by step.

Every node does the same: it promises the ballot durably, reports, and looks at the
reports of all.  Whoever can carry the decision out, because it holds what is to be kept
or the server does, takes the lease and opens the next epoch.  So no node is needed but a
majority of the voters, and a node that dies in the middle is replaced by a higher ballot.

Nothing here is needed to answer a query.  Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Final

from synaptoroute.core.codec import LEVEL
from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.core.recovery import (
    Action,
    Cause,
    Decision,
    MissingReports,
    Mode,
    assess_log,
    decide,
)
from synaptoroute.errors import ClusterError, SynaptoRouteError
from synaptoroute.failpoints import failpoint
from synaptoroute.replication.ballot_store import Standing, promise, standing_of
from synaptoroute.replication.status import LogState
from synaptoroute.sequencer.client import end_task
from synaptoroute.sequencer.epochs import (
    ClusterIdentity,
    LogCheck,
    RecoveryOutcome,
    RecoveryResult,
    RefillEntry,
)
from synaptoroute.sequencer.lease import Held, Lease
from synaptoroute.sequencer.scripts import Head, NoLog

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower

CLUSTER_ID_KEY: Final = "lineage"
RECOVERY_LEASE: Final = "recovery"
VOTER_POLL_SECONDS: Final = 0.1
OBSERVER_POLL_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 1.0
"""How long nodes that are silent are waited for once a majority has answered."""
FORCED_PATIENCE_SECONDS: Final = 3.0
STUCK_SECONDS: Final = 5.0
"""After this long without the node that should act, a higher ballot is begun."""
STUCK_DOUBLINGS_MAX: Final = 4
"""Each ballot in a row gets twice the time, so that slow nodes end one at last."""
AVAILABLE_SECONDS: Final = 10.0
"""How long ``recovery=available`` waits for a majority."""
SUSPECT_SECONDS: Final = 5.0
READ_ENTRIES: Final = 512
READ_BYTES: Final = 4_194_304
REFILL_BYTES_MAX: Final = 67_108_864

_log = logging.getLogger(__name__)


class Recovery:
    """One node's part in epoch changes.

    Attributes:
        detail: What is waited for; empty while nothing is.
        found: The newest decision or want of one, for operators.
    """

    def __init__(self, follower: Follower) -> None:
        self.detail = ""
        self.found: Decision | MissingReports | None = None
        self._follower = follower
        self._task: asyncio.Task[None] | None = None
        self._answered: Ballot | None = None
        self._ballot: Ballot | None = None
        self._since = 0.0
        self._ballots_seen = 0
        self._suspected_at = -SUSPECT_SECONDS

    # --- life ------------------------------------------------------------------------

    def wake(self) -> None:
        """Take part, in a task of its own, until the log is open."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="recovery")

    def suspect_damage(self) -> None:
        """Have the server checked: is its stream what its header says?"""
        if time.monotonic() - self._suspected_at < SUSPECT_SECONDS:
            return
        if self._task is None or self._task.done():
            self._suspected_at = time.monotonic()
            self._task = asyncio.create_task(self._check_damage(), name="recovery-check")

    async def close(self) -> None:
        """Give up; another node goes on, or this one after its restart."""
        if self._task is not None:
            await end_task(self._task)

    async def _run(self) -> None:
        try:
            while await self._turn():
                is_voter = self._follower.node_id in (await self._standing()).voters
                seconds = VOTER_POLL_SECONDS if is_voter else OBSERVER_POLL_SECONDS
                await asyncio.sleep(seconds * random.uniform(0.5, 1.0))
        except SynaptoRouteError as error:
            self.detail = str(error)
            _log.warning("the recovery pauses: %s", error)
        self._follower.poke()

    # --- one turn ----------------------------------------------------------------------

    async def _turn(self) -> bool:
        """Look at the log and do the next step; whether there is another one."""
        head = await self._follower.log.head()
        if head.role == "slave":
            return False
        standing = await self._standing()
        view = None if isinstance(head, NoLog) else head.view
        assessment = assess_log(view, standing.position, standing.promised, standing.epoch_id)
        if assessment.action is Action.START_BALLOT:
            assert assessment.cause is not None
            return await self._begin(assessment.cause, head, standing)
        if assessment.action is not Action.JOIN_BALLOT or isinstance(head, NoLog):
            self._rest()
            return False
        return await self._take_part(head)

    def _rest(self) -> None:
        self.detail, self.found, self._ballot, self._ballots_seen = "", None, None, 0

    async def _begin(self, cause: Cause, head: Head | NoLog, standing: Standing) -> bool:
        """Close the log with a ballot, or join the one that goes on."""
        identity = await self._identity(head, standing)
        if identity is None:
            return False
        seen = ""
        if isinstance(head, Head):
            seen = str(head.ballot) if head.ballot else head.epoch_id
        begun = await self._follower.log.epochs.begin(
            cause,
            above=max(standing.position.epoch, standing.promised.epoch),
            seen=seen,
            node_id=self._follower.node_id,
            identity=identity,
        )
        if isinstance(begun, RecoveryResult):
            return False
        failpoint("ballot.begun")
        _log.warning("the log is closed by ballot %s: %s", begun, cause.value)
        return True

    async def _identity(self, head: Head | NoLog, standing: Standing) -> ClusterIdentity | None:
        """What a lost header is made of; None for a node that never was in a cluster."""
        encoder = self._follower.engine.encoder
        if isinstance(head, Head):
            return ClusterIdentity(
                head.cluster_id, head.fingerprint, head.dim, head.level, head.voters
            )
        lineage = self._follower.engine.database.meta_get(CLUSTER_ID_KEY)
        if not lineage:
            return None
        nodes = await self._follower.log.presence.nodes()
        levels = [LEVEL, *(seen.report.level for seen in nodes if seen.is_live)]
        return ClusterIdentity(
            lineage, encoder.fingerprint, encoder.dim, min(levels), standing.voters
        )

    async def _take_part(self, head: Head) -> bool:
        """Answer the ballot, look at all answers, and act if it is this node's turn."""
        ballot = head.ballot
        assert ballot is not None
        if self._ballot != ballot:
            self._ballot, self._since = ballot, time.monotonic()
            self._ballots_seen += 1
        if self._answered != ballot and not await self._answer(ballot):
            return True
        survey = await self._follower.log.epochs.check_log(head.epoch, ballot)
        if isinstance(survey, RecoveryResult):
            return True
        if all(report.node_id != self._follower.node_id for report in survey.reports):
            self._answered = None
            return True
        await self._conclude(head, ballot, survey)
        return True

    async def _answer(self, ballot: Ballot) -> bool:
        """Promise a ballot durably, then report; False if it may not be promised."""
        standing = await asyncio.wrap_future(
            self._follower.engine.run_on_applier(lambda state: promise(state, ballot))
        )
        if standing is None:
            return False
        await self._follower.pulse.report_to(ballot, standing)
        self._answered = ballot
        failpoint("promise.told")
        return True

    async def _standing(self) -> Standing:
        return await asyncio.wrap_future(self._follower.engine.run_on_applier(standing_of))

    # --- deciding ------------------------------------------------------------------------

    def _mode(self, head: Head, waited_seconds: float) -> Mode:
        if head.cause == Cause.FORCED.value:
            return Mode.FORCED
        is_available = self._follower.config.recovery == "available"
        return Mode.AVAILABLE if is_available and waited_seconds > AVAILABLE_SECONDS else Mode.SAFE

    async def _conclude(self, head: Head, ballot: Ballot, survey: LogCheck) -> None:
        """Decide, and carry it out if this node can."""
        waited_seconds = time.monotonic() - self._since
        kept = None if head.cause == Cause.DAMAGED.value else survey.kept
        found = decide(ballot, survey.reports, kept, self._mode(head, waited_seconds))
        self.found = found
        if isinstance(found, MissingReports):
            names = ", ".join(found.missing) or "a voter"
            self._wait(f"waiting for voters to answer ballot {ballot}: {names}")
            return
        is_sure = head.cause != Cause.FORCED.value
        patience_seconds = PATIENCE_SECONDS if is_sure else FORCED_PATIENCE_SECONDS
        if waited_seconds < patience_seconds and (survey.silent or found.absent):
            self._wait(f"waiting for nodes: {', '.join((*survey.silent, *found.absent))}")
            return
        if found.is_kept or self._follower.node_id in found.holders:
            await self._act(head, ballot, found)
        elif waited_seconds > STUCK_SECONDS * 2 ** min(self._ballots_seen, STUCK_DOUBLINGS_MAX):
            await self._outbid(head)
        else:
            self._wait(f"waiting for {', '.join(found.holders)} to open epoch {ballot.epoch}")

    async def _outbid(self, head: Head) -> None:
        """Replace a ballot that nobody ends; whoever holds the lease is still at work."""
        lease = self._follower.log.lease(RECOVERY_LEASE, self._follower.node_id)
        held = await lease.acquire()
        if isinstance(held, Held):
            await self._begin(Cause.OUTBID, head, await self._standing())
            await lease.release(held)

    def _wait(self, detail: str) -> None:
        self.detail = detail
        self._follower.set_state(LogState.RECOVERING, detail)

    async def _act(self, head: Head, ballot: Ballot, decision: Decision) -> None:
        """Open the next epoch under the lease."""
        lease = self._follower.log.lease(RECOVERY_LEASE, self._follower.node_id)
        held = await lease.acquire()
        if not isinstance(held, Held):
            return
        failpoint("lease.taken")
        try:
            acted = await self._open(lease, held, head, ballot, decision)
        finally:
            with contextlib.suppress(ClusterError):  # it runs out by itself
                await lease.release(held)
        if acted.outcome is RecoveryOutcome.OK:
            self._follower.counts.reopenings += 1
            _log.warning(
                "epoch %s is open upon %s, %s; %s",
                ballot.epoch,
                decision.base.revision,
                "as Redis held it" if decision.is_kept else "filled again from this node",
                decision.risk or "nothing that a majority held is lost",
            )
        else:
            self.detail = f"epoch {ballot.epoch} could not be opened: {acted.outcome.value}"
            _log.warning("%s %s", self.detail, acted.detail)

    async def _open(
        self, lease: Lease, held: Held, head: Head, ballot: Ballot, decision: Decision
    ) -> RecoveryResult:
        recoveries, base = self._follower.log.recoveries, decision.base
        floor, floor_chain = base.seq + 1, base.chain
        encoder = (head.fingerprint, head.dim)
        if not decision.is_kept:
            # This node stands at the base.  The header may be older, newer, or a guess.
            encoder = self._follower.engine.database.encoder
            entries = await asyncio.to_thread(self._read_log, decision.refill_after_seq, base)
            if entries:
                floor, floor_chain = entries[0].seq, entries[0].prev_chain
            filled = await recoveries.refill(lease, held, ballot, entries)
            if filled.outcome is not RecoveryOutcome.OK:
                return filled
            failpoint("refill.done")
        acted = await recoveries.reopen(
            held, head, decision, encoder=encoder, floor=floor, floor_chain=floor_chain
        )
        failpoint("reopen.done")
        return acted

    def _read_log(self, after_seq: int, base: Position) -> list[RefillEntry]:
        """Read this node's op log up to the base, as far back as is wanted and held."""
        storage = self._follower.engine.database
        after = max(after_seq, (storage.log_floor() or base.seq + 1) - 1)
        entries: list[RefillEntry] = []
        size_bytes = 0
        while after < base.seq:
            rows = storage.read_log(after, entries_max=READ_ENTRIES, bytes_max=READ_BYTES)
            if not rows:
                return []  # a hole: the base alone is sure
            for row in rows:
                entries.append(
                    RefillEntry(
                        row.epoch, row.seq, row.time_us, row.prev_chain, row.chain, row.frame
                    )
                )
                size_bytes += len(row.frame)
            after = entries[-1].seq
        skipped = 0
        while size_bytes > REFILL_BYTES_MAX:
            size_bytes -= len(entries[skipped].frame)
            skipped += 1
        return entries[skipped:]

    # --- suspicion, operators --------------------------------------------------------------

    async def _check_damage(self) -> None:
        """Close an open log whose stream is not what its header says."""
        log = self._follower.log
        try:
            head = await log.head()
            if isinstance(head, NoLog) or not head.is_open:
                return
            survey = await log.epochs.check_log(head.epoch, None)
            if isinstance(survey, RecoveryResult) or not survey.why:
                return
            _log.error("what Redis holds of the log is damaged: %s", survey.why)
            if await self._begin(Cause.DAMAGED, head, await self._standing()):
                await self._run()
        except SynaptoRouteError as error:
            _log.warning("the log could not be checked: %s", error)

    async def outlook(self) -> Decision | MissingReports | None:
        """What forcing the recovery would keep and risk; None while the log is open.

        Raises:
            SequencerUnavailable: Redis does not answer.
        """
        log = self._follower.log
        head = await log.head()
        if isinstance(head, NoLog) or head.ballot is None:
            return None
        survey = await log.epochs.check_log(head.epoch, head.ballot)
        if isinstance(survey, RecoveryResult):
            return None
        return decide(head.ballot, survey.reports, survey.kept, Mode.FORCED)

    async def force(self) -> None:
        """Let those decide who are there; the absent voters vote no longer.

        Call it after an operator saw what may be lost.

        Raises:
            SequencerUnavailable: Redis does not answer.
        """
        follower = self._follower
        head = await follower.log.head()
        cause = Cause.FORCED
        if isinstance(head, Head) and head.is_open:
            if follower.log_state is not LogState.DAMAGED:
                return
            cause = Cause.DAMAGED
        await self._begin(cause, head, await self._standing())
        self.wake()
