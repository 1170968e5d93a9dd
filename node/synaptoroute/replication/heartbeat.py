"""Heartbeats: every second a node reports its position and reads the head of the log.

The head shows what no gap can show: that the last message on the bus was lost.  The answer
also carries Redis' clock, the one clock by which nodes agree on an age.

Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from synaptoroute.core.codec import LEVEL
from synaptoroute.core.mutation import Position
from synaptoroute.core.replica import State
from synaptoroute.errors import ClusterError, ProtocolError, SynaptoRouteError
from synaptoroute.failpoints import failpoint
from synaptoroute.replication.session import LogState, RedisClock, Session
from synaptoroute.sequencer.node_rows import NodeReport
from synaptoroute.sequencer.presence import HEARTBEAT_JITTER
from synaptoroute.sequencer.scripts import Head, NoLog
from synaptoroute.version import __version__

COALESCE_SECONDS: Final = 0.05
"""Requests for a heartbeat come in bursts; one heartbeat serves all of them."""
RETRY_SECONDS: Final = 0.5
CLAIM_SECONDS: Final = 1.0  # Pause between two claims of an identity that another process has


def node_report(session: Session, position: Position) -> NodeReport:
    engine = session.engine
    status = engine.status()
    return NodeReport(
        node_id=session.node_id,
        url=session.config.advertise_url,
        role=session.role,
        version=__version__,
        level=LEVEL,
        fingerprint=engine.encoder.fingerprint,
        epoch=position.epoch,
        seq=position.seq,
        chain=position.chain,
        digest=engine.published.digest,
        state=engine.replica_status.state.value,
        queue_count=status.queue_requests,
        lag_entries=session.lag_entries or 0,
        encoders=",".join(sorted(engine.encoders.known)),
        tables=",".join(status.tables),
        boot=session.incarnation.boot,
        counter=session.incarnation.next_counter(),
        time_ms=session.clock.now_ms(),
        interval_ms=int(session.heartbeat_seconds * 1_000),
        process=session.incarnation.process,
        vote=session.vote,
        log_level=session.level,
    )


class Heartbeat:
    def __init__(
        self,
        session: Session,
        clock: RedisClock,
        on_head: Callable[[Head | NoLog, Position], Awaitable[None]],
        on_clone: Callable[[], Awaitable[None]],
    ) -> None:
        self.position_moved = asyncio.Event()  # Set when a new position is visible
        self._session = session
        self._clock = clock
        self._on_head = on_head
        self._claimed_at = -CLAIM_SECONDS  # When the identity was last claimed in vain
        self._on_clone = on_clone  # Stops what this node does in the name of its identity

    async def run(self) -> None:
        wanted = self._session.heartbeat_wanted
        while True:
            await self.send()
            # Jitter keeps the heartbeats of many nodes from hitting Redis at one moment.
            jitter = random.uniform(1 - HEARTBEAT_JITTER, 1 + HEARTBEAT_JITTER)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._session.heartbeat_seconds * jitter):
                    await wanted.wait()
                    await asyncio.sleep(COALESCE_SECONDS)
            wanted.clear()

    async def send(self) -> None:
        """Report this node's position and handle the head that comes back."""
        session = self._session
        incarnation, presence = session.incarnation, session.log.presence
        try:
            if not await self._is_claimed():
                return
            # The position is read before the head.  A head read later may be newer, which is
            # normal; a head behind this position proves that Redis lost entries.
            position = session.position
            sent_at = time.monotonic()
            report = node_report(session, position)
            head = await presence.heartbeat(report, signer=session.signer)
            self._clock.update(head.time_us, sent_at, time.monotonic())
            facts = presence.facts
            session.live_count = facts.live_count
            if not incarnation.check(facts.displaced, facts.claim):
                session.set_log_state(LogState.CLONE, incarnation.conflict)
                await self._on_clone()
                return
            await self._on_head(head, position)
        except ClusterError as error:
            # Who was refused stays refused while nobody can say that the other has ended.
            if incarnation.is_claimed or not incarnation.conflict:
                session.set_log_state(LogState.AWAY, error.message)
        except ProtocolError as error:
            session.set_log_state(LogState.DAMAGED, str(error))

    async def _is_claimed(self) -> bool:
        """Whether this process has the identity of its node; else it does nothing in its name."""
        session, incarnation = self._session, self._session.incarnation
        if incarnation.is_claimed:
            return True
        # Entries on the bus ask for heartbeats; each claim asks the other process.
        if time.monotonic() - self._claimed_at < CLAIM_SECONDS:
            return False
        is_claimed = await incarnation.claim(session.config.advertise_url)
        if not is_claimed:
            self._claimed_at = time.monotonic()
            session.set_log_state(LogState.CLONE, incarnation.conflict)
        return is_claimed

    async def end(self) -> None:
        """Say that this process ends, so that the next one of this node need not wait."""
        session = self._session
        if not session.incarnation.is_claimed or session.log_state is LogState.AWAY:
            return
        report = replace(node_report(session, session.position), is_ended=True)
        with contextlib.suppress(SynaptoRouteError):
            await session.log.presence.end(report, session.signer)

    async def _report_position(self, position: Position) -> None:
        session = self._session
        told = [session.log.presence.report_position(session.node_id, position)]
        if session.log.is_strict:
            told.append(
                session.log.voter_positions.report(session.signer, session.cluster_id, position)
            )
        await asyncio.gather(*told)

    async def report_positions(self) -> None:
        """Report a voter's positions at once, so that a quorum need not wait a second."""
        session = self._session
        while True:
            await self.position_moved.wait()
            # Cleared before the position is read: a move during the call sets it again.
            self.position_moved.clear()
            is_diverged = session.engine.replica_status.state is State.DIVERGED
            if session.role != "voter" or session.log_state is not LogState.OPEN or is_diverged:
                continue
            try:
                await self._report_position(session.position)
                failpoint("position.told")
            except SynaptoRouteError:
                await asyncio.sleep(RETRY_SECONDS)  # the next heartbeat reports it as well
