"""Retention: how much of the log Redis keeps, and which node drops the rest.

Any node may trim, so the log stays under its limit without a coordinator.  A trim is one script
that checks a majority of the voters again, and a second trim to the same place changes nothing,
so nodes need not agree on who does it.

Three conditions bound every trim of a node:

- a majority of the voters holds what is dropped (the script checks it again).  With a cluster
  secret, the signed rows of the voters that this node's replica knows must say so, too;
- this node's own disk holds it, so a false position in Redis costs other nodes a catch-up from
  a peer, and no write;
- every live node holds it, until the log is almost full.  After that a node that is behind
  takes the rest from a peer's op log or snapshot: one slow node must not close the writes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from synaptoroute.core.mutation import Position
from synaptoroute.sequencer.append_errors import NotPlaced
from synaptoroute.sequencer.epochs import Epochs, Trimmed, TrimOutcome
from synaptoroute.sequencer.presence import Acked, Presence
from synaptoroute.sequencer.scripts import Head, NoLog

FULL_PERCENT = 99
"""A log that is this full is reported as full: a call of writes may not fit any more."""


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    log_bytes_max: int = 268_435_456  # Beyond that, writes are refused
    retain_bytes: int = 67_108_864  # Above that, entries are dropped that all live nodes hold
    retain_entries: int = 100_000  # Likewise

    @property
    def bytes_max(self) -> int:
        """Bytes above which the log is trimmed; always below the limit of the log."""
        return min(self.retain_bytes, self.log_bytes_max * 3 // 4)

    @property
    def target_bytes(self) -> int:
        """Bytes that a trim leaves: fewer, so that not every write leads to a trim."""
        return max(1, self.bytes_max * 7 // 8)

    @property
    def pressed_bytes(self) -> int:
        """Bytes above which a trim does not wait for live nodes that are behind."""
        return (self.bytes_max + self.log_bytes_max) // 2

    def is_full(self, kept_bytes: int) -> bool:
        return kept_bytes * 100 >= self.log_bytes_max * FULL_PERCENT


@dataclass
class Retention:
    """Trims the log of one namespace on behalf of one node.  Used on one event loop."""

    epochs: Epochs
    presence: Presence
    read_head: Callable[[], Awaitable[Head | NoLog]]
    position: Callable[[], Position]  # Durable position of this node
    limits: RetentionLimits
    voters: Callable[[], tuple[str, ...]] = tuple  # Voters at that position
    trimmed_entries: int = 0  # Total since the start
    is_torn: bool = False  # Whether the last trim found that the stream contradicts its header

    async def keep(self, head: Head) -> int:
        """Trim if the log has more than its retention; return how many entries were dropped.

        Raises:
            SequencerUnavailable: No answer.
        """
        limits = self.limits
        entries = head.seq - head.floor + 1
        if head.kept_bytes > limits.bytes_max:
            is_pressed = head.kept_bytes >= limits.pressed_bytes
            return await self._trim(head, is_pressed=is_pressed, keep_bytes=limits.target_bytes)
        if entries > limits.retain_entries + limits.retain_entries // 8:
            return await self._trim(head, keep_entries=limits.retain_entries)
        return 0

    async def drop_through(self, seq: int) -> bool:
        """Drop the entries up to a place as soon as all live nodes hold them.

        Returns:
            Whether the log has none of them any more.
        """
        head = await self.read_head()
        if not isinstance(head, Head) or not head.is_open:
            return False
        if head.floor <= seq < head.seq:
            await self._trim(head, keep_entries=head.seq - seq)
            head = await self.read_head()
        return isinstance(head, Head) and head.floor > seq

    async def is_dropped(self, seq: int) -> bool:
        """Whether the log has no entry up to a place."""
        head = await self.read_head()
        return isinstance(head, Head) and head.floor > seq

    async def make_room(self) -> bool:
        """Trim a log that refused a write because it is full; whether anything was dropped."""
        head = await self.read_head()
        if not isinstance(head, Head) or not head.is_open:
            return False
        return bool(await self._trim(head, is_pressed=True, keep_bytes=self.limits.target_bytes))

    async def _trim(
        self,
        head: Head,
        *,
        is_pressed: bool = False,
        keep_bytes: int = 0,
        keep_entries: int = 0,
    ) -> int:
        acked = await self.presence.acked(head.epoch)
        if isinstance(acked, NotPlaced):
            return 0
        held = held_seq(acked, self.position(), head, is_pressed=is_pressed)
        if self.presence.rows.is_verifying:
            held = min(held, await self._verified_seq(head.epoch))
        floor = min(held + 1, head.seq, head.seq - keep_entries + 1)
        if floor <= head.floor and head.kept_bytes <= self.limits.bytes_max:
            return 0  # otherwise the script finds whether the counts of the header are wrong
        trimmed = await self.epochs.trim(None, head.epoch, floor, keep_bytes=keep_bytes)
        if not isinstance(trimmed, Trimmed):
            return 0
        self.is_torn = trimmed.outcome is TrimOutcome.TORN
        self.trimmed_entries += trimmed.entries
        return trimmed.entries

    async def _verified_seq(self, epoch: int) -> int:
        """The newest place that the signed rows of a majority of the voters name."""
        rows = {seen.report.node_id: seen.report for seen in await self.presence.nodes()}
        held = []
        for voter in self.voters():
            row = rows.get(voter)
            held.append(row.seq if row is not None and row.epoch == epoch else 0)
        held.sort(reverse=True)
        return held[len(held) // 2] if held else 0


def held_seq(acked: Acked, own: Position, head: Head, *, is_pressed: bool) -> int:
    """The newest place up to which entries may be dropped; 0 for none."""
    if own.epoch != head.epoch or not acked.voters:
        return 0
    voters = sorted(acked.voters, reverse=True)
    held = min(voters[len(voters) // 2], own.seq, head.seq)
    if not is_pressed:
        held = min([held, *acked.live])
    return held
