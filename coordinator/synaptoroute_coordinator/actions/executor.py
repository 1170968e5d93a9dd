"""Actions carried out against the log, under the lease.

Redis scripts compare the token of the lease.  Logged actions need no token, because they
are safe to do twice: an audit changes nothing, and an abort names the import it aborts.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from synaptoroute.author import AUTHOR
from synaptoroute.core.levels import BASE_LEVEL, VOTES_LEVEL
from synaptoroute.core.mutation import (
    Audit,
    ImportAbort,
    Position,
    Proposal,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.errors import ClusterError
from synaptoroute.sequencer.epochs import Trimmed, TrimOutcome
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.node_rows import NodeSeen
from synaptoroute.sequencer.presence import AuditReport, NodeCommand
from synaptoroute.sequencer.scripts import Head
from synaptoroute.trust.statements import Signer
from synaptoroute_coordinator.plan import AbortImport, ChangeVoter, Repair, StartAudit, Trim

AUTHOR_LEVEL: Final = 2  # From this level of the log on, entries name their authors
AUTHOR_SUFFIX: Final = "/coordinator"
"""After the name of the user for whom it acts, if any; no name of a key has a slash."""


@dataclass(frozen=True, slots=True)
class ActionResult:
    outcome: Literal["done", "refused", "failed"]  # refused: the lease was lost
    detail: str = ""
    seq: int = 0  # of the logged entry; 0 for none


class Executor:
    """Executes actions on one log.  Used on one event loop."""

    def __init__(self, log: RedisLog, signer: Signer | None = None) -> None:
        self._log = log
        self._signer = signer  # Signs commands as this coordinator
        self._head: Head | None = None
        self.level = BASE_LEVEL  # The highest that was seen
        self._keys: dict[str, str] = {}  # By which nodes sign their rows
        log.attach(
            position=lambda: self._head.position if self._head else Position(),
            fingerprint=lambda: self._head.fingerprint if self._head else "",
            level=lambda: self.level,
            voters=lambda: self._head.voters if self._head else (),
        )

    def update_head(self, head: Head) -> None:
        """Set the header of the log, on which appended entries are based."""
        self._head = head
        self.level = max(self.level, head.level)

    def update_level(self, nodes: Iterable[NodeSeen]) -> bool:
        """Raise the level to the highest that a majority of the voters has signed.

        Redis could name a lower one, to have unsigned rows counted.  Who are the voters is Redis'
        word, too, but it cannot sign for any.

        Returns:
            Whether it rose.
        """
        nodes = tuple(nodes)
        self._keys = {each.report.node_id: each.public_key for each in nodes if each.public_key}
        voters = set(self._head.voters) if self._head else set()
        told = [n.report for n in nodes if n.public_key and n.report.node_id in voters]
        levels = sorted((each.log_level for each in told), reverse=True)
        majority = len(voters) // 2
        before = self.level
        if voters and len(levels) > majority:
            self.level = max(self.level, levels[majority])
        return self.level > before

    async def trim(self, held: Held, action: Trim) -> ActionResult:
        """Drop entries, as far as the script allows."""
        answer = await self._log.epochs.trim(
            held, action.epoch, action.floor, keep_bytes=action.keep_bytes
        )
        if not isinstance(answer, Trimmed):
            return ActionResult("failed", f"{answer.reason.value} {answer.detail}".strip())
        match answer.outcome:
            case TrimOutcome.TRIMMED:
                return ActionResult(
                    "done", f"dropped {answer.entries} entries before {answer.detail}"
                )
            case TrimOutcome.FENCED:
                return ActionResult("refused", "another coordinator holds the lease")
            case _:
                return ActionResult("failed", f"{answer.outcome.value} {answer.detail}".strip())

    async def start_audit(self, action: StartAudit) -> ActionResult:
        audit = Audit(f"audit-{int(time.time())}", action.is_deep)
        return await self._append(Proposal(uuid.uuid4().bytes, audit))

    async def abort_import(self, action: AbortImport) -> ActionResult:
        # The operation id follows from the import, so that two aborts count as one.
        name = f"abort|{action.import_id}|{action.touched_seq}".encode()
        op_id = hashlib.sha256(name).digest()[:16]
        return await self._append(Proposal(op_id, ImportAbort(action.import_id)))

    async def change_voter(self, action: ChangeVoter) -> ActionResult:
        mutation: VoterAdd | VoterRemove = VoterRemove(action.node)
        if action.is_adding:
            # From this level on a voter counts with the key that it has when it gets its vote.
            is_key_kept = self._head is not None and self._head.level >= VOTES_LEVEL
            mutation = VoterAdd(action.node, self._keys.get(action.node, "") if is_key_kept else "")
        done = await self._append(Proposal(uuid.uuid4().bytes, mutation))
        return replace(done, detail=f"{action.reason}; {done.detail}")

    async def _append(self, proposal: Proposal) -> ActionResult:
        if self._head is not None and self._head.level >= AUTHOR_LEVEL:
            proposal = replace(proposal, author=AUTHOR.get() + AUTHOR_SUFFIX)
        appended = await self._log.append([proposal])
        if appended.at is None:
            raise ClusterError("an appended entry got no position")
        return ActionResult("done", f"logged at {appended.at}", appended.at.seq)

    async def command(self, held: Held, node: str, command: NodeCommand) -> ActionResult:
        if not await self._log.node_commands.send(held, node, command, self._signer):
            return ActionResult("refused", "another coordinator holds the lease")
        return ActionResult("done", f"was told to {command.kind}")

    async def repair(self, held: Held, action: Repair, now_ms: int) -> ActionResult:
        """Tell a node to repair its rows, or to install a donor's snapshot."""
        command = NodeCommand(uuid.uuid4().hex, action.kind, action.reason, now_ms, action.donors)
        return await self.command(held, action.node, command)

    async def reports(self, seq: int) -> dict[str, AuditReport]:
        return await self._log.audits.reports(seq)
