"""Reads of the newest state (``consistency=head``), linearizable with quorum writes.

Two Redis servers may both look like the log: an old master does not know that it was replaced.
So a read asks Redis for the head, and *then* the voters, peer to peer.  It goes on once a
majority of them has said that it holds that head and has promised no newer epoch, and this node
has what they hold: the head itself may be an old one.  This is the
read index of Raft (Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 6.4), with
Redis in the place of the leader; docs/protocol.md has the argument.

All reads that wait share one confirmation.  At most one is in flight and one is waiting: a read
may not join the one in flight, whose head may have been read before the read began.

Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from synaptoroute.core.mutation import Ballot, Revision
from synaptoroute.core.recovery import is_majority
from synaptoroute.errors import HeadNotConfirmed, NotCaughtUp, SynaptoRouteError
from synaptoroute.replication.peer_watch import PeerWatch
from synaptoroute.replication.session import Barriers, Session
from synaptoroute.sequencer.node_rows import STRICT_LEVEL
from synaptoroute.sequencer.peers import PeerHead
from synaptoroute.sequencer.scripts import Head, NoLog
from synaptoroute.threads import end_task

CONFIRM_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 0.02  # Pause before voters are asked again that had not applied the head yet
_RETRY_AFTER_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Confirmed:
    version: Revision  # The head that a majority holds
    # The newest position of that majority.  A write that ended before they were asked is in it,
    # whatever head the server shows.
    newest: Revision


class HeadReads:
    """Confirmed heads of the log, shared by the reads of one node."""

    def __init__(self, session: Session, barriers: Barriers, peers: PeerWatch) -> None:
        self.rounds = 0  # Confirmations that were begun
        self._session = session
        self._barriers = barriers
        self._peers = peers
        self._in_flight: asyncio.Task[_Confirmed] | None = None
        self._waiting: asyncio.Task[_Confirmed] | None = None

    async def close(self) -> None:
        for task in (self._waiting, self._in_flight):
            if task is not None:
                await end_task(task)

    async def wait(self, timeout_seconds: float) -> Revision:
        """Wait until everything is visible that the log held when the wait began.

        Returns:
            The version that was confirmed; this node has reached it.

        Raises:
            HeadNotConfirmed: No majority of the voters confirms the head in time.
            NotCaughtUp: This node does not reach it in time.
            SequencerUnavailable: Redis does not answer.
        """
        give_up_at = time.monotonic() + timeout_seconds
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._after(self._in_flight), name="head")
            self._waiting.add_done_callback(_retrieve)
        try:
            async with asyncio.timeout(timeout_seconds):
                # Shielded: the other reads that wait for it go on if this one is given up.
                found = await asyncio.shield(self._waiting)
        except TimeoutError as error:
            raise _refusal("the voters did not confirm the head in time") from error
        await self._barriers.wait_version(found.newest, max(0.0, give_up_at - time.monotonic()))
        return found.version

    async def _after(self, before: asyncio.Task[_Confirmed] | None) -> _Confirmed:
        if before is not None:
            await asyncio.wait([before])
        # From here on a read has to wait for the next one.
        self._in_flight, self._waiting = self._waiting, None
        return await self._confirm()

    async def _confirm(self) -> _Confirmed:
        self.rounds += 1
        give_up_at = time.monotonic() + CONFIRM_SECONDS
        head = await self._session.log.head()
        if isinstance(head, NoLog):
            raise NotCaughtUp("there is no log to compare with", retry_after_seconds=2.0)
        if not head.is_open or head.role == "slave":
            raise _refusal("the log is closed, so its head may not be the newest")
        if self._session.engine.replica_status.epoch_id != head.epoch_id:
            # The voters of that epoch are known here once its first entry is applied.
            await self._barriers.wait_version(head.position.revision, CONFIRM_SECONDS)
        while True:
            if (newest := await self._ask_voters(head, give_up_at)) is not None:
                return _Confirmed(head.position.revision, newest)
            if time.monotonic() >= give_up_at:
                raise _refusal("too few voters confirm that the head is the newest")
            await asyncio.sleep(RETRY_SECONDS)

    async def _ask_voters(self, head: Head, give_up_at: float) -> Revision | None:
        """Ask the voters once; return the newest of the answers if a majority confirms the head."""
        session = self._session
        own = self._peers.own_head()
        is_own = confirms(own, head) and await self._holds(own, head)
        # A change of the voters may be in the log and not here yet, or the other way round:
        # a majority of both sets is enough in either case.
        electorates = (session.engine.replica_status.voters, head.voters)
        is_mixed = session.level < STRICT_LEVEL
        confirmed = {session.node_id} if is_own else set()
        left = {session.node_id} if has_left(own, head) else set()
        voters = {*electorates[0], *electorates[1]} - {session.node_id}
        newest = head.position.revision
        if _is_enough(confirmed, electorates):
            return max(newest, own.position.revision)
        asked = [asyncio.create_task(self._ask(voter)) for voter in sorted(voters)]
        try:
            if session.position.seq < head.seq:
                # The head is compared with this node's own history below.
                await self._barriers.wait_version(head.position.revision, CONFIRM_SECONDS)
            seconds = max(0.0, give_up_at - time.monotonic())
            for each in asyncio.as_completed(asked, timeout=seconds):
                with contextlib.suppress(TimeoutError, SynaptoRouteError):
                    answer = await each
                    is_bound = confirms(answer, head, is_mixed=is_mixed)
                    if is_bound and await self._holds(answer, head):
                        confirmed.add(answer.node_id)
                        newest = max(newest, answer.position.revision)
                    if has_left(answer, head):
                        left.add(answer.node_id)
                if _is_enough(confirmed, electorates):
                    return newest
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        for electorate in electorates:
            if not is_majority(set(electorate) - left, electorate):
                raise _refusal("a majority of the voters has left the epoch of this log")
        return None

    async def _holds(self, answer: PeerHead, head: Head) -> bool:
        """Whether a node holds the head itself, and not another entry at its place."""
        if answer.position == head.position:
            return True
        held = await self._session.held.of({answer.node_id: answer.position})
        at = held.get(answer.node_id)
        if at is None or at.epoch != head.epoch or at.seq < head.seq:
            return False
        return await self._session.held.contains(head.position)

    async def _ask(self, voter: str) -> PeerHead:
        url = self._peers.directory.url_of(voter)
        if not url:
            raise _refusal(f"the address of voter {voter} is not known")
        answer = await self._peers.ask(voter, url)
        if not isinstance(answer, PeerHead):
            raise answer
        if answer.node_id != voter:
            raise _refusal(f"another node than {voter} answers at its address")
        return answer


def confirms(answer: PeerHead, head: Head, *, is_mixed: bool = False) -> bool:
    """Whether a node holds a head and may still take part in its epoch.

    ``is_mixed``: voters of the release before take part, which do not tell their promises.
    """
    at = answer.position
    if is_mixed and not answer.epoch_id:
        return at.epoch == head.epoch and at.seq >= head.seq
    is_bound = answer.promised == Ballot(head.epoch, head.epoch_id)
    return is_bound and answer.epoch_id == head.epoch_id and at.seq >= head.seq


def has_left(answer: PeerHead, head: Head) -> bool:
    """Whether a node has promised another epoch of this number, or a newer one."""
    promised = answer.promised
    is_other = promised.epoch == head.epoch and promised.id != head.epoch_id
    return promised.epoch > head.epoch or is_other


def _is_enough(confirmed: Collection[str], electorates: Iterable[Collection[str]]) -> bool:
    return all(is_majority(confirmed, voters) for voters in electorates)


def _retrieve(task: asyncio.Task[_Confirmed]) -> None:
    """Take note of a failure: the reads that waited for it may all have been given up."""
    if not task.cancelled():
        task.exception()


def _refusal(message: str) -> HeadNotConfirmed:
    return HeadNotConfirmed(message, retry_after_seconds=_RETRY_AFTER_SECONDS)
