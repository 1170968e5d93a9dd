"""Fork points: where the histories of the voters of one epoch part.

Redis gives the order of the entries, so within an epoch one history continues another, unless
Redis lies: it can show genuine entries to different voters in different orders.  A recovery must
then know which entries a majority may hold, and positions alone do not tell.

The node with the longest history compares the positions of the others with its own op log; only
if one is not in it are peers asked.  A node with a shorter history leaves the decision to that
one, and asks it when nothing happens.  Op logs reach back 10,000 entries; what is older counts
as shared.  Runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import combinations
from typing import Final

from synaptoroute.core.codec import is_chained
from synaptoroute.core.mutation import Position
from synaptoroute.core.recovery import Common, Report
from synaptoroute.errors import ClusterError, ProtocolError
from synaptoroute.replication.peer_watch import PeerDirectory
from synaptoroute.replication.session import Session
from synaptoroute.sequencer.peers import PeerClient

ASK_AFTER_SECONDS: Final = 2.5
"""Time that the node with the longest history gets before others look for a fork."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Another node's history beside this node's own."""

    agreed: int  # The last seq at which both agree, at most the lesser of both positions
    tail: Mapping[int, str] = field(default_factory=dict)  # Its chains after that, as far as known


def newest_of(reports: Sequence[Report]) -> list[Report]:
    """The reports of voters of the newest epoch, the longest first."""
    named = {voter for report in reports for voter in report.voters}
    held = [each for each in reports if each.position.epoch and each.node_id in named]
    newest = max((each.position.epoch for each in held), default=0)
    held = [each for each in held if each.position.epoch == newest]
    return sorted(held, key=lambda each: each.position.revision, reverse=True)


def fork_points(own: Report, compared: Mapping[str, Compared], reports: Sequence[Report]) -> Common:
    """Find the last common seq of each two reports that part before the end of the shorter one."""
    found: dict[frozenset[str], int] = {}
    for one, other in combinations(reports, 2):
        shorter = min(one.position.seq, other.position.seq)
        if one.node_id == own.node_id or other.node_id == own.node_id:
            peer = other if one.node_id == own.node_id else one
            seq = compared[peer.node_id].agreed
        else:
            seq = _common(compared[one.node_id], compared[other.node_id])
        if seq < shorter:
            found[frozenset((one.node_id, other.node_id))] = seq
    return found


def _common(one: Compared, other: Compared) -> int:
    if one.agreed != other.agreed:
        return min(one.agreed, other.agreed)
    seq = one.agreed
    while seq + 1 in one.tail and one.tail[seq + 1] == other.tail.get(seq + 1):
        seq += 1
    return seq


class Forks:
    """Compares the histories of voters with this node's own."""

    def __init__(self, session: Session, peers: PeerClient, directory: PeerDirectory) -> None:
        self._session = session
        self._peers = peers
        self._directory = directory

    async def find(self, reports: Sequence[Report], waited_seconds: float) -> Common | None:
        """Find the forks among proved reports to one ballot.

        Args:
            reports: The reports.
            waited_seconds: How long the ballot has waited.

        Returns:
            None if this node does not know: it holds nothing of the newest epoch, leaves the
            decision to a longer history, or cannot ask a voter whose history is another one.
        """
        newest = newest_of(reports)
        if not newest:
            return {}
        own = next((each for each in newest if each.node_id == self._session.node_id), None)
        if own is None:
            return None
        if len({each.position for each in newest}) == 1:
            return {}
        is_longest = own.position.seq == newest[0].position.seq
        if not is_longest and waited_seconds < ASK_AFTER_SECONDS:
            return None
        compared: dict[str, Compared] = {}
        for each in newest:
            found = await self._compare(own.position, each)
            if found is None:
                return None
            compared[each.node_id] = found
        return fork_points(own, compared, newest)

    async def _compare(self, own: Position, report: Report) -> Compared | None:
        there = report.position
        if there.seq <= own.seq:
            known = await self._chain_at(there.seq, own)
            if known is None or known == there.chain:
                return Compared(there.seq)
            return await self._ask(report, there.seq - 1)
        # A peer that cannot be asked is taken for one that goes on from here: then it decides.
        return await self._ask(report, own.seq) or Compared(own.seq)

    async def _ask(self, report: Report, last: int) -> Compared | None:
        """Ask a node for its entries after the last one that both hold, at ``last`` or before."""
        url = self._directory.url_of(report.node_id)
        back = 0
        while url and last - back > 0 and (own := await self._entry_at(last - back)) is not None:
            try:
                return await self._shared(url, report, own)
            except (ClusterError, ProtocolError) as error:
                if error.fields.get("status") != HTTPStatus.BAD_REQUEST:
                    return None
                # The position is not of that node's history.
                back = 2 * back + 1
        return None

    async def _shared(self, url: str, report: Report, at: Position) -> Compared | None:
        """Read a node's entries from a position that both hold to its end."""
        agreed, before = at.seq, at
        tail: dict[int, str] = {}
        while before.seq < report.position.seq:
            found = await self._peers.read_log(url, before, report.node_id)
            if not found.entries:
                return None  # its op log does not reach back so far
            for entry in found.entries:
                if entry.prev_chain != before.chain or not is_chained(entry):
                    return None
                before = entry.position
                if not tail and await self._chain_at(entry.seq, None) == entry.chain:
                    agreed = entry.seq
                else:
                    tail[entry.seq] = entry.chain
        return Compared(agreed, tail)

    async def _chain_at(self, seq: int, own: Position | None) -> str | None:
        if own is not None and seq == own.seq:
            return own.chain
        found = await self._entry_at(seq)
        return None if found is None else found.chain

    async def _entry_at(self, seq: int) -> Position | None:
        database = self._session.engine.database
        rows = await asyncio.to_thread(database.read_log, seq - 1, entries_max=1, bytes_max=1)
        return Position(rows[0].epoch, rows[0].seq, rows[0].chain) if rows else None
