"""Catch-up from the stream: what the log holds after a position.

The stream gives no error for a position it has forgotten: it answers with the next
entry it has.  So the floor is compared and contiguity is checked here, and what is
missing is said in the answer.  Whether an entry continues this node's history is
for the replica to judge; an entry that contradicts itself stops the reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from synaptoroute.core.mutation import Entry, Position
from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.append_errors import Reason, unavailable
from synaptoroute.sequencer.scripts import Head, NoLog, NotPlaced, Range, Scripts
from synaptoroute.sequencer.signing import Keyring

READ_BYTES_MAX: Final = 1_048_576
READ_ENTRIES_MAX: Final = 1_024


class Coverage(Enum):
    """What the log can give after a position."""

    WHOLE = "whole"
    """Everything: the entries follow the position without a gap."""
    TRIMMED = "trimmed"
    """The next entry was dropped; see ``floor``: a peer has to help."""
    HOLE = "hole"
    """The next entry should be there and is not: somebody deleted from the log."""
    BEYOND = "beyond"
    """The position is after the head: the log lost entries, or is another one."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Entries after a position, verified, and how complete they are.

    Attributes:
        epoch: Epoch of the log they were read from (``log_epoch`` of the replica).
        head: Position of the newest entry when they were read.
        floor: Place of the oldest entry that is kept.
        state: State of the log.
        entries: In order, without gaps, each sound in itself.
        coverage: Whether they begin right after the position.
        error: Why the reading stopped before an entry that is there.
        epoch_id: Ballot that opened the log's epoch.
    """

    epoch: int
    head: Position
    floor: int
    state: str
    entries: tuple[Entry, ...]
    coverage: Coverage
    error: ProtocolError | None = None
    epoch_id: str = ""

    @property
    def is_end(self) -> bool:
        """Whether the entries reach the head."""
        if self.coverage is not Coverage.WHOLE or self.error is not None:
            return False
        return not self.entries or self.entries[-1].seq == self.head.seq


class Reader:
    """Reads the log of one namespace."""

    def __init__(self, scripts: Scripts, keyring: Keyring) -> None:
        self._scripts = scripts
        self.keyring = keyring

    async def read(
        self,
        after: Position,
        *,
        entries_max: int = READ_ENTRIES_MAX,
        bytes_max: int = READ_BYTES_MAX,
    ) -> ReadResult:
        """Read what follows a position; at least one entry where there is one.

        Args:
            after: Only its epoch and seq are used; its epoch may be an older one.
            entries_max: Most entries to return.
            bytes_max: Bytes after which no further entry is added.

        Raises:
            SequencerUnavailable: No answer, or the server has no log.
            ProtocolError: The stream holds something else than entries.
        """
        epoch = after.epoch or 1
        answer = await self._scripts.read(epoch, after, entries_max, bytes_max)
        if isinstance(answer, NotPlaced) and answer.reason is Reason.STALE:
            epoch = int(answer.detail)
            answer = await self._scripts.read(epoch, after, entries_max, bytes_max)
        if isinstance(answer, Range):
            return self._judge(epoch, after, answer)
        raise unavailable(answer.reason, "the server has no log to read from", detail=answer.detail)

    async def head(self) -> Head | NoLog:
        """Read the head of the log."""
        return await self._scripts.head()

    def _judge(self, epoch: int, after: Position, found: Range) -> ReadResult:
        """Verify the entries and say what is missing."""
        entries: list[Entry] = []
        error: ProtocolError | None = None
        coverage = _coverage(after, found)
        if coverage is Coverage.WHOLE:
            expected = after.seq + 1
            for each in found.entries:
                if each.seq != expected:
                    error = ProtocolError(f"entry {expected} is missing from the log", seq=expected)
                    break
                try:
                    entries.append(each.decode(self.keyring))
                except ProtocolError as wrong:
                    error = wrong
                    break
                expected += 1
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


def _coverage(after: Position, found: Range) -> Coverage:
    """Compare a position with what the log keeps."""
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
        # A later epoch kept less than this position has: what it holds is another history.
        return Coverage.BEYOND
    return Coverage.WHOLE if first == after.seq + 1 else Coverage.HOLE
