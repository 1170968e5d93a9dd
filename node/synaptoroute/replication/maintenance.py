"""Maintenance: audits, scrubs and the commands that the coordinator gives to this node.

An audit is an entry of the log.  Every node that applies it reports its digest, and a deep
audit also compares memory and disk row by row.  Commands are read every second.  Nothing here
is needed to answer a query or to take a write, and nothing runs without a request.

Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Sequence
from typing import Final

from synaptoroute.core.change import Commit
from synaptoroute.core.mutation import Audit
from synaptoroute.core.replica import State
from synaptoroute.errors import ProtocolError, SynaptoRouteError
from synaptoroute.ports import ReceivedEntry
from synaptoroute.replication.catch_up import CatchUp
from synaptoroute.replication.encoder_migration import EncoderMigration
from synaptoroute.replication.recovery import Recovery
from synaptoroute.replication.row_repair import RowRepair
from synaptoroute.replication.scrub import Scrub, scrub
from synaptoroute.replication.session import LogState, RedisClock, Session
from synaptoroute.sequencer.presence import COMMAND_AGE_MS_MAX, AuditReport, NodeCommand
from synaptoroute.threads import end_task

AUDIT_AGE_MS_MAX: Final = 600_000
"""A node that catches up reports to no older audit: it is not compared any more."""
POLL_SECONDS: Final = 1.0
EXECUTED_KEY: Final = "executed_commands"  # Key of the newest commands in the node's database
EXECUTED_MAX: Final = 1_024
RESYNC_SECONDS_MAX: Final = 300.0
RESYNC_POLL_SECONDS: Final = 0.2

_log = logging.getLogger(__name__)


def audits_in(received: Sequence[ReceivedEntry]) -> list[Commit]:
    """Find the audits among entries that were applied.  Any thread."""
    return [
        commit
        for each in received
        for commit in each.step.commits
        if isinstance(commit.entry.proposal.mutation, Audit) and not commit.is_duplicate
    ]


class Maintenance:
    def __init__(
        self,
        session: Session,
        clock: RedisClock,
        catch_up: CatchUp,
        row_repair: RowRepair,
        migration: EncoderMigration,
        recovery: Recovery,
    ) -> None:
        self.last_scrub: Scrub | None = None
        self.resyncs = 0  # Commanded resyncs that completed
        self.row_repair = row_repair
        self.migration = migration
        self._session = session
        self._clock = clock
        self._catch_up = catch_up
        self._recovery = recovery
        self._tasks: set[asyncio.Task[None]] = set()
        self._scrubbing = asyncio.Lock()
        self._refused = ""  # Why the newest refused command was refused

    async def close(self) -> None:
        """Stop running tasks; a command is executed again after the next start."""
        await asyncio.gather(*map(end_task, tuple(self._tasks)))

    # --- audits -----------------------------------------------------------------------

    def start_audit(self, commit: Commit) -> None:
        """Report to an audit that was applied, in a task of its own."""
        age_ms = self._clock.now_ms() - commit.entry.time_us / 1_000
        if age_ms > AUDIT_AGE_MS_MAX:
            return
        task = asyncio.create_task(self._report(commit), name=f"audit-{commit.entry.seq}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _report(self, commit: Commit) -> None:
        entry, audits = commit.entry, self._session.log.audits
        # The digest of the commit, not the current one: writes may have followed the audit.
        found = AuditReport(entry.epoch, commit.digest)
        node_id = self._session.node_id
        try:
            await audits.report(entry.seq, node_id, found, self._session.signer)
            mutation = entry.proposal.mutation
            if isinstance(mutation, Audit) and mutation.is_deep:
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
                await audits.report(entry.seq, node_id, found, self._session.signer)
        except SynaptoRouteError as error:
            _log.warning("audit %s was not reported: %s", entry.seq, error)

    async def scrub(self) -> Scrub:
        """Compare memory and disk with the digest; one scrub at a time."""
        async with self._scrubbing:
            found = await scrub(self._session.engine)
            self.last_scrub = found
            if not found.is_sound:
                _log.error("a scrub found damage: %s", found)
            return found

    # --- the size of the log ------------------------------------------------------------

    async def trim_log(self) -> None:
        """Drop what the log need not keep; every node does, so no coordinator is needed."""
        head, retention = self._session.head, self._session.log.retention
        if head is None:
            return
        if head.kept_bytes > retention.limits.bytes_max:
            # A trim needs new rows of the voters; in a large fleet they come rarely.
            self._session.heartbeat_wanted.set()
        try:
            dropped = await retention.keep(head)
        except SynaptoRouteError as error:
            _log.debug("the log could not be trimmed: %s", error)
            return
        if dropped:
            _log.info("%s entries were trimmed from the log", dropped)
            self._session.heartbeat_wanted.set()  # the next trim needs the new floor
        if retention.is_torn:
            retention.is_torn = False
            self._recovery.suspect_damage()

    # --- commands ---------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS * random.uniform(0.8, 1.2))
            if self._session.log_state is LogState.OPEN:
                await self.trim_log()
                await self.poll()

    async def poll(self) -> None:
        """Execute the command that waits for this node, if there is one."""
        commands, node_id = self._session.log.node_commands, self._session.node_id
        try:
            command = await commands.pending(node_id)
        except ProtocolError as error:
            # It stays in Redis until a coordinator replaces it: a genuine one could be removed.
            if str(error) != self._refused:
                self._refused = str(error)
                _log.error("a command for this node is refused: %s", error)
            return
        except SynaptoRouteError as error:
            _log.debug("commands cannot be read: %s", error)
            return
        if command is None:
            return
        try:
            if self._is_due(command):
                _log.warning("executing the command %s: %s", command.kind, command.reason)
                await self._execute(command)
                await self._note_executed(command)
            # Removed only now: a node that dies halfway executes it again.  Each kind may be
            # repeated without harm.
            await commands.complete(node_id)
        except SynaptoRouteError as error:
            _log.warning("the command %s failed: %s", command.kind, error)

    def _is_due(self, command: NodeCommand) -> bool:
        """Whether a command is of now and was not executed; somebody may have put it back."""
        # An old command was given for another state of the fleet.
        if abs(self._clock.now_ms() - command.given_ms) > COMMAND_AGE_MS_MAX:
            return False
        return command.order_id not in dict(self._executed())

    def _executed(self) -> list[tuple[str, int]]:
        text = self._session.engine.database.meta_get(EXECUTED_KEY) or "[]"
        return [(str(order_id), int(given_ms)) for order_id, given_ms in json.loads(text)]

    async def _note_executed(self, command: NodeCommand) -> None:
        """Remember a command for as long as it could be put back."""
        since_ms = self._clock.now_ms() - 2 * COMMAND_AGE_MS_MAX
        kept = [each for each in self._executed() if each[1] >= since_ms][-EXECUTED_MAX:]
        text = json.dumps([*kept, (command.order_id, command.given_ms)])
        await self._session.on_applier(lambda at: at.storage.meta_set(EXECUTED_KEY, text))

    async def _execute(self, command: NodeCommand) -> None:
        match command.kind:
            case "mend":
                await self._repair_rows(command)
            case "resync":
                await self._resync(command)
            case "scrub":
                await self.scrub()
            case _:
                await self.migration.execute(command.kind, command.encoder)

    async def _repair_rows(self, command: NodeCommand) -> None:
        """Repair rows; the coordinator looks again and commands a resync if more is wrong."""
        try:
            await self.row_repair.repair(command.donors)
        except SynaptoRouteError as error:
            _log.warning("rows could not be repaired, a snapshot will do it: %s", error)

    async def _resync(self, command: NodeCommand) -> None:
        """Replace the state by a donor's snapshot; wait until the log is followed again."""
        session = self._session
        before = session.counts.snapshots
        self._catch_up.require_resync(command.reason, command.donors)
        try:
            async with asyncio.timeout(RESYNC_SECONDS_MAX):
                while not (  # noqa: ASYNC110 - another thread changes the replica's state
                    session.counts.snapshots > before
                    and session.engine.replica_status.state is State.LIVE
                ):
                    await asyncio.sleep(RESYNC_POLL_SECONDS)
        except TimeoutError:
            _log.error("the commanded resync did not end in time: %s", command.reason)
            return
        self.resyncs += 1
