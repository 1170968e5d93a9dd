"""Handles the head of the log: found a log, follow it, or have it recovered.

A log is founded once, by nodes that are all empty.  What a head means for a node that holds
entries is decided by ``core.recovery``; ``recovery`` in this package carries it out.
"""

from __future__ import annotations

import contextlib
from typing import Final

from synaptoroute.core.codec import LEVEL
from synaptoroute.core.mutation import Position
from synaptoroute.core.recovery import Action, Cause, assess_log
from synaptoroute.core.replica import VOTERS_MAX
from synaptoroute.errors import StorageUnavailable
from synaptoroute.replication.catch_up import CatchUp
from synaptoroute.replication.certificates import Certificates
from synaptoroute.replication.recovery import HeaderFacts, Recovery
from synaptoroute.replication.session import CLUSTER_ID_KEY, LogState, Session
from synaptoroute.sequencer.epochs import FoundingOutcome
from synaptoroute.sequencer.scripts import Head, NoLog

_STATE_OF_CAUSE: Final = {
    Cause.LOST: LogState.LOST,
    Cause.REGRESSED: LogState.REGRESSED,
    Cause.DAMAGED: LogState.DAMAGED,
}


class LogBootstrap:
    def __init__(
        self,
        session: Session,
        recovery: Recovery,
        catch_up: CatchUp,
        certificates: Certificates,
    ) -> None:
        # Which encoder this node lacks. Kept while the log recovers: a lost header names no
        # encoder.
        self.mismatch = ""
        self._session = session
        self._recovery = recovery
        self._certificates = certificates
        self._catch_up = catch_up

    async def handle_head(self, head: Head | NoLog, reported: Position) -> None:
        """Handle a head; ``reported`` is this node's position before the head was read."""
        session = self._session
        if head.role == "slave":
            # A replica may be behind its master: its head proves nothing.
            session.set_log_state(LogState.AWAY, "this Redis server is a replica")
        elif isinstance(head, NoLog):
            await self._handle_no_log(reported, head.damage)
        elif self._is_header_wrong(head, reported):
            self._recovery.suspect_header(head)
        elif self._is_foreign(head, reported):
            session.set_log_state(LogState.FOREIGN)
            # It may be this cluster's log with a damaged header.
            self._recovery.suspect_header(head)
        else:
            await self._keep_cluster_id(head.cluster_id)
            self._handle_log(head, reported)
            if head.torn:
                self._recovery.suspect_damage()

    def _handle_log(self, head: Head, reported: Position) -> None:
        session = self._session
        replica = session.engine.replica_status
        assessment = assess_log(head.view, reported, replica.promised, replica.epoch_id)
        match assessment.action:
            case Action.WAIT:
                session.set_log_state(LogState.FROZEN)
                session.hear_log(head)
            case Action.START_BALLOT | Action.JOIN_BALLOT:
                self._recover(assessment.cause, head, reported)
            # Only for a log that may be followed: a voter answers a ballot with any encoder.
            # Otherwise an old header would exclude the voters of a newer encoder.
            case _ if self._lacks_encoder(head):
                session.set_log_state(LogState.MISMATCH, self.mismatch)
            case Action.LEAVE_EPOCH:
                session.accept_head(head)
                self._catch_up.require_resync(f"epoch {head.epoch} was opened by another ballot")
            case _:
                session.accept_head(head)

    def _is_header_wrong(self, head: Head, reported: Position) -> bool:
        """Whether a header at this node's position seems to name other facts than its entries.

        The chain of a position covers the entries that decide these facts.  The recovery
        compares again on the applier's thread: here the replica may have moved on.
        """
        engine = self._session.engine
        replica = engine.replica_status
        facts = HeaderFacts(
            reported, replica.epoch_id, replica.voters, engine.database.encoder, replica.level
        )
        if not head.is_open or not reported.seq or not facts.is_at(head):
            return False
        return bool(facts.differences(head, engine.database.meta_get(CLUSTER_ID_KEY) or ""))

    def _lacks_encoder(self, head: Head) -> bool:
        engine = self._session.engine
        # A loaded encoder that does not serve yet is enough: the entry that changes to it is in
        # the log, and will be applied when the node catches up.
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
        state = LogState.RECOVERING if cause is None else _STATE_OF_CAUSE.get(cause)
        detail = self._recovery.detail
        if cause is Cause.REGRESSED:
            detail = f"Redis is at {head.position.revision}, this node at {reported.revision}"
        self._session.set_log_state(state or LogState.RECOVERING, detail)
        self._session.hear_log()
        self._recovery.start()

    def _is_foreign(self, head: Head, reported: Position) -> bool:
        """Whether the log belongs to another cluster than this node's database.

        Positions are not enough: a newly founded log grows past the old one.
        """
        if reported.epoch == 0:
            return False
        engine = self._session.engine
        known = engine.database.meta_get(CLUSTER_ID_KEY)
        if known:
            return known != head.cluster_id
        # A database from before the cluster's identity was kept: compare the epoch's ballot.
        epochs = engine.replica_status.epochs
        own = epochs[-1] if epochs else None
        return own is not None and own.epoch == head.epoch and own.opened.epoch_id != head.epoch_id

    async def _keep_cluster_id(self, cluster_id: str) -> None:
        known = self._session.engine.database.meta_get(CLUSTER_ID_KEY)
        if not cluster_id or cluster_id == known:
            return
        with contextlib.suppress(StorageUnavailable):  # a full disk; the next heartbeat retries
            await self._session.on_applier(
                lambda state: state.storage.meta_set(CLUSTER_ID_KEY, cluster_id)
            )

    # --- founding ---------------------------------------------------------------------

    async def _handle_no_log(self, reported: Position, damage: str) -> None:
        if reported.epoch > 0:
            # This node holds entries, so there was a log: this is a recovery, never a founding.
            self._session.set_log_state(LogState.LOST, damage)
            self._session.hear_log()
            self._recovery.start()
        elif damage:
            # A node that holds entries repairs it.  If none does, the key is no log at all.
            self._session.set_log_state(LogState.LOST, damage)
        else:
            await self._found()

    async def _found(self) -> None:
        session = self._session
        session.set_log_state(LogState.FOUNDING)
        nodes = [seen for seen in await session.log.presence.nodes() if seen.is_live]
        live = [seen.report for seen in nodes]
        if any(report.epoch > 0 for report in live):
            session.set_log_state(LogState.LOST, "a node holds entries of a log that is gone")
            return
        # Voters that no newcomer would count cannot found a cluster.
        pinned = self._certificates.pinned
        founders = [seen for seen in nodes if not pinned or seen.public_key in pinned]
        if pinned:
            # A pinned key counts once: a node that lost its disk a moment ago is seen twice.
            founders.sort(key=lambda seen: seen.age_ms, reverse=True)
            founders = list({seen.public_key: seen for seen in founders}.values())
        names = sorted(seen.report.node_id for seen in founders)
        expected = session.config.bootstrap_expect
        if len(names) < expected or session.node_id not in names[:expected]:
            session.detail = f"{len(names)} of {expected} nodes are there to found the log"
            return
        encoder = session.engine.encoder
        voters = names[: min(expected, VOTERS_MAX)]  # every founder votes
        keys = {seen.report.node_id: seen.public_key for seen in nodes if seen.public_key}
        founding = await session.log.epochs.found(
            fingerprint=encoder.fingerprint,
            dim=encoder.dim,
            voters=voters,
            voter_keys={name: keys[name] for name in voters if name in keys},
            # A node of the release before would not understand the first entry.
            level=min(LEVEL, *(report.level for report in live)),
        )
        if founding.outcome in (FoundingOutcome.FOUNDED, FoundingOutcome.EXISTS):
            session.heartbeat_wanted.set()
        else:
            session.set_log_state(LogState.LOST, f"a log could not be founded: {founding.detail}")
