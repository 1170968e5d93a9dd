"""What a node does for the health of the fleet: audits and orders.

At the place of an audit every node reports its digest; a deep one has it also compare
memory and disk, row by row.  NodeCommands are read every second: a scrub, or a resync for a
node that was found to differ from the majority.  None of it is needed to answer a
query or to take a write, and nothing here runs if nobody asks.

Runs on the event loop; ``received`` is called on the applier's thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from synaptoroute.core.change import Commit
from synaptoroute.core.mutation import Audit
from synaptoroute.core.replica import State
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.ports import ReceivedEntry
from synaptoroute.replication.encoder_migration import Generations
from synaptoroute.replication.row_repair import Mender
from synaptoroute.replication.scrub import Scrub, scrub
from synaptoroute.replication.status import LogState
from synaptoroute.sequencer.client import end_task
from synaptoroute.sequencer.node_commands import COMMAND_AGE_MS_MAX, NodeCommand
from synaptoroute.sequencer.presence import AuditReport

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower

AUDIT_AGE_MS_MAX: Final = 600_000
"""A node that catches up reports to no older audit: nobody compares it any more."""
LOOK_SECONDS: Final = 1.0
RESYNC_SECONDS_MAX: Final = 300.0
RESYNC_POLL_SECONDS: Final = 0.2

_log = logging.getLogger(__name__)


class Duties:
    """One node's part in the health of its fleet.

    Attributes:
        last_scrub: What the newest scrub found; None before the first.
        resyncs: Resyncs that were ordered and done.
        mender: What puts rows right.
        generations: Its part in changes of the encoder.
        orphans_count: Writes that recoveries left behind on this node.
    """

    def __init__(self, follower: Follower) -> None:
        self.last_scrub: Scrub | None = None
        self.resyncs = 0
        self.generations = Generations(follower)
        self.mender = Mender(follower)
        self.orphans_count = 0
        self._follower = follower
        self._tasks: set[asyncio.Task[None]] = set()
        self._scrubbing = asyncio.Lock()

    async def close(self) -> None:
        """Give up what is under way; an order is begun again at the next start."""
        await asyncio.gather(*map(end_task, tuple(self._tasks)))

    async def count_orphans(self) -> None:
        """Count what recoveries left behind, after it may have changed.

        Raises:
            StorageUnavailable: It cannot be read.
        """
        storage = self._follower.engine.database
        self.orphans_count = await asyncio.to_thread(storage.orphan_count)

    # --- audits ------------------------------------------------------------------------

    @staticmethod
    def audits_in(received: Sequence[ReceivedEntry]) -> list[Commit]:
        """Find the audits among what was applied.  Runs on the applier's thread."""
        return [
            commit
            for each in received
            for commit in each.step.commits
            if isinstance(commit.entry.proposal.mutation, Audit) and not commit.is_duplicate
        ]

    def audit(self, commit: Commit) -> None:
        """Report to an audit that was applied, in a task of its own."""
        age_ms = self._follower.pulse.now_ms() - commit.entry.time_us / 1_000
        if age_ms > AUDIT_AGE_MS_MAX:
            return
        task = asyncio.create_task(self._report(commit), name=f"audit-{commit.entry.seq}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _report(self, commit: Commit) -> None:
        entry, audits = commit.entry, self._follower.log.audits
        found = AuditReport(entry.epoch, commit.digest)
        node_id = self._follower.node_id
        try:
            await audits.report(entry.seq, node_id, found)
            asked = entry.proposal.mutation
            if isinstance(asked, Audit) and asked.is_deep:
                scrubbed = await self.scrub()
                digest = commit.digest if scrubbed.is_digest_right else "0" * 32
                found = AuditReport(
                    entry.epoch,
                    digest,
                    True,
                    scrubbed.rows,
                    scrubbed.memory_rows,
                    scrubbed.disk_rows,
                )
                await audits.report(entry.seq, node_id, found)
        except SynaptoRouteError as error:
            _log.warning("audit %s was not reported: %s", entry.seq, error)

    async def scrub(self) -> Scrub:
        """Compare memory and disk with the digest; one at a time.

        Raises:
            StorageUnavailable, NotReady: It could not be done.
        """
        async with self._scrubbing:
            found = await scrub(self._follower.engine)
            self.last_scrub = found
            if not found.is_sound:
                _log.error("a scrub found damage: %s", found)
            return found

    # --- orders ------------------------------------------------------------------------

    async def run(self) -> None:
        """Look for orders until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.2))
            if self._follower.log_state is LogState.OPEN:
                await self.look()

    async def look(self) -> None:
        """Carry out the order that waits for this node, if there is one."""
        try:
            order = await self._follower.log.node_commands.pending(self._follower.node_id)
        except SynaptoRouteError as error:
            _log.debug("orders cannot be read: %s", error)
            return
        if order is not None:
            await self._obey(order)

    async def _obey(self, order: NodeCommand) -> None:
        follower = self._follower
        try:
            if follower.pulse.now_ms() - order.given_ms <= COMMAND_AGE_MS_MAX:
                _log.warning("ordered to %s: %s", order.kind, order.reason)
                await self._carry_out(order)
            await follower.log.node_commands.complete(follower.node_id)
        except SynaptoRouteError as error:
            _log.warning("the order to %s failed: %s", order.kind, error)

    async def _carry_out(self, order: NodeCommand) -> None:
        match order.kind:
            case "mend":
                await self._mend(order)
            case "resync":
                await self._resync(order)
            case "scrub":
                await self.scrub()
            case _:
                await self.generations.obey(order.kind, order.encoder)

    async def _mend(self, order: NodeCommand) -> None:
        """Put rows right; what is more than that is left to whoever looks again."""
        try:
            await self.mender.mend(order.donors)
        except SynaptoRouteError as error:
            _log.warning("rows could not be mended, a snapshot will do it: %s", error)

    async def _resync(self, order: NodeCommand) -> None:
        """Throw the state away and take a donor's snapshot; wait until it is followed again."""
        follower = self._follower
        before = follower.counts.snapshots
        follower.distrust(order.reason, order.donors)
        try:
            async with asyncio.timeout(RESYNC_SECONDS_MAX):
                while not (  # noqa: ASYNC110 - the replica's state is another thread's
                    follower.counts.snapshots > before
                    and follower.engine.replica_status.state is State.LIVE
                ):
                    await asyncio.sleep(RESYNC_POLL_SECONDS)
        except TimeoutError:
            _log.error("the ordered resync did not end: %s", order.reason)
            return
        self.resyncs += 1
