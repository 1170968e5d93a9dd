"""Comparing a node's history with the log's: is a place in it, and up to where do they agree."""

from __future__ import annotations

import asyncio
from typing import Final

from synaptoroute.core.mutation import Position
from synaptoroute.errors import ClusterError, ProtocolError
from synaptoroute.sequencer import RedisLog
from synaptoroute.sequencer.scripts import NoLog
from synaptoroute.storage import SQLiteStorage

COMPARED_ENTRIES: Final = 1_024


async def is_confirmed(log: RedisLog, position: Position) -> bool:
    """Whether the log has this position in its history, as far as it reaches back.

    Raises:
        SequencerUnavailable: Redis does not answer.
    """
    head = await log.head()
    if isinstance(head, NoLog) or not 0 < position.seq <= head.seq:
        return False
    if position.seq == head.seq:
        known: str | None = head.chain
    elif position.seq == head.floor - 1:
        known = head.floor_chain
    else:
        before = Position(position.epoch, position.seq - 1)
        found = await log.read(before, entries_max=1)
        known = found.entries[0].chain if found.entries else None
    return position.chain == known


async def common_seq(log: RedisLog, storage: SQLiteStorage, position: Position) -> int:
    """The last place at which a node's op log and the log agree."""
    start = max(0, position.seq - COMPARED_ENTRIES)
    own = await asyncio.to_thread(
        storage.read_log, start, entries_max=COMPARED_ENTRIES, bytes_max=1 << 30
    )
    if not own:
        return start
    common = Position(own[0].epoch, start, own[0].prev_chain)
    chains = {row.seq: row.chain for row in own}
    while True:
        try:
            theirs = await log.read(common)
        except (ClusterError, ProtocolError):
            return common.seq
        for entry in theirs.entries:
            if chains.get(entry.seq) != entry.chain:
                return common.seq
            common = entry.position
        if theirs.is_end or not theirs.entries:
            return common.seq
