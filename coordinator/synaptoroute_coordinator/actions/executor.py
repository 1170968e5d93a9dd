"""Actions carried out against the log, under the lease.

What a script does compares the lease's token.  What is logged is ordered and has its
effect once: an audit changes nothing, and an abort names what it aborts.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from dataclasses import dataclass
from typing import Literal

from synaptoroute.core.mutation import Audit, ImportAbort, Position, Proposal, Revision
from synaptoroute.errors import ClusterError
from synaptoroute.sequencer.epochs import Trimmed, TrimOutcome
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.node_commands import NodeCommand
from synaptoroute.sequencer.presence import AuditReport
from synaptoroute.sequencer.scripts import Head
from synaptoroute_coordinator.plan import AbortImport, Repair, StartAudit, Trim


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What came of an action.

    Attributes:
        outcome: ``done``, ``refused`` (the lease is not ours) or ``failed``.
        detail: One sentence.
        seq: Place of what was logged; 0 for nothing.
    """

    outcome: Literal["done", "refused", "failed"]
    detail: str = ""
    seq: int = 0


class Executor:
    """Acts on one log.  Used on one event loop."""

    def __init__(self, log: RedisLog) -> None:
        self._log = log
        self._head: Head | None = None
        log.attach(position=lambda: self._at, fingerprint=lambda: self._fingerprint)

    @property
    def _at(self) -> Position:
        return self._head.position if self._head else Position()

    @property
    def _fingerprint(self) -> str:
        return self._head.fingerprint if self._head else ""

    def update_head(self, head: Head) -> None:
        """Take note of the log's header, by which entries are written."""
        self._head = head

    async def trim(self, held: Held, action: Trim) -> ActionResult:
        """Drop entries, as far as the script lets us.

        Raises:
            SequencerUnavailable: No answer.
        """
        found = await self._log.read(Position(action.epoch, action.floor - 1), entries_max=1)
        if not found.entries:
            return ActionResult("failed", f"there is no entry at {action.floor}")
        floor = Revision(found.entries[0].epoch, action.floor)
        answer = await self._log.epochs.trim(held, action.epoch, floor)
        if not isinstance(answer, Trimmed):
            return ActionResult("failed", f"{answer.reason.value} {answer.detail}".strip())
        match answer.outcome:
            case TrimOutcome.TRIMMED:
                return ActionResult(
                    "done", f"{answer.entries} entries dropped before {answer.detail}"
                )
            case TrimOutcome.FENCED:
                return ActionResult("refused", "another coordinator holds the lease")
            case _:
                return ActionResult("failed", f"{answer.outcome.value} {answer.detail}".strip())

    async def start_audit(self, action: StartAudit) -> ActionResult:
        """Log an audit.

        Raises:
            SequencerUnavailable: It was not taken, or nobody knows.
        """
        audit = Audit(f"audit-{int(time.time())}", action.is_deep)
        return await self._append(Proposal(uuid.uuid4().bytes, audit))

    async def abort_import(self, action: AbortImport) -> ActionResult:
        """Log the end of an abandoned import; twice is once.

        Raises:
            SequencerUnavailable: It was not taken, or nobody knows.
        """
        name = f"abort|{action.import_id}|{action.touched_seq}".encode()
        op_id = hashlib.sha256(name).digest()[:16]
        return await self._append(Proposal(op_id, ImportAbort(action.import_id)))

    async def _append(self, proposal: Proposal) -> ActionResult:
        appended = await self._log.append([proposal])
        if appended.at is None:
            raise ClusterError("an entry got no place")
        return ActionResult("done", f"logged at {appended.at}", appended.at.seq)

    async def order(self, held: Held, node: str, order: NodeCommand) -> ActionResult:
        """Leave an order for a node.

        Raises:
            SequencerUnavailable: No answer.
        """
        if not await self._log.node_commands.send(held, node, order):
            return ActionResult("refused", "another coordinator holds the lease")
        return ActionResult("done", f"was told to {order.kind}")

    async def repair(self, held: Held, action: Repair, now_ms: int) -> ActionResult:
        """Tell a node to put its rows right, or to take a donor's state."""
        order = NodeCommand(uuid.uuid4().hex, action.kind, action.reason, now_ms, action.donors)
        return await self.order(held, action.node, order)

    async def reports(self, seq: int) -> dict[str, AuditReport]:
        """Read what nodes found at an audit's place."""
        return await self._log.audits.reports(seq)
