"""Barriers: readers wait for a version, writers wait until other nodes hold an entry."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

from synaptoroute.core.mutation import Revision
from synaptoroute.errors import NotCaughtUp, SynaptoRouteError, VersionLost
from synaptoroute.replication.session import Session
from synaptoroute.sequencer.append_errors import NotPlaced
from synaptoroute.sequencer.scripts import NoLog

ACK_POLL_SECONDS: Final = 0.008
ACK_RETRY_SECONDS: Final = 0.25  # Pause after a call that Redis did not answer


class Barriers:
    """Waits on behalf of one node's clients.  Runs on the event loop."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._engine = session.engine

    async def wait_version(self, version: Revision, timeout_seconds: float) -> None:
        """Wait until a version is visible here."""
        deadline = time.monotonic() + timeout_seconds
        while not self._is_visible(version):
            self._session.catch_up_wanted.set()
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                at = self._session.position.revision
                raise NotCaughtUp(
                    f"this node is at {at}, not yet at {version}",
                    retry_after_seconds=1.0,
                    version=str(at),
                )
            future = self._engine.expect_version(version.seq)
            try:
                # The version may have become visible between the check and ``expect_version``.
                if not self._is_visible(version):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(left_seconds):
                            await asyncio.wrap_future(future)
            finally:
                self._engine.forget_version(future)

    def _is_visible(self, version: Revision) -> bool:
        position = self._session.position
        if version.epoch == position.epoch:
            return version.seq <= position.seq
        if version.epoch > position.epoch:
            return False
        # An epoch keeps a prefix of the one before it.  A version beyond that prefix belongs to
        # a write that no node holds any more, so it would never become visible.
        epochs = self._engine.replica_status.epochs
        later = [each for each in epochs if each.epoch > version.epoch]
        if later and version.seq > later[0].opened.base_seq:
            raise VersionLost(
                f"the write at {version} was left behind when epoch {later[0].epoch} was opened",
                version=str(position.revision),
            )
        return version.seq <= position.seq

    async def wait_head(self, timeout_seconds: float) -> None:
        """Wait until everything is visible that the log holds now."""
        head = await self._session.log.head()
        if isinstance(head, NoLog):
            raise NotCaughtUp("there is no log to compare with", retry_after_seconds=2.0)
        await self.wait_version(head.position.revision, timeout_seconds)

    async def wait_acked(self, at: Revision, *, is_all: bool, timeout_seconds: float) -> bool:
        """Wait until a majority of the voters, or every live node, holds an entry in time."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            pause_seconds = ACK_POLL_SECONDS
            self._is_visible(at)  # raises VersionLost
            # Positions are kept for each epoch.  If a later epoch was opened meanwhile, its
            # positions count, because it continues with this entry.
            epoch = max(at.epoch, self._session.position.epoch)
            try:
                acked = await self._session.log.presence.acked(epoch)
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
