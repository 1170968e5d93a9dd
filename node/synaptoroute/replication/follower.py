"""The follower: connects the log of a cluster to the engine of one node.

Pub/Sub only signals that something happened; the log is the truth.  Entries from the bus go
straight to the replica, which detects missing entries.  They are read from the log,
then from a peer's op log, then from a peer's snapshot.  None of this is needed to answer a
query.

The follower builds its parts, passes events between them, and runs their loops.  The parts do
not know it: they share the ``session``.  Runs on the event loop; the engine's threads
report to it as an observer.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from synaptoroute.config import ClusterConfig
from synaptoroute.core.mutation import Entry, Position
from synaptoroute.core.replica import Ignored, Source, State
from synaptoroute.errors import ClusterError, EncoderMismatch, SynaptoRouteError
from synaptoroute.ports import EnginePort, IncomingEntry, ReceivedEntry
from synaptoroute.replication.agreement import Agreement
from synaptoroute.replication.catch_up import CatchUp, CatchUpResult
from synaptoroute.replication.certificates import Certificates
from synaptoroute.replication.choice import Chooser
from synaptoroute.replication.encoder_migration import EncoderMigration
from synaptoroute.replication.forks import Forks
from synaptoroute.replication.head_reads import HeadReads
from synaptoroute.replication.heartbeat import Heartbeat
from synaptoroute.replication.incarnation import Incarnation
from synaptoroute.replication.log_bootstrap import LogBootstrap
from synaptoroute.replication.maintenance import Maintenance, audits_in
from synaptoroute.replication.peer_watch import PeerDirectory, PeerWatch
from synaptoroute.replication.readiness import Readiness
from synaptoroute.replication.recovery import Recovery
from synaptoroute.replication.row_repair import RowRepair
from synaptoroute.replication.session import Barriers, FollowerStatus, LogState, Session
from synaptoroute.replication.snapshots import PeerSecret, SnapshotServer, delete_leftovers
from synaptoroute.replication.voter_changes import VoterChanges
from synaptoroute.sequencer.append_errors import Reason, unavailable
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.node_rows import STRICT_LEVEL
from synaptoroute.sequencer.peers import Membership, PeerClient
from synaptoroute.sequencer.pubsub import MessageReceived, Missed, Reconnecting, Subscribed
from synaptoroute.sequencer.wire import Announced, Keepalive, Message
from synaptoroute.threads import end_task
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.requests import Gatekeeper
from synaptoroute.trust.statements import Signer
from synaptoroute.web.tls import ClientTls

RETRY_SECONDS: Final = 0.5
BACKLOG_ENTRIES_MAX: Final = 8_192
_NOT_FOLLOWED: Final = frozenset(
    {
        LogState.UNKNOWN,
        LogState.MISMATCH,
        LogState.FOREIGN,
        LogState.LOST,
        LogState.REGRESSED,
        LogState.CLONE,
    }
)
"""States in which the bus may carry another log than this node's."""

_log = logging.getLogger(__name__)


class Follower:
    """One node's membership in a cluster.

    Invariants: entries reach the engine in the order in which they were read;
    ``session.is_caught_up`` never becomes false again; nothing is applied before the first head
    was handled.
    """

    def __init__(
        self,
        engine: EnginePort,
        log: RedisLog,
        config: ClusterConfig,
        identity: NodeIdentity,
        tls: ClientTls | None = None,
    ) -> None:
        signer = Signer(engine.node_id, identity, log.signing_keys.secret)
        self.incarnation = Incarnation(signer, log.verifier, log.presence, self._ask_boot)
        self.session = session = Session(engine, log, config, signer, self.incarnation)
        self.clock = session.clock
        self._secret = PeerSecret(session)
        self.membership = Membership(self._secret, self.clock.now_ms)
        self.gatekeeper = Gatekeeper(
            signer, lambda: self._secret.verifier, self.incarnation.boot, config.advertise_url
        )
        self.tls = tls
        self._peers = PeerClient(
            self.membership,
            lambda: Signer(engine.node_id, identity, self._secret.ring),
            log.verifier,
            log.signing_keys,
            tls,
            allow_plain=config.allow_plain_peers,
            is_strict=lambda: session.level >= STRICT_LEVEL,
            own_urls=config.peer_urls.replace(",", " ").split(),
        )
        self.snapshots = SnapshotServer(session)
        self.barriers = Barriers(session)
        self.agreement = Agreement(session)
        self.peer_watch = PeerWatch(session, self._peers, PeerDirectory(session))
        forks = Forks(session, self._peers, self.peer_watch.directory)
        chooser = Chooser(session, self.agreement, forks)
        self.recovery = Recovery(session, self.agreement, chooser)
        self.head_reads = HeadReads(session, self.barriers, self.peer_watch)
        self.certificates = Certificates(
            session,
            self._peers,
            session.signer,
            log.verifier,
            has_secret=bool(log.signing_keys.secret),
        )
        self.voter_changes = VoterChanges(session, self._peers, self.peer_watch, self.certificates)
        self.catch_up = CatchUp(
            session, self._peers, self.recovery, self.certificates, self.peer_watch
        )
        self.bootstrap = LogBootstrap(session, self.recovery, self.catch_up, self.certificates)
        self.heartbeat = Heartbeat(
            session, self.clock, self.bootstrap.handle_head, self.recovery.close
        )
        self.maintenance = Maintenance(
            session,
            self.clock,
            self.catch_up,
            RowRepair(session, self._peers, self.certificates),
            EncoderMigration(session, self.barriers),
            self.recovery,
        )
        self._bus = log.bus()
        self._keepalive = log.keepalive(session.node_id)
        self._is_bus_live = False
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()

    # --- start and stop ---------------------------------------------------------------

    async def start(self) -> None:
        """Begin to follow; returns soon, ``status`` shows when the node has caught up."""
        engine, log = self.session.engine, self.session.log
        await asyncio.to_thread(self._secret.load)
        await asyncio.to_thread(delete_leftovers, engine)
        await asyncio.to_thread(self.peer_watch.load)
        await self.certificates.load()
        await self.session.count_orphans()
        engine.subscribe(self)
        log.attach(
            position=lambda: engine.published.position,
            fingerprint=lambda: engine.encoder.fingerprint,
            voters=lambda: engine.replica_status.voters,
            epoch_id=lambda: engine.replica_status.epoch_id,
            level=lambda: self.session.level,
        )
        _log.info(
            "trust: %s; the key of this node is %s",
            log.trust_mode,
            self.session.signer.public_key,
        )
        if log.signing_keys.keys:
            self.agreement.say_what_is_trusted()
            check = self.agreement.check
            await self.session.on_applier(lambda state: state.replica.require_seals(check))
        self._bus.start()
        for name, run in (
            ("bus", self._follow_bus),
            ("heartbeat", self.heartbeat.run),
            ("catch-up", self._catch_up_when_wanted),
            ("positions", self.heartbeat.report_positions),
            ("keepalive", self._keepalive.run),
            ("maintenance", self.maintenance.run),
            ("certificates", self.certificates.answer_board),
            ("peers", self.peer_watch.run),
            ("readiness", self.peer_watch.track),
        ):
            task = asyncio.create_task(self._run_forever(name, run), name=f"follower-{name}")
            self._tasks.append(task)
        if self.tls is not None:
            watch = self._run_forever("certificates", self.tls.watch)
            self._tasks.append(asyncio.create_task(watch, name="follower-certificates"))

    async def _run_forever(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await run()
                return
            except Exception as error:
                self.session.counts.faults += 1
                _log.exception("the follower's task %s failed and is restarted: %s", name, error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _ask_boot(self, url: str, public_key: str) -> str:
        return await self._peers.ask_boot(url, public_key)

    async def read_table(self, url: str, fingerprint: str, name: str) -> bytes:
        """Read a static table from a peer; see ``PeerClient.read_table``."""
        return await self._peers.read_table(url, fingerprint, name)

    async def stop(self) -> None:
        await self._bus.close()
        await asyncio.gather(*map(end_task, self._tasks))
        self._tasks.clear()
        await self.peer_watch.keep_freshness()
        await self.heartbeat.end()
        # The loops start tasks of these parts, so the parts are closed after the loops.
        await self.maintenance.close()
        await self.recovery.close()
        await self.head_reads.close()
        await self._peers.close()
        await self.session.log.close()

    # --- reports of the engine's threads ----------------------------------------------

    def on_received(self, received: Sequence[ReceivedEntry]) -> None:
        """Note what the replica misses.  Runs on the applier's thread."""
        for audit in audits_in(received):
            self._call(self.maintenance.start_audit, audit)
        for each in received:
            step = each.step
            if step.forged is not None:
                self._call(self.catch_up.note_forgery, step.forged)
            elif step.diverged is not None:
                self._call(self.catch_up.note_fork, step.diverged)
            elif step.fetch is not None:
                self._call(self._note_gap, step.ignored)

    def on_failed(self, error: Exception) -> None:
        """Note that entries could not be applied.  Runs on the applier's thread."""
        self._call(self._note_halt, error)

    def on_visible(self, position: Position) -> None:
        """Note a new position.  Runs on the scorer's thread."""
        self._call(self.heartbeat.position_moved.set)

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return  # the loop was closed while the engine was stopping

    def _note_gap(self, ignored: Ignored | None) -> None:
        self.session.counts.gaps += ignored is Ignored.BUFFERED
        self.session.catch_up_wanted.set()

    def _note_halt(self, error: Exception) -> None:
        self.catch_up.note_halt(str(error))
        self.session.catch_up_wanted.set()

    # --- the bus ----------------------------------------------------------------------

    async def _follow_bus(self) -> None:
        session = self.session
        async for event in self._bus.events():
            match event:
                case Subscribed(is_replica):
                    self._is_bus_live = True
                    self._keepalive.is_at_replica = is_replica
                    # Messages published before are lost: only the log has them.
                    session.catch_up_wanted.set()
                    session.heartbeat_wanted.set()
                case Missed():
                    session.catch_up_wanted.set()
                case Reconnecting():
                    self._is_bus_live = False
                    session.counts.bus_reconnects += 1
                    session.heartbeat_wanted.set()
                case MessageReceived(message):
                    self._take(message)

    def _take(self, message: Message) -> None:
        session = self.session
        match message:
            case Entry():
                session.counts.bus_entries += 1
                if session.log_state is not LogState.OPEN:
                    session.heartbeat_wanted.set()  # another node writes, so the log is open again
                if self._may_apply():
                    session.engine.deliver([IncomingEntry(message, Source.BUS, 0)])
                else:
                    session.catch_up_wanted.set()
            case Announced():
                session.counts.announced += 1
                session.catch_up_wanted.set()
            case Keepalive(epoch, seq, chain, time_us, state):
                self._keepalive.note_received()
                if state != "open":
                    session.heartbeat_wanted.set()
                # A replica may lag: it shows how current this node was when the message was sent.
                session.compare(Position(epoch, seq, chain), time_us // 1_000)

    def _may_apply(self) -> bool:
        """Whether an entry of the bus may belong to this node's log, and there is room for it."""
        session = self.session
        # Before the first head was handled the bus may carry the log of another cluster.
        if session.log_state in _NOT_FOLLOWED or (
            session.log_state is LogState.AWAY and session.head is None
        ):
            return False
        return session.engine.backlog_entries < BACKLOG_ENTRIES_MAX

    # --- catching up ------------------------------------------------------------------

    async def _catch_up_when_wanted(self) -> None:
        session = self.session
        while True:
            await session.catch_up_wanted.wait()
            # Cleared before the work: a request during the work starts another round.
            session.catch_up_wanted.clear()
            if session.log_state is LogState.UNKNOWN:
                continue  # the first heartbeat handles the head and sets the event again
            try:
                result = await self.catch_up.run()
            except SynaptoRouteError as error:
                self.catch_up.last_error = str(error)
                result = CatchUpResult.BLOCKED
            if result is CatchUpResult.AT_HEAD and await self._is_proven():
                # The head is durable but may not be visible yet.  The scorer works in order,
                # so after this empty read it is.
                await asyncio.wrap_future(session.engine.read(lambda _tensor: None))
                session.mark_caught_up()
            else:
                await asyncio.sleep(RETRY_SECONDS * random.uniform(0.5, 1.0))
                session.catch_up_wanted.set()

    async def _is_proven(self) -> bool:
        """Whether this node's state needs no certificate, or has one by now."""
        try:
            is_proven = await self.certificates.prove()
        except ClusterError as error:
            self.catch_up.require_resync(error.message)
            return False
        if is_proven:
            self.certificates.begin()
        return is_proven

    # --- status -----------------------------------------------------------------------

    def check_may_write(self) -> None:
        """Refuse a write that the log would not take, with the reason."""
        session = self.session
        if session.log_state is LogState.MISMATCH:
            raise EncoderMismatch(session.detail)
        if session.log_state in (LogState.FOREIGN, LogState.CLONE):
            raise unavailable(Reason.LOST, session.detail, outcome="not_taken")

    def reasons(self) -> tuple[str, ...]:
        """Return the reasons why this node may not take queries."""
        session = self.session
        state = session.engine.replica_status.state
        if self.bootstrap.mismatch:
            return (self.bootstrap.mismatch,)
        if session.log_state is LogState.CLONE:
            return (session.detail,)
        is_left = state is State.INSTALLING or self.catch_up.is_fork_proven
        if state in (State.DIVERGED, State.INSTALLING) and is_left:
            return (f"the replica is {state.value}",)
        # Where no peer has applied the entry either, nobody could answer better.
        if self.catch_up.is_halted_too_long and self.peer_watch.is_peer_ahead:
            return (self.catch_up.trouble,)
        if self.certificates.is_unproven:
            detail = self.certificates.last_error or "it is being read"
            return (f"no majority of the voters has certified this state yet: {detail}",)
        self.peer_watch.update()
        detail = session.detail or session.log_state.value
        match self.peer_watch.state:
            case Readiness.WAITING:
                return (f"not caught up with the log yet: {detail}",)
            case Readiness.STALE:
                seconds = session.staleness_ms // 1_000
                return (f"stale: for {seconds} s nobody has confirmed this state; {detail}",)
            case _:
                return ()

    def status(self) -> FollowerStatus:
        """Show how this node follows; never blocks."""
        session = self.session
        return FollowerStatus(
            log_state=session.shown_log_state,
            replica_state=session.engine.replica_status.state.value,
            detail=self.catch_up.trouble or session.shown_detail,
            is_caught_up=session.is_caught_up,
            is_alone=self.peer_watch.state is Readiness.ALONE,
            head=str(session.head.position.revision) if session.head else "",
            log_bytes=session.head.kept_bytes if session.head else 0,
            log_bytes_max=session.log.retention.limits.log_bytes_max,
            lag_entries=session.lag_entries,
            staleness_ms=session.staleness_ms,
            readiness=self.peer_watch.state,
            peers=len(self.peer_watch.directory),
            role=session.role,
            is_bus_live=self._is_bus_live,
            is_bus_at_replica=self._is_bus_live and self._keepalive.is_at_replica,
            replica_counts=session.log.replica_reads.counts,
            trust_mode=session.log.trust_mode,
            public_key=session.signer.public_key,
            operator_key=session.operator.public_key if session.operator else "",
            boot=session.incarnation.boot,
            identity_conflict=session.incarnation.conflict,
            identity_conflicts=session.incarnation.conflicts_count,
            rows_refused=session.log.presence.rows.refused_count,
            orphans_count=session.orphans_count,
            counts=session.counts,
        )
