"""Reads of the log: entries after a position, verified, and how complete they are.

The stream returns no error for a position that it has forgotten: it answers with the next entry
that it has.  So ``Reader`` compares the floor and checks that the entries are contiguous.
Whether an entry continues this node's history is for the replica to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from synaptoroute.core.mutation import Entry, Position
from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.append_errors import NotPlaced, Reason, unavailable
from synaptoroute.sequencer.scripts import Range, Scripts
from synaptoroute.sequencer.wire import SigningKeys

READ_BYTES_MAX: Final = 1_048_576
READ_ENTRIES_MAX: Final = 1_024


class Coverage(Enum):
    """Entries of the log after a position."""

    WHOLE = "whole"  # Everything: the entries follow the position without a gap
    TRIMMED = "trimmed"  # The next entry was trimmed: a peer may have it
    HOLE = "hole"  # The next entry is missing: it was deleted from the log
    BEYOND = "beyond"  # The position is after the head: the log lost entries, or it is another log


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Entries after a position, verified, and how complete they are."""

    epoch: int  # Epoch of the log (``log_epoch`` of the replica)
    head: Position  # The newest entry when they were read
    floor: int  # Place of the oldest entry that is kept
    state: str
    entries: tuple[Entry, ...]  # In order and without gaps; each is valid in itself
    coverage: Coverage  # Whether they begin directly after the position
    error: ProtocolError | None = None  # Why reading stopped before an existing entry
    epoch_id: str = ""  # Ballot that opened the log's epoch

    @property
    def is_end(self) -> bool:
        if self.coverage is not Coverage.WHOLE or self.error is not None:
            return False
        return not self.entries or self.entries[-1].seq == self.head.seq


class Reader:
    def __init__(self, scripts: Scripts, signing_keys: SigningKeys) -> None:
        self._scripts = scripts
        self.signing_keys = signing_keys

    async def read(
        self,
        after: Position,
        *,
        entries_max: int = READ_ENTRIES_MAX,
        bytes_max: int = READ_BYTES_MAX,
    ) -> ReadResult:
        """Read the entries after a position; at least one if there is one.

        Args:
            after: Only its epoch and seq are used; its epoch may be an older one.
            entries_max: Most entries to return.
            bytes_max: Bytes after which no further entry is added.

        Raises:
            SequencerUnavailable: No answer, or the server has no log.
            ProtocolError: The stream holds something other than entries.
        """
        epoch = after.epoch or 1
        answer = await self._scripts.read(epoch, after, entries_max, bytes_max)
        # The streams are per epoch: ask again with the log's own epoch.
        if isinstance(answer, NotPlaced) and answer.reason is Reason.STALE:
            epoch = int(answer.detail)
            answer = await self._scripts.read(epoch, after, entries_max, bytes_max)
        if isinstance(answer, Range):
            return self._verify(epoch, after, answer)
        raise unavailable(answer.reason, "the server has no log to read from", detail=answer.detail)

    async def find(self, after: Position, op_ids: Sequence[bytes]) -> Position | None:
        """Search the log from a position to its head for consecutive writes.

        Returns:
            The place of the first one; None if they are not there.
        """
        # All of them are compared.  Another node may have written one of them alone, for the
        # same idempotency key, and the others of this call would count as written.
        run: list[Position] = []  # places of op_ids[0], op_ids[1], ... found so far
        while True:
            result = await self.read(after)
            for entry in result.entries:
                if entry.proposal.op_id != op_ids[len(run)]:
                    run.clear()
                if entry.proposal.op_id == op_ids[len(run)]:
                    run.append(entry.position)
                if len(run) == len(op_ids):
                    return run[0]
            if result.coverage is not Coverage.WHOLE or result.error is not None:
                raise unavailable(
                    Reason.INTERRUPTED,
                    "the log does not reach back to the write whose answer was lost",
                    is_final=True,
                )
            if result.is_end:
                return None
            after = result.entries[-1].position

    def _verify(self, epoch: int, after: Position, found: Range) -> ReadResult:
        entries: list[Entry] = []
        error: ProtocolError | None = None
        coverage = coverage_of(after, found)
        if coverage is Coverage.WHOLE:
            expected = after.seq + 1
            for each in found.entries:
                if each.seq != expected:
                    error = ProtocolError(f"entry {expected} is missing from the log", seq=expected)
                    break
                try:
                    entries.append(each.decode(self.signing_keys))
                except ProtocolError as wrong:
                    error = wrong
                    break
                expected += 1
            error = error or found.error
        return ReadResult(
            epoch=epoch,
            head=found.head,
            floor=found.floor,
            state=found.state,
            entries=tuple(entries),
            coverage=coverage,
            error=error,
            epoch_id=found.epoch_id,
        )


def coverage_of(after: Position, found: Range) -> Coverage:
    if after.seq > found.head.seq:
        return Coverage.BEYOND
    if after.seq == found.head.seq and not found.entries:
        return Coverage.WHOLE
    if after.seq + 1 < found.floor:
        return Coverage.TRIMMED
    if not found.entries:
        return Coverage.HOLE
    first = found.entries[0].seq
    if first <= after.seq:
        # A later epoch begins before this position, so it has another history there.
        return Coverage.BEYOND
    return Coverage.WHOLE if first == after.seq + 1 else Coverage.HOLE
