"""What the parts of one follower share: the engine, the log, and what is known about it.

A part receives the session and the parts below it as constructor arguments.  It never sees the
follower, which only connects the parts.  A part asks for a heartbeat or a catch-up by an event
of the session.

Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from synaptoroute.config import ClusterConfig
from synaptoroute.core.mutation import Position
from synaptoroute.ports import AppliedState, EnginePort
from synaptoroute.replication.status import EXPLANATIONS, FollowerCounts, LogState
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.scripts import Head

CLUSTER_ID_KEY: Final = "lineage"  # Key of the cluster's identity in the node's database
BEHIND_SECONDS: Final = 0.2  # Time for the bus to bring what a head shows, before the log is read

ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)


class RedisClock:
    """Redis' clock, estimated from the heartbeats: the one clock on which nodes agree."""

    def __init__(self) -> None:
        self._offset_ms = time.time() * 1_000 - time.monotonic() * 1_000

    def now_ms(self) -> int:
        """Redis' time; this node's own wall clock until Redis has answered."""
        return int(time.monotonic() * 1_000 + self._offset_ms)

    @property
    def lead_ms(self) -> float:
        """How far this node's wall clock is ahead of Redis' clock."""
        return time.time() * 1_000 - (time.monotonic() * 1_000 + self._offset_ms)

    def update(self, time_us: int, sent_at: float, answered_at: float) -> None:
        """Note Redis' time in an answer; it was read about halfway through the round trip."""
        self._offset_ms = time_us / 1_000 - (sent_at + answered_at) / 2 * 1_000


class Session:
    """The shared state of one follower."""

    def __init__(self, engine: EnginePort, log: RedisLog, config: ClusterConfig) -> None:
        self.engine = engine
        self.log = log
        self.config = config
        self.node_id = engine.node_id
        self.counts = FollowerCounts()
        self.log_state = LogState.UNKNOWN
        self.detail = EXPLANATIONS[LogState.UNKNOWN]  # For operators; empty if all is well
        self.head: Head | None = None  # The newest head that could be followed
        self.is_caught_up = False  # Never becomes false again
        # Whether the stored state is served because there is no log to follow
        self.is_alone = False
        self.orphans_count = 0  # Writes that recoveries left behind on this node
        self.catch_up_wanted = asyncio.Event()  # Set to have the log read now
        self.heartbeat_wanted = asyncio.Event()  # Set to have a heartbeat sent now
        self._fresh_at = self._followed_at = time.monotonic()

    # --- this node --------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """The position that is durable and visible on this node."""
        return self.engine.published.position

    @property
    def role(self) -> str:
        return "voter" if self.head and self.node_id in self.head.voters else "observer"

    @property
    def lag_entries(self) -> int:
        """How far this node is behind the newest known head."""
        return max(0, self.head.seq - self.position.seq) if self.head else 0

    @property
    def staleness_ms(self) -> int:
        """Time since this node last knew that it was not behind."""
        return int((time.monotonic() - self._fresh_at) * 1_000)

    @property
    def unfollowed_seconds(self) -> float:
        """Time since there was a log to follow, or since the start."""
        return time.monotonic() - self._followed_at

    async def on_applier(self, task: Callable[[AppliedState], ResultT]) -> ResultT:
        """Run a function on the applier's thread, between two groups of entries."""
        return await asyncio.wrap_future(self.engine.run_on_applier(task))

    async def count_orphans(self) -> None:
        """Count the writes that recoveries left behind, after they may have changed."""
        self.orphans_count = await asyncio.to_thread(self.engine.database.orphan_count)

    # --- the log ----------------------------------------------------------------------

    def set_log_state(self, state: LogState, detail: str = "") -> None:
        before, self.log_state = self.log_state, state
        self.detail = detail or EXPLANATIONS[state]
        if state is before:
            return
        if state in (LogState.OPEN, LogState.FOUNDING):
            _log.info("the log is %s", state.value)
        else:
            _log.warning("the log is %s: %s", state.value, self.detail)
        self.catch_up_wanted.set()

    def accept_head(self, head: Head) -> None:
        """Note the head of a log that can be followed."""
        self.head = head
        self._followed_at = time.monotonic()
        self.is_alone = False
        self.set_log_state(LogState.OPEN)
        if not self.is_caught_up:
            self.catch_up_wanted.set()
        self.compare(head.position)

    def mark_caught_up(self) -> None:
        """Note that the head of the log is applied and visible."""
        self.is_caught_up = True
        self._fresh_at = time.monotonic()

    def compare(self, head: Position) -> None:
        """Compare a head of the log with what is visible here."""
        position, now = self.position, time.monotonic()
        if (position.epoch, position.seq) == (head.epoch, head.seq):
            self._fresh_at = now
        elif (position.epoch, position.seq) < (head.epoch, head.seq):
            # The entries are usually on their way on the bus.  Pub/Sub drops messages without
            # a trace, so if they do not arrive, the log has to be read.
            asyncio.get_running_loop().call_later(BEHIND_SECONDS, self._check_behind, head, now)

    def _check_behind(self, head: Position, seen_at: float) -> None:
        position = self.position
        if (position.epoch, position.seq) < (head.epoch, head.seq):
            self.counts.tail_losses += 1
            self.catch_up_wanted.set()
        else:
            self._fresh_at = max(self._fresh_at, seen_at)
