"""Readers that wait for a version, and writers that wait for others to hold an entry."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

from synaptoroute.core.mutation import Revision
from synaptoroute.errors import NotCaughtUp, SynaptoRouteError, VersionLost
from synaptoroute.sequencer.scripts import NoLog, NotPlaced

if TYPE_CHECKING:
    from synaptoroute.replication.follower import Follower

ACK_POLL_SECONDS: Final = 0.008
ACK_RETRY_SECONDS: Final = 0.25
"""Between two tries where Redis does not answer."""


class Waits:
    """Waiting on behalf of one node's clients.  Runs on the event loop."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    async def version(self, version: Revision, timeout_seconds: float) -> None:
        """Wait until a version is visible here.

        Raises:
            NotCaughtUp: It is not, in time.
            VersionLost: It belongs to a write that a later epoch left behind.
        """
        deadline = time.monotonic() + timeout_seconds
        engine = self._follower.engine
        while not self._has(version):
            self._follower.wake()
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                at = self._follower.position.revision
                raise NotCaughtUp(
                    f"this node is at {at}, not yet at {version}",
                    retry_after_seconds=1.0,
                    version=str(at),
                )
            future = engine.expect_version(version.seq)
            try:
                if not self._has(version):  # it may have come before it was expected
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(left_seconds):
                            await asyncio.wrap_future(future)
            finally:
                engine.forget_version(future)

    def _has(self, version: Revision) -> bool:
        """Whether a version is visible here."""
        position = self._follower.position
        if version.epoch == position.epoch:
            return version.seq <= position.seq
        if version.epoch > position.epoch:
            return False
        epochs = self._follower.engine.replica_status.epochs
        later = [each for each in epochs if each.epoch > version.epoch]
        if later and version.seq > later[0].opened.base_seq:
            raise VersionLost(
                f"the write at {version} was left behind when epoch {later[0].epoch} was opened",
                version=str(position.revision),
            )
        return version.seq <= position.seq

    async def head(self, timeout_seconds: float) -> None:
        """Wait until everything is visible that the log holds now.

        Raises:
            SequencerUnavailable: The log does not answer.
            NotCaughtUp: Not in time.
        """
        head = await self._follower.log.head()
        if isinstance(head, NoLog):
            raise NotCaughtUp("there is no log to compare with", retry_after_seconds=2.0)
        await self.version(head.position.revision, timeout_seconds)

    async def acked(self, at: Revision, *, is_all: bool, timeout_seconds: float) -> bool:
        """Wait until a quorum of the voters, or every live node, holds an entry.

        An epoch that was opened meanwhile counts its own positions, from its base on.

        Raises:
            VersionLost: The epoch left the entry behind.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            pause_seconds = ACK_POLL_SECONDS
            self._has(at)
            epoch = max(at.epoch, self._follower.position.epoch)
            try:
                acked = await self._follower.log.presence.acked(epoch)
                if not isinstance(acked, NotPlaced) and (
                    acked.is_quorum(at.seq) and (not is_all or acked.is_all(at.seq))
                ):
                    return True
            except SynaptoRouteError:
                pause_seconds = ACK_RETRY_SECONDS
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                return False
            await asyncio.sleep(min(pause_seconds, left_seconds))
