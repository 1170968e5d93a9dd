"""Reads of the log at replicas of the server that orders writes.

A replica takes the load of reads, and its word counts for nothing.  Entries that it returns are
used only if the primary names the hash chain of the last of them: the chain covers every entry
before it.  So a replica that lags, or lies, costs time and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from synaptoroute.core.mutation import Position
from synaptoroute.errors import ClusterError, ProtocolError
from synaptoroute.sequencer.log_reads import Coverage, ReadResult
from synaptoroute.sequencer.scripts import Head, NoLog

REST_SECONDS: Final = 10.0  # How long a replica is not asked after it failed or was contradicted


class ReadsLog(Protocol):
    """A reader of one server."""

    async def read(
        self, after: Position, *, entries_max: int = ..., bytes_max: int = ...
    ) -> ReadResult: ...


@dataclass(slots=True)
class ReplicaCounts:
    """Totals since the start."""

    reads: int = 0  # Reads whose entries the primary confirmed
    refused: int = 0  # Reads whose entries the primary did not confirm
    failed: int = 0  # Reads without an answer


def is_consecutive(after: Position, found: ReadResult) -> bool:
    """Whether entries of a replica follow a position by number and by hash chain."""
    if found.coverage is not Coverage.WHOLE or not found.entries:
        return False
    chain = after.chain
    for seq, entry in enumerate(found.entries, after.seq + 1):
        if entry.seq != seq or entry.prev_chain != chain:
            return False
        chain = entry.chain
    return True


def with_head(found: ReadResult, head: Head) -> ReadResult:
    """Replace everything in a replica's answer but the entries by the primary's word."""
    return replace(
        found,
        epoch=head.epoch,
        head=head.position,
        floor=head.floor,
        state=head.state,
        error=None,
        epoch_id=head.epoch_id,
    )


class ReplicaReads:
    """Reads at the first replica that answers, confirmed by the primary.

    Args:
        replicas: In the order in which they are asked.
        primary: The server that orders writes.
        read_head: Reads its head.
    """

    def __init__(
        self,
        replicas: Sequence[ReadsLog],
        primary: ReadsLog,
        read_head: Callable[[], Awaitable[Head | NoLog]],
    ) -> None:
        self.counts = ReplicaCounts()
        self._replicas = replicas
        self._primary = primary
        self._read_head = read_head
        self._rests_until = [0.0] * len(replicas)

    async def read(self, after: Position) -> ReadResult | None:
        """Read the entries after a position.

        Returns:
            Confirmed entries, at least one; None if the primary has to be read.

        Raises:
            SequencerUnavailable: The primary does not answer.
        """
        for number, replica in enumerate(self._replicas):
            if time.monotonic() < self._rests_until[number]:
                continue
            try:
                found = await replica.read(after)
            except (ClusterError, ProtocolError):
                self.counts.failed += 1
                self._rests_until[number] = time.monotonic() + REST_SECONDS
                continue
            if found.coverage is not Coverage.WHOLE or not found.entries:
                return None  # It lags, or has trimmed them, or there is nothing: the primary knows
            confirmed = await self._confirmed(after, found)
            if confirmed is None:
                self.counts.refused += 1
                self._rests_until[number] = time.monotonic() + REST_SECONDS
            else:
                self.counts.reads += 1
            return confirmed
        return None

    async def _confirmed(self, after: Position, found: ReadResult) -> ReadResult | None:
        if not is_consecutive(after, found):
            return None
        # Read after the entries: a head that was read before may lack the last of them.
        head = await self._read_head()
        last = found.entries[-1].position
        if isinstance(head, NoLog) or last.revision > head.position.revision:
            return None
        if last.seq == head.seq:
            chain = head.chain
        else:
            before = Position(last.epoch, last.seq - 1)
            there = await self._primary.read(before, entries_max=1, bytes_max=1)
            chain = there.entries[0].chain if there.entries else ""
        return with_head(found, head) if chain == last.chain else None
