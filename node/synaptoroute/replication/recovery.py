"""Executes an epoch change: what ``core.recovery`` decides, step by step.

Every node does the same: it promises the ballot durably, reports its position, and reads the
reports of all.  A node that can execute the decision, because it or the server holds the
history to keep, takes the lease and opens the next epoch.  So only a majority of the voters
is needed, and a node that dies halfway is replaced by a higher ballot.

The promise and the majority are those of single-decree Paxos (Lamport, "Paxos Made Simple",
2001).  Nothing here is needed to answer a query.  Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.core.recovery import (
    Action,
    Cause,
    Decision,
    MissingReports,
    Mode,
    Report,
    ServerHistory,
    assess_log,
    decide,
    decide_without_holders,
    is_majority,
)
from synaptoroute.errors import ClusterError, SynaptoRouteError
from synaptoroute.failpoints import failpoint
from synaptoroute.ports import AppliedState
from synaptoroute.replication.agreement import Agreement
from synaptoroute.replication.applier import VoterState, promise, voter_state
from synaptoroute.replication.choice import Choice, Chooser
from synaptoroute.replication.heartbeat import node_report
from synaptoroute.replication.session import CLUSTER_ID_KEY, LogState, Session
from synaptoroute.sequencer.epochs import (
    ClusterIdentity,
    LogCheck,
    RecoveryOutcome,
    RecoveryResult,
    RefillEntry,
)
from synaptoroute.sequencer.lease import Held, Lease
from synaptoroute.sequencer.node_rows import NodeReport
from synaptoroute.sequencer.scripts import Head, NoLog
from synaptoroute.sequencer.votes import vote_of
from synaptoroute.threads import end_task
from synaptoroute.trust.operator import OPERATOR

RECOVERY_LEASE: Final = "recovery"
VOTER_POLL_SECONDS: Final = 0.1
OBSERVER_POLL_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 1.0  # How long silent nodes are waited for once a majority has answered
FORCED_PATIENCE_SECONDS: Final = 3.0
STUCK_SECONDS: Final = 5.0
"""After this time without the node that should act, a higher ballot is begun."""
STUCK_DOUBLINGS_MAX: Final = 4
"""Each ballot in a row gets twice the time, so that slow nodes finish one eventually."""
CHECK_INTERVAL_SECONDS: Final = 5.0
FORGERY_INTERVAL_SECONDS: Final = 2.0
FORGERY_PATIENCE_HEARTBEATS: Final = 1.5
READ_ENTRIES: Final = 512
READ_BYTES: Final = 4_194_304
REFILL_BYTES_MAX: Final = 67_108_864

EPOCHS_MAX: Final = 1 << 20
"""An epoch or ballot that is this far ahead of a node's own is not believed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """Facts that a header must share with every replica at its position."""

    position: Position
    epoch_id: str
    voters: tuple[str, ...]
    encoder: tuple[str, int]
    level: int

    def is_at(self, head: Head) -> bool:
        """Whether a header is at this place of the same history."""
        return (self.position.seq, self.position.chain) == (head.seq, head.chain)

    def differences(self, head: Head, cluster_id: str) -> list[str]:
        """Names of the fields that a header of this position has wrong."""
        if head.epoch != self.position.epoch:
            return ["epoch"]  # the chain covers it
        found = []
        if self.epoch_id and head.epoch_id != self.epoch_id:
            found.append("epoch_id")
        if self.voters and head.voters != self.voters:
            found.append("voters")
        if (head.fingerprint, head.dim) != self.encoder:
            found.append("fingerprint or dim")
        if head.level != self.level:
            found.append("level")
        if cluster_id and head.cluster_id != cluster_id:
            found.append("lineage")
        return found


def header_facts(at: AppliedState) -> HeaderFacts:
    """Read the facts at one position.  Runs on the applier's thread."""
    replica = at.replica
    return HeaderFacts(
        replica.position, replica.epoch_id, replica.voters, at.storage.encoder, replica.level
    )


class Recovery:
    def __init__(self, session: Session, agreement: Agreement, chooser: Chooser) -> None:
        self.detail = ""  # What the recovery waits for; empty if there is none
        self._session = session
        self._agreement = agreement
        self._chooser = chooser
        self._epochs = session.log.epochs
        self._task: asyncio.Task[None] | None = None
        self._answered: Ballot | None = None
        self._said: tuple[Position, tuple[str, ...]] = (Position(), ())  # What it reported then
        self._ballot: Ballot | None = None
        self._ballot_since = 0.0
        self._ballots_seen = 0
        self._checked_at = -CHECK_INTERVAL_SECONDS
        self._proven = ""
        self._asked: Ballot | None = None  # The ballot that an operator asked this node for
        self._ballot_begun = False  # Whether the last accusation of the log began a ballot

    def start(self) -> None:
        """Take part in a task of its own, until the log is open."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="recovery")

    def suspect_damage(self, proof: str = "") -> None:
        """Have the log on the server checked against its header.

        Args:
            proof: What this node found in the log that no log can contain, and a check of the
                header does not find: then the log is refilled in any case, once.
        """
        if time.monotonic() - self._checked_at < CHECK_INTERVAL_SECONDS:
            return
        if self._task is None or self._task.done():
            self._checked_at = time.monotonic()
            if proof and proof == self._proven:
                proof = ""  # the log was refilled: another node has the damage on its disk
            self._proven = proof or self._proven
            self._task = asyncio.create_task(self._check_damage(proof), name="recovery-check")

    def suspect_header(self, head: Head) -> None:
        """Have a header replaced that names other facts than the entries of its log."""
        if time.monotonic() - self._checked_at < CHECK_INTERVAL_SECONDS:
            return
        if self._task is None or self._task.done():
            self._checked_at = time.monotonic()
            self._task = asyncio.create_task(self._check_header(head), name="recovery-check")

    def suspect_forgery(self, position: Position, *, is_missing: bool = False) -> None:
        """Have what the log holds after a position dropped, unless other voters applied it.

        Args:
            position: The last position that is known to be genuine.
            is_missing: The log claims that it had an entry; no peer has shown it yet.
        """
        if not self._session.log.signing_keys.keys:
            return
        if time.monotonic() - self._checked_at < FORGERY_INTERVAL_SECONDS:
            return
        if self._task is None or self._task.done():
            self._checked_at = time.monotonic()
            self._task = asyncio.create_task(
                self._drop_suspected(position, is_missing), name="recovery-forged"
            )

    async def close(self) -> None:
        """Stop; another node continues, or this one after its restart."""
        if self._task is not None:
            await end_task(self._task)

    async def _run(self) -> None:
        try:
            while await self._step():
                is_voter = self._session.node_id in (await self._voter_state()).voters
                seconds = VOTER_POLL_SECONDS if is_voter else OBSERVER_POLL_SECONDS
                await asyncio.sleep(seconds * random.uniform(0.5, 1.0))
        except SynaptoRouteError as error:
            self.detail = str(error)
            _log.warning("the recovery pauses: %s", error)
        self._session.heartbeat_wanted.set()

    async def _step(self) -> bool:
        """Read the head and do the next step; whether there is another one."""
        head = await self._session.log.head()
        if head.role == "slave":
            return False
        state = await self._voter_state()
        view = None if isinstance(head, NoLog) else head.view
        assessment = assess_log(view, state.position, state.promised, state.epoch_id)
        if assessment.action is Action.JOIN_BALLOT and _is_beyond_reach(head, state):
            # A promise is durable: with the last number promised, no epoch could follow.
            return await self._begin(Cause.DAMAGED, head, state) is not None
        if assessment.action is Action.START_BALLOT:
            assert assessment.cause is not None
            return await self._begin(assessment.cause, head, state) is not None
        if assessment.action is not Action.JOIN_BALLOT or isinstance(head, NoLog):
            if self._ballot is not None:
                # The checks of a log say nothing about the one after it.
                self._checked_at = -CHECK_INTERVAL_SECONDS
            self.detail, self._ballot, self._ballots_seen = "", None, 0
            return False
        return await self._take_part(head)

    async def _voter_state(self) -> VoterState:
        return await self._session.on_applier(lambda state: voter_state(state.replica))

    # --- the ballot -------------------------------------------------------------------

    async def _begin(
        self, cause: Cause, head: Head | NoLog, state: VoterState, *, is_header_wrong: bool = False
    ) -> Ballot | None:
        # No number of a damaged header may become that of a ballot.
        is_header_wrong = is_header_wrong or _is_beyond_reach(head, state)
        known = NoLog(head.time_us, head.role) if is_header_wrong else head
        identity = await self._identity(known, state)
        if identity is None:
            return None
        seen = ""
        if isinstance(head, Head):
            seen = str(head.ballot) if head.ballot else head.epoch_id
        begun = await self._epochs.begin(
            cause,
            # Above every epoch this node applied or promised: a server that lost its log could
            # give the same number twice.
            above=max(state.position.epoch, state.promised.epoch),
            seen=seen,
            node_id=self._session.node_id,
            identity=identity,
            is_header_wrong=is_header_wrong,
        )
        if isinstance(begun, RecoveryResult):
            return None
        failpoint("ballot.begun")
        _log.warning("the log is closed by ballot %s: %s", begun, cause.value)
        return begun

    async def _identity(self, head: Head | NoLog, state: VoterState) -> ClusterIdentity | None:
        """Values for a lost header; None if this node never was in a cluster."""
        if isinstance(head, Head):
            return ClusterIdentity(
                head.cluster_id, head.fingerprint, head.dim, head.level, head.voters
            )
        cluster_id = self._session.engine.database.meta_get(CLUSTER_ID_KEY)
        if not cluster_id:
            return None
        engine = self._session.engine
        encoder, level = engine.encoder, engine.replica_status.level
        return ClusterIdentity(cluster_id, encoder.fingerprint, encoder.dim, level, state.voters)

    async def _take_part(self, head: Head) -> bool:
        """Answer the ballot, read all answers, and act if this node can; whether to go on."""
        ballot = head.ballot
        assert ballot is not None, "a closed log has a ballot: this is a bug"
        if self._ballot != ballot:
            self._ballot, self._ballot_since = ballot, time.monotonic()
            self._ballots_seen += 1
        if self._answered != ballot and not await self._answer(ballot):
            return True
        check = await self._epochs.check_log(head.epoch, ballot)
        if isinstance(check, RecoveryResult):
            return True
        own = [each for each in check.reports if each.node_id == self._session.node_id]
        if [(each.position, each.voters) for each in own] != [self._said]:
            # A server that restarted or failed over may have lost the report, and whoever can
            # write to Redis may have replaced it: send it again.
            self._answered = None
            return True
        await self._conclude(head, ballot, check)
        return True

    async def _answer(self, ballot: Ballot) -> bool:
        """Promise a ballot durably, then report; False if it may not be promised."""
        state = await self._session.on_applier(lambda at: promise(at.replica, at.storage, ballot))
        if state is None:
            return False
        if state.position.epoch < ballot.epoch:
            # Signed with every row from now on.  It is made here alone, from a state that does
            # not change any more: a voter never signs two positions for one ballot.
            self._session.vote = vote_of(ballot, state.position, state.voters)
            # An empty node does not know the level yet.
            is_new = not state.position.epoch and bool(self._session.log.signing_keys.secret)
            if self._session.log.is_strict or is_new:
                # Before the report, so that who sees the report sees the vote.
                await self._agreement.vote(ballot, state.position, state.voters)
        # The position was read after the promise on the applier's thread, so no entry of an
        # older epoch can follow it.
        await self._session.log.presence.heartbeat(
            node_report(self._session, state.position),
            signer=self._session.signer,
            promise=ballot,
            voters=state.voters,
        )
        self._answered, self._said = ballot, (state.position, state.voters)
        failpoint("promise.told")
        return True

    # --- the decision -----------------------------------------------------------------

    async def _conclude(self, head: Head, ballot: Ballot, check: LogCheck) -> None:
        waited_seconds = time.monotonic() - self._ballot_since
        own, _ = self._said
        choice = await self._chooser.choose(
            head, ballot, check, own, waited_seconds, is_asked=ballot == self._asked
        )
        if choice.is_vote_lost:
            self._answered = None  # lost or replaced: vote again
        found = choice.found
        if isinstance(found, MissingReports):
            names = ", ".join(found.missing) or "a voter"
            self._wait(f"waiting for voters to answer ballot {ballot}: {names}")
            return
        # A majority is enough for safety.  The patience is for writes that only a slower node
        # holds: with its report they are kept, without it they are left behind.
        is_sure = head.cause != Cause.FORCED.value
        patience_seconds = PATIENCE_SECONDS if is_sure else FORCED_PATIENCE_SECONDS
        is_early = waited_seconds < patience_seconds and (check.silent or found.absent)
        # Before everything is given up, every node that lives has to say that it holds nothing.
        if is_early or (check.silent and not found.base.epoch):
            self._wait(f"waiting for nodes: {', '.join((*check.silent, *found.absent))}")
            return
        if choice.may_act and (found.is_kept or self._session.node_id in found.holders):
            await self._execute(head, ballot, choice, found)
        elif waited_seconds > STUCK_SECONDS * 2 ** min(self._ballots_seen, STUCK_DOUBLINGS_MAX):
            await self._outbid(head)
        else:
            self._wait(f"waiting for {', '.join(found.holders)} to open epoch {ballot.epoch}")

    async def _outbid(self, head: Head) -> None:
        """Replace a ballot that no node completes."""
        lease = self._session.log.lease(RECOVERY_LEASE, self._session.node_id)
        held = await lease.acquire()
        if isinstance(held, Held):  # else its holder is still at work
            await self._begin(Cause.OUTBID, head, await self._voter_state())
            await lease.release(held)

    def _wait(self, detail: str) -> None:
        self.detail = detail
        self._session.set_log_state(LogState.RECOVERING, detail)

    async def _execute(
        self, head: Head, ballot: Ballot, choice: Choice, decision: Decision
    ) -> None:
        lease = self._session.log.lease(RECOVERY_LEASE, self._session.node_id)
        held = await lease.acquire()
        if not isinstance(held, Held):
            return
        failpoint("lease.taken")
        # The lease only avoids double work.  It may run out at any time, so every script
        # compares its token and the ballot: safety does not depend on it.
        try:
            result = await self._open(lease, held, head, ballot, choice, decision)
        finally:
            with contextlib.suppress(ClusterError):  # it expires by itself
                await lease.release(held)
        if result.outcome is RecoveryOutcome.OK:
            self._session.counts.reopenings += 1
            _log.warning(
                "epoch %s is open upon %s, %s; %s",
                ballot.epoch,
                decision.base.revision,
                "as Redis held it" if decision.is_kept else "filled again from this node",
                decision.risk or "nothing that a majority held is lost",
            )
        else:
            self.detail = f"epoch {ballot.epoch} could not be opened: {result.outcome.value}"
            _log.warning("%s %s", self.detail, result.detail)

    async def _open(
        self,
        lease: Lease,
        held: Held,
        head: Head,
        ballot: Ballot,
        choice: Choice,
        decision: Decision,
    ) -> RecoveryResult:
        base = decision.base
        floor, floor_chain = base.seq + 1, base.chain
        encoder, voter_keys = (head.fingerprint, head.dim), dict[str, str]()
        if not base.epoch:
            own = self._session.engine.encoder
            encoder, voter_keys = (own.fingerprint, own.dim), await self._keys_of(decision.voters)
        elif not decision.is_kept:
            # This node's database is at the base, so it has the encoder of the vectors.
            # The header may be older or newer than the base, or made up after a loss.
            encoder = self._session.engine.database.encoder
        if not decision.is_kept:
            entries = await asyncio.to_thread(self._read_log, decision.refill_after_seq, base)
            if entries:
                floor, floor_chain = entries[0].seq, entries[0].prev_chain
            filled = await self._epochs.refill(lease, held, ballot, entries)
            if filled.outcome is not RecoveryOutcome.OK:
                return filled
            failpoint("refill.done")
        result = await self._epochs.reopen(
            held,
            head,
            decision,
            encoder=encoder,
            floor=floor,
            floor_chain=floor_chain,
            level=choice.level,
            voter_keys=voter_keys,
            votes=choice.chosen_votes(decision),
            warrant=choice.warrant,
        )
        failpoint("reopen.done")
        return result

    async def _keys_of(self, names: Collection[str]) -> dict[str, str]:
        seen = {each.report.node_id: each for each in await self._session.log.presence.nodes()}
        found = {name: seen[name].public_key for name in names if name in seen}
        return {name: key for name, key in found.items() if key}

    def _read_log(self, after_seq: int, base: Position) -> list[RefillEntry]:
        """Read this node's op log up to the base, as far back as wanted and available.

        Blocks; runs on a thread of its own.
        """
        database = self._session.engine.database
        after = max(after_seq, (database.log_floor() or base.seq + 1) - 1)
        entries: list[RefillEntry] = []
        size_bytes = 0
        while after < base.seq:
            rows = database.read_log(after, entries_max=READ_ENTRIES, bytes_max=READ_BYTES)
            if not rows:
                return []  # a hole: open the epoch with the base alone
            for row in rows:
                entries.append(
                    RefillEntry(
                        row.epoch,
                        row.seq,
                        row.time_us,
                        row.prev_chain,
                        row.chain,
                        row.frame,
                        row.seal,
                    )
                )
                size_bytes += len(row.frame)
            after = entries[-1].seq
        # Redis need not hold more than this: nodes farther behind take a snapshot.
        skipped = 0
        bytes_max = min(REFILL_BYTES_MAX, self._session.log.retention.limits.target_bytes)
        while size_bytes > bytes_max:
            size_bytes -= len(entries[skipped].frame)
            skipped += 1
        return entries[skipped:]

    # --- damage, operators ------------------------------------------------------------

    async def _check_damage(self, proof: str) -> None:
        log = self._session.log
        try:
            head = await log.head()
            if isinstance(head, NoLog) or not head.is_open:
                return
            check = await self._epochs.check_log(head.epoch, None)
            if isinstance(check, RecoveryResult):
                return
            damage = check.damage or proof
            if not damage:
                return
            state = await self._voter_state()
            _log.error("the log in Redis is damaged (%s): %s", log.keys.log(head.epoch), damage)
            self._session.set_log_state(LogState.DAMAGED, f"{log.keys.log(head.epoch)}: {damage}")
            if await self._begin(Cause.DAMAGED, head, state):
                await self._run()
        except SynaptoRouteError as error:
            _log.warning("the log could not be checked: %s", error)

    async def _drop_suspected(self, position: Position, is_missing: bool) -> None:
        try:
            if await self._accuse(position, is_missing=is_missing) and self._ballot_begun:
                await self._run()
        except SynaptoRouteError as error:
            _log.warning("the forged log could not be recovered: %s", error)

    async def drop_forged(self, position: Position) -> bool:
        """Have what the log holds beyond a position dropped, if that is forged.

        Returns:
            Whether it is: whether a majority of the voters stands at or before the position.
        """
        if self._task is not None and not self._task.done():
            return False
        is_forged = await self._accuse(position)
        if is_forged and self._ballot_begun:
            self.start()
        return is_forged

    async def contest(self) -> bool:
        """Have the voters decide between a log and this voter's other history of the same epoch.

        An epoch has one order of entries, so such a log lies, or this node's disk does.  A voter
        that left its history would leave what it has acknowledged; the ballot ends the epoch, and
        after it the node knows whether its history survived.

        Returns:
            Whether the node stays; False where it is no voter, or the log is of another epoch.
        """
        head, state = await self._session.log.head(), await self._voter_state()
        is_voter = self._session.is_sealed and self._session.node_id in state.voters
        if isinstance(head, NoLog) or not is_voter or head.epoch_id != state.epoch_id:
            return False
        is_busy = self._task is not None and not self._task.done()
        is_soon = time.monotonic() - self._checked_at < FORGERY_INTERVAL_SECONDS
        if head.is_open and not is_busy and not is_soon:
            self._checked_at = time.monotonic()
            _log.error("the log shows another history of epoch %s: it is recovered", head.epoch)
            if await self._begin(Cause.DAMAGED, head, state):
                self.start()
        return True

    async def _accuse(self, position: Position, *, is_missing: bool = False) -> bool:
        """Begin a ballot that keeps what the voters hold, instead of what the server holds."""
        self._ballot_begun = False
        head, state = await self._session.log.head(), await self._voter_state()
        if isinstance(head, NoLog) or not head.is_open:
            return False
        agreeing, beyond = await self._around(position, head.epoch)
        # A majority must be seen to lack the entry, too.  If others applied it, or if this
        # node cannot verify their rows either, it is this node that may lack a key of the
        # ring, and one misconfigured node must not close the log for all.
        # What is merely missing may still come from the one node that has it.
        is_held = is_missing and bool(beyond.intersection(state.voters))
        if is_held or not is_majority(agreeing, state.voters):
            self.detail = (
                "a majority does not agree that the log is forged: a key may be missing here"
            )
            return False
        if self._session.node_id in state.voters:
            _log.error("the log is forged after %s: it is recovered", position.revision)
            self._ballot_begun = await self._begin(Cause.DAMAGED, head, state) is not None
        return True

    async def _around(self, position: Position, epoch: int) -> tuple[set[str], set[str]]:
        """Nodes that report a place at or before a position, and beyond it, in rows made later.

        Rows that were written before the suspicion say nothing about the entry.  Nodes beyond it
        that have not joined the epoch of the log hold nothing that this epoch appended, so they
        are neither.
        """
        presence = self._session.log.presence
        before = {seen.report.node_id: seen.report for seen in await presence.nodes()}
        waited_seconds = FORGERY_PATIENCE_HEARTBEATS * self._session.heartbeat_seconds
        await asyncio.sleep(waited_seconds)
        agreeing: set[str] = set()
        beyond: set[str] = set()
        for seen in await presence.nodes():
            row, old = seen.report, before.get(seen.report.node_id)
            # A row that is not signed, of a release before, has no counter.
            is_new = seen.age_ms < waited_seconds * 1_000 and (
                old is None or not row.counter or (row.boot, row.counter) != (old.boot, old.counter)
            )
            if is_new and row.node_id != self._session.node_id:
                if row.position.revision <= position.revision:
                    agreeing.add(row.node_id)
                elif row.position.epoch >= epoch:
                    beyond.add(row.node_id)
        # This node itself may have caught up meanwhile.
        is_here = self._session.position.revision <= position.revision
        (agreeing if is_here else beyond).add(self._session.node_id)
        return agreeing, beyond

    async def _check_header(self, head: Head) -> None:
        """Replace the header if this node is at its position and knows better."""
        try:
            facts = await self._session.on_applier(header_facts)
            cluster_id = self._session.engine.database.meta_get(CLUSTER_ID_KEY) or ""
            wrong: list[str] = []
            if facts.is_at(head):
                wrong = facts.differences(head, cluster_id)
            elif cluster_id and head.cluster_id != cluster_id and await self._holds(facts.position):
                wrong = ["lineage"]
            if not wrong:
                return
            detail = f"{self._session.log.keys.meta}: wrong {', '.join(wrong)}"
            _log.error("the header of the log is damaged: %s", detail)
            self._session.set_log_state(LogState.DAMAGED, detail)
            state = await self._voter_state()
            if await self._begin(Cause.DAMAGED, head, state, is_header_wrong=True):
                await self._run()
        except SynaptoRouteError as error:
            _log.warning("the log could not be checked: %s", error)

    async def _holds(self, position: Position) -> bool:
        """Whether the log has this position, as no log of another cluster can."""
        before = Position(position.epoch, position.seq - 1)
        found = await self._session.log.read(before, entries_max=1)
        return bool(found.entries) and found.entries[0].position == position

    async def outlook(self) -> Decision | MissingReports | None:
        """Show what forcing the recovery would keep and risk; None if a majority can go on."""
        head = await self._session.log.head()
        if isinstance(head, NoLog):
            return None
        ballot, reports, kept = head.ballot, list[Report](), None
        if ballot is not None:
            check = await self._epochs.check_log(head.epoch, ballot)
            if isinstance(check, RecoveryResult):
                return None
            reports, kept = list(check.reports), check.kept
        elif not head.is_open or await self._has_majority(head):
            return None
        else:
            # Nobody has voted yet: a vote would say what the rows of the nodes say.
            ballot, rows = Ballot(), await self._live_rows()
            reports = [Report(each.node_id, ballot, each.position, head.voters) for each in rows]
            starts = {each.node_id for each in reports if each.position.seq >= head.floor - 1}
            kept = ServerHistory(head.position, head.voters, frozenset(starts))
        found = decide(ballot, reports, kept, Mode.FORCED)
        if isinstance(found, MissingReports):
            return decide_without_holders(ballot, reports, kept) or found
        return found

    async def force(self, warrant: str = "") -> None:
        """Let the nodes that are present decide; absent voters lose their vote.

        Call it only after an operator has seen what may be lost.  An open log is closed for it if
        a majority of its voters is away: nodes that lost their disks can then become voters.

        Args:
            warrant: What the operator signed; see ``trust.operator``.

        Raises:
            OperatorSignatureNeeded: The operator's key is known, and it is not its signature.
        """
        head = await self._session.log.head()
        cause, is_open = Cause.FORCED, isinstance(head, Head) and head.is_open
        if is_open and self._session.log_state is LogState.DAMAGED:
            cause = Cause.DAMAGED
        elif is_open and isinstance(head, Head) and await self._has_majority(head):
            return
        else:
            found = await self.outlook()
            base = found.base if isinstance(found, Decision) else self._session.position
            level = max(self._session.level, head.level if isinstance(head, Head) else 0)
            self._agreement.check_warrant(warrant, base, level)
            if warrant:
                await self._session.log.ballots.vote(OPERATOR, warrant)
        self._asked = await self._begin(cause, head, await self._voter_state())
        self.start()

    async def _live_rows(self) -> list[NodeReport]:
        nodes = await self._session.log.presence.nodes()
        return [seen.report for seen in nodes if seen.is_live]

    async def _has_majority(self, head: Head) -> bool:
        """Whether a majority of the voters that the header names is alive."""
        return is_majority([each.node_id for each in await self._live_rows()], head.voters)


def _is_beyond_reach(head: Head | NoLog, state: VoterState) -> bool:
    """Whether a header names an epoch or a ballot that no cluster comes to by itself."""
    if isinstance(head, NoLog):
        return False
    balloted = head.ballot.epoch if head.ballot is not None else 0
    known = max(state.position.epoch, state.promised.epoch)
    return max(head.epoch, balloted) > known + EPOCHS_MAX
